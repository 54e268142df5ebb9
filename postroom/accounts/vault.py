"""Encrypts stored credentials with the secret key (POSTROOM_SECRET_KEY), and makes digests of API keys.

Every key of POSTROOM_SECRET_KEY, or of the file that stands in for it, is stretched
by HKDF-SHA256 (RFC 5869) into three independent ones, so that neither a digest nor
the fingerprint says anything about the encryption.
"""

from __future__ import annotations

import os
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from postroom.core.account import Secret
from postroom.core.errors import ConfigError, PostroomError
from postroom.core.files import MEBIBYTE, read_plain, reason_of, sync
from postroom.core.setting_values import split_keys
from postroom.settings import Settings

_VARIABLE: Final = "POSTROOM_SECRET_KEY"
_FILE: Final = "secret.key"
_LARGEST: Final = MEBIBYTE  # of a key file

_CREDENTIALS: Final = b"postroom v1 credentials"
_API_KEYS: Final = b"postroom v1 api keys"
_FINGERPRINT: Final = b"postroom v1 fingerprint"
_SEALED: Final = b"postroom v2 sealed"
# A sealed secret: this mark, the id of the key (8 octets), the nonce (12), the text with its tag.
_MARK: Final = b"\x02"
_FERNET: Final = b"gAAAAA"  # how a secret of up to schema 17 begins: version 0x80, and the time
_KEY_ID: Final = 8
_NONCE: Final = 12  # octets, as AES-GCM has them (NIST SP 800-38D §8.2)


class UndecryptableSecret(PostroomError):
    """A stored secret cannot be decrypted with the present POSTROOM_SECRET_KEY.

    Either the key has changed (add the former one behind a comma) or the stored bytes
    were altered (enter the secret again).
    """


class Vault:
    """Encrypts and decrypts credentials, and digests API keys. Safe to share between threads."""

    __slots__ = ("_digest_keys", "_fernet", "_fingerprints", "_own_digest_key", "_primary", "_sealing")

    def __init__(self, keys: tuple[Secret, ...]) -> None:
        """Take the keys, primary first: it encrypts, all decrypt."""
        if not keys:
            raise ValueError("a vault needs a key")
        fernets = [Fernet(urlsafe_b64encode(_derive(key, _CREDENTIALS))) for key in keys]
        self._fernet, self._primary = MultiFernet(fernets), fernets[0]
        self._digest_keys = tuple(HMAC(_derive(key, _API_KEYS), SHA256()) for key in keys)
        self._fingerprints = tuple(_derive(key, _FINGERPRINT)[:8].hex() for key in keys)
        self._sealing = {
            bytes.fromhex(fingerprint): AESGCM(_derive(key, _SEALED))
            for key, fingerprint in zip(keys, self._fingerprints, strict=True)
        }
        self._own_digest_key: HMAC | None = None

    @classmethod
    def open(cls, settings: Settings, var_dir: Path, *, create: bool = True) -> Vault:
        """Open the vault with POSTROOM_SECRET_KEY, else with `secret.key` in `var_dir`.

        With `create` the file is made, with mode 0600, when it is not there; processes that start
        together all get the same one. It holds the same text as the variable, and is
        not looked at when the variable is set. Raises ConfigError when the file cannot
        be made or read, or when others than its owner have access.
        """
        if settings.secret_key:
            return cls(split_keys(settings.secret_key.reveal()))
        path = var_dir / _FILE
        try:
            if not path.exists():
                if not create:
                    raise ConfigError(_VARIABLE, _missing(path))
                _create(path)
            text = _read(path)
        except (OSError, UnicodeError) as error:
            raise ConfigError(_VARIABLE, _unusable(path, error)) from None
        return cls(_keys_in(path, text))

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when the primary key does, and tell nothing of it."""
        return self._fingerprints[0]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of all keys, the primary one first."""
        return self._fingerprints

    @property
    def beginning(self) -> bytes:
        """The octets that every secret sealed by the primary key begins with."""
        return _MARK + bytes.fromhex(self.fingerprint)

    def seal(self, text: str, context: str) -> bytes:
        """Return `text` encrypted by the primary key (AES-256-GCM), for one place: `context`, such as `account:ID:password`.

        It opens in that place only, so that a copy of it in another row is of no use.
        """
        nonce = os.urandom(_NONCE)
        key_id = bytes.fromhex(self.fingerprint)
        sealed = self._sealing[key_id].encrypt(nonce, _utf8(text), _bound_to(context))
        return _MARK + key_id + nonce + sealed

    def open_sealed(self, token: bytes, context: str) -> Secret:
        """Return what `seal` was given with the same context; what `encrypt` was given opens too.

        Raises UndecryptableSecret.
        """
        octets = bytes(token)
        if not octets.startswith(_MARK):
            return self.decrypt(octets)
        nonce_at = len(_MARK) + _KEY_ID
        key = self._sealing.get(octets[len(_MARK) : nonce_at])
        if key is None:
            raise UndecryptableSecret
        nonce, sealed = octets[nonce_at : nonce_at + _NONCE], octets[nonce_at + _NONCE :]
        try:
            return Secret(key.decrypt(nonce, sealed, _bound_to(context)).decode("utf-8", "surrogatepass"))
        except (InvalidTag, ValueError):
            raise UndecryptableSecret from None

    def is_current(self, token: bytes) -> bool:
        """Whether a secret is sealed by the primary key; if not, `seal` it anew (`postroom secrets rotate`)."""
        return bytes(token).startswith(self.beginning)

    def is_known(self, token: bytes) -> bool:
        """Whether a sealed secret names one of the present keys; of one by `encrypt`, whether it opens."""
        octets = bytes(token)
        return self.has_key_of(octets) if octets.startswith(_MARK) else self.opens(octets)

    def has_key_of(self, beginning: bytes) -> bool:
        """Whether a secret that begins so is sealed by one of the present keys."""
        return beginning.startswith(_MARK) and beginning[len(_MARK) : len(_MARK) + _KEY_ID] in self._sealing

    def needs_former_key(self, token: bytes) -> bool:
        """Whether a secret cannot be opened without a key other than the primary one, by all that can be seen."""
        return not self.is_current(token) and (
            token.startswith(_MARK) or (token.startswith(_FERNET) and not _opens(self._primary, token))
        )

    def needs_missing_key(self, token: bytes) -> bool:
        """Whether a secret needs a key that is not among the present ones; what is damaged needs none."""
        return token.startswith((_MARK, _FERNET)) and not self.is_known(token)

    def encrypt(self, text: str) -> bytes:
        """Return `text` encrypted and authenticated by the primary key, bound to no place: as up to schema 17."""
        return self._fernet.encrypt(_utf8(text))

    def decrypt(self, token: bytes) -> Secret:
        """Return what `encrypt` was given. Raises UndecryptableSecret."""
        try:
            return Secret(self._fernet.decrypt(bytes(token)).decode("utf-8", "surrogatepass"))
        except InvalidToken:
            raise UndecryptableSecret from None

    def opens(self, token: bytes) -> bool:
        """Whether `decrypt` would return something."""
        try:
            self.decrypt(token)
        except UndecryptableSecret:
            return False
        return True

    def digest(self, key: str) -> bytes:
        """Return the 32 bytes under which an API key is stored (HMAC-SHA256, primary key)."""
        return _hmac(self._digest_keys[0], key)

    def digests(self, key: str) -> tuple[bytes, ...]:
        """Return all digests under which an API key may be stored, the primary key's first."""
        return tuple(_hmac(digest_key, key) for digest_key in self._digest_keys)

    def adopt_digest_key(self, key: bytes) -> None:
        """Take over the installation's own random key, under which `own_digest` digests (accounts/digest_key.py)."""
        self._own_digest_key = HMAC(key, SHA256())

    def own_digest(self, key: str) -> bytes:
        """Return the 32 octets under which an issued key is stored: HMAC-SHA256 under the installation's own key.

        They stay the same when the secret key is changed. Raises ConfigError before the installation has such a key.
        """
        if self._own_digest_key is None:
            raise ConfigError(_VARIABLE, "this database was not set up yet: run `postroom migrate`")
        return _hmac(self._own_digest_key, key)

    @property
    def has_digest_key(self) -> bool:
        return self._own_digest_key is not None

    def __repr__(self) -> str:
        return f"Vault({self.fingerprint})"


