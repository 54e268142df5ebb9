"""Each parser of foreign bytes stands what fuzzing has found, and some inputs more; `make fuzz` tries it for longer."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import CRASHES, texts
from tests.fuzz.targets import SEEDS, TARGETS
from tests.soak import SOAK

FOUND = sorted(CRASHES.glob("*-*")) if CRASHES.is_dir() else []


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_stands_its_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        for at in range(len(seed)):
            TARGETS[name](seed[:at])


def test_what_crashed_once_crashes_no_more() -> None:
    for path in FOUND:
        TARGETS[path.name.partition("-")[0]](path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=2000 if SOAK else 25, deadline=None)
@given(st.data())
def test_a_parser_stands_anything(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(texts(name)))
