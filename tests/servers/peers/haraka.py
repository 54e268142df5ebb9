"""Haraka, from npm, with its own plug-ins for TLS and log-in, and one of ours that stores."""

from __future__ import annotations

import shutil
import subprocess

from tests.servers.peers import fetch
from tests.servers.peers.peer import HOSTNAME, PASSWORD, USER, Limit, Peer, Spool
from tests.servers.programs import require

KEEP = """\
'use strict'
const fs = require('node:fs')
const path = require('node:path')
const folder = process.env.PEER_SPOOL
const perSession = Number(process.env.PEER_MESSAGES || 0)
const perPeriod = Number(process.env.PEER_RATE || 0)
const periodMs = 10000
let taken = []

exports.register = function () {
  this.register_hook('mail', 'mail')
  this.register_hook('rcpt', 'rcpt')
  this.register_hook('queue', 'queue')
  this.register_hook('queue_outbound', 'queue')
}
exports.mail = function (next, connection) {
  if (perSession && connection.notes.taken >= perSession)
    return next(DENYSOFTDISCONNECT, 'Too many messages in this session')
  if (perPeriod) {
    taken = taken.filter((then) => then > Date.now() - periodMs)
    if (taken.length >= perPeriod) return next(DENYSOFT, 'Rate limit exceeded, slow down')
    taken.push(Date.now())
  }
  next(OK)
}
exports.rcpt = function (next, connection, params) {
  const user = params[0].user
  if (user.startsWith('unknown')) return next(DENY, 'User unknown')
  if (user.startsWith('defer')) return next(DENYSOFT, 'Mailbox is busy, try again later')
  next(OK)
}
exports.queue = function (next, connection) {
  const name = connection.transaction.uuid
  const hidden = path.join(folder, '.' + name)
  const file = fs.createWriteStream(hidden)
  file.on('error', () => next(DENYSOFT, 'Cannot store it'))
  file.on('finish', () => {
    fs.renameSync(hidden, path.join(folder, name))
    connection.notes.taken = (connection.notes.taken || 0) + 1
    next(OK)
  })
  connection.transaction.message_stream.pipe(file)
}
"""


class Haraka(Peer):
    """`PEER_MESSAGES` and `PEER_RATE` are limits of the plug-in; the others are lines of Haraka's connection.ini."""

    name = "haraka"
    limits = (
        Limit("messages a session, then 421", "Too many messages in this session", {"PEER_MESSAGES": "5"}),
        Limit("rate", "Rate limit exceeded, slow down", {"PEER_RATE": "20"}, long=True),
    )

    def prepare(self) -> None:
        self._modules = fetch.npm()
        self._node = require("node")[0]

    def configure(self) -> None:
        self.spool = Spool(self.folder / "spool")
        listen = f"127.0.0.1:{self.port},127.0.0.1:{self.tls_port}"
        files = {
            "config/me": HOSTNAME,
            "config/smtp.ini": f"listen={listen}\nsmtps_port={self.tls_port}\nnodes=0\ninactivity_timeout=60\n",
            "config/plugins": "tls\nauth/flat_file\nkeep\n",
            "config/tls.ini": f"key={self.folder}/key.pem\ncert={self.folder}/cert.pem\n",
            "config/auth_flat_file.ini": f"[core]\nmethods=PLAIN,LOGIN\n[users]\n{USER}={PASSWORD}\n",
            "config/log.ini": "[main]\nlevel=notice\n",
            "plugins/keep.js": KEEP,
        }
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        shutil.copy(self._modules / "Haraka/config/connection.ini", self.folder / "config")
        (self.folder / "queue").mkdir(exist_ok=True)

    def spawn(self) -> subprocess.Popen[bytes]:
        program = self._modules / "Haraka/bin/haraka"
        return self.run(
            [self._node, str(program), "-c", str(self.folder)],
            {"PEER_SPOOL": str(self.spool.folder), **self.settings},
        )

    def received(self) -> list[bytes]:
        return self.spool.messages()


PEER = Haraka
