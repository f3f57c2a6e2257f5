"""PeriodicHardUpdate: copy every target at once, before updates 1, K+1, 2K+1, ...

TorchRL's ``HardUpdate`` copies every K+1 calls and never copies buffers; this one does neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import TargetNetUpdater

from uld_torchrl.errors import InputError


class PeriodicHardUpdate(TargetNetUpdater):
    """Copy the online networks to their targets once in ``period`` updates (MR.Q, arXiv 2501.16142).

    Call :meth:`step` before every update.

    Args:
        loss_module: a loss with target parameters.
        period: updates between two copies.

    Raises:
        InputError: the period is below 1.

    Example:
        >>> from torchrl.data import Bounded, Unbounded
        >>> from uld_torchrl import make_loss, make_networks
        >>> spec = Bounded(-1, 1, (2,))
        >>> updater = PeriodicHardUpdate(make_loss(make_networks(Unbounded(3), spec), spec), period=2)
        >>> [updater.step() for _ in range(5)]
        [True, False, True, False, True]
    """

    def __init__(self, loss_module: LossModule, *, period: int = 250) -> None:
        if period < 1:
            raise InputError(f"period must be at least 1, got {period}.")
        super().__init__(loss_module)
        self.period = period
        self.counter = 0

    @property
    def due(self) -> bool:
        """Whether the next :meth:`step` copies."""
        return self.counter % self.period == 0

    def step(self) -> bool:
        """Count one update and copy the targets if a period begins; return whether it did."""
        due = self.due
        if due:
            self.copy_()
        self.counter += 1
        return due

    @torch.no_grad()
    def copy_(self) -> None:
        """Copy every parameter and buffer to its target, in place."""
        for name in self._target_names:
            # From `_modules`: attribute access would warn about targets without an updater.
            target = self.loss_module._modules[name]
            source = getattr(self.loss_module, name.removeprefix("target_"))
            target.data.update_(source.data)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the position in the period."""
        super().load_state_dict(state_dict)
        self.counter = int(self.counter)
