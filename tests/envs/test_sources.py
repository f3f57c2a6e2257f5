"""What a user may pass as an environment: instances, callables, vector environments, and their names."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import FlattenObservation, RecordEpisodeStatistics, TimeLimit
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from uld_torchrl.envs import copy_env, env_name, make_env, render_frame, task_spaces
from uld_torchrl.envs.dmc import DMControlTask
from uld_torchrl.errors import InputError


def cart_pole(**arguments: Any) -> gymnasium.Env:
    return gymnasium.make("CartPole-v1", **arguments)


class Blank(gymnasium.Env):
    """Ones for observations; the spaces are arguments."""

    def __init__(
        self, observation: gymnasium.Space | None = None, action: gymnasium.Space | None = None
    ) -> None:
        self.observation_space = observation or Box(-1, 1, (2,))
        self.action_space = action or Discrete(2)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.ones(2), {}


def test_an_instance_is_stepped_itself_with_its_wrappers(scripted: SimpleNamespace) -> None:
    inner = scripted.Env(1, [(6, "terminated")])
    wrapped = RecordEpisodeStatistics(TimeLimit(inner, 4))
    env = make_env(wrapped)
    steps = env.rollout(10, break_when_any_done=False)
    assert steps["next", "truncated"][0, :, 0].nonzero().flatten().tolist() == [3, 7]
    assert list(wrapped.length_queue) == [4, 4]
    assert (steps["observation"][0, :, 0] == 1).all() and inner.episode == 2
    env.close()
    assert inner.closed


def test_other_lanes_of_an_instance_are_copies_of_their_own(scripted: SimpleNamespace) -> None:
    inner = scripted.Env(0, [(2, "terminated")])
    env = make_env(inner, num_envs=3, seed=4)
    lanes = [lane.unwrapped for lane in env._env.envs]
    assert lanes[0] is inner and len({id(lane) for lane in lanes}) == 3
    seeds = [lane.seeds[-1] for lane in lanes]
    assert seeds[0] == 4 and len(set(seeds)) == 3
    env.rollout(5, break_when_any_done=False)
    assert [lane.episode for lane in lanes] == [3, 3, 3]


def test_a_callable_is_called_once_a_lane(scripted: SimpleNamespace) -> None:
    made: list[Any] = []

    def make() -> gymnasium.Env:
        made.append(scripted.Env(len(made)))
        return made[-1]

    env = make_env(make, num_envs=3)
    assert env.reset()["observation"][:, 0].tolist() == [0, 1, 2] and len(made) == 3


SOURCES = {
    "instance": cart_pole,
    "callable": lambda: cart_pole,
    "sync": lambda: SyncVectorEnv([cart_pole] * 2),
    "vector": lambda: gymnasium.make_vec("CartPole-v1", 2),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_seeds_repeat_the_data_and_lanes_differ(kind: str) -> None:
    def stream(seed: int | None, later: int | None = None) -> torch.Tensor:
        env = make_env(SOURCES[kind](), num_envs=2, seed=seed)
        if later is not None:
            env.rollout(3)
            env.set_seed(later)
        torch.manual_seed(0)
        return env.rollout(30, break_when_any_done=False)["observation"]

    assert torch.equal(stream(5), stream(5)) and torch.equal(stream(5), stream(1, later=5))
    starts = torch.cat([stream(seed)[:, 0] for seed in (5, 9, None, None)])
    assert len(starts.unique(dim=0)) == 8


def test_without_a_seed_an_instance_keeps_its_random_state_and_its_copies_do_not_share_it() -> None:
    def begun() -> gymnasium.Env:
        env = cart_pole()
        env.reset(seed=1)
        return env

    expected, _ = begun().reset()
    np.testing.assert_array_equal(make_env(begun()).reset()["observation"][0], expected)
    lanes = make_env(begun(), num_envs=3).reset()["observation"]
    assert len(lanes.unique(dim=0)) == 3


def test_callables_and_instances_are_seeded_like_names() -> None:
    named = make_env("CartPole-v1", num_envs=2, seed=3).reset()["observation"]
    for env in (cart_pole, cart_pole()):
        assert torch.equal(make_env(env, num_envs=2, seed=3).reset()["observation"], named)


@pytest.mark.parametrize("kind", SOURCES)
def test_specs_hold(kind: str) -> None:
    env = make_env(SOURCES[kind](), num_envs=2, seed=0)
    check_env_specs(env)
    assert env._env.reset()[0].dtype == np.float32
    assert env.batch_size == (2,) and env.action_spec.shape == (2, 2)
    assert not env.seam.any() and env.seam.shape == (2,) and env.seam.dtype == torch.bool


def test_without_num_envs_there_is_one_lane_or_the_vector_environments_own() -> None:
    numbers = [make_env(SOURCES[kind]()).num_envs for kind in SOURCES]
    assert numbers == [1, 1, 2, 2] and make_env("CartPole-v1").num_envs == 1


def test_a_sync_vector_env_is_taken_apart_and_left_alone() -> None:
    given = SyncVectorEnv([cart_pole] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = make_env(given, seed=0)
    env.rollout(30, break_when_any_done=False)
    assert not env.seam.any() and given.envs[0].unwrapped.state is None
    assert not {id(lane) for lane in env._env.envs} & {id(lane) for lane in given.envs}


def test_an_async_vector_env_is_taken_apart() -> None:
    make = partial(gymnasium.make, "CartPole-v1")  # imports nothing of ours in the new process
    given = AsyncVectorEnv([make], context="spawn", shared_memory=False)
    try:
        assert env_name(given) == "custom/CartPoleEnv"
        env = make_env(given, seed=0)
        assert len(env._env.envs) == 1 and copy_env(given) is make
    finally:
        given.close()


@pytest.mark.parametrize("kind", ["sync", "vector"])
@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_lanes_than_the_vector_environments_is_refused(kind: str, number: int) -> None:
    with pytest.raises(InputError, match=f"num_envs must be 2, .* got {number}"):
        make_env(SOURCES[kind](), num_envs=number)


def test_names(scripted: SimpleNamespace) -> None:
    class Gängeviertel(gymnasium.Env):
        pass

    names = {
        "gym/CartPole-v1": "CartPole-v1",
        "dmc/walker-run": "Dmc-walker-run",
        "custom/Maze": "custom/Maze",
        "custom/CartPoleEnv": cart_pole(),
        "custom/Scripted": TimeLimit(scripted.Env(), 3),
        "custom/G-ngeviertel": Gängeviertel,
        "custom/CartPoleVectorEnv": gymnasium.make_vec("CartPole-v1", 2),
    }
    assert {name: env_name(env) for name, env in names.items()} == {name: name for name in names}
    wrapped = VectorWrapper(SyncVectorEnv([cart_pole]))
    assert env_name(SyncVectorEnv([cart_pole])) == env_name(wrapped) == "custom/CartPoleEnv"


def test_naming_a_callable_closes_what_it_made(scripted: SimpleNamespace) -> None:
    made = []
    assert env_name(lambda: made.append(scripted.Env()) or made[0]) == "custom/Scripted"
    assert [env.closed for env in made] == [True]


def test_copies(scripted: SimpleNamespace) -> None:
    wrapped = TimeLimit(scripted.Env(7), 3)
    twin = copy_env(wrapped)
    assert (
        isinstance(twin, TimeLimit) and twin.unwrapped is not wrapped.unwrapped and twin.unwrapped.lane == 7
    )
    assert copy_env("CartPole-v1") == "CartPole-v1" and copy_env(cart_pole) is cart_pole
    assert copy_env(SyncVectorEnv([cart_pole])) is cart_pole
    vector = gymnasium.make_vec("CartPole-v1", 2)
    assert copy_env(vector) is not vector and copy_env(vector).num_envs == 2


def test_what_cannot_be_copied_is_refused_with_a_way_out(scripted: SimpleNamespace) -> None:
    env = scripted.Env()
    env.lock = threading.Lock()
    for attempt in (partial(copy_env, env), partial(make_env, env, num_envs=2)):
        with pytest.raises(InputError, match=r"custom/Scripted cannot be copied .*lock.*callable.*eval_env="):
            attempt()
    assert make_env(env).num_envs == 1


def needs_argument(size: int) -> gymnasium.Env:
    return cart_pole()


def fails() -> gymnasium.Env:
    raise KeyError("licence")


@pytest.mark.parametrize(
    ("env", "parts"),
    [
        (42, ["env must be a name", "gymnasium.Env", "42"]),
        (None, ["env must be a name", "None"]),
        (b"CartPole-v1", ["env must be a name", "b'CartPole-v1'"]),
        (needs_argument, ["needs_argument", "no arguments", "'size'", "lambda"]),
        (fails, ["fails", "KeyError: 'licence'", "test_sources.py:"]),
        (lambda: None, ["must return a gymnasium.Env", "builtins.NoneType"]),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), ["CartPoleVectorEnv", "vector environment itself"]),
        ("custom/Maze", ["'custom/Maze'", "passed from Python", "callable"]),
    ],
)
def test_what_is_no_environment_is_refused_by_name(env: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        make_env(env)
    for part in parts:
        assert part in str(refused.value)


def test_a_callable_that_returns_one_environment_twice_is_refused() -> None:
    one = cart_pole()
    with pytest.raises(
        InputError, match="custom/CartPoleEnv: the callable returned the same environment twice"
    ):
        make_env(lambda: one, num_envs=2)
    assert make_env(lambda: one, num_envs=1).num_envs == 1


@pytest.mark.parametrize(
    "spaces",
    [
        [(Box(-1, 1, (2,)), Discrete(2)), (Box(-1, 1, (2,)), Discrete(3))],
        [(Box(-1, 1, (2,)), Discrete(2)), (Box(-1, 1, (3,)), Discrete(2))],
        [(Box(-1, 1, (2,)), Discrete(2)), (Discrete(2), Discrete(2))],
        [(Box(-1, 1, (2,)), Box(-1, 1, (1,))), (Box(-1, 1, (2,)), Box(-1, 2, (1,)))],
        [
            (Dict([("a", Discrete(1)), ("b", Discrete(1))]), Discrete(2)),
            (Dict([("b", Discrete(1)), ("a", Discrete(1))]), Discrete(2)),
        ],
    ],
)
def test_lanes_with_different_spaces_are_refused(spaces: list[tuple]) -> None:
    made = iter(spaces)
    with pytest.raises(InputError, match=r"custom/Blank: all lanes need the same spaces, .* and lane 1 has"):
        make_env(lambda: Blank(*next(made)), num_envs=2)


def test_lanes_may_differ_in_the_bounds_of_observations() -> None:
    made = iter([Box(-1, 1, (2,)), Box(-5, 5, (2,))])
    assert make_env(lambda: Blank(next(made)), num_envs=2).reset()["observation"].shape == (2, 2)


@pytest.mark.parametrize(
    "given", [Blank(action=Box(-np.inf, np.inf, (1,))), lambda: Blank(action=Box(0, np.inf))]
)
def test_unbounded_actions_are_refused_when_it_is_made(given: Any) -> None:
    with pytest.raises(InputError, match=r"^custom/Blank has the action space .*finite lower bound"):
        make_env(given)


def test_an_environment_without_spaces_is_refused() -> None:
    class Bare(gymnasium.Env):
        pass

    class BareVector(VectorEnv):
        num_envs = 2

    for env, name in ((Bare(), "Bare"), (Bare, "Bare"), (BareVector(), "BareVector")):
        with pytest.raises(InputError, match=f"^custom/{name} has the observation space None"):
            make_env(env)
    half = Bare()
    half.observation_space = Discrete(2)
    with pytest.raises(InputError, match=r"^custom/Bare has the action space None"):
        make_env(half)


def test_a_registered_environment_that_fails_to_be_made_is_refused() -> None:
    gymnasium.register("Fails-v0", lambda: fails())
    try:
        with pytest.raises(
            InputError, match=r"gym/Fails-v0 cannot be made: KeyError: 'licence' \(.*test_sources"
        ):
            make_env("Fails-v0")
    finally:
        del gymnasium.registry["Fails-v0"]


def test_task_spaces_are_the_environments_own() -> None:
    observation, action = Dict(gear=Discrete(4, start=1), angle=Box(-3, 3, (2,))), Box(-5, 7, (2, 2))
    env = make_env(Blank(observation, action))
    assert task_spaces(env).observation == observation and task_spaces(env).action == action
    assert task_spaces(TransformedEnv(make_env("Pendulum-v1"))).action == Box(-2, 2, (1,))
    with pytest.raises(InputError, match="must come from make_env"):
        task_spaces(TransformedEnv(make_env("Pendulum-v1")).transform)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 2.0}, "num_envs must be .*, got 2.0"),
        ({"num_envs": True}, "num_envs must be .*, got True"),
        ({"env_workers": -1}, "env_workers must be zero .*, got -1"),
        ({"env_workers": "2"}, "env_workers must be zero .*, got '2'"),
        ({"env_workers": 3, "num_envs": 2}, "env_workers must be from 0 to num_envs = 2, got 3"),
        ({"env_workers": 2}, "env_workers must be from 0 to num_envs = 1, got 2"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_env("CartPole-v1", **arguments)


@pytest.mark.parametrize("kind", ["instance", "vector"])
def test_objects_cannot_go_to_workers(kind: str) -> None:
    with pytest.raises(InputError, match=r"env_workers must be 0 .*, got 1: .*Pass a callable"):
        make_env(SOURCES[kind](), env_workers=1)


def test_instances_and_callables_are_drawn_if_they_were_made_for_it(scripted: SimpleNamespace) -> None:
    for given in (
        scripted.Env(render_mode="rgb_array"),
        partial(scripted.Env, render_mode="rgb_array"),
        VectorWrapper(SyncVectorEnv([partial(scripted.Env, render_mode="rgb_array")])),
    ):
        env = make_env(given, seed=0, render=True)
        env.rand_step(env.reset())
        frame = render_frame(env)
        assert frame.shape == (2, 3, 3) and frame.dtype == np.uint8 and (frame == 1).all()


@pytest.mark.parametrize("mode", [None, "human"])
def test_what_was_not_made_to_be_drawn_is_refused(mode: str | None, scripted: SimpleNamespace) -> None:
    makers = partial(scripted.Env, render_mode=mode)
    for given in (makers(), makers, VectorWrapper(SyncVectorEnv([makers]))):
        with pytest.raises(InputError, match=f"custom/Scripted has {mode!r}. Make it with render_mode"):
            make_env(given, render=True)


def test_a_wrapped_dm_control_task_is_an_environment_like_any_other() -> None:
    env = make_env(FlattenObservation(DMControlTask("cartpole-swingup")), seed=1)
    expected = make_env("dmc/cartpole-swingup", seed=1).rollout(1)["observation"]
    torch.testing.assert_close(env.rollout(1)["observation"], expected, rtol=0, atol=0)
