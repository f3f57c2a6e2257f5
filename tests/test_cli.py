"""The command line from end to end, in this process and in processes of its own.

Every bad input is answered with exit code 2 and one clear message; no run directory is left behind.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from uld_torchrl.cli import main
from uld_torchrl.envs import make_env, render_frame
from uld_torchrl.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--preset", "debug", "--total-steps", "30", "--set", "run.random_steps=20"]
QUICK += ["--set", "optim.period=5", "--set", "optim.batch_size=4", "--set", "run.checkpoint_every=10"]


class Outcome:
    """Exit code, standard output and standard error of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Outcome]


@pytest.fixture
def uld(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*arguments: Any) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capfd.readouterr())

    return run


def process(*arguments: Any, cwd: Path, **environment: str) -> Outcome:
    """Run a command in a process of its own, as the installed ``uld`` would."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "uld_torchrl.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A directory in which `uld train gym/CartPole-v1 --run-dir "my runs"` was run, and what it said."""
    folder = tmp_path_factory.mktemp("cli")
    return folder, process("train", "gym/CartPole-v1", *QUICK, "--run-dir", "my runs", cwd=folder)


RUN = Path("my runs", "gym", "CartPole-v1", "debug", "seed0")


@pytest.fixture
def finished(trained: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of the trained run directory that a test may damage."""
    root = shutil.copytree(trained[0] / "my runs", tmp_path / "runs", symlinks=True)
    return Path(root, *RUN.parts[1:])


def test_train_in_a_process_of_its_own(trained: tuple[Path, Outcome]) -> None:
    folder, outcome = trained
    assert outcome.code == 0, outcome.err
    assert (folder / RUN / "model" / "model.safetensors").exists()
    assert (folder / RUN / "curve.png").exists()
    last = outcome.out.splitlines()[-1]
    mean = (folder / RUN / "eval.csv").read_text().splitlines()[-1].split(",")[1]
    assert last.startswith(f"return {float(mean):.1f} ")
    assert f"in {RUN}" in last
    assert "step 30/30" in outcome.err
    assert "steps/s" in outcome.err
    assert "Traceback" not in outcome.err


def test_the_printed_eval_command_works(trained: tuple[Path, Outcome]) -> None:
    folder, outcome = trained
    printed = outcome.out.splitlines()[-1].partition("uld eval ")[2]
    assert printed
    evaluated = process("eval", *shlex.split(printed), cwd=folder)
    assert evaluated.code == 0, evaluated.err
    assert re.fullmatch(r"return \d+\.\d \(sd \d+\.\d.*episodes\).*gym/CartPole-v1\n", evaluated.out)


def test_help_answers_for_every_command(uld: Run) -> None:
    for arguments in (["--help"], ["train", "--help"], ["eval", "--help"], ["info", "--help"]):
        outcome = uld(*arguments)
        assert outcome.code == 0
        assert "usage: uld" in outcome.out
    for option in ("--preset", "--schedule", "--seed", "--num-envs", "--total-steps", "--name", "--run-dir"):
        assert option in uld("train", "--help").out


def test_without_arguments_it_trains_cartpole_swingup(monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl import cli

    seen = []
    monkeypatch.setattr(cli, "_train", seen.append)
    assert main(["train"]) == 0
    (command,) = seen
    config = cli.settings(command)
    assert (command.env, command.preset, command.seed) == ("dmc/cartpole-swingup", "small", 0)
    assert (config.run.total_steps, config.model.hidden_dim) == (15_000, 256)
    assert command.run_dir == Path("runs")


def test_options_reach_the_run(uld: Run, tmp_path: Path) -> None:
    outcome = uld(
        *("train", "CartPole-v1", *QUICK, "--run-dir", tmp_path, "--name", "mine", "--seed", "3"),
        *("--num-envs", "2", "--schedule", "every_step", "--set", "loss.gamma=0.5", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    started = json.loads((tmp_path / "gym/CartPole-v1/mine/seed3/config.json").read_text())
    assert (started["env_id"], started["seed"]) == ("gym/CartPole-v1", 3)
    assert started["config"]["run"]["num_envs"] == 2
    assert started["config"]["run"]["total_steps"] == 30
    assert started["config"]["optim"]["schedule"] == "every_step"
    assert started["config"]["loss"]["gamma"] == 0.5


def train_again(uld: Run, run: Path, *options: str) -> Outcome:
    return uld("train", "gym/CartPole-v1", *QUICK, "--run-dir", run.parents[3], *options)


def test_the_same_command_says_the_result_again(
    trained: tuple[Path, Outcome], finished: Path, uld: Run
) -> None:
    outcome = train_again(uld, finished)
    assert outcome.code == 0
    assert f"{finished} is finished" in outcome.out
    assert outcome.out.splitlines()[-1].split(" at ")[0] == trained[1].out.splitlines()[-1].split(" at ")[0]


def test_more_steps_go_on(finished: Path, uld: Run) -> None:
    outcome = train_again(uld, finished, "--total-steps", "35")
    assert outcome.code == 0
    assert f"{finished} goes on from step 30" in outcome.out
    assert "at step 35" in outcome.out.splitlines()[-1]


def test_fresh_starts_beside_it(finished: Path, uld: Run) -> None:
    outcome = train_again(uld, finished, "--fresh")
    assert outcome.code == 0
    assert "debug-2/seed0" in outcome.out.splitlines()[-1]


def test_ctrl_c_says_how_to_go_on(uld: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl.trainers import ULDTrainer

    learn = ULDTrainer._learn

    def interrupted(self: ULDTrainer) -> None:
        if self.step == 27:
            raise KeyboardInterrupt
        learn(self)

    command = ("train", "CartPole-v1", *QUICK, "--run-dir", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ULDTrainer, "_learn", interrupted)
        outcome = uld(*command)
    assert outcome.code == 130
    assert "the same command goes on" in outcome.err
    assert "Traceback" not in outcome.err
    again = uld(*command)
    assert again.code == 0
    assert "goes on from step 20" in again.out


def test_a_full_disk_is_one_message(uld: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl.trainers import ULDTrainer

    def full(self: ULDTrainer) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ULDTrainer, "save", full)
    outcome = uld("train", "CartPole-v1", *QUICK, "--run-dir", tmp_path)
    assert outcome.code == 1
    assert "No space left on device" in outcome.err
    assert "Traceback" not in outcome.err


def test_eval_is_repeatable_and_counts_episodes(finished: Path, uld: Run) -> None:
    first, again, other = (uld("eval", finished, "--episodes", "3", "--seed", seed).out for seed in (1, 1, 2))
    assert first == again
    assert first.startswith("return ")
    assert "3 episodes" in first
    assert other.startswith("return ")


def frames_work(env_id: str) -> str | None:
    """Return why an environment cannot be drawn here, None if it can."""
    try:
        env = make_env(env_id, seed=0, render=True)
        env.reset()
        render_frame(env)
    except InputError as error:
        return str(error)
    return None


class Square(gymnasium.Env):
    """Episodes of six steps, drawn as one grey value a step; pays the action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}
    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 6, False, {}

    def render(self) -> np.ndarray:
        return np.full((64, 64, 3), 20 + 30 * self.time, np.uint8)


