"""A name server on loopback that knows the MX and TXT of some domains, and can be told to be ill."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers questions for MX and TXT over UDP, as the authority for every name.

    `mx` has the exchangers of each domain, as `preference name`; a domain without any has other records, and one that
    is not there does not exist. `txt` has the texts of names. `rcode` is the answer to everything instead, also to
    questions for the names in `ill` alone, and with `mute` there is none.
    """

    def __init__(self, **mx: list[str]) -> None:
        self.mx = {domain.replace("_", "."): exchangers for domain, exchangers in mx.items()}
        self.txt: dict[str, list[str]] = {}
        self.ill: set[str] = set()
        self.ttl = 300
        self.rcode: dns.rcode.Rcode | None = None
        self.mute = False
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def resolver(self) -> dns.asyncresolver.Resolver:
        """Return a resolver that asks this server."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self._socket.getsockname()[1]
        return resolver

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            self.asked.append(query.question[0].name.to_text(omit_final_dot=True))
            if not self.mute:
                self._socket.sendto(self._answer(query).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        found = self._records(name, question.rdtype)
        if self.rcode is not None or name in self.ill:
            answer.set_rcode(dns.rcode.SERVFAIL if self.rcode is None else self.rcode)
        elif found:
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", question.rdtype, *found))
        elif name not in self.mx and not any(each == name or each.endswith(f".{name}") for each in self.txt):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def _records(self, name: str, kind: dns.rdatatype.RdataType) -> list[str]:
        if kind == dns.rdatatype.MX:
            return self.mx.get(name, [])
        return [_quoted(text) for text in self.txt.get(name, [])] if kind == dns.rdatatype.TXT else []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as farewell:
            farewell.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def _quoted(text: str) -> str:
    """Return a text as its character strings, of 255 octets at most each (RFC 1035 §3.3.14)."""
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)] or [""]
    return " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)
