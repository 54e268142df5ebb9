"""Encodes entries of the log, each as one line of JSON: ECS, Datadog's attributes, or plain names.

Lines are joined from parts: what is the same in all lines, or in all of one kind, is encoded once. A line of
an event takes 5 µs so, where one document of dictionaries takes 11.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Final, TypeAlias

from postroom import __version__
from postroom.core.clock import SECOND, Instant, rfc3339
from postroom.core.log_options import LogFormat, LogOptions
from postroom.telemetry.entry import MESSAGES, Entry

Encode: TypeAlias = Callable[[Entry], bytes]
Fields: TypeAlias = dict[str, object]

ECS_VERSION: Final = "9.4.0"
SOURCE: Final = "postroom"  # Datadog's `ddsource`, which chooses the pipeline
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode


def encoder_of(options: LogOptions, form: LogFormat | None = None) -> Encode:
    """Return the function that makes a line, without its line feed, of an entry."""
    return {
        LogFormat.ECS: _ecs,
        LogFormat.DATADOG: _datadog,
        LogFormat.JSON: _plain,
    }[form or options.format](options)


def _members(fields: Mapping[str, object]) -> str:
    """Return the members of an object, without its braces; those that are None are left out."""
    return _encode({name: value for name, value in fields.items() if value is not None})[1:-1]


def _own(fields: Mapping[str, object]) -> str:
    """Return the members of a flat object of texts and numbers."""
    return ",".join(
        f'"{name}":{quoted(value) if isinstance(value, str) else value}' for name, value in fields.items()
    )


def _list(texts: Sequence[str]) -> str:
    return f"[{','.join(map(quoted, texts))}]"


@lru_cache(1)
def _second(second: int) -> str:
    return rfc3339(second * SECOND)[:19]


def _time(at: Instant) -> str:
    second, micros = divmod(at, SECOND)
    return f"{_second(second)}.{micros // 1000:03}Z"


@lru_cache
def _level(level: int) -> str:
    return logging.getLevelName(level).lower()


def _message(entry: Entry) -> str:
    """Return the members that ECS and Datadog have alike: the addresses, and what is Postroom's own."""
    members = ""
    if entry.sender is not None:
        to = _list(entry.recipients)
        members = f',"email":{{"from":{{"address":[{quoted(entry.sender)}]}},"to":{{"address":{to}}}}}'
    return f'{members},"postroom":{{{_own(entry.own)}}}' if entry.own else members


def _ecs(options: LogOptions) -> Encode:
    """Elastic Common Schema, nested as `ecs-logging` writes it: elastic.co/guide/en/ecs."""
    service = {
        "name": options.service,
        "version": options.version or __version__,
        "environment": options.environment,
    }
    fixed = _members(
        {
            "ecs.version": ECS_VERSION,
            "service": {name: value for name, value in service.items() if value is not None},
            "host": {"name": os.uname().nodename},
            "process": {"pid": os.getpid()},
        }
    )

    def encode(entry: Entry) -> bytes:
        duration = "" if entry.duration is None else f',"duration":{entry.duration * 1000}'
        line = (
            f'{{"@timestamp":"{_time(entry.at)}",{fixed},"message":{quoted(entry.message)},"event":{{"id":{quoted(entry.id)}'
            f"{duration},{_ecs_event(entry.dataset, entry.action, entry.outcome)}}}{_message(entry)}{_ecs_rest(entry)}}}"
        )
        return line.encode("ascii")

    return encode


@lru_cache
def _ecs_event(dataset: str, action: str | None, outcome: str | None) -> str:
    fields: Fields = {"kind": "event", "module": "postroom", "dataset": dataset, "action": action}
    if dataset == MESSAGES:
        fields |= {"category": ["email"], "type": ["info"]}
    return _members({**fields, "outcome": outcome})


@lru_cache
def _ecs_log(level: int) -> str:
    return _encode({"level": _level(level)})


