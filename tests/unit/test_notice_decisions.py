"""When the admins are told, and what: the pure decision, over looks that are given."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.core.account import Secret
from postroom.core.clock import SECOND
from postroom.core.errors import ConfigError
from postroom.core.notices import words
from postroom.core.notices.decide import decide
from postroom.core.notices.document import (
    detail_of,
    notice_from_json,
    notice_to_json,
    told_from_values,
    told_to_values,
    trouble_of,
)
from postroom.core.notices.kinds import KINDS, Kind
from postroom.core.notices.quiet import QuietHours
from postroom.core.notices.routes import ways_for
from postroom.core.notices.values import Event, Happened, Look, Notice, Policy, Seen, State, Told, Trouble
from postroom.core.notices.ways import Way, parse_ways
from postroom.notices.by_url import check_url, inert

ALL = frozenset(Kind)
POLICY = Policy(ALL, window=900 * SECOND, gather=10 * SECOND, quiet=None, failed=1)
BEGAN = 1_000_000 * SECOND


@dataclass
class Story:
    """Looks one after the other, and the notices that they lead to."""

    policy: Policy = POLICY
    now: int = BEGAN
    state: State = field(default_factory=State)
    told: list[Notice] = field(default_factory=list)
    minute: int = 12 * 60

    def look(
        self,
        *seen: Seen,
        happened: Iterable[Happened] = (),
        known: frozenset[Kind] = ALL,
        after: float = 5,
    ) -> list[Notice]:
        """Look after so many seconds; return the notices."""
        self.now += int(after * SECOND)
        ids = iter(f"n{len(self.told) + number}" for number in range(20))
        decision = decide(
            self.state,
            Look(known, seen, tuple(happened)),
            self.policy,
            self.now,
            lambda: next(ids),
            lambda at: self.minute,
        )
        self.state = decision.state
        self.told += decision.notices
        return list(decision.notices)

    def looks(self, seconds: int, *seen: Seen, happened: Iterable[Happened] = ()) -> list[Notice]:
        """Look every five seconds for so long."""
        found = self.look(*seen, happened=happened)
        for _ in range(seconds // 5):
            found += self.look(*seen)
        return found


def paused(who: str = "anna", *, urgent: bool = False, cause: str = "535 refused") -> Seen:
    return Seen(
        Kind.PAUSED, who, BEGAN, f"{who}@example.com", cause, urgent=urgent, account=f"{who}@example.com"
    )


def failed(count: int, *, cause: str = "550 no such user", since: int = BEGAN) -> Happened:
    examples = tuple(f"message {number}" for number in range(min(count, 3)))
    return Happened(Kind.FAILED, count, since, {cause: min(count, 500)}, examples)


# -- states that end


def test_a_state_is_told_once_however_long_it_lasts() -> None:
    story = Story()
    [notice] = story.looks(3600, paused())
    assert (notice.kind, notice.event, notice.count) == (Kind.PAUSED, Event.ALERT, 1)
    assert notice.title == "Postroom: account anna@example.com is paused"
    assert notice.since == BEGAN


def test_its_end_is_told_once() -> None:
    story = Story()
    story.looks(60, paused())
    [notice] = story.looks(3600)
    assert notice.event is Event.RECOVERY
    assert notice.title == "Postroom: account anna@example.com works again"
    assert story.state.troubles == {}


def test_what_ends_before_it_is_told_is_not_told() -> None:
    story = Story()
    assert story.look(paused()) == []
    assert story.looks(3600) == []


def test_a_start_tells_nothing_of_what_works() -> None:
    assert Story().looks(3600) == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if KINDS[kind].lasts])
def test_nothing_is_concluded_of_what_cannot_be_seen(kind: Kind) -> None:
    story = Story()
    story.looks(60, Seen(kind, "x", BEGAN, "x"))
    assert len(story.told) == 1
    for _ in range(100):
        assert story.look(known=ALL - {kind}) == []
    [notice] = story.looks(60)
    assert notice.event is Event.RECOVERY


def test_several_at_once_are_one_notice_with_three_of_them_and_the_cause() -> None:
    story = Story()
    thirty = [paused(f"user{number}", cause=f"421 down for user{number}@example.com") for number in range(30)]
    [notice] = story.looks(60, *thirty)
    assert notice.title == "Postroom: 30 accounts are paused"
    assert notice.text.count("- user") == 3
    assert "3 of 30:" in notice.text
    assert "The likely cause in common (30 of 30 looked at): 421 down for …" in notice.text


def test_what_comes_one_after_the_other_gathers_in_one_notice() -> None:
    story = Story()
    accounts = [paused(f"user{number}") for number in range(7)]
    for number in range(7):
        story.look(*accounts[: number + 1], after=5)
    [notice] = story.looks(60, *accounts)
    assert notice.count == 7


def test_it_gathers_no_longer_than_four_times() -> None:
    story = Story()
    accounts = [paused(f"user{number}") for number in range(100)]
    for number in range(100):
        if story.look(*accounts[: number + 1], after=5):
            break
    assert story.now - BEGAN <= 50 * SECOND


def test_a_second_one_in_the_window_waits_and_does_not_make_the_first_new() -> None:
    story = Story()
    story.looks(60, paused("anna"))
    assert story.looks(800, paused("anna"), paused("berta")) == []
    [notice] = story.looks(200, paused("anna"), paused("berta"))
    assert notice.title == "Postroom: account berta@example.com is paused"
    assert "Besides, 1 told before is not over yet." in notice.text
    assert story.looks(3600, paused("anna"), paused("berta")) == []


def test_a_digest_in_between_does_not_make_an_old_alert_new() -> None:
    story = Story()
    story.looks(60, paused("anna"))
    story.looks(1000, paused("anna"), paused("berta"))
    assert [notice.event for notice in story.looks(60, paused("anna"))] == [Event.RECOVERY]
    assert story.looks(3600, paused("anna")) == []
    assert [notice.count for notice in story.told] == [1, 1, 1]


def test_one_that_comes_and_goes_is_told_once_a_window_with_its_end() -> None:
    story = Story()
    for _ in range(4 * 60):
        story.looks(15, paused())
        story.looks(15)
    hours = (story.now - BEGAN) / (3600 * SECOND)
    alerts = [notice for notice in story.told if notice.event is Event.ALERT]
    assert len(alerts) <= 4 * hours + 1
    assert len(story.told) - len(alerts) <= 4 * hours + 1


def test_what_breaks_again_before_its_end_was_told_is_not_told_again() -> None:
    story = Story()
    story.looks(60, paused())
    story.look()
    assert story.looks(60, paused()) == []
    assert [notice.event for notice in story.looks(60)] == [Event.RECOVERY]


def test_an_end_says_what_is_not_over_yet() -> None:
    story = Story()
    story.looks(60, paused("anna"), paused("berta"))
    [notice] = story.looks(60, paused("berta"))
    assert "account anna@example.com works again" in notice.title
    assert "Not over yet: 1 told before." in notice.text
    assert "Told before as: n0" in notice.text


def test_a_kind_that_is_not_wanted_is_not_told() -> None:
    story = Story(replace(POLICY, kinds=ALL - {Kind.PAUSED}))
    assert story.looks(60, paused(), happened=[failed(1)])[0].kind is Kind.FAILED
    assert len(story.told) == 1


def test_what_was_told_of_a_kind_that_is_not_wanted_any_more_is_forgotten() -> None:
    story = Story()
    story.looks(60, paused())
    story.policy = replace(POLICY, kinds=ALL - {Kind.PAUSED})
    assert story.looks(60) == []
    assert story.state.troubles == {}


# -- what is urgent


def test_what_is_urgent_waits_for_nothing() -> None:
    story = Story(minute=0, policy=replace(POLICY, quiet=QuietHours(22 * 60, 7 * 60)))
    [notice] = story.look(Seen(Kind.WORKER, "none", BEGAN, "no worker runs", urgent=True))
    assert notice.urgent
    assert notice.nothing_is_sent


def test_what_becomes_urgent_is_told_again_and_ends_once() -> None:
    story = Story()
    little = Seen(Kind.DISK, "", BEGAN, "the disk", "200 MiB are free")
    story.looks(60, little)
    [notice] = story.look(replace(little, urgent=True, cause="10 MiB are free"))
    assert "10 MiB are free" in notice.text
    assert story.looks(600, little) == []
    assert [each.event for each in story.looks(3600)] == [Event.RECOVERY]


def test_what_is_urgent_again_and_again_is_told_once_a_window() -> None:
    story = Story()
    none = Seen(Kind.WORKER, "none", BEGAN, "no worker runs", urgent=True)
    for _ in range(60):
        story.looks(10, none)
        story.looks(10)
    assert story.now - BEGAN == 1800 * SECOND
    events = [notice.event for notice in story.told]
    assert events == [Event.ALERT, Event.RECOVERY] * 2


# -- quiet hours


def test_in_quiet_hours_everything_waits_and_is_one_notice_afterwards() -> None:
    story = Story(minute=23 * 60, policy=replace(POLICY, quiet=QuietHours(22 * 60, 7 * 60)))
    story.looks(60, paused("gone"), paused("anna"), happened=[failed(10)])
    assert story.looks(60, paused("anna"), happened=[failed(5)]) == []
    story.minute = 7 * 60
    notices = story.look(paused("anna"))
    assert {(each.kind, each.count) for each in notices} == {(Kind.FAILED, 15), (Kind.PAUSED, 1)}


def test_an_end_waits_for_the_end_of_the_quiet_hours_too() -> None:
    story = Story(policy=replace(POLICY, quiet=QuietHours(22 * 60, 7 * 60)))
    story.looks(60, paused())
    story.minute = 22 * 60
    assert story.looks(60) == []
    story.minute = 7 * 60
    assert [each.event for each in story.look()] == [Event.RECOVERY]


@pytest.mark.parametrize(
    ("hours", "minute", "quiet"),
    [
        (QuietHours(22 * 60, 7 * 60), 22 * 60, True),
        (QuietHours(22 * 60, 7 * 60), 0, True),
        (QuietHours(22 * 60, 7 * 60), 7 * 60, False),
        (QuietHours(22 * 60, 7 * 60), 22 * 60 - 1, False),
        (QuietHours(60, 120), 60, True),
        (QuietHours(60, 120), 120, False),
        (QuietHours(60, 120), 59, False),
    ],
)
def test_quiet_hours_may_go_over_midnight(hours: QuietHours, minute: int, quiet: bool) -> None:
    assert hours.holds(minute) is quiet


# -- failures


def test_a_thousand_failures_are_one_notice() -> None:
    story = Story()
    for _ in range(4):
        story.look(happened=[failed(250)], after=5)
    [notice] = story.looks(3600)
    assert (notice.count, notice.title) == (1000, "Postroom: 1000 messages have failed")
    assert notice.text.count("\n- message") == 3
    assert "The likely cause in common (1000 of 1000 looked at): 550 no such user" in notice.text


def test_failures_without_end_are_one_notice_a_window_with_the_right_count() -> None:
    story = Story()
    for _ in range(720):
        story.look(happened=[failed(10_000)], after=5)
    waiting = sum(each.count for each in story.state.troubles.values())
    assert sum(each.count for each in story.told) + waiting == 7_200_000
    assert len(story.told) == 4


def test_one_failure_is_told_with_its_reason_and_has_no_end() -> None:
    story = Story()
    [notice] = story.looks(3600, happened=[failed(1)])
    assert notice.title == "Postroom: 1 message has failed"
    assert "The reason: 550 no such user" in notice.text


def test_failures_of_several_causes_name_the_most_frequent() -> None:
    story = Story()
    causes = {"550 no such user": 30, "552 mailbox full": 40, "554 spam": 30}
    [notice] = story.looks(60, happened=[Happened(Kind.FAILED, 100, BEGAN, causes, ())])
    assert "The causes differ; the most frequent (40 of 100 looked at): 552 mailbox full" in notice.text


def test_fewer_failures_than_the_threshold_in_a_window_are_forgotten() -> None:
    story = Story(replace(POLICY, failed=10))
    story.look(happened=[failed(9)])
    assert story.looks(1000) == []
    story.look(happened=[failed(5)])
    assert story.looks(1000) == []
    story.look(happened=[failed(9)])
    [notice] = story.looks(60, happened=[failed(1)])
    assert notice.count == 10


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    story = Story()
    story.looks(60, paused("anna"))
    story.now -= 86_400 * SECOND
    [notice] = story.looks(60, paused("anna"), paused("berta"))
    assert notice.count == 1


# -- any story


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[list[str], int, float]]:
    """Looks: which accounts are paused, how many messages failed, and after how many seconds."""
    who = st.lists(st.sampled_from(["anna", "berta", "carl"]), unique=True)
    return draw(st.lists(st.tuples(who, st.integers(0, 3), st.sampled_from([5, 60, 600])), max_size=60))


@given(stories())
def test_at_most_one_a_window_and_each_end_has_its_beginning(
    looks: list[tuple[list[str], int, float]],
) -> None:
    story, open_, total = Story(), set[str](), 0
    for who, failures, after in looks:
        happened = [failed(failures, since=story.now)] if failures else []
        notices = story.look(*map(paused, who), happened=happened, after=after)
        total += failures
        for notice in notices:
            if notice.kind is Kind.PAUSED:
                named = {each for each in ("anna", "berta", "carl") if f"{each}@" in notice.text}
                if notice.event is Event.ALERT:
                    assert not named & open_, "told twice"
                    open_ |= named
                else:
                    assert named <= open_, "an end without its beginning"
                    open_ -= named
    for event in Event:
        for kind in Kind:
            times = [each.at for each in story.told if each.kind is kind and each.event is event]
            assert all(later - earlier >= POLICY.window for earlier, later in itertools.pairwise(times))
    told = sum(each.count for each in story.told if each.kind is Kind.FAILED)
    waiting = sum(each.count for each in story.state.troubles.values() if each.kind is Kind.FAILED)
    assert told + waiting == total


# -- words


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("550 5.1.1 <bob@example.org>: no such user", "550 5.1.1 …: no such user"),
        ("452 4.2.2 full (in reply to RCPT) 4f1a2b3c4d-89", "452 4.2.2 full (in reply to RCPT) …"),
        ("a\u2028b", "a\\u2028b"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_reasons_that_differ_in_ids_and_addresses_are_alike(reason: str, kept: str) -> None:
    assert words.alike(reason).startswith(kept[:290])
    assert len(words.alike(reason)) < 400


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_says_what_it_does_to_the_mail_and_the_fix(kind: Kind) -> None:
    story = Story()
    if KINDS[kind].lasts:
        [notice] = story.looks(60, Seen(kind, "x", BEGAN, "it", "a cause"))
    else:
        [notice] = story.looks(60, happened=[replace(failed(2), kind=kind)])
    for part in ("What happened: ", "Since: 1970-", "What it does to the mail: ", "The fix: ", "Notice n0 ("):
        assert part in notice.text
    assert "{" not in notice.text + notice.title
    if KINDS[kind].lasts:
        [over] = story.looks(60)
        assert "It lasted from " in over.text
        assert "{" not in over.text + over.title


def test_foreign_words_make_no_line_of_their_own() -> None:
    story = Story()
    [notice] = story.looks(60, paused("a", cause="no\r\nThe fix: send money"))
    assert len([line for line in notice.text.splitlines() if line.startswith("The fix:")]) == 1


def test_a_fix_is_a_command_for_one_account_whatever_its_name() -> None:
    """A key of the scope `accounts` may name an account so that the shell of the operator would run it."""
    trouble = Seen(Kind.PAUSED, "a", BEGAN, "`id>x`$IFS@example.com", "no", account="a")
    [notice] = Story().looks(60, trouble)
    assert "then: postroom accounts resume '`id>x`$IFS@example.com'\n" in notice.text
    [notice] = Story().looks(60, replace(trouble, kind=Kind.LIMIT))
    assert "postroom accounts set '`id>x`$IFS@example.com' --daily-limit NUMBER" in notice.text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("to ada@example.com, not <bob@example.com>", "to ada@example.com, not <bob@example.com>"),
        ("550 @everyone x@here @12 <@12> <!channel>", "550 @ everyone x@ here @ 12 < @ 12> < !channel>"),
        (
            "[pay](https://e.example) <https://e.example|pay>",
            "[pay] (https://e.example) < https://e.example|pay>",
        ),
        ("<users/all> <mailto:a@b.example> a < b", "< users/all> < mailto:a@b.example> a < b"),
    ],
)
def test_words_of_strangers_call_nobody_in_a_chat(said: str, told: str) -> None:
    assert inert(said) == told


# -- ways

TO_HOOK, BY_ANNA, BY_BERTA = (
    Way("1 (json)", "json", Secret("json://h")),
    *parse_ways(
        "mailto:ops@example.org?account=anna@example.com mailto:ops@example.org?account=berta@example.com"
    ),
)


def _ways(
    notice: Notice, ways: tuple[Way, ...], *broken: str, nothing_is_sent: bool = False
) -> tuple[Way, ...]:
    return ways_for(notice, ways, broken=frozenset(broken), nothing_is_sent=nothing_is_sent)


def test_a_notice_goes_by_another_way_than_the_account_that_broke() -> None:
    [notice] = Story().looks(60, paused("anna"))
    assert _ways(notice, (TO_HOOK, BY_ANNA, BY_BERTA)) == (TO_HOOK, BY_BERTA)
    assert _ways(notice, (BY_ANNA,)) == ()


def test_no_notice_is_a_message_of_an_account_that_is_paused() -> None:
    [notice] = Story().looks(60, happened=[failed(1)])
    assert _ways(notice, (TO_HOOK, BY_ANNA), "anna@example.com") == (TO_HOOK,)
    assert _ways(notice, (TO_HOOK, BY_ANNA)) == (TO_HOOK, BY_ANNA)


def test_no_notice_is_a_message_while_nothing_is_sent() -> None:
    [urgent] = Story().look(Seen(Kind.WORKER, "none", BEGAN, "no worker runs", urgent=True))
    assert _ways(urgent, (TO_HOOK, BY_ANNA)) == (TO_HOOK,)
    [other] = Story().looks(60, happened=[failed(1)])
    assert _ways(other, (TO_HOOK, BY_ANNA), nothing_is_sent=True) == (TO_HOOK,)


def test_its_end_goes_by_all_ways() -> None:
    story = Story()
    story.looks(60, paused("anna"))
    [notice] = story.looks(60)
    assert _ways(notice, (TO_HOOK, BY_ANNA)) == (TO_HOOK, BY_ANNA)


def test_nothing_of_a_way_but_its_scheme_is_shown() -> None:
    ways = parse_ways("slack://canary-token/b/c,json://u:canary@h/x?+X-Key=canary")
    assert [way.name for way in ways] == ["1 (slack)", "2 (json)"]
    assert "canary" not in repr(ways)


WRONG = {
    "nothing": "has no scheme",
    "slack:c4n4ry/b/c": "number 1 has no // behind its first colon",
    "json://": "number 1 (json:) ends behind its scheme: write json://",
    "mailto:": "ends behind its scheme: write mailto:ADDRESS?account=EMAIL",
    "mailto:a@b.example": "must say which account a mailto: sends from (number 1)",
    "mailto:a@b.example?account=u@v.example&c4n4ry=1": "must have account=EMAIL once, and nothing else",
    "mailto:c4n4ry?account=u@v.example": "its ADDRESS is no mailbox",
    "mailto:a@b.example?account=c4n4ry": "its EMAIL is no mailbox",
    "mailto://u:c4n4ry@h": "write mailto:ADDRESS?account=EMAIL, sent from that account",
    "mailtos:c4n4ry@b.example": "must have no mailtos:",
    "json://h/c4n4ry x": "has white space in it",
    "slakc://c4n4ry": "a service that Apprise does not know; did you mean slack://?",
    "nosuch://c4n4ry": "correct its scheme",
    "https://example.com/c4n4ry": "write jsons:// instead of https://",
    "http://example.com/c4n4ry": "write json:// instead of http://",
    "slack://c4n4ry": "its Slack (second) Token is missing or wrong",
    "discord://c4n4ry": "its Discord Webhook Token is missing or wrong",
    "pagerduty://c4n4ry": "its Pager Duty Routing Key is missing or wrong",
    "tgram://c4n4ry": "a part of it is missing or wrong",
    "json://h:99999/c4n4ry": "has no port from 1 to 65535",
}


def _check(url: str) -> None:
    for way in parse_ways(url):
        check_url(way)


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_told_its_true_cause_and_no_secret_of_it(url: str) -> None:
    with pytest.raises((ValueError, ConfigError)) as raised:
        _check(url)
    assert WRONG[url] in str(raised.value)
    assert "c4n4ry" not in str(raised.value)


def test_web_addresses_that_apprise_knows_are_taken() -> None:
    _check("https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX")


# -- as the database has it


def test_what_is_remembered_is_the_same_after_it_was_stored() -> None:
    trouble = Trouble(
        Kind.FAILED,
        "",
        1,
        2,
        3,
        4,
        5,
        6,
        "n",
        "a name",
        "a cause",
        "an effect",
        "a fix",
        urgent=True,
        is_worse=True,
        account="a@b.example",
        causes=Counter({"x": 2}),
        examples=("e",),
    )
    again = trouble_of(
        Kind.FAILED,
        "",
        first_at=1,
        noticed_at=2,
        last_at=3,
        count=4,
        told_at=5,
        ended_at=6,
        notice_id="n",
        detail=detail_of(trouble),
    )
    assert again == trouble
    told = {Kind.DISK: Told(1, None, 3)}
    assert told_from_values(told_to_values(told)) == told
    assert told_from_values({"a kind of a later version": [1, 2, 3]}) == {}
    [notice] = Story().looks(60, happened=[failed(1)])
    assert notice_from_json(notice_to_json(notice)) == notice
