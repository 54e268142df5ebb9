"""How a process writes its log, as a value: the format, the level, what the lines name, and how they show addresses."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final, Self

OPTIONS: Final = (
    "POSTROOM_LOG_OPTIONS"  # the variable in which `serve` hands them to processes that read no settings
)


class LogFormat(Enum):
    """The form of each line (POSTROOM_LOG_FORMAT); every form but text is one JSON document a line."""

    TEXT = "text"
    ECS = "ecs"  # Elastic Common Schema
    DATADOG = "datadog"  # Datadog's standard attributes
    JSON = "json"


class LogAddresses(Enum):
    """How much of an address a line shows (POSTROOM_LOG_ADDRESSES)."""

    FULL = "full"
    DOMAIN = "domain"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How one installation writes its log."""

    format: LogFormat = LogFormat.TEXT
    level: str = "WARNING"
    service: str = "postroom"
    environment: str | None = None
    version: str | None = None  # None: Postroom's own
    addresses: LogAddresses = LogAddresses.FULL
    ships: bool = False  # its lines go to an intake too (POSTROOM_LOG_SHIP)

    def text(self) -> str:
        """Return what `parse` turns back into the same."""
        fields = {**asdict(self), "format": self.format.value, "addresses": self.addresses.value}
        return json.dumps(fields)

    @classmethod
    def parse(cls, text: str) -> Self:
        fields = json.loads(text)
        fields["format"] = LogFormat(fields["format"])
        fields["addresses"] = LogAddresses(fields["addresses"])
        return cls(**fields)

    @classmethod
    def inherited(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return those that `serve` has handed down; else those of a process that was started by itself."""
        text = (os.environ if environment is None else environment).get(OPTIONS)
        return cls.parse(text) if text else cls()
