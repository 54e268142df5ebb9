"""Proxies of Debian's, unpacked and started from here: each as it comes, and as the files in deploy/ say."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.servers.clients import CLIENTS
from tests.servers.peers import fetch
from tests.servers.programs import end, free_port
from tests.servers.waiting import eventually

DEPLOY = fetch.ROOT / "deploy"
_PLAIN_NGINX = """\
server {
    listen 127.0.0.1:PORT;
    client_max_body_size 0;
    location / { proxy_pass http://127.0.0.1:BACKEND; }
}
"""
_NGINX = """\
daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log stderr;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    SERVER
}
"""
_HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen postroom
    bind 127.0.0.1:PORT
    OPTIONS
    server postroom 127.0.0.1:BACKEND
"""
_LIGHTTPD = """\
server.modules = ("mod_proxy")
server.document-root = "FOLDER"
server.port = PORT
server.bind = "127.0.0.1"
server.stream-request-body = 0
server.upload-dirs = ("FOLDER")
proxy.server = ("" => (("host" => "127.0.0.1", "port" => BACKEND)))
"""
_APACHE = """\
ServerRoot FOLDER
ServerName localhost
PidFile FOLDER/apache.pid
ErrorLog FOLDER/proxy.log
Listen 127.0.0.1:PORT
User nobody
Group nogroup
LoadModule mpm_event_module TREE/usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module TREE/usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module TREE/usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module TREE/usr/lib/apache2/modules/mod_proxy_http.so
ProxyPass / http://127.0.0.1:BACKEND/
"""
_VARNISH = """\
vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "BACKEND"; }
"""
_SQUID = """\
http_port 127.0.0.1:PORT accel defaultsite=localhost no-vhost
cache_peer 127.0.0.1 parent BACKEND 0 no-query originserver no-digest name=postroom
http_access allow all
cache_peer_access postroom allow all
cache_effective_user nobody
cache_log /dev/null
access_log none
pid_filename none
mime_table TREE/usr/share/squid/mime.conf
error_directory FOLDER
icon_directory TREE/usr/share/squid/icons
pinger_enable off
unlinkd_program TREE/usr/lib/squid/unlinkd
logfile_daemon TREE/usr/lib/squid/log_file_daemon
netdb_filename none
shutdown_lifetime 1 second
"""
# Clients speak no TLS here: so one stunnel wraps what the other one unwraps.
_STUNNEL = """\
foreground = yes
pid =
[wrap]
client = yes
accept = 127.0.0.1:PORT
connect = 127.0.0.1:OTHER
[unwrap]
accept = 127.0.0.1:OTHER
connect = 127.0.0.1:BACKEND
cert = FOLDER/certificate.pem
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy with a configuration; FOLDER, PORT and BACKEND in it are filled in."""

    name: str
    packages: tuple[str, ...]
    program: str
    arguments: tuple[str, ...]
    configuration: str
    quick: bool = False
    cannot: frozenset[tuple[str, str]] = (
        frozenset()
    )  # what a client cannot see through it, by its name and the case
    waits_for_a_restart: bool = False
    closes_first: bool = False  # what is idle, before the service does

    def prepare(self) -> Path:
        return fetch.debian(f"proxy-{self.packages[0]}", *self.packages)

    @contextmanager
    def running(self, folder: Path, backend: int) -> Iterator[int]:
        """Run it in front of a port; hand over its own."""
        tree, port = self.prepare(), free_port()
        certificate = trustme.CA().issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))
        filled = {
            "FOLDER": str(folder),
            "TREE": str(tree),
            "PORT": str(port),
            "OTHER": str(free_port()),
            "BACKEND": str(backend),
        }
        (folder / "configuration").write_text(_fill(self.configuration, filled), encoding="utf-8")
        places = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/varnish", "usr/lib", "lib")
        libraries = ":".join(str(tree / place) for place in places)
        log = (folder / "proxy.log").open("ab")
        process = subprocess.Popen(
            [str(tree / self.program), *(_fill(word, filled) for word in self.arguments)],
            cwd=folder,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": libraries,
                "HOME": str(folder),
                "XDG_DATA_HOME": str(folder),
            },
            stdout=log,
            stderr=log,
        )
        try:
            eventually(lambda: _listens(port), 60, f"{self.name} to listen")
            yield port
        finally:
            end(process)
            log.close()


