"""The loop of a run: when it acts at random, updates, evaluates and logs; and that it is repeatable.

Interrupted runs are in ``test_resume``, single updates in ``test_stepper``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, exploration_type, set_exploration_type

from uld_torchrl.config import AgentConfig, to_dict
from uld_torchrl.envs import make_env, task_spaces, task_to_json
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import ULDOptimizationStepper, ULDTrainer
from uld_torchrl.trainers.logs import EVALUATION, METRICS, TIMING

Make = Callable[..., ULDTrainer]


def train(trainer: ULDTrainer) -> Path:
    """Train to the end and return the run's directory."""
    path = trainer.train().path
    trainer.close()
    return path


def column(path: Path, name: str) -> list[str]:
    return [row[name] for row in read_rows(path)]


@pytest.mark.parametrize("env_id", ["gym/CartPole-v1", "gym/Pendulum-v1"])
def test_a_run_leaves_the_documented_files(
    env_id: str, tmp_path: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    result = make_trainer(tmp_path, env_id).train()
    path = result.path
    assert path == tmp_path / env_id / "tiny" / "seed0"
    assert {entry.name for entry in path.iterdir()} == {
        "config.json",
        "metrics.csv",
        "eval.csv",
        "timing.csv",
        "environment.txt",
        "checkpoints",
        "model",
        "curve.png",
    }
    assert {entry.name for entry in (path / "model").iterdir()} == {"config.json", "model.safetensors"}
    started = json.loads((path / "config.json").read_text())
    spaces = task_to_json(task_spaces(make_env(env_id)))
    task = {"layers": [], **spaces}
    assert started == {"env_id": env_id, "task": task, "seed": 0, "config": to_dict(tiny)}
    assert result.started_from == 0
    for name, columns in (("metrics", METRICS), ("eval", EVALUATION), ("timing", TIMING)):
        with (path / f"{name}.csv").open(newline="") as file:
            assert next(csv.reader(file)) == list(columns)
    last = read_rows(path / "eval.csv")[-1]
    assert result.step == int(last["step"]) == 40
    assert (result.return_mean, result.return_std) == (
        float(last["episode_return_mean"]),
        float(last["episode_return_std"]),
    )


def test_every_documented_metric_is_logged(finished_run: Path) -> None:
    (path,) = finished_run.rglob("metrics.csv")
    rows = read_rows(path)
    # Any row for the return: an episode need not have ended within the last ten steps.
    assert any(row["episode_return"] for row in rows)
    assert all(rows[-1][name] for name in METRICS if name != "episode_return")


def test_csv_begins_as_documented(finished_run: Path) -> None:
    (path,) = finished_run.rglob("eval.csv")
    assert path.read_text().startswith("step,episode_return_mean,episode_return_std")


def test_rows_come_at_the_set_steps(finished_run: Path) -> None:
    (path,) = finished_run.rglob("seed0")
    assert column(path / "metrics.csv", "step") == ["10", "20", "30", "40"]
    assert column(path / "timing.csv", "step") == ["10", "20", "30", "40"]
    assert column(path / "eval.csv", "step") == ["20", "40"]
    assert column(path / "metrics.csv", "updates") == ["0", "10", "20", "30"]
    checkpoints = sorted(entry.name for entry in (path / "checkpoints").iterdir())
    assert checkpoints == ["latest", "step-000000000020", "step-000000000040"]


def test_the_end_is_evaluated_also_between_periods(tmp_path: Path, make_trainer: Make) -> None:
    path = train(make_trainer(tmp_path, total_steps=27))
    assert column(path / "eval.csv", "step") == ["20", "27"]


def stored_at_updates(patch: pytest.MonkeyPatch) -> list[int]:
    """Note at every update how many steps the replay buffer holds."""
    original, seen = ULDOptimizationStepper.step, []

    def spy(self: ULDOptimizationStepper, trainer: Any, batch: Any = None) -> Any:
        seen.append(len(self.replay_buffer))
        return original(self, trainer, batch)

    patch.setattr(ULDOptimizationStepper, "step", spy)
    return seen


def test_updates_begin_when_more_than_the_random_steps_are_stored(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stored_at_updates(monkeypatch)
    trainer = make_trainer(tmp_path)
    train(trainer)
    assert seen == list(range(11, 41))
    assert trainer.stepper.updates == 40 - 10


def test_three_environments_make_three_updates_a_vector_step(
    tmp_path: Path, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stored_at_updates(monkeypatch)
    trainer = make_trainer(tmp_path, num_envs=3, random_steps=21)
    train(trainer)
    # 21 steps are not more than 21, 24 are; 42 is the first vector step at or past 40.
    assert seen == [stored for stored in range(24, 43, 3) for _ in range(3)]
    assert trainer.step == len(trainer.buffer) == 42
    rows = read_rows(trainer.run.metrics)
    assert [(row["step"], row["updates"]) for row in rows] == [
        ("12", "0"),
        ("21", "0"),
        ("30", "9"),
        ("42", "21"),
    ]


def test_no_update_is_made_up_for_later(tmp_path: Path, make_trainer: Make) -> None:
    # A window needs 5 steps: without random steps the first update comes after step 5, one each step.
    trainer = make_trainer(tmp_path, random_steps=0)
    train(trainer)
    assert trainer.stepper.updates == 40 - 4


def test_the_policy_acts_after_the_random_steps(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path)
    policy, acted = trainer.agent.policy, []

    def spy(td: Any) -> Any:
        if exploration_type() is ExplorationType.RANDOM:
            acted.append(trainer.step)
        return policy(td)

    trainer.agent.policy = spy  # type: ignore[assignment]
    train(trainer)
    assert acted == list(range(10, 40))


def test_stored_actions_explore(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path, "gym/Pendulum-v1")
    train(trainer)
    records = trainer.buffer.state_dict()["records"]
    td = TensorDict({"observation": records["observation"][30:]}, batch_size=[10, 1])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        greedy = trainer.agent.policy(td)["action"]
    # Noise of .2 has a mean absolute value of .16; the policy drifts by far less in ten updates.
    assert (records["action"][30:] - greedy).abs().mean() > 0.05
    assert records["action"].abs().max() <= 1.0


FILES = ("metrics.csv", "eval.csv", "model/model.safetensors")


def contents(path: Path) -> list[bytes]:
    return [(path / name).read_bytes() for name in FILES]


# The other by default in `test_determinism.py`.
@pytest.mark.parametrize(
    "env_id", [pytest.param("gym/CartPole-v1", marks=pytest.mark.slow), "gym/Pendulum-v1"]
)
def test_the_seed_decides_everything(env_id: str, tmp_path: Path, make_trainer: Make) -> None:
    first, second = (train(make_trainer(tmp_path / name, env_id)) for name in "ab")
    other = train(make_trainer(tmp_path / "a", env_id, seed=1))
    assert contents(first) == contents(second)
    assert all(old != new for old, new in zip(contents(first), contents(other), strict=True))


def test_evaluation_does_not_disturb_training(
    tmp_path: Path, finished_run: Path, make_trainer: Make, tiny: AgentConfig
) -> None:
    (seldom,) = finished_run.rglob("seed0")
    often = train(make_trainer(tmp_path, eval_every=3, eval_episodes=4, log_every=10))
    assert (often / "metrics.csv").read_bytes() == (seldom / "metrics.csv").read_bytes()
    weights = [load_file(path / "model" / "model.safetensors") for path in (seldom, often)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert len(column(often / "eval.csv", "step")) == 14


def test_evaluation_uses_environments_of_its_own(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path, eval_episodes=2)
    train(trainer)
    assert trainer.eval_env is not trainer.env
    assert trainer.eval_env.batch_size == torch.Size([2])
    assert {row["episodes"] for row in read_rows(trainer.run.evaluations)} == {"2"}


def test_training_returns_are_those_of_the_episodes(tmp_path: Path, make_trainer: Make) -> None:
    trainer = make_trainer(tmp_path, num_envs=2, total_steps=120, log_every=120, random_steps=120)
    train(trainer)
    # CartPole pays 1 a step: a return is the length of an episode.
    done = trainer.buffer.state_dict()["records"]["next"]["done"].squeeze(-1)
    assert done.shape == (60, 2)
    lengths = [
        float(length)
        for lane in done.T
        for length in lane.nonzero().flatten().diff(prepend=torch.tensor([-1]))
    ]
    (row,) = read_rows(trainer.run.metrics)
    assert int(row["episodes"]) == len(lengths) > 2
    assert float(row["episode_return"]) == pytest.approx(sum(lengths) / len(lengths))


def test_the_final_model_acts_like_the_trained_agent(tmp_path: Path, make_trainer: Make) -> None:
    from uld_torchrl.trainers import Agent, evaluate

    trainer = make_trainer(tmp_path, "gym/Pendulum-v1")
    train(trainer)
    loaded = Agent.load(trainer.run.model)
    results = [
        evaluate(make_env("Pendulum-v1", num_envs=2), agent.policy, seed=3).returns
        for agent in (trainer.agent, loaded)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=0)
