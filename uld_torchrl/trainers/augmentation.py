"""Random shifts of the images in a window, applied by the stepper between sampling and the losses.

The shift itself is :func:`uld_torchrl.functional.random_shift`; here is which stacks get one. Vectors pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from uld_torchrl.errors import InputError
from uld_torchrl.functional import random_shift
from uld_torchrl.modules.rollout import next_key

EVERY, FIRST = slice(None), slice(1)


def shift_images(
    window: TensorDictBase,
    keys: Sequence[NestedKey],
    pad: int,
    next_steps: slice = EVERY,
    steps: slice = FIRST,
) -> TensorDictBase:
    """Return the window with the images that the losses read shifted at random.

    Each stack draws its own shift (dy, dx) from {0, ..., 2 pad}^2, the frames of a stack share it (MR.Q,
    arXiv 2501.16142). The losses read ``steps`` of the observations and ``next_steps`` of the next ones; the
    other steps repeat the first one that is read, since shifting them would be wasted.

    Args:
        window: [B, H]; it is left as it is.
        keys: of the observations; those that are not uint8 stay as they are.
        pad: largest shift in pixels, smaller than the images; 0 changes nothing.
        next_steps: steps whose next observations are read: all of them, or one.
        steps: steps whose observations are read: the first one, or all of them.

    Raises:
        InputError: images of which such a shift could leave nothing.

    Example:
        >>> from tensordict import TensorDict
        >>> image = torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8)
        >>> window = TensorDict(pixels=image, next=TensorDict(pixels=image), batch_size=[2, 3])
        >>> shift_images(window, ["pixels"], pad=4)["next", "pixels"].shape
        torch.Size([2, 3, 4, 32, 32])
    """
    images = [key for key in keys if pad and window.get(key).dtype == torch.uint8]
    if not images:
        return window
    window = window.copy()
    for key in images:
        check_shift(pad, window.get(key).shape[-2:])
        for name, read in ((key, steps), (next_key(key), next_steps)):
            window.set(name, _shifted(window.get(name), read, pad))
    return window


def check_shift(pad: int, size: Sequence[int]) -> None:
    """Refuse shifts by as much as the height or the width of the images.

    Raises:
        InputError: the shift is too large.

    Example:
        >>> check_shift(4, (84, 84))
    """
    if pad >= min(size):
        raise InputError(
            f"image_shift must be smaller than the images' height and width, {size[0]} and {size[1]}, "
            f"got {pad}."
        )


def _shifted(stacks: Tensor, steps: slice, pad: int) -> Tensor:
    """Shift the stacks [B, H, k C, h, w] of some steps and let them stand for all."""
    read = stacks[:, steps]
    shifts = torch.randint(2 * pad + 1, (*read.shape[:2], 2), device=read.device)
    return random_shift(read, shifts, pad).expand(stacks.shape)
