"""Runs with noise that is held, falling learning rates, and several updates a step: what each changes.

Noise itself is in ``modules/test_held_noise.py``, rates in ``test_rates.py``; that such runs go on exactly is
in ``test_exact_resume.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from uld_torchrl.cli import main
from uld_torchrl.config import AgentConfig, from_dict, override
from uld_torchrl.modules.held_noise import HeldNoise
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import SeedsTrainer, ULDTrainer
from uld_torchrl.untrusted import read_json

Make = Callable[..., ULDTrainer]
OPTIONS = {
    "noise": ["loss.exploration_noise_repeat=4"],
    "linear": ["optim.lr_decay=linear"],
    "cosine": ["optim.lr_decay=cosine", "optim.lr_final=0"],
    "updates": ["optim.updates_per_step=2"],
}


def trained(trainer: ULDTrainer) -> ULDTrainer:
    with closing(trainer):
        trainer.train()
    return trainer


# Noise


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the list that the noise of each step will be added to."""
    found: list[Tensor] = []
    plain = HeldNoise.__call__

    def noting(self: HeldNoise, *given: Any) -> Tensor:
        found.append(plain(self, *given))
        return found[-1]

    monkeypatch.setattr(HeldNoise, "__call__", noting)
    return found


def holds(used: list[Tensor], ended: Tensor, lane: int) -> Iterator[tuple[int, bool]]:
    """Give the length of each stretch of the same noise in a lane, and whether an episode's end cut it."""
    length = 1
    for step in range(1, len(used)):
        if torch.equal(used[step][lane], used[step - 1][lane]):
            length += 1
            assert not ended[step - 1, lane]
        else:
            yield length, bool(ended[step - 1, lane])
            length = 1


