"""Spaces as JSON: there and back, strict, and safe to read from anybody."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uld_torchrl.envs import space_from_json, space_to_json
from uld_torchrl.errors import InputError

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64, *INTEGERS, np.bool_]))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)]))
    if np.issubdtype(dtype, np.floating):
        elements: Any = st.floats(width=np.dtype(dtype).itemsize * 8, allow_nan=False, allow_infinity=False)
    else:
        elements = None
    ends = [draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2)]
    low, high = np.asarray(np.minimum(*ends)), np.asarray(np.maximum(*ends))
    if np.issubdtype(dtype, np.floating):
        low = np.where(draw(hnp.arrays(bool, shape)), -np.inf, low).astype(dtype)
        high = np.where(draw(hnp.arrays(bool, shape)), np.inf, high).astype(dtype)
    return Box(low, high, dtype=dtype)


DISCRETES = st.builds(
    lambda n, start: Discrete(n, start=start), st.integers(1, 10**6), st.integers(-(2**63), 2**62)
)


def dicts(parts: st.SearchStrategy[Space]) -> st.SearchStrategy[Dict]:
    return st.lists(st.tuples(st.text(), parts), max_size=3, unique_by=lambda pair: pair[0]).map(Dict)


@given(st.recursive(boxes() | DISCRETES, dicts, max_leaves=5))
def test_any_space_survives_strict_json(space: Space) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space and repr(again) == repr(space)
    if isinstance(space, Dict):
        assert list(again.spaces) == list(space.spaces)
    if isinstance(space, Box):
        assert again.dtype == space.dtype and (again.is_bounded() == space.is_bounded())


def test_uniform_bounds_are_one_number_and_no_bound_is_null() -> None:
    written = space_to_json(Box(np.array([-1, -np.inf], np.float32), np.array([2, 2], np.float32)))
    assert (written["low"], written["high"]) == ([-1.0, None], 2.0)
    assert space_to_json(Box(-np.inf, np.inf, (3,)))["low"] is None


@pytest.mark.parametrize("space", [MultiBinary(2), Dict(a=MultiBinary(2)), Dict([(1, Discrete(2))])])
def test_other_spaces_are_not_written(space: Space) -> None:
    with pytest.raises(InputError, match=r"space must be a Box, Discrete or Dict|keys .* must be strings"):
        space_to_json(space)


BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": [0.0, 1], "high": None}
INTEGER_BOX = {**BOX, "dtype": "uint8", "low": 0, "high": 255}
DISCRETE = {"type": "Discrete", "n": 3, "start": 0}
DICT = {"type": "Dict", "spaces": [["a", DISCRETE], ["b", BOX]]}


@pytest.mark.parametrize("data", [BOX, INTEGER_BOX, DISCRETE, DICT])
def test_the_descriptions_below_are_right_before_they_are_changed(data: dict[str, Any]) -> None:
    assert space_from_json(copy.deepcopy(data))


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (None, ["space must be", "None"]),
        ([], ["space must be", "[]"]),
        ({}, ["space.type must be one of Box, Discrete, Dict", "None"]),
        ({**BOX, "type": "Tuple"}, ["space.type", "'Tuple'"]),
        ({**BOX, "type": ["Box"]}, ["space.type"]),
        ({**BOX, "seed": 1}, ["the fields type, shape, dtype, low, high", "seed"]),
        ({"type": "Box"}, ["the fields"]),
        ({**BOX, "dtype": "object"}, ["space.dtype", "'object'"]),
        ({**BOX, "dtype": "f4"}, ["space.dtype", "'f4'"]),
        ({**BOX, "dtype": 3}, ["space.dtype", "3"]),
        ({**BOX, "shape": 2}, ["space.shape", "2"]),
        ({**BOX, "shape": [2.0]}, ["space.shape", "2.0"]),
        ({**BOX, "shape": [True]}, ["space.shape", "True"]),
        ({**BOX, "shape": [-1]}, ["space.shape", "-1"]),
        ({**BOX, "shape": [1] * 9}, ["space.shape", "8"]),
        ({**BOX, "shape": [10**6, 10**6], "low": 0}, ["space.shape", "1000000"]),
        ({**BOX, "shape": [10**30], "low": 0}, ["space.shape"]),
        ({**BOX, "low": [0.0]}, ["space.low", "list of 2"]),
        ({**BOX, "low": [[0.0], [1.0]]}, ["space.low", "[0.0]"]),
        ({**BOX, "low": "0"}, ["space.low", "'0'"]),
        ({**BOX, "low": True}, ["space.low", "True"]),
        ({**BOX, "low": float("nan")}, ["space.low", "nan"]),
        ({**BOX, "low": float("-inf")}, ["space.low", "inf"]),
        ({**BOX, "low": 1e39}, ["space.low", "1e+39"]),
        ({**BOX, "low": 10**400}, ["space.low"]),
        ({**BOX, "high": [1.0, 0.5]}, ["space.low", "at most high"]),
        ({**INTEGER_BOX, "low": -1}, ["space.low", "from 0 to 255"]),
        ({**INTEGER_BOX, "high": 256}, ["space.high", "from 0 to 255"]),
        ({**INTEGER_BOX, "high": 25.5}, ["space.high", "25.5"]),
        ({**INTEGER_BOX, "high": None}, ["space.high", "None"]),
        ({**INTEGER_BOX, "dtype": "bool", "high": 2}, ["space.high", "from 0 to 1"]),
        ({**DISCRETE, "n": 0}, ["space.n", "0"]),
        ({**DISCRETE, "n": 10**6 + 1}, ["space.n"]),
        ({**DISCRETE, "n": "3"}, ["space.n", "'3'"]),
        ({**DISCRETE, "n": True}, ["space.n", "True"]),
        ({**DISCRETE, "start": 2**63}, ["space.start"]),
        ({**DISCRETE, "start": None}, ["space.start", "None"]),
        ({"type": "Dict", "spaces": {"a": DISCRETE}}, ["space.spaces", "list of pairs"]),
        ({"type": "Dict", "spaces": [["a", DISCRETE, 1]]}, ["space.spaces", "pairs"]),
        ({"type": "Dict", "spaces": [[1, DISCRETE]]}, ["space.spaces", "pairs"]),
        ({"type": "Dict", "spaces": [["a", DISCRETE], ["a", DISCRETE]]}, ["space.spaces", "different"]),
        ({"type": "Dict", "spaces": [["a", {**DISCRETE, "n": 0}]]}, ["space['a'].n", "0"]),
    ],
)
def test_a_damaged_description_is_refused_by_its_place(data: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        space_from_json(data)
    for part in parts:
        assert part in str(refused.value)


def test_descriptions_nested_too_deeply_are_refused() -> None:
    data: dict[str, Any] = DISCRETE
    for _ in range(16):
        data = {"type": "Dict", "spaces": [["a", data]]}
    assert space_from_json(data)
    with pytest.raises(InputError, match="nested no deeper than 16"):
        space_from_json({"type": "Dict", "spaces": [["a", data]]})
