"""Where HTTP listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from postroom.core.errors import ConfigError, PlaceTaken
from postroom.runtime.listen import address_of, check, curl, remove_left_socket, socket_path
from postroom.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("host", "address"), [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")]
)
def test_a_name_becomes_the_address_that_is_ours(host: str, address: str) -> None:
    assert address_of(Settings(host=host)) == address


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"HOST.*{host}"):
        check(Settings(host=host, port=0))


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("127.255.255.255", "broadcast"),
    ],
)
def test_an_address_of_many_hosts_is_refused(host: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"^HOST: .*{host} is a {kind} address"):
        address_of(Settings(host=host))


@pytest.mark.parametrize("host", ["unix:", "unix:here.sock", f"unix:/{'a' * 107}"])
def test_a_path_that_cannot_be_a_socket_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", host)
    with pytest.raises(ConfigError, match="HOST"):
        load_settings()


def test_a_socket_of_ours_is_made_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", f"unix:{tmp_path}/Http.sock")
    settings = load_settings()
    assert socket_path(settings) == tmp_path / "Http.sock"
    assert curl(settings) == f"curl --unix-socket {tmp_path}/Http.sock http://localhost"
    check(settings)


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(PlaceTaken, match="something listens"):
            check(Settings(host=f"unix:{path}"))
    check(Settings(host=f"unix:{path}"))  # its process has gone
    remove_left_socket(path)
    assert not path.exists()


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        check(Settings(host=f"unix:{path}"))
    remove_left_socket(path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/away"):
        check(Settings(host=f"unix:{tmp_path}/away/http.sock"))
