"""What a loss may be given: the shape [B, H], and no window that runs on past a truncation.

Replay never makes such a window; offline data might. The checks raise before any computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from uld_torchrl.errors import InputError
from uld_torchrl.functional import alive_mask
from uld_torchrl.modules.rollout import next_key


def check_shape(td: TensorDictBase, horizon: int) -> None:
    """Refuse a batch that is not [B, H].

    Raises:
        InputError: another number of batch dimensions, or another window length.

    Example:
        >>> from tensordict import TensorDict
        >>> check_shape(TensorDict(batch_size=[4, 5]), 5)
    """
    if td.ndim == 2 and td.shape[1] == horizon:
        return
    raise InputError(
        f"expected windows of batch size (B, {horizon}), got {tuple(td.shape)}: sample sub-trajectories of "
        f"`horizon` steps (make_replay_buffer does), or set the loss's horizon to the window length."
    )


def check_entries(td: TensorDictBase, needed: Sequence[NestedKey]) -> None:
    """Refuse a batch that lacks an entry.

    Raises:
        InputError: one of the needed keys is missing; the message names it.

    Example:
        >>> from tensordict import TensorDict
        >>> check_entries(TensorDict(action=torch.zeros(3), batch_size=[]), ["action"])
    """
    missing = [key for key in needed if td.get(key, None) is None]
    if missing:
        raise InputError(
            f"the batch lacks the entry {missing[0]!r}; the loss reads {list(needed)}. "
            "Add it, or tell the loss its name with set_keys."
        )


def check_window(td: TensorDictBase, keys: Any, n_steps: int) -> None:
    """Refuse windows whose later steps belong to another episode, unless a termination masks them.

    Raises:
        InputError: a step before the window's last is truncated and no termination precedes it; or
            ``validity_mask`` drops one of the first n steps that is not masked by a termination.
    """
    terminated = td.get(next_key(keys.terminated)).squeeze(-1)
    alive = alive_mask(terminated).bool()
    counted = alive
    validity = td.get(keys.validity_mask, None)
    if validity is not None:
        validity = validity.reshape(alive.shape)
        _refuse(
            alive[:, :n_steps] & ~validity[:, :n_steps],
            "validity_mask is false at step {step} of window {window}, but the value target needs the "
            "first {n} steps: give windows with at least n_steps valid steps.".replace("{n}", str(n_steps)),
        )
        counted = alive & validity
    # Steps of the window that count, of those after each.
    later = counted.flip(-1).cumsum(-1).flip(-1) - counted.long()
    _refuse(
        _truncated(td, keys, terminated) & alive & (later > 0),
        "window {window} runs on past the truncation at its step {step}: its later steps belong to another "
        "episode. Start no window less than horizon steps before a truncation, or mark the later steps "
        "false in validity_mask.",
    )


def _truncated(td: TensorDictBase, keys: Any, terminated: Tensor) -> Tensor:
    ended = torch.zeros_like(terminated)
    for key in (keys.truncated, keys.done):
        flag = td.get(next_key(key), None)
        ended = ended if flag is None else ended | flag.squeeze(-1)
    return ended & ~terminated


def _refuse(bad: Tensor, message: str) -> None:
    if not bool(bad.any()):
        return
    window, step = bad.nonzero()[0].tolist()
    raise InputError(message.format(window=window, step=step))
