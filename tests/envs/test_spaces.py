"""Observation vectors and native actions: values, orders, batches, bounds, and what does not fit."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Text, Tuple
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uld_torchrl.envs import TaskSpaces, native_action, observation_vector, vector_length
from uld_torchrl.envs.spaces import check_spaces
from uld_torchrl.errors import InputError

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
SHAPES = st.sampled_from([(), (1,), (3,)])
BOXES = st.builds(lambda shape, dtype: Box(-np.inf, np.inf, shape, dtype), SHAPES, FLOATS)
COUNTERS = st.builds(
    lambda shape, dtype: Box(0, 100, shape, dtype), SHAPES, st.sampled_from([np.uint8, np.int64])
)
DISCRETES = st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3))


def dicts(parts: st.SearchStrategy[Space]) -> st.SearchStrategy[Dict]:
    pairs = st.lists(
        st.tuples(st.text(max_size=3), parts), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
    )
    return pairs.map(Dict)


SPACES = st.recursive(BOXES | COUNTERS | DISCRETES, dicts, max_leaves=5)


@given(SPACES, st.integers(0, 2**31 - 1))
def test_the_vector_of_any_supported_space_is_gymnasiums_own(space: Space, seed: int) -> None:
    check_spaces(TaskSpaces(space, Discrete(2)), "any")
    space.seed(seed)
    observation = space.sample()
    vector = observation_vector(space, observation)
    assert vector.dtype == np.float32 and vector.shape == (vector_length(space),)
    np.testing.assert_array_equal(vector, gymnasium.spaces.flatten(space, observation).astype(np.float32))


@given(SPACES, st.integers(0, 2**31 - 1), st.integers(1, 4))
def test_a_batch_gives_what_its_members_give(space: Space, seed: int, size: int) -> None:
    batched = batch_space(space, size)
    batched.seed(seed)
    observations = batched.sample()
    members = gymnasium.vector.utils.iterate(batched, observations)
    expected = np.stack([observation_vector(space, member) for member in members])
    np.testing.assert_array_equal(observation_vector(space, observations), expected)


def test_parts_come_in_the_order_of_the_space_whatever_the_observations_order() -> None:
    box = Box(-9, 9, (1,))
    observation = {"b": [2.0], "c": [3.0], "a": [1.0]}
    sorted_by_key = Dict({"c": box, "a": box, "b": box})
    assert observation_vector(sorted_by_key, observation).tolist() == [1, 2, 3]
    for kept in (Dict(OrderedDict(c=box, a=box, b=box)), Dict([("c", box), ("a", box), ("b", box)])):
        assert observation_vector(kept, observation).tolist() == [3, 1, 2]
    assert observation_vector(Dict(c=box, a=box, b=box), observation).tolist() == [3, 1, 2]


def test_nested_parts_scalars_and_choices_lie_side_by_side() -> None:
    space = Dict([("gear", Discrete(3, start=-1)), ("arm", Dict(angle=Box(-1, 1, (2,)), grip=Box(0, 1, ())))])
    observation = {"arm": {"grip": 0.5, "angle": (0.25, -0.25)}, "gear": 1}
    assert observation_vector(space, observation).tolist() == [0, 0, 1, 0.25, -0.25, 0.5]
    assert vector_length(space) == 6


def test_an_empty_batch_gives_no_vectors() -> None:
    assert observation_vector(Box(-1, 1, (3,)), np.zeros((0, 3))).shape == (0, 3)


NESTED = Dict([("arm", Dict(angle=Box(-1, 1, (2,)), gear=Discrete(3, start=1)))])


@pytest.mark.parametrize(
    ("space", "observation", "parts"),
    [
        (Box(-1, 1, (2,)), [1.0, 2.0, 3.0], ["observation must have the shape (2,)", "(3,)"]),
        (Box(-1, 1, (2,)), np.zeros((4, 3)), ["the shape (4, 2)", "got the shape (4, 3)"]),
        (Box(-1, 1, (2,)), np.zeros((1, 4, 2)), ["(1, 4, 2)", "batch"]),
        (Box(-1, 1, ()), np.zeros((2, 2)), ["the shape ()", "(2, 2)"]),
        (Box(-1, 1, (2,)), "west", ["numbers of shape (2,)", "str"]),
        (Box(-1, 1, (2,)), [[1.0], [1.0, 2.0]], ["numbers of shape (2,)", "list"]),
        (Box(-1, 1, (2,)), {"x": 1}, ["numbers of shape (2,)", "dict"]),
        (Discrete(3), 3, ["an integer from 0 to 2", "3"]),
        (Discrete(3, start=1), 0, ["an integer from 1 to 3", "0"]),
        (Discrete(3), np.array([0, -1]), ["an integer from 0 to 2", "[ 0 -1]"]),
        (Discrete(3), 1.0, ["one integer", "float64"]),
        (Discrete(3), np.zeros((2, 2), int), ["one integer", "(2, 2)"]),
        (NESTED, [1.0, 2.0], ["a dict with the keys ['arm']", "list"]),
        (NESTED, {}, ["the keys ['arm']", "[]"]),
        (NESTED, {"arm": {"angle": [0, 0]}}, ["observation['arm']", "['angle', 'gear']", "['angle']"]),
        (NESTED, {"arm": {"angle": [0, 0], "gear": 1}, "leg": 0}, ["the keys ['arm']", "'leg'"]),
        (NESTED, {"arm": {"angle": [0, 0], "gear": 7}}, ["observation['arm']['gear']", "from 1 to 3"]),
        (NESTED, {"arm": {"angle": [0], "gear": 1}}, ["observation['arm']['angle']", "(2,)", "(1,)"]),
        (NESTED, {"arm": {"angle": np.zeros((4, 2)), "gear": [1] * 3}}, ["['gear']", "one integer", "(3,)"]),
        (NESTED, {"arm": {"angle": [0, np.nan], "gear": 1}}, ["observation['arm']['angle'][1]", "finite"]),
        (Box(-np.inf, np.inf, (2,), np.float64), [0.0, 1e39], ["observation[1]", "float32"]),
        (Box(-1, 1, ()), np.inf, ["observation must be finite"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(space: Space, observation: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        observation_vector(space, observation)
    for part in parts:
        assert part in str(refused.value)


def test_the_largest_float32_still_fits() -> None:
    largest = float(np.finfo(np.float32).max)
    space = Box(-np.inf, np.inf, (2,), np.float64)
    assert observation_vector(space, [largest, -largest]).tolist() == [largest, -largest]


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 1, (8, 8, 3)),
        Box(-1, 1, (0,)),
        Tuple([Discrete(2)]),
        Text(3),
        MultiBinary(3),
        Dict(),
        Dict([(3, Discrete(2))]),
        Discrete(1_000_001),
    ],
)
def test_other_observation_spaces_are_refused(space: Space) -> None:
    with pytest.raises(InputError, match=r"^mine has the observation space .*FlattenObservation"):
        check_spaces(TaskSpaces(space, Discrete(2)), "mine")


BOUNDS = hnp.arrays(
    np.float64, 3, elements=st.floats(-1e300, 1e300, allow_subnormal=False), unique=True
) | hnp.arrays(np.float64, 3, elements=st.floats(-8, 8, width=32), unique=True)


@given(BOUNDS, BOUNDS, st.sampled_from([np.float32, np.float64]))
def test_minus_one_and_one_give_the_bounds_to_the_last_bit(
    first: np.ndarray, second: np.ndarray, dtype: type
) -> None:
    limit = float(np.finfo(dtype).max)
    ends = np.clip(np.sort([first, second], axis=0), -limit, limit).astype(dtype)
    if not (ends[0] < ends[1]).all():
        return
    space = Box(*ends, dtype=dtype)
    for unit, bound in ((-1, space.low), (1, space.high)):
        action = native_action(space, np.full(3, unit, np.float32))
        assert action.dtype == dtype
        np.testing.assert_array_equal(action, bound)


@pytest.mark.parametrize("bounds", [(-2.0, 6.0), (0.1, 0.3), (-1e-20, 1e20)])
def test_between_the_bounds_actions_are_scaled_in_double_precision(bounds: tuple[float, float]) -> None:
    space = Box(*bounds, (1,), np.float64)
    low, high = bounds
    units = np.array([-0.5, 0.0, 0.25], np.float32)
    expected = [[low / 2 + high / 2 + (high / 2 - low / 2) * float(unit)] for unit in units]
    np.testing.assert_array_equal(native_action(space, units[:, None]), expected)


@given(hnp.arrays(np.float32, 2, elements=st.floats(-1, 1, width=32)))
def test_bounds_of_one_leave_the_action_as_it_is(action: np.ndarray) -> None:
    np.testing.assert_array_equal(native_action(Box(-1, 1, (2,)), action), action)


def test_actions_take_the_shape_of_the_space_batch_by_batch() -> None:
    space = Box(np.array([[0, 0], [-8, 0]], np.float32), np.array([[2, 4], [8, 1]], np.float32))
    single = native_action(space, np.array([-1.0, 0, 0.5, 1]))
    np.testing.assert_array_equal(single, [[0, 2], [4, 1]])
    batch = native_action(space, np.zeros((5, 7, 4)))
    assert batch.shape == (5, 7, 2, 2) and (batch == [[1, 2], [0, 0.5]]).all()
    assert (
        native_action(Box(-1, 3, ()), np.zeros(1)) == 1
        and native_action(Box(-1, 3, ()), np.zeros(1)).shape == ()
    )


def test_one_hot_actions_become_numbers_from_the_start_on() -> None:
    space = Discrete(3, start=-1)
    single = native_action(space, np.array([0, 0, 1]))
    assert single == 1 and isinstance(single, np.int64)
    batch = native_action(space, np.eye(3, dtype=np.float32)[None])
    assert batch.tolist() == [[-1, 0, 1]] and batch.dtype == np.int64


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Discrete(2)])
def test_actions_of_another_length_are_refused(space: Space) -> None:
    for wrong in (np.zeros(3), np.zeros((2, 1)), np.float32(0)):
        with pytest.raises(InputError, match=r"action must have the shape \(\.\.\., 2\), got \("):
            native_action(space, wrong)
