"""The admin API in tests: an installation with an admin token, and a client that calls with a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from postroom.accounts.admin_token import ensure_admin_token
from postroom.accounts.digest_key import adopt_digest_key
from postroom.core.account import Secret
from postroom.runtime.installation import Service
from postroom.settings import Settings

TOKEN = "an-admin-token-of-32-characters-or-more"
ACCOUNT: dict[str, Any] = {
    "email": "carol@example.com",
    "host": "smtp.example.com",
    "password": "canary-password-7f3a",
}


def prepare(service: Service) -> None:
    """Have the admin token in force."""
    adopt_digest_key(service.store, service.vault, create=True)
    ensure_admin_token(service.store, service.vault, Settings(admin_token=Secret(TOKEN)), Path("var"))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Admin:
    """Calls with the admin token, or another key."""

    client: FlaskClient
    key: str = TOKEN

    def call(self, method: str, path: str, document: Any = None, **given: Any) -> TestResponse:
        headers = {**bearer(self.key), **given.pop("headers", {})}
        if document is not None:
            given["json"] = document
        return self.client.open(path, method=method, headers=headers, **given)

    def done(self, method: str, path: str, document: Any = None, status: int = 200) -> Any:
        answer = self.call(method, path, document)
        assert answer.status_code == status, answer.get_data(as_text=True)
        return answer.get_json(silent=True)

    def as_key(self, key: str) -> Admin:
        return Admin(self.client, key)

    def add(self, **fields: Any) -> Any:
        return self.done("POST", "/v1/accounts", {**ACCOUNT, **fields}, 201)

    def issue(self, account: str | None = None, **fields: Any) -> Any:
        path = "/v1/keys" if account is None else f"/v1/accounts/{account}/keys"
        return self.done("POST", path, {"name": "a key", **fields}, 201)


Make = Callable[..., Admin]
Fields = Mapping[str, Any]
