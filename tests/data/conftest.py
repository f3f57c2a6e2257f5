"""Time steps for the replay buffer's tests, recognisable by their observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tensordict import TensorDict

# What may stand in (terminated, truncated, done); "none" goes on.
FLAGS = {
    "none": (False, False, False),
    "terminated": (True, False, True),
    "truncated": (False, True, True),
    "both": (True, True, True),
    "done": (False, False, True),
    "terminated_only": (True, False, False),
    "truncated_only": (False, True, False),
}


def _time_steps(endings: Sequence[Sequence[str]], first: int = 0) -> TensorDict:
    """Return time steps [lanes, T] with ``endings[lane][t]``; observation = (write number, lane)."""
    lanes, steps = len(endings), len(endings[0])
    number = torch.arange(first, first + steps, dtype=torch.float32).expand(lanes, steps)
    lane = torch.arange(lanes, dtype=torch.float32).unsqueeze(-1).expand(lanes, steps)
    observation = torch.stack([number, lane], -1)
    flags = torch.tensor([[FLAGS[name] for name in row] for row in endings]).unsqueeze(-2).unbind(-1)
    after = dict(zip(("terminated", "truncated", "done"), flags, strict=True))
    after |= {"observation": observation + 1, "reward": -number.unsqueeze(-1)}
    entries = {"observation": observation, "action": -observation, "next": after}
    return TensorDict(entries, batch_size=[lanes, steps])


@pytest.fixture(scope="session")
def time_steps() -> Callable[..., TensorDict]:
    return _time_steps


@pytest.fixture(scope="session")
def flags() -> dict[str, tuple[bool, bool, bool]]:
    return FLAGS
