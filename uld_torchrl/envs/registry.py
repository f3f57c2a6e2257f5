"""Environments by name: ``gym/<Gymnasium id>`` and ``dmc/<domain>-<task>``, also in their published forms.

Here: names, what is said about unknown ones, and silence where a warning helps nobody. Environments that a
user passes as objects are in ``sources.py``. Worker processes import this without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import EnvSpec

from uld_torchrl.envs.faults import place
from uld_torchrl.envs.rendering import renderer_needed, require_renderer
from uld_torchrl.envs.silence import without_harmless_warnings
from uld_torchrl.errors import InputError, nearest

_LATER = ("dmc-pixels", "atari", "tabular")
_FAMILIES = ("gym", "dmc", "custom", *_LATER)
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
    return env_id if env_id.partition("/")[0] in _FAMILIES else f"gym/{env_id}"


def registered_spec(env_id: str) -> EnvSpec | None:
    """Return what is registered here under a name, for workers that have not run the user's registrations.

    Example:
        >>> registered_spec("gym/CartPole-v1").max_episode_steps
        500
    """
    return gymnasium.registry.get(env_id.removeprefix("gym/").rpartition(":")[2])


def make_registered(env_id: str, render: bool = False, spec: EnvSpec | None = None) -> gymnasium.Env:
    """Make one environment from its name in the form that :func:`canonical_id` gives.

    Args:
        env_id: the name.
        render: whether it will be drawn.
        spec: what to register under this name if nothing is.

    Raises:
        InputError: an unknown name (nearest names are given), a missing package or renderer.

    Example:
        >>> make_registered("gym/CartPole-v1").action_space
        Discrete(2)
    """
    family, _, name = env_id.partition("/")
    if family == "custom":
        raise InputError(
            f"env_id {env_id!r} is a name for an environment that was passed from Python, and cannot be made "
            "from the name. Pass the environment itself, or a callable that makes it."
        )
    if family in _LATER:
        raise InputError(f"env_id {env_id!r}: {family}/ environments are not supported yet in this version.")
    if spec is not None:
        gymnasium.registry.setdefault(spec.id, spec)
    with without_harmless_warnings():
        return _make_dmc(name) if family == "dmc" else _make_gym(name, render)


def _make_gym(name: str, render: bool) -> gymnasium.Env:
    registered = _import_namespace(name)
    if registered not in gymnasium.registry:
        raise _unknown("gym", registered, gymnasium.registry)
    try:
        # The checker is for an environment's author, and warns. Not every environment takes render_mode.
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        env = gymnasium.make(registered, disable_env_checker=True, **mode)
    except InputError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"gym/{name} cannot be made: {what} ({place(error)})") from error
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


def _make_dmc(name: str) -> gymnasium.Env:
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
