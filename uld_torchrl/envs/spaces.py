"""Between an environment's own spaces and the agent's: a float32 vector, actions in [-1, 1] or one-hot.

Training, workers and prediction all go through :func:`observation_reader` and :func:`action_writer`, so
they cannot differ. Both look at the space once and return a function for the many steps. Numbers pass
through float64, so that what overflows float32 is seen before it is cast. Images stay uint8; how they
become stacks of frames is in ``images.py``, JSON in ``space_json.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

from uld_torchrl.errors import InputError

MAX_LENGTH = 1_000_000
"""Longest observation vector; longer ones come from a Discrete space that counts too far."""
LIMIT = float(np.finfo(np.float32).max)

Reader = Callable[[Any, tuple[int, ...]], np.ndarray]
Writer = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class TaskSpaces:
    """The spaces of one environment as it was given, before anything is scaled or flattened.

    Of images ``observation`` is what the agent gets: the last ``frames`` of them, a uint8 Box
    (frames * C, h, w), the oldest first. ``frames`` is None for vectors.
    """

    observation: Space[Any]
    action: Space[Any]
    frames: int | None = None


def task_of(env: Any, prefix: str = "") -> TaskSpaces:
    """Return the spaces of an environment, or with ``prefix`` "single_" of one lane; None if it lacks one.

    Example:
        >>> import gymnasium
        >>> task_of(gymnasium.make_vec("CartPole-v1", 3), "single_").action
        Discrete(2)
    """
    found: list[Any] = [getattr(env, f"{prefix}{kind}_space", None) for kind in ("observation", "action")]
    return TaskSpaces(*found)


def check_spaces(spaces: TaskSpaces, name: str) -> None:
    """Refuse spaces that the agent cannot use.

    Raises:
        InputError: a space of another kind, or an action without bounds.

    Example:
        >>> check_spaces(TaskSpaces(Box(0, 255, (8, 8, 3)), Discrete(2)), "custom/Camera")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: custom/Camera has the observation space ...
    """
    if spaces.frames is None:
        _check_observation_space(spaces.observation, name)
    else:
        _check_stack(spaces.observation, spaces.frames, name)
    _check_action_space(spaces.action, name)


def _check_observation_space(space: Space[Any], name: str) -> None:
    if is_image(space):
        raise InputError(
            f"{name} has the observation space {_describe(space)} without a number of frames; agents take "
            "stacks of frames: what task_spaces(make_env(...)) returns, or TaskSpaces(..., frames=k)."
        )
    if not _is_vector(space) or not 0 < vector_length(space) <= MAX_LENGTH:
        raise unsupported(space, name)


def _is_vector(space: Space[Any]) -> bool:
    if isinstance(space, Dict):
        return all(isinstance(key, str) and _is_vector(part) for key, part in space.spaces.items())
    return isinstance(space, Discrete) or (isinstance(space, Box) and len(space.shape) < 2)


def _check_stack(space: Space[Any], frames: int, name: str) -> None:
    shape = space.shape or ()
    if not is_image(space) or len(shape) != 3 or frames < 1 or shape[0] % frames:
        raise InputError(
            f"{name} has frames={frames} and the observation space {_describe(space)}; a stack of {frames} "
            "images is a Box of uint8 of shape (frames * channels, height, width)."
        )


def is_image(space: Space[Any] | None) -> bool:
    """Tell images, uint8 of two dimensions or more, from all else; their shape may still be unusable.

    Example:
        >>> is_image(Box(0, 255, (96, 96, 3), np.uint8)), is_image(Box(0, 255, (128,), np.uint8))
        (True, False)
    """
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1


def unsupported(space: Space[Any], name: str) -> InputError:
    """Return what to say of an observation space that is neither a vector nor an image.

    Example:
        >>> print(unsupported(Box(0, 1, (8, 8, 3)), "custom/Camera"))
        custom/Camera has the observation space Box(0.0, 1.0, (8, 8, 3), float32), which is not ...
    """
    return InputError(
        f"{name} has the observation space {_describe(space)}, which is not supported; supported are vectors "
        f"(a Box of shape (n,) or (), Discrete, and a Dict of these, of up to {MAX_LENGTH} numbers), and "
        "images (a Box of uint8 from 0 to 255, of shape (height, width), (height, width, channels) or "
        f"(channels, height, width), with up to 4 channels and at least 5 x 5 pixels). {_way_out(space)}"
    )


def _way_out(space: Space[Any]) -> str:
    if isinstance(space, Dict) and (camera := _image_within(space)):
        return (
            "An image beside other observations is not supported, and nothing is dropped silently: choose "
            "one, for example gymnasium.wrappers.TransformObservation(env, lambda o: "
            f"o{camera}, env.observation_space{camera})."
        )
    flat = "with gymnasium.wrappers.FlattenObservation"
    if is_image(space):
        return (
            f"If it is no image, flatten it {flat}. If it is a stack of frames, leave the stacking to "
            "make_env: pixels.frame_stack."
        )
    if isinstance(space, Box) and len(space.shape) > 1:
        return (
            "If it is an image, give it as it was drawn, uint8 from 0 to 255, with "
            f"gymnasium.wrappers.TransformObservation; if not, flatten it {flat}."
        )
    return f"Wrap the environment in one that flattens its observation, for example {flat[5:]}."


def _image_within(space: Dict) -> str | None:
    """Return the keys that lead to the first image, as ``['camera']``."""
    for key, part in space.spaces.items():
        inner = _image_within(part) if isinstance(part, Dict) else "" if is_image(part) else None
        if inner is not None:
            return f"[{key!r}]{inner}"
    return None


def _check_action_space(space: Space[Any], name: str) -> None:
    if isinstance(space, Discrete):
        return
    if not isinstance(space, Box) or space.dtype.kind != "f" or 0 in space.shape:
        raise InputError(
            f"{name} has the action space {_describe(space)}, which is not supported; supported are a Box of "
            "floats and Discrete."
        )
    if not space.is_bounded() or not (space.low < space.high).all():
        raise InputError(
            f"{name} has the action space {_describe(space)}: every dimension needs a finite lower bound "
            "below a finite upper bound, since actions in [-1, 1] are scaled to them. Wrap the environment "
            "in one with bounds, for example gymnasium.wrappers.TransformAction."
        )


def _describe(space: Space[Any]) -> str:
    text = str(space)
    return text if len(text) < 200 else f"{type(space).__name__} of shape {space.shape}"


def vector_length(space: Space[Any]) -> int:
    """Return n, the numbers in the observation vector of a space.

    Example:
        >>> vector_length(Dict(angle=Box(-1, 1, (2,)), gear=Discrete(5)))
        7
    """
    if isinstance(space, Dict):
        return sum(vector_length(part) for part in space.spaces.values())
    return int(space.n) if isinstance(space, Discrete) else int(np.prod(space.shape or ()))


def layout(space: Space[Any]) -> tuple[Any, ...]:
    """Return what decides how an observation is read: kinds, names, order and shapes, but no bounds.

    Example:
        >>> layout(Box(-1, 1, (2,))) == layout(Box(-5, 5, (2,))) != layout(Discrete(2))
        True
    """
    if isinstance(space, Dict):
        return ("Dict", *((key, layout(part)) for key, part in space.spaces.items()))
    return ("Discrete", space.n, space.start) if isinstance(space, Discrete) else ("Box", space.shape)


def entry_names(space: Space[Any], name: str = "observation") -> list[str]:
    """Return for each of the n numbers of the observation vector where it comes from.

    Example:
        >>> entry_names(Dict(angle=Box(-1, 1, (2,))))
        ["observation['angle'][0]", "observation['angle'][1]"]
    """
    if isinstance(space, Dict):
        parts = (entry_names(part, f"{name}[{key!r}]") for key, part in space.spaces.items())
        return [entry for part in parts for entry in part]
    if space.shape == () and isinstance(space, Box):
        return [name]
    return [f"{name}[{index}]" for index in range(vector_length(space))]


def observation_vector(space: Space[Any], observation: Any) -> np.ndarray:
    """Return an observation as a float32 vector (n,), or a batch of B observations as (B, n).

    A Box gives its numbers, Discrete a one-hot vector, and a Dict its parts one after the other in the
    order of the space (``space.spaces``), whatever the order of the observation's own keys. Gymnasium
    sorts a plain dict by key when it makes a Dict space; it keeps the order of an ``OrderedDict``, a list
    of pairs and keywords.

    Raises:
        InputError: it fits neither a single nor a batched observation, or holds NaN or infinity.

    Example:
        >>> space = Dict(gear=Discrete(3), angle=Box(-1, 1, (2,)))
        >>> observation_vector(space, {"angle": [0.5, -1], "gear": 1})
        array([ 0. ,  1. ,  0. ,  0.5, -1. ], dtype=float32)
        >>> observation_vector(space, {"angle": np.zeros((4, 2)), "gear": np.zeros(4, int)}).shape
        (4, 5)
    """
    try:
        values = observation_reader(space)(observation, _lead(space, observation))
    except InputError as error:
        raise InputError(f"{error} In a batch of B observations each shape has B in front.") from error
    if not (np.abs(values) <= LIMIT).all():
        entry = entry_names(space)[int(np.argwhere(~(np.abs(values) <= LIMIT))[0, -1])]
        raise InputError(
            f"{entry} must be finite and within the range of float32; got NaN, infinity or more."
        )
    return values.astype(np.float32)


def _lead(space: Space[Any], observation: Any) -> tuple[int, ...]:
    """Return () for a single observation, (B,) for a batch; judged by its first part."""
    while isinstance(space, Dict) and isinstance(observation, Mapping):
        key, space = next(iter(space.spaces.items()))
        observation = observation.get(key, 0)
    try:
        shape = tuple(np.shape(observation))
    except ValueError:  # ragged: the reader says so
        return ()
    return shape[:1] if len(shape) == len(space.shape or ()) + 1 else ()


def observation_reader(space: Space[Any], name: str = "observation") -> Reader:
    """Return a function (observation, lead) -> float64 (*lead, n), for one observation or a batch.

    ``lead`` is () for one observation and (B,) for a batch. The function raises an InputError that names
    the part, what is wanted and what was given. Infinities and NaN pass. The result may share the
    observation's memory.

    Example:
        >>> observation_reader(Discrete(3, start=1))(2, ())
        array([0., 1., 0.])
    """
    if isinstance(space, Dict):
        return _dict_reader(space, name)
    return _discrete_reader(space, name) if isinstance(space, Discrete) else _box_reader(space, name)


def _box_reader(space: Space[Any], name: str) -> Reader:
    shape, size = space.shape or (), vector_length(space)

    def read(observation: Any, lead: tuple[int, ...]) -> np.ndarray:
        values = _array(observation, np.float64, name, shape)
        if values.shape != lead + shape:
            raise _misfit(name, f"the shape {lead + shape}", f"the shape {values.shape}")
        return values.reshape((*lead, size))

    return read


def _discrete_reader(space: Discrete, name: str) -> Reader:
    choices = np.arange(space.n) + space.start

    def read(observation: Any, lead: tuple[int, ...]) -> np.ndarray:
        values = _array(observation, None, name, ())
        if values.shape != lead or values.dtype.kind not in "iu":
            raise _misfit(
                name, "one integer, shape ()", f"{values.dtype}, shape {values.shape}, batch {lead}"
            )
        if ((values < choices[0]) | (values > choices[-1])).any():
            raise _misfit(name, f"an integer from {choices[0]} to {choices[-1]}", f"{values}")
        return (choices == values[..., None]).astype(np.float64)

    return read


def _dict_reader(space: Dict, name: str) -> Reader:
    parts = {key: observation_reader(part, f"{name}[{key!r}]") for key, part in space.spaces.items()}

    def read(observation: Any, lead: tuple[int, ...]) -> np.ndarray:
        if not isinstance(observation, Mapping):
            raise _misfit(name, f"a dict with the keys {list(parts)}", f"{type(observation).__name__}")
        if observation.keys() != parts.keys():
            raise _misfit(name, f"the keys {list(parts)}", f"{list(observation)}")
        return np.concatenate([part(observation[key], lead) for key, part in parts.items()], axis=-1)

    return read


def _array(value: Any, dtype: type | None, name: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.asarray(value, dtype)
    except Exception as error:
        raise _misfit(name, f"numbers of shape {shape}", f"{type(value).__name__}: {error}") from error


def _misfit(name: str, wanted: str, given: str) -> InputError:
    return InputError(f"{name} must have {wanted}, got {given}.")


def native_action(space: Space[Any], action: np.ndarray) -> Any:
    """Return the agent's actions in the form that the environment takes.

    Args:
        space: the environment's action space.
        action: [-1, 1]^m float (..., m) for a Box, one-hot (..., n) for Discrete.

    Returns:
        For a Box (..., space.shape) of its dtype, scaled per dimension so that -1 and 1 give its bounds
        exactly; for Discrete the number of the choice, np.int64 or int64 (...).

    Raises:
        InputError: the last dimension is not m or n.

    Example:
        >>> native_action(Box(0, 10, (1,)), np.array([0.5]))
        array([7.5], dtype=float32)
        >>> native_action(Discrete(3, start=5), np.array([0, 0, 1]))
        np.int64(7)
    """
    action = np.asarray(action)
    if action.shape[-1:] != (vector_length(space),):
        raise InputError(f"action must have the shape (..., {vector_length(space)}), got {action.shape}.")
    return action_writer(space)(action.argmax(-1) if isinstance(space, Discrete) else action)


def action_writer(space: Space[Any]) -> Writer:
    """Return a function from actions in [-1, 1] (..., m), or numbers of choices from 0, to the space's own.

    Example:
        >>> action_writer(Box(-2, 2, (2, 1)))(np.array([[-1.0, 0.5]]))
        array([[[-2.],
                [ 1.]]], dtype=float32)
    """
    if isinstance(space, Discrete):
        start = np.int64(space.start)
        return lambda choice: choice + start
    assert isinstance(space, Box)
    return _box_writer(space)


def _box_writer(space: Box) -> Writer:
    # In float64, so that bounds of +-1 give the action itself.
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    centre, half_range = low / 2 + high / 2, high / 2 - low / 2
    shape, dtype = space.shape, space.dtype

    def scale(action: np.ndarray) -> np.ndarray:
        return (centre + half_range * action).astype(dtype).reshape(action.shape[:-1] + shape)

    def scale_exactly(action: np.ndarray) -> np.ndarray:
        inner = np.where(action >= 1, high, centre + half_range * action)
        return np.where(action <= -1, low, inner).astype(dtype).reshape(action.shape[:-1] + shape)

    ends = np.ones_like(low)
    meets_bounds = (scale(-ends) == space.low).all() and (scale(ends) == space.high).all()
    return scale if meets_bounds else scale_exactly
