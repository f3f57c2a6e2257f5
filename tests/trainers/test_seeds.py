"""Runs of several seeds side by side: each is the run of its seed alone, and can be gone on with alone.

The updates themselves are in ``test_stacked.py``, the list of seeds at the command line in
``tests/test_seed_list.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from brief import brief_episodes
from gymnasium.spaces import Box, Discrete
from watched import same

from uld_torchrl import InputError, NonFinite, evaluate_run, train_seeds
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.data import memory
from uld_torchrl.errors import EnvironmentFault
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import Callback, Guards, Interrupted, OutOfTime, SeedsTrainer, ULDTrainer, replay

Make = Callable[..., ULDTrainer]
SEEDS = (4, 1)
NUMBERS = ("loss_encoder", "loss_qvalue", "loss_actor", "episode_return", "reward_scale")


def seeds_trainer(
    root: Path, config: AgentConfig, *changes: str, env: Any = "CartPole-v1", **options: Any
) -> SeedsTrainer:
    options = {"seeds": SEEDS, "name": "tiny", **options}
    with brief_episodes():  # as make_trainer does for the runs that these are compared with
        return SeedsTrainer(env, override(config, changes), run_dir=root, **options)


def trained(trainer: SeedsTrainer) -> SeedsTrainer:
    with closing(trainer):
        trainer.train()
    return trainer


def check_same_runs(one: SeedsTrainer, alone: list[ULDTrainer]) -> None:
    """Compare runs up to rounding in the updates; what happened in the environments is the same."""
    for mine, single in zip(one.trainers, alone, strict=True):
        assert (mine.seed, mine.step, mine.episodes) == (single.seed, single.step, single.episodes)
        for row, expected in zip(read_rows(mine.run.metrics), read_rows(single.run.metrics), strict=True):
            for name in NUMBERS:
                assert (row[name] == "") == (expected[name] == "")
                assert float(row[name] or 0) == pytest.approx(float(expected[name] or 0), rel=1e-4)
        weights, others = mine.agent.loss.state_dict(), single.agent.loss.state_dict()
        floats = [name for name in weights if isinstance(weights[name], torch.Tensor)]
        assert all(torch.allclose(weights[name], others[name], rtol=1e-4, atol=1e-6) for name in floats)


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("CartPole-v1", ["run.num_envs=2", "run.total_steps=24"]),
        pytest.param("Pendulum-v1", ["optim.schedule=every_step"], marks=pytest.mark.slow),
    ],
)
def test_each_run_is_the_run_of_its_seed_alone(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make, env: str, changes: list[str]
) -> None:
    together = trained(seeds_trainer(tmp_path / "both", tiny, *changes, env=env))
    alone = []
    for seed in SEEDS:
        single = make_trainer(tmp_path / "alone", env, seed=seed, config=override(tiny, changes))
        with closing(single):
            single.train()
        alone.append(single)
    check_same_runs(together, alone)


class Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


def killed(trainer: SeedsTrainer, step: int) -> None:
    """Train, and end without saving once ``step`` is reached."""
    work = trainer._round

    def working() -> Any:
        if trainer._step >= step:
            raise Killed
        return work()

    trainer._round = working  # type: ignore[method-assign]
    with closing(trainer), pytest.raises(Killed):
        trainer.train()


def files(trainer: SeedsTrainer) -> list[str]:
    names = ("metrics.csv", "eval.csv")
    return [(run.run.path / name).read_text() for run in trainer.trainers for name in names]


@pytest.mark.parametrize("schedule", [pytest.param("periodic", marks=pytest.mark.slow), "every_step"])
def test_killed_runs_that_go_on_are_the_uninterrupted_ones(
    tmp_path: Path, tiny: AgentConfig, schedule: str
) -> None:
    changes = [f"optim.schedule={schedule}", "run.total_steps=28", "run.checkpoint_every=14"]
    whole = trained(seeds_trainer(tmp_path / "whole", tiny, *changes))
    killed(seeds_trainer(tmp_path / "cut", tiny, *changes), 23)
    resumed = trained(seeds_trainer(tmp_path / "cut", tiny, *changes))
    assert [run.started_from for run in resumed.trainers] == [14, 14]
    assert files(resumed) == files(whole)
    for mine, other in zip(resumed.trainers, whole.trainers, strict=True):
        assert same(dict(mine.agent.loss.state_dict()), dict(other.agent.loss.state_dict()))
        assert same(mine.buffer.state_dict(), other.buffer.state_dict())


def test_a_run_of_several_goes_on_alone_and_the_reverse(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make
) -> None:
    whole = trained(seeds_trainer(tmp_path / "whole", tiny, "run.total_steps=26"))
    trained(seeds_trainer(tmp_path / "parts", tiny, "run.total_steps=20"))
    with closing(make_trainer(tmp_path / "parts", seed=4, total_steps=26)) as alone:  # to its end
        assert (alone.step, alone.train().started_from) == (20, 20)
    with closing(make_trainer(tmp_path / "parts", seed=1, total_steps=22)) as other:  # not to its end
        other.train()
    rest = trained(seeds_trainer(tmp_path / "parts", tiny, "run.total_steps=26"))
    assert [run.started_from for run in rest.trainers] == [26, 22]
    check_same_runs(rest, whole.trainers)


@pytest.mark.slow
def test_a_run_that_is_behind_catches_up(tmp_path: Path, tiny: AgentConfig, make_trainer: Make) -> None:
    whole = trained(seeds_trainer(tmp_path / "whole", tiny, "run.total_steps=26"))
    with closing(make_trainer(tmp_path / "parts", seed=1, total_steps=20)) as ahead:
        ahead.train()
    rest = trained(seeds_trainer(tmp_path / "parts", tiny, "run.total_steps=26"))
    assert [run.started_from for run in rest.trainers] == [0, 20]
    check_same_runs(rest, whole.trainers)


@pytest.mark.slow
def test_results_are_in_the_order_of_the_seeds_and_the_folders_those_of_single_runs(
    tmp_path: Path, tiny: AgentConfig
) -> None:
    options = {"seeds": SEEDS, "run_dir": tmp_path, "name": "tiny", "progress": False, "device": "cpu"}
    results = train_seeds(tiny, "CartPole-v1", **options)
    assert [result.path for result in results] == [tmp_path / f"gym/CartPole-v1/tiny/seed{k}" for k in SEEDS]
    for result in results:
        (last,) = [row for row in read_rows(result.path / "eval.csv") if row["step"] == "40"]
        assert float(last["episode_return_mean"]) == result.return_mean
        assert evaluate_run(result.path, episodes=1).result.lengths.shape == (1,)
    again = train_seeds(tiny, "CartPole-v1", **options)
    assert again == results
    assert [result.started_from for result in again] == [40, 40]
    fresh = train_seeds(tiny, "CartPole-v1", **{**options, "seeds": [1, 2], "fresh": True})
    assert [result.path.parent.name for result in fresh] == ["tiny-2", "tiny-2"]


class Mortal(gymnasium.Env[Any, Any]):
    """Counts steps; raises in the step of this number of all its lives."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,)), Discrete(2)
    lives, last = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        Mortal.lives += 1
        if Mortal.lives == self.last:
            raise RuntimeError("no wheels")
        return np.array([self.time], np.float32), 1.0, False, self.time == 8, {}


