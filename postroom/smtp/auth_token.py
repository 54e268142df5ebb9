"""Logs in with an access token by AUTH XOAUTH2 or AUTH OAUTHBEARER (RFC 7628), and reads why one is refused.

XOAUTH2 comes first where a server offers both: Google and Microsoft document it and their own clients use it, and
both answer it with the same errors. OAUTHBEARER is for servers that offer the standard alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from postroom.core.outcome import Reply
from postroom.smtp.conversation import FORM, Conversation
from postroom.smtp.endpoint import Endpoint

_PROMPT: Final = 334  # RFC 4954 §4
_LONGEST_CHALLENGE: Final = 4096  # characters of base64 of the error's JSON
_STATUS: Final = re.compile(
    r"[A-Za-z0-9_.-]{1,40}"
)  # `invalid_token` (RFC 7628 §3.2.2), or HTTP's `400` at Google
# A longer AUTH command goes without its initial response. RFC 4954 §4 allows 12,288 octets; Postfix takes 2,048.
_LONGEST_COMMAND: Final = 2000


@dataclass(frozen=True, slots=True)
class TokenMechanism:
    """A SASL mechanism that carries a token. `after_error` is the client's answer to the challenge with the error."""

    name: str
    after_error: str

    @property
    def verb(self) -> str:
        return f"AUTH {self.name}"

    def response(self, endpoint: Endpoint) -> str:
        """Return the initial client response, in base64."""
        token = endpoint.access_token.reveal()
        if self.name == "XOAUTH2":
            text = f"user={endpoint.username}\1auth=Bearer {token}\1\1"
        else:
            name = (endpoint.username or "").replace("=", "=3D").replace(",", "=2C")  # saslname (RFC 5801 §4)
            text = f"n,a={name},\1host={endpoint.host}\1port={endpoint.port}\1auth=Bearer {token}\1\1"
        return base64.b64encode(text.encode()).decode()


TOKEN_MECHANISMS: Final = (
    TokenMechanism("XOAUTH2", ""),  # an empty line (Google's and Microsoft's document)
    TokenMechanism("OAUTHBEARER", "AQ=="),  # a single ^A (RFC 7628 §3.2.3)
)


def offered(mechanisms: Sequence[str]) -> list[TokenMechanism]:
    """Return the mechanisms to try of those that the server offers."""
    return [each for each in TOKEN_MECHANISMS if each.name in mechanisms]


async def auth_token(conversation: Conversation, mechanism: TokenMechanism) -> Reply:
    """Carry out one exchange; return its last reply, with the status of a refused token in its text.

    A refusal comes as a challenge with JSON, which the client must answer before the server ends with 5yz.
    """
    response = mechanism.response(conversation.endpoint)
    if len(response) <= _LONGEST_COMMAND:
        reply = await conversation.command("AUTH", f"{mechanism.verb} {response}")
    else:
        reply = await conversation.command("AUTH", mechanism.verb)
    if reply.code == _PROMPT and _status(conversation.last_text) is None:
        reply = await conversation.command("AUTH", response)  # it asks for the response in a line of its own
    if reply.code != _PROMPT:
        return reply
    status = _status(conversation.last_text) or ""
    if conversation.struck(status) != status:
        status = ""  # it repeats the token
    reply = await conversation.command("AUTH", mechanism.after_error)
    return _with_status(reply, status)


def makes_way(reply: Reply) -> bool:
    """Whether the mechanism itself was refused, so that another one may be tried."""
    return reply.code in FORM


def _status(challenge: str) -> str | None:
    """Return the status in an error challenge; empty where it names none, None where this is no error."""
    if not challenge.strip() or len(challenge) > _LONGEST_CHALLENGE:
        return None
    try:
        error = json.loads(base64.b64decode(challenge.strip(), validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(error, dict):
        return None
    status = str(error.get("status", ""))
    return status if _STATUS.fullmatch(status) else ""


def _with_status(reply: Reply, status: str) -> Reply:
    """Return the reply with the status of the challenge before it: both are the server's words on this token."""
    if not status or reply.positive or status in reply.text:
        return reply
    return replace(reply, text=f"{reply.text} (status {status})".lstrip())
