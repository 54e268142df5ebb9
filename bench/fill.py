"""A queue of any length, quickly: `python -m bench.fill --account 1:20000` in an installation's folder.

Its worker must not be running.
Accounts come from data.csv there; each `--account N:COUNT` adds so many mails to the Nth of them, from 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from bench.processes import StartError
from bench.systems import environment
from postroom.core.account import Account
from postroom.core.address import parse_mailbox
from postroom.core.clock import system_clock
from postroom.core.message import NewMessage
from postroom.intake.request_id import new_request_id
from postroom.mime.message import Content, render
from postroom.runtime import accounts_file, installation
from postroom.store.accounts import Accounts
from postroom.store.store import Store
from postroom.store.transaction import Transaction

BATCH = 256
_LINE = "All the world's a stage, and all the men and women merely players.\n"


def text_of(size: int) -> str:
    """Return a body of about so many bytes."""
    return _LINE * max(1, size // len(_LINE))


def messages(account: Account, size: int) -> Iterator[NewMessage]:
    """Give mails of this account without end, each with an id of its own, rendered once for all."""
    recipient, sender, body = parse_mailbox("ada@example.org"), parse_mailbox(account.email), text_of(size)
    now = system_clock()
    request_id = new_request_id(now)
    mime = render(
        Content(
            sender_name=account.name,
            sender=sender,
            recipients=(recipient,),
            subject="A mail of a long queue",
            body=body,
            is_html=False,
            message_id=f"{request_id}@example.com",
            date=now,
            boundary=f"=_{request_id}",
        )
    )
    while True:
        now = system_clock()
        yield NewMessage(
            request_id=new_request_id(now),
            account_id=account.id,
            reverse_path=sender.path,
            forward_paths=(recipient.path,),
            subject="A mail of a long queue",
            mime=mime,
            smtputf8=False,
            accepted_at=now,
        )


def fill(store: Store, account: Account, count: int, size: int = 1024) -> None:
    """Accept so many mails, as many in a transaction as there may be."""
    source = islice(messages(account, size), count)
    while batch := list(islice(source, BATCH)):
        for settled in store.write_all([partial(_accept, message) for message in batch]):
            settled.unwrap()


def _accept(message: NewMessage, transaction: Transaction) -> None:
    transaction.acceptance.accept(message)


def write_accounts(folder: Path, ports: Sequence[int], connections: int | None = None) -> None:
    """Write a data.csv with one account for each port of 127.0.0.1."""
    rows = [
        f"bench-{number:032d},bench{number}@example.com,abcdefghijklmnop,127.0.0.1,{port},none,{connections or ''}\n"
        for number, port in enumerate(ports, 1)
    ]
    (folder / "data.csv").write_text(
        "key,email,app_password,host,port,security,connections\n" + "".join(rows)
    )


def fill_folder(
    folder: Path, counts: Mapping[int, int], size: int = 1024, database: Mapping[str, str] | None = None
) -> None:
    """Fill the installation of a folder from a process of its own; `database` has its settings. Raises StartError."""
    command = [sys.executable, "-m", "bench.fill", "--size", str(size)]
    for account, count in counts.items():
        command += ["--account", f"{account}:{count}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment(), **(database or {})},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    if done.returncode != 0:
        raise StartError(f"the queue could not be filled:\n{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description=__doc__)
    parser.add_argument("--account", action="append", default=[], metavar="N:COUNT")
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    service = installation.open_service(migrate=True)
    accounts_file.read_accounts_file(service)
    accounts = {stored.account.email: stored.account for stored in service.store.read(Accounts.all)}
    for word in options.account:
        number, _, count = word.partition(":")
        fill(service.store, accounts[f"bench{number}@example.com"], int(count), options.size)
    service.store.close()


if __name__ == "__main__":
    main()
