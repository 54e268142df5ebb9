"""The table of all metrics: name, type, labels and meaning; docs/metrics.md lists the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from postroom.core.account import AccountState
from postroom.core.events import EventKind
from postroom.core.outcome import Blame
from postroom.store.totals import NOBODY

PREFIX: Final = "postroom_"
STANDARD: Final = "process_"  # what every exporter says of a process, by the library's collector
SCOPE: Final = "scope"  # label of what all instances say alike
INSTALLATION: Final = "installation"
PROCESS: Final = "process"  # label of what each process says of itself


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `is_own`: each process has its own; otherwise it is the installation's, the same at every instance."""

    name: str  # without our prefix
    type: str  # counter, gauge or histogram
    meaning: str
    labels: tuple[str, ...] = ()
    is_own: bool = False

    @property
    def full_name(self) -> str:
        return self.name if self.name.startswith(STANDARD) else PREFIX + self.name

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (PROCESS if self.is_own else SCOPE, *self.labels)


def _own(name: str, kind: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, kind, meaning, labels, is_own=True)


METRICS: Final = (
    Metric("messages_accepted_total", "counter", "Messages accepted, without those of test keys."),
    Metric(
        "messages_ended_total",
        "counter",
        "Messages that have reached their end, without those of test keys: sent to all recipients, "
        "failed for one or more, or cancelled.",
        ("status",),
    ),
    Metric("test_messages_accepted_total", "counter", "Messages accepted with test keys."),
    Metric("test_messages_captured_total", "counter", "Messages of test keys that have ended in the inbox."),
    Metric(
        "attempts_total",
        "counter",
        "Attempts to send a message, by the gravest outcome among its recipients and by who is to blame for it.",
        ("outcome", "blame"),
    ),
    Metric(
        "message_events_total",
        "counter",
        "Events of messages, as `postroom status` shows them; an event of a recipient counts for each recipient.",
        ("event",),
    ),
    Metric(
        "queue_messages",
        "gauge",
        "Messages accepted that have not reached their end, held ones and those of paused accounts among them.",
    ),
    Metric("queue_sending_messages", "gauge", "Messages in the hands of workers."),
    Metric("queue_held_messages", "gauge", "Messages that wait for a person, counted up to 100,000."),
    Metric(
        "queue_oldest_due_age_seconds",
        "gauge",
        "For how long the message that has waited longest has been due, of active accounts, in the queue or in a "
        "worker's hands; 0 where none is due.",
    ),
    Metric("accounts", "gauge", "Accounts, by state.", ("state",)),
    Metric("workers_alive", "gauge", "Workers whose lease was renewed of late."),
    Metric("smtp_connections", "gauge", "SMTP connections that all workers have open or are opening."),
    Metric(
        "daily_limit_used_ratio",
        "gauge",
        "The largest share of its daily limit that any account has used within 24 hours, from 0 to 1.",
    ),
    Metric(
        "account_daily_limit_recipients",
        "gauge",
        "Recipients that the account may have in 24 hours (POSTROOM_METRICS_ACCOUNTS=true).",
        ("account",),
    ),
    Metric(
        "account_daily_limit_used_recipients",
        "gauge",
        "Recipients that the account has had in 24 hours (POSTROOM_METRICS_ACCOUNTS=true).",
        ("account",),
    ),
    Metric(
        "account_queue_messages",
        "gauge",
        "Messages that wait for the account, or are being sent (POSTROOM_METRICS_ACCOUNTS=true).",
        ("account",),
    ),
    Metric(
        "database_up", "gauge", "1 where the instance that answers has read the database, 0 where it cannot."
    ),
    Metric("disk_free_bytes", "gauge", "Room that is left where the database is (SQLite)."),
    Metric("disk_reserve_bytes", "gauge", "POSTROOM_DISK_RESERVE: with less room nothing is accepted."),
    Metric("database_size_bytes", "gauge", "Size of the database and its write-ahead log (SQLite)."),
    _own("build_info", "gauge", "1, with the versions of Postroom and Python and the kind of database.",
         "version", "python", "database"),
    _own("http_requests_total", "counter", "HTTP requests answered.", "route", "method", "status"),
    _own("http_request_duration_seconds", "histogram", "From the head of a request to its answer.", "route"),
    _own("http_refusals_total", "counter", "HTTP requests refused, by the type of the problem document.", "type"),
    _own("http_requests_in_progress", "gauge", "HTTP requests that are being answered."),
    _own("http_connections", "gauge", "Connections of HTTP clients, as of the last second (Linux, TCP)."),
    _own("log_lines_shipped_total", "counter", "Lines of the log that POSTROOM_LOG_SHIP has taken."),
    _own("log_lines_dropped_total", "counter", "Lines of the log that were dropped on the way there."),
    _own("log_waiting_bytes", "gauge", "Lines of the log that wait to be shipped."),
    _own("message_time_to_end_seconds", "histogram",
         "From acceptance to the end of a message that this process has sent, or given up.", "status"),
    _own("commit_duration_seconds", "histogram",
         "A commit of the database, from waiting for its turn to the flush."),
    _own("commit_works", "histogram", "Pieces of work that were committed together."),
    _own(
        "smtp_phase_duration_seconds",
        "histogram",
        "Steps of SMTP: CONNECT (look-up and TCP), TLS (handshake), and the wait for the reply to each verb. "
        "Commands that left together count for the first of them alone; DOT is the answer to a whole message.",
        "phase",
    ),
    _own("process_cpu_seconds_total", "counter", "Processor time, in user and system mode."),
    _own("process_resident_memory_bytes", "gauge", "Memory that is resident."),
    _own("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    _own("process_start_time_seconds", "gauge", "Start of the process, in seconds since the epoch."),
    _own("process_open_fds", "gauge", "Open file descriptors."),
    _own("process_max_fds", "gauge", "The most file descriptors that it may have open."),
)  # fmt: skip
BY_NAME: Final = {metric.name: metric for metric in METRICS}
# What a label may be; each of these series is there from the start, with 0.
STATUSES: Final = {"sent": "done", "failed": "failed", "cancelled": "cancelled"}  # to the state of the job
ACCOUNT_STATES: Final = tuple(state.value for state in AccountState)
EVENTS: Final = tuple(kind.value for kind in EventKind if kind is not EventKind.ACCEPTED)
ATTEMPTS: Final = (
    (EventKind.SENT.value, NOBODY),
    (EventKind.IN_DOUBT.value, NOBODY),
    *((kind.value, blame.value) for kind in (EventKind.DEFERRED, EventKind.FAILED) for blame in Blame),
)
