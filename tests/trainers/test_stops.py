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
from killed import outcome

from uld_torchrl.diagnostics import ProbeEvery
from uld_torchrl.errors import EnvironmentFault, InputError
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import Guards, Interrupted, OutOfTime, ULDTrainer, stopping
from uld_torchrl.trainers.stopping import StoppedAtOnce, StopRequest

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


# At random steps of one kind each by default: a reward, an exception, a reset.
EARLY = ("NaN reward", "raise in step", "raise in reset")
WHEN = [
    pytest.param(what, at, id=f"{what}-{when}", marks=[pytest.mark.slow] if slow else [])
    for what in FAULTS
    for when, at, slow in (("at random", 8, what not in EARLY), ("in training", 26, False))
]


@pytest.mark.parametrize(("what", "at"), WHEN)
def test_a_fault_stops_the_run_with_step_key_and_checkpoint(
    what: str, at: int, tmp_path: Path, make_trainer: Make
) -> None:
    Fragile.what, Fragile.at = what, at
    options = {"guards": Guards(env_restarts=0)}
    trainer = make_trainer(tmp_path, Fragile, options=options, eval_every=1000, checkpoint_every=1000)
    with pytest.raises(EnvironmentFault) as caught:
        trainer.train()
    trainer.close()
    # A reset comes at the end of an episode of six, and the step that led to it is not stored.
    done = at - 1 if what != "raise in reset" else -(-at // 6) * 6 - 1
    message = str(caught.value)
    for word in (f"after step {done}:", "custom/Fragile", str(trainer.run.path), *FAULTS[what]):
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
    trainer = make_trainer(tmp_path, Fragile, options={"guards": Guards(env_restarts=0)})
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
    with pytest.raises(InputError, match=r"after step 27 of .*CartPole.*loss of the value is nan"):
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
    assert isinstance(caught.value, StoppedAtOnce) and caught.value.signum == signal.SIGINT
    again = make_trainer(tmp_path)
    assert again.step == 20  # the last regular checkpoint
    again.close()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, make_trainer: Make) -> dict[str, bytes]:
    """What the undisturbed run leaves, with probes."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), options={"callbacks": [ProbeEvery(20)]})
    trainer.train()
    trainer.close()
    return left_by(trainer)


def left_by(trainer: ULDTrainer) -> dict[str, bytes]:
    return {**outcome(trainer.run.path), "probes": (trainer.run.path / "probes.csv").read_bytes()}


def count_evaluated(trainer: ULDTrainer, at: int = 0) -> list[int]:
    """List the training steps at which evaluation steps are made; a signal comes with the third at ``at``."""
    step, made = trainer.eval_env.step, []

    def stepping(td: Any) -> Any:
        made.append(trainer.step)
        if trainer.step == at and made.count(at) == 3:
            signal.raise_signal(signal.SIGTERM)
        return step(td)

    trainer.eval_env.step = stepping  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("at", [20, 40], ids=["in the middle", "at the end"])
def test_a_signal_cuts_an_evaluation_short_which_is_made_when_the_run_goes_on(
    at: int, tmp_path: Path, make_trainer: Make, whole_run: dict[str, bytes]
) -> None:
    probes = {"callbacks": [ProbeEvery(20)]}
    trainer = make_trainer(tmp_path, options=probes)
    made = count_evaluated(trainer, at)
    with pytest.raises(Interrupted, match=f"at step {at}"):
        trainer.train()
    trainer.close()
    assert made.count(at) == 3
    for name in ("eval", "probes"):
        assert str(at) not in [row["step"] for row in read_rows(trainer.run.path / f"{name}.csv")]
    again = make_trainer(tmp_path, options=probes)
    assert (again.step, again.looked) == (at, False)
    assert again.train().step == 40
    again.close()
    assert left_by(again) == whole_run
    last = make_trainer(tmp_path, options=probes)
    made = count_evaluated(last)
    last.train()
    last.close()
    assert made == []  # the run is finished


def test_an_evaluation_that_was_made_up_for_has_one_row_whatever_comes_then(
    tmp_path: Path, make_trainer: Make, whole_run: dict[str, bytes]
) -> None:
    """It is written, and the process is killed before the next checkpoint."""
    probes = {"callbacks": [ProbeEvery(20)]}
    trainer = make_trainer(tmp_path, options=probes)
    count_evaluated(trainer, 20)
    with pytest.raises(Interrupted):
        trainer.train()
    trainer.close()
    killed = make_trainer(tmp_path, options=probes)
    killed._interact = lambda: bool(os.stat(tmp_path / "none"))  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError):
        killed.train()
    killed.close()
    assert [row["step"] for row in read_rows(killed.run.evaluations)] == ["20"]
    again = make_trainer(tmp_path, options=probes)
    again.train()
    again.close()
    assert left_by(again) == whole_run


def test_a_signal_in_the_last_step_leaves_the_evaluation_to_the_next_start(
    tmp_path: Path, make_trainer: Make
) -> None:
    trainer = make_trainer(tmp_path)
    interrupt_at(trainer, 40, signal.SIGINT)
    made = count_evaluated(trainer)
    with pytest.raises(Interrupted, match="at step 40"):
        trainer.train()
    trainer.close()
    assert 40 not in made and not trainer.run.model.exists()
    again = make_trainer(tmp_path)
    assert again.finished
    assert again.train().step == 40
    again.close()
    assert [row["step"] for row in read_rows(trainer.run.evaluations)] == ["20", "40"]


def test_a_signal_while_the_last_checkpoint_is_written_changes_nothing(
    tmp_path: Path, make_trainer: Make
) -> None:
    trainer = make_trainer(tmp_path)
    save = trainer.checkpoints.save

    def interrupted(step: int) -> Any:
        if step == 40:
            signal.raise_signal(signal.SIGTERM)
        return save(step)

    trainer.checkpoints.save = interrupted  # type: ignore[method-assign]
    assert trainer.train().step == 40
    trainer.close()
    assert (trainer.run.model / "config.json").exists()


class Clock:
    """In place of the module ``time``: stands still until it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_the_time_limit_saves_and_stops_as_a_signal_does(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, whole_run: dict[str, bytes]
) -> None:
    clock = Clock()
    monkeypatch.setattr(stopping, "time", clock)
    options: dict[str, Any] = {"guards": Guards(time_limit=81.0), "callbacks": [ProbeEvery(20)]}
    trainer = make_trainer(tmp_path, options=options)
    learn = trainer._learn

    def slow() -> None:
        clock.now += 3.0  # the limit counts from when the trainer was made
        learn()

    trainer._learn = slow  # type: ignore[method-assign]
    with pytest.raises(OutOfTime) as caught:
        trainer.train()
    trainer.close()
    assert (caught.value.limit, caught.value.step, caught.value.path) == (81.0, 27, trainer.run.path)
    assert "time limit of 81 s" in str(caught.value) and "the same again goes on" in str(caught.value)
    again = make_trainer(tmp_path, options=options)
    assert again.step == 27
    again.train()
    again.close()
    assert left_by(again) == whole_run


def test_a_time_limit_that_is_over_at_once_leaves_a_run_that_goes_on(
    tmp_path: Path, make_trainer: Make
) -> None:
    trainer = make_trainer(tmp_path, options={"guards": Guards(time_limit=1e-9)})
    with pytest.raises(OutOfTime, match="at step 0"):
        trainer.train()
    trainer.close()
    again = make_trainer(tmp_path)
    assert again.train().step == 40
    again.close()


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
