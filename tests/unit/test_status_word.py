"""The one word for the status of a message."""

from __future__ import annotations

import pytest

from postroom.core.message import MessageState, MessageStatus
from postroom.core.status_word import StatusWord

NOW = 1_000_000


def _status(state: MessageState, **fields: object) -> MessageStatus:
    return MessageStatus("id", state, None, False, 1, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", MessageState)
def test_each_state_has_its_word(state: MessageState) -> None:
    assert _status(state).word(NOW) is StatusWord(state.value)


@pytest.mark.parametrize("state", [MessageState.QUEUED, MessageState.DEFERRED])
def test_a_held_message_is_held_whatever_it_waited_for_before(state: MessageState) -> None:
    assert _status(state, is_held=True, not_before=NOW + 1).word(NOW) is StatusWord.HELD


@pytest.mark.parametrize("state", [MessageState.QUEUED, MessageState.DEFERRED])
def test_a_message_that_waits_for_its_time_is_scheduled(state: MessageState) -> None:
    """Also one of an account that is paused meanwhile."""
    assert _status(state, not_before=NOW + 1).word(NOW) is StatusWord.SCHEDULED


def test_a_scheduled_message_whose_time_has_come_is_queued() -> None:
    assert _status(MessageState.QUEUED, not_before=NOW).word(NOW) is StatusWord.QUEUED


def test_a_scheduled_message_that_was_tried_is_deferred() -> None:
    tried = _status(MessageState.DEFERRED, not_before=NOW + 1, was_deferred=True)
    assert tried.word(NOW) is StatusWord.DEFERRED


def test_a_message_that_has_ended_is_not_scheduled() -> None:
    assert _status(MessageState.CANCELLED, not_before=NOW + 1).word(NOW) is StatusWord.CANCELLED
