"""A network of the test's own: a namespace with a black hole and a DNS server that does as it is told.

A test under `@in_namespace` is run by a pytest of its own inside new user, network and mount namespaces, which need
no privileges where the kernel allows them. There, BLACK_HOLE swallows every packet without a word, and names are asked
of 127.0.0.1, where `FakeResolver` answers.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self

from tests.servers.programs import PATH, unavailable

P = ParamSpec("P")

ROOT = Path(__file__).resolve().parents[2]
CENTRE = "10.99.0.1"
INSIDE = "TESTS_INSIDE_A_NAMESPACE"
BLACK_HOLE = "192.0.2.1"  # TEST-NET-1 (RFC 5737)
# A cable whose other end throws away what is not for its own hardware address. The resolver's settings are seen in
# here alone.
SETUP = f"""
ip link set lo up
ip link add hole type veth peer name end
ip address add 192.0.2.2/24 dev hole
ip link set hole up
ip link set end up
ip neighbour replace {BLACK_HOLE} lladdr 02:00:00:00:00:01 dev hole nud permanent
mount -t tmpfs tmpfs /mnt
printf 'nameserver 127.0.0.1\\noptions timeout:1 attempts:1\\n' > /mnt/resolv.conf
printf 'hosts: files dns\\n' > /mnt/nsswitch.conf
mount --bind /mnt/resolv.conf /etc/resolv.conf
mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf
"""
# For hosts of their own (`Host`): where `ip netns` keeps them.
PRIVILEGED = ("unshare", "--net", "--mount", "--", "sh", "-ec")
HOSTS = f"""
ip link set lo up
ip address add {CENTRE}/32 dev lo
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
"""
UNSHARE = ("unshare", "--map-root-user", "--net", "--mount", "--", "sh", "-ec")


def in_namespace(test: Callable[P, None]) -> Callable[P, None]:
    """Run the test inside namespaces of its own; skip it where the kernel allows none."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        if os.environ.get(INSIDE):
            test(*arguments, **named)
        else:
            _run_inside(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])

    return run


def among_hosts(test: Callable[P, None]) -> Callable[P, None]:
    """Run the test inside a network namespace in which it may make others (`Host`). Only root can."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        if os.environ.get(INSIDE):
            test(*arguments, **named)
        elif os.getuid() != 0:
            unavailable("namespaces with servers that do not run as root can only be made by root")
        else:
            _run_inside(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0], PRIVILEGED, HOSTS)

    return run


class Host:
    """A machine: a network namespace at the other end of a cable, with an identity of its own.

    From here it is `address`; from every host this place is CENTRE.
    """

    def __init__(self, number: int) -> None:
        self.name = f"host{number}"
        self.address = f"10.99.{number}.2"
        self.centre = f"10.99.{number}.1"
        self._cable = f"cable{number}"
        for words in (
            f"ip netns add {self.name}",
            f"ip link add {self._cable} type veth peer name eth0 netns {self.name}",
            f"ip address add {self.centre}/24 dev {self._cable}",
            f"ip link set {self._cable} up",
            f"ip -n {self.name} address add {self.address}/24 dev eth0",
            f"ip -n {self.name} link set eth0 up",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} route add default via {self.centre}",
        ):
            _ip(words)

    def command(self, words: Sequence[str], identity: Path) -> list[str]:
        """Return the command that runs `words` there, where the file `identity` stands for the boot's identity."""
        identity.write_text(f"{self.name}\n", encoding="ascii")
        mount = f"mount --bind {identity} /proc/sys/kernel/random/boot_id"
        inside = ["unshare", "--mount", "--", "sh", "-ec", f'{mount}; exec "$@"', "sh", *words]
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *inside]

    def cut(self) -> None:
        """Pull the cable at the far end: what is sent into it is lost without a word."""
        _ip(f"ip -n {self.name} link set eth0 down")

    def mend(self) -> None:
        _ip(f"ip -n {self.name} link set eth0 up")
        _ip(f"ip -n {self.name} route replace default via {self.centre}")


def _ip(words: str) -> None:
    done = subprocess.run(words.split(), env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def _run_inside(node: str, enter: Sequence[str] = UNSHARE, setup: str = SETUP) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PATH": PATH, INSIDE: "1"}
    if not _allowed(environment, enter, setup):
        unavailable("no network namespaces here: `unshare --map-root-user --net --mount` or iproute2 fails")
    # With a folder of its own: runs that share pytest's clear up each other's old ones at the same time.
    with tempfile.TemporaryDirectory(prefix="inside-", ignore_cleanup_errors=True) as folder:
        options = ["-q", "-rP", "-p", "no:cacheprovider", f"--basetemp={folder}/run"]
        ended = subprocess.run(
            [*enter, setup + 'exec "$@"', "sh", sys.executable, "-m", "pytest", *options, node],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    print(ended.stdout)
    assert ended.returncode == 0, f"inside the namespace:\n{ended.stdout[-6000:]}\n{ended.stderr[-2000:]}"
    assert " passed" in ended.stdout, "the test inside did not run"


def _allowed(environment: dict[str, str], enter: Sequence[str], setup: str) -> bool:
    if shutil.which("unshare", path=PATH) is None:
        return False
    tried = subprocess.run([*enter, setup], env=environment, capture_output=True, check=False)
    return tried.returncode == 0


# --- DNS (RFC 1035 §4.1)

NO_ERROR, SERVFAIL, NXDOMAIN = 0, 2, 3  # RCODEs
_A, _HEADER = 1, 12


class FakeResolver:
    """A DNS server on 127.0.0.1:53 that gives each name what `answers` says: an RCODE, or None for silence.

    A name with NO_ERROR has the address 127.0.0.1. Names that are not in `answers` do not exist.
    """

    def __init__(self, answers: dict[str, int | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            name, end = _question(query)
            self.asked.append(name)
            rcode = self.answers.get(name, NXDOMAIN)
            if rcode is not None:
                self._socket.sendto(_answer(query, end, rcode), client)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as farewell:
            farewell.sendto(b"", ("127.0.0.1", 53))
        self._thread.join()
        self._socket.close()


def _question(query: bytes) -> tuple[str, int]:
    """Return the name that is asked for, and where the question ends."""
    labels, at = [], _HEADER
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += length + 1
    return ".".join(labels), at + 5


def _answer(query: bytes, end: int, rcode: int) -> bytes:
    has_address = rcode == NO_ERROR and query[end - 4 : end - 2] == _A.to_bytes(2, "big")
    header = query[:2] + bytes((0x81, 0x80 | rcode, 0, 1, 0, int(has_address), 0, 0, 0, 0))
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01" if has_address else b""
    return header + query[_HEADER:end] + record
