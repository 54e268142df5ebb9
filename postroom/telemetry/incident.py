"""Logs an unexpected error with its traceback and an incident id; clients are given the id alone."""

from __future__ import annotations

import logging
import secrets


def report(log: logging.Logger, what: str, error: BaseException) -> str:
    """Log an unexpected error at ERROR, with its traceback; return its incident id."""
    incident = secrets.token_hex(4)
    log.error("%s: a fault in Postroom itself, incident %s", what, incident, exc_info=error)
    return incident
