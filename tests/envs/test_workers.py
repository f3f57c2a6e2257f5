"""Lanes in worker processes: the same data, faults that arrive, processes that end."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torchrl.envs import EnvBase

from uld_torchrl.envs import make_env, render_frame, task_spaces
from uld_torchrl.errors import EnvironmentFault, InputError

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def stream(env: EnvBase, steps: int = 40) -> torch.Tensor:
    torch.manual_seed(0)
    rollout = env.rollout(steps, break_when_any_done=False)
    return torch.cat([rollout["observation"], rollout["next", "observation"], rollout["next", "reward"]], -1)


def processes(env: EnvBase) -> list[subprocess.Popen]:
    return [worker.process for worker in env._env._workers]


def test_any_number_of_workers_gives_the_same_data() -> None:
    expected = stream(make_env("CartPole-v1", num_envs=3, seed=6))
    later = make_env("CartPole-v1", num_envs=3, seed=7).reset()["observation"]
    for workers in (1, 2, 3):
        with closing(make_env("CartPole-v1", num_envs=3, env_workers=workers, seed=6)) as env:
            assert len(processes(env)) == workers and env.batch_size == (3,) and not env.seam.any()
            assert torch.equal(stream(env), expected)
            env.set_seed(7)
            assert torch.equal(env.reset()["observation"], later)


class Prying(gymnasium.Env):
    """Observes what its process has imported, and prints."""

    observation_space, action_space = Box(-2, 2, (3,)), Box(-3, 1, (2,))
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        print("hello")  # noqa: T201
        imported = [name in sys.modules for name in ("torch", "mujoco", "gymnasium")]
        return np.array(imported, np.float32), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        return action[[0, 1, 1]], 1.0, False, False, {}

    def render(self) -> np.ndarray:
        return np.full((1, 2, 3), 7, np.uint8)


def test_workers_import_little_draw_and_keep_what_is_printed_apart(capfd: pytest.CaptureFixture[str]) -> None:
    with closing(make_env(Prying, num_envs=2, env_workers=2, render=True)) as env:
        step = env.reset()
        assert step["observation"].tolist() == [[0, 0, 1]] * 2
        assert task_spaces(env).action == Prying.action_space and env._env.name == "custom/Prying"
        after = env.step(step.set("action", torch.tensor([[-1.0, 1], [0, 0]])))["next", "observation"]
        assert after.tolist() == [[-3, 1, 1], [-1, -1, -1]]
        assert (render_frame(env) == 7).all() and render_frame(env).shape == (1, 2, 3)
    printed = capfd.readouterr()
    assert printed.out == "" and "hello" in printed.err


class Failing(gymnasium.Env):
    """Lives until the step whose action asks for an accident."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        if action == 1:
            raise ZeroDivisionError("no wheels")
        if action == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1), np.nan if action == 3 else 0.0, False, False, {}


def act(env: EnvBase, *actions: int) -> Any:
    chosen = torch.eye(4, dtype=torch.int64)[list(actions)]
    return env.step(env.reset().set("action", chosen))["next", "reward"].flatten().tolist()


def test_faults_arrive_with_lane_and_place_and_the_workers_go_on() -> None:
    with closing(make_env(Failing, num_envs=3, env_workers=2)) as env:
        assert [worker.lanes for worker in env._env._workers] == [slice(0, 2), slice(2, 3)]
        wanted = (
            r"^custom/Failing, lane 1: step\(\) raised ZeroDivisionError: no wheels \(.*test_workers.py:\d+\)"
        )
        with pytest.raises(EnvironmentFault, match=wanted) as fault:
            act(env, 0, 1, 0)
        assert "Traceback" in str(fault.value.__cause__) and "no wheels" in str(fault.value.__cause__)
        with pytest.raises(EnvironmentFault, match=r"^custom/Failing, lane 2: .*the reward is nan"):
            act(env, 0, 0, 3)
        for process in processes(env):
            process.send_signal(signal.SIGINT)  # Ctrl-C reaches them too, and is the parent's to handle
        assert act(env, 0, 0, 0) == [0, 0, 0]


