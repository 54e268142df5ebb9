"""What stands in place of an erased address, and its removal from words, wherever and however they spell it. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property

import idna

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
    def spellings(self) -> tuple[str, ...]:
        """The address in each form in which words may have it, the longest first."""
        local, _, domain = self.address.rpartition("@")
        locals_ = {local} if local.startswith('"') else {local, f'"{local}"'}
        forms = {f"{each}@{host}" for each in locals_ for host in (domain, _in_letters(domain))}
        in_json = {
            json.dumps(form, ensure_ascii=is_ascii)[1:-1] for form in forms for is_ascii in (True, False)
        }
        return tuple(sorted(forms | in_json, key=len, reverse=True))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        either = "|".join(map(re.escape, self.spellings))
        # What ends with the address is another one: also in O'Brien's, where an apostrophe does not quote.
        return re.compile(rf"(?<![\w.+-])(?<!\w')(?:{either})(?![\w-]|\.\w)", re.IGNORECASE)

    def is_it(self, forward_path: str) -> bool:
        """Whether a recipient is this one, whatever the case of its letters."""
        return forward_path.lower() == self.lowered

    def without(self, words: str) -> str:
        """Return the words with the substitute wherever the address stood; one that only ends with it is another's."""
        return self._pattern.sub(self.substitute, words)

    def without_octets(self, line: bytes) -> bytes:
        """Do so for a line of a file."""
        return self.without(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _in_letters(domain: str) -> str:
    """Return an internationalised domain as it is read (RFC 5890 §2.3.2.1); any other as it is."""
    try:
        return idna.decode(domain)
    except (idna.IDNAError, UnicodeError):
        return domain
