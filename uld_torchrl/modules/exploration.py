"""Exploration: Gaussian noise on the policy's action, for Box and one-hot actions alike.

TorchRL's ``AdditiveGaussianModule`` refuses one-hot actions, and MR.Q adds noise to these too.
"""

from __future__ import annotations

import copy

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data import TensorSpec
from torchrl.envs.utils import ExplorationType, exploration_type

from uld_torchrl.functional import one_hot_argmax
from uld_torchrl.modules.held_noise import HeldNoise
from uld_torchrl.modules.specs import action_bounds, is_discrete


def held_noise(policy: nn.Module) -> HeldNoise:
    """Return what holds the noise of a policy; one that never does, if the policy has no such noise.

    Example:
        >>> from torchrl.data import Bounded
        >>> held_noise(ExplorationNoise(Bounded(-1, 1, (2,)), 0.1, repeat=4)).repeat
        4
    """
    own = (part.held for part in policy.modules() if isinstance(part, ExplorationNoise))
    return next(own, HeldNoise(1))


class ExplorationNoise(TensorDictModuleBase):
    """Turn the policy's output into an action of the environment, exploring when asked to.

    Under ``ExplorationType.RANDOM`` (the default in collectors) ``clip(a + noise)`` with
    ``noise ~ N(0, std^2)``, and for discrete actions the one-hot of its argmax. Otherwise the
    action itself; for discrete ones the argmax of the logits (``greedy``) or of the
    Gumbel-softmax sample, as MR.Q published.

    With ``repeat`` above 1 each lane takes the same noise, for discrete actions also the same Gumbel noise,
    for that many steps in a row (``held``). New noise begins where the entry "is_init" says that an episode
    does, as TorchRL's ``InitTracker`` writes it; without it, after ``held.forget(lanes)``.

    Args:
        action_spec: ``Bounded`` or ``OneHot`` spec of the environment.
        std: standard deviation of the noise, in the action's units.
        greedy: for discrete actions without exploration, take the most probable action.
        repeat: steps that take the same noise.
        tau: temperature of the Gumbel-softmax that the actions were drawn by, for ``repeat`` above 1.

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
        repeat: int = 1,
        tau: float = 10.0,
        action_key: NestedKey = "action",
        pre_activation_key: NestedKey = "pre_activation",
    ) -> None:
        super().__init__()
        self.discrete, self.greedy, self.std = is_discrete(action_spec), greedy, std
        self.dtype, self.tau, self.held = action_spec.dtype, tau, HeldNoise(repeat)
        self.action_key, self.pre_activation_key = action_key, pre_activation_key
        self.in_keys, self.out_keys = [action_key, pre_activation_key], [action_key]
        low, high = (None, None) if self.discrete else action_bounds(action_spec)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def as_greedy(self) -> ExplorationNoise:
        """Return a copy that takes the most probable action if it does not explore, and holds no noise."""
        greedy = copy.copy(self)
        greedy.greedy, greedy.held = True, HeldNoise(1)
        return greedy

    def _explored(self, td: TensorDictBase) -> Tensor:
        """Return the action with noise."""
        action = td.get(self.action_key)
        noise = torch.randn_like(action)
        if self.held.repeat > 1:
            begun = td.get("is_init", None)
            if self.discrete:
                logits = td.get(self.pre_activation_key)
                # The sample is softmax((logits + gumbel) / tau); a constant does not change a softmax.
                gumbel = self.tau * action.log() - logits
                noise, gumbel = self.held(torch.cat([noise, gumbel], -1), begun).chunk(2, -1)
                action = torch.softmax((logits + gumbel) / self.tau, -1)
            else:
                noise = self.held(noise, begun)
        return action + self.std * noise

    def _discrete(self, td: TensorDictBase, explore: bool) -> Tensor:
        if explore:
            action = self._explored(td)
        else:
            action = td.get(self.pre_activation_key if self.greedy else self.action_key)
        return one_hot_argmax(action).to(self.dtype)

    def _box(self, td: TensorDictBase, explore: bool) -> Tensor:
        action = self._explored(td) if explore else td.get(self.action_key)
        return action.clamp(self.low, self.high).to(self.dtype)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Overwrite the action (..., A) in ``tensordict``."""
        explore = exploration_type() in (ExplorationType.RANDOM, None)
        action = self._discrete(tensordict, explore) if self.discrete else self._box(tensordict, explore)
        return tensordict.set(self.action_key, action)
