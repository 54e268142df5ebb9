"""Traces in a whole service: one from the request over the queue and each try to the end, at a receiver of OTLP."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import StartScripted
from tests.servers.installation import KEY, Installation, account_rows
from tests.servers.programs import free_port
from tests.servers.waiting import eventually

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
MARK = "canary-in-a-span"


class Receiver:
    """What an OpenTelemetry collector would get."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.octets = b""

    def take(self, body: bytes) -> None:
        self.octets += body
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


@contextmanager
def collecting() -> Iterator[tuple[Receiver, str]]:
    """Run a receiver of OTLP over HTTP; yield it and its address."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def named(spans: list[Span]) -> Counter[str]:
    return Counter(span.name for span in spans)


def test_a_trace_goes_from_the_request_to_the_end(
    tmp_path: Path, scripted: StartScripted, database_settings: dict[str, str]
) -> None:
    smtp = scripted()
    smtp.on("DOT", reply=f"451 4.3.0 not now, {MARK}", times=1)
    with collecting() as (receiver, url):
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "POSTROOM_RETRY_SCHEDULE": "200ms",
            **database_settings,
        }
        with Installation(tmp_path / "service", account_rows(smtp.port), **settings) as service:
            document = {"subject": MARK, "recipient": f"{MARK}@postroom.example", "body": MARK, "key": KEY}
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            answer = service.client.call("POST", "/send-email", document, headers)
            service.wait_for(answer.document["request_id"])
            unsampled = {"traceparent": f"00-{TRACE[::-1]}-{CALLER}-00"}
            service.wait_for(
                service.client.call("POST", "/send-email", document, unsampled).document["request_id"]
            )
            own = service.send(body=MARK)
            service.wait_for(own)
            eventually(lambda: named(receiver.of(TRACE))["attempt"] == 2, 20, "the spans of both tries")
            eventually(lambda: named(receiver.spans)["attempt"] == 3, 20, "the spans of a trace of our own")
    spans = receiver.of(TRACE)
    [request] = [span for span in spans if span.name == "POST /send-email"]
    assert request.parent_span_id.hex() == CALLER
    assert request.kind == Span.SPAN_KIND_SERVER
    names = named(spans)
    assert (names["accept"], names["queue"], names["attempt"]) == (1, 1, 2)
    assert names["SMTP MAIL"] == names["SMTP RCPT"] == names["SMTP DATA end"] == 2
    attempts = [span for span in spans if span.name == "attempt"]
    assert [span.status.code for span in attempts] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_OK]
    assert all(span.parent_span_id == request.span_id for span in attempts)
    assert {span.parent_span_id for span in spans if span.name.startswith("SMTP ")} == {
        span.span_id for span in attempts
    }
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    first = {each.key: each.value.string_value for each in attempts[0].attributes}
    assert first["smtp.reply.code"] == "451"
    assert first["smtp.reply.enhanced_code"] == "4.3.0"
    assert first["postroom.outcome"] == "deferred"
    assert not receiver.of(TRACE[::-1])
    assert MARK.encode() not in receiver.octets


def test_a_receiver_that_is_away_delays_nothing(tmp_path: Path, scripted: StartScripted) -> None:
    smtp = scripted()
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with Installation(tmp_path / "service", account_rows(smtp.port), **settings) as service:
        for request_id in [service.send() for _ in range(20)]:
            service.wait_for(request_id)


def test_values_that_do_not_go_together_are_said_once(tmp_path: Path, scripted: StartScripted) -> None:
    smtp = scripted()
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "10"}
    with Installation(tmp_path / "service", account_rows(smtp.port), **settings) as service:
        for request_id in [service.send() for _ in range(5)]:
            service.wait_for(request_id)
        assert "Traceback" not in service.log()
        assert 1 <= service.log().count("there are no traces, since OTEL_BSP_") <= 2  # web and worker
