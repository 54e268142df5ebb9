"""nodemailer's smtp-server, from npm, as a program that stores what comes."""

from __future__ import annotations

import json
import subprocess

from tests.servers.peers import fetch
from tests.servers.peers.peer import HOSTNAME, PASSWORD, USER, Limit, Peer, Spool
from tests.servers.programs import require

PROGRAM = """\
'use strict'
const fs = require('node:fs')
const path = require('node:path')
const { SMTPServer } = require('smtp-server')
const at = JSON.parse(process.argv[2])
const periodMs = 10000
let taken = []
let number = 0

function refused(code, text) {
  const error = new Error(text)
  error.responseCode = code
  return error
}
function options(secure) {
  return {
    name: at.name,
    secure,
    key: fs.readFileSync(at.key),
    cert: fs.readFileSync(at.cert),
    authOptional: true,
    authMethods: ['PLAIN', 'LOGIN'],
    disableReverseLookup: true,
    ...at.options,
    onAuth(auth, session, callback) {
      if (auth.username === at.user && auth.password === at.password) return callback(null, { user: at.user })
      callback(refused(535, '5.7.8 Wrong user name or password'))
    },
    onMailFrom(address, session, callback) {
      if (at.messages && (session.taken || 0) >= at.messages)
        return callback(refused(451, '4.7.0 Too many messages in this session'))
      if (at.rate) {
        taken = taken.filter((then) => then > Date.now() - periodMs)
        if (taken.length >= at.rate) return callback(refused(450, '4.7.1 Rate limit exceeded'))
        taken.push(Date.now())
      }
      callback()
    },
    onRcptTo(address, session, callback) {
      if (address.address.startsWith('unknown')) return callback(refused(550, '5.1.1 User unknown'))
      if (address.address.startsWith('defer')) return callback(refused(450, '4.2.1 Mailbox is busy'))
      callback()
    },
    onData(stream, session, callback) {
      const name = `${process.pid}.${number++}`
      const hidden = path.join(at.spool, '.' + name)
      const file = fs.createWriteStream(hidden)
      file.on('finish', () => {
        if (stream.sizeExceeded) return callback(refused(552, '5.3.4 Message exceeds the fixed maximum size'))
        fs.renameSync(hidden, path.join(at.spool, name))
        session.taken = (session.taken || 0) + 1
        callback(null, 'stored')
      })
      stream.pipe(file)
    },
  }
}
for (const [port, secure] of [[at.port, false], [at.tls_port, true]]) {
  const server = new SMTPServer(options(secure))
  server.on('error', (error) => console.error(error.message))
  server.listen(port, '127.0.0.1')
}
"""


class SmtpServer(Peer):
    """`messages` and `rate` are limits of the program's own handlers, `options` are smtp-server's."""

    name = "smtp-server"
    limits = (
        Limit(
            "messages a session, which stays open",
            "Too many messages in this session",
            {"messages": "5"},
            messages=200,
        ),
        Limit("connections", "Too many connected clients", {"maxClients": "2"}, messages=100),
        Limit("rate", "Rate limit exceeded", {"rate": "20"}, long=True),
    )

    def prepare(self) -> None:
        self._modules = fetch.npm()
        self._node = require("node")[0]

    def configure(self) -> None:
        self.spool = Spool(self.folder / "spool")
        (self.folder / "server.cjs").write_text(PROGRAM, encoding="utf-8")
        if not (self.folder / "node_modules").is_symlink():
            (self.folder / "node_modules").symlink_to(self._modules)

    def spawn(self) -> subprocess.Popen[bytes]:
        numbers = {name: int(value) for name, value in self.settings.items()}
        at = {
            "name": HOSTNAME,
            "key": str(self.folder / "key.pem"),
            "cert": str(self.folder / "cert.pem"),
            "port": self.port,
            "tls_port": self.tls_port,
            "spool": str(self.spool.folder),
            "user": USER,
            "password": PASSWORD,
            "messages": numbers.pop("messages", 0),
            "rate": numbers.pop("rate", 0),
            "options": numbers,
        }
        return self.run([self._node, "server.cjs", json.dumps(at)])

    def received(self) -> list[bytes]:
        return self.spool.messages()


PEER = SmtpServer
