"""Hydra nodes of the agent's parts, in the groups of TorchRL's own configuration system.

Imported on demand only: ``import uld_torchrl.hydra_configs`` needs the extra ``hydra`` and registers the
nodes of ``NODES`` beside TorchRL's (``torchrl.trainers.algorithms.configs``). A node's fields are the
keywords of what it builds, with the defaults that stand there and nowhere else. Live objects (specs,
networks, losses) are no fields, since OmegaConf takes specs for settings: what needs some is instantiated as
a partial, to be called with them, as TorchRL's optimisers are.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

try:
    from hydra.core.config_store import ConfigStore
    from omegaconf import MISSING
except ImportError as error:
    raise ImportError(
        f"uld_torchrl.hydra_configs needs hydra-core ({error}): pip install 'uld-torchrl[hydra]'."
    ) from error

from tensordict.utils import NestedKey
from torchrl.collectors import Collector
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase
from torchrl.trainers.algorithms import configs as torchrl_configs
from torchrl.trainers.algorithms.configs.modules import NetworkConfig

from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import HorizonWindow, SubTrajectorySampler, WindowReplayBuffer, make_replay_buffer
from uld_torchrl.envs import make_env
from uld_torchrl.modules import Networks, make_networks, make_policy
from uld_torchrl.objectives import ULDLoss, make_loss
from uld_torchrl.trainers import TorchRLTrainer, ULDOptimizationStepper


def build_networks(
    observation_spec: TensorSpec,
    action_spec: TensorSpec,
    *,
    observation_key: NestedKey | None = None,
    dynamics_target: Any = "state",
    reward_loss: Any = "two_hot",
    **model: Any,
) -> Networks:
    """Build the networks for two specs; ``dynamics_target`` and ``reward_loss`` as the loss has them.

    Example:
        >>> from torchrl.data import Bounded, Unbounded
        >>> len(build_networks(Unbounded(3), Bounded(-1, 1, (2,)), hidden_dim=8, num_values=3).qvalue_network)
        3
    """
    loss = LossConfig(dynamics_target=dynamics_target, reward_loss=reward_loss, unroll=False)
    sizes, key = ModelConfig(**model), None if observation_key is None else _key(observation_key)
    return make_networks(observation_spec, action_spec, sizes, loss=loss, observation_key=key)


def build_loss(
    networks: Networks,
    action_spec: TensorSpec,
    *,
    num_bins: int = ModelConfig.num_bins,
    bin_range: float = ModelConfig.bin_range,
    **loss: Any,
) -> ULDLoss:
    """Build the loss as :func:`~uld_torchrl.make_loss` does, which halves the noise of discrete actions.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> nets = build_networks(Unbounded(3), OneHot(2), hidden_dim=8)
        >>> build_loss(nets, OneHot(2), gamma=0.9).policy_noise
        0.1
    """
    model = ModelConfig(num_bins=num_bins, bin_range=bin_range)
    return make_loss(networks, action_spec, AgentConfig(model=model, loss=LossConfig(**loss)))


def build_window(horizon: int, terminated_key: NestedKey = ("next", "terminated")) -> HorizonWindow:
    """Build the sample unit.

    Example:
        >>> build_window(3).horizon
        3
    """
    return HorizonWindow(horizon, _key(terminated_key))


def _key(key: Any) -> NestedKey:
    """Return an entry's name, of which Hydra makes a list where it is a tuple."""
    return key if isinstance(key, str) else tuple(key)


def build_stepper(
    loss_module: ULDLoss, replay_buffer: WindowReplayBuffer, **optim: Any
) -> ULDOptimizationStepper:
    """Build the stepper for a loss and a buffer.

    Example:
        >>> from torchrl.data import OneHot, Unbounded
        >>> loss = build_loss(build_networks(Unbounded(3), OneHot(2), hidden_dim=8), OneHot(2))
        >>> build_stepper(loss, make_replay_buffer(capacity=100), period=10).config.period
        10
    """
    return ULDOptimizationStepper(loss_module, replay_buffer, OptimConfig(**optim))


def build_trainer(
    env: EnvBase,
    network: Callable[..., Networks],
    loss: Callable[..., ULDLoss],
    replay_buffer: WindowReplayBuffer,
    *,
    total_frames: int,
    frames_per_batch: int | None = None,
    init_random_frames: int = 0,
    exploration_noise: float = LossConfig.exploration_noise,
    optim: Mapping[str, Any] | None = None,
    **options: Any,
) -> TorchRLTrainer:
    """Put the parts together: an environment, networks, loss, buffer, and a collector of one process.

    Args:
        env: of :func:`~uld_torchrl.make_env`.
        network: what the node ``network/uld`` gives.
        loss: what the node ``loss/uld`` gives.
        replay_buffer: with as many lanes as ``env``.
        total_frames: agent steps of the whole run.
        frames_per_batch: agent steps that the collector delivers at a time; None: one of each lane.
        init_random_frames: random agent steps before training starts.
        exploration_noise: standard deviation of the acting noise, halved for discrete actions.
        optim: fields of :class:`~uld_torchrl.config.OptimConfig`.
        **options: of :class:`~uld_torchrl.TorchRLTrainer`.

    Example:
        >>> from functools import partial
        >>> trainer = build_trainer(
        ...     make_env("CartPole-v1", seed=0), partial(build_networks, hidden_dim=8), build_loss,
        ...     make_replay_buffer(capacity=100, batch_size=4), total_frames=20, init_random_frames=10,
        ...     optim={"batch_size": 4, "period": 5}, progress_bar=False,
        ... )
        >>> trainer.train()
        >>> trainer.optimization_stepper.updates
        10
    """
    spec, observed = env.action_spec_unbatched, env.observation_spec_unbatched
    seen = observed.get("pixels", None)
    networks = network(observed["observation"] if seen is None else seen, spec)
    acting = AgentConfig(loss=LossConfig(exploration_noise=exploration_noise))
    collector = Collector(
        env,
        make_policy(networks, spec, acting),
        frames_per_batch=frames_per_batch or env.batch_size.numel(),
        init_random_frames=init_random_frames,
        auto_register_policy_transforms=False,
    )
    return TorchRLTrainer(
        loss(networks, spec),
        replay_buffer,
        collector,
        total_frames=total_frames,
        config=OptimConfig(**(optim or {})),
        **options,
    )


