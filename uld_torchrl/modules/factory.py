"""From specs and settings to TensorDict modules: the networks of one agent, and its policy.

Keys: ``observation -> state_embedding``; ``state_embedding, action -> state_action_embedding ->
terminated_pred, next.state_embedding, reward_logits | state_action_value``;
``state_embedding -> action, pre_activation``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey
from torch import nn
from torchrl.data import TensorSpec

from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig
from uld_torchrl.modules.encoders import (
    LinearPredictor,
    MLPPredictor,
    PixelEncoder,
    StateActionEncoder,
    VectorEncoder,
)
from uld_torchrl.modules.exploration import ExplorationNoise
from uld_torchrl.modules.layers import ExactLinear
from uld_torchrl.modules.policies import GumbelPolicy, TanhPolicy
from uld_torchrl.modules.specs import check_unit_bounds, is_discrete, is_image, vector_size
from uld_torchrl.modules.tensor_module import TensorModule
from uld_torchrl.modules.value import ValueHead


@dataclass
class Networks:
    """The five networks of an agent, in the order :class:`~uld_torchrl.ULDLoss` takes them.

    Example:
        >>> from torchrl.data import Bounded, Unbounded
        >>> nets = make_networks(Unbounded(17), Bounded(-1, 1, (6,)))
        >>> sum(p.numel() for net in nets.modules() for p in net.parameters())
        3857226
    """

    state_encoder: TensorDictModuleBase
    state_action_encoder: TensorDictModuleBase
    predictor: TensorDictModuleBase
    actor_network: TensorDictModuleBase
    qvalue_network: list[TensorDictModuleBase]

    def modules(self) -> list[nn.Module]:
        """Return every network, both value heads included."""
        return [
            self.state_encoder,
            self.state_action_encoder,
            self.predictor,
            self.actor_network,
            *self.qvalue_network,
        ]


def _actor(z_s_dim: int, action_dim: int, discrete: bool, model: ModelConfig) -> TensorModule:
    policy: nn.Module
    if discrete:
        policy = GumbelPolicy(z_s_dim, action_dim, model.hidden_dim, model.gumbel_tau)
    else:
        policy = TanhPolicy(z_s_dim, action_dim, model.hidden_dim)
    return TensorModule(policy, in_keys=["state_embedding"], out_keys=["action", "pre_activation"])


def _state_encoder(spec: TensorSpec, model: ModelConfig) -> nn.Module:
    if is_image(spec):
        return PixelEncoder(spec.shape[-3:], model.conv_channels, model.z_s_dim)
    return VectorEncoder(vector_size(spec), model.hidden_dim, model.z_s_dim)


def _value_head(model: ModelConfig) -> nn.Module:
    if model.value_head == "linear":
        return ExactLinear(model.z_sa_dim, 1, bias=False)
    return ValueHead(model.z_sa_dim, model.hidden_dim)


def _predictor(model: ModelConfig, loss: LossConfig) -> TensorModule:
    of_pairs = loss.dynamics_target == "state_action"
    predicted, width = (
        ("state_action_embedding", model.z_sa_dim) if of_pairs else ("state_embedding", model.z_s_dim)
    )
    outputs = 1 if loss.reward_loss == "mse" else model.num_bins
    m: nn.Module
    if model.predictor == "mlp":
        m = MLPPredictor(model.z_sa_dim, width, outputs, model.hidden_dim)
    else:
        m = LinearPredictor(model.z_sa_dim, width, outputs)
    return TensorModule(
        m,
        in_keys=["state_action_embedding"],
        out_keys=["terminated_pred", ("next", predicted), "reward_logits"],
    )


def make_networks(
    observation_spec: TensorSpec,
    action_spec: TensorSpec,
    model: ModelConfig | None = None,
    *,
    loss: LossConfig | None = None,
    observation_key: NestedKey | None = None,
) -> Networks:
    """Build f, g, m, the policy and the value heads for an environment's specs.

    Args:
        observation_spec: float vector (..., observation_dim), or uint8 stack of images (..., k C, h, w).
        action_spec: ``Bounded`` float with the bounds -1 and 1, or ``OneHot`` (..., A).
        model: sizes; default :class:`~uld_torchrl.config.ModelConfig`.
        loss: what the latent model predicts; default :class:`~uld_torchrl.config.LossConfig`.
        observation_key: where f reads; by default "pixels" for images, else "observation".

    Raises:
        InputError: a spec of an unsupported kind, or bounds other than -1 and 1.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> nets = make_networks(Unbounded(4), OneHot(2))
        >>> len(nets.qvalue_network)
        2
    """
    model, loss = model or ModelConfig(), loss or LossConfig()
    check_unit_bounds(action_spec)
    discrete, action_dim = is_discrete(action_spec), action_spec.shape[-1]
    encoder = _state_encoder(observation_spec, model)
    observed = observation_key or ("pixels" if is_image(observation_spec) else "observation")
    joint = StateActionEncoder(model.z_s_dim, action_dim, model.z_a_dim, model.hidden_dim, model.z_sa_dim)
    predictor = _predictor(model, loss)
    heads = [_value_head(model) for _ in range(model.num_values)]
    z_s, z_sa = "state_embedding", "state_action_embedding"
    return Networks(
        TensorModule(encoder, in_keys=[observed], out_keys=[z_s]),
        TensorModule(joint, in_keys=[z_s, "action"], out_keys=[z_sa]),
        predictor,
        _actor(model.z_s_dim, action_dim, discrete, model),
        [TensorModule(head, in_keys=[z_sa], out_keys=["state_action_value"]) for head in heads],
    )


def noise_scale(action_spec: TensorSpec) -> float:
    """Return the factor on all noise: 1, or one half for discrete actions (MR.Q, arXiv 2501.16142).

    Example:
        >>> from torchrl.data import OneHot
        >>> noise_scale(OneHot(2))
        0.5
    """
    return 0.5 if is_discrete(action_spec) else 1.0


def make_policy(
    networks: Networks, action_spec: TensorSpec, config: AgentConfig | None = None
) -> TensorDictSequential:
    """Chain encoder, policy and exploration noise: observation -> action, for collectors and rollouts.

    The parameters are shared with ``networks``. Explores under ``ExplorationType.RANDOM`` only.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> spec = Bounded(-1, 1, (2,))
        >>> policy = make_policy(make_networks(Unbounded(3), spec), spec)
        >>> policy(TensorDict(observation=torch.zeros(1, 3), batch_size=[1]))["action"].shape
        torch.Size([1, 2])
    """
    config = config or AgentConfig()
    noise = ExplorationNoise(
        action_spec,
        config.loss.exploration_noise * noise_scale(action_spec),
        greedy=config.run.greedy_discrete_eval,
        repeat=config.loss.exploration_noise_repeat,
        tau=config.model.gumbel_tau,
    )
    return TensorDictSequential(networks.state_encoder, networks.actor_network, noise)