@pytest.fixture(autouse=True)
def reborn() -> Iterator[None]:
    """Leave the class as it was."""
    yield
    Mortal.lives, Mortal.last = 0, 0


def steps_saved(trainer: SeedsTrainer) -> list[int]:
    return [int(run.checkpoints.newest().name[5:]) for run in trainer.trainers]


def test_a_fault_of_one_environment_saves_all(tmp_path: Path, tiny: AgentConfig) -> None:
    changes = ["run.eval_every=1000", "run.checkpoint_every=1000"]
    Mortal.last = 2 * 14 + 1  # step 15 of the first run
    options: dict[str, Any] = {"env": Mortal, "guards": Guards(env_restarts=0)}
    trainer = seeds_trainer(tmp_path, tiny, *changes, **options)
    with closing(trainer), pytest.raises(EnvironmentFault) as caught:
        trainer.train()
    for words in ("after step 14", "no wheels", "seed4", "other seeds are saved"):
        assert words in str(caught.value)
    assert steps_saved(trainer) == [14, 15]
    assert [run.stepper.updates for run in trainer.trainers] == [4, 5]
    again = trained(seeds_trainer(tmp_path, tiny, *changes, **options))
    assert [run.stepper.updates for run in again.trainers] == [30, 30]


def test_environments_begun_anew_are_those_of_the_run_that_failed(tmp_path: Path, tiny: AgentConfig) -> None:
    Mortal.last = 2 * 14 + 1
    trainer = trained(seeds_trainer(tmp_path, tiny, "run.eval_every=1000", env=Mortal))
    assert [run.step for run in trainer.trainers] == [40, 40]
    ended = [int(run.buffer.state_dict()["records"]["next"]["truncated"].sum()) for run in trainer.trainers]
    assert ended == [1 + 1 + 3, 5]  # steps 8 and, cut, 14, then 22, 30, 38


