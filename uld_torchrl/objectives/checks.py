"""What a loss's networks must be, read and write; where one fails or disagrees, it is named.

The batch is checked in ``windows``. Everything here compares names and shapes, never values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from uld_torchrl.errors import InputError

T = TypeVar("T")


def check_module(name: str, module: nn.Module) -> None:
    """Refuse a network that does not say which entries it reads and writes.

    Raises:
        InputError: it is no TensorDict module.

    Example:
        >>> from tensordict.nn import TensorDictModule
        >>> encoder = TensorDictModule(nn.Linear(3, 8), ["observation"], ["state_embedding"])
        >>> check_module("state_encoder", encoder)
    """
    if isinstance(module, TensorDictModuleBase):
        return
    raise InputError(
        f"{name} must be a TensorDict module, got {type(module).__name__}: wrap it, "
        "tensordict.nn.TensorDictModule(module, in_keys=[...], out_keys=[...])."
    )


def check_keys(networks: Mapping[str, TensorDictModuleBase], keys: Any, predicted: NestedKey) -> None:
    """Refuse networks whose entries are not those of the loss.

    Args:
        networks: the five networks by name; the state encoder may read anything.
        keys: the loss's ``tensor_keys``.
        predicted: where the predictor writes the next embedding.

    Raises:
        InputError: a network reads what the loss does not give it, or does not write what the loss reads.
    """
    z_s, z_sa = keys.state_embedding, keys.state_action_embedding
    wanted: dict[str, tuple[list[NestedKey], list[NestedKey]]] = {
        "state_encoder": (list(networks["state_encoder"].in_keys), [z_s]),
        "state_action_encoder": ([z_s, keys.action], [z_sa]),
        "predictor": ([z_sa], [keys.terminated_pred, predicted, keys.reward_logits]),
        "actor_network": ([z_s], [keys.action, keys.pre_activation]),
        "qvalue_network": ([z_sa], [keys.state_action_value]),
    }
    fix = "change the network's in_keys and out_keys, or tell the loss the name with set_keys"
    for name, (given, read) in wanted.items():
        reads, writes = list(networks[name].in_keys), list(networks[name].out_keys)
        if (key := _first_absent(reads, given)) is not None:
            raise InputError(f"{name} reads {key!r}, but the loss gives it {given}: {fix}.")
        if (key := _first_absent(read, writes)) is not None:
            raise InputError(f"{name} must write {key!r}, but it writes {writes}: {fix}.")


def _first_absent(needed: Sequence[NestedKey], there: Sequence[NestedKey]) -> NestedKey | None:
    present = [unravel_key(key) for key in there]
    return next((key for key in needed if unravel_key(key) not in present), None)


def call_network(name: str, given: Mapping[NestedKey, Tensor | None], call: Callable[[], T]) -> T:
    """Return ``call()``; if the network in it fails, say which one and on what.

    Raises:
        InputError: a shape, type or entry does not fit the network; the cause is attached.

    Example:
        >>> call_network("actor_network", {"state_embedding": torch.zeros(4, 8)}, lambda: 1)
        1
    """
    try:
        return call()
    except (KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        shapes = [f"{key!r} {_described(value)}" for key, value in given.items()]
        raise InputError(
            f"{name} cannot take {', '.join(shapes)}: {_cause(error)}. Its layers must fit the width and "
            "type of what it is given, by the batch or by the network before it."
        ) from error


def _described(value: Tensor | None) -> str:
    return "(missing)" if value is None else f"{tuple(value.shape)} {value.dtype}"


def _cause(error: BaseException) -> str:
    # tensordict raises the module's own error with a remark of its own as the cause.
    return str(error.args[0] if error.args else error).split("\n")[0].rstrip(".")


def check_output(name: str, key: NestedKey, value: Tensor | None, shape: Sequence[int | None]) -> Tensor:
    """Return what a network wrote if it has this shape; None is any size.

    Raises:
        InputError: another shape, or nothing was written.

    Example:
        >>> check_output("state_encoder", "state_embedding", torch.zeros(4, 8), (4, None)).shape
        torch.Size([4, 8])
    """
    given = None if value is None else tuple(value.shape)
    fits = given is not None and len(given) == len(shape)
    if value is not None and fits and all(w in (None, g) for w, g in zip(shape, value.shape, strict=True)):
        return value
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    raise InputError(f"{name} must write {key!r} of shape ({wanted}), got {given or 'nothing'}.")


def check_resettable(name: str, network: nn.Module) -> None:
    """Refuse to draw a network anew that does not say how.

    Raises:
        InputError: one of its modules has parameters but no ``reset_parameters``.

    Example:
        >>> check_resettable("state_encoder", nn.Sequential(nn.Linear(3, 8), nn.ELU()))
    """
    for child in network.children():
        if hasattr(child, "reset_parameters"):
            continue
        if next(child.parameters(recurse=False), None) is not None:
            raise InputError(
                f"{name} cannot be drawn anew: {type(child).__name__} has parameters but no method "
                "reset_parameters(); give it one."
            )
        check_resettable(name, child)


def td_entries(td: TensorDictBase, keys: Sequence[NestedKey]) -> dict[NestedKey, Tensor | None]:
    """Return these entries of a batch by key, None where one is missing.

    Example:
        >>> from tensordict import TensorDict
        >>> td_entries(TensorDict(batch_size=[]), ["action"])
        {'action': None}
    """
    return {key: td.get(key, None) for key in keys}
