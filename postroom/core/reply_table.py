"""The table of what servers say when they refuse: the rows of `reply_rows/`, in the order in which they are tried.

The first row that matches decides (`replies.read`). The sources are providers' pages, programs' documentation, and
replies that their users have posted.
"""

from __future__ import annotations

from postroom.core.reply_rows.connections import FULL, NAMES, OF_THE_SESSION
from postroom.core.reply_rows.limits import ALLOWANCES, LIMITS, PACE
from postroom.core.reply_rows.logins import LOGINS
from postroom.core.reply_rows.messages import OF_THE_MESSAGE
from postroom.core.reply_rows.senders import OF_THE_RIGHT, STOPPED_ACCOUNTS

TABLE = (
    *NAMES,
    *FULL,
    *OF_THE_MESSAGE,
    *OF_THE_SESSION,
    *OF_THE_RIGHT,
    *STOPPED_ACCOUNTS,
    *LIMITS,
    *PACE,
    *ALLOWANCES,
    *LOGINS,
)
