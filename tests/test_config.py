"""Settings: presets, checks, and their way to JSON, to the command line and back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from uld_torchrl.config import (
    PRESETS,
    AgentConfig,
    AtariConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PixelConfig,
    ReplayConfig,
    RunConfig,
    differences,
    from_dict,
    override,
    preset,
    to_dict,
)
from uld_torchrl.errors import InputError

PARTS = {
    "model": ModelConfig,
    "loss": LossConfig,
    "optim": OptimConfig,
    "replay": ReplayConfig,
    "run": RunConfig,
    "pixels": PixelConfig,
    "atari": AtariConfig,
}


def test_the_default_has_the_published_values() -> None:
    """The hyperparameters of DESIGN, section 3, one by one."""
    config = AgentConfig()
    assert dataclasses.astuple(config.model) == (512, 256, 512, 512, 65, 10.0, 10.0, 32, "mlp", 2, "linear")
    assert dataclasses.astuple(config.loss) == (
        *(5, 3, 0.99, 1.0, 0.1, 0.1, 1e-5, 0.2, 0.2, 0.3),
        *("huber", "two_hot", "state", True, True, False, True, "min", 0, False, 0.0, 0.1, 1),
    )
    assert dataclasses.astuple(config.optim) == (
        *(256, 1e-4, 3e-4, 3e-4, 1e-4, 20.0, 250, "periodic", 4),
        *("auto", "auto", "none", 0.1, 1),
    )
    assert dataclasses.astuple(config.replay) == (1_000_000, 0.4, 1.0, 1.0, 0.1)
    assert config.run.random_steps == 10_000 and config.run.greedy_discrete_eval
    assert dataclasses.astuple(config.pixels) == (84, 3, False)
    assert dataclasses.asdict(config.atari) == {
        "frame_skip": 4,
        "frame_size": 84,
        "frame_stack": 4,
        "grayscale": True,
        "sticky_actions": 0.25,
        "clip_rewards": False,
        "terminal_on_life_loss": False,
        "noop_max": 0,
        "max_frames": 108_000,
        "eval_epsilon": 1e-3,
        "full_action_space": False,
    }


def test_presets() -> None:
    assert set(PRESETS) == {"uld", "mrq", "small", "debug"}
    assert preset("uld") == AgentConfig()
    assert differences(to_dict(preset("uld")), to_dict(preset("mrq"))) == [
        "run.greedy_discrete_eval: True -> False"
    ]
    small = preset("small")
    assert dataclasses.astuple(small.model)[:4] == (256, 128, 256, 256)
    assert (small.run.random_steps, small.run.total_steps) == (2_000, 15_000)
    assert small.loss == LossConfig() and small.optim == OptimConfig()
    debug = preset("debug")
    assert debug.run.total_steps <= 1_000 and debug.model.hidden_dim <= 32
    assert debug.loss == LossConfig()


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="preset must be one of uld, mrq, small, debug; got 'large'"):
        preset("large")


# Checks

POSITIVE = {
    ModelConfig: (
        *("z_s_dim", "z_a_dim", "z_sa_dim", "hidden_dim", "bin_range", "gumbel_tau", "conv_channels"),
        "num_values",
    ),
    LossConfig: ("horizon", "n_steps", "infonce_temperature", "exploration_noise_repeat"),
    OptimConfig: (
        *("batch_size", "encoder_lr", "value_lr", "policy_lr", "value_grad_clip", "period"),
        "updates_per_step",
    ),
    ReplayConfig: ("capacity", "lap_min_priority"),
    RunConfig: ("total_steps", "num_envs", "eval_every", "eval_episodes", "checkpoint_every", "log_every"),
    PixelConfig: ("frame_size", "frame_stack"),
    AtariConfig: ("frame_skip", "frame_size", "frame_stack", "max_frames"),
}
NOT_NEGATIVE = {
    LossConfig: (
        "dynamics_coeff",
        "reward_coeff",
        "terminated_coeff",
        "pre_activation_coeff",
        "exploration_noise",
        "target_noise",
        "target_noise_clip",
        "encoder_horizon",
        "infonce_coeff",
    ),
    OptimConfig: ("weight_decay", "image_shift", "lr_final"),
    ReplayConfig: ("lap_alpha",),
    RunConfig: ("random_steps",),
    AtariConfig: ("noop_max",),
}


@pytest.mark.parametrize("value", [0, -1, float("nan")])
@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in POSITIVE.items() for name in names]
)
def test_sizes_and_rates_must_be_positive(part: Any, name: str, value: float) -> None:
    whole = isinstance(getattr(part(), name), int)
    rule = "an integer" if whole and value != value else "greater than zero"
    with pytest.raises(InputError, match=f"^{name} must be {rule}, got {value}"):
        part(**{name: value})


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in NOT_NEGATIVE.items() for name in names]
)
def test_coefficients_may_be_zero_but_not_negative(part: Any, name: str) -> None:
    assert getattr(part(**{name: 0}), name) == 0
    value = -1 if isinstance(getattr(part(), name), int) else -0.5
    with pytest.raises(InputError, match=f"^{name} must not be negative, got {value}"):
        part(**{name: value})


def test_every_number_is_checked() -> None:
    checked = {(part, name) for table in (POSITIVE, NOT_NEGATIVE) for part in table for name in table[part]}
    checked |= {(ModelConfig, "num_bins"), (LossConfig, "gamma")}
    checked |= {(ReplayConfig, "fade"), (ReplayConfig, "fade_floor")}
    checked |= {(AtariConfig, "sticky_actions"), (AtariConfig, "eval_epsilon")}
    numbers = {
        (part, field.name)
        for part in PARTS.values()
        for field in dataclasses.fields(part)
        if field.type in ("int", "float")
    }
    assert numbers == checked


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (LossConfig, {"n_steps": 6}, r"n_steps must be at most horizon \(5\), got 6"),
        (LossConfig, {"horizon": 2}, r"n_steps must be at most horizon \(2\), got 3"),
        (LossConfig, {"gamma": 1.01}, r"gamma must lie in \[0, 1\], got 1.01"),
        (LossConfig, {"gamma": -0.1}, r"gamma must lie in \[0, 1\]"),
        (LossConfig, {"gamma": float("nan")}, r"gamma must lie in \[0, 1\], got nan"),
        (
            LossConfig,
            {"encoder_horizon": 6},
            r"encoder_horizon must be at most horizon \(5\), .*, got 6",
        ),
        (LossConfig, {"target_value": "max"}, "target_value must be one of min, mean; got 'max'"),
        (LossConfig, {"end_to_end": True, "freeze_encoder": True}, "end_to_end and freeze_encoder exclude"),
        (ModelConfig, {"predictor": "gru"}, "predictor must be one of linear, mlp; got 'gru'"),
        (ModelConfig, {"num_bins": 2}, "num_bins must be at least 3, got 2"),
        (AtariConfig, {"sticky_actions": 1.5}, r"sticky_actions must lie in \[0, 1\], got 1.5"),
        (AtariConfig, {"eval_epsilon": -0.1}, r"eval_epsilon must lie in \[0, 1\], got -0.1"),
        (OptimConfig, {"lr_final": 1.01}, r"lr_final must lie in \[0, 1\], got 1.01"),
        (OptimConfig, {"lr_decay": "step"}, "lr_decay must be one of none, linear, cosine; got 'step'"),
        (OptimConfig, {"updates_per_step": 2.5}, "updates_per_step must be an integer, got 2.5"),
        (
            LossConfig,
            {"exploration_noise_repeat": 1.5},
            "exploration_noise_repeat must be an integer, got 1.5",
        ),
        (OptimConfig, {"schedule": "often"}, "schedule must be one of periodic, every_step; got 'often'"),
    ],
)
def test_values_out_of_range(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(**values)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (PixelConfig, {"frame_stack": 2.5}, "frame_stack must be an integer, got 2.5"),
        (PixelConfig, {"frame_size": 84.0}, "frame_size must be an integer, got 84.0"),
        (PixelConfig, {"frame_size": True}, "frame_size must be a number, got True"),
        (PixelConfig, {"frame_size": "84"}, "frame_size must be a number, got '84'"),
        (PixelConfig, {"grayscale": 1}, "grayscale must be True or False, got 1"),
        (AtariConfig, {"frame_skip": None}, "frame_skip must be a number, got None"),
        (AtariConfig, {"noop_max": 0.5}, "noop_max must be an integer, got 0.5"),
        (AtariConfig, {"sticky_actions": "x"}, "sticky_actions must be a number, got 'x'"),
        (AtariConfig, {"clip_rewards": "no"}, "clip_rewards must be True or False, got 'no'"),
    ],
)
def test_settings_of_images_have_their_types(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}[.]$"):
        part(**values)


def test_numbers_of_numpy_are_numbers() -> None:
    config = AtariConfig(frame_size=np.int64(40), sticky_actions=np.float32(0.5))
    assert (config.frame_size, config.sticky_actions) == (40, 0.5)


def test_edges_are_allowed() -> None:
    assert LossConfig(horizon=1, n_steps=1).n_steps == 1
    assert OptimConfig(lr_final=1.0).lr_final == 1
    assert LossConfig(gamma=1.0).gamma == 1 and LossConfig(gamma=0.0).gamma == 0
    assert ModelConfig(num_bins=3).num_bins == 3
    assert AtariConfig(sticky_actions=0, eval_epsilon=1).eval_epsilon == 1


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AgentConfig().loss.gamma = 0.5  # type: ignore[misc]


def test_every_field_has_its_help_text() -> None:
    """A docstring stands below each field: the command line shows it."""
    for part in PARTS.values():
        lines = inspect.getsource(part).splitlines()
        for field in dataclasses.fields(part):
            at = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}: "))
            assert lines[at + 1].startswith('    """'), (part.__name__, field.name)


