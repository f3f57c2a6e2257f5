"""Environments that fail are made anew, the others are not, and all lanes begin new episodes."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from mortals import Mortal, diary, lines
from torchrl.envs import EnvBase

from uld_torchrl.envs import lane_states, make_env, restart_lanes, restore_lanes
from uld_torchrl.envs.lanes import lane_seeds
from uld_torchrl.errors import EnvironmentFault


def lanes_of(folder: Path, *plans: dict[str, Any], workers: int = 0) -> EnvBase:
    makers = [partial(Mortal, folder, lane, **plan) for lane, plan in enumerate(plans)]
    return make_env(SyncVectorEnv(makers), env_workers=workers)


def vector(folder: Path, *plans: dict[str, Any], mode: AutoresetMode) -> VectorWrapper:
    """Return a vector environment that make_env must step as it is."""
    makers = [partial(Mortal, folder, lane, **plan) for lane, plan in enumerate(plans)]
    return VectorWrapper(SyncVectorEnv(makers, autoreset_mode=mode))


def fault_of(call: Callable[[], Any]) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        call()
    return caught.value


def play(env: EnvBase, td: Any, steps: int) -> torch.Tensor:
    torch.manual_seed(0)
    found = []
    for _ in range(steps):
        stepped, td = env.step_and_maybe_reset(env.rand_action(td))
        found.append(stepped["next", "observation"])
    return torch.stack(found)


def bodies(folder: Path, lane: int, kind: str) -> list[int]:
    """Return which of the environments that were made for a lane did this, in order."""
    return [line["body"] for line in diary(folder, lane, kind)]


@pytest.mark.parametrize(
    ("what", "workers"),
    [("raise", 0), ("nan observation", 0), ("nan reward", 0), ("form", 0), ("nan reward", 2)],
)
def test_only_what_failed_is_made_anew_and_every_lane_begins_from_its_seed(
    tmp_path: Path, what: str, workers: int
) -> None:
    with closing(lanes_of(tmp_path, {}, {"steps": {2: what}}, {}, workers=workers)) as env:
        td = env.reset(seed=5)
        before = [bodies(tmp_path, lane, "reset")[-1] for lane in range(3)]
        fault = fault_of(lambda: play(env, td, 2))
        assert fault.lanes == (1,) and str(fault).startswith("custom/Mortal, lane 1: ")
        begun = restart_lanes(env, 77, fault.lanes)
        after = [bodies(tmp_path, lane, "reset")[-1] for lane in range(3)]
        assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
        assert [before[lane] in bodies(tmp_path, lane, "closed") for lane in range(3)] == [False, True, False]
        seeds = [diary(tmp_path, lane, "reset")[-1]["seed"] for lane in range(3)]
        assert seeds == lane_seeds(77, 3)
        # What follows is what any environment gives that begins from this seed.
        (tmp_path / "other").mkdir()
        other = lanes_of(tmp_path / "other", {}, {}, {})
        assert torch.equal(begun["observation"], (fresh := other.reset(seed=77))["observation"])
        assert torch.equal(play(env, begun, 12), play(other, fresh, 12))


def test_a_dead_worker_is_started_again_with_all_its_lanes_and_no_other(tmp_path: Path) -> None:
    with closing(lanes_of(tmp_path, {}, {"steps": {3: "kill"}}, {}, workers=2)) as env:
        first = [worker.process for worker in env._env._workers]
        td = env.reset(seed=5)
        fault = fault_of(lambda: play(env, td, 3))
        assert fault.lanes == (0, 1) and "worker process is gone" in str(fault)
        begun = restart_lanes(env, 77, fault.lanes)
        now = [worker.process for worker in env._env._workers]
        assert now[0] is not first[0] and now[1] is first[1]
        (tmp_path / "other").mkdir()
        other = lanes_of(tmp_path / "other", {}, {}, {})
        assert torch.equal(play(env, begun, 9), play(other, other.reset(seed=77), 9))
    assert [process.returncode for process in now] == [0, 0]
    assert first[0].stdin.closed and first[0].stdout.closed


def test_the_faults_of_all_workers_count(tmp_path: Path) -> None:
    plans: list[dict[str, Any]] = [{}, {"steps": {2: "raise"}}, {"steps": {2: "nan reward"}}]
    with closing(lanes_of(tmp_path, *plans, workers=2)) as env:
        td = env.reset(seed=0)
        fault = fault_of(lambda: play(env, td, 2))
        assert fault.lanes == (1, 2) and str(fault).startswith("custom/Mortal, lane 1: step() raised")
        restart_lanes(env, 1, fault.lanes)
        assert [len(set(bodies(tmp_path, lane, "reset"))) for lane in range(3)] == [1, 2, 2]


def test_a_fault_keeps_its_lanes_on_its_way_out_of_a_worker() -> None:
    fault = pickle.loads(pickle.dumps(EnvironmentFault("lane 3: gone", [3])))
    assert fault.lanes == (3,) and str(fault) == "lane 3: gone"
    assert EnvironmentFault("gone").lanes == ()


class Stubborn(gymnasium.Env):
    """Raises where it can, as the test has it."""

    observation_space, action_space = Box(-1, 1, (1,)), Box(-1, 1, (1,))
    alive: list[Stubborn] = []
    made: list[Any] = []

    def __init__(self) -> None:
        self.closed = 0
        Stubborn.alive.append(self)
        if Stubborn.made and (what := Stubborn.made.pop(0)):
            raise what

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert not self.closed
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("no wheels")

    def close(self) -> None:
        self.closed += 1
        raise OSError("it does not close")


@pytest.fixture
def stubborn() -> Any:
    Stubborn.alive.clear()
    yield Stubborn
    Stubborn.made.clear()


def test_what_does_not_close_is_replaced_all_the_same(stubborn: Any) -> None:
    env = make_env(Stubborn, num_envs=2)
    fault = fault_of(lambda: env.rand_step(env.reset()))
    assert restart_lanes(env, 0, fault.lanes)["observation"].tolist() == [[0.0], [0.0]]
    assert [each.closed for each in stubborn.alive] == [1, 0, 0] and fault.lanes == (0,)
    assert env._env.objects == [stubborn.alive[2], stubborn.alive[1]]


def test_what_cannot_be_made_is_a_fault_and_may_be_tried_again(stubborn: Any) -> None:
    env = make_env(Stubborn, num_envs=2)
    env.reset()
    stubborn.made[:] = [OSError("port in use")]
    fault = fault_of(lambda: restart_lanes(env, 0, (1,)))
    assert fault.lanes == (1,)
    assert str(fault).startswith(
        "custom/Stubborn, lane 1: making it anew raised InputError: env: the callable"
    )
    assert "port in use" in str(fault)
    restart_lanes(env, 0, fault.lanes)
    assert stubborn.alive[1].closed == 1  # not once for each attempt


def test_another_environment_in_its_place_is_a_fault(stubborn: Any) -> None:
    makes: list[Callable[[], Any]] = [Stubborn, Stubborn]
    env = make_env(lambda: makes[-1](), num_envs=2)
    env.reset()
    makes.append(lambda: gymnasium.make("CartPole-v1"))
    fault = fault_of(lambda: restart_lanes(env, 0, (0,)))
    assert fault.lanes == (0,) and "its spaces were Box" in str(fault) and "Discrete(2)" in str(fault)
    makes.append(lambda: stubborn.alive[1])
    assert "the same environment twice" in str(fault_of(lambda: restart_lanes(env, 0, (0,))))
    assert stubborn.alive[1].closed == 0
    makes.append(Stubborn)
    restart_lanes(env, 0, (0,))


@pytest.mark.slow
def test_a_worker_that_dies_in_making_is_a_fault_and_may_be_tried_again(tmp_path: Path) -> None:
    env = make_env(partial(_dying, tmp_path), env_workers=1)
    env.reset()
    (worker,) = env._env._workers
    (tmp_path / "die").touch()
    worker.process.kill()
    fault_of(lambda: env.rand_step(env.reset()))
    first = fault_of(lambda: restart_lanes(env, 0, (0,)))
    (tmp_path / "die").write_text("slowly")
    fault = fault_of(lambda: restart_lanes(env, 0, first.lanes))
    for each, what in ((first, "EnvironmentFault: .*is gone"), (fault, "InputError: .*port in use")):
        assert each.lanes == (0,) and re.search(f"lane 0: making it anew raised {what}", str(each))
    (tmp_path / "die").unlink()
    assert restart_lanes(env, 0, fault.lanes).shape == (1,)
    env.close()


def _dying(folder: Path) -> gymnasium.Env:
    if (folder / "die").exists():
        raise OSError("port in use") if (folder / "die").read_text() else SystemExit(4)
    return gymnasium.make("CartPole-v1")


def test_objects_stay(tmp_path: Path) -> None:
    given = Mortal(tmp_path, steps={2: "raise"})
    env = make_env(given)
    td = env.reset(seed=1)
    fault = fault_of(lambda: play(env, td, 2))
    restart_lanes(env, 9, fault.lanes)
    assert fault.lanes == (0,) and env._env.objects == [given]
    assert bodies(tmp_path, 0, "closed") == [] and diary(tmp_path, 0, "reset")[-1]["seed"] == 9


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_of_the_users_begins_in_all_lanes(tmp_path: Path, mode: AutoresetMode) -> None:
    env = make_env(vector(tmp_path, {}, {"steps": {9: "raise"}}, mode=mode))
    td = env.reset(seed=2)
    fault = fault_of(lambda: play(env, td, 40))
    assert fault.lanes == ()
    begun = restart_lanes(env, 6, fault.lanes)
    assert not env.seam.any()
    assert all(lines(tmp_path / f"lane{lane}.jsonl")[-1]["kind"] == "reset" for lane in range(2))
    (tmp_path / "other").mkdir()
    other = make_env(vector(tmp_path / "other", {}, {}, mode=mode))
    assert torch.equal(play(env, begun, 15), play(other, other.reset(seed=6), 15))


@pytest.mark.parametrize("steps", [0, 3, 14])
def test_where_a_lane_is_after_a_restart_can_be_restored(tmp_path: Path, steps: int) -> None:
    env = lanes_of(tmp_path, {}, {"steps": {6: "raise"}})
    td = env.reset(seed=3)
    fault = fault_of(lambda: play(env, td, 6))
    begun = restart_lanes(env, 8, fault.lanes)
    states = lane_states(env) or []
    assert [len(state.actions) for state in states] == [0, 0]
    assert [state.seed for state in states] == lane_seeds(8, 2)
    for _ in range(steps):
        _, begun = env.step_and_maybe_reset(env.rand_action(begun))
    (tmp_path / "other").mkdir()
    other = lanes_of(tmp_path / "other", {}, {})
    again, same = restore_lanes(other, lane_states(env) or [])
    assert same.all() and torch.equal(again["observation"], begun["observation"])
    assert torch.equal(play(env, begun, 15), play(other, again, 15))
