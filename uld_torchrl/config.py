"""Settings: frozen dataclasses and the named presets, the one place where each default stands.

A docstring below a field is also its help text at the command line. Nothing here imports torch,
so that ``uld --help`` answers at once. Checking happens in ``__post_init__``: a wrong value is
a ``ValueError`` that names the field, the value given and what is allowed.

Values are those of MR.Q (arXiv 2501.16142); ULD (arXiv 2602.12643) publishes none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from uld_torchrl.config_images import AtariConfig as AtariConfig
from uld_torchrl.config_images import PixelConfig as PixelConfig
from uld_torchrl.config_loss import LossConfig as LossConfig
from uld_torchrl.config_loss import ModelConfig as ModelConfig
from uld_torchrl.errors import InputError, check_kinds, check_non_negative, check_positive, nearest, one_of

DEFAULT_ENV = "dmc/cartpole-swingup"
Schedule = Literal["periodic", "every_step"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]
Compile = Literal["auto", "off", "on", "graph"]
LrDecay = Literal["none", "linear", "cosine"]
PresetName = Literal["uld", "mrq", "small", "debug"]


@dataclass(frozen=True)
class OptimConfig:
    """Optimisers and the schedule of updates."""

    batch_size: int = 256
    """Windows in each batch."""
    encoder_lr: float = 1e-4
    """Learning rate of the encoders and the latent model."""
    value_lr: float = 3e-4
    """Learning rate of the value networks."""
    policy_lr: float = 3e-4
    """Learning rate of the policy."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of all optimisers."""
    value_grad_clip: float = 20.0
    """Largest gradient norm of the value update."""
    period: int = 250
    """Updates between two copies of the target networks."""
    schedule: Schedule = "periodic"
    """'periodic': all encoder updates of a period at its start; 'every_step': one with each value update."""

    image_shift: int = 4
    """Largest random shift of images in pixels; 0 switches it off."""
    precision: Precision = "auto"
    """Matrix products of the losses: float32, tf32 (CUDA), bfloat16 (CUDA, or a CPU with AVX512-BF16 or AMX);
    auto: float32 on a CPU, tf32 on CUDA. Weights and targets are float32 in all."""
    compile: Compile = "auto"
    """The update: 'off' as it is, 'on' by torch.compile, 'graph' as CUDA graphs; auto: off on a CPU, graph on
    CUDA."""
    lr_decay: LrDecay = "none"
    """Learning rates fall over the run's updates: 'none' (published), 'linear', 'cosine'."""
    lr_final: float = 0.1
    """Fraction of the learning rates that is left after the last update, if they fall."""
    updates_per_step: int = 1
    """Updates an agent step; period counts updates."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "batch_size", "encoder_lr", "value_lr", "policy_lr", "value_grad_clip", "period")
        check_positive(self, "updates_per_step")
        check_non_negative(self, "weight_decay", "image_shift", "lr_final")
        if self.lr_final > 1:
            raise InputError(f"lr_final must lie in [0, 1], got {self.lr_final}.")
        one_of("lr_decay", self.lr_decay, ("none", "linear", "cosine"))
        one_of("schedule", self.schedule, ("periodic", "every_step"))
        one_of("precision", self.precision, ("auto", "float32", "tf32", "bfloat16"))
        one_of("compile", self.compile, ("auto", "off", "on", "graph"))


@dataclass(frozen=True)
class ReplayConfig:
    """The replay buffer and its priorities (LAP, arXiv 2007.06049)."""

    capacity: int = 1_000_000
    """Largest number of agent steps kept, over all environments together."""
    lap_alpha: float = 0.4
    """Exponent of the priority max(td_error, lap_min_priority) ** lap_alpha."""
    lap_min_priority: float = 1.0
    """TD errors below this count as this."""
    fade: float = 1.0
    """Windows of age k agent steps are drawn with their priority times max(fade ** k, fade_floor); 1: off."""
    fade_floor: float = 0.1
    """Least factor on the priority of old windows."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "capacity", "lap_min_priority")
        check_non_negative(self, "lap_alpha")
        if self.lap_alpha > 10:
            raise InputError(f"lap_alpha must be at most 10, got {self.lap_alpha}.")
        for name, least in (("fade", 0.5), ("fade_floor", 0.01)):
            if not least <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [{least}, 1], got {getattr(self, name)}.")


