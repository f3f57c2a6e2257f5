"""Names of the entries that the replay buffer stores, and the one way to look at a stored entry.

TorchRL reads entries of a storage through slices of the whole tensordict, which costs more than
the rest of a write; :func:`stored` is the only place that reaches past that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from tensordict import NestedKey
from torchrl.data import TensorStorage


@dataclass(frozen=True)
class ReplayKeys:
    """The entries of a time step that are stored; all others are left out.

    A key may name a nested tensordict; a subclass with more fields stores more entries.

    Example:
        >>> from uld_torchrl.data import ReplayKeys
        >>> ReplayKeys(observation="state", next_observation=("next", "state")).stored[0]
        'state'
    """

    observation: NestedKey = "observation"
    """What the agent saw before acting."""
    action: NestedKey = "action"
    """What it did."""
    next_observation: NestedKey = ("next", "observation")
    """What it saw afterwards."""
    reward: NestedKey = ("next", "reward")
    """What it was paid."""
    terminated: NestedKey = ("next", "terminated")
    """Whether the task ended with this step: the value of what follows is zero."""
    truncated: NestedKey = ("next", "truncated")
    """Whether recording stopped with this step although the task goes on."""
    done: NestedKey = ("next", "done")
    """Terminated or truncated; done alone counts as truncated."""

    @classmethod
    def of_images(cls) -> ReplayKeys:
        """Return the names where the agent sees images: ``pixels`` and ``("next", "pixels")``."""
        return cls(observation="pixels", next_observation=("next", "pixels"))

    @property
    def stored(self) -> tuple[NestedKey, ...]:
        """All keys, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def stored(storage: TensorStorage, key: NestedKey) -> torch.Tensor:
    """Return the whole tensor [ring_length, num_lanes, ...] behind a storage's entry, as a view."""
    return cast(torch.Tensor, storage._storage.get(key))
