"""What a loss may be given: windows [B, H] with its entries, none running on past a truncation.

Replay never makes another batch; offline data might. The checks raise before any computation; values
are looked at for the truncations only.
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


def check_shape(td: TensorDictBase, horizon: int, read: int | None = None) -> None:
    """Refuse a batch that is not [B, H], or [B, ``read``], the steps of it that are read.

    Raises:
        InputError: another number of batch dimensions, or another window length.

    Example:
        >>> from tensordict import TensorDict
        >>> check_shape(TensorDict(batch_size=[4, 5]), 5)
    """
    if td.ndim == 2 and td.shape[1] in (horizon, read):
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


def check_kinds(
    td: TensorDictBase,
    keys: Any,
    observed: Sequence[NestedKey],
    action_size: int,
    dtype: torch.dtype,
    discrete: bool,
) -> None:
    """Refuse entries of another shape or type than the loss reads.

    Args:
        td: windows [B, H] that have all entries needed.
        keys: the loss's ``tensor_keys``.
        observed: what the state encoder reads.
        action_size: length A of an action, or of its one-hot vector.
        dtype: the loss's own type, which rewards must have.
        discrete: whether actions are one-hot vectors, of any type.

    Raises:
        InputError: the message names the entry, the shape and type wanted, and those given.
    """
    column, vector = (*td.shape, 1), (*td.shape, action_size)
    flag = "give booleans with a last dimension of 1 (unsqueeze(-1))"
    _check_kind(td, next_key(keys.reward), column, dtype, f"give {dtype}, as the networks are, of that shape")
    _check_kind(td, next_key(keys.terminated), column, torch.bool, flag)
    for key in (next_key(keys.truncated), next_key(keys.done), keys.validity_mask):
        entry = td.get(key, None)
        if entry is not None:
            flat = key == keys.validity_mask and entry.shape == td.shape
            _check_kind(td, key, tuple(td.shape) if flat else column, torch.bool, flag)
    action = td.get(keys.action)
    kind = action.dtype if discrete or action.dtype.is_floating_point else dtype
    fix = "one-hot vectors (torch.nn.functional.one_hot)" if discrete else "float vectors"
    _check_kind(td, keys.action, vector, kind, f"give {fix} of the action_spec's length")
    for key in observed:
        now = td.get(key)
        _check_kind(td, next_key(key), tuple(now.shape), now.dtype, f"give the same kind as {key!r}")


def _check_kind(
    td: TensorDictBase, key: NestedKey, shape: tuple[int, ...], dtype: torch.dtype, fix: str
) -> None:
    entry = td.get(key)
    if tuple(entry.shape) == shape and entry.dtype == dtype:
        return
    raise InputError(
        f"the batch's entry {key!r} must be {dtype} of shape {shape}, got {entry.dtype} of shape "
        f"{tuple(entry.shape)}: {fix}."
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
