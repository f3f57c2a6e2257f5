"""Peers in the harness: a run's files, exact resume, what is refused before a directory, loading a model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peers_small import SMALL

from uld_torchrl.config import RunConfig, preset
from uld_torchrl.diagnostics import AuditEvery, ProbeEvery, audit_run
from uld_torchrl.errors import InputError
from uld_torchrl.peers import harness_config, metrics_of
from uld_torchrl.tables import read_rows
from uld_torchrl.trainers import ULDTrainer, evaluate_run, export_policy, load, train
from uld_torchrl.trainers.logs import EVALUATION, TIMING
from uld_torchrl.trainers.seeds import SeedsTrainer

RUN = RunConfig(
    total_steps=40, random_steps=10, eval_every=20, eval_episodes=1, checkpoint_every=14, log_every=7
)
ENVS = {"td3": "gym/Pendulum-v1", "sac": "gym/Pendulum-v1", "dqn": "gym/CartPole-v1"}
ODD = {
    "td3": dataclasses.replace(SMALL["td3"], policy_delay=3),
    "sac": SMALL["sac"],
    "dqn": dataclasses.replace(SMALL["dqn"], update_every=3, target_period=4, epsilon_end=0.5),
}


class Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


def trainer_of(root: Path, name: str, peer: Any = None, **run: int) -> ULDTrainer:
    settings = dataclasses.replace(preset("debug"), run=dataclasses.replace(RUN, **run))
    return ULDTrainer(ENVS[name], settings, name=name, run_dir=root, peer=peer or ODD[name])


def finish(trainer: ULDTrainer) -> ULDTrainer:
    trainer.train()
    trainer.close()
    return trainer


def kill(trainer: ULDTrainer, step: int) -> None:
    report = trainer._report

    def reporting() -> dict[str, float]:
        figures = report()
        if trainer.step >= step:
            raise Killed
        return figures

    trainer._report = reporting  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.train()
    trainer.close()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


@pytest.mark.parametrize("name", list(ENVS))
def test_a_killed_run_is_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    lanes = {"num_envs": 2} if name == "sac" else {}
    whole = finish(trainer_of(tmp_path / "whole", name, **lanes))
    kill(trainer_of(tmp_path / "cut", name, **lanes), 32)
    resumed = finish(trainer_of(tmp_path / "cut", name, **lanes))
    assert resumed.started_from == 28
    assert same(dict(whole.agent.loss.state_dict()), dict(resumed.agent.loss.state_dict()))
    assert same(whole.buffer.state_dict(), resumed.buffer.state_dict())
    for table in ("metrics.csv", "eval.csv"):
        assert (whole.run.path / table).read_text() == (resumed.run.path / table).read_text()


def test_a_run_has_the_files_of_any_run(tmp_path: Path) -> None:
    trainer = finish(trainer_of(tmp_path, "td3"))
    path = tmp_path / "gym" / "Pendulum-v1" / "td3" / "seed0"
    assert trainer.run.path == path and (path / "curve.png").exists()
    started = json.loads((path / "config.json").read_text())
    assert (started["agent"], started["peer"]["policy_delay"]) == ("td3", 3)
    for table, columns in (("metrics", metrics_of(ODD["td3"])), ("eval", EVALUATION), ("timing", TIMING)):
        assert list(read_rows(path / f"{table}.csv")[0]) == list(columns)
    assert [row["step"] for row in read_rows(path / "eval.csv")] == ["20", "40"]
    assert "\ncompute precision float32, compile off\n" in (path / "environment.txt").read_text()


def test_updates_begin_after_the_random_steps(tmp_path: Path) -> None:
    """One an agent step from the 11th on: 4 of 14, 11 of 21; of DQN a third of them, rounded down."""
    for name, wanted in (("td3", ["0", "4", "11", "18", "25"]), ("dqn", ["0", "1", "3", "6", "8"])):
        trainer = finish(trainer_of(tmp_path, name))
        assert [row["updates"] for row in read_rows(trainer.run.metrics)] == wanted
        assert trainer.stepper.counters["updates"] == {"td3": 30, "dqn": 10}[name]


@pytest.mark.parametrize("name", list(ENVS))
def test_a_model_is_loaded_and_plays_as_it_was_trained(tmp_path: Path, name: str) -> None:
    trainer = finish(trainer_of(tmp_path, name))
    agent = load(trainer.run.path)
    assert agent.peer == ODD[name] and agent.num_parameters == trainer.agent.num_parameters
    observation = agent.observation_space.sample()
    action = agent.predict(observation)
    assert action == trainer.agent.predict(observation) and agent.action_space.contains(action)
    torch.manual_seed(0)
    noisy = [agent.predict(observation, deterministic=False) for _ in range(30)]
    assert any(other != action for other in noisy)
    assert len(evaluate_run(trainer.run.path, episodes=2).result.returns) == 2
    for target, online in (("target_qvalue", "qvalue"), ("target_value", "value")):
        params = getattr(agent.loss, f"{online}_network_params", None)
        if params is not None:
            assert (params.data == getattr(agent.loss, f"{target}_network_params").data).all()


def test_a_loaded_dqn_explores_as_in_the_end_of_training(tmp_path: Path) -> None:
    peer = dataclasses.replace(SMALL["dqn"], epsilon_end=0.0)
    agent = load(finish(trainer_of(tmp_path, "dqn", peer)).run.path)
    observation = agent.observation_space.sample()
    found = {int(agent.predict(observation, deterministic=False)) for _ in range(40)}
    assert found == {int(agent.predict(observation))}


def test_a_peer_by_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="peer must be a TD3Config, SACConfig or DQNConfig, got 'dqn'"):
        trainer_of(tmp_path, "dqn", "dqn")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["hidden_dim", "no_such"])
def test_a_model_whose_description_does_not_fit_is_refused(tmp_path: Path, field: str) -> None:
    path = finish(trainer_of(tmp_path, "td3")).run.path
    about = json.loads((path / "model" / "config.json").read_text())
    about["peer"][field] = 10**6
    (path / "model" / "config.json").write_text(json.dumps(about))
    told = "does not fit its config.json" if field == "hidden_dim" else "is not a model description"
    with pytest.raises(InputError, match=told):
        load(path)


@pytest.mark.parametrize(
    ("env", "name", "told"),
    [
        ("gym/CartPole-v1", "td3", "agent td3 needs Box actions, got Discrete"),
        ("gym/CartPole-v1", "sac", "agent sac needs Box actions"),
        ("gym/Pendulum-v1", "dqn", "agent dqn needs Discrete actions, got Box"),
        ("dmc-pixels/cartpole-swingup", "td3", "agent td3 takes vectors, got images"),
        ("atari/Pong", "dqn", "agent dqn takes vectors, got images"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_there_is_a_directory(
    tmp_path: Path, env: str, name: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        ULDTrainer(env, dataclasses.replace(preset("debug"), run=RUN), run_dir=tmp_path, peer=SMALL[name])
    assert not list(tmp_path.iterdir())


def test_a_directory_belongs_to_one_agent_and_its_settings(tmp_path: Path) -> None:
    trainer_of(tmp_path, "td3").close()
    other = dataclasses.replace(SMALL["td3"], tau=0.25)
    with pytest.raises(InputError, match=r"another configuration \(peer.policy_delay: 3 -> 2; peer.tau"):
        trainer_of(tmp_path, "td3", other)
    with pytest.raises(InputError, match="agent: td3 -> sac"):
        trainer_of(tmp_path, "td3", SMALL["sac"])
    uld = harness_config(RUN, ODD["td3"])
    with pytest.raises(InputError, match="agent: td3 -> None"):
        ULDTrainer(ENVS["td3"], uld, name="td3", run_dir=tmp_path)
    trainer_of(tmp_path, "td3", total_steps=50).close()


def test_what_needs_the_networks_of_uld_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(preset("debug"), run=RUN)
    with pytest.raises(InputError, match=r"SeedsTrainer.* got agent dqn"):
        SeedsTrainer(ENVS["dqn"], config, seeds=[0, 1], run_dir=tmp_path, peer=SMALL["dqn"])
    options = {"run_dir": tmp_path, "peer": SMALL["dqn"]}
    for callback in (AuditEvery(10), ProbeEvery(10)):
        trainer = ULDTrainer("tabular/riverswim", config, callbacks=[callback], **options)
        with pytest.raises(InputError, match="needs the networks of agent uld, got agent dqn"):
            trainer.train()
        trainer.close()
    trainer = finish(ULDTrainer("tabular/riverswim", config, **options))
    with pytest.raises(InputError, match="an audit needs the networks of agent uld"):
        audit_run(trainer.run.path)


def test_the_python_call_trains_a_peer_under_its_name(tmp_path: Path) -> None:
    settings = dataclasses.replace(preset("debug"), run=RUN)
    result = train(settings, "CartPole-v1", peer=SMALL["dqn"], run_dir=tmp_path, progress=False)
    assert (result.step, result.path.parent.name) == (40, "dqn")
    agent = load(result.path)
    assert agent.peer == SMALL["dqn"] and agent.predict([0.0, 0.1, 0.0, -0.1]) in (0, 1)
    with pytest.raises(InputError, match="export_policy needs the networks of agent uld, got agent dqn"):
        export_policy(agent, tmp_path / "policy.pt2")
    assert not (tmp_path / "policy.pt2").exists()
