"""Random streams of several runs in one process: each run draws the numbers that it would draw alone.

All draws of a run come from global generators (Python's, NumPy's, torch's on every device), so the runs take
turns: the states of one are in place, those of the others put away. Which run's turn it is, is decided by
``seeds``; draws for all runs at once, in an update that they share, are made here too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.checkpoint import GlobalRNGState


class RandomStreams:
    """The global random states of several runs, by the seed of the run.

    Example:
        >>> streams = RandomStreams()
        >>> for seed in (3, 4):
        ...     _ = torch.manual_seed(seed)
        ...     streams.add(seed)
        >>> streams.switch(3)
        >>> first = torch.rand(1)
        >>> streams.switch(4)
        >>> bool(torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(4)))
        True
    """

    def __init__(self) -> None:
        self._global = GlobalRNGState()
        self._states: dict[int, dict[str, Any]] = {}
        self._present: int | None = None

    def add(self, seed: int) -> None:
        """Take the present global states as those of one run more."""
        self._put_away()
        self._states[seed] = self._global.state_dict()

    def switch(self, seed: int) -> None:
        """Put the states of that run in place, until the next switch."""
        if seed != self._present:
            self._put_away()
            self._global.load_state_dict(self._states[seed])
            self._present = seed

    def draws(self, seeds: Sequence[int]) -> TorchDispatchMode:
        """Let the k-th of K rows of each random tensor be drawn by the k-th of these runs, while entered.

        Under ``torch.vmap(..., randomness="different")`` torch draws such tensors [K, ...].

        Example:
            >>> streams = RandomStreams()
            >>> for seed in (3, 4):
            ...     _ = torch.manual_seed(seed)
            ...     streams.add(seed)
            >>> with streams.draws([3, 4]):
            ...     both = torch.randn_like(torch.zeros(2, 5))
            >>> bool((both[1] == torch.randn(5, generator=torch.Generator().manual_seed(4))).all())
            True
        """
        self._put_away()
        return _RowByRow([self._states[seed] for seed in seeds])

    def _put_away(self) -> None:
        if self._present is not None:
            self._states[self._present] = self._global.state_dict()
            self._present = None


class _RowByRow(TorchDispatchMode):
    """Draws each row of a random tensor with torch's generators in another state, and keeps that state."""

    def __init__(self, states: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self._states = states

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        rows = [
            _drawn(state, row, lambda row: func(row, *args[1:], **kwargs))
            for state, row in zip(self._states, args[0], strict=True)
        ]
        return args[0] if func._schema.is_mutable else torch.stack(rows)


def _drawn(state: dict[str, Any], row: Tensor, draw: Any) -> Tensor:
    if row.is_cuda:
        states, index = state["torch_cuda"], row.device.index
        torch.cuda.set_rng_state(states[index], index)
        drawn = draw(row)
        states[index] = torch.cuda.get_rng_state(index)
    else:
        torch.set_rng_state(state["torch_cpu"])
        drawn = draw(row)
        state["torch_cpu"] = torch.get_rng_state()
    return drawn


def seed_everything(seed: int) -> None:
    """Set all global random states by a seed.

    Example:
        >>> seed_everything(3)
        >>> torch.initial_seed()
        3
    """
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
