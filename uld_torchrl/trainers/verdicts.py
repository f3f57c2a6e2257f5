"""Verdicts that stay on the device: what a watchdog must know of updates that nobody waited for.

Every operation is in place and without a look at a value, so that it can be part of a CUDA graph; reading
them is one transfer, at :meth:`Verdicts.read`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor


class Counted(NamedTuple):
    """Updates left out since the last reading, how many in a row at most, and how many up to now."""

    left_out: int
    longest: int
    row: int


class Verdicts:
    """Counts the updates of a kind that were left out, and keeps the first one's numbers and batch.

    Args:
        numbers: like the readings of an update, 1-dim.
        batch: like the batch of an update.

    Example:
        >>> from tensordict import TensorDict
        >>> verdicts = Verdicts(torch.zeros(1), TensorDict(reward=torch.zeros(2)))
        >>> for found in (0.0, 1.0, 1.0, 0.0):
        ...     batch = TensorDict(reward=torch.full((2,), found))
        ...     verdicts.add(torch.tensor(found), torch.tensor([found]), batch)
        >>> verdicts.read()
        Counted(left_out=2, longest=2, row=0)
    """

    def __init__(self, numbers: Tensor, batch: TensorDictBase) -> None:
        self.numbers, self.batch = torch.zeros_like(numbers), batch.clone()
        self._left_out, self._longest, self._row = torch.zeros(3, device=numbers.device).unbind()

    @torch.no_grad()
    def add(self, found: Tensor, numbers: Tensor, batch: TensorDictBase) -> None:
        """Take note of an update; ``found`` is 1.0 if something in it is not finite, else 0.0."""
        first = found * (self._left_out == 0) > 0
        self.numbers.copy_(torch.where(first, numbers, self.numbers))
        for key, kept in self.batch.items(True, True):
            kept.copy_(torch.where(first, batch.get(key), kept))
        self._left_out.add_(found)
        self._row.add_(1).mul_(found)
        self._longest.copy_(torch.maximum(self._longest, self._row))

    def read(self) -> Counted:
        """Return the counts since the last reading; waits for the device."""
        counted = Counted(*(int(n) for n in torch.stack([self._left_out, self._longest, self._row]).tolist()))
        self._left_out.zero_()
        self._longest.copy_(self._row)
        return counted

    def begin_at(self, row: int) -> None:
        """Go on from ``row`` updates left out one after another."""
        self._row.fill_(row)
        self._longest.fill_(row)
