"""Settings of the peers: one frozen dataclass each, with the source of every value; no torch.

What a run shares with ULD (steps, evaluation, lanes, checkpoints) is ``RunConfig``, as in any preset. Nothing
else of :class:`~uld_torchrl.AgentConfig` applies to a peer: :func:`harness_config` fills in what the trainer
reads of it, and settings of other sections are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from uld_torchrl.config import (
    AgentConfig,
    LossConfig,
    OptimConfig,
    ReplayConfig,
    RunConfig,
    filled,
    override,
    parse_setting,
    preset,
    to_dict,
)
from uld_torchrl.errors import InputError, check_kinds, check_non_negative, check_positive, nearest, one_of

PeerName = Literal["td3", "sac", "dqn"]


@dataclass(frozen=True)
class TD3Config:
    """TD3 (arXiv 1802.09477), for Box actions: the values of the authors' code, github.com/sfujim/TD3.

    Its 25 000 random steps are not among them: ``run.random_steps`` says how a run begins.

    Example:
        >>> TD3Config(gamma=0.98).policy_delay
        2
    """

    gamma: float = 0.99
    """Discount factor (paper and code)."""
    batch_size: int = 256
    """Transitions in a batch (code; paper: 100)."""
    capacity: int = 1_000_000
    """Largest number of agent steps kept (paper and code)."""
    hidden_dim: int = 256
    """Units of both hidden layers, ReLU (code; paper: 400 and 300)."""
    policy_lr: float = 3e-4
    """Adam's learning rate of the policy (code; paper: 1e-3)."""
    value_lr: float = 3e-4
    """Adam's learning rate of the two values (code; paper: 1e-3)."""
    tau: float = 0.005
    """Share of the online networks in an update of the targets (paper and code)."""
    policy_delay: int = 2
    """Value updates for one of the policy and the targets (paper and code)."""
    exploration_noise: float = 0.1
    """Standard deviation of the acting noise, in units of a [-1, 1] action (paper and code)."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action (paper and code)."""
    target_noise_clip: float = 0.5
    """The target noise is clipped to this magnitude (paper and code)."""

    def __post_init__(self) -> None:
        _check(self, "hidden_dim", "policy_lr", "value_lr", "policy_delay")
        check_non_negative(self, "exploration_noise", "target_noise", "target_noise_clip")
        _check_tau(self.tau)


@dataclass(frozen=True)
class SACConfig:
    """SAC with automatic temperature (arXiv 1812.05905), for Box actions: the values of its table 1.

    Example:
        >>> SACConfig().tau
        0.005
    """

    gamma: float = 0.99
    """Discount factor (table 1)."""
    batch_size: int = 256
    """Transitions in a batch (table 1)."""
    capacity: int = 1_000_000
    """Largest number of agent steps kept (table 1)."""
    hidden_dim: int = 256
    """Units of both hidden layers, ReLU (table 1)."""
    policy_lr: float = 3e-4
    """Adam's learning rate of the policy (table 1)."""
    value_lr: float = 3e-4
    """Adam's learning rate of the two values (table 1)."""
    temperature_lr: float = 3e-4
    """Adam's learning rate of the temperature's logarithm (table 1)."""
    tau: float = 0.005
    """Share of the online networks in an update of the targets, at every update (table 1)."""
    temperature: float = 1.0
    """Temperature at the start (authors' code, github.com/rail-berkeley/softlearning: its logarithm is 0)."""
    entropy_per_action: float = -1.0
    """Entropy that the temperature aims at, for each dimension of the action (table 1: -dim(A))."""
    log_std_min: float = -20.0
    """Least logarithm of the policy's standard deviation (authors' code of 1801.01290,
    github.com/haarnoja/sac)."""
    log_std_max: float = 2.0
    """Largest one (the same)."""

    def __post_init__(self) -> None:
        _check(self, "hidden_dim", "policy_lr", "value_lr", "temperature_lr", "temperature")
        _check_tau(self.tau)
        if not math.isfinite(self.entropy_per_action):
            raise InputError(f"entropy_per_action must be finite, got {self.entropy_per_action}.")
        if not -50 <= self.log_std_min < self.log_std_max <= 10:
            raise InputError(
                "log_std_min and log_std_max must be an interval in [-50, 10], got "
                f"[{self.log_std_min}, {self.log_std_max}]."
            )


