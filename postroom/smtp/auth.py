"""Logs in by AUTH PLAIN or AUTH LOGIN, in the form that the server accepts (RFC 4954), or with an access token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence

from postroom.core.errors import FaultKind, SMTPFault
from postroom.core.outcome import Reply
from postroom.core.text import printable
from postroom.smtp.auth_token import auth_token, makes_way, offered
from postroom.smtp.conversation import FORM, Conversation

_PROMPT = 334  # RFC 4954 §4


async def log_in(conversation: Conversation, mechanisms: Sequence[str]) -> None:
    """Log in by the first mechanism whose form the server takes. Raises SMTPFault.

    A refused password is not tried in another form, nor is a password given where there is a token.
    """
    if conversation.endpoint.access_token:
        await _log_in_by_token(conversation, mechanisms)
        return
    reply: Reply | None = None
    for way in _ways_to_log_in(mechanisms):
        reply = await way(conversation)
        if reply.positive:
            return
        if reply.code == _PROMPT:
            await _cancel_exchange(conversation)
        elif reply.code not in FORM:
            break
    raise _no_way(conversation, mechanisms, reply)


async def _log_in_by_token(conversation: Conversation, mechanisms: Sequence[str]) -> None:
    reply: Reply | None = None
    for mechanism in offered(mechanisms):
        reply = await auth_token(conversation, mechanism)
        if reply.positive:
            return
        if reply.code == _PROMPT:
            await _cancel_exchange(conversation)
        elif not makes_way(reply):
            message = f"{conversation.endpoint} refused the access token: {reply}"
            raise SMTPFault(FaultKind.REFUSED, mechanism.verb, message, reply)
    raise _no_way(conversation, mechanisms, reply)


def _ways_to_log_in(mechanisms: Sequence[str]) -> list[Callable[[Conversation], Awaitable[Reply]]]:
    ways: tuple[tuple[str, Callable[[Conversation], Awaitable[Reply]]], ...] = (
        ("PLAIN", _auth_plain),
        ("LOGIN", _auth_login),
        ("PLAIN", _auth_plain_prompted),
    )
    return [way for name, way in ways if name in mechanisms]


def _no_way(conversation: Conversation, mechanisms: Sequence[str], reply: Reply | None) -> SMTPFault:
    endpoint = conversation.endpoint
    if reply is not None and reply.code != _PROMPT:
        return SMTPFault(FaultKind.REFUSED, "AUTH", f"{endpoint} refused AUTH: {reply}", reply)
    if reply is not None:
        message = f"{endpoint} goes on asking where the log-in should be over: {reply}"
    else:
        names = printable(conversation.struck(" ".join(dict.fromkeys(mechanisms))))
        ways = "XOAUTH2 and OAUTHBEARER" if endpoint.access_token else "PLAIN and LOGIN"
        message = f"{endpoint} takes none of the log-in methods {ways}, only {names}"
    return SMTPFault(FaultKind.UNSUPPORTED, "AUTH", message)


async def _auth_plain(conversation: Conversation) -> Reply:
    return await conversation.command("AUTH", f"AUTH PLAIN {_plain_response(conversation)}")


async def _auth_plain_prompted(conversation: Conversation) -> Reply:
    """For a server that takes no initial response (RFC 4954 §4)."""
    reply = await conversation.command("AUTH", "AUTH PLAIN")
    if reply.code != _PROMPT:
        return reply
    return await conversation.command("AUTH", _plain_response(conversation))


def _plain_response(conversation: Conversation) -> str:
    endpoint = conversation.endpoint
    return _base64(f"\0{endpoint.username}\0{endpoint.password.reveal()}")


async def _auth_login(conversation: Conversation) -> Reply:
    """AUTH LOGIN has no initial response in any document: each prompt is answered for what it asks."""
    endpoint = conversation.endpoint
    left = {"user": endpoint.username or "", "pass": endpoint.password.reveal()}
    reply = await conversation.command("AUTH", "AUTH LOGIN")
    while reply.code == _PROMPT and left:
        asked = _asked_for(conversation.last_text)
        if asked is not None and asked not in left:
            break  # for the same again: no answer to that would be right
        reply = await conversation.command("AUTH", _base64(left.pop(asked or next(iter(left)))))
    return reply


async def _cancel_exchange(conversation: Conversation) -> None:
    """End an exchange that goes on (RFC 4954 §4), so that the next command is not taken for its answer."""
    reply = await conversation.command("AUTH", "*")
    if reply.code == 421 or not (reply.transient or reply.permanent):
        raise conversation.out_of_turn("AUTH", reply)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _asked_for(prompt: str) -> str | None:
    """Return what a prompt of AUTH LOGIN asks for: `user`, `pass`, or None where its words do not say."""
    try:
        text = base64.b64decode(prompt, validate=True).decode()
    except (binascii.Error, ValueError):
        text = prompt  # in the clear, against RFC 4954
    text = text.lower()
    return "pass" if "pass" in text else "user" if "user" in text else None
