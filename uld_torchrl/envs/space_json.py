"""Spaces as JSON and back: Box, Discrete and Dict, in strict JSON and without anything that runs.

What is read comes from files that anybody may have written: types, sizes and names are checked before
anything is made from them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from uld_torchrl.envs.spaces import MAX_LENGTH, TaskSpaces
from uld_torchrl.errors import InputError

_FLOATS = ("float16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = (*_FLOATS, *_INTEGERS, "bool")
_MAX_DEPTH = 16


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """Return a description of a space that ``json.dumps`` can write and :func:`space_from_json` reads.

    A bound is one number if it is the same everywhere, else a list of all (row by row); None is no bound.
    The parts of a Dict are pairs, so that their order survives.

    Raises:
        InputError: a space of another kind.

    Example:
        >>> space_to_json(Box(-1, np.inf, (2,)))
        {'type': 'Box', 'shape': [2], 'dtype': 'float32', 'low': -1.0, 'high': None}
        >>> space_to_json(Dict(gear=Discrete(3)))
        {'type': 'Dict', 'spaces': [['gear', {'type': 'Discrete', 'n': 3, 'start': 0}]]}
    """
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, Dict):
        pairs = [[_key(key), space_to_json(part)] for key, part in space.spaces.items()]
        return {"type": "Dict", "spaces": pairs}
    if isinstance(space, Box) and space.dtype.name in _DTYPES:
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": space.dtype.name,
            "low": _bound(space.low),
            "high": _bound(space.high),
        }
    raise InputError(f"space must be a Box, Discrete or Dict, got {space}.")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    raise InputError(f"the keys of a Dict space must be strings, got {key!r}.")


def _bound(values: np.ndarray) -> Any:
    listed = [
        None if isinstance(value, float) and math.isinf(value) else value for value in values.ravel().tolist()
    ]
    same = listed and all(value == listed[0] for value in listed)
    return listed[0] if same else listed


def space_from_json(data: Any) -> Space[Any]:
    """Return the space that :func:`space_to_json` has described.

    Raises:
        InputError: anything is missing, unknown, too large or of another type.

    Example:
        >>> space_from_json({"type": "Box", "shape": [2], "dtype": "float32", "low": [0, -1], "high": None})
        Box([ 0. -1.], inf, (2,), float32)
    """
    return _space(data, "space", 0)


def _space(data: Any, where: str, depth: int) -> Space[Any]:
    if not isinstance(data, dict) or depth > _MAX_DEPTH:
        raise _bad(where, f"an object, nested no deeper than {_MAX_DEPTH}", data)
    makers = {"Box": _box, "Discrete": _discrete, "Dict": _dict}
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in makers:
        raise _bad(f"{where}.type", f"one of {', '.join(makers)}", kind)
    return makers[kind](data, where, depth)


def _dict(data: dict[str, Any], where: str, depth: int) -> Dict:
    _fields(data, where, "spaces")
    pairs = data["spaces"]
    if not isinstance(pairs, list) or len(pairs) > MAX_LENGTH:
        raise _bad(f"{where}.spaces", "a list of pairs", pairs)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise _bad(f"{where}.spaces", "a list of pairs [name, space]", pair)
    parts = {key: _space(part, f"{where}[{key!r}]", depth + 1) for key, part in pairs}
    if len(parts) != len(pairs):
        raise _bad(f"{where}.spaces", "a list of pairs with different names", [key for key, _ in pairs])
    return Dict(list(parts.items()))


def _discrete(data: dict[str, Any], where: str, depth: int) -> Discrete:
    _fields(data, where, "n", "start")
    n = _integer(data["n"], f"{where}.n", 1, MAX_LENGTH)
    largest = np.iinfo(np.int64).max
    return Discrete(n, start=_integer(data["start"], f"{where}.start", -largest - 1, largest - n))


def _box(data: dict[str, Any], where: str, depth: int) -> Box:
    _fields(data, where, "shape", "dtype", "low", "high")
    name, shape = data["dtype"], data["shape"]
    if not isinstance(name, str) or name not in _DTYPES:
        raise _bad(f"{where}.dtype", f"one of {', '.join(_DTYPES)}", name)
    if not isinstance(shape, list) or len(shape) > 8:
        raise _bad(f"{where}.shape", "a list of up to 8 integers", shape)
    sizes = [_integer(size, f"{where}.shape", 0, MAX_LENGTH) for size in shape]
    if math.prod(sizes) > MAX_LENGTH:
        raise _bad(f"{where}.shape", f"a shape of up to {MAX_LENGTH} numbers", shape)
    low = _bounds(data["low"], sizes, name, f"{where}.low", -math.inf)
    high = _bounds(data["high"], sizes, name, f"{where}.high", math.inf)
    if (low > high).any():
        raise _bad(f"{where}.low", "at most high in each dimension", data["low"])
    return Box(low, high, dtype=np.dtype(name).type)


def _bounds(value: Any, shape: list[int], dtype: str, where: str, unbounded: float) -> np.ndarray:
    size = math.prod(shape)
    values = value if isinstance(value, list) else [value] * size
    if len(values) != size:
        raise _bad(where, f"one number or a list of {size}", value)
    checked = [_bounded(each, dtype, where, unbounded) for each in values]
    return np.array(checked, dtype).reshape(shape)


def _bounded(value: Any, dtype: str, where: str, unbounded: float) -> Any:
    if dtype in _INTEGERS or dtype == "bool":
        limits = np.iinfo(dtype) if dtype != "bool" else np.iinfo(np.uint8)
        if dtype == "bool" and isinstance(value, bool):
            return value
        return _integer(value, where, int(limits.min), int(limits.max) if dtype != "bool" else 1)
    if value is None:
        return unbounded
    largest = float(np.finfo(dtype).max)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= largest:
        raise _bad(where, f"a number within {dtype}, or null for no bound", value)
    return float(value)


def _integer(value: Any, where: str, smallest: int, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise _bad(where, f"an integer from {smallest} to {largest}", value)
    return value


def _fields(data: dict[str, Any], where: str, *wanted: str) -> None:
    if data.keys() != {"type", *wanted}:
        raise _bad(where, f"the fields type, {', '.join(wanted)}", sorted(map(str, data)))


def _bad(where: str, wanted: str, given: Any) -> InputError:
    text = repr(given)
    text = text if len(text) < 100 else f"{text[:97]}..."
    return InputError(f"{where} must be {wanted}; got {text}.")


def task_to_json(task: TaskSpaces) -> dict[str, Any]:
    """Return both spaces of a task, and the number of frames if it has them, as JSON data.

    Example:
        >>> sorted(task_to_json(TaskSpaces(Discrete(2), Discrete(3))))
        ['action_space', 'observation_space']
    """
    spaces = {
        "observation_space": space_to_json(task.observation),
        "action_space": space_to_json(task.action),
    }
    return spaces if task.frames is None else {**spaces, "frames": task.frames}


def task_from_json(data: Any) -> TaskSpaces:
    """Return the task's spaces from what :func:`task_to_json` gave; other entries are left alone.

    Raises:
        InputError: an entry is missing or malformed.

    Example:
        >>> task_from_json(task_to_json(TaskSpaces(Discrete(2), Discrete(3)))).action
        Discrete(3)
    """
    if not isinstance(data, dict) or not {"observation_space", "action_space"} <= data.keys():
        raise InputError("expected the entries observation_space and action_space.")
    frames = data.get("frames")
    return TaskSpaces(
        space_from_json(data["observation_space"]),
        space_from_json(data["action_space"]),
        None if frames is None else _integer(frames, "frames", 1, MAX_LENGTH),
    )