@dataclass(frozen=True)
class DQNConfig:
    """DQN (Nature 518, 2015) for vectors and Discrete actions: the values of CleanRL's dqn.py.

    github.com/vwxyzjn/cleanrl, written for CartPole; only the exploration differs. Steps are counted from
    the end of ``run.random_steps``.

    Example:
        >>> DQNConfig(update_every=1).target_period
        500
    """

    gamma: float = 0.99
    """Discount factor (Nature and CleanRL)."""
    batch_size: int = 128
    """Transitions in a batch (CleanRL; Nature: 32)."""
    capacity: int = 10_000
    """Largest number of agent steps kept (CleanRL; Nature: 1 000 000 images)."""
    hidden_dim: int = 120
    """Units of the first hidden layer, ReLU (CleanRL)."""
    second_dim: int = 84
    """Units of the second hidden layer, ReLU (CleanRL)."""
    value_lr: float = 2.5e-4
    """Adam's learning rate (CleanRL; Nature: RMSProp, 2.5e-4)."""
    update_every: int = 10
    """Agent steps for one update (CleanRL; Nature: 4)."""
    target_period: int = 500
    """Agent steps between two copies of the target network (CleanRL; Nature: 40 000)."""
    epsilon_end: float = 0.05
    """Probability of a random action in the end (CleanRL; Nature: 0.1)."""
    epsilon_steps: int = 10_000
    """Agent steps in which it falls there from 1, linearly: 2 % of the preset's 500 000, Nature's share
    (1 of 50 million frames; CleanRL: half of the run). Fixed, so that a run can be made longer."""

    def __post_init__(self) -> None:
        _check(self, "hidden_dim", "second_dim", "value_lr", "update_every", "target_period", "epsilon_steps")
        if not 0 <= self.epsilon_end <= 1:
            raise InputError(f"epsilon_end must lie in [0, 1], got {self.epsilon_end}.")


PeerConfig = TD3Config | SACConfig | DQNConfig

PEERS: dict[str, type[TD3Config] | type[SACConfig] | type[DQNConfig]] = {
    "td3": TD3Config,
    "sac": SACConfig,
    "dqn": DQNConfig,
}
"""The peers' settings by their names."""

_GREEDY = "run.greedy_discrete_eval="
_COUNTED = ("step", "episodes", "episode_return", "updates", "skipped_updates")
_VALUES = ("loss_qvalue", "value_grad_norm", "td_error_mean")
_PREDICTED = ("pred_value", "target_value")
_METRICS = {
    "td3": (*_COUNTED, *_VALUES, *_PREDICTED, "loss_actor", "actor_value"),
    "sac": (*_COUNTED, *_VALUES, "loss_actor", "temperature", "entropy"),
    "dqn": (*_COUNTED, *_VALUES, "epsilon"),
}


def metrics_of(peer: PeerConfig) -> tuple[str, ...]:
    """Return the columns of metrics.csv.

    Example:
        >>> metrics_of(DQNConfig())[-1]
        'epsilon'
    """
    return _METRICS[name_of(peer)]


def name_of(peer: PeerConfig) -> str:
    """Return the name at the command line.

    Raises:
        InputError: ``peer`` is no settings of a peer.

    Example:
        >>> name_of(TD3Config())
        'td3'
    """
    for name, kind in PEERS.items():
        if type(peer) is kind:
            return name
    raise InputError(f"peer must be a TD3Config, SACConfig or DQNConfig, got {peer!r}.")


def harness_config(run: RunConfig, peer: PeerConfig) -> AgentConfig:
    """Return what the trainer reads of a peer's run: steps, batches of single transitions, drawn uniformly.

    Raises:
        InputError: ``peer`` is no settings of a peer.

    Example:
        >>> harness_config(RunConfig(total_steps=50), DQNConfig()).replay.capacity
        10000
    """
    name_of(peer)
    return AgentConfig(
        loss=LossConfig(horizon=1, n_steps=1, gamma=peer.gamma),
        optim=OptimConfig(batch_size=peer.batch_size, precision="float32", compile="off"),
        replay=ReplayConfig(capacity=peer.capacity, lap_alpha=0.0),
        run=run,
    )


def refuse_peer(peer: PeerConfig | None, what: str) -> None:
    """Refuse a peer for what needs ULD's networks.

    Raises:
        InputError: it is one.

    Example:
        >>> refuse_peer(None, "uld audit")
    """
    if peer is not None:
        raise InputError(
            f"{what} needs the networks of agent uld, got agent {name_of(peer)}: leave it out for that agent."
        )


def about_peer(peer: PeerConfig | None) -> dict[str, Any]:
    """Return what a description of a run or model says of its agent, as plain JSON data; of ULD nothing.

    Example:
        >>> about_peer(TD3Config())["agent"], about_peer(None)
        ('td3', {})
    """
    return {} if peer is None else {"agent": name_of(peer), "peer": to_dict(peer)}


def peer_of(about: dict[str, Any]) -> PeerConfig | None:
    """Build a peer's settings from what :func:`about_peer` gave; None where it is ULD.

    Raises:
        InputError: no such peer, an unknown field, or a value out of range.

    Example:
        >>> peer_of({"agent": "td3", "peer": {"gamma": 0.9}}).gamma
        0.9
    """
    name = about.get("agent", "uld")
    if name == "uld" and "peer" not in about:
        return None
    if not isinstance(name, str):
        raise InputError(f"agent must be one of uld, {', '.join(PEERS)}; got {name!r}.")
    made: PeerConfig = filled(PEERS[one_of("agent", name, PEERS)](), name, about.get("peer", {}))
    return made