@pytest.mark.parametrize(("env", "lanes", "steps"), [("CartPole-v1", 2, 120), ("Pendulum-v1", 1, 230)])
def test_a_run_holds_noise_for_so_many_steps_and_never_over_an_episodes_end(
    env: str,
    lanes: int,
    steps: int,
    tmp_path: Path,
    tiny: AgentConfig,
    make_trainer: Make,
    used: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = [*OPTIONS["noise"], f"run.num_envs={lanes}", f"run.total_steps={steps}", "run.eval_every=1000"]
    changes += ["run.random_steps=10", "run.checkpoint_every=1000"]
    trainer = make_trainer(tmp_path, env, config=override(tiny, changes))
    monkeypatch.setattr(trainer, "_learn", lambda: None)
    trained(trainer)
    assert len(used) == (steps - 10) // lanes
    ended = trainer.buffer[:].get(("next", "done")).reshape(lanes, -1).T[10 // lanes :]
    for lane in range(lanes):
        found = list(holds(used, ended, lane))
        assert all(length == 4 or (cut and length < 4) for length, cut in found)
        assert any(cut and length < 4 for length, cut in found) or not ended[:-1, lane].any()
        assert (4, False) in found
    assert ended[:-1].any()  # else nothing was shown of episodes


def test_evaluation_and_answers_do_not_hold_noise(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make, used: list[Tensor]
) -> None:
    found = []
    for name, changes in (("plain", []), ("held", OPTIONS["noise"])):
        with closing(make_trainer(tmp_path / name, "Pendulum-v1", config=override(tiny, changes))) as trainer:
            trainer._reporter.begin(0)
            agent, seen = trainer.agent, [0.0, 1.0, 0.0]
            torch.manual_seed(5)
            answers = [agent.predict(seen, deterministic=False).tolist() for _ in range(3)]
            found.append((trainer._evaluate().mean, answers, agent.predict(seen).tolist()))
    assert found[0] == found[1] and len({str(answer) for answer in found[1][1]}) == 3
    assert not used


def test_environments_begun_anew_take_new_noise(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make
) -> None:
    with closing(make_trainer(tmp_path, config=override(tiny, OPTIONS["noise"]))) as trainer:
        held = trainer._open._noise
        trainer._begin()
        held(torch.zeros(1, 2))
        trainer._open.restart(3, [], trainer.buffer)
        assert held(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]


def test_an_episode_that_cannot_be_brought_back_takes_new_noise_where_another_keeps_its_own(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(tiny, [*OPTIONS["noise"], "run.num_envs=2"])
    with closing(make_trainer(tmp_path, config=config)) as trainer:
        trainer._begin()
        trainer._open._noise(torch.zeros(2, 2))
        state = trainer._open.state_dict()
        trainer._open._noise.forget()
        trainer._open.load_state_dict(state)
        observed = trainer._td
        came_back = torch.tensor([True, False])
        monkeypatch.setattr("uld_torchrl.trainers.episodes.restore_lanes", lambda *_: (observed, came_back))
        trainer._open.begin(0, trainer.buffer)
        assert trainer._open._noise(torch.ones(2, 2)).tolist() == [[0.0, 0.0], [1.0, 1.0]]


# Updates


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_agent_step_has_so_many_updates_and_a_period_counts_them(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    changes = ["optim.updates_per_step=3", f"run.num_envs={lanes}", "run.total_steps=20"]
    trainer = make_trainer(tmp_path, config=override(tiny, changes))
    bursts: list[int] = []
    burst = trainer.stepper._encoder_burst
    monkeypatch.setattr(trainer.stepper, "_encoder_burst", lambda: (bursts.append(trainer.step), burst()))
    trained(trainer)
    # 10 agent steps after the random ones; of 30 updates every fifth begins a period.
    assert trainer.stepper.updates == trainer.config.total_updates == 30
    first = 11 if lanes == 1 else 12
    assert bursts == [first + update // (3 * lanes) * lanes for update in range(0, 30, 5)]
    assert [row["updates"] for row in read_rows(trainer.run.metrics)][-1] == "30"


def test_several_seeds_have_as_many_updates_each(tmp_path: Path, tiny: AgentConfig) -> None:
    config = override(tiny, ["optim.updates_per_step=2", "run.total_steps=16"])
    with closing(SeedsTrainer("CartPole-v1", config, seeds=[0, 1], run_dir=tmp_path)) as trainer:
        trainer.train()
    assert [run.stepper.updates for run in trainer.trainers] == [12, 12]


# All of them


def test_each_option_makes_another_run_and_says_so_in_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [
        "run.total_steps=24",
        "run.random_steps=20",
        "run.eval_every=24",
        "optim.batch_size=4",
        "optim.period=3",
    ]
    found = []
    for name, changes in {"plain": [], **OPTIONS}.items():
        sets = [word for change in (*sizes, *changes) for word in ("--set", change)]
        common = ["--preset", "debug", "--name", name, "--run-dir", str(tmp_path)]
        assert main(["train", "Pendulum-v1", *common, *sets]) == 0, capsys.readouterr().err
        path = tmp_path / "gym" / "Pendulum-v1" / name / "seed0"
        found.append((path / "model" / "model.safetensors").read_bytes())
        settings = from_dict(read_json(path / "config.json")["config"])
        assert settings == override(settings, changes)
        assert (settings == override(settings, OPTIONS["noise"])) == (name == "noise")
    assert len(set(found)) == len(found)


def test_the_warm_up_is_the_same_with_every_option(
    tmp_path: Path, tiny: AgentConfig, make_trainer: Make
) -> None:
    """Records of the random steps, and those up to the first update that differs."""
    records = []
    for name, changes in {"plain": [], **OPTIONS}.items():
        config = override(tiny, [*changes, "run.total_steps=12", "run.eval_every=20"])
        trainer = trained(make_trainer(tmp_path / name, "Pendulum-v1", config=config))
        records.append(trainer.buffer[:].get("action").flatten()[:11])
    assert all(torch.equal(each, records[0]) for each in records)
    assert len(records[0].unique()) == 11
