"""Large documents are read in pieces, as `json` reads them whole; many values are refused before they are parsed."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from postroom.core.errors import MalformedSubmission, TooLarge
from postroom.web import strict_json
from postroom.web.schemas import Document

MIB = 1024 * 1024


def read(octets: bytes) -> dict[str, Any]:
    return Document(octets).whole()


@pytest.fixture
def in_tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few octets is a border between pieces."""
    monkeypatch.setattr(strict_json, "_PIECE", 7)
    monkeypatch.setattr(strict_json, "LARGE", 80)
    monkeypatch.setattr("postroom.web.schemas.LARGE", 80)


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.usefixtures("in_tiny_pieces")
def test_reads_what_json_reads(ensure_ascii: bool) -> None:
    chance = random.Random(4711)
    alphabet = [
        "a",
        '"',
        "\\",
        "\\\\",
        "\n",
        "\u00fc",
        "\u4e16",
        "\U0001f600",
        "\ud800",
        "\udc00",
        "u",
        "{",
        "]",
        ":",
        ",",
    ]
    if not ensure_ascii:
        alphabet = [each for each in alphabet if not "\ud800" <= each <= "\udfff"]
    for _ in range(500):
        document = {
            "subject": "".join(chance.choices(alphabet, k=2)),
            "body": "".join(chance.choices(alphabet, k=chance.randrange(100))),
            "is_html": chance.random() < 0.5,
        }
        octets = json.dumps(document, ensure_ascii=ensure_ascii, indent=chance.choice([None, 1])).encode()
        assert read(octets) == json.loads(octets)


@pytest.mark.usefixtures("in_tiny_pieces")
@pytest.mark.parametrize(
    "octets",
    [
        b'{"body": "%s}' % (b"a" * 100),
        b'{"body": "%s\\"}' % (b"a" * 100),
        b'{"body": "%s\\u12"}' % (b"a" * 100),
        b'{"body": "%s\\' % (b"a" * 100),
        b'{"body": "%s\\x"}' % (b"a" * 100),
        b'{"body": "%s\n"}' % (b"a" * 100),
        b'{"body": "%s\xff"}' % (b"a" * 100),
        b'{"body": "%s\xe4\xb8"}' % (b"a" * 100),
        b'{"body": "%s" "x"}' % (b"a" * 100),
        b'{"body": "%s", "body": "x"}' % (b"a" * 100),
        b'{"body": "x", "b\\u006fdy": "%s"}' % (b"a" * 100),
        b'{"body": "%s"' % (b"a" * 100),
        b'["body", "%s"]' % (b"a" * 10),
    ],
    ids=range(13),
)
def test_refuses_what_is_no_document(octets: bytes) -> None:
    with pytest.raises((MalformedSubmission, TooLarge)):
        read(octets)


@pytest.mark.usefixtures("in_tiny_pieces")
@pytest.mark.parametrize(
    "octets",
    [
        b"[" * 100,
        b"[" + b"[]," * 50 + b"[]]",
        b'{"subject": "%s"}' % (b"a" * 100),
        b'{"%s": 1}' % (b"a" * 100),
        b'{"x": {"body": "%s"}}' % (b"a" * 100),
        b'{"body": ["%s"]}' % (b"a" * 100),
        b'{"body": "%s", "body": "%s"}' % (b"a" * 100, b"a" * 100),
        b'["body", "%s"]' % (b"a" * 100),
        b'"%s"' % (b"a" * 100),
        b" " * 100,
        b'{"body": 1%s}' % (b"0" * 100),
        b'{"body": "", %s}' % b",".join(b'"%d": 0' % number for number in range(20)),
    ],
    ids=range(12),
)
def test_only_the_body_may_be_large(octets: bytes) -> None:
    with pytest.raises((TooLarge, MalformedSubmission), match="besides"):
        Document(octets)


def test_a_name_written_in_escapes_is_the_same_name() -> None:
    octets = b'{"b\\u006fdy" : "%s"}' % (b"a" * MIB)
    assert read(octets) == {"body": "a" * MIB}


@pytest.mark.parametrize(
    "octets",
    [b"[" + b"[]," * MIB + b"[]]", b"[" * 3 * MIB, b"[" + b'"",' * MIB + b"0]", b'{"body": [' + b"0," * MIB],
    ids=["lists", "nested", "strings", "in the body"],
)
def test_many_values_take_no_memory(octets: bytes) -> None:
    tracemalloc.start()
    with pytest.raises((TooLarge, MalformedSubmission), match="besides"):
        Document(octets)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB


def test_the_large_part_is_not_read_for_the_key() -> None:
    octets = b'{"body": "%s", "key": "k"}' % (b"a" * 3 * MIB)
    tracemalloc.start()
    assert Document(octets).small == {"body": "", "key": "k"}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB
