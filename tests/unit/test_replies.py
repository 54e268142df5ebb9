"""What servers say, row by row: each reply means what the tables beside this file say."""

from __future__ import annotations

import csv
import hashlib
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from postroom.core.classify import parse_enhanced
from postroom.core.clock import DAY, HOUR, MINUTE, SECOND
from postroom.core.outcome import Meaning, Reply
from postroom.core.replies import PERIODS as WINDOWS
from postroom.core.replies import UNKNOWN, Circumstances, provider_of, read
from postroom.core.reply_rows.row import Place, Row
from postroom.core.reply_table import TABLE

PERIODS = {"day": DAY, "hour": HOUR}
FIRST = Circumstances(logged_in=True)
CARRIED = Circumstances(logged_in=True, carried=True)


def rows(name: str) -> list[dict[str, str]]:
    text = (Path(__file__).parent / "cases" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def reply(text: str) -> Reply:
    code, _, rest = text.partition(" ")
    enhanced = parse_enhanced(rest)
    return Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced)


ROWS = rows("replies.csv") + rows("more_replies.csv")


def test_there_are_enough_rows_and_each_is_there_once() -> None:
    assert len(ROWS) >= 80 + 33
    assert len({(row["at"], row["reply"]) for row in ROWS}) >= len(ROWS) - 8  # some are in both


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['at']} {row['reply'][:60]}")
def test_a_reply_means(row: dict[str, str]) -> None:
    place = Place(row["at"])
    circumstances = Circumstances(
        logged_in=place is not Place.AUTH, carried=True, some_taken="some were taken" in row["reply"]
    )
    found = read(reply(row["reply"]), place, circumstances)
    assert found.meaning.value == row["meaning"]
    if row["period"]:
        assert found.period == PERIODS[row["period"]]
    assert (found.period is not None) >= (found.meaning is Meaning.LIMIT)


@pytest.mark.parametrize(
    ("text", "place", "period"),
    [
        ("451 4.7.1 too many messages per second", Place.MAIL, SECOND),
        ("451 4.7.1 too many messages per minute", Place.MAIL, MINUTE),
        ("550 5.7.1 sending limit of this hour reached", Place.DOT, HOUR),
        ("550 5.7.1 sending limit of this month reached", Place.DOT, 30 * DAY),
        ("550 5.7.1 sending limit reached", Place.DOT, HOUR),
        ("454 4.7.0 Too many login attempts", Place.AUTH, 2 * MINUTE),
    ],
)
def test_the_period_is_the_one_that_the_words_name(text: str, place: Place, period: int) -> None:
    assert read(reply(text), place, FIRST).period == period


@pytest.mark.parametrize(
    "text", ["452 4.5.3 Too many messages per session", "550 5.7.0 Too many messages in this connection"]
)
def test_a_first_message_cannot_be_one_too_many_for_its_connection(text: str) -> None:
    assert read(reply(text), Place.MAIL, CARRIED).meaning is Meaning.SESSION
    assert read(reply(text), Place.MAIL, FIRST).meaning is Meaning.RATE


@pytest.mark.parametrize(
    ("text", "first"),
    [("451 4.3.0 no", Meaning.RATE), ("550 5.7.1 no", Meaning.MESSAGE), ("452 4.3.9 no", Meaning.RATE)],
)
def test_a_refusal_of_mail_is_the_connections_where_it_has_carried_messages(
    text: str, first: Meaning
) -> None:
    assert read(reply(text), Place.MAIL, CARRIED).meaning is Meaning.SESSION
    assert read(reply(text), Place.MAIL, FIRST).meaning is first


@pytest.mark.parametrize(
    "text",
    [
        "553 5.7.1 <a@corp.example>: Sender address rejected: not owned by user b@corp.example",
        "554 5.2.252 SendAsDenied; a@corp.example not allowed to send as b@corp.example",
        "501 mail from address must be same as authorization user",
    ],
)
@pytest.mark.parametrize("place", [Place.MAIL, Place.RCPT, Place.DATA, Place.DOT])
def test_a_refused_sender_is_the_accounts_unless_the_message_chose_it(text: str, place: Place) -> None:
    assert read(reply(text), place, FIRST).meaning is Meaning.ACCOUNT
    chosen = Circumstances(logged_in=True, chose_from=True)
    assert read(reply(text), place, chosen).meaning is Meaning.MESSAGE


@pytest.mark.parametrize(("taken", "meaning"), [(True, Meaning.RECIPIENT), (False, Meaning.RATE)])
@pytest.mark.parametrize(
    "text", ["452 4.5.3 Too many recipients", "452 too many rcpts", "552 5.5.3 Too many recipients"]
)
def test_too_many_recipients_is_the_accounts_where_none_was_taken(
    text: str, taken: bool, meaning: Meaning
) -> None:
    found = read(reply(text), Place.RCPT, Circumstances(logged_in=True, some_taken=taken))
    assert found.meaning is meaning


