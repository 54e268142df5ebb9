"""A name server on loopback that knows the MX of some domains, and can be told to be ill."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer:
    """Answers questions for MX over UDP.

    `mx` has the exchangers of each domain, as `preference name`; a domain without any has other records, and one that
    is not there does not exist. `rcode` is the answer to everything instead, and with `mute` there is none.
    """

    def __init__(self, **mx: list[str]) -> None:
        self.mx = {domain.replace("_", "."): exchangers for domain, exchangers in mx.items()}
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
        name = query.question[0].name
        exchangers = self.mx.get(name.to_text(omit_final_dot=True))
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
        elif exchangers is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif exchangers:
            answer.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "MX", *exchangers))
        return answer

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
