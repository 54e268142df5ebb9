"""Sets the clock of a process: with this folder in PYTHONPATH, `time` is off by the seconds in the file CLOCK_OFFSET_FILE.

As with a real clock that is set, the monotonic clock goes on evenly. libfaketime would do the same for
any program, but its clock_nanosleep fails under Python's `time.sleep`.
"""

import os
import time

_file = os.environ.get("CLOCK_OFFSET_FILE", "")
_time, _time_ns = time.time, time.time_ns


def _offset() -> int:
    try:
        with open(_file, encoding="ascii") as file:
            return int(file.read() or 0)
    except OSError:
        return 0


if _file:
    time.time = lambda: _time() + _offset()
    time.time_ns = lambda: _time_ns() + _offset() * 10**9