def test_a_worker_that_dies_is_a_fault_until_it_is_remade_and_leaves_no_process() -> None:
    env = make_env(Failing, num_envs=3, env_workers=2)
    with pytest.raises(
        EnvironmentFault, match=r"^custom/Failing, lanes 0 to 1: .*worker process is gone .*-9"
    ):
        act(env, 2, 0, 0)
    assert [process.poll() for process in processes(env)] == [-signal.SIGKILL, None]
    with pytest.raises(EnvironmentFault, match="worker process is gone"):
        env.reset()
    env.close()
    assert [process.returncode for process in processes(env)] == [-signal.SIGKILL, 0]


def test_a_worker_whose_parent_stopped_listening_ends_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    """As when another worker has died: the reply finds a closed pipe."""
    env = make_env(Failing, env_workers=1)
    (process,) = processes(env)
    env.reset()
    process.stdout.close()
    process.stdin.write(pickle.dumps(("draw",)))
    process.stdin.flush()
    assert process.wait(60) == 0
    assert capfd.readouterr().err == ""
    env.close()


def test_workers_end_when_closed_and_when_collected() -> None:
    closed, dropped = (make_env(Failing, env_workers=1) for _ in range(2))
    ended = processes(closed) + processes(dropped)
    assert [process.poll() for process in ended] == [None, None]
    closed.close()
    del dropped
    gc.collect()
    assert [process.returncode for process in ended] == [0, 0]


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uld_torchrl.envs.workers._PATIENCE", 0.1)
    env = make_env(Failing, env_workers=1)
    (process,) = processes(env)
    process.send_signal(signal.SIGSTOP)
    env.close()
    assert process.returncode == -signal.SIGKILL


def refuse() -> gymnasium.Env:
    raise LookupError("no licence")


def uneven() -> gymnasium.Env:
    env = Failing()
    env.action_space = Discrete(os.getpid())
    return env


def test_makers_that_fail_in_the_worker_are_refused_as_in_this_process() -> None:
    with pytest.raises(
        InputError, match=r"the callable refuse raised LookupError: no licence \(.*test_workers"
    ):
        make_env(refuse, num_envs=2, env_workers=2)
    with pytest.raises(InputError, match=r"all lanes need the same spaces, .* and lane 1 has"):
        make_env(uneven, num_envs=2, env_workers=2)
    lines = (line for line in ())
    with pytest.raises(InputError, match=r"cannot be sent to a worker process \(TypeError: .*generator"):
        make_env(lambda: lines and Failing(), env_workers=1)


def test_what_the_worker_cannot_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uld_only_here.py").write_text("def make():\n    raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import uld_only_here

    monkeypatch.undo()
    with pytest.raises(InputError, match=r"cannot be rebuilt in a worker process .*uld_only_here"):
        make_env(uld_only_here.make, env_workers=1)
    del sys.modules["uld_only_here"]


def test_ids_that_only_this_process_has_registered_reach_the_workers() -> None:
    gymnasium.register("Prying-v0", Prying, max_episode_steps=2)
    try:
        with closing(make_env("Prying-v0", env_workers=1, seed=0)) as env:
            assert env.rollout(3, break_when_any_done=False)["next", "truncated"].flatten().tolist() == [
                0,
                1,
                0,
            ]
    finally:
        del gymnasium.registry["Prying-v0"]


SCRIPT = """
import gymnasium
from uld_torchrl.envs.workers import WorkerLanes

class Mine(gymnasium.Wrapper):
    pass

lanes = WorkerLanes([lambda: Mine(gymnasium.make("CartPole-v1"))] * 2, None, workers=2)
print(lanes.reset(seed=0)[0].shape, lanes.name, [worker.process.pid for worker in lanes._workers])
"""


def test_a_script_needs_no_main_guard_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "error", str(tmp_path / "mine.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    shape, _, rest = done.stdout.partition(" custom/CartPoleEnv ")
    assert shape == "(2, 4)"
    for pid in rest.strip(" []\n").split(", "):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
