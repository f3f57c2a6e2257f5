"""Agents with switched losses: saved and loaded, refused where they do not fit, and at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.torch import load_file

from uld_torchrl.cli import main
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.envs import TaskSpaces
from uld_torchrl.errors import InputError
from uld_torchrl.trainers import Agent

THEOREM = [
    "loss.value_loss=mse",
    "loss.reward_loss=mse",
    "loss.dynamics_target=state_action",
    "loss.unroll=false",
    "loss.target_encoder=false",
    "loss.freeze_encoder=true",
    "loss.reward_scaling=false",
    "model.value_head=linear",
    "model.num_values=1",
]
# No two widths the same, so that a network made for another switch shows.
WIDTHS = ["model.z_s_dim=8", "model.z_sa_dim=6", "model.hidden_dim=10", "model.num_bins=5"]
CASES = {text: [text] for text in THEOREM if "dynamics" not in text} | {
    "next pairs": ["loss.dynamics_target=state_action", "loss.unroll=false"],
    "three heads": ["model.num_values=3"],
    "theorem": THEOREM,
}


def settings(changes: list[str]) -> AgentConfig:
    # In reversed order too: it must not matter which comes first.
    config = override(preset("debug"), [*WIDTHS, *changes])
    assert config == override(preset("debug"), [*reversed(changes), *WIDTHS])
    return config


def agent_of(changes: list[str], space: Any = None) -> Agent:
    spaces = TaskSpaces(Box(-1, 1, (4,), np.float32), space or Discrete(3))
    return Agent.build("gym/Toy-v0", spaces, settings(changes))


@pytest.mark.parametrize("space", [Discrete(3), Box(-2, 2, (2,), np.float32)], ids=["discrete", "box"])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_an_agent_with_switches_is_loaded_as_it_was_saved(
    changes: list[str], space: Any, tmp_path: Path
) -> None:
    agent = agent_of(changes, space)
    agent.loss.reward_scale.fill_(2.5)
    agent.save(tmp_path)
    loaded = Agent.load(tmp_path)
    assert loaded.config == agent.config != preset("debug")
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(observations), agent.predict(observations))
    assert loaded.loss.reward_scale.item() == 2.5
    for name in ("value_kind", "reward_kind", "dynamics_target", "unroll", "target_encoder"):
        assert getattr(loaded.loss, name) == getattr(agent.loss, name)
    for name in ("freeze_encoder", "reward_scaling", "num_outputs", "num_qvalue_nets"):
        assert getattr(loaded.loss, name) == getattr(agent.loss, name)
    stored = agent.loss.state_dict()
    online = {key: value for key, value in loaded.loss.state_dict().items() if not key.startswith("target_")}
    assert all(torch.equal(value, stored[key]) for key, value in online.items())


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_every_head_is_in_the_saved_file(heads: int, tmp_path: Path) -> None:
    agent_of([f"model.num_values={heads}", "model.value_head=linear"]).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (head,) = [value for key, value in tensors.items() if key.startswith("qvalue_network")]
    assert head.shape == (heads, 1, 6)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("loss", {"reward_loss": "mse"}),
        ("loss", {"dynamics_target": "state_action", "unroll": False}),
        ("model", {"value_head": "linear"}),
        ("model", {"num_values": 1}),
        ("model", {"num_values": 3}),
        ("loss", {"dynamics_target": "state_action"}),
        ("loss", {"value_loss": "l1"}),
        ("loss", {"unroll": "no"}),
        ("loss", {"reward_scaling": 1}),
    ],
    ids=lambda given: str(given),
)
def test_weights_of_other_switches_and_bad_switches_are_refused_by_name(
    section: str, change: dict[str, Any], tmp_path: Path
) -> None:
    agent_of([]).save(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about["config"][section].update(change)
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        Agent.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_agent_saved_before_there_were_switches_has_the_published_losses(tmp_path: Path) -> None:
    agent = agent_of([])
    agent.save(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    for name in [text.partition("=")[0] for text in THEOREM]:
        section, _, field = name.partition(".")
        del about["config"][section][field]
    del about["reward_scale"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert Agent.load(tmp_path).config == agent.config


# The command line


def command(root: Path, *changes: str) -> int:
    quick = ["--preset", "debug", "--total-steps", "24", "--device", "cpu", "--run-dir", str(root)]
    changes = ("run.random_steps=20", "optim.period=2", "optim.batch_size=4", *WIDTHS, *changes)
    try:
        return main(["train", "CartPole-v1", *quick, *(part for text in changes for part in ("--set", text))])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_a_run_with_all_switches_trains_and_goes_on_only_with_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, *THEOREM) == 0
    folder = tmp_path / "gym/CartPole-v1/debug/seed0"
    agent = Agent.load(folder / "model")
    assert agent.config.loss.dynamics_target == "state_action" and agent.loss.num_qvalue_nets == 1
    assert agent.loss.reward_scale.item() == 1
    capsys.readouterr()
    assert command(tmp_path, *THEOREM[1:]) == 2
    error = capsys.readouterr().err
    assert "another configuration" in error and "config.loss.value_loss: mse -> huber" in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("loss.dynamics_target=state_action", ["unroll must be false", "horizon 5", "loss.unroll=false"]),
        ("loss.dynamics_target=pair", ["dynamics_target must be one of state, state_action; got 'pair'"]),
        ("loss.value_loss=l1", ["value_loss must be one of huber, mse; got 'l1'"]),
        ("loss.reward_loss=l1", ["reward_loss must be one of two_hot, mse; got 'l1'"]),
        ("loss.unroll=maybe", ["loss.unroll must be one of true, false; got 'maybe'"]),
        ("model.value_head=cubic", ["value_head must be one of mlp, linear; got 'cubic'"]),
        ("model.num_values=0", ["num_values must be greater than zero, got 0"]),
        ("model.num_values=1.5", ["model.num_values", "int", "'1.5'"]),
    ],
)
def test_a_bad_switch_is_refused_in_one_line_and_leaves_no_run(
    change: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "runs", change) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and err.startswith("uld: error: ")
    assert all(word in err for word in words)
    assert not (tmp_path / "runs").exists()
