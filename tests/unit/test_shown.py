"""What our people read of other people's words: everything in it can be seen."""

from __future__ import annotations

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.classify import explain
from postroom.core.outcome import Reply
from postroom.core.text import printable, shortened
from postroom.smtp.stream import _parse_reply
from postroom.telemetry.log import LineFormatter
from tests.unit.test_status import NOTHING

# Signs around numbers in Arabic, Syriac and Kaithi, and controls of hieroglyphs: of the category Cf, and seen.
VISIBLE_FORMATS = set(
    map(
        chr,
        [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)],
    )
)
SEEN = [
    "Grüße ✓ 한국어 עברית العربية",
    "می‌خواهم",  # Persian, with a zero width non-joiner
    "क्‍ष",  # Hindi, with a joiner
    "👩‍👩‍👧‍👦 👋🏽 🏳️‍🌈 ❤️‍🔥 👁️‍🗨️",
    "1️⃣ ☎︎",
    "\u00a0wide\u3000spaces",
    "",
]
HIDDEN = [
    ("a\r\nb\x1b[2J\x00\x7f\t", r"a\x0d\x0ab\x1b[2J\x00\x7f\x09"),
    ("one\x85two\u2028three\u2029four", r"one\x85two\u2028three\u2029four"),
    ("moc.\u202egnp.exe\u202c", r"moc.\u202egnp.exe\u202c"),
    ("\u2066isolated\u2069 \u200e\u200f\u061c", r"\u2066isolated\u2069 \u200e\u200f\u061c"),
    ("zero\u200bwidth\u2060\ufeff\u00ad", r"zero\u200bwidth\u2060\ufeff\xad"),
    ("tags\U000e0041\U000e007f", r"tags\U000e0041\U000e007f"),
    ("fillers\u3164\u115f\uffa0\u2800", r"fillers\u3164\u115f\uffa0\u2800"),
    ("run\u200d\u200d\u200dof", r"run\u200d\u200d\u200dof"),
    ("run\u200c\u200dof", r"run\u200c\u200dof"),
    ("\u200dstart", r"\u200dstart"),
    ("end\u200d", r"end\u200d"),
    ("not \u200d between", r"not \u200d between"),
    ("1\u200d2", r"1\u200d2"),
    ("e\ufe0f\ufe0f", "e\ufe0f\\ufe0f"),
    (" \ufe0f", r" \ufe0f"),
    ("lone\udcff", r"lone\udcff"),
]


@pytest.mark.parametrize("text", SEEN)
def test_what_can_be_seen_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(("text", "shown"), HIDDEN, ids=range(len(HIDDEN)))
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown, "once"


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_letters_digits_and_signs_stay(text: str) -> None:
    blanks = "\u115f\u1160\u2800\u3164\uffa0"
    assert printable(text) == text or any(each in text for each in blanks)


@given(st.text())
def test_nothing_that_reverses_or_hides_is_left(text: str) -> None:
    shown = printable(text)
    unseen = {each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Cf", "Zl", "Zp")}
    assert unseen - VISIBLE_FORMATS <= {"\u200c", "\u200d"}
    assert "\u200d\u200d" not in shown
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_octets_that_are_no_utf8_are_kept_escaped() -> None:
    reply = _parse_reply([b"550 \xfc\xe9 caf\xe9"])
    assert explain(reply, NOTHING) == r"550 \xfc\xe9 caf\xe9"
    assert explain(_parse_reply(["550 für".encode()]), NOTHING) == "550 für"


def test_a_reply_is_shown_with_what_it_hides() -> None:
    assert explain(Reply(550, "no\u202e\u200b"), NOTHING) == r"550 no\u202e\u200b"


@pytest.mark.parametrize("for_journal", [False, True])
def test_a_line_of_the_log_hides_nothing(for_journal: bool) -> None:
    """Whoever has written it, and whatever an error says that is logged with it."""
    try:
        raise ValueError("\u202eevil\x1b[2J")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "a\u202eb\nc\x85d", (), (type(error), error, None)
        )
    text = LineFormatter(for_journal=for_journal).format(record)
    assert r"a\u202eb" in text
    assert r"c\x85d" in text
    assert r"\u202eevil\x1b[2J" in text
    assert not set("\u202e\x1b\x85") & set(text)
    assert len(text.splitlines()) >= 3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("short", "short"),
        ("exactly 10", "exactly 10"),
        ("exactly 11.", "exactly 11 [1 more characters]"),
        ("eight..e\u0301\u0301\u0301", "eight.. [4 more characters]"),
        ("seven..\U0001f468\u200d\U0001f469\u200d\U0001f467", "seven.. [5 more characters]"),
        (r"sevens.\xe4\xf6", "sevens. [8 more characters]"),
        (r"sevens\xe4\xf6", r"sevens\xe4 [4 more characters]"),
        (r"seven\u200b\u200b", r"seven [12 more characters]"),
    ],
)
def test_a_text_is_shortened_between_characters(text: str, kept: str) -> None:
    assert shortened(text, 10) == kept
