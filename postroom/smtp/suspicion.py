"""Whether a server may have refused a message only because of PIPELINING or CHUNKING (RFC 2920, RFC 3030). Pure."""

from __future__ import annotations

from postroom.core.errors import FaultKind, SMTPFault
from postroom.smtp.transcript import NOT_TAKEN, Extension, ServerTraits, Suspicion, Transcript

SILENCE_S = 5.0  # how long a server that has not taken a group yet may say nothing within one


def clear_up(traits: ServerTraits, doubted: Suspicion, transcript: Transcript, *, taken: bool) -> None:
    """One command at a time has shown whether the group was the reason."""
    refused = transcript.refused_at()
    same = refused is not None and (refused[0], refused[1].code) == (doubted.verb, doubted.code)
    slow = doubted.code is None and transcript.slowest >= SILENCE_S / 2
    if same or (taken and slow):
        traits.is_believed = True
    elif taken:
        traits.lack(doubted)


def suspicion_of(traits: ServerTraits, transcript: Transcript) -> Suspicion | None:
    """Say why the message may have been refused for the group only; None where its own answer stands."""
    if transcript.fault is not None:
        return _suspicion_of_fault(traits, transcript, transcript.fault)
    verb, reply = transcript.refused_at() or ("", None)
    proven = traits.took_chunks if verb == "BDAT" else traits.took_group
    if reply is None or reply.code not in NOT_TAKEN or traits.is_believed:
        return None
    if proven and reply.code == 554:
        return None
    return Suspicion(_extension_at(verb), verb, str(reply), reply.code)


def _suspicion_of_fault(traits: ServerTraits, transcript: Transcript, fault: SMTPFault) -> Suspicion | None:
    """The server broke off within the group, was silent, or said what is none of its answers."""
    proven = traits.took_chunks if fault.verb == "BDAT" else traits.took_group
    if proven or traits.is_believed or transcript.dot_sent or transcript.not_begun:
        return None
    if fault.kind is FaultKind.REFUSED:  # 421: it says itself why it leaves
        return None
    return Suspicion(_extension_at(fault.verb), fault.verb, str(fault))


def _extension_at(verb: str) -> Extension:
    return Extension.CHUNKING if verb == "BDAT" else Extension.PIPELINING
