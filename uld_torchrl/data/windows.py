"""What a drawn anchor becomes: a window of H consecutive records of its lane.

Which anchors are drawn, and that their windows are whole, is the sampler's part.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import TensorStorage
from torchrl.data.replay_buffers import SampleUnit

from uld_torchrl.data.keys import stored
from uld_torchrl.errors import InputError


class HorizonWindow(SampleUnit):
    """Expands anchors [B] into windows [B, H], so that a sample has the batch size [B, H].

    Two entries are added to the sample: ``anchor_index`` [B, H, 2], the storage coordinates
    (time, lane) of the window's first record, the same for all its steps, which
    ``rb.update_priority`` takes as it is; and ``validity_mask`` [B, H], which is true up to and
    including the first termination in the window and false after it.

    Args:
        horizon: records H in a window; the sampler's. ``steps`` of them, by default all, are gathered.
        terminated_key: name of the stored flag that ends a task.

    Raises:
        InputError: ``horizon`` is not at least one.

    Example:
        >>> import torch
        >>> from uld_torchrl.data import HorizonWindow
        >>> HorizonWindow.validity(torch.tensor([[False, True, False]])).tolist()
        [[True, True, False]]
    """

    def __init__(self, horizon: int = 5, terminated_key: NestedKey = ("next", "terminated")) -> None:
        if horizon < 1:
            raise InputError(f"horizon must be at least 1, got {horizon}.")
        self.horizon = self.steps = horizon
        self.terminated_key = terminated_key

    def expand(
        self, index: tuple[Tensor, Tensor], info: dict[str, Any], storage: TensorStorage
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """Return the coordinates (time, lane) of the windows' first ``steps`` records, [B, steps] each.

        And what is known of them.
        """
        time, lane = index
        terminated = stored(storage, self.terminated_key)
        shape = (len(time), self.steps)
        times = (time.unsqueeze(-1) + torch.arange(self.steps, device=time.device)) % len(terminated)
        lanes = lane.unsqueeze(-1).expand(shape)
        anchor = torch.stack([time, lane], -1).unsqueeze(1).expand(*shape, 2)
        mask = self.validity(terminated[times, lanes].view(shape))
        return (times, lanes), {**info, "anchor_index": anchor, "validity_mask": mask}

    @staticmethod
    def validity(terminated: Tensor) -> Tensor:
        """Return which steps [B, H] have no termination before them: prod_{k<t} (1 - terminated_k)."""
        return terminated.cumsum(-1) == terminated
