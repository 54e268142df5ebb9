"""redis-servers of our own, in memory only: one, one under a sentinel, and a cluster."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import redis

from tests.servers.programs import Daemon, answers, free_port
from tests.servers.waiting import eventually

_SLOTS = 16384


class Redis(Daemon):
    """redis-server on a free port: `with Redis() as redis: redis.uri`."""

    program = "redis-server"

    def command(self, folder: Path) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def ready(self, pid: int) -> bool:
        return answers(self.host, self.port, b"INFO server\r\n", b"\r\nprocess_id:%d\r\n" % pid)

    def ask(self, *words: str | int) -> object:
        with redis.Redis(host=self.host, port=self.port, decode_responses=True) as client:
            return client.execute_command(*words)

    def has_counts(self) -> bool:
        return self.ask("DBSIZE") != 0

    def let_in(self, user: str, password: str, rights: Sequence[str], at_a_sentinel: Sequence[str]) -> None:
        """Make a user who has these rights; there are others at a sentinel."""
        self.ask("ACL", "SETUSER", user, "on", f">{password}", *rights)

    @property
    def uri(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


class Valkey(Redis):
    """valkey-server, which Debian has since 13."""

    program = "valkey-server"

    @property
    def uri(self) -> str:
        return f"valkey://{self.host}:{self.port}/0"


class _Sentinel(Redis):
    """A sentinel, and what it watches."""

    watched: Redis

    def command(self, folder: Path) -> list[str]:
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {self.port}\nbind {self.host}\ndir {folder}\n"
            f"sentinel monitor limits {self.watched.host} {self.watched.port} 1\n"
        )
        return [str(settings), "--sentinel"]


class WatchedRedis(Redis):
    """A redis-server that is found by asking a sentinel."""

    def __init__(self) -> None:
        super().__init__()
        self._sentinel = _Sentinel()
        self._sentinel.watched = self
        self._sentinel.port = free_port()

    def start(self) -> None:
        super().start()
        self._sentinel.start()

    def let_in(self, user: str, password: str, rights: Sequence[str], at_a_sentinel: Sequence[str]) -> None:
        super().let_in(user, password, rights, at_a_sentinel)
        self._sentinel.let_in(user, password, at_a_sentinel, ())

    def stop(self, how: int = signal.SIGKILL) -> None:
        self._sentinel.stop(how)
        super().stop(how)

    def _remove_folder(self) -> None:
        self._sentinel._remove_folder()
        super()._remove_folder()

    @property
    def uri(self) -> str:
        return f"redis+sentinel://{self._sentinel.host}:{self._sentinel.port}/limits"


class _Node(Redis):
    def __init__(self) -> None:
        super().__init__()
        self.bus_port = free_port()

    def command(self, folder: Path) -> list[str]:
        return [*super().command(folder), "--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]

    def knows(self, count: int) -> bool:
        found = str(self.ask("CLUSTER", "INFO"))
        return "cluster_state:ok" in found and f"cluster_known_nodes:{count}" in found


class RedisCluster(_Node):
    """A cluster of so many nodes, this one and others; each has its part of the keys."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self._nodes = [self, *(_Node() for _ in range(nodes - 1))]

    def start(self) -> None:
        """Start the nodes, for the first time, and have them meet."""
        super().start()
        count = len(self._nodes)
        bounds = [number * _SLOTS // count for number in range(count + 1)]
        for number, node in enumerate(self._nodes):
            if number:
                node.start()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            if number:
                self.ask("CLUSTER", "MEET", node.host, node.port, node.bus_port)
        eventually(lambda: all(node.knows(count) for node in self._nodes), 120, "the cluster to be whole")

    def stop(self, how: int = signal.SIGKILL) -> None:
        for node in self._nodes[1:]:
            node.stop(how)
        super().stop(how)

    def _remove_folder(self) -> None:
        for node in self._nodes[1:]:
            node._remove_folder()
        super()._remove_folder()

    def has_counts(self) -> bool:
        return any(node.ask("DBSIZE") != 0 for node in self._nodes)

    @property
    def uri(self) -> str:
        return f"redis+cluster://{self.host}:{self.port}"