def _derive(key: Secret, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(_utf8(key.reveal()))


def _opens(fernet: Fernet, token: bytes) -> bool:
    try:
        fernet.decrypt(token)
    except InvalidToken:
        return False
    return True


def _hmac(keyed: HMAC, text: str) -> bytes:
    """Digest under a key that was set up before: setting it up costs more than the digest, for every request."""
    digest = keyed.copy()  # 0.9 µs with the digest; with the standard library's `hmac` it is 5
    digest.update(_utf8(text))
    return digest.finalize()


def _bound_to(context: str) -> bytes:
    """Return what is authenticated with a secret and not stored: without it the secret does not open."""
    return _utf8(context)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # whatever a client sends as a key has a digest


def _create(path: Path) -> None:
    """Make the key file, whole and synced before it has its name; the first process to link it wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_synced(draft, secrets.token_urlsafe(48).encode() + b"\n")
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read(path: Path) -> str:
    content = read_plain(path, _LARGEST)
    if path.stat().st_mode & 0o077:
        raise ConfigError(_VARIABLE, f"{path} is open to other users of this machine; chmod 600 {path}")
    return content.decode()


def _keys_in(path: Path, text: str) -> tuple[Secret, ...]:
    try:
        return split_keys(text)
    except ValueError:
        raise ConfigError(
            _VARIABLE,
            f"{path} does not hold a key of at least 16 characters; restore it from a backup, or remove it "
            "for a new one and enter all credentials again",
        ) from None


def _missing(path: Path) -> str:
    return (
        f"it is not set and {path} is not there, but this database holds passwords and keys: set the variable as the "
        "service has it, or put the file back. Where the secret is lost: postroom secrets replace"
    )


def _unusable(path: Path, error: OSError | UnicodeError) -> str:
    reason = reason_of(error) if isinstance(error, OSError) else "not UTF-8 text"
    return (
        f"{path} cannot be made or read ({reason}); let this user own it, with mode 600, or set the variable "
        "to a text of 16 characters or more"
    )
