"""The lines of the structured log: ECS by its field list and beside `ecs-logging`, Datadog's attributes, addresses."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ecs_logging
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.events import EventKind, Happened
from postroom.core.log_options import LogAddresses, LogFormat, LogOptions
from postroom.core.outcome import Blame, Reply
from postroom.telemetry.addresses import Addresses
from postroom.telemetry.entry import Answered, Entries, Entry
from postroom.telemetry.formats import encoder_of
from tests.unit import ecs

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AT = 1_700_000_000_123_456
JSON = [LogFormat.ECS, LogFormat.DATADOG, LogFormat.JSON]
STRANGE = 'a "quoted"\n\x1b[31m line \u202e \ud800 \U0001f600 \\ end'


def happened(kind: EventKind = EventKind.FAILED, **fields: Any) -> Happened:
    given: dict[str, Any] = {
        "recipients": ("ada@example.org",),
        "delivery_id": 7,
        "attempt": 2,
        "detail": "550 5.1.1 no such user [the mailbox is not there]",
        "reply": Reply(550, "no such user", "5.1.1"),
        "blame": Blame.RECIPIENT,
        "phase": "RCPT",
        "began_at": AT - 250_000,
        "traceparent": TRACEPARENT,
    }
    return Happened(
        kind, AT, "0198d0a8-1111-7222-8333-444455556666", "me@postroom.example", **{**given, **fields}
    )


def answered(status: int = 202) -> Answered:
    return Answered(AT, "POST", "/send-email", "/send-email", status, 1500, "192.0.2.7")


def record(message: str = "it went wrong", level: int = logging.ERROR, **more: Any) -> logging.LogRecord:
    return logging.LogRecord(
        "postroom.worker", level, "/srv/a.py", 42, message, None, more.get("exc_info"), "run"
    )


def raised() -> Any:
    try:
        raise ValueError(f"of {STRANGE}")
    except ValueError:
        return sys.exc_info()


def entries(policy: LogAddresses = LogAddresses.FULL) -> Entries:
    return Entries(Addresses(policy, lambda text: text.encode()[::-1].ljust(32)))


def every_entry(make: Entries) -> Iterator[Entry]:
    """Yield an entry of each sort."""
    for kind in EventKind:
        yield make.of_event(happened(kind))
        yield make.of_event(Happened(kind, AT, "an-id", "me@x.example", ("a@x.example", "b@x.example")))
        yield make.of_event(happened(kind, detail=STRANGE, reply=Reply(451, STRANGE)))
    for level in logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL:
        yield make.of_record(record(level=level))
    yield make.of_record(record(STRANGE, exc_info=raised()))
    for status in 202, 404, 500:
        yield make.of_answered(answered(status))
    yield make.of_answered(answered()._replace(route=None, client="unix", path=f"/{STRANGE}"))


def lines(form: LogFormat, policy: LogAddresses = LogAddresses.FULL, **options: Any) -> list[dict[str, Any]]:
    encode = encoder_of(LogOptions(form, addresses=policy, **options))
    found = [encode(entry) for entry in every_entry(entries(policy))]
    assert all(b"\n" not in line and line.endswith(b"}") and line.isascii() for line in found)
    return [json.loads(line) for line in found]


def document(form: LogFormat, entry: Entry, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoder_of(LogOptions(form, **options))(entry))
    return found


class TestECS:
    @pytest.mark.parametrize("policy", LogAddresses)
    def test_every_line_has_fields_of_the_schema_and_no_others(self, policy: LogAddresses) -> None:
        for line in lines(LogFormat.ECS, policy, environment="production"):
            assert not ecs.faults(line), line

    def test_a_fault_is_found(self) -> None:
        [line, *_] = lines(LogFormat.ECS)
        for wrong in (
            {"event": {**line["event"], "duration": "long"}},
            {"event": {**line["event"], "outcome": "maybe"}},
            {"email": {"to": {"address": "ada@example.org"}}},
            {"mail": 1},
            {"postroom": {"subject": "Hello"}},
            {"message": None},
        ):
            assert ecs.faults({**line, **wrong})

    def test_what_is_said_of_an_event(self) -> None:
        line = ecs.flat(
            document(LogFormat.ECS, entries().of_event(happened()), service="mailer", version="1.2")
        )
        assert line.pop("message").startswith("0198d0a8-1111-7222-8333-444455556666 failed: from me@")  # type: ignore[attr-defined]
        for name in "process.pid", "host.name", "event.category", "event.type":
            assert line.pop(name)
        assert line == {
            "@timestamp": "2023-11-14T22:13:20.123Z",
            "ecs.version": "9.4.0",
            "log.level": "warning",
            "service.name": "mailer",
            "service.version": "1.2",
            "event.id": f"0198d0a8-1111-7222-8333-444455556666-failed-7-{AT}",
            "event.kind": "event",
            "event.module": "postroom",
            "event.dataset": "postroom.message",
            "event.action": "failed",
            "event.outcome": "failure",
            "event.duration": 250_000_000,
            "trace.id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "email.from.address": ["me@postroom.example"],
            "email.to.address": ["ada@example.org"],
            "postroom.request_id": "0198d0a8-1111-7222-8333-444455556666",
            "postroom.account": "me@postroom.example",
            "postroom.attempt": 2,
            "postroom.phase": "RCPT",
            "postroom.reply": "550 5.1.1 no such user",
            "postroom.enhanced": "5.1.1",
            "postroom.blame": "recipient",
        }

    @pytest.mark.parametrize("make", [record, lambda: record("of a fault", exc_info=raised())])
    def test_a_record_is_as_ecs_logging_writes_it(self, make: Callable[[], logging.LogRecord]) -> None:
        """The field list is that of a later version; `log.original` repeats the message, threads say nothing here."""
        given = make()
        theirs = ecs.flat(json.loads(ecs_logging.StdlibFormatter(
            exclude_fields=["log.original", "process.name", "process.thread", "ecs.version"]
        ).format(given)))  # fmt: skip
        ours = ecs.flat(document(LogFormat.ECS, entries().of_record(given)))
        trace = theirs.pop("error.stack_trace", "")
        assert isinstance(trace, str)
        assert all(part.strip() in str(ours.get("error.stack_trace", "")) for part in trace.splitlines())
        message = theirs.pop("error.message", None)
        assert (message is None) == ("error.message" not in ours)
        assert theirs.items() <= ours.items()

    def test_service_and_environment_are_named(self) -> None:
        line = document(LogFormat.ECS, entries().of_record(record()), service="mailer", environment="test")
        assert line["service"]["name"] == "mailer"
        assert line["service"]["environment"] == "test"
        assert "environment" not in document(LogFormat.ECS, entries().of_record(record()))["service"]


class TestDatadog:
    def test_every_line_has_what_the_intake_reads(self) -> None:
        options: dict[str, Any] = {"service": "mailer", "environment": "prod", "version": "1.2"}
        for line in lines(LogFormat.DATADOG, **options):
            assert line["status"] in ("debug", "info", "warning", "error", "critical")
            assert (line["service"], line["ddsource"], line["ddtags"]) == (
                "mailer",
                "postroom",
                "env:prod,version:1.2",
            )
            assert (line["dd.service"], line["dd.env"], line["dd.version"]) == ("mailer", "prod", "1.2")
            assert line["message"]
            assert line["event"]["id"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])

    def test_a_trace_is_named_as_datadog_does(self) -> None:
        line = document(LogFormat.DATADOG, entries().of_event(happened()))
        assert line["dd.trace_id"] == str(0xA3CE929D0E0E4736)
        assert line["duration"] == 250_000_000
        assert line["postroom"]["blame"] == "recipient"

    def test_a_fault_and_a_request_have_their_standard_attributes(self) -> None:
        line = document(LogFormat.DATADOG, entries().of_record(record(exc_info=raised())))
        assert line["error"]["kind"] == "ValueError"
        assert "Traceback" in line["error"]["stack"]
        line = document(LogFormat.DATADOG, entries().of_answered(answered(404)))
        assert line["http"] == {"method": "POST", "status_code": 404, "url_details": {"path": "/send-email"}}
        assert line["network"] == {"client": {"ip": "192.0.2.7"}}


def test_the_plain_form_is_flat() -> None:
    for line in lines(LogFormat.JSON):
        assert {"time", "level", "message", "service", "id"} <= line.keys()
        assert not [value for value in line.values() if isinstance(value, dict)]
    line = document(LogFormat.JSON, entries().of_event(happened()))
    assert line["recipients"] == ["ada@example.org"]
    assert (line["action"], line["outcome"], line["request_id"]) == (
        "failed",
        "failure",
        line["message"].split()[0],
    )


def test_an_events_id_is_the_same_in_every_process_and_a_records_is_its_own() -> None:
    ours, other = entries(), entries()
    assert ours.of_event(happened()).id == other.of_event(happened()).id
    assert ours.of_event(happened()).id != ours.of_event(happened(delivery_id=8)).id
    ids = [each.of_record(record()).id for each in (ours, ours, other)]
    assert len(set(ids)) == 3


def test_options_are_handed_down_as_text() -> None:
    options = LogOptions(LogFormat.ECS, "INFO", "mailer", None, "1.2", LogAddresses.HASH)
    assert LogOptions.inherited({"POSTROOM_LOG_OPTIONS": options.text()}) == options
    assert LogOptions.inherited({}) == LogOptions()


class TestAddresses:
    """ADA stands in every place of a line that may hold an address."""

    ADA = "Ada.Lovelace@Example.org"

    def text(self, form: LogFormat, policy: LogAddresses) -> str:
        make, encode = entries(policy), encoder_of(LogOptions(form))
        said = f"550 <{self.ADA.lower()}>: user ADA.LOVELACE unknown; ask {self.ADA}, or other@else.example."
        found = [
            make.of_event(
                happened(kind, recipients=(self.ADA,), detail=said, reply=Reply(550, said, "5.1.1"))
            )
            for kind in EventKind
        ]
        found += [make.of_event(happened()._replace(account=self.ADA, detail=said))]
        found += [make.of_record(record(f"account {self.ADA} is paused")), make.of_answered(answered())]
        try:
            raise ValueError(f"of <{self.ADA}>")
        except ValueError:
            found.append(make.of_record(record(f"to={self.ADA}", exc_info=sys.exc_info())))
        found.append(make.of_answered(answered()._replace(path=f"/v1/accounts/{self.ADA}")))
        return b"".join(map(encode, found)).decode()

    @pytest.mark.parametrize("form", JSON)
    @pytest.mark.parametrize("policy", [LogAddresses.DOMAIN, LogAddresses.HASH])
    def test_none_is_in_any_line(self, form: LogFormat, policy: LogAddresses) -> None:
        assert "lovelace" in self.text(form, LogAddresses.FULL).lower()
        assert "lovelace" not in self.text(form, policy).lower()

    def test_by_domain_the_domain_is_left(self) -> None:
        text = self.text(LogFormat.ECS, LogAddresses.DOMAIN)
        assert '"to":{"address":["*@Example.org"]}' in text
        assert "or *@else.example." in text

    def test_a_hash_joins_the_lines_of_one_person_and_needs_the_key(self) -> None:
        one, other = Addresses(LogAddresses.HASH, lambda text: text.encode()), Addresses(LogAddresses.HASH)
        assert one.hide(f"to {self.ADA}") == f"to {one.shown(self.ADA.upper())}"
        assert re.fullmatch(r"hmac:[0-9a-f]{16}", one.shown(self.ADA))
        assert other.hide(f"to {self.ADA}") == "to *@Example.org"
        other.adopt(lambda text: text.encode()[::-1])
        assert other.shown(self.ADA) not in (one.shown(self.ADA), "*@Example.org")

    @given(st.emails(), st.text(max_size=20), st.text(max_size=20))
    def test_no_address_gets_through(self, address: str, before: str, after: str) -> None:
        local = address.rpartition("@")[0]
        hidden = Addresses(LogAddresses.HASH, lambda _: b"x" * 32).hide(f"{before} <{address}> {after}")
        assert f"<{local}@" not in hidden


def test_an_address_within_the_address_of_a_page_is_hidden_too() -> None:
    """Of a mailbox of two letters the local part alone is not looked for."""
    said = "550 see https://help.example/?p=nl%40example.net&x=1%25"
    hidden = Addresses(LogAddresses.DOMAIN).hide(said, ("nl@example.net",))
    assert hidden == "550 see https://help.example/?p=*@example.net&x=1%25"
