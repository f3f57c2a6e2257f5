"""Lengths of time as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld_torchrl.duration import parse_duration
from uld_torchrl.errors import InputError

SECONDS = {
    "90": 90,
    "0.5": 0.5,
    "8h": 28_800,
    "30m": 1800,
    "45s": 45,
    "2d": 172_800,
    "1h30m": 5400,
    "1d2h3m4.5s": 93_784.5,
    " 1H ": 3600,
    "1:30:00": 5400,
    "100:00:01": 360_001,
}


@pytest.mark.parametrize(("text", "seconds"), SECONDS.items())
def test_usual_forms(text: str, seconds: float) -> None:
    assert parse_duration("--time-limit", text) == seconds


@pytest.mark.parametrize(
    "text", ["1:30", "1:60:00", "1:00:60", "1:0:0", "0h", "0:00:00", "1h 30m", "1e400", "\u0664\u0662x"]
)
def test_what_could_be_read_in_two_ways_or_is_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--time-limit must be a length of time"):
        parse_duration("--time-limit", text)


@given(st.text(max_size=12))
def test_any_text_is_a_positive_number_or_refused(text: str) -> None:
    try:
        assert 0 < parse_duration("x", text) < float("inf")
    except InputError as error:
        assert repr(text) in str(error)
