"""Shows addresses in log lines as POSTROOM_LOG_ADDRESSES says: whole, by their domain, or as a keyed hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from postroom.core.log_options import LogAddresses

Digest: TypeAlias = Callable[[str], bytes]

# More than RFC 5321 allows: what might be an address is hidden. The domain ends before a full stop or a comma behind it.
_ADDRESS: Final = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.){1,128}"|[^\s@<>()\[\],;:"\\]{1,128})@(\[[^\]\s]{1,64}\]|[\w-]+(?:\.[\w-]+)*)"""
    r"|[\w.+-]{1,128}%40[\w-]+(?:\.[\w-]+)*"  # within the address of a page
)
_SHORTEST_NAME: Final = (
    3  # characters of a local part that is hidden where it stands alone, as in "user ada unknown"
)
_IN_AN_ADDRESS: Final = "%40"
_HEX: Final = 16  # 64 bits: two of a million persons share one with a chance of 1 in 37 million
_REMEMBERED: Final = 10_000
_CONTEXT: Final = "address in a log line: "


class Addresses:
    """Hides addresses, or shows them. Until the installation's key is there, nothing but a domain can be shown."""

    def __init__(self, policy: LogAddresses, digest: Digest | None = None) -> None:
        self._policy = policy
        self._digest = digest
        self.shows_all = policy is LogAddresses.FULL
        self.shown = lru_cache(_REMEMBERED)(self._shown)

    def adopt(self, digest: Digest) -> None:
        """Make hashes with the key of the installation from now on."""
        self._digest = digest
        self.shown.cache_clear()

    def _shown(self, address: str) -> str:
        """Return what stands in a line for an address: the same for the same person, however it is written."""
        if self.shows_all:
            return address
        if self._policy is LogAddresses.DOMAIN or self._digest is None:
            return f"*@{address.rpartition('@')[2]}"
        return f"hmac:{self._digest(_CONTEXT + address.casefold()).hex()[:_HEX]}"

    def hide(self, text: str, known: Sequence[str] = ()) -> str:
        """Return a text with every address in it as `shown` has it, the known ones also by their local parts alone."""
        if self.shows_all:
            return text
        if "@" in text or _IN_AN_ADDRESS in text:
            text = self._hide_whole(text, known)
        for address in known:
            name = address.rpartition("@")[0].strip('"')
            if len(name) >= _SHORTEST_NAME and name.casefold() in text.casefold():
                text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "*", text, flags=re.IGNORECASE)
        return text

    def _hide_whole(self, text: str, known: Sequence[str]) -> str:
        for address in known:
            shown = self.shown(address).replace("\\", r"\\")  # in a replacement it would be an escape
            text = re.sub(re.escape(address), shown, text, flags=re.IGNORECASE)
        return _ADDRESS.sub(self._found, text)

    def _found(self, found: re.Match[str]) -> str:
        if found[0].startswith("*@"):  # it is hidden already
            return found[0]
        return self.shown(found[0].lstrip("'`").replace(_IN_AN_ADDRESS, "@"))
