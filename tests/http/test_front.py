"""`GET /`: a page for browsers, a problem document for everybody else."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from postroom.runtime.installation import Service
from postroom.web.app import create_app

BROWSERS = {
    "Firefox": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Chrome": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7",
    "lynx": "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01",
}
PROGRAMS = {
    "curl": "*/*",
    "none": None,
    "requests": "*/*",
    "axios": "application/json, text/plain, */*",
    "JSON first": "application/json, text/html;q=0.5",
    "refuses HTML": "text/html;q=0, */*",
    "text": "text/*",
    "garbage": "\x00;;q=\xff,",
}


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.links = "", list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if tag == "a" and name == "href"]

    def handle_data(self, data: str) -> None:
        self.words += data


def _headers(accept: str | None) -> dict[str, str]:
    return {} if accept is None else {"Accept": accept}


@pytest.mark.parametrize("accept", BROWSERS.values(), ids=BROWSERS)
def test_a_browser_gets_a_page(client: FlaskClient, accept: str) -> None:
    answer = client.get("/", headers=_headers(accept))
    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.headers["Vary"] == "Accept"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = _Page(answer.text)
    assert "curl http://localhost/send-email -H 'Content-Type: application/json' \\\n" in page.words
    assert page.links == ["/livez", "/readyz"]
    for link in page.links:
        assert client.get(link).status_code in (200, 503)
    assert client.head("/", headers=_headers(accept)).data == b""


@pytest.mark.parametrize("accept", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_gets_a_problem_document(client: FlaskClient, accept: str | None) -> None:
    answer = client.get("/", headers=_headers(accept))
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert answer.json is not None
    assert answer.json["type"] == "urn:problem:postroom:not-found"
    other = client.post("/", headers=_headers(accept))
    assert (other.status_code, other.content_type) == (405, "application/problem+json")


def test_the_command_on_the_page_has_no_host_that_a_shell_would_run(client: FlaskClient) -> None:
    for host in ("$(reboot)", "a'b", "a;b", "<b>"):
        answer = client.get("/", headers={"Accept": "text/html", "Host": host})
        assert host not in answer.text
        assert answer.status_code == 400 or "curl http://YOUR-SERVER/" in answer.text
    assert (
        "curl http://mail.example.com/"
        in client.get("/", headers={"Accept": "text/html", "Host": "mail.example.com"}).text
    )


def test_behind_a_proxy_the_page_has_its_name_and_no_links_inside(service: Service, tmp_path: Path) -> None:
    settings = service.settings.model_copy(update={"trusted_proxies": 1})
    client = create_app(settings, service.store, service.vault).test_client()
    forwarded = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "api.example.com",
    }
    page = _Page(client.get("/", headers={"Accept": "text/html", **forwarded}).text)
    assert "curl https://api.example.com/send-email" in page.words
    assert page.links == []
