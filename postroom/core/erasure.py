"""What stands in place of an erased address, and its removal from words, wherever and however they spell it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_DOMAIN = "erased.invalid"  # RFC 2606 §2: nobody has it


def substitute_of(digest: bytes) -> str:
    """Return the address that stands for a person whose digest this is: the same each time, and nobody's."""
    return f"{digest[:8].hex()}@{_DOMAIN}"


@dataclass(frozen=True)
class ErasedAddress:
    """An address that is to be found nowhere any more, and what stands in its place."""

    address: str
    substitute: str

    @property
    def lowered(self) -> str:
        return self.address.lower()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![\w.+-]){re.escape(self.address)}(?![\w-]|\.\w)", re.IGNORECASE)

    @cached_property
    def _octets(self) -> re.Pattern[bytes]:
        return re.compile(
            rb"(?<![\w.+-])" + re.escape(self.address.encode()) + rb"(?![\w-]|\.\w)", re.IGNORECASE
        )

    def without(self, words: str) -> str:
        """Return the words with the substitute wherever the address stood; one that only ends with it is another's."""
        return self._pattern.sub(self.substitute, words)

    def without_octets(self, line: bytes) -> bytes:
        """Do so for a line of a file."""
        return self._octets.sub(self.substitute.encode(), line)