def _fill(text: str, filled: Mapping[str, str]) -> str:
    return re.sub("|".join(filled), lambda match: filled[match[0]], text)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _nginx(server: str) -> str:
    return _NGINX.replace("SERVER", server)


def _deployed_nginx() -> str:
    """deploy/nginx.conf, without TLS and on ports of the test."""
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^\s*(listen \[::\]|ssl_).*\n", "", text)
    text = text.replace("listen 443 ssl;", "listen 127.0.0.1:PORT;").replace(
        "127.0.0.1:5000", "127.0.0.1:BACKEND"
    )
    return _nginx(text)


def _caddy(site: str) -> str:
    return "{\n\tadmin off\n\tauto_https off\n}\n" + site


def _deployed_caddy() -> str:
    text = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    return _caddy(
        text.replace("mail-api.example.com {", ":PORT {").replace("127.0.0.1:5000", "127.0.0.1:BACKEND")
    )


# Go's HTTP server reads 256 KiB after its answer and closes half a second later: who has not begun to read by then, and
# fails at the first write, never does.
_GO = frozenset((client, "413") for client in ("http.client", "wget", "Perl HTTP::Tiny"))
# Squid closes the connection while the client still writes, and does not say in its answer that it will: who has not
# begun to read by then sees no answer, and who goes on over the connection meets its end. Which of them is a race.
_SQUID_CANNOT = frozenset((client.name, "413") for client in CLIENTS)
_NGINX_ARGUMENTS = ("-p", "FOLDER", "-c", "FOLDER/configuration")
_CADDY_ARGUMENTS = ("run", "--config", "FOLDER/configuration", "--adapter", "caddyfile")
_HAPROXY_ARGUMENTS = ("-db", "-f", "FOLDER/configuration")
PROXIES = [
    Proxy("nginx", ("nginx",), "usr/sbin/nginx", _NGINX_ARGUMENTS, _nginx(_PLAIN_NGINX)),
    Proxy(
        "nginx as deployed",
        ("nginx",),
        "usr/sbin/nginx",
        _NGINX_ARGUMENTS,
        _deployed_nginx(),
        quick=True,
        closes_first=True,
    ),
    Proxy("HAProxy", ("haproxy",), "usr/sbin/haproxy", _HAPROXY_ARGUMENTS, _HAPROXY.replace("OPTIONS", "")),
    Proxy(
        "HAProxy as documented",
        ("haproxy",),
        "usr/sbin/haproxy",
        _HAPROXY_ARGUMENTS,
        _HAPROXY.replace(
            "OPTIONS",
            "http-reuse never\n    retries 30\n    retry-on conn-failure empty-response\n    timeout connect 1s",
        ),
        waits_for_a_restart=True,
        closes_first=True,
    ),
    Proxy(
        "Caddy",
        ("caddy",),
        "usr/bin/caddy",
        _CADDY_ARGUMENTS,
        _caddy(":PORT {\n\treverse_proxy 127.0.0.1:BACKEND\n}\n"),
        cannot=_GO,
    ),
    Proxy(
        "Caddy as deployed",
        ("caddy",),
        "usr/bin/caddy",
        _CADDY_ARGUMENTS,
        _deployed_caddy(),
        cannot=_GO,
        closes_first=True,
    ),
    Proxy(
        "lighttpd",
        ("lighttpd",),
        "usr/sbin/lighttpd",
        ("-D", "-f", "FOLDER/configuration", "-m", "TREE/usr/lib/lighttpd"),
        _LIGHTTPD,
    ),
    Proxy(
        "Apache",
        ("apache2-bin",),
        "usr/sbin/apache2",
        ("-DFOREGROUND", "-f", "FOLDER/configuration"),
        _APACHE,
    ),
    Proxy(
        "Varnish",
        ("varnish",),
        "usr/sbin/varnishd",
        (
            *("-F", "-j", "none", "-n", "FOLDER/varnish", "-s", "malloc,64m"),
            *("-f", "FOLDER/configuration", "-a", "127.0.0.1:PORT"),
        ),
        _VARNISH,
    ),
    Proxy(
        "Squid",
        ("squid", "squid-common"),
        "usr/sbin/squid",
        ("-N", "-n", "squidPORT", "-f", "FOLDER/configuration"),
        _SQUID,
        cannot=_SQUID_CANNOT,
    ),
    Proxy("stunnel", ("stunnel4",), "usr/bin/stunnel4", ("FOLDER/configuration",), _STUNNEL),
]
