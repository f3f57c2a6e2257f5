"""Exploration: Gaussian noise on the policy's action, for Box and one-hot actions alike.

TorchRL's ``AdditiveGaussianModule`` refuses one-hot actions, and MR.Q adds noise to these too.
"""

from __future__ import annotations

import copy

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs.utils import ExplorationType, exploration_type

from uld_torchrl.functional import one_hot_argmax
from uld_torchrl.modules.specs import action_bounds, is_discrete


class ExplorationNoise(TensorDictModuleBase):
    """Turn the policy's output into an action of the environment, exploring when asked to.

    Under ``ExplorationType.RANDOM`` (the default in collectors) ``clip(a + noise)`` with
    ``noise ~ N(0, std^2)``, and for discrete actions the one-hot of its argmax. Otherwise the
    action itself; for discrete ones the argmax of the logits (``greedy``) or of the
    Gumbel-softmax sample, as MR.Q published.

    Args:
        action_spec: ``Bounded`` or ``OneHot`` spec of the environment.
        std: standard deviation of the noise, in the action's units.
        greedy: for discrete actions without exploration, take the most probable action.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import OneHot
        >>> td = TensorDict(action=torch.tensor([0.2, 0.8]), pre_activation=torch.tensor([3.0, 1.0]))
        >>> from torchrl.envs.utils import set_exploration_type
        >>> with set_exploration_type(ExplorationType.DETERMINISTIC):
        ...     ExplorationNoise(OneHot(2), 0.1)(td)["action"]
        tensor([ True, False])
    """

    def __init__(
        self,
        action_spec: TensorSpec,
        std: float,
        *,
        greedy: bool = True,
        action_key: NestedKey = "action",
        pre_activation_key: NestedKey = "pre_activation",
    ) -> None:
        super().__init__()
        self.discrete, self.greedy, self.std = is_discrete(action_spec), greedy, std
        self.dtype = action_spec.dtype
        self.action_key, self.pre_activation_key = action_key, pre_activation_key
        self.in_keys, self.out_keys = [action_key, pre_activation_key], [action_key]
        low, high = (None, None) if self.discrete else action_bounds(action_spec)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def as_greedy(self) -> ExplorationNoise:
        """Return a copy that takes the most probable action whenever it does not explore."""
        greedy = copy.copy(self)
        greedy.greedy = True
        return greedy

    def _discrete(self, td: TensorDictBase, explore: bool) -> Tensor:
        action = td.get(self.action_key)
        if explore:
            action = action + self.std * torch.randn_like(action)
        elif self.greedy:
            action = td.get(self.pre_activation_key)
        return one_hot_argmax(action).to(self.dtype)

    def _box(self, td: TensorDictBase, explore: bool) -> Tensor:
        action = td.get(self.action_key)
        if explore:
            action = action + self.std * torch.randn_like(action)
        return action.clamp(self.low, self.high).to(self.dtype)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Overwrite the action (..., A) in ``tensordict``."""
        explore = exploration_type() in (ExplorationType.RANDOM, None)
        action = self._discrete(tensordict, explore) if self.discrete else self._box(tensordict, explore)
        return tensordict.set(self.action_key, action)
