"""StackedLosses: the networks of K losses as tensors [K, ...], and each loss function of all K in one call.

The K loss modules keep working: their parameters and targets become views of a row of the stack. What is done
with losses and gradients is in ``stacked``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from uld_torchrl.objectives import ULDLoss
from uld_torchrl.objectives.networks import NETWORKS

_SCALARS = ("reward_scale", "target_reward_scale", "terminated_coeff")


class Learned(NamedTuple):
    """What a loss function is given of all networks, and what of it takes gradients.

    ``stacked`` are these tensors [K, ...]; ``rows``, in the same order, the K parameters that are their rows.
    """

    weights: TensorDict
    stacked: list[Tensor]
    rows: list[tuple[nn.Parameter, ...]]


class StackedLosses:
    """K losses of the same settings and shapes as one.

    Args:
        losses: their networks move to the stack; parameters and targets are then views of it.

    Example:
        >>> from uld_torchrl import make_loss, make_networks
        >>> from torchrl.data import Bounded, Unbounded
        >>> spec = Bounded(-1, 1, (2,))
        >>> losses = [make_loss(make_networks(Unbounded(3), spec), spec) for _ in range(2)]
        >>> weight = StackedLosses(losses).weights["predictor_params", "module", "linear", "weight"]
        >>> weight.shape
        torch.Size([2, 578, 512])
        >>> _ = weight[1].fill_(0.5)
        >>> losses[1].predictor_params["module", "linear", "weight"].mean().item()
        0.5
    """

    def __init__(self, losses: Sequence[ULDLoss]) -> None:
        self._losses = list(losses)
        self.weights = TensorDict(batch_size=[len(self._losses)])
        self._keys: dict[int, NestedKey] = {}
        self._rows: dict[NestedKey, tuple[nn.Parameter, ...]] = {}
        for name in (f"{prefix}{network}_params" for network in NETWORKS for prefix in ("", "target_")):
            # From `_modules`: a target that there is not would be found elsewhere.
            networks = [loss._modules.get(name) for loss in self._losses]
            if all(isinstance(network, TensorDictParams) for network in networks):
                self._move(name, networks)

    def _move(self, name: str, networks: Sequence[Any]) -> None:
        """Stack one network of all losses, and let their own be views."""
        self.weights.set(name, torch.stack([network.data for network in networks]))
        columns = zip(*(network.values(True, True) for network in networks), strict=True)
        for path, rows in zip(list(networks[0].keys(True, True)), list(columns), strict=True):
            key = unravel_key((name, path))
            for row, view in zip(rows, self.weights.get(key), strict=True):
                row.data = view
            self._keys[id(rows[0])], self._rows[key] = key, rows

    def learned(self, parameters: Sequence[Tensor]) -> Learned:
        """Return what a function is given that is to learn these parameters of the first loss."""
        keys = [self._keys[id(parameter)] for parameter in parameters]
        weights = self.weights.clone(recurse=False)
        for key in keys:
            weights.set(key, self.weights.get(key).detach().requires_grad_())
        return Learned(weights, [weights.get(key) for key in keys], [self._rows[key] for key in keys])

    def call(
        self, function: str, weights: TensorDict, batches: TensorDictBase, *, draws: bool
    ) -> tuple[Tensor, TensorDictBase]:
        """Return the losses [K] and what belongs to them [K, ...].

        Args:
            function: ``encoder_loss``, ``value_loss`` or ``actor_loss``.
            weights: see :meth:`learned`.
            batches: what each is called with, [K, ...].
            draws: whether it may draw random numbers; they are then drawn as tensors [K, ...].
        """

        def call_one(
            weights: TensorDictBase, scalars: Mapping[str, Tensor], batch: TensorDictBase
        ) -> tuple[Tensor, TensorDictBase]:
            networks = {name: _Weights(dict(part.items()), part.shape) for name, part in weights.items()}
            # What looks at values cannot be under vmap: whether windows run on past a truncation.
            with _in_place_of(self._losses[0], {**networks, **scalars, "check_windows": False}):
                return getattr(self._losses[0], function)(batch)

        scalars = {name: torch.stack([getattr(loss, name) for loss in self._losses]) for name in _SCALARS}
        randomness = "different" if draws else "error"
        return torch.vmap(call_one, randomness=randomness)(weights, scalars, batches)


class _Weights(TensorDict):
    """Weights of a network within ``torch.vmap``, which refuses ``data``; without gradient they are it."""

    @property
    def data(self) -> _Weights:
        return self


@contextmanager
def _in_place_of(module: nn.Module, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Let the module have other attributes; Python looks for parameters and buffers in ``__dict__`` first."""
    before = dict(module.__dict__)
    module.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            module.__dict__.pop(name)
        module.__dict__.update({name: before[name] for name in attributes if name in before})
