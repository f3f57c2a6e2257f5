"""The environment's own step against TorchRL's, which it takes the place of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchrl.envs import GymWrapper

from uld_torchrl import make_env


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("Pendulum-v1", {}),
        ("CartPole-v1", {"num_envs": 3}),
        ("CartPole-v1", {"num_envs": 2, "env_workers": 1}),
        ("tabular/chain", {}),
        ("atari/Pong", {}),
    ],
)
def test_a_step_is_torchrls(env: str, options: dict[str, Any]) -> None:
    own, other = (make_env(env, seed=5, **options) for _ in range(2))
    td = own.reset()
    same = other.reset()
    torch.manual_seed(0)
    for _ in range(100 if env == "CartPole-v1" else 4):
        acted = own.rand_action(td)
        same.set("action", acted["action"])
        expected = GymWrapper._step(other, same)
        found = own._step(acted)
        assert set(found.keys()) == set(expected.keys())
        assert found.batch_size == expected.batch_size
        assert found.device == expected.device
        for key, entry in expected.items():
            assert found[key].dtype == entry.dtype
            assert torch.equal(found[key], entry.reshape(found[key].shape)), key
        if bool(found["done"].any()):
            break
    assert bool(found["done"].any()) == (env == "CartPole-v1")
    own.close()
    other.close()


def test_a_step_has_the_shapes_and_types_of_the_specs() -> None:
    env = make_env("HalfCheetah-v5", num_envs=2, seed=0)
    stepped = env.step(env.rand_action(env.reset()))["next"]
    for key, spec in [
        *env.observation_spec.items(),
        ("reward", env.reward_spec),
        *env.full_done_spec.items(),
    ]:
        assert spec.is_in(stepped[key]), key
        assert stepped[key].shape == spec.shape
        assert stepped[key].dtype == spec.dtype


def test_what_a_step_gave_stays_as_it_was_after_the_next() -> None:
    env = make_env("CartPole-v1", num_envs=2, seed=0)
    first = env.step(env.rand_action(env.reset()))["next"]
    kept = first.clone()
    td = env.reset()
    for _ in range(30):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
    assert (first == kept).all()
