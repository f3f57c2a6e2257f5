"""From networks and settings to the loss module."""

from __future__ import annotations

from torchrl.data import TensorSpec

from uld_torchrl.config import AgentConfig
from uld_torchrl.modules.factory import Networks, noise_scale
from uld_torchrl.objectives.uld import ULDLoss


def make_loss(networks: Networks, action_spec: TensorSpec, config: AgentConfig | None = None) -> ULDLoss:
    """Build :class:`ULDLoss` for the networks; the target noise is halved for discrete actions.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> from uld_torchrl import make_networks
        >>> make_loss(make_networks(Unbounded(4), OneHot(2)), OneHot(2)).policy_noise
        0.1

        With an encoder of one's own, on other entries; its width is ``z_s_dim``:

        >>> from dataclasses import replace
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> class Encoder(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(7, 512)
        ...     def forward(self, angles, goal):
        ...         return self.linear(torch.cat([angles, goal], -1)).tanh()
        >>> f = TensorDictModule(Encoder(), [("robot", "angles"), "goal"], ["state_embedding"])
        >>> nets = replace(make_networks(Unbounded(4), OneHot(2)), state_encoder=f)
        >>> make_loss(nets, OneHot(2)).in_keys[:2]
        [('robot', 'angles'), 'goal']
    """
    config = config or AgentConfig()
    loss, model, scale = config.loss, config.model, noise_scale(action_spec)
    return ULDLoss(
        networks.state_encoder,
        networks.state_action_encoder,
        networks.predictor,
        networks.actor_network,
        networks.qvalue_network,
        action_spec=action_spec,
        horizon=loss.horizon,
        n_steps=loss.n_steps,
        num_bins=model.num_bins,
        bin_range=model.bin_range,
        dynamics_coeff=loss.dynamics_coeff,
        reward_coeff=loss.reward_coeff,
        terminated_coeff=loss.terminated_coeff,
        policy_noise=loss.target_noise * scale,
        noise_clip=loss.target_noise_clip * scale,
        pre_activation_coeff=loss.pre_activation_coeff,
        gamma=loss.gamma,
        value_loss=loss.value_loss,
        reward_loss=loss.reward_loss,
        dynamics_target=loss.dynamics_target,
        unroll=loss.unroll,
        target_encoder=loss.target_encoder,
        freeze_encoder=loss.freeze_encoder,
        reward_scaling=loss.reward_scaling,
        target_value=loss.target_value,
        encoder_horizon=loss.encoder_horizon,
        end_to_end=loss.end_to_end,
        infonce_coeff=loss.infonce_coeff,
        infonce_temperature=loss.infonce_temperature,
    )
