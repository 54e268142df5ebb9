"""Faults of our own: logged with a traceback and an incident's id, which is all that anybody else is told."""

from __future__ import annotations

import logging
import secrets


def report(log: logging.Logger, what: str, error: BaseException) -> str:
    """Log a fault of ours at ERROR, with its traceback; return the id to name it by."""
    incident = secrets.token_hex(4)
    log.error("%s: a fault in Postroom itself, incident %s", what, incident, exc_info=error)
    return incident
