"""Faded prioritised replay: how often windows are drawn by priority and age, and that it is stored nowhere.

Priorities themselves are in ``test_replay_priorities``, which windows are legal in ``test_sampler``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from uld_torchrl.config import ReplayConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.data.priorities import faded
from uld_torchrl.errors import InputError

DRAWS = 8_000


def buffer_of(time_steps: Callable[..., Any], steps: int, capacity: int = 16, **options: Any) -> Any:
    """A buffer of two lanes and windows of one step, after so many time steps."""
    lanes = options.pop("lanes", 2)
    rb = make_replay_buffer(
        capacity=capacity * lanes, num_lanes=lanes, horizon=1, batch_size=DRAWS, alpha=1.0, **options
    )
    for first in range(steps):
        rb.extend(time_steps([["none"]] * lanes, first))
    return rb


def shares(rb: WindowReplayBuffer) -> Tensor:
    """How often each record [ring, lane] was drawn, of all draws."""
    torch.manual_seed(0)
    time, lane = rb.sample()["anchor_index"][:, 0].unbind(-1)
    counts = torch.zeros(rb._sampler.ring_length, rb._sampler.num_lanes)
    return counts.index_put_((time, lane), torch.ones(len(time)), accumulate=True) / len(time)


def expected(rb: WindowReplayBuffer, fade: float, floor: float) -> Tensor:
    """The same by the definition, from the order in which records were written."""
    sampler = rb._sampler
    weights = sampler.priorities.clone()
    for back in range(sampler.num_written):
        weights[(sampler.head - 1 - back) % sampler.ring_length] *= max(fade ** (2 * back), floor)
    return (weights / weights.sum()).float()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("steps", [5, pytest.param(16, marks=pytest.mark.slow), 23])
def test_draws_follow_priority_times_the_factor_of_age(
    time_steps: Callable[..., Any], steps: int, waits: bool
) -> None:
    """Two lanes: a time step is two agent steps. Within five standard deviations of a share."""
    rb = buffer_of(time_steps, steps, fade=0.9, fade_floor=0.2)
    rb._sampler.waits = waits
    rb.update_priority(torch.tensor([[1, 0], [3, 1]]), torch.tensor([6.0, 3.0]))
    wanted = expected(rb, 0.9, 0.2)
    spread = (wanted * (1 - wanted) / DRAWS).sqrt()
    assert ((shares(rb) - wanted).abs() <= 5 * spread).all()
    unfaded = rb._sampler.priorities / rb._sampler.priorities.sum()
    assert ((shares(rb) - unfaded).abs() > 5 * spread).any()  # the test can tell


def test_fading_is_worked_out_when_drawing_and_changes_no_priority(time_steps: Callable[..., Any]) -> None:
    faded_one, plain = (buffer_of(time_steps, 10, fade=fade) for fade in (0.9, 1.0))
    for rb in (faded_one, plain):
        rb.sample()
        rb.update_priority(torch.tensor([[2, 1]]), torch.tensor([5.0]))
    assert torch.equal(faded_one._sampler.priorities, plain._sampler.priorities)
    assert faded_one.state_dict().keys() == plain.state_dict().keys()


def test_without_fading_the_draws_are_those_of_before(time_steps: Callable[..., Any]) -> None:
    """By the inverse of the cumulative distribution at the very numbers that the generator gives."""
    rb = buffer_of(time_steps, 10, fade=1.0, fade_floor=0.5)
    torch.manual_seed(3)
    found = rb.sample()["anchor_index"][:, 0]
    torch.manual_seed(3)
    index = rb._sampler._priorities.locate(torch.rand(DRAWS, dtype=torch.float64))
    assert torch.equal(found, torch.stack([index // 2, index % 2], -1))


def test_ages_go_on_after_a_restore(time_steps: Callable[..., Any]) -> None:
    rb = buffer_of(time_steps, 23, fade=0.7, fade_floor=0.01)
    again = buffer_of(time_steps, 0, fade=0.7, fade_floor=0.01)
    again.load_state_dict(rb.state_dict())
    assert torch.equal(shares(again), shares(rb))
    sampler = buffer_of(time_steps, 0, fade=0.7)._sampler
    sampler.load_state_dict(rb._sampler.state_dict())
    assert int(sampler._clock) == rb._sampler.head == 7
    rb.empty()
    assert int(rb._sampler._clock) == 0


@pytest.mark.parametrize("waits", [True, False])
def test_rejection_gives_what_was_accepted_in_the_order_of_the_draws(waits: bool) -> None:
    numbers = iter(range(10**6))

    def draw(count: int) -> Tensor:
        return torch.tensor([next(numbers) for _ in range(count)])

    found = faded(draw, lambda index: index % 5 == 3, 4, waits=waits)
    # Waiting: 0 to 3, of which 3 is taken; 4, 5, 6 and 7, 8, 9 for the first three; 10, 11; 12, 13; ...
    # Else the first accepted of 0, 4, 8, ... for the first place, of 1, 5, 9, ... for the second, ...
    assert found.tolist() == ([18, 8, 13, 3] if waits else [8, 13, 18, 3])


def test_where_nothing_is_accepted_a_draw_that_may_not_wait_takes_the_first() -> None:
    found = faded(torch.arange, lambda index: torch.zeros(len(index), dtype=torch.bool), 3, waits=False)
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fade": 1.1}, r"fade must lie in \[0.5, 1\], got 1.1"),
        ({"fade": 0.4}, r"fade must lie in \[0.5, 1\], got 0.4"),
        ({"fade": float("nan")}, r"fade must lie in \[0.5, 1\], got nan"),
        ({"fade_floor": 0.0}, r"fade_floor must lie in \[0.01, 1\], got 0.0"),
        ({"fade_floor": 2.0}, r"fade_floor must lie in \[0.01, 1\], got 2.0"),
    ],
)
def test_factors_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReplayConfig(**settings)
    with pytest.raises(InputError, match=message):
        make_replay_buffer(capacity=100, **settings)
