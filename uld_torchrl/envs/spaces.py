"""Bring one Gymnasium environment to the package's form, below TorchRL.

Actions: [-1, 1] float32, scaled per dimension, or a choice of n. Observations: one flat float32 vector.
Gymnasium's own wrappers do this on numpy arrays for a few microseconds a step; the same as TorchRL
transforms (scaling, casting, concatenation) costs some 40 microseconds for each of them.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.wrappers import TransformAction, TransformObservation

from uld_torchrl.errors import InputError


def normalise_spaces(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    """Wrap ``env``: float32 vector observations, actions in [-1, 1] or ``Discrete(n)`` from 0.

    Raises:
        InputError: a space of another kind, or an action without bounds.

    Example:
        >>> normalise_spaces(gymnasium.make("Pendulum-v1"), "gym/Pendulum-v1").action_space
        Box(-1.0, 1.0, (1,), float32)
    """
    return _scale_action(_flatten_observation(env, env_id), env_id)


def _flatten_observation(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) > 1 or 0 in space.shape:
        raise InputError(
            f"{env_id} has the observation space {_name(space)}, which is not supported yet; supported are "
            "vectors, a Box of shape (n,). Register an environment that flattens its observation, for "
            "example with gymnasium.wrappers.FlattenObservation."
        )
    flat = Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32)
    return TransformObservation(env, lambda observation: np.array(observation, np.float32, ndmin=1), flat)


def _scale_action(env: gymnasium.Env, env_id: str) -> gymnasium.Env:
    space = env.action_space
    if isinstance(space, Discrete):
        return _count_from_zero(env, space)
    if not isinstance(space, Box) or space.dtype.kind != "f" or 0 in space.shape:
        raise InputError(
            f"{env_id} has the action space {_name(space)}, which is not supported; supported are a Box of "
            "floats and Discrete."
        )
    if not space.is_bounded() or not (space.low < space.high).all():
        raise InputError(
            f"{env_id} has the action space {_name(space)}: every dimension needs a finite lower bound below "
            "a finite upper bound, since actions in [-1, 1] are scaled to them. Register an environment with "
            "bounds, for example with gymnasium.wrappers.TransformAction."
        )
    return _from_unit_interval(env, space)


def _from_unit_interval(env: gymnasium.Env, space: Box) -> gymnasium.Env:
    # In float64, so that -1 and 1 give the bounds themselves and bounds of +-1 the action itself.
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    centre, half_range = (low + high) / 2, (high - low) / 2

    def scale(action: np.ndarray) -> np.ndarray:
        return (centre + half_range * action.reshape(space.shape)).astype(space.dtype)

    return TransformAction(env, scale, Box(-1.0, 1.0, (int(np.prod(space.shape)),), np.float32))


def _count_from_zero(env: gymnasium.Env, space: Discrete) -> gymnasium.Env:
    # TorchRL's one-hot encoding counts from 0 and knows nothing of a start.
    if space.start == 0:
        return env
    return TransformAction(env, lambda action: action + space.start, Discrete(space.n))


def _name(space: Space[Any]) -> str:
    text = str(space)
    return text if len(text) < 200 else f"{type(space).__name__} of shape {space.shape}"
