"""Erases the data of a person from the database in batches, with one audit entry; counts messages that are under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from postroom.accounts.vault import Vault
from postroom.core.address import InvalidAddress, parse_mailbox
from postroom.core.api_key import ALL_MESSAGES, Sight
from postroom.core.audit import Actor
from postroom.core.clock import Clock, system_clock
from postroom.core.erasure import ErasedAddress, substitute_of
from postroom.core.errors import Conflict, InvalidSubmission
from postroom.store.erasure import DeliveryTo, Erasure, Fate
from postroom.store.store import Store
from postroom.store.transaction import Transaction

_RANGE: Final = 20_000  # deliveries that one read looks through
_BATCH: Final = 50  # messages in one transaction


@dataclass(slots=True)
class Erased:
    """What was erased of a person, or would be, and what stands in the place of the address."""

    substitute: str
    messages: Counter[Fate] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the person is left in the database: no message is under way, or kept by a hold."""
        return not (self.messages[Fate.SENDING] or self.messages[Fate.SPARED] or self.messages[Fate.HELD])


class PersonalData:
    """Finds and erases what is stored about an address, for a person or a program (`Actor`)."""

    def __init__(self, store: Store, vault: Vault, clock: Clock = system_clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock

    def address(self, text: str) -> ErasedAddress:
        """Return the address that is meant. Raises InvalidSubmission, and Conflict for one that an account sends as."""
        try:
            path = parse_mailbox(text.strip()).path
        except InvalidAddress as error:
            raise InvalidSubmission(str(error), field="address") from None
        erased = ErasedAddress(path, substitute_of(self._vault.own_digest(f"erased:{path.lower()}")))
        if self._store.read(Erasure.is_sender, erased):
            raise Conflict(
                f"{path} is an account of this installation, or an alias of one: remove that first",
                field="address",
            )
        return erased

    def look(self, address: ErasedAddress) -> Erased:
        """Return what erasing would do now; nothing is changed."""
        found = Erased(address.substitute)
        for deliveries in self._deliveries_to(address):
            found.messages.update(self._store.read(_fates, deliveries))
        return found

    def erase(self, address: ErasedAddress, actor: Actor) -> Erased:
        """Erase what is stored about an address. What waits is cancelled first; what is being sent is left and counted."""
        done = Erased(address.substitute)
        for deliveries in self._deliveries_to(address):
            for start in range(0, len(deliveries), _BATCH):
                done.messages.update(self._write(deliveries[start : start + _BATCH], address))
        done.elsewhere = self._store.write(Erasure.erase_elsewhere, address)
        if in_audit := self._erase_from_audit(address):
            done.elsewhere["entries of the audit"] = in_audit
        told = {fate.value: count for fate, count in done.messages.items()}
        self._store.write(
            lambda tx: tx.audit.append(actor, "person.erase", address.substitute, self._clock(), told)
        )
        self._store.scrub()
        return done

    def erase_content(self, request_id: str, actor: Actor, sight: Sight = ALL_MESSAGES) -> None:
        """Erase the content and the subject of one message. Raises Conflict while it waits or is sent.

        Raises NotFound, also for a message out of sight of a key.
        """
        now = self._clock()

        def work(transaction: Transaction) -> None:
            if not transaction.erasure.erase_content(request_id, now, sight):
                raise Conflict(
                    f"the message has not ended: cancel it first, or wait until it was sent: postroom cancel "
                    f"{request_id}, or POST /v1/emails/{request_id}/cancel"
                )
            transaction.audit.append(actor, "content.erase", request_id, now)

        self._store.write(work)
        self._store.scrub()

    def _deliveries_to(self, address: ErasedAddress) -> Iterator[list[DeliveryTo]]:
        """Yield the deliveries to an address, some at a time, in the order of time."""
        last = self._store.read(Erasure.last_delivery)
        for after in range(0, last, _RANGE):
            yield self._store.read(
                Erasure.deliveries_to, address, after=after, until=min(after + _RANGE, last)
            )

    def _write(self, deliveries: list[DeliveryTo], address: ErasedAddress) -> list[Fate]:
        now = self._clock()
        return self._store.write(
            lambda tx: [tx.erasure.erase(delivery, address, now) for delivery in deliveries]
        )

    def _erase_from_audit(self, address: ErasedAddress) -> int:
        total = after = 0
        while (done := self._store.write(Erasure.erase_from_audit, address, after)) is not None:
            after, changed = done
            total += changed
        return total


def _fates(transaction: Transaction, deliveries: list[DeliveryTo]) -> list[Fate]:
    return [transaction.erasure.fate_of(delivery) for delivery in deliveries]
