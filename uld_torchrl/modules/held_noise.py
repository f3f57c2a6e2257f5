"""HeldNoise: which of the noises drawn at each step is used, so that some steps in a row take the same one.

Noise is drawn at every step, as without holding, and every ``repeat``-th is used: random streams move on in
the same way. What the noise is added to is in ``exploration``; where episodes begin is told by who acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class HeldNoise:
    """Keeps the noise of each lane for ``repeat`` steps.

    The noise repetition of FlashSAC (arXiv 2604.04539), which draws ``repeat`` from a truncated zeta
    distribution; here it is fixed.

    Args:
        repeat: steps that take the same noise.

    Example:
        >>> held = HeldNoise(2)
        >>> [float(held(torch.tensor([drawn]))) for drawn in (1.0, 2.0, 3.0, 4.0)]
        [1.0, 1.0, 3.0, 3.0]
        >>> _ = held(torch.tensor([5.0]))
        >>> held.forget()
        >>> held(torch.tensor([6.0]))
        tensor([6.])
    """

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self._noise: Tensor | None = None
        self._left: Tensor | None = None

    def __call__(self, drawn: Tensor, begun: Tensor | None = None) -> Tensor:
        """Return the noise to use.

        Args:
            drawn: new noise, [*lanes, n]; of another shape than before, all of it is used.
            begun: lanes in which an episode begins, bool [*lanes] or [*lanes, 1].
        """
        if self._noise is None or self._left is None or self._noise.shape != drawn.shape:
            self._noise = drawn
            self._left = torch.zeros(drawn.shape[:-1], dtype=torch.int64, device=drawn.device)
        if begun is not None:
            self.forget(begun)
        anew = self._left == 0
        self._noise = torch.where(anew.unsqueeze(-1), drawn, self._noise)
        self._left = torch.where(anew, self.repeat, self._left) - 1
        return self._noise

    def forget(self, lanes: Tensor | None = None) -> None:
        """Let the next step of the lanes, bool [*lanes] or [*lanes, 1], take new noise; None: of all."""
        if lanes is None:
            self._noise = self._left = None
        elif self._left is not None:
            lanes = lanes.to(self._left.device).reshape(self._left.shape)
            self._left = self._left.masked_fill(lanes, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the noise that is held, and for how many more steps; both None before the first."""
        return {"noise": self._noise, "left": self._left}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore what :meth:`state_dict` gave."""
        noise, left = state_dict["noise"], state_dict["left"]
        self._noise, self._left = (None if each is None else each.to(device) for each in (noise, left))
