"""Makes the shipper that the settings ask for."""

from __future__ import annotations

from postroom.core.errors import ConfigError
from postroom.core.log_options import LogFormat
from postroom.core.log_ship import Destination
from postroom.settings import Settings
from postroom.telemetry.shipping.datadog import Datadog
from postroom.telemetry.shipping.elasticsearch import Elasticsearch
from postroom.telemetry.shipping.intake import Intake
from postroom.telemetry.shipping.shipper import Shipper


def shipper_of(settings: Settings) -> tuple[LogFormat, Shipper] | None:
    """Return the shipper, and the form of the lines that it takes; None where nothing is shipped. Raises ConfigError."""
    chosen = intake_of(settings)
    return None if chosen is None else (chosen[0], Shipper(chosen[1], settings.log_ship_memory))


def intake_of(settings: Settings) -> tuple[LogFormat, Intake] | None:
    """Return where lines are shipped to, and their form. Raises ConfigError where a credential is missing."""
    chosen = settings.log_ship
    if chosen is None:
        return None
    if chosen.to is Destination.DATADOG:
        if settings.dd_api_key is None:
            raise ConfigError("DD_API_KEY", "must be set: POSTROOM_LOG_SHIP names Datadog's intake")
        return LogFormat.DATADOG, Datadog(settings.dd_api_key, settings.dd_site, chosen.url)
    assert chosen.url is not None
    return LogFormat.ECS, Elasticsearch(chosen.url, chosen.basic, settings.log_ship_key)