# To JSON and back


@pytest.mark.parametrize("name", PRESETS)
def test_dictionaries_go_through_json_and_back(name: str) -> None:
    data = json.loads(json.dumps(to_dict(preset(name))))
    assert from_dict(data) == preset(name)


def test_missing_sections_take_the_default() -> None:
    assert from_dict({"loss": {"gamma": 0.5}}) == AgentConfig(loss=LossConfig(gamma=0.5))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lost": {}}, "unknown settings 'lost'; known are model, loss"),
        ({"loss": {"gama": 0.5}}, "settings do not fit this version .*gama"),
        ({"loss": {"gamma": 2.0}}, "gamma must lie in"),
        ({"loss": {"gamma": "high"}}, "loss.gamma must be of type float, got 'high'"),
        ({"run": {"greedy_discrete_eval": "false"}}, "greedy_discrete_eval must be of type bool"),
        ({"model": {"z_s_dim": 2.5}}, "model.z_s_dim must be of type int, got 2.5"),
        ({"loss": None}, "settings must be a table"),
    ],
)
def test_damaged_dictionaries(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_dict(data)


def test_settings_of_runs_before_the_options_from_later_work_still_load() -> None:
    data = to_dict(preset("debug"))
    del data["loss"]["exploration_noise_repeat"]
    for name in ("lr_decay", "lr_final", "updates_per_step"):
        del data["optim"][name]
    assert from_dict(data) == preset("debug")


def test_a_run_has_its_updates_for_each_agent_step_after_the_random_ones() -> None:
    config = override(preset("debug"), ["run.total_steps=300", "run.random_steps=100", "run.num_envs=4"])
    assert (config.updates_per_round, config.total_updates) == (4, 200)
    twice = override(config, ["optim.updates_per_step=2"])
    assert (twice.updates_per_round, twice.total_updates) == (8, 400)
    assert override(twice, ["run.random_steps=300"]).total_updates == 2


def test_differences() -> None:
    config = AgentConfig()
    assert differences(to_dict(config), to_dict(config)) == []
    changed = override(config, ["loss.gamma=0.5", "run.num_envs=4"])
    assert differences(to_dict(config), to_dict(changed)) == [
        "loss.gamma: 0.99 -> 0.5",
        "run.num_envs: 1 -> 4",
    ]
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> None", "b: None -> {'c': 2}"]


# Overrides from the command line


def test_overrides_of_every_type() -> None:
    config = override(
        AgentConfig(),
        [
            "loss.gamma=0.9",
            "optim.batch_size=32",
            "optim.encoder_lr=1e-3",
            "optim.schedule=every_step",
            "run.greedy_discrete_eval=False",
            "loss.gamma=0.8",
        ],
    )
    assert config.loss.gamma == 0.8
    assert (config.optim.batch_size, config.optim.encoder_lr, config.optim.schedule) == (
        32,
        1e-3,
        "every_step",
    )
    assert config.run.greedy_discrete_eval is False
    assert override(config, ["run.greedy_discrete_eval=true"]).run.greedy_discrete_eval is True
    assert override(preset("small"), []) == preset("small")


def test_every_setting_can_be_overridden_by_its_own_value() -> None:
    config = preset("debug")
    settings = [
        f"{part}.{name}={value}" for part, rest in to_dict(config).items() for name, value in rest.items()
    ]
    assert len(settings) == sum(len(dataclasses.fields(part)) for part in PARTS.values())
    assert override(AgentConfig(), settings) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.gama=0.5", "no setting 'loss.gama=0.5'; .*for example loss.gamma"),
        ("optim.batchsize=2", "optim.batch_size"),
        ("loss.gamma", "write section.field=value"),
        ("gamma=0.5", "no setting 'gamma=0.5'"),
        ("qqqq=1", "one of model.z_s_dim, model.z_a_dim"),
        ("loss.gamma=high", "loss.gamma must be of type float, got 'high'"),
        ("optim.batch_size=2.5", "optim.batch_size must be of type int, got '2.5'"),
        ("optim.batch_size=", "optim.batch_size must be of type int, got ''"),
        ("run.greedy_discrete_eval=1", "run.greedy_discrete_eval must be one of true, false; got '1'"),
        ("optim.schedule=never", "schedule must be one of periodic, every_step"),
        ("pixels.frame_stack=0", "frame_stack must be greater than zero, got 0"),
        ("atari.frame_stak=4", "for example atari.frame_stack"),
        ("optim.batch_size=0", "batch_size must be greater than zero, got 0"),
    ],
)
def test_bad_overrides(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(AgentConfig(), [setting])


# One place for each default


def test_the_replay_buffers_defaults_are_those_of_the_settings() -> None:
    from uld_torchrl import make_replay_buffer

    wanted = {
        "num_lanes": RunConfig().num_envs,
        "horizon": LossConfig().horizon,
        "batch_size": OptimConfig().batch_size,
        "alpha": ReplayConfig().lap_alpha,
        "min_priority": ReplayConfig().lap_min_priority,
        "fade": ReplayConfig().fade,
        "fade_floor": ReplayConfig().fade_floor,
    }
    parameters = inspect.signature(make_replay_buffer).parameters
    assert {name: parameters[name].default for name in wanted} == wanted


def test_settings_do_not_import_torch() -> None:
    code = "import sys, uld_torchrl.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
