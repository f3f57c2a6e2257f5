"""The command line from end to end: what the commands do and say, in this process and in its own.

Videos are in ``test_video``, refused commands in ``test_bad_input``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from uld_torchrl.cli import main

RUN = Path("my runs", "gym", "CartPole-v1", "debug", "seed0")


def test_train_in_a_process_of_its_own(trained: tuple[Path, Any]) -> None:
    folder, outcome = trained
    assert outcome.code == 0, outcome.err
    assert (folder / RUN / "model" / "model.safetensors").exists()
    assert (folder / RUN / "curve.png").exists()
    last = outcome.out.splitlines()[-1]
    mean = (folder / RUN / "eval.csv").read_text().splitlines()[-1].split(",")[1]
    assert last.startswith(f"return {float(mean):.1f} ")
    assert f"in {RUN}" in last
    first = outcome.out.splitlines()[0]
    assert re.fullmatch(r"replay buffer: 0\.0 MB of memory for 31 steps, [\d.]+ GB free", first), first
    assert "step 30/30" in outcome.err
    assert "steps/s" in outcome.err
    assert "Traceback" not in outcome.err


def test_the_printed_eval_command_works(
    uld: Any, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outcome = trained
    printed = outcome.out.splitlines()[-1].partition("uld eval ")[2]
    assert printed
    monkeypatch.chdir(folder)
    evaluated = uld("eval", *shlex.split(printed))
    assert evaluated.code == 0, evaluated.err
    assert re.fullmatch(r"return \d+\.\d \(sd \d+\.\d.*episodes\).*gym/CartPole-v1\n", evaluated.out)


def test_help_answers_for_every_command(uld: Any) -> None:
    commands = (
        "train",
        "eval",
        "audit",
        "bench",
        "study run",
        "study list",
        "study status",
        "report",
        "info",
    )
    for arguments in ([], *(command.split() for command in commands)):
        outcome = uld(*arguments, "--help")
        assert outcome.code == 0
        assert "usage: uld" in outcome.out
    for option in ("--preset", "--schedule", "--seed", "--num-envs", "--total-steps", "--name", "--run-dir"):
        assert option in uld("train", "--help").out


def test_without_arguments_it_trains_cartpole_swingup(monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl import cli

    seen = []
    monkeypatch.setattr(cli, "_train", lambda command: seen.append(command) or 0)
    assert main(["train"]) == 0
    (command,) = seen
    config = cli.settings(command)
    assert (command.env, command.preset) == ("dmc/cartpole-swingup", "small")
    assert cli._seeds(command) == [0]
    assert (config.run.total_steps, config.model.hidden_dim) == (15_000, 256)
    assert command.run_dir == Path("runs")


def test_options_reach_the_run(uld: Any, tmp_path: Path) -> None:
    outcome = uld(
        *("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path, "--name", "mine", "--seed", "3"),
        *("--num-envs", "2", "--schedule", "every_step", "--set", "loss.gamma=0.5", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    started = json.loads((tmp_path / "gym/CartPole-v1/mine/seed3/config.json").read_text())
    assert (started["env_id"], started["seed"]) == ("gym/CartPole-v1", 3)
    assert started["config"]["run"]["num_envs"] == 2
    assert started["config"]["run"]["total_steps"] == 30
    assert started["config"]["optim"]["schedule"] == "every_step"
    assert started["config"]["loss"]["gamma"] == 0.5


def test_the_same_command_says_the_result_again(trained: tuple[Path, Any], finished: Path, uld: Any) -> None:
    outcome = uld.train_again(finished)
    assert outcome.code == 0
    assert f"{finished} is finished" in outcome.out
    assert "replay buffer" not in outcome.out
    assert outcome.out.splitlines()[-1].split(" at ")[0] == trained[1].out.splitlines()[-1].split(" at ")[0]


def test_more_steps_go_on(finished: Path, uld: Any) -> None:
    outcome = uld.train_again(finished, "--total-steps", "35")
    assert outcome.code == 0
    assert f"{finished} goes on from step 30" in outcome.out
    assert "at step 35" in outcome.out.splitlines()[-1]


def test_fresh_starts_beside_it(finished: Path, uld: Any) -> None:
    outcome = uld.train_again(finished, "--fresh")
    assert outcome.code == 0
    assert "debug-2/seed0" in outcome.out.splitlines()[-1]


@pytest.mark.parametrize("fresh", [False, True])
def test_ctrl_c_saves_and_says_how_to_go_on(
    fresh: bool, uld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uld_torchrl.trainers import ULDTrainer

    learn = ULDTrainer._learn

    def interrupted(self: ULDTrainer) -> None:
        if self.step == 27:
            signal.raise_signal(signal.SIGINT)
        learn(self)

    command = ["train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path / "my runs"]
    with monkeypatch.context() as patch:
        patch.setattr(ULDTrainer, "_learn", interrupted)
        outcome = uld(*command, *(["--fresh"] if fresh else []))
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert f"interrupted at step 27, saved in {tmp_path / 'my runs'}" in outcome.err
    if fresh:
        assert "--name" in outcome.err.splitlines()[-1]
        again = uld(*command)
    else:
        again = uld(*shlex.split(outcome.err.rpartition("to go on: uld ")[2]))
    assert again.code == 0
    assert "goes on from step 27" in again.out


def test_ctrl_c_while_starting(uld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl.trainers import trainer

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "make_env", interrupted)
    outcome = uld("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path)
    assert outcome.code == 130
    assert outcome.err.startswith("uld: interrupted; to go on: uld train CartPole-v1")


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_sigterm_to_all_processes(workers: int, uld: Any, tmp_path: Path) -> None:
    """A scheduler's signal, sent from outside to the process group while the run trains."""
    steps = [*uld.quick, "--total-steps", "100000", "--run-dir", "runs"]
    steps += ["--num-envs", "2", "--env-workers", str(workers)]
    running = uld.start("train", "CartPole-v1", *steps, cwd=tmp_path)
    metrics = tmp_path / "runs/gym/CartPole-v1/debug/seed0/metrics.csv"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert running.poll() is None, running.stderr.read()
        threading.Event().wait(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGTERM
    assert "saved in runs/gym/CartPole-v1/debug/seed0" in err
    assert "Traceback" not in err


def test_a_misbehaving_environment_is_one_message(uld: Any, tmp_path: Path) -> None:
    class Broken(gymnasium.Env):
        observation_space = Box(-1, 1, (2,), np.float32)
        action_space = Discrete(2)

        def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(2, np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(2, np.float32), float("nan"), False, False, {}

    gymnasium.register("Toy/Broken-v0", Broken)
    try:
        outcome = uld("train", "Toy/Broken-v0", *uld.quick, "--run-dir", tmp_path)
    finally:
        del gymnasium.registry["Toy/Broken-v0"]
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    (message,) = (line for line in outcome.err.splitlines() if line.startswith("uld: error"))
    assert "gym/Toy/Broken-v0" in message
    assert "reward" in message


@pytest.mark.slow
def test_worker_processes_give_the_same_run(uld: Any, tmp_path: Path) -> None:
    options = ["--num-envs", "3", "--run-dir", "runs", "--total-steps", "45"]
    for name, workers in (("here", 0), ("there", 2)):
        outcome = uld.process(
            "train",
            "CartPole-v1",
            *uld.quick,
            *options,
            "--name",
            name,
            "--env-workers",
            workers,
            cwd=tmp_path,
        )
        assert outcome.code == 0, outcome.err
        assert "Traceback" not in outcome.err
    here, there = (tmp_path / "runs/gym/CartPole-v1" / name / "seed0" for name in ("here", "there"))
    for file in ("metrics.csv", "eval.csv", "config.json", "model/model.safetensors"):
        assert (here / file).read_bytes() == (there / file).read_bytes()


def test_log_names_where_else_to_log(uld: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="install uld-torchrl[tensorboard]")
    outcome = uld("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path, "--log", "tensorboard")
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.rglob("tensorboard/events.out.*"))


def test_the_time_limit_says_how_to_go_on_and_that_the_run_is_not_finished(uld: Any, tmp_path: Path) -> None:
    command = ["train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path]
    outcome = uld(*command, "--time-limit", "0.001s")
    assert outcome.code == 75, outcome.err
    assert f"the time limit of 0.001 s was reached at step 0, saved in {tmp_path}" in outcome.err
    assert "the same again goes on" in outcome.err and "Traceback" not in outcome.err
    assert uld(*command, "--time-limit", "1h").code == 0


@pytest.mark.parametrize("text", ["soon", "0", "-5", "1:30", "30 m x", "1m2h", "", "inf", "nan"])
def test_a_time_limit_that_is_none_is_refused(text: str, uld: Any, tmp_path: Path) -> None:
    outcome = uld("train", "CartPole-v1", "--run-dir", tmp_path, f"--time-limit={text}")
    assert "--time-limit must be a length of time" in outcome.message and repr(text) in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_message(uld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from uld_torchrl.trainers import ULDTrainer

    def full(self: ULDTrainer) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ULDTrainer, "save", full)
    outcome = uld("train", "CartPole-v1", *uld.quick, "--run-dir", tmp_path)
    assert outcome.code == 1
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("uld: ")]
    assert "after step 10:" in line and "No space left on device" in line
    assert line.endswith("run the same again to begin anew.")
    assert "Traceback" not in outcome.err


def test_eval_is_repeatable_and_counts_episodes(finished: Path, uld: Any) -> None:
    first, again, other = (uld("eval", finished, "--episodes", "3", "--seed", seed).out for seed in (1, 1, 2))
    assert first == again
    assert first.startswith("return ")
    assert "3 episodes" in first
    assert other.startswith("return ")


def test_info(uld: Any) -> None:
    outcome = uld("info")
    assert outcome.code == 0
    for word in ("torch", "torchrl", "mujoco", "renderer"):
        assert word in outcome.out.lower()