@pytest.mark.parametrize(
    ("text", "place", "host", "advice"),
    [
        ("534 5.7.9 Application-specific password required.", Place.AUTH, "smtp.gmail.com", "Google"),
        ("535 5.7.8 not accepted", Place.AUTH, "smtp.gmail.com", "myaccount.google.com"),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
            Place.AUTH,
            "smtp.office365.com",
            "aka.ms",
        ),
        ("554 5.1.8 Email Outgoing Blocked.", Place.DOT, "smtp.zoho.eu", "zoho.com"),
        (
            "554 Message rejected: Email address is not verified.",
            Place.DOT,
            "email-smtp.eu-west-1.amazonaws.com",
            "SES",
        ),
        ("550 5.7.0 From address is not one of your addresses", Place.DOT, "smtp.mail.me.com", "Apple"),
    ],
)
def test_a_providers_advice_is_given_at_that_provider_only(
    text: str, place: Place, host: str, advice: str
) -> None:
    assert advice in read(reply(text), place, Circumstances(host)).fix
    for other in ("mail.corp.example", "127.0.0.1", "", "smtp.fastmail.com", "smtp.gmail.com.corp.example"):
        elsewhere = read(reply(text), place, Circumstances(other))
        assert elsewhere.meaning is Meaning.ACCOUNT
        assert advice not in elsewhere.fix + elsewhere.explanation


def test_a_bare_code_of_a_provider_means_nothing_elsewhere() -> None:
    assert read(reply("550 5.4.5 no"), Place.DOT, Circumstances("smtp.gmail.com")).meaning is Meaning.LIMIT
    assert read(reply("550 5.4.5 no"), Place.DOT, UNKNOWN).meaning is Meaning.MESSAGE


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("smtp.gmail.com", "google"),
        ("SMTP.Office365.com.", "microsoft"),
        ("email-smtp.us-east-1.amazonaws.com", "ses"),
        ("mysmtp.gmail.com.example", None),
        ("notgmx.net", None),
        ("localhost", None),
    ],
)
def test_providers_are_told_by_the_end_of_the_hosts_name(host: str, provider: str | None) -> None:
    assert provider_of(host) == provider


def test_each_row_of_the_table_has_a_source_and_something_to_be_told_by() -> None:
    for row in TABLE:
        assert row.source, row
        assert row.words or row.code or row.enhanced, row
        re.compile(row.words)


def test_only_the_beginning_of_a_long_reply_is_read() -> None:
    """A server may say 64 KiB, and some patterns would take minutes over them."""
    assert read(reply(f"550 5.7.1 {'too many ' * 7000} of it"), Place.DOT, FIRST).meaning is Meaning.MESSAGE
    assert (
        read(reply(f"550 5.7.1 {'x ' * 200} daily limit exceeded"), Place.DOT, FIRST).meaning
        is Meaning.MESSAGE
    )


# Python's own parser of patterns: the one that decides how they are searched for.
PARSER: Any = import_module("re._parser")
BEGINNINGS = {"AT_BEGINNING", "AT_BEGINNING_STRING"}
REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
LONGEST = 200  # of a bounded repeat
NESTED = "a repeat within an unbounded one"


def long_searches(parts: Any, left: int = 0) -> list[str]:
    """Return the repeats of a pattern by which a search would take more than linear time.

    A search begins anew at each character, so a repeat without a bound is linear only behind the beginning of the text,
    and only one of them. `left` is how many may follow.
    """
    found: list[str] = []
    for operator, argument in parts:
        name = str(operator)
        if name == "AT" and str(argument) in BEGINNINGS:
            left = 1
        elif name in REPEATS:
            _, most, inner = argument
            is_bounded = most is not PARSER.MAXREPEAT and most <= LONGEST
            if not is_bounded and not left:
                found.append(f"{name} up to {most}")
            found += [NESTED] * (not is_bounded and "REPEAT" in str(inner)) or long_searches(inner, left)
            left -= not is_bounded
        elif name == "BRANCH":
            for branch in argument[1]:
                found += long_searches(branch, left)
        elif name in ("ASSERT", "ASSERT_NOT", "SUBPATTERN", "ATOMIC_GROUP"):
            inner = argument if name == "ATOMIC_GROUP" else argument[-1]
            found += long_searches(inner, left)
    return found


def test_no_pattern_takes_more_than_linear_time() -> None:
    """A server chooses the text, and all accounts wait for one search."""
    patterns = [row.words for row in TABLE if row.words] + [words for words, _ in WINDOWS]
    assert {words: long for words in patterns if (long := long_searches(PARSER.parse(words)))} == {}


@pytest.mark.parametrize(
    "words",
    [
        "(?=.*day)(?=.*limit)",
        "exceed\\w*.{0,40}size",
        "5\\.7\\.139.*tenant",
        "^.*day.*limit",
        "^(?:a+)+b",
        "a.{0,400}b",
    ],
)
def test_a_pattern_that_does_is_found(words: str) -> None:
    assert long_searches(PARSER.parse(words)) != []


def _digest(row: Row) -> str:
    fields = {name: getattr(row, name) for name in Row.__slots__}
    fields |= {"meaning": row.meaning.name, "at": "|".join(sorted(place.name for place in row.at))}
    text = "\n".join(f"{name}={value if name == 'at' else repr(value)}" for name, value in fields.items())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_the_rows_stand_in_their_order() -> None:
    """The first row that matches decides, so a row that moves changes what replies mean.

    The file has a line for each row: a digest of all its fields, its meaning and its provider.
    """
    text = (Path(__file__).parent / "cases" / "reply_rows.txt").read_text(encoding="utf-8")
    assert [f"{_digest(row)} {row.meaning.name} {row.provider or '-'}" for row in TABLE] == text.splitlines()
