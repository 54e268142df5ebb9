"""Every exception that Postroom raises on purpose, as a tree.

    ConfigError                     a setting is wrong; names the variable
    PostroomError
    ├── Rejected                    a doorway's refusal: stable code, field, sentence
    │   ├── InvalidSubmission       well-formed but unacceptable
    │   ├── MalformedSubmission     not readable as a submission at all
    │   ├── NotAuthenticated        no key, or an unknown one
    │   │   └── KeyStopped          one that has just stopped working
    │   ├── NotPermitted            a known key that may not do this
    │   ├── Conflict                what is there stands against it
    │   ├── NotFound                nothing there, or not yours: both look the same
    │   ├── TooLarge                more bytes than the service takes
    │   └── QuotaExceeded           not now; says when
    ├── PlaceTaken                  something listens where HTTP is to listen
    ├── LimiterUnavailable          requests cannot be counted, and the setting is to refuse them
    ├── StoreError
    │   ├── StoreUnavailable        could not be stored now: try again
    │   │   ├── CommitUnknown       it is unknown whether it was stored
    │   │   └── DatabaseReplaced    the files of the open database no longer have their names
    │   │       └── ReplacedSinceCommit    … and had them when a commit began
    │   ├── SessionInDoubt          the session with the database may be to blame: it was closed
    │   ├── StoreDamaged            the database must be looked at by a person
    │   ├── StoreInUse              a process has it open that must be stopped first
    │   ├── SchemaMismatch          the database is older or newer than the code
    │   └── LeaseLost               another worker owns the job
    │       └── WorkerExpired       this worker was declared dead
    ├── OAuthFault                  no access token for a log-in
    │   ├── TokenUnavailable        … just now: nobody's fault, or the network's
    │   └── GrantRefused            … any more: says why, and how to put it right
    └── SMTPFault                   an SMTP conversation that could not go on

`ConfigError` stands outside the tree: no doorway may mistake it for a refusal.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postroom.core.dialogue import AttemptRecord
from postroom.core.outcome import Reply


class ConfigError(Exception):
    """A setting cannot be used. `variable` names it; the text says how to put it right."""

    def __init__(self, variable: str, message: str) -> None:
        super().__init__(f"{variable}: {message}")
        self.variable = variable
        self.message = message


class PostroomError(Exception):
    """The root of everything that Postroom raises on purpose."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n")[0])


class Rejected(PostroomError):
    """The submission was refused; nothing of it was kept.

    `code` is stable and meant for programs, `field` names the faulty part of the
    request (None: the request as a whole), the text says what to do.
    """

    code = "rejected"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidSubmission(Rejected):
    """The request was understood but cannot be sent as it is."""

    code = "invalid_submission"


class MalformedSubmission(Rejected):
    """The request could not be read."""

    code = "malformed_submission"

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        errors: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, field=field)
        self.errors = errors


class NotAuthenticated(Rejected):
    """The key is missing or unknown."""

    code = "not_authenticated"


class KeyStopped(NotAuthenticated):
    """The key was revoked, has expired or was given to another account since it was looked up."""


class NotPermitted(Rejected):
    """This key may not do that."""

    code = "not_permitted"


class Conflict(Rejected):
    """What is there already stands against this; the text says what to do first."""

    code = "conflict"


class NotFound(Rejected):
    """There is nothing here by that id, or nothing that the key may see: the two are answered alike."""

    code = "not_found"


class TooLarge(Rejected):
    """The message is larger than this service takes."""

    code = "too_large"


class QuotaExceeded(Rejected):
    """Too many requests; `retry_after` is in seconds."""

    code = "quota_exceeded"

    def __init__(self, message: str | None = None, *, retry_after: int, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.retry_after = retry_after


class PlaceTaken(PostroomError):
    """Something listens already where HTTP is to listen; it may end at any moment."""


class LimiterUnavailable(PostroomError):
    """The rate limiter's storage is away, and requests are to be refused then; `retry_after` is in seconds."""

    def __init__(self, message: str | None = None, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreError(PostroomError):
    """The database could not do an operation."""


class StoreUnavailable(StoreError):
    """The database could not make this durable just now; `retry_after` is in seconds."""

    def __init__(self, message: str | None = None, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DiskFull(StoreUnavailable):
    """There is too little free space where the database is."""

    def __init__(self, free_bytes: int, reserve: int) -> None:
        super().__init__(
            f"{free_bytes >> 20} MiB are free where the database is, and POSTROOM_DISK_RESERVE is {reserve >> 20} MiB",
            retry_after=60,
        )


class CommitUnknown(StoreUnavailable):
    """The database was lost during a commit, and since then it cannot be asked whether the commit was done."""


class SessionInDoubt(StoreError):
    """The session with the database may be at fault, and was closed; a new session may succeed."""


class DatabaseReplaced(StoreUnavailable):
    """The files of the open database were moved, removed or replaced by others."""


class ReplacedSinceCommit(DatabaseReplaced):
    """The files were replaced while a commit was under way: if it was stored, then in the files that were taken away."""


class StoreInUse(StoreError):
    """A process of Postroom has the database open."""


class StoreDamaged(StoreError):
    """The database file is damaged and was left untouched."""


class SchemaMismatch(StoreError):
    """The database's schema is not the one that this version of Postroom needs."""


DAMAGED = "the stored {} is not what was accepted: the database or its disk has altered it"


class ContentDamaged(StoreError):
    """The stored content of a message is not what was accepted."""

    def __init__(self) -> None:
        super().__init__(DAMAGED.format("content"))


class LeaseLost(StoreError):
    """Another worker holds the job now."""


class WorkerExpired(LeaseLost):
    """This worker was declared dead by another one; its jobs are no longer its own."""


class OAuthFault(PostroomError):
    """There is no access token for a log-in."""


class TokenUnavailable(OAuthFault):
    """There is no access token just now: try again."""


class GrantRefused(OAuthFault):
    """The provider gives no access token any more; the text says why, and what to do."""


class FaultKind(Enum):
    """What ended an SMTP conversation early."""

    REFUSED = "refused"  # the server said no, in a reply
    TIMEOUT = "timeout"  # no whole reply within the deadline
    DISCONNECTED = "disconnected"  # refused, reset, or closed
    UNRESOLVED = "unresolved"  # the name has no address just now
    NO_SUCH_HOST = "no_such_host"  # the name does not exist
    GARBLED = "garbled"  # not SMTP, too long, or out of turn
    INSECURE = "insecure"  # TLS missing, unverifiable, or tampered with
    UNDECRYPTABLE = "undecryptable"  # the stored password cannot be read with our secret key
    NO_TOKEN = "no_token"  # noqa: S105  # no access token just now: the token endpoint is in trouble
    GRANT_REFUSED = "grant_refused"  # the provider gives this account no access token any more
    PRIVATE = "private"  # the name leads into a private network, where the account may not go
    UNSUPPORTED = "unsupported"  # the server lacks what the message or the account needs


class SMTPFault(PostroomError):
    """An SMTP conversation that could not go on.

    `verb` is the command that was under way (RFC 5321 §4.1; `connect` and
    `greeting` stand for the steps before EHLO), `reply` the server's answer
    where there was one.
    """

    def __init__(self, kind: FaultKind, verb: str, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.verb = verb
        self.reply = reply
        self.record: AttemptRecord | None = None  # of an attempt without a connection