def _keywords(maker: Callable[..., Any]) -> dict[str, Any]:
    """Return the keywords of a function that hold plain values, with their defaults."""
    # Of TorchRL's classes the signature is that of their metaclass.
    function = maker.__init__ if isinstance(maker, type) else maker  # type: ignore[misc]
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    named = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return {each.name: MISSING if each.default is each.empty else each.default for each in named}


def _values(settings: type[Any]) -> dict[str, Any]:
    return {each.name: each.default for each in dataclasses.fields(settings)}


def _without_live(maker: Callable[..., Any], *settings: type[Any]) -> dict[str, Any]:
    """Return the fields of settings, and the keywords of what is called with live objects before these."""
    plain = {name: value for name, value in _keywords(maker).items() if value is not MISSING}
    return {**plain, **{name: value for each in settings for name, value in _values(each).items()}}


def _node(name: str, base: type[Any], target: Callable[..., Any], values: Mapping[str, Any]) -> type[Any]:
    """Return a node: a dataclass of these fields, a subclass of TorchRL's for that group.

    Fields are of type Any: what a value may be is checked where it is used, with a message that says so.
    """
    partial = values.get("_partial_", False)
    own = {name: value for name, value in values.items() if name != "_partial_"}
    path = f"{target.__module__}.{target.__qualname__}"
    fields: list[Any] = [(key, Any, dataclasses.field(default=value)) for key, value in own.items()]
    fields += [
        ("_target_", str, dataclasses.field(default=path)),
        ("_partial_", bool, dataclasses.field(default=partial)),
    ]
    body = {
        "__doc__": f"Hydra node of ``{path}``.",
        "__module__": __name__,
        "__post_init__": lambda self: None,
    }
    return dataclasses.make_dataclass(name, fields, bases=(base,), namespace=body)


_PARTIAL = {"_partial_": True}
ULDNetworksConfig = _node(
    "ULDNetworksConfig", NetworkConfig, build_networks, _without_live(build_networks, ModelConfig) | _PARTIAL
)
ULDLossConfig = _node(
    "ULDLossConfig",
    torchrl_configs.LossConfig,
    build_loss,
    _without_live(build_loss, LossConfig) | _PARTIAL,
)
ULDStepperConfig = _node(
    "ULDStepperConfig",
    torchrl_configs.HookConfig,
    build_stepper,
    _without_live(build_stepper, OptimConfig) | _PARTIAL,
)
SubTrajectorySamplerConfig = _node(
    "SubTrajectorySamplerConfig",
    torchrl_configs.data.SamplerConfig,
    SubTrajectorySampler,
    _keywords(SubTrajectorySampler),
)
HorizonWindowConfig = _node(
    "HorizonWindowConfig", torchrl_configs.SampleUnitConfig, build_window, _keywords(build_window)
)
ULDReplayBufferConfig = _node(
    "ULDReplayBufferConfig",
    torchrl_configs.data.ReplayBufferBaseConfig,
    make_replay_buffer,
    _keywords(make_replay_buffer),
)
ULDEnvConfig = _node("ULDEnvConfig", torchrl_configs.EnvConfig, make_env, _keywords(make_env))
ULDTrainerConfig = _node(
    "ULDTrainerConfig",
    torchrl_configs.TrainerConfig,
    build_trainer,
    _keywords(build_trainer) | {"progress_bar": True, "logger": None, "seed": None},
)

NODES: dict[tuple[str, str], type[Any]] = {
    ("network", "uld"): ULDNetworksConfig,
    ("loss", "uld"): ULDLossConfig,
    ("sampler", "uld"): SubTrajectorySamplerConfig,
    ("sample_unit", "uld"): HorizonWindowConfig,
    ("replay_buffer", "uld"): ULDReplayBufferConfig,
    ("hook", "uld_stepper"): ULDStepperConfig,
    ("env", "uld"): ULDEnvConfig,
    ("trainer", "uld"): ULDTrainerConfig,
}
"""The nodes by group and name, as in ``loss: uld`` of a defaults list."""


def register() -> None:
    """Store ``NODES`` in Hydra's ``ConfigStore``; importing this module has done so.

    Example:
        >>> register()
        >>> ConfigStore.instance().load("loss/uld.yaml").node.gamma
        0.99
    """
    store = ConfigStore.instance()
    for (group, name), node in NODES.items():
        store.store(group=group, name=name, node=node, provider="uld_torchrl")


register()
