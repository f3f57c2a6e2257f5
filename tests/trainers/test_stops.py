"""Runs that end before their time: environments that misbehave, Ctrl-C, a directory in use.

Each time what was done before is on disk, and the same command goes on from there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from uld_torchrl.errors import EnvironmentFault, InputError
from uld_torchrl.trainers import Interrupted, ULDTrainer
from uld_torchrl.trainers.logs import read_rows
from uld_torchrl.trainers.stopping import StopRequest

Make = Callable[..., ULDTrainer]


class Fragile(gymnasium.Env):
    """Episodes of six steps; at step ``at`` of its life (all lanes together) it does ``what``."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)
    what: str = "nothing"
    at: int = 0
    life: int = 0

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self.what == "raise in reset" and Fragile.life >= self.at:
            raise KeyError("no map left")
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.time += 1
        Fragile.life += 1
        observation, reward = np.full(2, self.time / 6, np.float32), 1.0
        if Fragile.life == self.at:
            observation, reward = self.misbehave(observation, reward)
        return observation, reward, self.time == 6, False, {}

    def misbehave(self, observation: np.ndarray, reward: float) -> tuple[Any, Any]:
        if self.what == "raise in step":
            raise ZeroDivisionError("the wheel\n came off")
        changed = {
            "NaN observation": (np.array([0.0, np.nan], np.float32), reward),
            "infinite observation": (np.array([-np.inf, 0.0], np.float32), reward),
            "NaN reward": (observation, float("nan")),
            "infinite reward": (observation, float("inf")),
            "another shape": (np.zeros(3, np.float32), reward),
        }
        return changed.get(self.what, (observation, reward))


@pytest.fixture(autouse=True)
def whole() -> Iterator[None]:
    """Leave the class as it was."""
    yield
    Fragile.what, Fragile.at, Fragile.life = "nothing", 0, 0


FAULTS: dict[str, list[str]] = {
    # what happens: words of the message
    "NaN observation": ["observation[1]", "nan"],
    "infinite observation": ["observation[0]", "inf"],
    "NaN reward": ["reward", "nan"],
    "infinite reward": ["reward", "inf"],
    "another shape": ["observation", "(2,)", "(3,)"],
    "raise in step": ["step", "ZeroDivisionError", "the wheel came off", "test_stops.py"],
    "raise in reset": ["reset", "KeyError", "no map left", "test_stops.py"],
}


@pytest.mark.parametrize("at", [8, 26], ids=["at random", "in training"])
@pytest.mark.parametrize(("what", "words"), FAULTS.items(), ids=FAULTS.keys())
def test_a_fault_stops_the_run_with_step_key_and_checkpoint(
    what: str, words: list[str], at: int, tmp_path: Path, make_trainer: Make
) -> None:
    Fragile.what, Fragile.at = what, at
    trainer = make_trainer(tmp_path, Fragile, eval_every=1000, checkpoint_every=1000)
    with pytest.raises(EnvironmentFault) as caught:
        trainer.train()
    trainer.close()
    # A reset comes at the end of an episode of six, and the step that led to it is not stored.
    done = at - 1 if what != "raise in reset" else -(-at // 6) * 6 - 1
    message = str(caught.value)
    for word in (f"after step {done}:", "custom/Fragile", str(trainer.run.path), *words):
        assert word in message
    assert "\n" not in message
    assert [path.name for path in trainer.run.checkpoints.glob("step-*")] == [f"step-{done:012d}"]

    Fragile.what = "nothing"
    again = make_trainer(tmp_path, Fragile, eval_every=1000, checkpoint_every=1000)
    assert (again.step, len(again.buffer)) == (done, done)
    assert again.train().step == 40
    again.close()


def test_a_fault_before_the_first_step_saves_nothing(tmp_path: Path, make_trainer: Make) -> None:
    Fragile.what = "raise in reset"
    trainer = make_trainer(tmp_path, Fragile)
    with pytest.raises(EnvironmentFault, match=r"at the start: .*no map left"):
        trainer.train()
    trainer.close()
    assert not trainer.run.checkpoints.exists()


def test_the_cause_is_kept(tmp_path: Path, make_trainer: Make) -> None:
    Fragile.what, Fragile.at = "raise in step", 3
    trainer = make_trainer(tmp_path, Fragile)
    with pytest.raises(EnvironmentFault) as caught:
        trainer.train()
    trainer.close()
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, ZeroDivisionError):
        error = error.__cause__
    assert isinstance(error, ZeroDivisionError)


