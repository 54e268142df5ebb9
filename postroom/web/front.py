"""`GET /`: a page for people who open the service in a browser; 404 for all other clients."""

from __future__ import annotations

import re
from string import Template
from typing import Final

from flask import Blueprint, Request, Response, request
from werkzeug.exceptions import NotFound

from postroom.web.services import services

blueprint = Blueprint("front", __name__)

_HTML: Final = ("text/html", "application/xhtml+xml")
_JSON: Final = ("application/json", "application/problem+json")
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]-]+")  # a host that may stand in a command that people copy
_LONGEST_ACCEPT: Final = 1024
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
_WATCHING: Final = '<p>For monitors: <a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>.</p>'
_PAGE: Final = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Postroom</title>
<link rel="icon" href="data:,">
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; color-scheme: light dark }
pre { padding: 1rem; overflow-x: auto; border: 1px solid #8888; border-radius: .4rem }
</style>
</head>
<body>
<h1>Postroom</h1>
<p>This is an HTTP service that sends email through mailboxes of its owner. It is for programs; there is nothing
to log in to here.</p>
<p>Send a message, with a key that its operator gives you:</p>
<pre><code>curl $root/send-email -H 'Content-Type: application/json' \\
  -d '{"subject": "Hello", "recipient": "you@example.com", "body": "It works.", "key": "YOUR-KEY"}'</code></pre>
<p>The answer has a <code>request_id</code>. What became of the message:</p>
<pre><code>curl $root/email-status/REQUEST-ID</code></pre>
<p>Keep the key on a server: who has it can send as its mailbox. Every call, answer and error is described in
<code>docs/api.md</code> of the program's folder.</p>
$watching
</body>
</html>
""")


@blueprint.get("/")
def front() -> Response:
    """Return the page, to a client that asks for HTML. Raises NotFound."""
    if not _wants_html(request):
        raise NotFound
    root = f"{request.scheme}://{request.host if _HOST.fullmatch(request.host) else 'YOUR-SERVER'}"
    is_behind_a_proxy = services().settings.trusted_proxies > 0
    page = _PAGE.substitute(root=root, watching="" if is_behind_a_proxy else _WATCHING)
    return Response(page, content_type="text/html; charset=utf-8", headers=_HEADERS)


def _wants_html(asked: Request) -> bool:
    """Whether HTML is named, as browsers do, and nothing that we speak is wanted more; `*/*` names nothing."""
    if len(asked.headers.get("Accept", "")) > _LONGEST_ACCEPT:  # no browser's, and long to parse
        return False
    named = dict(asked.accept_mimetypes)
    html = max(named.get(kind, 0.0) for kind in _HTML)
    return 0 < html >= max(named.get(kind, 0.0) for kind in _JSON)