@dataclass(frozen=True)
class RunConfig:
    """How long, how often to evaluate, and how random steps begin a run."""

    total_steps: int = 500_000
    """Agent steps of the whole run (environment frames = agent steps x action repeat)."""
    random_steps: int = 10_000
    """Uniformly random agent steps before training starts."""
    num_envs: int = 1
    """Environments stepped together; a vector step counts num_envs agent steps, with updates for each."""
    eval_every: int = 5_000
    """Agent steps between two evaluations."""
    eval_episodes: int = 10
    """Episodes of each evaluation."""
    greedy_discrete_eval: bool = True
    """Evaluate discrete policies by their most probable action; off: sample, as MR.Q published."""
    checkpoint_every: int = 5_000
    """Agent steps between two checkpoints."""
    log_every: int = 250
    """Agent steps between two rows of metrics.csv."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(
            self, "total_steps", "num_envs", "eval_every", "eval_episodes", "checkpoint_every", "log_every"
        )
        check_non_negative(self, "random_steps")


@dataclass(frozen=True)
class AgentConfig:
    """Every hyperparameter of the agent: the default is preset ``uld``.

    Example:
        >>> from uld_torchrl.config import AgentConfig
        >>> AgentConfig().loss.horizon
        5
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    run: RunConfig = field(default_factory=RunConfig)
    pixels: PixelConfig = field(default_factory=PixelConfig)
    atari: AtariConfig = field(default_factory=AtariConfig)

    def __post_init__(self) -> None:
        lanes, horizon = self.run.num_envs, self.loss.horizon
        if self.replay.capacity // lanes <= horizon:
            raise InputError(
                f"capacity must be at least {(horizon + 1) * lanes}, more than horizon ({horizon}) steps for "
                f"each of {lanes} environments, got {self.replay.capacity}."
            )

    @property
    def updates_per_round(self) -> int:
        """Updates after a vector step."""
        return self.run.num_envs * self.optim.updates_per_step

    @property
    def total_updates(self) -> int:
        """Updates of the whole run, which the learning rates fall over; at least 1."""
        return max(self.run.total_steps - self.run.random_steps, 1) * self.optim.updates_per_step


_SMALL = ModelConfig(z_s_dim=256, z_a_dim=128, z_sa_dim=256, hidden_dim=256)
_TINY = ModelConfig(z_s_dim=16, z_a_dim=8, z_sa_dim=16, hidden_dim=16)

PRESETS: dict[str, AgentConfig] = {
    "uld": AgentConfig(),
    "mrq": AgentConfig(run=RunConfig(greedy_discrete_eval=False)),
    "small": AgentConfig(
        model=_SMALL,
        run=RunConfig(total_steps=15_000, random_steps=2_000, eval_every=2_500, checkpoint_every=2_500),
    ),
    "debug": AgentConfig(
        model=_TINY,
        optim=OptimConfig(batch_size=16, period=20),
        run=RunConfig(
            total_steps=300,
            random_steps=100,
            eval_every=150,
            eval_episodes=1,
            checkpoint_every=100,
            log_every=20,
        ),
    ),
}


def preset(name: str) -> AgentConfig:
    """Return the settings of a preset: ``uld``, ``mrq``, ``small`` or ``debug``.

    Raises:
        ValueError: the name is none of these.

    Example:
        >>> from uld_torchrl.config import preset
        >>> preset("small").model.hidden_dim
        256
    """
    return PRESETS[one_of("preset", name, PRESETS)]