class Odd(Square):
    """A Square whose spaces are given; the ones in ``SPACES`` are not supported."""

    def __init__(self, render_mode: str | None = None, **spaces: Any) -> None:
        super().__init__(render_mode)
        self.__dict__.update(spaces)


SPACES = {
    "Toy/Actions-v0": {"action_space": MultiDiscrete([2, 3])},
    "Toy/Unbounded-v0": {"action_space": Box(-np.inf, np.inf, (1,), np.float32)},
    "Toy/Observations-v0": {"observation_space": gymnasium.spaces.Dict({"a": Box(-1, 1, (2,))})},
    "Toy/Image-v0": {"observation_space": Box(0, 255, (8, 8, 3), np.uint8)},
}


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    gymnasium.register("Toy/Square-v0", Square)
    for name, spaces in SPACES.items():
        gymnasium.register(name, Odd, kwargs=spaces)
    yield
    for name in ("Toy/Square-v0", *SPACES):
        del gymnasium.registry[name]


def film(uld: Run, tmp_path: Path, env_id: str) -> list[np.ndarray]:
    """Train briefly, evaluate with --video, and return the frames of the video that was named."""
    trained = uld("train", env_id, *QUICK, "--run-dir", tmp_path)
    assert trained.code == 0, trained.err
    (run,) = tmp_path.rglob("seed0")
    outcome = uld("eval", run, "--video", "--episodes", "1", "--seed", "4")
    assert outcome.code == 0, outcome.err
    video = Path(outcome.out.rpartition("video: ")[2].strip())
    assert video.parent == run / "videos"
    assert video.suffix == ".mp4"
    reader, frames = cv2.VideoCapture(str(video)), []
    while (frame := reader.read()[1]) is not None:
        frames.append(frame)
    reader.release()
    return frames


def test_a_video_shows_every_state_of_the_episode(uld: Run, tmp_path: Path) -> None:
    frames = film(uld, tmp_path, "Toy/Square-v0")
    greys = [float(frame.mean()) for frame in frames]
    assert greys == pytest.approx([20 + 30 * time for time in range(7)], abs=4)  # lossy compression
    assert frames[0].shape == (64, 64, 3)


def test_a_video_of_a_mujoco_task(uld: Run, tmp_path: Path) -> None:
    reason = frames_work("gym/Reacher-v5")
    if reason is not None:
        pytest.skip(reason)
    frames = film(uld, tmp_path, "gym/Reacher-v5")
    assert len(frames) == 51
    assert frames[0].std() > 1
    assert abs(frames[0].astype(int) - frames[-1]).max() > 20  # the arm moves


def test_a_task_that_cannot_be_drawn(finished: Path, uld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.spec("CartPole-v1").kwargs, "no_such_argument", 1)
    outcome = uld("eval", finished, "--video")
    assert outcome.code == 2
    assert one_message(outcome)


