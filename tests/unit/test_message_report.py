"""`postroom status`: one screen says why a message has not arrived."""

from __future__ import annotations

from dataclasses import replace

from postroom.cli.message_report import SCREEN, report
from postroom.core.clock import SECOND, Instant
from postroom.core.dialogue import Speaker, Spoken
from postroom.core.message import MessageState, MessageStatus
from postroom.core.message_history import (
    AttemptHistory,
    MessageHistory,
    PastEvent,
    RecipientHistory,
)
from postroom.core.outcome import Reply

NOW: Instant = 1_700_000_000 * SECOND
LATER = NOW + 3600 * SECOND
REASON = "535 5.7.8 no [the server does not accept this user name and password; give the right one]"
REFUSED = AttemptHistory(
    number=1,
    started_at=NOW,
    finished_at=NOW + SECOND // 4,
    outcome="deferred",
    phase="AUTH",
    blame="account",
    reply=Reply(535, "no", "5.7.8"),
    reason=REASON,
    dialogue=(
        Spoken(0, Speaker.NOTE, "CONNECT mail.example.com:587"),
        Spoken(20, Speaker.CLIENT, "AUTH PLAIN [struck]"),
        Spoken(41, Speaker.SERVER, "535 5.7.8 no"),
    ),
)


def history(state: MessageState = MessageState.QUEUED, reason: str | None = None) -> MessageHistory:
    status = MessageStatus(
        "01a225a7-dba1-74da-91aa-52bbde50ae4c", state, reason, False, 1, sender="a@x.example"
    )
    return MessageHistory(
        status=status,
        account="a@x.example",
        account_uid="6d28daa5-41c6-45b0-9d11-b545baac61bb",
        account_state="active",
        account_reason=None,
        account_until=None,
        subject="Hello",
        size=1234,
        accepted_at=NOW,
        due_at=NOW,
        claimed_at=None,
        finished_at=None,
        recipients=(RecipientHistory("you@example.com", "pending", reason, None, False, None),),
        attempts=(),
        events=(PastEvent(NOW, "accepted", None, None),),
    )


def lines(of: MessageHistory, *findings: str, whole: bool = False) -> list[str]:
    return report(of, NOW, findings, whole=whole)


def test_a_refused_password_is_named_by_its_step_with_the_fix_and_the_dialogue() -> None:
    found = history(MessageState.DEFERRED, f"account paused: {REASON}")
    paused = replace(
        found, account_state="paused", account_reason=REASON, account_until=LATER, attempts=(REFUSED,)
    )
    shown = lines(paused)
    assert shown[0].endswith("  deferred (account paused: 535 5.7.8 no)"), "what it means stands below"
    assert shown[2] == "  waits for its account, which is paused until 2023-11-14T23:13:20.000Z"
    assert shown[-6:] == [
        "  attempt 1  2023-11-14T22:13:20.000Z  0.250 s  deferred at AUTH, by the account",
        "    AUTH: 535 5.7.8 no",
        "    the server does not accept this user name and password; give the right one",
        "         0 ms  * CONNECT mail.example.com:587",
        "        20 ms  C AUTH PLAIN [struck]",
        "        41 ms  S 535 5.7.8 no",
    ]


def test_a_limit_a_dead_worker_and_a_full_disk_are_said() -> None:
    reached = replace(
        history(), account_state="parked", account_reason="daily limit of 5 reached", account_until=LATER
    )
    shown = lines(reached, "no worker runs: messages wait", "1 MiB are free where the database is")
    assert "which is parked until 2023-11-14T23:13:20.000Z: daily limit of 5 reached" in shown[2]
    assert shown[3:5] == ["  no worker runs: messages wait", "  1 MiB are free where the database is"]


def test_however_much_there_is_it_fits_one_screen_and_whole_it_has_all() -> None:
    many = tuple(Spoken(number, Speaker.SERVER, f"250 {number}") for number in range(200))
    attempts = tuple(replace(REFUSED, number=number, dialogue=many) for number in range(1, 60))
    events = tuple(
        PastEvent(NOW + number, "deferred", "you@example.com", "451 later") for number in range(60)
    )
    recipients = tuple(
        RecipientHistory(f"{number}@example.com", "pending", None, None, False, None) for number in range(50)
    )
    full = replace(history(), attempts=attempts, events=events, recipients=recipients)
    shown = lines(full, "no worker runs", "the disk is full")
    assert len(shown) <= SCREEN
    assert shown[-1].endswith("S 250 199")
    assert any("left out: --dialogue shows all" in line for line in shown)
    everything = lines(full, whole=True)
    assert sum(line.endswith("S 250 100") for line in everything) == 59
    assert sum("451 later" in line for line in everything) == 60


def test_control_characters_are_shown_escaped() -> None:
    odd = replace(history(MessageState.DEFERRED, "no\x1b[31m"), subject="a\nb\x07")
    assert not [line for line in lines(odd) if not line.isprintable()]


def test_an_erased_subject_and_none_are_said() -> None:
    bare = replace(history(), subject="")
    assert lines(bare)[1] == "  from a@x.example to you@example.com, 1,234 octets, without a subject"
    erased = replace(bare, events=(*bare.events, PastEvent(NOW, "erased", None, None)))
    assert lines(erased)[1].endswith("1,234 octets; its content and subject are erased")


def test_what_a_message_waits_for() -> None:
    waits = history()
    assert waits.waits_for(NOW) is None
    assert replace(waits, due_at=LATER).waits_for(NOW) == "its next try at 2023-11-14T23:13:20.000Z"
    in_hand = replace(waits, status=replace(waits.status, state=MessageState.SENDING), claimed_at=NOW)
    assert in_hand.waits_for(LATER) == (
        "its server: a worker has had it in hand since 2023-11-14T22:13:20.000Z, for 3600 s"
    )
    held = replace(waits, status=replace(waits.status, is_held=True))
    assert "postroom release" in (held.waits_for(NOW) or "")
    later = replace(waits, status=replace(waits.status, not_before=LATER))
    assert "its sender chose" in (later.waits_for(NOW) or "")
    assert later.waits_for(LATER) is None
    sent = replace(waits, status=replace(waits.status, state=MessageState.SENT), due_at=LATER)
    assert sent.waits_for(NOW) is None


def test_a_fault_without_a_reply_is_said_once() -> None:
    said = "no answer to MAIL within 30 s"
    away = replace(REFUSED, reply=None, reason=said, blame="connection", phase="MAIL", dialogue=None)
    shown = lines(replace(history(MessageState.DEFERRED, said), attempts=(away,)))
    assert shown[-1] == (
        "    the server or the network is at fault; it is tried again by itself; "
        "if that does not help: postroom doctor EMAIL"
    )
