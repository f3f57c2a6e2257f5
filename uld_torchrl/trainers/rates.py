"""Learning rates that fall over a run's updates.

The rates are a function of the number of the update alone, which is in every checkpoint already: torch's own
schedulers (``LinearLR``, ``CosineAnnealingLR``, to whose values these are equal) save it a second time, and
warn in a run that goes on in mid-period, where the encoder's optimiser has not stepped yet. When updates
happen is in ``stepper``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from uld_torchrl.config import LrDecay, OptimConfig
from uld_torchrl.errors import InputError


class FallingRates:
    """Sets the learning rates of optimisers before each update: those they have now, times :func:`factor`.

    They become tensors that are written in place, so that a recorded update reads them anew.

    Args:
        optimizers: of one group each.
        config: ``lr_decay`` and ``lr_final``.
        total_updates: of the whole run; after them the rates stay.

    Raises:
        InputError: no ``total_updates``, or less than one.

    Example:
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
        >>> rates = FallingRates([optimizer], OptimConfig(lr_decay="linear", lr_final=0.0), total_updates=4)
        >>> rates.set(updates=3)
        >>> optimizer.param_groups[0]["lr"]
        tensor(0.1250)
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], config: OptimConfig, total_updates: int | None
    ) -> None:
        if total_updates is None or total_updates < 1:
            raise InputError(
                f"total_updates must be at least 1 for lr_decay {config.lr_decay!r}, got {total_updates}: "
                "give the updates of the whole run (AgentConfig.total_updates), or set optim.lr_decay=none."
            )
        self._config, self._total = config, total_updates
        self._optimizers = list(optimizers)
        self._begun = [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers]
        devices = [optimizer.param_groups[0]["params"][0].device for optimizer in optimizers]
        self._rates = [torch.tensor(lr, device=at) for lr, at in zip(self._begun, devices, strict=True)]
        self.set(updates=0)

    def set(self, updates: int) -> None:
        """Set the learning rates for the update after ``updates`` ones."""
        now = factor(self._config.lr_decay, self._config.lr_final, updates / self._total)
        for optimizer, begun, rate in zip(self._optimizers, self._begun, self._rates, strict=True):
            # Put there again, since an optimiser that is loaded has another tensor.
            optimizer.param_groups[0]["lr"] = rate.fill_(begun * now)


def factor(decay: LrDecay, final: float, done: float) -> float:
    """Return what a learning rate is multiplied by after the fraction ``done`` of all updates.

    Example:
        >>> factor("linear", 0.5, 0.5), factor("cosine", 0.5, 0.0), factor("cosine", 0.5, 2.0)
        (0.75, 1.0, 0.5)
    """
    done = min(done, 1.0)
    left = 1 - done if decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return final + (1 - final) * left