def check_run(config: AgentConfig) -> AgentConfig:
    """Return ``config`` if a run with it gets beyond its random steps.

    Raises:
        InputError: it does not.

    Example:
        >>> check_run(preset("small")).run.total_steps
        15000
    """
    total, random = config.run.total_steps, config.run.random_steps
    if total > random:
        return config
    raise InputError(
        f"total_steps must be greater than random_steps ({random}), got {total}: the run would end before it "
        "learns. Raise total_steps (--total-steps), or lower random_steps (--set run.random_steps=...)."
    )


def to_dict(config: Any) -> dict[str, Any]:
    """Return a (nested) settings dataclass as plain JSON data.

    Example:
        >>> to_dict(ReplayConfig())["capacity"]
        1000000
    """
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any]) -> AgentConfig:
    """Build :class:`AgentConfig` from :func:`to_dict`'s data.

    Raises:
        ValueError: an unknown field, or a value out of range.

    Example:
        >>> from_dict(to_dict(preset("mrq"))) == preset("mrq")
        True
    """
    defaults = AgentConfig()
    return dataclasses.replace(
        defaults, **{name: filled(getattr(defaults, name, None), name, part) for name, part in _items(data)}
    )


def _items(data: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(data, dict):
        raise InputError(f"settings must be a table of names and values, got {data!r}.")
    return data.items()


def filled(defaults: Any, section: str, data: Any) -> Any:
    """Return a section's dataclass with ``data`` put in, each value of its default's type.

    Raises:
        InputError: no such section or field, or a value of another type.

    Example:
        >>> filled(ReplayConfig(), "replay", {"capacity": 5000}).capacity
        5000
    """
    if defaults is None:
        known = [part.name for part in dataclasses.fields(AgentConfig)]
        raise InputError(f"unknown settings {section!r}; known are {', '.join(known)}.")
    for name, value in _items(data):
        if not hasattr(defaults, name):
            raise InputError(f"settings do not fit this version of uld_torchrl: unknown {section}.{name}.")
        wanted = type(getattr(defaults, name))
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise InputError(f"{section}.{name} must be of type {wanted.__name__}, got {value!r}.")
    return dataclasses.replace(defaults, **data)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Name the fields in which two settings differ, as ``section.field: old -> new``.

    Example:
        >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
        ['a.b: 1 -> 2']
    """
    found = []
    for key in sorted(set(old) | set(new)):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left} -> {right}")
    return found


def override(config: AgentConfig, settings: Sequence[str]) -> AgentConfig:
    """Return ``config`` with settings such as ``loss.gamma=0.98`` applied, later ones last.

    Raises:
        InputError: no such setting, or a value that does not fit it.

    Example:
        >>> override(AgentConfig(), ["loss.gamma=0.98", "optim.schedule=every_step"]).loss.gamma
        0.98
    """
    data = to_dict(config)
    for setting in settings:
        path, equals, text = setting.partition("=")
        section, _, name = path.partition(".")
        if not equals or name not in data.get(section, {}):
            known = [f"{part}.{key}" for part, fields in data.items() for key in fields]
            close = nearest(path, known)
            raise InputError(
                f"no setting {setting!r}; write section.field=value"
                + (f", for example {', '.join(close)}." if close else f", one of {', '.join(known)}.")
            )
        data[section][name] = parse_setting(path, text, data[section][name])
    return from_dict(data)


def parse_setting(path: str, text: str, old: Any) -> Any:
    """Return a setting's text as a value of the type of the old one.

    Raises:
        InputError: it is no such value.

    Example:
        >>> parse_setting("loss.gamma", "0.98", 0.99)
        0.98
    """
    if isinstance(old, bool):
        return one_of(path, text.lower(), ("true", "false")) == "true"
    try:
        return type(old)(text)
    except ValueError as error:
        raise InputError(f"{path} must be of type {type(old).__name__}, got {text!r}.") from error
