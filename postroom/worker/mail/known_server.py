"""What an account's server has shown, for all its connections: extensions that work, and those it lacks."""

from __future__ import annotations

import logging
from dataclasses import replace

from postroom.core.account import ServerLacks
from postroom.core.clock import SECOND
from postroom.core.text import printable
from postroom.smtp.transcript import Extension, ServerTraits, Suspicion
from postroom.worker.mail.breaker import AccountBreaker
from postroom.worker.mail.context import Context

log = logging.getLogger(__name__)

_DAYS = 7  # after which a server is asked again
LACKS_KEPT = _DAYS * 86_400 * SECOND
_SAID_LENGTH = 200


class KnownServer:
    """One account's server in the eyes of one worker."""

    def __init__(self, context: Context, breaker: AccountBreaker) -> None:
        self._context = context
        self._breaker = breaker
        self._where = ""
        self._traits = ServerTraits()

    def traits(self, where: str) -> ServerTraits:
        """Return what is known of the server at `where` (host:port) now, for a connection to it."""
        lacks = self._breaker.account.server_lacks
        here = lacks if lacks is not None and lacks.server == where else None
        is_old = here is not None and self._context.clock() - here.since >= LACKS_KEPT
        if where != self._where or (is_old and not (self._traits.pipelining and self._traits.chunking)):
            self._where = where
            self._traits = ServerTraits(on_lack=self._note)
        if here is not None and not is_old:
            self._traits.pipelining &= Extension.PIPELINING.value not in here.extensions
            self._traits.chunking &= Extension.CHUNKING.value not in here.extensions
        return self._traits

    def _note(self, suspicion: Suspicion) -> None:
        account, now = self._breaker.account, self._context.clock()
        before = account.server_lacks
        known = before.extensions if before is not None and before.server == self._where else ()
        extensions = tuple(sorted({*known, suspicion.extension.value}))
        said = printable(suspicion.said)[:_SAID_LENGTH]
        lacks = ServerLacks(self._where, extensions, said, now)
        log.warning(
            "the server %s offers %s and does not take it (%s: %s); account %s does without it for %d days",
            self._where,
            suspicion.extension.value,
            suspicion.verb,
            said,
            account.email,
            _DAYS,
        )
        self._breaker.note(replace(account, server_lacks=lacks))
        self._context.async_writer.submit_until_recorded(
            lambda transaction: transaction.accounts.note_server_lacks(account.id, lacks),
            f"what the server of {account.email} does not take",
        )
