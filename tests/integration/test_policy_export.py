"""The exported policy: in a process that has torch and nothing else it acts as ``Agent.predict``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from uld_torchrl import Agent, InputError, export_policy, load, preset
from uld_torchrl.cli import main
from uld_torchrl.envs import TaskSpaces, observation_vector
from uld_torchrl.trainers.export import ABOUT

VECTOR = Box(-1, 1, (3,))
DICT = Dict(gear=Discrete(3, start=1), angle=Box(-1, 1, (2,)))
SPACES = {
    "box": TaskSpaces(VECTOR, Box(np.array([-2.0, 0.1], np.float32), np.array([3.0, 0.7], np.float32))),
    # In float64 centre + half range is not the upper bound of the first column, nor centre - half range the
    # lower one of the second.
    "uneven box": TaskSpaces(
        VECTOR, Box(np.array([[-2.9, -0.6]] * 2), np.array([[0.1, 8.2]] * 2), dtype=np.float64)
    ),
    "discrete": TaskSpaces(VECTOR, Discrete(4, start=-2)),
    "dict": TaskSpaces(DICT, Box(-1, 1, (1,))),
    "pixels": TaskSpaces(Box(0, 255, (4, 31, 40), np.uint8), Discrete(3), frames=4),
}
# What a user without this library runs; every other library is out of reach.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"uld_torchrl", "theory", "tensordict", "torchrl", "gymnasium"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
for kind in sys.argv[1:]:
    policy, batch = torch.export.load(kind + ".pt2").module(), torch.load(kind + ".in")
    before = torch.get_rng_state()
    torch.save(policy(batch), kind + ".out")
    assert torch.equal(before, torch.get_rng_state()), "it draws random numbers"
assert not {"uld_torchrl", "tensordict", "torchrl", "gymnasium"} & set(sys.modules)
"""


def agent_of(kind: str) -> Agent:
    """Return an agent with saturated actions among its own, and no two alike."""
    torch.manual_seed(3)
    agent = Agent.build("my-task", SPACES[kind], preset("debug"))
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.mul_(3.0)
    return agent


def observations(spaces: TaskSpaces, batch: int) -> Any:
    """Return a batch as the task's own space has it."""
    rng = np.random.default_rng(batch)
    if isinstance(spaces.observation, Dict):
        return {"gear": rng.integers(1, 4, batch), "angle": rng.uniform(-1, 1, (batch, 2))}
    if spaces.frames is not None:
        return rng.integers(0, 256, (batch, *spaces.observation.shape), dtype=np.uint8)
    return rng.normal(size=(batch, 3)).astype(np.float32) * 5


def as_tensor(spaces: TaskSpaces, batch: Any) -> torch.Tensor:
    return torch.as_tensor(batch if spaces.frames else observation_vector(spaces.observation, batch))


@pytest.mark.parametrize("kind", SPACES)
def test_the_program_equals_predict_for_any_batch(kind: str, tmp_path: Path) -> None:
    agent = agent_of(kind)
    act = torch.export.load(export_policy(agent, tmp_path / "p.pt2")).module()
    seen = set()
    for size in (1, 2, 7):
        batch = observations(agent.spaces, size)
        wanted = agent.predict(batch)
        found = act(as_tensor(agent.spaces, batch)).numpy()
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape == (size, *agent.action_space.shape)
        np.testing.assert_array_equal(found, wanted)
        assert all(agent.action_space.contains(action) for action in found)
        seen |= {action.tobytes() for action in found}
    assert len(seen) > 1  # of 10 observations


def test_saturated_actions_are_the_bounds_themselves(tmp_path: Path) -> None:
    agent = agent_of("uneven box")
    with torch.no_grad():
        agent.policy[1].module.mlp.l3.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))
    act = torch.export.load(export_policy(agent, tmp_path / "p.pt2")).module()
    assert act(torch.zeros(1, 3)).tolist() == [[[0.1, -0.6]] * 2]


def test_it_runs_in_a_process_that_has_torch_alone(tmp_path: Path) -> None:
    agents = {kind: agent_of(kind) for kind in ("box", "discrete", "pixels")}
    batches = {kind: observations(agent.spaces, 5) for kind, agent in agents.items()}
    for kind, agent in agents.items():
        export_policy(agent, tmp_path / f"{kind}.pt2")
        torch.save(as_tensor(agent.spaces, batches[kind]), tmp_path / f"{kind}.in")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *agents],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for kind, agent in agents.items():
        found = torch.load(tmp_path / f"{kind}.out").numpy()
        np.testing.assert_array_equal(found, agent.predict(batches[kind]))


def test_the_program_keeps_its_weights_when_the_agent_learns_on(tmp_path: Path) -> None:
    agent, batch = agent_of("box"), observations(SPACES["box"], 4)
    path, before = export_policy(agent, tmp_path / "p.pt2"), agent.predict(batch)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.neg_()
    np.testing.assert_array_equal(torch.export.load(path).module()(torch.as_tensor(batch)).numpy(), before)
    assert (agent.predict(batch) != before).any()


def test_the_file_says_what_the_vector_is_made_of(tmp_path: Path) -> None:
    about = {ABOUT: ""}
    torch.export.load(export_policy(agent_of("dict"), tmp_path / "p.pt2"), extra_files=about)
    data = json.loads(about[ABOUT])
    names = ["observation['gear'][0]", "observation['gear'][1]", "observation['gear'][2]"]
    names += ["observation['angle'][0]", "observation['angle'][1]"]
    assert data == {
        "env_id": "my-task",
        "observation": {"entries": names, "dtype": "float32"},
        "action": "Box(-1.0, 1.0, (1,), float32)",
    }


def test_a_wrong_shape_is_refused_by_the_program(tmp_path: Path) -> None:
    act = torch.export.load(export_policy(agent_of("box"), tmp_path / "p.pt2")).module()
    with pytest.raises(AssertionError, match=r"observation\.size\(\)\[1\] == 3"):
        act(torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["policy.pt", "policy", "nowhere/policy.pt2"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path must be a file ending in \.pt2 in an existing folder, got"):
        export_policy(agent_of("box"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_of_another_make_is_refused(tmp_path: Path) -> None:
    agent = agent_of("box")
    agent.policy = agent.policy[:2]
    with pytest.raises(InputError, match=r"agent must be an agent of ULD or MR\.Q"):
        export_policy(agent, tmp_path / "p.pt2")


def test_uld_export_writes_the_policy_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = agent_of("discrete")
    agent.save(tmp_path / "model", step=7)
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "mine.pt2")]) == 0
    assert capsys.readouterr().out == f"policy: {tmp_path / 'mine.pt2'}\n"
    batch = observations(agent.spaces, 3)
    act = torch.export.load(tmp_path / "mine.pt2").module()
    np.testing.assert_array_equal(
        act(torch.as_tensor(batch)).numpy(), load(tmp_path / "model").predict(batch)
    )


def test_uld_export_of_no_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "mine.pt2")]) == 2
    assert capsys.readouterr().err.startswith(f"uld: error: {tmp_path} is not a run directory")
