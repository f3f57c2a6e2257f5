"""The loss of the representation: latent dynamics, reward and termination over a window.

:class:`EncoderObjective` adds it to the networks; the value's and the policy's losses, and what the settings
mean, are in ``uld``.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.utils import _reduce

from uld_torchrl.config_loss import RewardLossName
from uld_torchrl.functional import alive_mask, info_nce, one_hot_argmax, two_hot_cross_entropy, two_hot_mean
from uld_torchrl.modules.rollout import next_key
from uld_torchrl.objectives.networks import LatentNetworks
from uld_torchrl.objectives.windows import check_entries, check_kinds, check_shape, check_window


class EncoderObjective(LatentNetworks):
    """Base of :class:`~uld_torchrl.ULDLoss`: reading a window, and the loss of f, g and m on it."""

    horizon: int
    n_steps: int
    encoder_steps: int
    num_outputs: int
    unroll: bool
    discrete: bool
    check_windows: bool
    reward_kind: RewardLossName
    reduction: str
    dynamics_coeff: float
    reward_coeff: float
    infonce_coeff: float
    infonce_temperature: float
    policy_noise: float
    noise_clip: float
    bins: Tensor
    terminated_coeff: Tensor
    min_action: Tensor
    max_action: Tensor

    def encoder_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Return the loss of f, g, m over the window, and its parts.

        Args:
            tensordict: window [B, H], of which the first ``encoder_horizon`` steps are read.
        """
        self._check(tensordict)
        keys, td = self.tensor_keys, self._read(tensordict)
        terminated = self._flag(td, keys.terminated)
        reward = self._flag(td, keys.reward)
        mask = self._mask(td, terminated).to(reward.dtype)
        z_target = self._dynamics_target(td.get("next"))
        d, z_next, logits = self._predictions(td, z_target.shape[-1])
        dynamics = (mask * (z_next - z_target).square().mean(-1)).sum(-1)
        rewards = (mask * self._reward_loss(logits, reward)).sum(-1)
        ends = (mask * (d - terminated.to(d.dtype)).square()).sum(-1)
        loss = self.dynamics_coeff * dynamics + self.reward_coeff * rewards + self.terminated_coeff * ends
        if self.infonce_coeff:
            loss = loss + self.infonce_coeff * (mask * self._contrast(z_next, z_target, mask)).sum(-1)
        parts = {"dynamics_error": dynamics, "reward_error": rewards, "terminated_error": ends}
        metadata = {name: part.detach().mean() for name, part in parts.items()}
        metadata["reward_mae"] = self._reward_error(logits.detach(), reward, mask)
        self._clear_compiled(tensordict)
        return self._reduced(loss, tensordict), TensorDict(metadata)

    def predicted_reward(self, logits: Tensor) -> Tensor:
        """Return the reward (...), in the environment's units, that m's reward output (..., K) means."""
        return logits.squeeze(-1) if self.reward_kind == "mse" else two_hot_mean(logits, self.bins)

    @torch.no_grad()
    def _dynamics_target(self, following: TensorDictBase) -> Tensor:
        """Return ``f'(s_{t+1})`` (B, H, z_s_dim), or ``g'(f'(s_{t+1}), a')`` with the target policy's a'."""
        f, g = self._target_encoders
        z_s = self._encode(following, f)
        if self.dynamics_target == "state":
            return z_s
        return self._join(z_s, self._target_action(z_s), g)

    def _read(self, td: TensorDictBase) -> TensorDictBase:
        return td if self.encoder_steps == self.horizon else td[:, : self.encoder_steps]

    def _predictions(self, td: TensorDictBase, width: int) -> tuple[Tensor, Tensor, Tensor]:
        f, g = self._learned_encoders
        z_s = self._encode(td[:, 0] if self.unroll else td, f)
        return self._predict(z_s, td.get(self.tensor_keys.action), g, width, self.num_outputs)

    def _reward_loss(self, logits: Tensor, reward: Tensor) -> Tensor:
        if self.reward_kind == "mse":
            return (logits.squeeze(-1) - reward).square()
        return two_hot_cross_entropy(logits, reward, self.bins)

    def _contrast(self, z: Tensor, z_target: Tensor, mask: Tensor) -> Tensor:
        """Return InfoNCE (B, H) of predictions among the batch's targets of the same step."""
        rows = (z.transpose(0, 1), z_target.transpose(0, 1), mask.bool().mT)
        with torch.autocast(z.device.type, enabled=False):  # a temperature multiplies the rounding
            return info_nce(*rows, self.infonce_temperature).mT

    def _mask(self, td: TensorDictBase, terminated: Tensor) -> Tensor:
        alive = alive_mask(terminated)
        validity = td.get(self.tensor_keys.validity_mask, None)
        return alive if validity is None else alive * validity.reshape(alive.shape)

    def _reward_error(self, logits: Tensor, reward: Tensor, mask: Tensor) -> Tensor:
        error = (self.predicted_reward(logits) - reward).abs()
        return (mask * error).sum() / mask.sum().clamp_min(1)

    def _target_action(self, z_s: Tensor) -> Tensor:
        """Return ``a' = clip(pi'(z_s) + clip(noise))`` (target policy smoothing, TD3, arXiv 1802.09477)."""
        action, _ = self._act(z_s, self.target_actor_network_params)
        noise = (self.policy_noise * torch.randn_like(action)).clamp(-self.noise_clip, self.noise_clip)
        if self.discrete:
            return one_hot_argmax(action + noise)
        return (action + noise).clamp(self.min_action, self.max_action)

    # Reading the batch

    def _flag(self, td: TensorDictBase, key: NestedKey) -> Tensor:
        return td.get(next_key(key)).squeeze(-1)

    def _check(self, td: TensorDictBase, read: int | None = None) -> None:
        check_shape(td, self.horizon, read)
        keys, needed = self.tensor_keys, self.in_keys
        check_entries(td, [*needed, keys.priority_weight] if self.use_prioritized_weights is True else needed)
        check_kinds(td, keys, self.state_encoder.in_keys, self.action_size, self.bins.dtype, self.discrete)
        if torch.compiler.is_compiling():
            return
        self._check_keys()
        if self.check_windows:
            check_window(td, keys, self.n_steps)

    def _maybe_get_priority_weight(self, tensordict: TensorDictBase) -> Tensor | None:
        """Return the weights (B,) of the windows if they are to be used; nested keys are found too."""
        if not self.use_prioritized_weights:
            return None
        weights = tensordict.get(self.tensor_keys.priority_weight, None)
        return None if weights is None else weights.reshape(tensordict.shape[0], -1)[:, 0]

    def _reduced(self, loss: Tensor, td: TensorDictBase) -> Tensor:
        return _reduce(loss, self.reduction, weights=self._maybe_get_priority_weight(td))
