"""``make_env``: from an environment's name to a TorchRL environment of ``num_envs`` lanes.

Lanes run in Gymnasium's ``SyncVectorEnv`` under one TorchRL ``GymWrapper``: with one lane a step
costs three quarters of ``SerialEnv``'s, with four less than half, and no transforms are needed.
Names are here; what happens to one lane is in ``spaces.py`` and ``dmc.py``.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, GymWrapper, TransformedEnv

from uld_torchrl.envs.rendering import choose_renderer, renderer_needed, require_renderer
from uld_torchrl.envs.spaces import normalise_spaces
from uld_torchrl.errors import InputError, check_seed, nearest

_LOG = logging.getLogger(__name__)
_LATER = ("dmc-pixels", "atari", "tabular")
_PUBLISHED = {"Gym-": "gym/", "Dmc-": "dmc/", "Atari-": "atari/"}


def canonical_id(env_id: str) -> str:
    """Return the name in the form ``gym/...``, ``dmc/...``, also for published and bare Gymnasium names.

    Example:
        >>> [canonical_id(name) for name in ("CartPole-v1", "Gym-Ant-v4", "Dmc-walker-run")]
        ['gym/CartPole-v1', 'gym/Ant-v4', 'dmc/walker-run']
    """
    for published, family in _PUBLISHED.items():
        if env_id.startswith(published):
            return family + env_id.removeprefix(published)
    if env_id.partition("/")[0] in ("gym", "dmc", *_LATER):
        return env_id
    return f"gym/{env_id}"


def make_env(
    env_id: str,
    *,
    num_envs: int = 1,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    render: bool = False,
) -> EnvBase:
    """Make a TorchRL environment of batch size ``[num_envs]``, also when that is one.

    ``observation`` is float32 [num_envs, n]; ``action`` float32 [num_envs, m] in [-1, 1], scaled per
    dimension to the task's bounds, or one-hot int64. ``dmc/`` tasks repeat each action twice, last
    500 steps and are truncated, never terminated. Lane 0 takes ``seed`` itself, every other lane a seed
    drawn from it; ``set_seed`` does the same later on.

    Args:
        env_id: ``gym/<Gymnasium id>`` (or the bare id), ``dmc/<domain>-<task>``, or a published name.
        num_envs: number of lanes.
        seed: from 0 to 2**32 - 1; the same seed gives the same observations. None: not reproducible.
        device: where tensors are delivered; the simulation itself runs on the CPU.
        render: whether :func:`render_frame` will be called.

    Raises:
        InputError: an unknown name (nearest names are given), a space of an unsupported kind, a wrong
            number or seed, a missing package or renderer.

    Example:
        >>> env = make_env("CartPole-v1", num_envs=2, seed=0)
        >>> env.reset()["observation"].shape
        torch.Size([2, 4])
    """
    _check_arguments(env_id, num_envs, seed)
    choose_renderer()
    env_id = canonical_id(env_id)
    with _without_harmless_warnings():
        lanes = _Lanes([_lane_maker(env_id, render)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        env = _GymLanes(lanes, device=device)
        if seed is not None:
            env.set_seed(seed)
    if render:
        if seed is None:
            env.reset()
        render_frame(env)  # fails now rather than after an evaluation
    return env


def render_frame(env: EnvBase) -> np.ndarray:
    """Draw the first lane of an environment made with ``render=True``: uint8 [height, width, 3].

    Raises:
        InputError: no renderer, or the package that draws is missing; the message says how to get it.

    Example:
        >>> render_frame(make_env("dmc/cartpole-swingup", render=True)).shape  # doctest: +SKIP
        (480, 480, 3)
    """
    vector_env = (env.base_env if isinstance(env, TransformedEnv) else env)._env
    first = vector_env.envs[0]
    if first.render_mode != "rgb_array":
        raise InputError("render_frame needs an environment made with render=True.")
    try:
        with renderer_needed():
            return np.asarray(first.render())
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(f"{first.spec.id} cannot be drawn: {error}.") from error


class _Lanes(SyncVectorEnv):
    # Gymnasium's own rule, seed + lane, would make lane 1 of seed 0 the same as lane 0 of seed 1.
    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            others = np.random.SeedSequence(seed).generate_state(self.num_envs - 1)
            seed = [int(seed), *others.tolist()]
        return super().reset(seed=seed, options=options)


class _GymLanes(GymWrapper):
    # GymWrapper fails on reset(td) without a "_reset" mask, and on a mask that is not on the CPU.
    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        if tensordict is not None:
            tensordict = tensordict.select("_reset", strict=False).cpu()
            tensordict = None if tensordict.is_empty() else tensordict
        return super()._reset(tensordict, **kwargs)


def _check_arguments(env_id: str, num_envs: int, seed: int | None) -> None:
    if not isinstance(env_id, str) or not env_id:
        raise InputError(f"env_id must be a name such as 'dmc/cartpole-swingup', got {env_id!r}.")
    if num_envs < 1:
        raise InputError(f"num_envs must be greater than zero, got {num_envs}.")
    if seed is not None:
        check_seed(seed)


def _lane_maker(env_id: str, render: bool) -> Callable[[], gymnasium.Env]:
    family, _, name = env_id.partition("/")
    if family in _LATER:
        raise InputError(f"env_id {env_id!r}: {family}/ environments are not supported yet in this version.")
    make = _make_dmc if family == "dmc" else _make_gym
    return lambda: normalise_spaces(make(name, render), env_id)


def _make_gym(name: str, render: bool) -> gymnasium.Env:
    registered = _import_namespace(name)
    if registered not in gymnasium.registry:
        raise _unknown("gym", registered, gymnasium.registry)
    try:
        # The checker is for an environment's author, and warns. Not every environment takes render_mode.
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        env = gymnasium.make(registered, disable_env_checker=True, **mode)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise InputError(f"gym/{name} cannot be made: {error}") from error
    if render and "rgb_array" not in env.metadata.get("render_modes", ()):
        raise InputError(f"gym/{name} cannot be drawn: it does not offer render mode 'rgb_array'.")
    if render and isinstance(env.unwrapped, MujocoEnv):
        require_renderer()
    return env


def _import_namespace(name: str) -> str:
    # Gymnasium's form module:Id: importing the module registers the environment.
    module, colon, registered = name.rpartition(":")
    if not colon:
        return name
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"gym/{name}: module {module!r} cannot be imported: {error}.") from error
    return registered


def _make_dmc(name: str, render: bool) -> gymnasium.Env:
    # Not at the top: dm_control fixes its renderer while being imported, and fails there if it is broken.
    with renderer_needed():
        from uld_torchrl.envs.dmc import TASK_NAMES, DMControlTask
    if name not in TASK_NAMES:
        raise _unknown("dmc", name, TASK_NAMES)
    return DMControlTask(name)


def _unknown(family: str, name: str, known: Any) -> InputError:
    close = [f"{family}/{match}" for match in nearest(name, known)]
    kind = {"gym": "Gymnasium id", "dmc": "dm_control task"}[family]
    hint = (
        f"Did you mean {' or '.join(close)}?"
        if close
        else "Known are gym/<Gymnasium id> and dmc/<domain>-<task>."
    )
    return InputError(f"env_id {family}/{name} names no known {kind}. {hint}")


@contextmanager
def _without_harmless_warnings() -> Iterator[None]:
    """Silence what a user cannot act on, for as long as an environment is being made."""
    previous = mujoco.get_mju_user_warning()

    def forward(message: str) -> None:
        if "settotalmass" not in message:  # an attribute in Gymnasium's and dm_control's own model files
            (previous or _LOG.warning)(message)

    with warnings.catch_warnings():
        # The published tables use HalfCheetah-v4 and other -v4 tasks.
        warnings.filterwarnings("ignore", message=".*is out of date")
        warnings.filterwarnings("ignore", message=".*is not in the possible render_modes")
        mujoco.set_mju_user_warning(forward)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)
