"""Has a start that fails say so in the log of the service too, in the form that POSTROOM_LOG_FORMAT asks for."""

from __future__ import annotations

import io
import logging
import os
from contextlib import suppress

from pydantic import ValidationError

from postroom.core.env_file import NAME as DOT_ENV
from postroom.core.errors import ConfigError
from postroom.core.files import read_plain
from postroom.core.log_options import LogFormat, LogOptions
from postroom.core.setting_values import LARGEST_FILE
from postroom.runtime.own_files import VAR
from postroom.settings import Settings
from postroom.telemetry import lifecycle, service_log
from postroom.telemetry.entry import ACTION, OUTCOME, SINKS_ALONE

_FORMAT = "POSTROOM_LOG_FORMAT"


def tell_failed_start(name: str, words: str) -> None:
    """Log that a process did not start. As text it is not logged: standard error has the command's own line.

    Once the process has started its stop is logged instead, with the reason.
    """
    if lifecycle.has_started() or not ensure_log():
        return
    lifecycle.log.error(
        "%s did not start: %s",
        name,
        words,
        extra={ACTION: lifecycle.START, OUTCOME: "failure", SINKS_ALONE: True},
    )


def ensure_log() -> bool:
    """Begin the log of the service where the start has not come so far, with the settings that can be used.

    Returns whether there is one: none is begun for text.
    """
    if any(isinstance(each, service_log.ServiceLog) for each in logging.getLogger().handlers):
        return True
    options = _options()
    if options.format is LogFormat.TEXT:
        return False
    service_log.start(options, VAR)
    return True


def _options() -> LogOptions:
    """Return how to log; settings that cannot be used have their defaults."""
    stand_ins: dict[str, object] = {}
    try:
        while True:
            try:
                return Settings(_dot_env_file=DOT_ENV, **stand_ins).log_options
            except ValidationError as error:
                wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]} - stand_ins.keys()
                if not wrong:
                    return LogOptions()
                stand_ins |= {name: Settings.model_fields[name].default for name in wrong}
    except (ConfigError, OSError, UnicodeError):  # a file that holds a setting cannot be read
        return _of_format_alone()


def _of_format_alone() -> LogOptions:
    text = os.environ.get(_FORMAT)
    if text is None:
        from dotenv import dotenv_values

        with suppress(ConfigError, OSError, UnicodeError):
            content = read_plain(VAR.parent / DOT_ENV, LARGEST_FILE).decode("utf-8-sig")
            text = dotenv_values(stream=io.StringIO(content)).get(_FORMAT)
    with suppress(ValueError):
        return LogOptions(LogFormat((text or "").strip().lower()))
    return LogOptions()
