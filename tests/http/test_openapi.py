"""The description of the API, and the page that renders it: valid, complete, and offline under a strict policy."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask.testing import FlaskClient
from flit_core.wheel import make_wheel_in  # type: ignore[import-untyped]

from postroom.accounts.rights import RIGHTS
from postroom.web.docs import ASSETS
from tests.servers.installation import ROOT


@pytest.fixture
def document(served: FlaskClient) -> Any:
    answer = served.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    return answer.get_json()


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def references(part: Any) -> set[str]:
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    return own.union(*map(references, part.values()))


def test_every_reference_leads_somewhere_and_every_schema_is_one(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    for reference in references(document):
        part = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_it_has_every_call_of_the_table_with_its_scope_and_no_other(document: Any) -> None:
    found = operations(document)
    assert found.keys() == {(right.method, right.path) for right in RIGHTS}
    for right in RIGHTS:
        security = found[right.method, right.path]["security"]
        assert security[:2] == [{"bearer": [right.scope.value]}, {"header": [right.scope.value]}]
        assert ({} in security) == (right.path in ("/send-email", "/email-status/{request_id}"))
    names = [operation["operationId"] for operation in found.values()]
    assert len(set(names)) == len(names)


def test_every_field_is_closed_and_no_answer_has_a_secret(document: Any) -> None:
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        if name == "JsonValue":
            continue
        assert schema["additionalProperties"] is False, name
        if name.endswith("Answer"):
            assert "password" not in schema["properties"]
    assert schemas["NewAccount"]["properties"]["password"]["writeOnly"] is True


def test_the_page_loads_its_own_files_alone_and_has_no_inline_script(client: FlaskClient) -> None:
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
    ):
        assert part in policy.split("; ")
    text = page.get_data(as_text=True)
    assert re.findall(r"<script([^>]*)>(.*?)</script>", text) == [
        (' src="docs/swagger-ui-bundle.js"', ""),
        (' src="docs/init.js"', ""),
    ]
    assert "style=" not in text
    assert "<style" not in text
    for name in re.findall(r'(?:src|href)="docs/([^"]+)"', text):
        answer = client.get(f"/docs/{name}")
        assert answer.status_code == 200
        assert answer.content_type == ASSETS[name]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = client.get(f"/docs/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize("name", ["README.md", "..%2fdocs.py", "x"])
def test_no_other_file_is_handed_out(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


def test_the_files_and_their_licence_are_in_the_package(tmp_path: Path) -> None:
    made = make_wheel_in(ROOT / "pyproject.toml", tmp_path)
    with zipfile.ZipFile(made.file) as wheel:
        names = set(wheel.namelist())
    assert {f"postroom/web/docs_assets/{name}" for name in ASSETS} <= names
    assert any(name.endswith("licenses/postroom/web/docs_assets/LICENSE") for name in names)
