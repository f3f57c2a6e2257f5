"""``make_env``: specs, lanes, seeds, names, bad input and silence. Values are in test_gym and test_dmc."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from uld_torchrl.envs import canonical_id, make_env
from uld_torchrl.errors import InputError

TASKS = [
    ("CartPole-v1", 4, 2),
    ("Pendulum-v1", 3, 1),
    ("FrozenLake-v1", 16, 4),
    ("gym/HalfCheetah-v4", 17, 6),
    ("Gym-Hopper-v4", 11, 3),
    ("dmc/cartpole-swingup", 5, 1),
    ("dmc/ball_in_cup-catch", 8, 2),
    ("Dmc-walker-walk", 24, 6),
    ("dmc/humanoid-run", 67, 21),
]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("env_id", "observation_dim", "action_dim"), TASKS)
def test_specs_hold_and_have_the_documented_form(
    env_id: str, observation_dim: int, action_dim: int, num_envs: int
) -> None:
    env = make_env(env_id, num_envs=num_envs, seed=0)
    check_env_specs(env)
    assert env.batch_size == (num_envs,)
    step = env.rollout(2)[:, 0]
    assert step["observation"].shape == (num_envs, observation_dim)
    assert step["action"].shape == (num_envs, action_dim)
    assert step["observation"].dtype == step["next", "observation"].dtype == torch.float32
    assert step["next", "reward"].dtype == torch.float32
    for key in ("reward", "terminated", "truncated", "done"):
        assert step["next", key].shape == (num_envs, 1)


def test_bounded_and_one_hot_action_specs() -> None:
    bounded = make_env("Pendulum-v1", num_envs=2).action_spec
    assert bounded.dtype == torch.float32
    assert (bounded.space.low == -1).all() and (bounded.space.high == 1).all()
    one_hot = make_env("CartPole-v1", num_envs=2).action_spec.rand()
    assert one_hot.shape == (2, 2) and (one_hot.sum(-1) == 1).all()


def _streams(env_id: str, seed: int, num_envs: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    env = make_env(env_id, num_envs=num_envs, seed=seed)
    torch.manual_seed(7)
    rollout = env.rollout(30, break_when_any_done=False)
    return rollout["observation"], rollout["action"]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v4", "dmc/walker-walk"])
def test_seeds(env_id: str) -> None:
    observations, actions = _streams(env_id, seed=5)
    again, same_actions = _streams(env_id, seed=5)
    other, _ = _streams(env_id, seed=6)
    assert torch.equal(observations, again) and torch.equal(actions, same_actions)
    starts = torch.cat([observations[:, 0], other[:, 0]])
    assert len(starts.unique(dim=0)) == 4, "two lanes or two seeds begin alike"


@pytest.mark.parametrize("env_id", ["CartPole-v1", "dmc/cartpole-swingup"])
def test_set_seed_does_what_seed_does(env_id: str) -> None:
    env = make_env(env_id, num_envs=2, seed=0)
    env.rollout(3)
    env.set_seed(9)
    expected = make_env(env_id, num_envs=2, seed=9).reset()["observation"]
    assert torch.equal(env.reset()["observation"], expected)


def test_more_lanes_keep_the_first_ones() -> None:
    two = make_env("Pendulum-v1", num_envs=2, seed=3).reset()["observation"]
    four = make_env("Pendulum-v1", num_envs=4, seed=3).reset()["observation"]
    assert torch.equal(four[:2], two)


def test_making_an_environment_leaves_the_global_random_streams_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for env_id in ("CartPole-v1", "dmc/cartpole-swingup"):
        make_env(env_id, num_envs=2, seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_reset_accepts_a_tensordict_with_and_without_a_mask() -> None:
    env = make_env("Pendulum-v1", num_envs=3, seed=0)
    _, step = env.step_and_maybe_reset(env.rand_action(env.reset()))
    before = step["observation"].clone()
    mask = torch.tensor([[False], [True], [False]])
    after = env.reset(step.clone().set("_reset", mask))["observation"]
    assert torch.equal(after[[0, 2]], before[[0, 2]]) and not torch.equal(after[1], before[1])
    assert (env.reset(step.exclude("_reset"))["observation"] != before).any(-1).all()


def test_stored_steps_do_not_change_later() -> None:
    env = make_env("HalfCheetah-v4", num_envs=2, seed=0)
    stored, carried = env.step_and_maybe_reset(env.rand_action(env.reset()))
    copy = stored.clone()
    for _ in range(3):
        _, carried = env.step_and_maybe_reset(env.rand_action(carried))
    assert (stored == copy).all()


def test_canonical_id_maps_published_and_bare_names() -> None:
    names = {
        "Gym-HalfCheetah-v4": "gym/HalfCheetah-v4",
        "Dmc-ball_in_cup-catch": "dmc/ball_in_cup-catch",
        "Atari-Pong-v5": "atari/Pong",
        "atari/Pong-v5": "atari/Pong",
        "ALE/Pong-v5": "gym/ALE/Pong-v5",
        "Dmc-visual-walker-run": "dmc-pixels/walker-run",
        "CartPole-v1": "gym/CartPole-v1",
        "gym/tabular/chain": "tabular/chain",
        "phys2d/CartPole-v1": "gym/phys2d/CartPole-v1",
        "gym/CartPole-v1": "gym/CartPole-v1",
        "dmc/walker-run": "dmc/walker-run",
        "dmc-pixels/walker-run": "dmc-pixels/walker-run",
    }
    assert {name: canonical_id(name) for name in names} == names


@pytest.mark.parametrize(
    ("env_id", "parts"),
    [
        ("CartPol-v1", ["gym/CartPol-v1", "Did you mean gym/CartPole-v1"]),
        ("CartPole", ["gym/CartPole-v1"]),
        ("gym/halfcheetah-v4", ["Did you mean gym/HalfCheetah-v4"]),
        ("dmc/cartpole-swingp", ["Did you mean dmc/cartpole-swingup"]),
        ("dmc/cartpole_swingup", ["Did you mean dmc/cartpole-swingup"]),
        ("dmc-pixels/cartpole-swingp", ["Did you mean dmc-pixels/cartpole-swingup"]),
        ("atari/Pongg", ["atari/Pongg names no known Atari game", "Did you mean atari/Pong"]),
        ("atari/pong", ["Did you mean atari/Pong"]),
        ("atari/qqqq", ["atari/<Game>"]),
        ("dmc/lqr-lqr_2_1", ["Box(-inf, inf, (1,)", "finite"]),
        ("qqqq", ["gym/<Gymnasium id>", "dmc/<domain>-<task>"]),
        ("", ["env must be", "dmc/cartpole-swingup"]),
        ("nowhere:Env-v0", ["'nowhere' cannot be imported"]),
        ("gym/Hopper-v2", ["gym/Hopper-v2 cannot be made", "gymnasium-robotics"]),
        (
            "Blackjack-v1",
            ["gym/Blackjack-v1", "observation space Tuple(", "Box of shape (n,)", "FlattenObservation"],
        ),
        ("tabular/chian", ["tabular/chian names no known", "Did you mean tabular/chain"]),
    ],
)
def test_bad_names_are_refused_with_a_way_out(env_id: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        make_env(env_id)
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be greater than zero, got 0"),
        ({"num_envs": -2}, "num_envs must be greater than zero, got -2"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295, got 4294967296"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_env("CartPole-v1", **arguments)


def test_module_prefix_imports_the_module_that_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import gymnasium\ngymnasium.register('Mine-v0', gymnasium.spec('Pendulum-v1').entry_point)\n"
    (tmp_path / "uld_registers_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert make_env("gym/uld_registers_mine:Mine-v0").action_spec.shape == (1, 1)
    finally:
        gymnasium.registry.pop("Mine-v0", None)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "dmc/cheetah-run"])
def test_harmless_warnings_are_silent(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT into the working directory
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_env(env_id, seed=0).set_seed(1)
    assert caught == [] and list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_other_mujoco_warnings_still_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def construct(name: str, render: bool) -> gymnasium.Env:
        warn = mujoco.get_mju_user_warning()
        warn("attribute 'settotalmass' is deprecated")
        warn("something else")
        return gymnasium.make("Pendulum-v1")

    monkeypatch.setattr("uld_torchrl.envs.registry._make_gym", construct)
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(heard.append)
    try:
        make_env("Pendulum-v1")
        assert mujoco.get_mju_user_warning() == heard.append
    finally:
        mujoco.set_mju_user_warning(before)
    assert heard == ["something else"]
