"""Numbers from outside are ASCII digits of bounded length, everywhere."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.classify import parse_enhanced
from postroom.core.limiter_url import parse_limiter_url
from postroom.core.numbers import whole_number
from postroom.core.setting_values import parse_duration, parse_port, parse_whole
from postroom.inbox.maildrop import Maildrop, inbox_port
from postroom.inbox.server import _Handler
from postroom.settings import Settings
from postroom.web.head import Head, fault_of, length_of
from tests.servers.installation import ROOT

STRANGE = [
    "²",
    "٣",
    "१",
    "\uff13",
    "1_0",
    "+1",
    "-1",
    " 1",
    "1 ",
    "1.0",
    "1e3",
    "0x1",
    "½",
    "①",
    "x",
    "1\n",
    "1\0",
]
ENDLESS = "9" * 5_000
# What is not text from outside, or only looked at: file and expression.
KNOWN = {
    "core/address.py": ["domain.rpartition('.')[2].isdigit()"],
    "runtime/backup.py": ["int(time.time())"],
    "accounts/doctor/clock.py": ["int(said.timestamp())"],
    "accounts/oauth_authorize.py": ["float(interval)", "float(expires_in)"],  # numbers of JSON, bounded
    "accounts/oauth_requests.py": [
        "int(parsedate_to_datetime(answer.headers.get('date', '')).timestamp())",
    ],
    "smtp/certificate.py": [
        "int(found.not_valid_after_utc.timestamp())",
        "int(found.not_valid_before_utc.timestamp())",
    ],
    "cli/serve.py": ["int(fd)"],
    "core/setting_values.py": [
        "Decimal(found[1])",
        "host.rpartition('.')[2].isdigit()",
        "int(Decimal(found[1]) * _UNITS[found[2]])",
    ],
    "smtp/credentials.py": [
        "int(decimal)",
        "int(digits, 16)",
    ],  # two to eight ASCII digits, by the expression
    "core/descriptors.py": ["int(entry.name)"],
    "core/failpoint.py": ["int(count)"],
    "mime/html_attributes.py": ["word[:1].isdigit()"],
    "inbox/server.py": ["int(os.environ['POSTROOM_LIFELINE'])", "int(server.sockets[0].getsockname()[1])"],
    "core/numbers.py": ["int(text)", "text.isdigit()"],
    "core/heartbeat.py": ["int(os.environ[READY])"],
    "store/migrate.py": ["int(path.name.split('_')[0])"],
    "store/move.py": ["int(count)", "int(count)"],
    "store/postgres/connect.py": ["int(log_file[:8], 16)"],
    "store/postgres/connection.py": ["int(_INT.unpack(found)[0])"],
    "store/projection.py": ["int(text)"],  # a mark of its own
    "store/position.py": ["int(timeline)"],
    "store/postgres/session.py": ["int(self)"],
    "store/sqlite/connections.py": ["int(part)", "int(longest_wait_s * 1000)"],
    "telemetry/entry.py": ["int(record.created * 1000000)"],
    "telemetry/formats.py": [
        "int(entry.trace_id[-16:], 16)"
    ],  # hexadecimal digits: it was checked when it came
    "telemetry/shipping/intake.py": ["said.isdigit()", "float(said)"],  # ASCII, of four digits
    "web/access_log.py": ["int((time.perf_counter() - began) * 1000000)"],
    "runtime/supervisor.py": ["float(_option(DRAIN, '0'))"],
    "web/api_request.py": ["int(address)"],
    "web/rsgi.py": ["int(status[:3])"],
    "web/rate_limiter.py": ["int(counts)"],
    "smtp/stream.py": ["int(lines[0][:3])"],
    "worker/dispatch.py": ["int(sender.is_idle)"],
}
FROM_THE_DATABASE = tuple(
    f"store/{noun}.py"
    for noun in (
        "acceptance",
        "accounts",
        "attempts",
        "holds",
        "issued_keys",
        "pool_moves",
        "queries",
        "queue",
        "recovery",
        "retention",
    )
)
READS_TEXT = ("isdigit", "isdecimal", "isnumeric")


@pytest.mark.parametrize("text", [*STRANGE, "", ENDLESS, "1" * 19])
def test_anything_but_a_few_plain_digits_is_none(text: str) -> None:
    assert whole_number(text) is None
    assert whole_number(text.encode()) is None


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_plain_digits_are_their_number(number: int) -> None:
    assert whole_number(str(number)) == number
    assert whole_number(str(number).encode()) == number


@given(st.text(max_size=20) | st.binary(max_size=20))
def test_no_text_raises(text: str | bytes) -> None:
    found = whole_number(text)
    assert (
        found is None
        or str(found) == (text if isinstance(text, str) else text.decode()).lstrip("0")
        or found == 0
    )


def _settings(name: str, text: str) -> object:
    return Settings(**{name: text})


PARSERS: dict[str, Callable[[str], object]] = {
    "port": parse_port,
    "column": partial(parse_whole, low=1, high=10**17),
    "duration": lambda text: parse_duration(f"{text}s"),
    "rate": lambda text: _settings("rate_limit", f"{text}/minute"),
    "multiple": lambda text: _settings("rate_limit", f"3 per {text} minute"),
    "limiter": lambda text: parse_limiter_url(f"redis://host:{text}"),
}


@pytest.mark.parametrize("parser", sorted(PARSERS))
@pytest.mark.parametrize("text", ["²", "٣", "\uff13", "1_0", "0x1", "½", ENDLESS])
def test_a_setting_that_is_no_plain_number_is_refused(parser: str, text: str) -> None:
    with pytest.raises(ValueError):
        PARSERS[parser](text)


@pytest.mark.parametrize("text", [text for text in STRANGE if text.strip() != "1"] + [ENDLESS, "1" * 16])
def test_a_content_length_that_is_no_plain_number_is_a_fault(text: str) -> None:
    head = Head("POST", "/send-email", {"host": "x", "content-length": text}, remote="192.0.2.1")
    assert "Content-Length" in (fault_of(head) or "")
    assert length_of(head) == 0


@pytest.mark.parametrize("text", ["٣", "²", "1" * 6, "65536", "0"])
def test_a_port_that_is_none_is_no_inbox(text: str, tmp_path: Path) -> None:
    (tmp_path / "port").write_text(text, encoding="utf-8")
    assert inbox_port(tmp_path) is None


def test_an_enhanced_code_has_plain_digits() -> None:
    assert parse_enhanced("5.1.1 no") == "5.1.1"
    assert parse_enhanced("5.1.٣ no") is None


def _calls(path: Path) -> Iterator[str]:
    """Yield what may read a number from text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in READS_TEXT:
            yield ast.unparse(node)
        converts = isinstance(node.func, ast.Name) and node.func.id in ("int", "float", "Decimal")
        if converts and node.args and not isinstance(node.args[0], ast.Constant):
            yield ast.unparse(node)


def test_nothing_else_reads_numbers_from_text() -> None:
    """A new place is to use `whole_number`, or is added to KNOWN when its text is our own."""
    package = ROOT / "postroom"
    found = {str(path.relative_to(package)): set(_calls(path)) for path in sorted(package.rglob("*.py"))}
    new = {name: calls - set(KNOWN.get(name, ())) for name, calls in found.items()}
    assert not {name: calls for name, calls in new.items() if calls and name not in FROM_THE_DATABASE}


@pytest.mark.parametrize(("size", "answer"), [("²", "501"), ("٣", "501"), (ENDLESS, "501"), ("1000", "250")])
def test_a_size_that_is_no_plain_number_is_refused_by_the_inbox(
    size: str, answer: str, tmp_path: Path
) -> None:
    envelope = SimpleNamespace(smtp_utf8=True)
    handler = _Handler(Maildrop(tmp_path))
    said = asyncio.run(handler.handle_MAIL(None, None, envelope, "ann@example.com", [f"SIZE={size}"]))
    assert said.startswith(answer)