def test_a_signal_saves_all_and_names_them(tmp_path: Path, tiny: AgentConfig) -> None:
    trainer = seeds_trainer(tmp_path, tiny, callbacks=[At(17, lambda: signal.raise_signal(signal.SIGTERM))])
    with closing(trainer), pytest.raises(Interrupted) as caught:
        trainer.train()
    assert "at step 17" in str(caught.value)
    assert "tiny/seed{4,1}" in str(caught.value)
    assert steps_saved(trainer) == [17, 17]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_cuts_the_evaluations_of_all_short(tmp_path: Path, tiny: AgentConfig) -> None:
    trainer = seeds_trainer(tmp_path, tiny)
    reporter = trainer.trainers[0]._reporter
    evaluate = reporter.evaluate

    def evaluating(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    reporter.evaluate = evaluating  # type: ignore[method-assign]
    with closing(trainer), pytest.raises(Interrupted, match="at step 20"):
        trainer.train()
    assert [read_rows(run.run.evaluations) for run in trainer.trainers] == [[], []]
    assert steps_saved(trainer) == [20, 20]


class At(Callback):
    """Does something at a step."""

    def __init__(self, every: int, act: Callable[[], None]) -> None:
        object.__setattr__(self, "every", every)
        object.__setattr__(self, "act", act)

    def __call__(self, trainer: ULDTrainer) -> None:
        if trainer.seed == SEEDS[0]:
            self.act()  # type: ignore[attr-defined]


def test_the_time_limit_is_that_of_all(tmp_path: Path, tiny: AgentConfig) -> None:
    trainer = seeds_trainer(tmp_path, tiny, guards=Guards(time_limit=1e-6))
    with closing(trainer), pytest.raises(OutOfTime, match=r"at step 0, .*seed\{4,1\}"):
        trainer.train()


def test_a_callback_that_raises_for_one_run_leaves_all_saved(tmp_path: Path, tiny: AgentConfig) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by the user")

    trainer = seeds_trainer(tmp_path, tiny, callbacks=[At(17, fail)])
    with closing(trainer), pytest.raises(ZeroDivisionError):
        trainer.train()
    assert steps_saved(trainer) == [17, 17]


def test_what_is_not_finite_is_told_with_its_seed_and_saved_for_none(
    tmp_path: Path, tiny: AgentConfig
) -> None:
    trainer = seeds_trainer(tmp_path, tiny)

    def poison() -> None:
        trainer.trainers[0].agent.loss.qvalue_network_params.data.apply_(lambda weight: weight.fill_(np.nan))

    trainer.trainers[0].callbacks = (At(25, poison),)
    with closing(trainer), pytest.raises(NonFinite) as caught:
        trainer.train()
    for words in ("after step 26", "tiny/seed4", "value", "checkpoint of step 20", "other seeds"):
        assert words in str(caught.value)
    assert steps_saved(trainer) == [20, 20]
    (dump,) = tmp_path.rglob("faults/step-*")
    assert "seed4" in dump.parts


def test_one_directory_that_cannot_be_opened_ends_it_before_anything_is_trained(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make
) -> None:
    with closing(make_trainer(tmp_path, seed=1)), pytest.raises(InputError, match=r"seed1 is being trained"):
        seeds_trainer(tmp_path, tiny)
    trained(seeds_trainer(tmp_path, tiny, seeds=[4]))  # which was let go
    with pytest.raises(InputError, match=r"seed4 holds a run of another configuration .*loss\.gamma"):
        seeds_trainer(tmp_path, tiny, "loss.gamma=0.5", seeds=[9, 4])
    assert not list(tmp_path.rglob("seed9/checkpoints"))
    trained(seeds_trainer(tmp_path, tiny, seeds=[9]))  # whose settings were taken back


def test_there_must_be_room_for_all_replay_buffers_together(
    tmp_path: Path, tiny: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(replay, "check_room", lambda size, *_: sizes.append(size))
        seeds_trainer(tmp_path / "two", tiny).close()
    one = sizes[2]
    assert sizes == [
        2 * one,
        2 * 3 * one,
        one,
        3 * one,
    ]  # in memory and on the disk, for both and for the last

    def free(device: Any, folder: Path | None) -> int:
        return 3 * one // 2 if folder is None else 100 * one

    monkeypatch.setattr(memory, "available_bytes", free)
    seeds_trainer(tmp_path / "one", tiny, seeds=[0]).close()
    with pytest.raises(InputError, match="2 runs together: the replay buffer needs"):
        seeds_trainer(tmp_path / "none", tiny)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"env": gymnasium.make("CartPole-v1")}, [], "env must be a name"),
        ({"eval_env": gymnasium.make("CartPole-v1")}, [], "eval_env must be a name"),
        ({"log_to": ["wandb"]}, [], "wandb"),
        ({}, ["optim.compile=on"], "compile"),
        ({}, ["optim.precision=bfloat16"], "bfloat16"),
        ({"seeds": []}, [], "seeds"),
        ({"seeds": [1, 1]}, [], "twice"),
    ],
)
def test_what_several_seeds_cannot_have_is_refused(
    tmp_path: Path, tiny: AgentConfig, options: dict[str, Any], changes: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        seeds_trainer(tmp_path, tiny, *changes, **options)
    assert not list(tmp_path.iterdir())
