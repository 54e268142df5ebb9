"""What wakes granian's main loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from postroom.serve import Interrupt


@pytest.mark.parametrize("stopping", [False, True])
def test_a_signal_to_stop_is_not_cleared_with_the_death_of_a_worker(stopping: bool) -> None:
    server: Any = SimpleNamespace(interrupt_signal=stopping)
    interrupt = Interrupt(server)
    interrupt.set()
    interrupt.clear()
    assert interrupt.is_set() is stopping
