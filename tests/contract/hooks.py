"""What schemathesis loads: each request comes from another address, so that the limit on guesses never speaks."""

from __future__ import annotations

import itertools
from typing import Any

import schemathesis

_ADDRESSES = itertools.count(1 << 24)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    address = ".".join(str(octet) for octet in next(_ADDRESSES).to_bytes(4, "big"))
    case.headers["X-Forwarded-For"] = address
