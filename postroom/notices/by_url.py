"""Sends a notice by a URL, through Apprise, which is imported when the first one is sent: that takes most of a second."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from postroom.core.clock import rfc3339
from postroom.core.errors import ConfigError
from postroom.core.notices.values import Event, Notice
from postroom.core.notices.ways import Way
from postroom.core.text import printable, shortened
from postroom.notices.answer import Answer

if TYPE_CHECKING:
    from apprise import NotifyBase

_VARIABLE: Final = "POSTROOM_NOTIFY"
# What chat services take for a call to everybody, for a link that hides where it leads, or for a command of theirs.
_MARKUP: Final = re.compile(
    r"@(?=(?:all|channel|everyone|here|room)\b)|(?<![\w.+-])@(?=\w)|<(?=[@!#&]|users/|[a-z][a-z0-9+.-]*:)|\](?=\()",
    re.I,
)
_PAGE: Final = "https://appriseit.com/services/"
_PLAIN: Final = {"https": "jsons", "http": "json"}  # of web addresses Apprise knows those of some services
_WRONG_PART: Final = re.compile(
    r"An invalid ([A-Za-z0-9 ~-]{3,40}(?:\((?:first|second|third)\)[A-Za-z ]{1,20})?) \("
)  # the rest of its words is the part itself
_PARTS: Final = re.compile(r"[/:@?&=,;+#\s]+")
_SHORTEST_SECRET: Final = 5
_LONGEST: Final = 300
_importing: Final = threading.Lock()
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)  # Apprise hands it on to its threads


def check_url(way: Way) -> None:
    """Raise ConfigError for a URL that Apprise does not take. Nothing of it is repeated but its scheme."""
    known = _schemes()
    service, said = _service_of(way)
    if service is None:
        raise ConfigError(_VARIABLE, f"the URL {way.name} {_why_not(way.scheme, known, said)}")
    if isinstance(port := service.port, int) and not 0 < port < 65536:
        raise ConfigError(_VARIABLE, f"the URL {way.name} has no port from 1 to 65535; correct it")


def _why_not(scheme: str, known: Iterable[str], said: Sequence[str]) -> str:
    """Say why a URL cannot be used, and how to put it right; of Apprise's words the name of a part alone."""
    if scheme in _PLAIN:
        return (
            "is not the web address of a service that Apprise knows; for a program of yours that takes JSON write "
            f"{_PLAIN[scheme]}:// instead of {scheme}://, for a service the form of {_PAGE}"
        )
    if scheme not in known:
        meant = get_close_matches(scheme, known, 1, 0.7)
        fix = f"did you mean {meant[0]}://?" if meant else f"correct its scheme; {_PAGE} has all of them"
        return f"names a service that Apprise does not know; {fix}"
    part = next((found[1] for words in said if (found := _WRONG_PART.match(words))), None)
    wrong = "a part of it is missing or wrong" if part is None else f"its {part} is missing or wrong"
    return f"cannot be used: {wrong}; see {_PAGE} for how to write {scheme}://"


def send_by_url(way: Way, notice: Notice) -> Answer:
    """Send a notice; return what was answered. Blocks for as long as the other side does, up to Apprise's own deadlines."""
    _schemes()
    import apprise

    service, _ = _service_of(way)
    if service is None:
        return Answer(False, "Apprise cannot use this URL")
    _add_fields(service, notice)
    all_services = apprise.Apprise(asset=service.asset)
    all_services.add(service)
    kind = {
        Event.ALERT: apprise.NotifyType.FAILURE if notice.urgent else apprise.NotifyType.WARNING,
        Event.RECOVERY: apprise.NotifyType.SUCCESS,
        Event.TEST: apprise.NotifyType.INFO,
    }[notice.event]
    with _listening() as said:
        taken = all_services.notify(
            body=inert(notice.text),
            title=inert(notice.title),
            notify_type=kind,
            body_format=apprise.NotifyFormat.TEXT,
        )
    if taken:
        return Answer(True, "taken")
    return Answer(False, _without_secrets(" ".join(said) or "refused, without a word", way))


def inert(text: str) -> str:
    """Put a space into what would call people or hide a link: a notice repeats the words of strangers' servers.

    Apprise escapes for Slack and Telegram; Discord, Mattermost and others read it in plain text too.
    """
    return _MARKUP.sub(r"\g<0> ", text)


def _schemes() -> frozenset[str]:
    """Import Apprise with all of its services, by one thread at a time; return the schemes that it knows."""
    with _importing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of its imports is deprecated
        from apprise.manager_plugins import NotificationManager

        known: Iterable[str] = NotificationManager().schemas()  # type: ignore[no-untyped-call]
        return frozenset(known)


def _service_of(way: Way) -> tuple[NotifyBase | None, Sequence[str]]:
    """Return Apprise's service of a URL, None where it takes no such URL, and what it says of that."""
    import apprise

    # A redirect would lead a notice, with its tokens, to an address that the operator has not named.
    memory = apprise.PersistentStoreMode.MEMORY
    asset = apprise.AppriseAsset(app_id="Postroom", storage_mode=memory, http_redirects=False)
    with _listening() as said:
        found = apprise.Apprise.instantiate(way.url.reveal(), asset=asset, suppress_exceptions=True)
    return (found if isinstance(found, apprise.NotifyBase) else None), said


def _add_fields(service: NotifyBase, notice: Notice) -> None:
    """Give the fields of a notice to services that take fields: json://, xml://, form://."""
    extras = getattr(service, "payload_extras", None)
    if isinstance(extras, dict):
        kind = notice.kind.value if notice.kind else "test"
        extras |= {
            "notice_id": notice.id,
            "kind": kind,
            "event": notice.event.value,
            "count": str(notice.count),
            "since": rfc3339(notice.since),
        }


class _Listener(logging.Handler):
    """Hears what Apprise logs for a notice, in whichever of its threads; none of it reaches the service's log."""

    def emit(self, record: logging.LogRecord) -> None:
        heard = _heard.get()
        if heard is not None:
            heard.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Return what Apprise says meanwhile, of what is done here. Warnings alone: with less, it logs URLs."""
    logger = logging.getLogger("apprise")
    with _importing:
        if not any(isinstance(each, _Listener) for each in logger.handlers):
            logger.propagate = False
            logger.setLevel(logging.WARNING)
            logger.addHandler(_Listener())
    said: list[str] = []
    token = _heard.set(said)
    try:
        yield said
    finally:
        _heard.reset(token)


def _without_secrets(words: str, way: Way) -> str:
    """Strike every part of the URL: which of them is a secret differs from service to service."""
    rest = way.url.reveal().partition(":")[2]
    for part in sorted(_PARTS.split(rest), key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET:
            words = words.replace(part, "…")
    return printable(shortened(words, _LONGEST))
