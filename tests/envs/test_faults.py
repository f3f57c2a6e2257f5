"""Environments that misbehave while running: every fault names the lane, what is wrong and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from torchrl.envs import EnvBase

from uld_torchrl.envs import make_env
from uld_torchrl.errors import EnvironmentFault, InputError

VECTOR = Box(-np.inf, np.inf, (2,), np.float64)
PARTS = Dict([("gear", Discrete(3)), ("arm", Dict(angle=Box(-1, 1, (2,)), grip=Box(0, 1, ())))])
GOOD = {"gear": 1, "arm": {"angle": np.zeros(2), "grip": 0.5}}
FINE = {"observation": np.zeros(2), "reward": 0.0, "terminated": False, "truncated": False}


class Faulty(gymnasium.Env):
    """Returns what it is told to return: ``reset`` and ``step`` are values or callables."""

    action_space = Discrete(2)

    def __init__(self, space: Space = VECTOR, reset: Any = None, step: Any = None) -> None:
        self.observation_space = space
        self.on_reset, self.on_step = reset, step

    def reset(self, **_: Any) -> Any:
        return self.on_reset() if callable(self.on_reset) else self.on_reset

    def step(self, action: Any) -> Any:
        return self.on_step() if callable(self.on_step) else self.on_step


def result(**changes: Any) -> tuple[Any, ...]:
    return (*{**FINE, **changes}.values(), {})


def make(space: Space = VECTOR, good: Any = FINE["observation"], **bad: Any) -> EnvBase:
    """Make two lanes, of which lane 1 misbehaves."""
    fine = {"reset": (good, {}), "step": result(observation=good)}
    lanes = iter([fine, {**fine, **bad}])
    return make_env(lambda: Faulty(space, **next(lanes)), num_envs=2)


def boom() -> None:
    raise RuntimeError("the motor is hot")


def step_once(env: EnvBase) -> None:
    env.step(env.rand_action(env.reset()))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"observation": np.array([0.0, np.nan])}, ["observation[1] is nan", "finite"]),
        ({"observation": np.array([-np.inf, 0.0])}, ["observation[0] is -inf"]),
        ({"observation": np.array([0.0, 1e39])}, ["observation[1] is 1e+39", "float32"]),
        ({"observation": np.zeros(3)}, ["observation must have the shape (2,)", "(3,)", "changing shapes"]),
        ({"observation": np.zeros((1, 2))}, ["the shape (2,)", "(1, 2)"]),
        ({"observation": None}, ["observation must have the shape (2,)"]),
        ({"observation": "wall"}, ["numbers of shape (2,)", "str"]),
        ({"reward": np.nan}, ["the reward is nan"]),
        ({"reward": -np.inf}, ["the reward is -inf"]),
        ({"reward": 1e39}, ["the reward is 1e+39", "float32"]),
        ({"reward": 10**400}, ["the reward is 1000", "one number"]),
        ({"reward": None}, ["the reward is None", "one number"]),
        ({"reward": "high"}, ["the reward is 'high'"]),
        ({"reward": np.zeros(2)}, ["the reward is array([0., 0.])"]),
        ({"reward": 1j}, ["the reward is 1j"]),
        ({"reward": [[1], [1, 2]]}, ["the reward is [[1], [1, 2]]"]),
        ({"terminated": None}, ["terminated is None", "True or False"]),
        ({"truncated": "no"}, ["truncated is 'no'"]),
        ({"truncated": 2}, ["truncated is 2"]),
        ({"terminated": 1.0}, ["terminated is 1.0"]),
        ({"terminated": np.array([True, False])}, ["terminated is array([ True, False])"]),
    ],
)
def test_a_bad_result_of_a_step_names_lane_value_and_what_is_wanted(
    changes: dict[str, Any], parts: list[str]
) -> None:
    env = make(step=result(**changes))
    with pytest.raises(EnvironmentFault) as fault:
        step_once(env)
    for part in ["custom/Faulty, lane 1: in the result of step(), ", *parts]:
        assert part in str(fault.value)


@pytest.mark.parametrize(
    ("observation", "parts"),
    [
        ({"gear": 1}, ["observation must have the keys ['gear', 'arm']", "['gear']"]),
        ({**GOOD, "leg": 0}, ["the keys ['gear', 'arm']", "'leg'"]),
        ({**GOOD, "gear": 3}, ["observation['gear'] must have an integer from 0 to 2", "3"]),
        ({**GOOD, "arm": {"angle": np.zeros(2)}}, ["observation['arm']", "['angle', 'grip']"]),
        ({**GOOD, "arm": {"angle": np.zeros(3), "grip": 0}}, ["observation['arm']['angle']", "(2,)", "(3,)"]),
        ({**GOOD, "arm": {"angle": [0, np.inf], "grip": 0}}, ["observation['arm']['angle'][1] is inf"]),
        ({**GOOD, "arm": {"angle": [0, 0], "grip": np.nan}}, ["observation['arm']['grip'] is nan"]),
    ],
)
def test_a_bad_part_of_a_dict_is_named(observation: Any, parts: list[str]) -> None:
    for call, bad in (
        ("reset()", {"reset": (observation, {})}),
        ("step()", {"step": result(observation=observation)}),
    ):
        env = make(PARTS, GOOD, **bad)
        with pytest.raises(EnvironmentFault) as fault:
            step_once(env)
        for part in [f"custom/Faulty, lane 1: in the result of {call}, ", *parts]:
            assert part in str(fault.value)


@pytest.mark.parametrize(
    ("call", "returned", "parts"),
    [
        ("reset", np.zeros(3), ["a ndarray was returned", "form is (observation, info)"]),
        ("reset", None, ["a NoneType was returned"]),
        ("reset", (np.zeros(2), {}, {}), ["a tuple of 3 values"]),
        ("step", result()[:4], ["a tuple of 4 values", "(observation, reward, terminated, truncated, info)"]),
        ("step", None, ["a NoneType was returned"]),
    ],
)
def test_results_of_another_form_are_refused(call: str, returned: Any, parts: list[str]) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        step_once(make(**{call: returned}))
    for part in [f"custom/Faulty, lane 1: in the result of {call}(), ", *parts]:
        assert part in str(fault.value)


@pytest.mark.parametrize("call", ["reset", "step"])
def test_an_exception_is_chained_and_its_place_named(call: str) -> None:
    env = make(**{call: boom})
    line = boom.__code__.co_firstlineno + 1
    wanted = (
        rf"^custom/Faulty, lane 1: {call}\(\) raised RuntimeError: the motor .* \(.*test_faults.py:{line}\)"
    )
    with pytest.raises(EnvironmentFault, match=wanted) as fault:
        step_once(env)
    assert isinstance(fault.value.__cause__, RuntimeError)


@pytest.mark.parametrize("call", ["reset", "step"])
@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(passing: type[BaseException], call: str) -> None:
    def interrupt() -> None:
        raise passing

    with pytest.raises(passing):
        step_once(make(**{call: interrupt}))


def test_bad_input_of_ours_passes_through() -> None:
    def refuse() -> None:
        raise InputError("no renderer here")

    with pytest.raises(InputError, match=r"^no renderer here$"):
        step_once(make(step=refuse))


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": True},
        {"reward": np.float32(1)},
        {"reward": 1},
        {"reward": np.array([1])},
        {"reward": torch.tensor(1.0)},
        {"terminated": np.True_, "reward": 1.0},
        {"terminated": 1, "reward": 1.0},
        {"terminated": np.array([True]), "truncated": np.array(0), "reward": 1.0},
        {"observation": [3, 4], "reward": 1.0},
        {"observation": torch.ones(2), "reward": 1.0},
        {"observation": np.full(2, float(np.finfo(np.float32).max)), "reward": 1.0},
    ],
)
def test_what_means_the_same_is_taken(changes: dict[str, Any]) -> None:
    env = make(step=result(**changes))
    after = env.step(env.rand_action(env.reset()))["next"]
    assert after["reward"].flatten().tolist() == [0, 1]
    ended = "terminated" in changes
    assert after["terminated"].flatten().tolist() == after["done"].flatten().tolist() == [False, ended]
    expected = np.asarray(changes.get("observation", np.zeros(2)), np.float32)
    np.testing.assert_array_equal(after["observation"][1], expected)


def test_an_environment_goes_on_after_a_fault_if_it_is_reset() -> None:
    results = iter([result(), result(reward=np.nan), result(reward=2.0)])
    env = make(step=lambda: next(results))
    step_once(env)
    with pytest.raises(EnvironmentFault):
        step_once(env)
    assert env.step(env.rand_action(env.reset()))["next", "reward"].flatten().tolist() == [0, 2]


class FaultyVector(VectorEnv):
    """Two lanes that return what they are told to return."""

    single_observation_space, single_action_space = VECTOR, Discrete(2)
    num_envs = 2

    def __init__(self, mode: Any, **returned: Any) -> None:
        self.metadata = {"autoreset_mode": mode} if mode else {}
        self.returned = {
            "observation": np.zeros((2, 2)),
            "reward": np.zeros(2),
            "terminated": np.zeros(2, bool),
            "truncated": np.zeros(2, bool),
            "info": {},
            "reset": (np.zeros((2, 2)), {}),
            **returned,
        }

    def reset(self, **_: Any) -> Any:
        given = self.returned["reset"]
        return given() if callable(given) else given

    def step(self, actions: Any) -> Any:
        values = [value() if callable(value) else value for value in self.returned.values()]
        return tuple(values[:5])


ENDED = np.array([False, True])


@pytest.mark.parametrize(
    ("returned", "parts"),
    [
        ({"observation": np.array([[0, 0], [0, np.nan]])}, ["lane 1", "step()", "observation[1] is nan"]),
        ({"observation": np.zeros(2)}, ["step()", "(2, 2)", "(2,)"]),
        ({"reward": np.array([0, np.inf])}, ["lane 1", "the reward is inf"]),
        ({"reward": np.zeros(3)}, ["the reward has the shape (3,)", "2 lanes"]),
        ({"reward": np.array(["a", "b"])}, ["the reward has", "<U1"]),
        ({"terminated": np.zeros((2, 1), bool)}, ["the terminated has the shape (2, 1)"]),
        ({"truncated": np.zeros(2)}, ["the truncated has", "float64"]),
        ({"reset": None}, ["reset()", "a tuple of 2 values", "None"]),
        ({"reset": (np.full((2, 2), np.inf), {})}, ["lane 0", "reset()", "observation[0] is inf"]),
        ({"reset": boom}, ["reset() raised RuntimeError: the motor is hot", "test_faults.py:"]),
        ({"info": boom}, ["step() raised RuntimeError: the motor is hot", "test_faults.py:"]),
        ({"terminated": ENDED}, ["lane 1", "final_obs", "SAME_STEP", "KeyError"]),
        ({"terminated": ENDED, "info": {"final_obs": [None]}}, ["lane 1", "final_obs", "IndexError"]),
        ({"truncated": ENDED, "info": {"final_obs": [None, [1.0]]}}, ["lane 1", "final_obs", "(2,)"]),
        ({"truncated": ENDED, "info": {"final_obs": [None, [1.0, np.nan]]}}, ["lane 1", "[1] is nan"]),
    ],
)
def test_a_vector_environment_that_misbehaves_is_reported(returned: dict[str, Any], parts: list[str]) -> None:
    env = make_env(FaultyVector(AutoresetMode.SAME_STEP, **returned))
    with pytest.raises(EnvironmentFault) as fault:
        step_once(env)
    for part in ["custom/FaultyVector", *parts]:
        assert part in str(fault.value)


@pytest.mark.parametrize("mode", [None, "sometimes"])
def test_a_vector_environment_must_say_how_it_resets(mode: Any) -> None:
    with pytest.raises(InputError, match=rf"custom/FaultyVector must say .*autoreset_mode.* got {mode!r}"):
        make_env(FaultyVector(mode))


def test_the_autoreset_mode_may_be_given_as_its_text() -> None:
    assert make_env(FaultyVector("NextStep")).num_envs == 2


def test_an_exception_in_drawing_is_a_fault() -> None:
    class Drawn(Faulty):
        render_mode = "rgb_array"
        render: Callable[..., Any] = staticmethod(boom)

    with pytest.raises(
        EnvironmentFault, match=r"custom/Drawn: render\(\) raised RuntimeError: the motor is hot"
    ):
        make_env(Drawn(reset=(np.zeros(2), {})), render=True)


def test_a_wrapped_vector_environment_misbehaves_by_its_own_name() -> None:
    lanes = [lambda: Faulty(reset=(np.zeros(2), {}), step=boom)] * 2
    env = make_env(VectorWrapper(SyncVectorEnv(lanes)))
    with pytest.raises(EnvironmentFault, match=r"^custom/Faulty: step\(\) raised RuntimeError"):
        step_once(env)
