"""The entry point of the command line: the group of all commands, and the exit status for each error they raise.

Data goes to standard output, messages to standard error.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import click
from click.exceptions import NoArgsIsHelpError

from postroom import __version__
from postroom.cli.accounts import accounts
from postroom.cli.audit import audit
from postroom.cli.backup import backup, restore
from postroom.cli.check import check
from postroom.cli.doctor import doctor
from postroom.cli.exits import EX_INTERRUPTED, EX_SOFTWARE, EX_USAGE, fail, status_of, words_of
from postroom.cli.inbox import inbox
from postroom.cli.keys import keys
from postroom.cli.listing import list_messages
from postroom.cli.log import log
from postroom.cli.messages import cancel, release, status
from postroom.cli.notify import notify
from postroom.cli.personal_data import erase, export
from postroom.cli.pools import pools
from postroom.cli.probes import healthy
from postroom.cli.secrets import secret, secrets
from postroom.cli.send import send
from postroom.cli.serve import serve, web, worker
from postroom.cli.statistics import stats
from postroom.cli.store import migrate, migrate_store
from postroom.cli.top import top
from postroom.core.errors import ConfigError, PostroomError
from postroom.core.files import reason_of
from postroom.telemetry.incident import report

_EPILOG = """\b
Exit status: 0 done, 1 refused or failed, 2 wrong usage, 69 HTTP does not stay up, 70 a fault in Postroom,
74 accepted, but that could not be printed, 75 try again later, 78 wrong configuration, 130 ended by Ctrl-C.
Settings are environment variables or lines of .env in the installation's folder; files are kept there too.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal's encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        ended = cli.main(prog_name="postroom", standalone_mode=False)
    except NoArgsIsHelpError as error:  # a group without a command: its help, which is no error's line
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "postroom"
        said = " ".join(error.format_message().split())  # click breaks the choices of an argument into lines
        fail(f"{said.rstrip('.')}; see {command} --help", EX_USAGE)
    except click.Abort:
        fail("interrupted", EX_INTERRUPTED)
    except (PostroomError, ConfigError) as error:
        fail(str(error), status_of(error))
    except OSError as error:
        fail(*words_of(error))
    except Exception as error:
        incident = report(logging.getLogger("postroom"), "the command failed", error)
        fail(
            f"this is a fault in Postroom itself (incident {incident}, described above); please report it",
            EX_SOFTWARE,
        )
    else:
        sys.exit(ended if isinstance(ended, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, message="postroom %(version)s")
@click.option(
    "--home", envvar="POSTROOM_HOME", metavar="DIR", help="The installation's folder; without it, this one."
)
def cli(home: str | None) -> None:
    """Send mail through the mailboxes you already own.

    \b
    First steps, in an empty folder:
      postroom serve          start; the first start makes a key for a built-in inbox
      postroom send --to you@example.com --subject Hello --body "It works"
      postroom inbox          see what arrived there
    """
    if home:
        _enter(home)


def _enter(home: str) -> None:
    """Make this the current folder, also for the processes that are started from here."""
    try:
        os.chdir(home)
    except OSError as error:
        fix = "; make it first" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError("POSTROOM_HOME", f"cannot enter {home}: {reason_of(error)}{fix}") from error
    os.environ["POSTROOM_HOME"] = str(Path.cwd())


for _command in (
    *(serve, web, worker, migrate, migrate_store, backup, restore, check, healthy, doctor),
    *(
        send,
        list_messages,
        log,
        stats,
        top,
        status,
        release,
        cancel,
        accounts,
        keys,
        pools,
        audit,
        notify,
        secrets,
        secret,
        inbox,
        erase,
        export,
    ),
):
    cli.add_command(_command)