def split_agent(settings: Iterable[str]) -> tuple[str, list[str]]:
    """Return the agent that settings name by ``agent=NAME``, "uld" if none does, and the other settings.

    Raises:
        InputError: no such agent.

    Example:
        >>> split_agent(["agent=td3", "td3.tau=0.01"])
        ('td3', ['td3.tau=0.01'])
    """
    agent, others = "uld", []
    for setting in settings:
        if setting.startswith("agent="):
            agent = one_of("agent", setting.removeprefix("agent="), ("uld", *PEERS))
        else:
            others.append(setting)
    return agent, others


def shared_settings(agent: str, settings: Iterable[str]) -> list[str]:
    """Return which settings of all runs of a study the runs of an agent take.

    A peer's take ``run.*`` and those of its name; ULD's all but those of peers.

    Raises:
        InputError: ``agent=NAME`` is among them: variants say which agent they are.

    Example:
        >>> given = ["run.total_steps=50", "loss.gamma=0.9", "td3.gamma=0.9"]
        >>> shared_settings("td3", given), shared_settings("uld", given)
        (['run.total_steps=50', 'td3.gamma=0.9'], ['run.total_steps=50', 'loss.gamma=0.9'])
    """
    sections = [(setting.partition(".")[0], setting) for setting in settings]
    for section, setting in sections:
        if section.startswith("agent="):
            raise InputError(
                f"the agent is no setting of all runs, got {setting!r}: use --agent, or --variant "
                f"name:{setting}."
            )
    if agent == "uld":
        return [setting for section, setting in sections if section not in PEERS]
    return [
        setting
        for section, setting in sections
        if section in ("run", agent) and not setting.startswith(_GREEDY)
    ]


def uld_settings(settings: Iterable[str]) -> list[str]:
    """Return settings of a run of ULD; refuse those that another agent would take.

    Raises:
        InputError: a setting of a peer, or the agent itself.

    Example:
        >>> uld_settings(["loss.gamma=0.9"])
        ['loss.gamma=0.9']
    """
    given = list(settings)
    for setting in given:
        section = setting.removeprefix("agent=").partition(".")[0]
        if section in PEERS:
            raise InputError(
                f"{setting!r} is of agent {section}, and this run is of agent uld: add --agent {section}, or "
                f"to a variant agent={section}."
            )
    return given


def read_settings(name: str, preset_name: str, settings: Iterable[str]) -> tuple[RunConfig, PeerConfig]:
    """Return the settings of a peer's run: the preset's ``run``, and ``run.*`` and ``<name>.*`` of settings.

    Raises:
        InputError: a setting of another section, or one that does not exist or fit.

    Example:
        >>> run, peer = read_settings("td3", "small", ["run.total_steps=50", "td3.tau=0.01"])
        >>> run.total_steps, run.eval_every, peer.tau
        (50, 2500, 0.01)
    """
    data = to_dict(PEERS[one_of("agent", name, PEERS)]())
    of_run = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, _, field = path.partition(".")
        if setting.startswith(_GREEDY):
            raise InputError(
                f"{setting!r} does not go with agent {name}, which is evaluated without exploration: leave "
                "it out, or use --agent uld."
            )
        if section == "run":
            of_run.append(setting)
        elif section == name and equals and field in data:
            data[field] = parse_setting(path, text, data[field])
        else:
            raise _unknown(name, setting, path)
    return override(preset(preset_name), of_run).run, PEERS[name](**data)


def own_settings(peer: PeerConfig) -> list[str]:
    """Return the settings that lead from a peer's defaults to ``peer``.

    Example:
        >>> own_settings(TD3Config(tau=0.01))
        ['td3.tau=0.01']
    """
    name = name_of(peer)
    usual = to_dict(PEERS[name]())
    return [f"{name}.{field}={value}" for field, value in to_dict(peer).items() if value != usual[field]]


def _unknown(name: str, setting: str, path: str) -> InputError:
    known = [f"run.{field.name}" for field in fields(RunConfig)]
    known += [f"{name}.{field.name}" for field in fields(PEERS[name])]
    close = nearest(path, known)
    hint = f"for example {', '.join(close)}" if close else f"one of {', '.join(known)}"
    return InputError(
        f"no setting {setting!r} of agent {name}, which reads none of ULD's but run.*: write run.field=value "
        f"or {name}.field=value, {hint}."
    )


def _check(config: PeerConfig, *positive: str) -> None:
    check_kinds(config)
    check_positive(config, "batch_size", "capacity", *positive)
    if not 0 <= config.gamma <= 1:
        raise InputError(f"gamma must lie in [0, 1], got {config.gamma}.")


def _check_tau(tau: float) -> None:
    if not 0 < tau <= 0.5:
        raise InputError(f"tau must lie in (0, 0.5], got {tau}: it is the share of the online networks.")
