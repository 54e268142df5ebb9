"""Where HTTP listens: an address of this machine, or a Unix socket; and whether the place is free."""

from __future__ import annotations

import errno
import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path

from postroom.core.errors import ConfigError, PlaceTaken
from postroom.core.setting_values import UNIX
from postroom.settings import Settings

ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where it listens, and where it can be asked
SOCKET_MODE = 0o666  # as open as a port of loopback; the folder of the socket may restrict it


def socket_path(settings: Settings) -> Path | None:
    """Return the path of the Unix socket that HOST names, or None."""
    return Path(settings.host.removeprefix(UNIX)) if settings.host.startswith(UNIX) else None


def address_of(settings: Settings) -> str:
    """Return the first address of HOST that is this machine's, an IPv4 address before others. Raises ConfigError."""
    host = settings.host
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _not_here("HOST", settings, error.strerror) from error
    reason: str | None = "it has no address"
    for family, kind, _, _, address in sorted(found, key=lambda each: each[0] is not socket.AF_INET):
        if shared := _many_hosts(family, address):
            reason = f"{address[0]} is {shared} address, to which nobody can connect"
            continue
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((address[0], 0, *address[2:]))
            return str(address[0])
        except OSError as error:
            reason = error.strerror
    raise _not_here("HOST", settings, reason)


def _many_hosts(family: int, address: tuple[str | int | bytes, ...]) -> str | None:
    """Return "a multicast" or "a broadcast" for such an address, else None. Nothing is sent."""
    if ip_address(str(address[0]).partition("%")[0]).is_multicast:
        return "a multicast"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        refused = probe.connect_ex((address[0], 9, *address[2:])) == errno.EACCES  # without SO_BROADCAST
    return "a broadcast" if refused else None


def _not_here(variable: str, settings: Settings, reason: str | None) -> ConfigError:
    return ConfigError(
        variable, f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another"
    )


def check(settings: Settings) -> None:
    """Raise PlaceTaken when something listens there already: two services would share its requests.

    Raises ConfigError where no process could listen.
    """
    path = socket_path(settings)
    if path is None:
        _check_port(address_of(settings), settings)
    else:
        _check_socket(path)


def _check_port(address: str, settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PlaceTaken(str(_not_here("PORT", settings, error.strerror))) from error
        variable = "PORT" if error.errno == errno.EACCES else "HOST"
        raise _not_here(variable, settings, error.strerror) from error


def _check_socket(path: Path) -> None:
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            "HOST", f"cannot make a socket in {path.parent}: it must be a folder that we may write to"
        )
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError("HOST", f"{path} is there already, and is no socket; choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise PlaceTaken(f"HOST: something listens on {path} already; choose another")


def remove_left_socket(path: Path) -> None:
    """Remove the socket that a process which was killed has left behind."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass


def described(settings: Settings) -> str:
    """Return where HTTP listens, as a URL or a path."""
    path = socket_path(settings)
    if path is not None:
        return f"{UNIX}{path}"
    named = ANY.get(settings.host, settings.host)
    host = f"[{named}]" if ":" in named else named
    return f"http://{host}:{settings.port}"


def curl(settings: Settings) -> str:
    """Return the beginning of a curl command for this service."""
    path = socket_path(settings)
    return f"curl --unix-socket {path} http://localhost" if path else f"curl {described(settings)}"
