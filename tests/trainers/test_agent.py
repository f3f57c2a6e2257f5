"""An agent that is saved and loaded acts the same; a file that does not fit is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.config import AgentConfig, preset
from uld_torchrl.envs import TaskSpaces, make_env
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent

DEBUG = preset("debug")
BOX = Box(np.array([-1.0, -2.0]), np.array([1.0, 0.5]), dtype=np.float64)
CHOICE = Discrete(3, start=-1)
PARTS = Dict({"place": Box(-np.inf, 5, (2,)), "gear": Discrete(2, start=3)})


def agent_of(space: gymnasium.Space[Any] = CHOICE, config: AgentConfig = DEBUG) -> Agent:
    return Agent.build("gym/Toy-v0", TaskSpaces(PARTS, space), config)


def act(agent: Agent, how: ExplorationType) -> torch.Tensor:
    td = TensorDict({"observation": torch.linspace(-3, 3, 80).view(20, 4)}, batch_size=[20])
    with torch.random.fork_rng(), torch.no_grad(), set_exploration_type(how):
        torch.manual_seed(5)
        return agent.policy(td)["action"]


@pytest.mark.parametrize("how", [ExplorationType.DETERMINISTIC, ExplorationType.RANDOM])
@pytest.mark.parametrize("space", [BOX, CHOICE], ids=["box", "discrete"])
def test_a_loaded_agent_acts_the_same(
    space: gymnasium.Space[Any], how: ExplorationType, tmp_path: Path
) -> None:
    agent = agent_of(space)
    agent.save(tmp_path / "model")
    loaded = Agent.load(tmp_path / "model")
    other = agent_of(space)
    expected = act(agent, how)
    torch.testing.assert_close(act(loaded, how), expected, rtol=0, atol=0)
    assert not torch.equal(act(other, how), expected)  # the weights matter
    assert (loaded.env_id, loaded.config, loaded.spaces) == ("gym/Toy-v0", DEBUG, TaskSpaces(PARTS, space))
    assert (loaded.observation_space, loaded.action_space) == (PARTS, space)
    assert loaded.num_parameters == agent.num_parameters


def test_settings_of_acting_are_kept(tmp_path: Path) -> None:
    for name in ("uld", "mrq"):
        config = AgentConfig(model=DEBUG.model, run=preset(name).run)
        agent_of(config=config).save(tmp_path / name)
    # The greedy policy maps equal observations to equal actions, the sampling one does not.
    td = TensorDict({"observation": torch.ones(200, 4)}, batch_size=[200])
    chosen = {}
    for name in ("uld", "mrq"):
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            chosen[name] = Agent.load(tmp_path / name).policy(td.clone())["action"].unique(dim=0)
    assert len(chosen["uld"]) == 1 < len(chosen["mrq"])


def test_the_whole_model_is_saved(tmp_path: Path) -> None:
    agent = agent_of()
    agent.save(tmp_path)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values()) == (
        agent.num_parameters
    )
    loaded = Agent.load(tmp_path)
    online = {key: value for key, value in agent.loss.state_dict().items() if not key.startswith("target_")}
    for key, value in online.items():
        torch.testing.assert_close(loaded.loss.state_dict()[key], value, rtol=0, atol=0)


def test_saved_files_are_the_same_each_time(tmp_path: Path) -> None:
    agent = agent_of()
    for name in "ab":
        agent.save(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_loaded_agent_has_the_unit_of_its_values_and_targets_like_its_networks(tmp_path: Path) -> None:
    agent = agent_of()
    agent.loss.reward_scale.fill_(3.5)
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path).loss
    assert loaded.reward_scale == 3.5
    for name in ("state_encoder", "state_action_encoder", "actor_network", "qvalue_network"):
        online, target = (getattr(loaded, f"{prefix}{name}_params").data for prefix in ("", "target_"))
        assert (online == target).all()


def test_an_agent_for_an_environment_has_the_spaces_of_one_lane() -> None:
    agent = Agent.for_env("gym/Pendulum-v1", make_env("Pendulum-v1", num_envs=3), DEBUG)
    raw = gymnasium.make("Pendulum-v1")
    assert (agent.observation_space, agent.action_space) == (raw.observation_space, raw.action_space)


def edit(**fields: Any) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**about, **fields}))
        return "config.json"

    return damage


def drop(field: str) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        about = json.loads((folder / "config.json").read_text())
        del about[field]
        (folder / "config.json").write_text(json.dumps(about))
        return "config.json"

    return damage


def cut(name: str, keep: int) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        os.truncate(folder / name, keep)
        return name

    return damage


def remove(name: str) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        (folder / name).unlink()
        return name

    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        return "model.safetensors"

    return damage


def shrink_first(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name][:1].clone()


WIDE = {"model": {"hidden_dim": 24}}
DAMAGE = {
    "no description": remove("config.json"),
    "no weights": remove("model.safetensors"),
    "half a description": cut("config.json", 40),
    "empty weights": cut("model.safetensors", 0),
    "half of the weights": cut("model.safetensors", 3000),
    "another format": edit(format=99),
    "no action": drop("action_space"),
    "no observation": drop("observation_space"),
    "unknown kind of action": edit(action_space={"type": "Wheel", "n": 3}),
    "a space that is a word": edit(observation_space="four"),
    "a space without numbers": edit(observation_space={"type": "Dict", "spaces": {}}),
    "a negative number of actions": edit(action_space={"type": "Discrete", "n": -1, "start": 0}),
    "settings of another version": edit(config={"model": {"wings": 2}}),
    "settings that are a list": edit(config=[1]),
    "settings that are missing": edit(config=None),
    "other sizes": edit(config=WIDE),
    "a reward scale of nothing": edit(reward_scale=0.0),
    "a reward scale that is a word": edit(reward_scale="large"),
    "an infinite reward scale": edit(reward_scale=float("inf")),
    "an extra tensor": edit_weights(lambda tensors: tensors.update(extra=torch.zeros(1))),
    "a missing tensor": edit_weights(lambda tensors: tensors.pop(next(iter(tensors)))),  # type: ignore[arg-type,return-value]
    "a tensor of another shape": edit_weights(shrink_first),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(damage: Callable[[Path], str], tmp_path: Path) -> None:
    agent_of().save(tmp_path / "model")
    file = damage(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        Agent.load(tmp_path / "model")
    # Other sizes show in either file.
    assert str(tmp_path / "model") in str(caught.value)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
