"""`GET /openapi.json`, and `GET /docs`, which renders it without any other server, under a strict policy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from postroom.web.admin.views import CALLS
from postroom.web.openapi import document

blueprint = Blueprint("docs", __name__)

_FOLDER: Final = Path(__file__).resolve().parent / "docs_assets"
ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "init.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "LICENSE": "text/plain; charset=utf-8",
    "NOTICE": "text/plain; charset=utf-8",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain; charset=utf-8",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Postroom: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/init.js"></script>
</body>
</html>
"""


@cache
def _text() -> str:
    return json.dumps(document(CALLS), ensure_ascii=False) + "\n"


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Return the description of the API (OpenAPI 3.1)."""
    return Response(_text(), content_type="application/json", headers=_HEADERS)


@blueprint.get("/docs")
def docs() -> Response:
    return Response(_PAGE, content_type="text/html; charset=utf-8", headers=_HEADERS)


@blueprint.get("/docs/<name>")
def asset(name: str) -> Response:
    """Return a file of the page; a browser asks each time whether it has changed. Raises NotFound."""
    if name not in ASSETS:
        raise NotFound
    content = (_FOLDER / name).read_bytes()
    response = Response(content, content_type=ASSETS[name], headers={**_HEADERS, "Cache-Control": "no-cache"})
    response.add_etag()
    response.make_conditional(request)
    return response
