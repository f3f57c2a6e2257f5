"""Lists of seeds at the command line: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld_torchrl.errors import InputError
from uld_torchrl.seed_list import check_seeds, parse_seeds


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=6))
def test_a_list_is_all_its_seeds_and_ranges_in_order(parts: list[tuple[int, int]]) -> None:
    # Part k begins at 50 k, so that none overlaps.
    spans = [(50 * k + first, 50 * k + first + more) for k, (first, more) in enumerate(parts)]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    assert parse_seeds("--seeds", text) == [seed for a, b in spans for seed in range(a, b + 1)]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-9", list(range(10))),
        ("5, 1 - 2", [5, 1, 2]),
        ("3-3", [3]),
        ("4294967295", [2**32 - 1]),
    ],
)
def test_lists_by_hand(text: str, seeds: list[int]) -> None:
    assert parse_seeds("--seeds", text) == seeds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got ''"),
        ("1,,2", "got ''"),
        ("a-b", "'a-b'"),
        ("1.5", "'1.5'"),
        ("-3", "'-3'"),
        ("0:9", "'0:9'"),
        ("9-0", "write 0-9"),
        ("1-3,2", "2 twice"),
        ("0-1000", "at most 1000"),
        ("0-998,2000,3000", "at most 1000"),
        ("4294967296", "4294967296"),
        ("٣", "'٣'"),
    ],
)
def test_what_is_no_list_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_seeds("--seeds", text)
    assert words in str(caught.value)
    assert "seed" in str(caught.value)


@pytest.mark.parametrize("seeds", [[], "0-9", 3, None, [0, 0], [-1], [0.5]])
def test_lists_in_python_are_checked_as_well(seeds: object) -> None:
    with pytest.raises(InputError, match="seed"):
        check_seeds("seeds", seeds)  # type: ignore[arg-type]


def test_a_thousand_seeds_are_the_most() -> None:
    assert len(parse_seeds("--seeds", "0-999")) == 1000
