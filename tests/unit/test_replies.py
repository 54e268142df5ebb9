"""What servers say, row by row: each reply of replies.csv means what it says there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from postroom.model import Reply
from postroom.replies import Circumstances, read
from postroom.reply_table import DAY, HOUR, Place
from postroom.status import parse_enhanced

PERIODS = {"day": DAY, "hour": HOUR}
ROWS = list(
    csv.DictReader((Path(__file__).parent / "cases/replies.csv").read_text(encoding="utf-8").splitlines())
)


def reply(text: str) -> Reply:
    code, _, rest = text.partition(" ")
    enhanced = parse_enhanced(rest)
    return Reply(int(code), rest.removeprefix(enhanced or "").strip(), enhanced)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['at']} {row['reply'][:60]}")
def test_a_reply_means(row: dict[str, str]) -> None:
    place = Place(row["at"])
    found = read(
        reply(row["reply"]),
        place,
        Circumstances(
            logged_in=place is not Place.AUTH, carried=True, some_taken="some were taken" in row["reply"]
        ),
    )
    assert found.meaning.value == row["meaning"]
    if row["period"]:
        assert found.period == PERIODS[row["period"]]
