"""The field's words in `postroom/`: names that need a dictionary of ours do not come back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.servers.installation import ROOT

PACKAGE = ROOT / "postroom"
# Words that may not be any part of an identifier, and what to say instead.
PARTS = {
    "seam": "AsyncWriter",
    "errand": "submit",
    "committer": "writer",
    "ticket": "leader, follower",
    "heir": "leader, follower",
    "hub": "(nothing: no greenlets)",
    "desk": "(nothing: no greenlets)",
    "aside": "AccountBreaker.trip",
    "gateway": "RSGIServer",
    "doorkeeper": "ApiKeys.authenticate",
    "keyring": "ApiKeys.authenticate",
    "throttle": "RateLimiter",
    "standing": "AccountBreaker",
    "doubtful": "AccountBreaker.half_open",
    "dial": "connect",
    "undertaker": "Reaper",
    "bury": "reap",
    "buried": "WorkerExpired",
    "orphan": "AbandonedJob",
    "orphans": "AbandonedJob",
    "slot": "ConnectionLease, usage bucket",
    "conclude": "complete",
    "settle": "the verb that is meant",
    "settled": "the verb that is meant",
    "mend": "repair",
    "wakes": "request_work",
    "hungry": "has_new_work",
}
# Identifiers that may not stand as they are, without the underscores before them.
WHOLE = {
    "persist": "submit_until_recorded",
    "Steps": "(nothing: no greenlets)",
    "together": "(nothing: no greenlets)",
    "Call": "ApiRequest",
    "KeyRing": "ApiKeys",
    "Limits": "RateLimits, RateLimiter",
    "Lane": "AccountSender",
    "Line": "OpenConnection",
    "floors": "watermarks",
    "passing": "failpoint.hit",
    "must": "guard",
    "knows_at_once": "results_deferred",
    "fits": "check_size",
    "has_room": "check_disk_space",
    "says_something": "check_not_empty",
    "slots_of_the_day": "usage buckets",
    "SLOTS_A_DAY": "usage buckets",
}
# As WHOLE, in `worker/` only: elsewhere a block is a block of octets.
OF_ACCOUNTS = {"charge": "AccountBreaker.trip", "block": "AccountBreaker.trip"}
# Words that docstrings and comments do not use: what to say instead, and how the word is found.
PROSE = {
    "the seed": ("the original API", r"the\s+seed"),
    "a mail": ("a message", r"a\s+mail(?!\s+(?:server|system|program|client|host|domain|transaction))"),
    "mails": ("messages", r"mails"),
    "committer": ("the writer, the leader", r"committers?"),
    "bury": ("reap, declare dead", r"bury|buried|buries|burial"),
    "whoever": ("the noun that is meant", r"whoever"),
}
_PROSE = {word: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for word, (_, pattern) in PROSE.items()}


def _identifiers(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.string


def _parts(identifier: str) -> list[str]:
    """Return the words of an identifier: those of `_AccountSlot` and `account_slot` are account and slot."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", identifier)]


def _prose(text: str) -> Iterator[str]:
    """Yield the docstrings of a module, and its comments as one text."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield " ".join(token.string.strip("# ") for token in tokens if token.type == tokenize.COMMENT)


def _old_in_prose(prose: str) -> set[str]:
    return {word for word, pattern in _PROSE.items() if pattern.search(prose)}


def _found(text: str, name: str) -> set[str]:
    """Return the old words that stand in a module, or in the comments of a file of statements."""
    if name.endswith(".sql"):
        return _old_in_prose(" ".join(re.findall(r"--\s*(.*)", text)))
    whole = WHOLE | OF_ACCOUNTS if name.startswith("worker/") else WHOLE
    found = set[str]()
    for identifier in _identifiers(text):
        found.update(part for part in _parts(identifier) if part in PARTS)
        if identifier.strip("_") in whole:
            found.add(identifier.strip("_"))
    return found.union(*map(_old_in_prose, _prose(text)))


def _files() -> dict[str, set[str]]:
    paths = [*PACKAGE.rglob("*.py"), *(PACKAGE / "store" / "sql").rglob("*.sql")]
    texts = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in paths}
    return {name: found for name, text in sorted(texts.items()) if (found := _found(text, name))}


def test_the_words_are_the_fields() -> None:
    instead = PARTS | WHOLE | OF_ACCOUNTS | {word: said for word, (said, _) in PROSE.items()}
    assert not [(name, word, instead[word]) for name, words in _files().items() for word in sorted(words)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("class _Slot: ...", "slot"),
        ("connection_slot = 1", "slot"),
        ("def _settle_all(): ...", "settle"),
        ("account.block()", "block"),
        ("class Lane: ...", "Lane"),
        ('"""Reads a mail."""', "a mail"),
        ("# As the\n# seed does.", "the seed"),
        ('def f():\n    """Counts mails."""', "mails"),
        ("# A worker is buried.", "bury"),
        ("# The\n# committers wait for\nx = 1", "committer"),
        ('"""For whoever waits."""', "whoever"),
    ],
)
def test_an_old_word_is_seen(text: str, word: str) -> None:
    assert _found(text, "worker/a.py") == {word}


def test_an_old_word_is_seen_in_a_statement() -> None:
    assert _found("-- A mail that waits.\nSELECT mails FROM a_mail -- of the seed\n", "a.sql") == {
        "a mail",
        "the seed",
    }


@pytest.mark.parametrize(
    "text",
    [
        "@dataclass(slots=True)\nclass A: ...",
        'class A:\n    __slots__ = ("b",)',
        "job.lane = call(line, timeouts.block)",
        '"""Asks a mail server, as a mail program does."""',
        'text = "a mail"',
    ],
)
def test_the_fields_words_stand(text: str) -> None:
    assert not _found(text, "smtp/a.py")
