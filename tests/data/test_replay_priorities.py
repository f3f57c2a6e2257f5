"""The three-level sum against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uld_torchrl.data import PrioritySum
from uld_torchrl.data.priorities import BLOCK

LAST = float(np.nextafter(1.0, 0.0))
EXTREME = st.one_of(st.just(0.0), st.floats(1e-8, 1e8), st.sampled_from([1e-8, 1.0, 1e8]))


def _filled(values: list[float]) -> PrioritySum:
    priorities = PrioritySum(len(values))
    priorities.assign(torch.arange(len(values)), torch.tensor(values, dtype=torch.float64))
    return priorities


def _intervals(values: list[float], first: int) -> dict[int, tuple[Fraction, Fraction]]:
    """Lay the priorities end to end from ``first`` on, exactly."""
    end, intervals = Fraction(0), {}
    for step in range(len(values)):
        index = (first + step) % len(values)
        intervals[index] = (end, end + Fraction(values[index]))
        end = intervals[index][1]
    return intervals


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=3 * BLOCK).filter(any), data=st.data())
def test_every_unit_of_mass_belongs_to_its_index(values, data):
    first = data.draw(st.integers(0, len(values) - 1))
    order = [(first + step) % len(values) for step in range(len(values))]
    expected = [index for index in order for _ in range(values[index])]
    u = (torch.arange(len(expected), dtype=torch.float64) + 0.5) / len(expected)
    assert _filled(values).locate(u, first).tolist() == expected


@given(values=st.lists(EXTREME, min_size=1, max_size=3 * BLOCK).filter(any), data=st.data())
def test_extreme_priorities_stay_within_rounding_and_zero_is_never_drawn(values, data):
    first = data.draw(st.integers(0, len(values) - 1))
    u = [0.0, LAST, *data.draw(st.lists(st.floats(0.0, LAST), max_size=20))]
    intervals = _intervals(values, first)
    total = sum(map(Fraction, values))
    # Between the exact borders too: the middle of each interval, and the borders themselves.
    middles = [min(float((a + b) / 2 / total), LAST) for a, b in intervals.values()]
    borders = [min(float(b / total), LAST) for _, b in intervals.values()]
    u += middles + borders
    drawn = _filled(values).locate(torch.tensor(u, dtype=torch.float64), first).tolist()
    slack = total * Fraction(len(values), 2**51)
    for fraction, index in zip(u, drawn, strict=True):
        start, end = intervals[index]
        assert values[index] > 0
        mass = Fraction(fraction) * total  # on a circle: the last index ends where the first begins
        assert any(start - slack <= mass + turn <= end + slack for turn in (-total, 0, total))


def test_no_empty_place_is_drawn_where_the_levels_round_differently():
    rng = np.random.default_rng(0)
    differing = 0
    for _ in range(200):
        values = rng.random((4, BLOCK)) * (rng.random((4, BLOCK)) < 0.6)
        values[:, -3:] = 0.0
        priorities = _filled(values.ravel().tolist())
        ends = priorities._entries[:4].cumsum(-1)[:, -1]
        differing += int((ends < priorities._sums[0, :4]).any())
        borders = priorities._sums[0, :4].cumsum(0) / priorities.total
        u = torch.stack([borders * (1 + step * 2.0**-52) for step in range(-4, 5)]).clamp(max=LAST)
        assert (priorities.values[priorities.locate(u.view(-1))] > 0).all()
    assert differing > 30  # otherwise the case was not met at all


@pytest.mark.parametrize("first", [0, 1, 63, 64, 4095, 4096, 8191, 9000, 12_345, 19_999])
def test_draws_are_those_of_one_cumulative_sum_over_several_blocks_of_blocks(first):
    rng = np.random.default_rng(first)
    size = 20_000  # five entries in the last level
    values = rng.integers(0, 4, size) * (rng.random(size) < 0.5)
    values[4096:8192] = 0  # one of them is empty
    values[12_000:12_300] = 0
    priorities = _filled(values.tolist())
    order = np.roll(np.arange(size), -first)
    mass = values[order].cumsum()
    u = np.append((rng.permutation(mass[-1])[:3000] + 0.5) / mass[-1], 0.0)
    expected = order[np.searchsorted(mass, u * mass[-1], side="right")]
    assert priorities.locate(torch.from_numpy(u), first).tolist() == expected.tolist()


def test_a_million_updates_leave_no_drift_in_the_sums_of_ten_million_priorities():
    size, batch = 10_000_000, 20_000
    generator = torch.Generator().manual_seed(0)
    priorities = PrioritySum(size)
    priorities.assign_range(0, torch.rand(size, generator=generator, dtype=torch.float64))
    for power in range(50):
        index = torch.randint(size, (batch,), generator=generator)
        scale = 10.0 ** (power % 9 - 4)  # each sum has held numbers far larger than it holds in the end
        priorities.assign(index, scale * torch.rand(batch, generator=generator, dtype=torch.float64))
    exact = math.fsum(priorities.values.tolist())
    assert abs(float(priorities.total) - exact) <= 1e-14 * exact


@given(
    size=st.integers(1, 4 * BLOCK) | st.integers(BLOCK**2 - 1, 2 * BLOCK**2 + 5),
    writes=st.lists(
        st.tuples(st.booleans(), st.integers(0, 10**6), st.lists(EXTREME, min_size=1)), max_size=12
    ),
)
def test_sums_are_those_of_the_blocks_after_any_writes(size, writes):
    priorities, expected = PrioritySum(size), np.zeros(size)
    for in_order, where, values in writes:
        values = values[:size]
        if in_order:
            first = where % (size - len(values) + 1)
            priorities.assign_range(first, torch.tensor(values, dtype=torch.float64))
            expected[first : first + len(values)] = values
        else:
            index = [(where + 7 * step) % size for step in range(len(values))]
            priorities.assign(torch.tensor(index), torch.tensor(values, dtype=torch.float64))
            for place in set(index):
                expected[place] = max(v for i, v in zip(index, values, strict=True) if i == place)
        assert priorities.values.tolist() == expected.tolist()
        padded = np.concatenate([expected, np.zeros(-size % BLOCK**2)]).reshape(-1, BLOCK, BLOCK)
        sums = torch.from_numpy(padded).sum(-1)
        assert torch.equal(priorities._sums, sums)
        assert torch.equal(priorities._top[0], sums.sum(-1))
        assert priorities.total == sums.sum(-1).sum()


def test_no_empty_place_is_drawn_where_a_cumulative_sum_is_not_monotone(monkeypatch):
    exact = torch.Tensor.cumsum
    generator = torch.Generator().manual_seed(0)

    def parallel(x: torch.Tensor, dim: int) -> torch.Tensor:
        noise = torch.randint(-4, 5, x.shape, generator=generator).double()
        return exact(x, dim) * (1 + noise * 2.0**-52)

    monkeypatch.setattr(torch.Tensor, "cumsum", parallel)
    values = torch.rand(8, BLOCK, generator=generator)
    values[:, 1::2] = 0.0
    values[3:5] = 0.0
    priorities = _filled(values.view(-1).tolist())
    borders = exact(priorities.values, 0) / priorities.total
    u = torch.stack([borders * (1 + step * 2.0**-52) for step in range(-4, 5)]).clamp(max=LAST).view(-1)
    for _ in range(20):
        assert (priorities.values[priorities.locate(u)] > 0).all()


def test_a_mass_that_rounds_up_to_the_total_belongs_to_the_last():
    values = [0.0] * 10 + [1.0, 2.0, 1.0, 0.0]
    # Starting at the end, 4 (1 - 2^-53) + 4 rounds to 8, which is twice the total.
    assert _filled(values).locate(torch.tensor([LAST], dtype=torch.float64), 13).tolist() == [12]


def test_duplicates_take_the_largest_value():
    priorities = _filled([5.0, 5.0, 5.0])
    priorities.assign(torch.tensor([1, 1, 1]), torch.tensor([2.0, 3.0, 1.0]))
    assert priorities.values.tolist() == [5.0, 3.0, 5.0]


def test_clear_leaves_nothing():
    priorities = _filled([1.0, 2.0])
    priorities.clear()
    assert priorities.total == 0
    assert not priorities.values.any()