def test_a_fault_in_the_last_evaluation_costs_only_that(tmp_path: Path, make_trainer: Make) -> None:
    Fragile.what, Fragile.at = "NaN reward", 45  # 40 steps of training, then evaluation
    trainer = make_trainer(tmp_path, Fragile, eval_every=1000)
    with pytest.raises(EnvironmentFault, match=r"after step 40: .*reward"):
        trainer.train()
    trainer.close()
    again = make_trainer(tmp_path, Fragile, eval_every=1000)
    assert again.finished
    result = again.train()
    again.close()
    assert (result.step, result.return_mean) == (40, 6.0)
    assert again.stepper.updates == 30


def test_divergence_names_step_and_run(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path)
    learn = trainer._learn

    def diverged() -> None:
        if trainer.step == 27:
            for parameter in trainer.agent.loss.qvalue_network_params.parameters():
                parameter.data.fill_(float("nan"))
        learn()

    trainer._learn = diverged  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"after step 27 of .*CartPole.*training has diverged"):
        trainer.train()
    trainer.close()
    names = sorted(path.name for path in trainer.run.checkpoints.glob("step-*"))
    assert names == ["step-000000000020"]  # the last good one


def interrupt_at(trainer: ULDTrainer, step: int, signum: signal.Signals, times: int = 1) -> None:
    """Send a signal to this process in the middle of the update after ``step`` agent steps."""
    learn = trainer._learn

    def interrupted() -> None:
        if trainer.step == step:
            for _ in range(times):
                signal.raise_signal(signum)
        learn()

    trainer._learn = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_step_and_saves(
    signum: signal.Signals, tmp_path: Path, make_trainer: Make
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    trainer = make_trainer(tmp_path, checkpoint_every=1000)
    interrupt_at(trainer, 27, signum)
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    trainer.close()
    assert (caught.value.signum, caught.value.step, caught.value.path) == (signum, 27, trainer.run.path)
    assert trainer.stepper.updates == 17
    assert {number: signal.getsignal(number) for number in before} == before

    again = make_trainer(tmp_path, checkpoint_every=1000)
    assert (again.step, again.stepper.updates) == (27, 17)
    assert again.train().step == 40
    again.close()


def test_a_second_signal_stops_at_once_without_saving(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path)
    interrupt_at(trainer, 27, signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    trainer.close()
    assert not isinstance(caught.value, Interrupted)
    again = make_trainer(tmp_path)
    assert again.step == 20  # the last regular checkpoint
    again.close()


def test_a_signal_in_the_last_step_leaves_a_finished_run(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path)
    interrupt_at(trainer, 40, signal.SIGINT)
    assert trainer.train().step == 40
    trainer.close()


def test_training_in_another_thread_leaves_signals_alone(tmp_path: Path, make_trainer: Make) -> None:
    seen: list[Any] = []

    def work() -> None:
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_two_trainers_cannot_share_a_directory(tmp_path: Path, make_trainer: Make) -> None:
    first = make_trainer(tmp_path)
    with pytest.raises(InputError, match=r"being trained by another .*--fresh"):
        make_trainer(tmp_path)
    other = make_trainer(tmp_path, seed=1)
    first.close()
    make_trainer(tmp_path).close()
    other.close()


def test_a_refused_trainer_holds_nothing(tmp_path: Path, make_trainer: Make) -> None:
    make_trainer(tmp_path).close()
    with pytest.raises(InputError, match="total_steps"):
        make_trainer(tmp_path, total_steps=30)
    make_trainer(tmp_path).close()


def test_a_finished_run_without_checkpoints_is_not_started_anew(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.close()
    rows = read_rows(trainer.run.metrics)
    os.rename(trainer.run.checkpoints, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"checkpoints are gone.*--fresh"):
        make_trainer(tmp_path, total_steps=60)
    assert read_rows(trainer.run.metrics) == rows
