"""Bad input on the command line: exit code 2, one clear message, and no run directory left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text


class Odd(gymnasium.Env):
    """Spaces that are not supported, given as keywords."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, **spaces: Any) -> None:
        self.__dict__.update(spaces)


SPACES = {
    "Toy/Actions-v0": {"action_space": MultiDiscrete([2, 3])},
    "Toy/Unbounded-v0": {"action_space": Box(-np.inf, np.inf, (1,), np.float32)},
    "Toy/Observations-v0": {"observation_space": gymnasium.spaces.Dict({"a": Text(3)})},
    "Toy/Image-v0": {"observation_space": Box(0, 1, (8, 8, 3), np.float32)},
}


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    for name, spaces in SPACES.items():
        gymnasium.register(name, Odd, kwargs=spaces)
    yield
    for name in SPACES:
        del gymnasium.registry[name]


BAD_TRAIN: dict[str, tuple[list[str], list[str]]] = {
    # name: arguments after `uld train`, words of the message
    "unknown Gymnasium id": (["CartPoll-v1"], ["gym/CartPoll-v1", "Did you mean gym/CartPole-v1"]),
    "unknown version": (["gym/CartPole-v9"], ["gym/CartPole-v9", "gym/CartPole-v1"]),
    "unknown dm_control task": (["dmc/cartpol-swingup"], ["dmc/cartpol-swingup", "dmc/cartpole-swingup"]),
    "unknown family": (["dmcontrol/walker-run"], ["dmcontrol/walker-run"]),
    "nothing like it": (["dmc/"], ["dmc/<domain>-<task>"]),
    "empty id": ([""], ["env must be a name"]),
    "unknown tabular MDP": (["tabular/chian"], ["tabular/chian", "Did you mean tabular/chain"]),
    "unknown game": (["atari/Pongg"], ["atari/Pongg", "Did you mean atari/Pong"]),
    "no frames": (["atari/Pong", "--set", "atari.frame_stack=0"], ["frame_stack", "got 0"]),
    "missing module": (["gym/no_such_module:Env-v0"], ["no_such_module"]),
    "action space": (["Toy/Actions-v0"], ["action space", "MultiDiscrete", "supported are"]),
    "unbounded actions": (["Toy/Unbounded-v0"], ["action space", "finite"]),
    "observation space": (["Toy/Observations-v0"], ["observation space", "Text", "supported are"]),
    "images of floats": (["Toy/Image-v0"], ["observation space", "supported are", "uint8 from 0 to 255"]),
    "no steps": (["--total-steps", "0"], ["total_steps must be greater than zero", "got 0"]),
    "negative steps": (["--total-steps", "-5"], ["total_steps must be greater than zero", "got -5"]),
    "no training": (
        ["--total-steps", "100"],
        ["total_steps must be greater than random_steps (100)", "got 100"],
    ),
    "too wide bins": (["--set", "model.bin_range=200"], ["bin_range must be at most 80"]),
    "too sharp priorities": (["--set", "replay.lap_alpha=1e9"], ["lap_alpha must be at most 10"]),
    "more workers than environments": (
        ["--num-envs", "2", "--env-workers", "3"],
        ["env_workers", "3"],
    ),
    "negative workers": (["--env-workers", "-1"], ["env_workers", "-1"]),
    "an environment of Python": (["custom/Maze"], ["custom/Maze", "Python"]),
    "no environments": (["--num-envs", "0"], ["num_envs must be greater than zero", "got 0"]),
    "negative environments": (["--num-envs", "-2"], ["num_envs", "got -2"]),
    "negative seed": (["--seed", "-1"], ["seed", "-1"]),
    "huge seed": (["--seed", "4294967296"], ["seed", "4294967296"]),
    "no batch": (["--set", "optim.batch_size=0"], ["batch_size must be greater than zero", "got 0"]),
    "negative width": (["--set", "model.hidden_dim=-1"], ["hidden_dim must be greater than zero"]),
    "negative warm-up": (["--set", "run.random_steps=-1"], ["random_steps must not be negative"]),
    "no horizon": (["--set", "loss.horizon=0"], ["horizon must be greater than zero"]),
    "n above horizon": (["--set", "loss.n_steps=9"], ["n_steps must be at most horizon (5)", "got 9"]),
    "gamma above one": (["--set", "loss.gamma=1.5"], ["gamma must lie in [0, 1]", "got 1.5"]),
    "not a number": (["--set", "optim.value_lr=nan"], ["value_lr", "nan"]),
    "infinite": (["--set", "optim.value_lr=inf"], ["value_lr", "inf"]),
    "infinite priority": (["--set", "replay.lap_min_priority=inf"], ["min_priority", "inf"]),
    "few bins": (["--set", "model.num_bins=2"], ["num_bins must be at least 3"]),
    "replay too small": (["--set", "replay.capacity=3"], ["capacity", "3"]),
    "replay too small for its lanes": (
        ["--num-envs", "5", "--set", "replay.capacity=20"],
        ["capacity", "5"],
    ),
    "unknown device": (["--device", "gpu"], ["device must be one of auto, cpu", "'gpu'"]),
    "unsupported device": (["--device", "meta"], ["device must be", "'meta'"]),
    "unknown setting": (["--set", "optim.batchsize=3"], ["optim.batchsize=3", "optim.batch_size"]),
    "unknown section": (["--set", "foo.bar=3"], ["foo.bar=3", "section.field=value"]),
    "setting without value": (["--set", "loss.gamma"], ["loss.gamma", "section.field=value"]),
    "word for a number": (["--set", "optim.batch_size=many"], ["optim.batch_size", "int", "'many'"]),
    "fraction for an integer": (["--set", "loss.horizon=2.5"], ["loss.horizon", "int", "'2.5'"]),
    "word for a switch": (["--set", "run.greedy_discrete_eval=maybe"], ["true, false", "maybe"]),
    "unknown schedule": (["--set", "optim.schedule=never"], ["schedule", "periodic, every_step", "never"]),
    "bad name": (["--name", "a/b"], ["name must consist of", "'a/b'"]),
    "long name": (["--name", "a" * 300], ["name"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_TRAIN.values(), ids=BAD_TRAIN.keys())
def test_bad_input(arguments: list[str], words: list[str], uld: Any, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    env = [] if arguments[0][:2] != "--" else ["CartPole-v1"]
    outcome = uld("train", *env, *arguments, "--run-dir", root, *(["--preset", "debug"]))
    message = outcome.message
    for word in words:
        assert word in message
    assert not root.exists(), "a run directory was left behind"


BAD_OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "unknown option": (["train", "--stpes", "3"], ["--stpes"]),
    "unknown preset": (["train", "--preset", "big"], ["preset", "small", "debug", "mrq", "uld"]),
    "unknown schedule": (["train", "--schedule", "never"], ["schedule", "periodic", "every_step"]),
    "word for a number": (["train", "--num-envs", "two"], ["num-envs", "two"]),
    "unknown command": (["trian"], ["trian"]),
    "no run to evaluate": (["eval"], ["Missing from uld eval"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options(
    arguments: list[str], words: list[str], uld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = uld(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_bad_input_in_a_process_of_its_own(uld: Any, tmp_path: Path) -> None:
    outcome = uld.process("train", "dmc/cartpole-swngup", cwd=tmp_path)
    assert "dmc/cartpole-swingup" in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_train_in_the_directory_of_another_configuration(finished: Path, uld: Any) -> None:
    message = uld.train_again(finished, "--set", "loss.gamma=0.9").message
    assert "loss.gamma: 0.99 -> 0.9" in message
    assert "--fresh" in message


def test_train_for_fewer_steps(finished: Path, uld: Any) -> None:
    assert "30" in uld.train_again(finished, "--total-steps", "29").message


def test_train_from_damaged_checkpoints_only(finished: Path, uld: Any) -> None:
    folder = finished / "checkpoints"
    damaged = [path for path in folder.iterdir() if path.name.startswith("step-")]
    for checkpoint in damaged:
        (checkpoint / "manifest.json").write_text("{")
    message = uld.train_again(finished, "--total-steps", "40").message
    for part in (str(folder), "manifest.json is missing or changed", *(path.name for path in damaged)):
        assert part in message


def test_train_into_a_file(uld: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    message = uld("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path / "runs").message
    assert str(tmp_path / "runs") in message


def test_eval_of_no_run(uld: Any, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        message = uld("eval", path).message
        assert str(path) in message
        assert "not a run directory" in message


def test_eval_of_an_unfinished_run(finished: Path, uld: Any) -> None:
    shutil.rmtree(finished / "model")
    message = uld("eval", finished).message
    assert str(finished) in message
    assert "finish" in message


def test_eval_of_a_damaged_model(finished: Path, uld: Any) -> None:
    weights = finished / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert str(weights) in uld("eval", finished).message


def test_eval_where_the_environment_is_gone(finished: Path, uld: Any) -> None:
    path = finished / "model" / "config.json"
    path.write_text(path.read_text().replace("CartPole-v1", "CartPole-v7"))
    assert "gym/CartPole-v7" in uld("eval", finished).message


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--episodes", "0", "episodes"), ("--seed", "-1", "seed"), ("--device", "gpu", "device")],
)
def test_bad_options_of_eval(option: str, value: str, word: str, finished: Path, uld: Any) -> None:
    message = uld("eval", finished, option, value).message
    assert word in message
    assert value in message