def test_info(uld: Run) -> None:
    outcome = uld("info")
    assert outcome.code == 0
    for word in ("torch", "torchrl", "mujoco", "renderer"):
        assert word in outcome.out.lower()


def one_message(outcome: Outcome) -> str:
    """Return the message, after checking that there is exactly one and no traceback."""
    assert outcome.code == 2, outcome.out + outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("uld: error: ")
    return lines[0]


BAD_TRAIN: dict[str, tuple[list[str], list[str]]] = {
    # name: arguments after `uld train`, words of the message
    "unknown Gymnasium id": (["CartPoll-v1"], ["gym/CartPoll-v1", "Did you mean gym/CartPole-v1"]),
    "unknown version": (["gym/CartPole-v9"], ["gym/CartPole-v9", "gym/CartPole-v1"]),
    "unknown dm_control task": (["dmc/cartpol-swingup"], ["dmc/cartpol-swingup", "dmc/cartpole-swingup"]),
    "unknown family": (["dmcontrol/walker-run"], ["dmcontrol/walker-run"]),
    "nothing like it": (["dmc/"], ["dmc/<domain>-<task>"]),
    "empty id": ([""], ["env_id"]),
    "later family": (["atari/Pong"], ["atari/", "not supported yet"]),
    "missing module": (["gym/no_such_module:Env-v0"], ["no_such_module"]),
    "action space": (["Toy/Actions-v0"], ["action space", "MultiDiscrete", "supported are"]),
    "unbounded actions": (["Toy/Unbounded-v0"], ["action space", "finite"]),
    "observation space": (["Toy/Observations-v0"], ["observation space", "Dict", "supported are"]),
    "image observations": (["Toy/Image-v0"], ["observation space", "supported are"]),
    "no steps": (["--total-steps", "0"], ["total_steps must be greater than zero", "got 0"]),
    "negative steps": (["--total-steps", "-5"], ["total_steps must be greater than zero", "got -5"]),
    "no training": (
        ["--total-steps", "100"],
        ["total_steps must be greater than random_steps (100)", "got 100"],
    ),
    "too wide bins": (["--set", "model.bin_range=200"], ["bin_range must be at most 80"]),
    "too sharp priorities": (["--set", "replay.lap_alpha=1e9"], ["lap_alpha must be at most 10"]),
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
def test_bad_input(arguments: list[str], words: list[str], uld: Run, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    env = [] if arguments[0][:2] != "--" else ["CartPole-v1"]
    outcome = uld("train", *env, *arguments, "--run-dir", root, *(["--preset", "debug"]))
    message = one_message(outcome)
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
    arguments: list[str], words: list[str], uld: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = uld(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    outcome = process("train", "dmc/cartpole-swngup", cwd=tmp_path)
    assert "dmc/cartpole-swingup" in one_message(outcome)
    assert list(tmp_path.iterdir()) == []


def test_train_in_the_directory_of_another_configuration(finished: Path, uld: Run) -> None:
    message = one_message(train_again(uld, finished, "--set", "loss.gamma=0.9"))
    assert "loss.gamma: 0.99 -> 0.9" in message
    assert "--fresh" in message


def test_train_for_fewer_steps(finished: Path, uld: Run) -> None:
    assert "30" in one_message(train_again(uld, finished, "--total-steps", "29"))


def test_train_from_a_damaged_checkpoint(finished: Path, uld: Run) -> None:
    checkpoint = finished / "checkpoints" / "step-000000000030"
    (checkpoint / "manifest.json").write_text("{")
    message = one_message(train_again(uld, finished, "--total-steps", "40"))
    assert str(checkpoint) in message
    assert "damaged" in message


def test_train_into_a_file(uld: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    message = one_message(uld("train", "CartPole-v1", *QUICK, "--run-dir", tmp_path / "runs"))
    assert str(tmp_path / "runs") in message


def test_eval_of_no_run(uld: Run, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        message = one_message(uld("eval", path))
        assert str(path) in message
        assert "not a run directory" in message


def test_eval_of_an_unfinished_run(finished: Path, uld: Run) -> None:
    shutil.rmtree(finished / "model")
    message = one_message(uld("eval", finished))
    assert str(finished) in message
    assert "finish" in message


def test_eval_of_a_damaged_model(finished: Path, uld: Run) -> None:
    weights = finished / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert str(weights) in one_message(uld("eval", finished))


def test_eval_where_the_environment_is_gone(finished: Path, uld: Run) -> None:
    path = finished / "model" / "config.json"
    path.write_text(path.read_text().replace("CartPole-v1", "CartPole-v7"))
    assert "gym/CartPole-v7" in one_message(uld("eval", finished))


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--episodes", "0", "episodes"), ("--seed", "-1", "seed"), ("--device", "gpu", "device")],
)
def test_bad_options_of_eval(option: str, value: str, word: str, finished: Path, uld: Run) -> None:
    message = one_message(uld("eval", finished, option, value))
    assert word in message
    assert value in message
