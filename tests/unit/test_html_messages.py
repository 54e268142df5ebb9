"""The text part of 240 messages of twelve generators, whole and damaged, against a conforming parser.

tests/data/html_messages has the messages, and what made them.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections import Counter
from functools import cache

import pytest

from postroom.mime.html_to_text import html_to_text
from tests.servers.installation import ROOT
from tests.soak import SOAK
from tests.unit.html_tree import addresses, letters, one_line, see

MESSAGES = ROOT / "tests" / "data" / "html_messages" / "messages.jsonl.xz"
_LINK = re.compile(r"<((?:https?://|mailto:|tel:|sms:)[^>]*)>", re.IGNORECASE)
DAMAGED = 5 if SOAK else 1  # ways for each message
SMALL_PAGES = 50_000 if SOAK else 600
_TAGS = [
    "p",
    "div",
    "table",
    "tr",
    "td",
    "th",
    "tbody",
    "li",
    "ul",
    "ol",
    "b",
    "i",
    "em",
    "span",
    "a",
    "h1",
    "h2",
    "blockquote",
    "center",
    "font",
    "pre",
    "dd",
    "dt",
    "button",
    "caption",
    "section",
]


@cache
def messages() -> dict[str, list[str]]:
    """Return the messages of each generator."""
    found: dict[str, list[str]] = {}
    for line in lzma.decompress(MESSAGES.read_bytes()).decode().splitlines():
        document = json.loads(line)
        found.setdefault(document["generator"], []).append(document["html"])
    return found


GENERATORS = sorted(messages())


def damaged(html: str, seed: int) -> str:
    """Take end tags and quotes out at random."""
    chance = random.Random(seed)
    share = chance.choice((0.05, 0.3, 0.8))
    without_ends = re.sub(r"</[a-zA-Z][^>]*>", lambda tag: "" if chance.random() < share else tag[0], html)
    return re.sub(r"""["']""", lambda quote: "" if chance.random() < share / 10 else quote[0], without_ends)


def small_page(seed: int) -> str:
    """Make a page of a few tags that fit together by chance only."""
    chance = random.Random(seed)
    parts = []
    for _ in range(chance.randint(3, 14)):
        name, kind = chance.choice(_TAGS), chance.random()
        if kind < 0.45:
            attributes = " style='display:none'" if chance.random() < 0.06 else ""
            if name == "a":
                attributes += f" href=https://x.example/{chance.randint(1, 3)}"
            parts.append(f"<{name}{attributes}>")
        elif kind < 0.75:
            parts.append(f"</{name}>")
        else:
            parts.append("".join(chance.choices("abcdefgh", k=4)) + chance.choice("x "))
    return "".join(parts)


def check(html: str) -> None:
    """Check that no visible text is lost or made up, and that no link is lost or changed.

    A page that ends within a tag, since the quote of an attribute never does, has nothing more to say by the
    standard. We show what comes behind it.
    """
    seen, text = see(html), html_to_text(html)
    found = set(_LINK.findall(text))
    ours, theirs = Counter(letters(_LINK.sub(" ", text))), Counter(letters("".join(seen.text)))
    assert not theirs - ours, f"lost {''.join((theirs - ours).elements())!r}"
    assert not ours - theirs or seen.ends_in_a_tag, f"made up {''.join((ours - theirs).elements())!r}"
    assert not addresses(seen) - found, "a link is lost"
    there = {one_line(link.address) for link in seen.links}
    assert not found - there or seen.ends_in_a_tag, "a link is changed"


def test_there_are_200_messages_of_ten_generators() -> None:
    assert len(GENERATORS) >= 10
    assert sum(map(len, messages().values())) >= 200
    assert all(letters("".join(see(html).text)) for html in messages()["mjml"])


@pytest.mark.parametrize("generator", GENERATORS)
def test_no_text_is_lost_and_no_link_changed(generator: str) -> None:
    for html in messages()[generator]:
        check(html)


@pytest.mark.parametrize("generator", GENERATORS)
def test_without_some_end_tags_and_quotes_neither(generator: str) -> None:
    for number, html in enumerate(messages()[generator]):
        for way in range(DAMAGED):
            check(damaged(html, 1000 * way + number))


@pytest.mark.parametrize(
    "html",
    [
        "<p><a href=https://x.example/a><li>text",
        "<p><a href=https://x.example/a></p>text</a> more",
        "<p><a href=https://x.example/a><b>one<div>two</b></div>three</a> four",
        "<a href=tel:+49><table><td><a href=https://x.example/o></tr>order",
        "<a href=tel:+49><table><td><a href=https://x.example/o>in</table>out",
        "<p style='display:none'>a<a href=https://x.example/a><blockquote>hidden no more",
        "<i style='display:none'><a href=https://x.example/a>b<span></i>hidden no more",
        "<table style='display:none'><a href=https://x.example/a>in front of the table<td>in it</table>",
        "<table><b style='display:none'><td>in a cell, and not in the element before the table",
        "<table><td style='display:none'>a</tbody>in front of the table",
    ],
    ids=lambda html: str(len(html)),
)
def test_small_pages_that_were_read_wrongly(html: str) -> None:
    check(html)


def test_small_pages_are_read_as_by_a_conforming_parser() -> None:
    for seed in range(SMALL_PAGES):
        check(small_page(seed))
