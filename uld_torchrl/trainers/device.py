"""Choosing the device that a run uses."""

from __future__ import annotations

import torch

from uld_torchrl.errors import InputError


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: an unknown name, or a device that this machine lacks.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["auto", "cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        raise InputError(
            f"device must be one of {', '.join(available)} on this machine, got {name!r}."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda, got {name!r}.")
    return device
