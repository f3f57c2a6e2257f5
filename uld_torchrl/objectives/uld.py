"""ULDLoss: the encoder, value and policy losses of MR.Q / ULD as one TorchRL loss module.

One module, since the target encoder serves both encoder and value loss: one set of targets, one
updater, one state_dict. The encoder's loss is in ``encoder``, the equations in ``functional``; the order and
timing of updates in ``trainers.stepper``; sampling and priorities in ``data``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torchrl.data import TensorSpec

from uld_torchrl.config_loss import (
    DynamicsTargetName,
    RewardLossName,
    TargetValueName,
    ValueLossName,
    check_end_to_end,
    check_unroll,
    encoder_steps,
)
from uld_torchrl.errors import InputError, flag, one_of
from uld_torchrl.functional import n_step_return, symexp_bins
from uld_torchrl.modules.specs import action_bounds, is_discrete
from uld_torchrl.objectives.encoder import EncoderObjective
from uld_torchrl.objectives.windows import check_entries

_OF_THE_ENCODER = ("loss_encoder", "dynamics_error", "reward_error", "terminated_error", "reward_mae")


class ULDLoss(EncoderObjective):
    r"""Losses of MR.Q (arXiv 2501.16142) and ULD (arXiv 2602.12643) on windows [B, H].

    With :math:`alive_t = \prod_{k<t} (1 - terminated_k)` and the window's steps t = 0 ... H-1:

    - encoder: :math:`z_0 = f(s_0)`, :math:`(d_t, z_{t+1}, l_t) = m(g(z_t, a_t))`,
      :math:`L = \sum_t mean[alive_t (z_{t+1} - f'(s_{t+1}))^2] + .1\, mean[alive_t CE(l_t, r_t)]
      + .1\, mean[alive_t (d_t - terminated_t)^2]`;
    - value: :math:`y = (G + D\, c' \min_i Q'_i(g'(f'(s_n), a'))) / c` with the n-step return G and
      bootstrap discount D, :math:`a' = clip(\pi'(f'(s_n)) + clip(noise))`, reward scales c and c';
      :math:`L = mean\, Huber(Q_i(g(f(s_0), a_0)) - y)` over the batch and both heads;
    - policy: :math:`L = - mean\, Q_i(g(z_s, \pi(z_s))) + 10^{-5} mean(pre^2)`.

    A prime marks target networks. Each loss sends gradients to its own networks only: encoder to
    f, g, m; value to Q (with ``end_to_end`` to f and g as well); policy to pi.

    Args:
        state_encoder: TensorDict module f, observation -> ``state_embedding``.
        state_action_encoder: TensorDict module g, embedding and action -> ``state_action_embedding``.
        predictor: TensorDict module m -> ``terminated_pred``, ``("next", "state_embedding")``,
            ``reward_logits``.
        actor_network: TensorDict module, ``state_embedding -> action, pre_activation``.
        qvalue_network: TensorDict module ``state_action_embedding -> state_action_value``, copied
            ``num_qvalue_nets`` times and drawn anew, or a list of such modules.
        action_spec: ``Bounded`` float or ``OneHot`` spec of the environment.
        horizon: window length H. n_steps: steps of the return, at most H.
        num_bins, bin_range: the reward bins, symexp of an even grid on [-bin_range, bin_range].
        dynamics_coeff, reward_coeff, terminated_coeff: weights in the encoder loss;
            ``terminated_coeff`` is a buffer that can be assigned while training.
        policy_noise, noise_clip: noise of the target action (the caller halves them for discrete
            actions, see :func:`~uld_torchrl.modules.noise_scale`).
        pre_activation_coeff: weight of the penalty on the policy's pre-activations.
        gamma: discount factor.
        num_qvalue_nets: value heads made from a single ``qvalue_network``.
        value_loss: "huber", or "mse": the mean of (Q_i - y)^2, not halved.
        reward_loss: "two_hot", or "mse": m gives the reward itself, ``reward_logits`` (..., 1), and the
            reward's part of the encoder's loss is its squared error.
        dynamics_target: m predicts ``("next", "state_embedding")``, or with "state_action" the embedding
            z_s'a' = g'(f'(s'), a') of the target policy's action, ``("next", "state_action_embedding")``.
        unroll: m runs on its own predictions over the window; False: from f(s_t) at each step t.
        target_encoder: f' and g' are the target encoders; False: the online ones, without gradient.
        freeze_encoder: the encoder's loss sends gradients to m only.
        reward_scaling: False leaves both reward scales at 1.
        target_value: "min": y takes the least of the heads Q'_i; "mean": their mean.
        encoder_horizon: steps of a window that the encoder's loss reads; 0: all H.
        end_to_end: the value's loss sends gradients to f and g as well, and :meth:`forward` leaves the
            encoder's loss out.
        infonce_coeff, infonce_temperature: weight and temperature in the encoder's loss of InfoNCE on
            predicted next embeddings against the batch's targets (DR.Q, arXiv 2605.11711: 0.1 and 0.1).
        reduction: "mean" (default), "sum", or "none" for one loss a window, [B].
        deactivate_vmap: loop over the value heads in place of ``vmap``.
        use_prioritized_weights: apply the input's ``priority_weight``, which must then be there ("auto":
            if it is there); off for LAP.
        check_windows: refuse windows that run on past a truncation. Reading the answer waits for a
            GPU; skipped while compiling.

    Raises:
        InputError: on construction for unsupported specs, modules or settings; on use for a batch
            that is not [B, H] or lacks what is read, networks that do not fit, or a window that runs on
            past a truncation.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_networks
        >>> spec = Bounded(-1, 1, (2,))
        >>> nets = make_networks(Unbounded(3), spec)
        >>> loss = ULDLoss(
        ...     nets.state_encoder, nets.state_action_encoder, nets.predictor,
        ...     nets.actor_network, nets.qvalue_network, action_spec=spec,
        ... )
        >>> updater = PeriodicHardUpdate(loss, period=250)
        >>> B, H = 4, 5
        >>> td = TensorDict({
        ...     "observation": torch.randn(B, H, 3),
        ...     "action": spec.rand((B, H)),
        ...     "next": {
        ...         "observation": torch.randn(B, H, 3),
        ...         "reward": torch.randn(B, H, 1),
        ...         "terminated": torch.zeros(B, H, 1, dtype=torch.bool),
        ...     },
        ... }, batch_size=[B, H])
        >>> out = loss(td)
        >>> sorted(key for key in out.keys() if key.startswith("loss_"))
        ['loss_actor', 'loss_encoder', 'loss_qvalue']
        >>> td["td_error"].shape
        torch.Size([4, 5])
    """

    out_keys = [
        "loss_encoder",
        "loss_qvalue",
        "loss_actor",
        "dynamics_error",
        "reward_error",
        "terminated_error",
        "reward_mae",
        "pred_value",
        "target_value",
        "td_error_mean",
        "actor_value",
        "pre_activation_sq",
    ]
    _schedulable_buffers = frozenset({"terminated_coeff"})
    reward_scale: Tensor
    target_reward_scale: Tensor

    def __init__(
        self,
        state_encoder: TensorDictModuleBase,
        state_action_encoder: TensorDictModuleBase,
        predictor: TensorDictModuleBase,
        actor_network: TensorDictModuleBase,
        qvalue_network: TensorDictModuleBase | list[TensorDictModuleBase],
        *,
        action_spec: TensorSpec,
        horizon: int = 5,
        n_steps: int = 3,
        num_bins: int = 65,
        bin_range: float = 10.0,
        dynamics_coeff: float = 1.0,
        reward_coeff: float = 0.1,
        terminated_coeff: float = 0.1,
        policy_noise: float = 0.2,
        noise_clip: float = 0.3,
        pre_activation_coeff: float = 1e-5,
        gamma: float = 0.99,
        num_qvalue_nets: int = 2,
        value_loss: ValueLossName = "huber",
        reward_loss: RewardLossName = "two_hot",
        dynamics_target: DynamicsTargetName = "state",
        unroll: bool = True,
        target_encoder: bool = True,
        freeze_encoder: bool = False,
        reward_scaling: bool = True,
        target_value: TargetValueName = "min",
        encoder_horizon: int = 0,
        end_to_end: bool = False,
        infonce_coeff: float = 0.0,
        infonce_temperature: float = 0.1,
        reduction: Literal["none", "mean", "sum"] | None = None,
        deactivate_vmap: bool = False,
        use_prioritized_weights: bool | Literal["auto"] = False,
        check_windows: bool = True,
    ) -> None:
        if not 1 <= n_steps <= horizon:
            raise InputError(f"n_steps must lie in 1 ... horizon ({horizon}), got {n_steps}.")
        discrete = is_discrete(action_spec)
        super().__init__(
            state_encoder,
            state_action_encoder,
            predictor,
            actor_network,
            qvalue_network,
            action_size=action_spec.shape[-1],
            num_qvalue_nets=num_qvalue_nets,
            deactivate_vmap=deactivate_vmap,
            dynamics_target=dynamics_target,
            target_encoder=target_encoder,
            freeze_encoder=freeze_encoder,
        )
        self.encoder_steps = encoder_steps(encoder_horizon, horizon)
        check_unroll(dynamics_target, unroll, self.encoder_steps)
        check_end_to_end(flag("end_to_end", end_to_end), freeze_encoder)
        self.end_to_end = end_to_end
        if end_to_end:
            self.out_keys = [key for key in self.out_keys if key not in _OF_THE_ENCODER]
        self.target_kind = one_of("target_value", target_value, ("min", "mean"))
        self.value_kind = one_of("value_loss", value_loss, ("huber", "mse"))
        one_of("reward_loss", reward_loss, ("two_hot", "mse"))
        self.reward_kind = reward_loss
        self.unroll = flag("unroll", unroll)
        self.reward_scaling = flag("reward_scaling", reward_scaling)
        self.horizon, self.n_steps, self.gamma, self.discrete = horizon, n_steps, gamma, discrete
        self.dynamics_coeff, self.reward_coeff = dynamics_coeff, reward_coeff
        self.infonce_coeff, self.infonce_temperature = infonce_coeff, infonce_temperature
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        self.pre_activation_coeff = pre_activation_coeff
        self.reduction = one_of("reduction", reduction or "mean", ("none", "mean", "sum"))
        self.use_prioritized_weights, self.check_windows = use_prioritized_weights, check_windows
        # What the stepper sets the buffer to once a termination has been seen.
        self.full_terminated_coeff = float(terminated_coeff)
        self.num_bins, self.bin_range = num_bins, bin_range
        self.num_outputs = 1 if reward_loss == "mse" else num_bins
        self._register_buffers(action_spec, terminated_coeff)

    def _register_buffers(self, action_spec: TensorSpec, terminated_coeff: float) -> None:
        device = next(self.parameters()).device
        low, high = (None, None) if self.discrete else action_bounds(action_spec)
        self.register_buffer("min_action", None if low is None else low.to(device))
        self.register_buffer("max_action", None if high is None else high.to(device))
        self.register_buffer("bins", torch.empty(self.num_bins, device=device))
        self._fill_bins()
        self.register_buffer("terminated_coeff", torch.tensor(float(terminated_coeff), device=device))
        self.register_buffer("reward_scale", torch.ones((), device=device))
        self.register_buffer("target_reward_scale", torch.ones((), device=device))

    def _fill_bins(self) -> None:
        self.bins.copy_(symexp_bins(self.num_bins, self.bin_range, torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> ULDLoss:
        """Move or cast; the bins are worked out anew, so that ``double()`` makes them exact."""
        super()._apply(fn)
        self._fill_bins()
        return self

    def reset_parameters_recursive(self) -> None:
        """Draw all networks anew, copy them to the targets, and set the reward scales to 1."""
        super().reset_parameters_recursive()
        self.reward_scale.fill_(1.0)
        self.target_reward_scale.fill_(1.0)

    @torch.no_grad()
    def update_reward_scale_(self, mean_abs_reward: Tensor | float) -> None:
        """Set target scale c' <- c and scale c <- max(mean |r|, 1e-8), in place; no-op without scaling.

        Args:
            mean_abs_reward: mean absolute reward over the replay buffer, a scalar.
        """
        if not self.reward_scaling:
            return
        self.target_reward_scale.copy_(self.reward_scale)
        scale = torch.as_tensor(
            mean_abs_reward, dtype=self.reward_scale.dtype, device=self.reward_scale.device
        )
        self.reward_scale.copy_(scale.clamp_min(1e-8))

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Return the loss of the value heads, and what belongs to it.

        Args:
            tensordict: window [B, H], of which the first n steps are read; or only these, [B, n].

        Returns:
            The loss, and a TensorDict [B] with ``td_error`` (max over heads of |Q - y|),
            ``state_embedding`` f(s_0) for :meth:`actor_loss`, ``pred_value`` and ``target_value``
            in reward units.
        """
        self._check(tensordict, self.n_steps)
        keys = self.tensor_keys
        with torch.no_grad():
            y = self._value_target(tensordict)
        first = tensordict[:, 0]
        with torch.set_grad_enabled(self.end_to_end and torch.is_grad_enabled()):
            z_s = self._encode(first, self.state_encoder_params)
            z_sa = self._join(z_s, first.get(keys.action), self.state_action_encoder_params)
        q = self._values(z_sa, self.qvalue_network_params)
        distance = F.smooth_l1_loss if self.value_kind == "huber" else F.mse_loss
        loss = distance(q, y.expand_as(q), reduction="none").mean(0)
        error = (q.detach() - y).abs().amax(0)
        metadata = TensorDict(batch_size=y.shape, device=y.device)
        metadata.set(keys.priority, error).set(keys.state_embedding, z_s.detach())
        metadata.set("pred_value", q.detach().mean(0) * self.reward_scale)
        metadata.set("target_value", y * self.reward_scale)
        weights = self._maybe_get_priority_weight(tensordict)
        if weights is not None:
            metadata.set(keys.priority_weight, weights)
        self._clear_compiled(tensordict)
        return self._reduced(loss, tensordict), metadata

    def _value_target(self, td: TensorDictBase) -> Tensor:
        """Return ``y = (G + D c' min_i Q'_i(g'(f'(s_n), a'))) / c`` (B,)."""
        keys, n = self.tensor_keys, self.n_steps
        total, discount = n_step_return(
            self._flag(td, keys.reward)[:, :n], self._flag(td, keys.terminated)[:, :n], self.gamma
        )
        f, g = self._target_encoders
        z_n = self._encode(td[:, n - 1].get("next"), f)
        z_sa = self._join(z_n, self._target_action(z_n), g)
        values = self._values(z_sa, self.target_qvalue_network_params)
        q = values.amin(0) if self.target_kind == "min" else values.mean(0)
        return (total + discount * self.target_reward_scale * q) / self.reward_scale

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Return the policy loss; gradients reach the policy only.

        Args:
            tensordict: [B] with ``state_embedding`` (as :meth:`value_loss` returns it), or a window
                [B, H], whose first observation is then encoded without gradient.
        """
        if not torch.compiler.is_compiling():
            self._check_keys()
        z_s = self._first_embedding(tensordict)
        action, pre = self._act(z_s, self.actor_network_params)
        z_sa = self._join(z_s, action, self.state_action_encoder_params.data)
        q = self._values(z_sa, self.qvalue_network_params.data).mean(0)
        penalty = pre.square().mean(-1)
        loss = -q + self.pre_activation_coeff * penalty
        metadata = {
            "actor_value": q.detach().mean() * self.reward_scale,
            "pre_activation_sq": penalty.detach().mean(),
        }
        self._clear_compiled(tensordict)
        return self._reduced(loss, tensordict), TensorDict(metadata)

    def _first_embedding(self, td: TensorDictBase) -> Tensor:
        if td.ndim not in (1, 2):
            raise InputError(f"expected a batch size (B,) or (B, {self.horizon}), got {tuple(td.shape)}.")
        if td.ndim == 1:
            z_s = td.get(self.tensor_keys.state_embedding, None)
            if z_s is not None:
                return z_s.detach()
        else:
            td = td[:, 0]
        check_entries(td, self.state_encoder.in_keys)
        with torch.no_grad():
            return self._encode(td, self.state_encoder_params)

    def _encoder_entries(self, td: TensorDictBase) -> dict[str, Tensor]:
        loss, parts = self.encoder_loss(td)
        return {"loss_encoder": loss, **dict(parts.items())}

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return all losses and their metrics; writes ``td_error`` (B, H) into ``tensordict``."""
        # Keyword arguments arrive without a batch size; [B, H, 1] could not be told from [B, H].
        td = tensordict if tensordict.ndim else tensordict.copy().auto_batch_size_(2)
        encoder = {} if self.end_to_end else self._encoder_entries(td)
        loss_qvalue, value = self.value_loss(td)
        loss_actor, actor = self.actor_loss(value)
        error = value.get(self.tensor_keys.priority)
        tensordict.set(self.tensor_keys.priority, error.unsqueeze(-1).expand(td.shape).clone())
        return TensorDict(
            {
                **encoder,
                "loss_qvalue": loss_qvalue,
                "loss_actor": loss_actor,
                **dict(actor.items()),
                "pred_value": value.get("pred_value").mean(),
                "target_value": value.get("target_value").mean(),
                "td_error_mean": error.mean(),
            }
        )