def _ecs_rest(entry: Entry) -> str:
    """Return the members that lines of events of messages hardly have, and the level."""
    trace = "" if entry.trace_id is None else f',"trace":{{"id":{quoted(entry.trace_id)}}}'
    if entry.logger is None and entry.request is None:
        return f',"log":{_ecs_log(entry.level)}{trace}'
    said: Fields = {"level": _level(entry.level)}
    fields: Fields = {"log": said}
    if entry.logger is not None:
        said["logger"] = entry.logger
    if entry.origin is not None:
        file, line, function = entry.origin
        said["origin"] = {"file": {"name": file, "line": line}, "function": function}
    if entry.fault is not None:
        kind, message, stack = entry.fault
        fields["error"] = {"type": kind, "message": message, "stack_trace": stack}
    if entry.request is not None:
        method, status = entry.request.method, entry.request.status
        fields["http"] = {"request": {"method": method}, "response": {"status_code": status}}
        fields["url"] = {"path": entry.request.path}
        fields["client"] = {"address": entry.request.client}
    return f",{_members(fields)}{trace}"


def _datadog(options: LogOptions) -> Encode:
    """Datadog's reserved and standard attributes: docs.datadoghq.com/standard-attributes."""
    version = options.version or __version__
    tags = {"env": options.environment, "version": version}
    fixed = _members(
        {
            "service": options.service,
            "ddsource": SOURCE,
            "ddtags": ",".join(f"{name}:{value}" for name, value in tags.items() if value),
            "hostname": os.uname().nodename,
            "dd.service": options.service,
            "dd.env": options.environment,
            "dd.version": version,
        }
    )

    def encode(entry: Entry) -> bytes:
        duration = "" if entry.duration is None else f',"duration":{entry.duration * 1000}'
        trace = ""
        if entry.trace_id is not None:  # as Datadog has it: the lower 64 bits, in decimal digits
            trace = f',"dd.trace_id":"{int(entry.trace_id[-16:], 16)}"'
        line = (
            f'{{"timestamp":"{_time(entry.at)}","status":"{_level(entry.level)}",{fixed},"message":{quoted(entry.message)}'
            f',"event":{{"id":{quoted(entry.id)},{_datadog_event(entry.dataset, entry.action, entry.outcome)}}}'
            f"{duration}{trace}{_message(entry)}{_datadog_rest(entry)}}}"
        )
        return line.encode("ascii")

    return encode


@lru_cache
def _datadog_event(dataset: str, action: str | None, outcome: str | None) -> str:
    return _members({"dataset": dataset, "action": action, "outcome": outcome})


def _datadog_rest(entry: Entry) -> str:
    fields: Fields = {}
    if entry.logger is not None:
        fields["logger"] = {"name": entry.logger}
    if entry.fault is not None:
        kind, message, stack = entry.fault
        fields["error"] = {"kind": kind, "message": message, "stack": stack}
    if entry.request is not None:
        method, path, status = entry.request.method, entry.request.path, entry.request.status
        fields["http"] = {"method": method, "status_code": status, "url_details": {"path": path}}
        fields["network"] = {"client": {"ip": entry.request.client}}
    return f",{_members(fields)}" if fields else ""


def _plain(options: LogOptions) -> Encode:
    """One flat document, for people and programs that know no schema."""
    fixed = _members({"service": options.service, "version": options.version or __version__})

    def encode(entry: Entry) -> bytes:
        fields: Fields = {
            "level": _level(entry.level),
            "message": entry.message,
            "dataset": entry.dataset,
            "id": entry.id,
            "logger": entry.logger,
            "action": entry.action,
            "outcome": entry.outcome,
            "duration_ns": None if entry.duration is None else entry.duration * 1000,
            "trace_id": entry.trace_id,
        }
        if entry.fault is not None:
            fields |= zip(("error", "error_message", "stack"), entry.fault, strict=True)
        if entry.recipients:
            fields["recipients"] = entry.recipients
        if entry.request is not None:
            request = entry.request
            fields |= {"method": request.method, "path": request.path, "status": request.status}
            fields["client"] = request.client
        members = _members({**fields, **entry.own})
        return f'{{"time":"{_time(entry.at)}",{fixed},{members}}}'.encode("ascii")

    return encode
