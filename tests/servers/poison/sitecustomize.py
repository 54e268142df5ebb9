"""With this folder in PYTHONPATH, a process of Postroom dies as it begins to send a mail whose text holds POISON."""

import os
import signal
import sys

_poison = os.environ.get("POISON", "").encode()

if _poison and "postroom" in sys.orig_argv:
    from postroom.core.job import ClaimedJob
    from postroom.smtp import deliver
    from postroom.smtp.transcript import Envelope, Text

    _envelope = deliver._envelope

    def _envelope_of(job: ClaimedJob, text: Text) -> Envelope:
        if _poison in job.mime:
            os.kill(os.getpid(), signal.SIGKILL)
        return _envelope(job, text)

    deliver._envelope = _envelope_of
