"""Environments by name: ``gym/``, ``dmc/``, ``dmc-pixels/``, ``atari/``, ``tabular/``; published forms too.

Here: names, what is said about unknown ones, and silence where a warning helps nobody. Environments that a
user passes as objects are in ``sources.py``. Worker processes import this without torch.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import EnvSpec

from uld_torchrl.config_images import AtariConfig, PixelConfig
from uld_torchrl.envs.atari import frames_of_games, game_names, load_emulator, make_game
from uld_torchrl.envs.faults import place
from uld_torchrl.envs.images import stack_frames
from uld_torchrl.envs.rendering import renderer_needed, require_renderer
from uld_torchrl.envs.silence import without_harmless_warnings
from uld_torchrl.errors import InputError, nearest

_LOG = logging.getLogger(__name__)
_FAMILIES = ("gym", "dmc", "dmc-pixels", "atari", "tabular", "custom")
_KINDS = {
    "gym": "Gymnasium id",
    "dmc": "dm_control task",
    "dmc-pixels": "dm_control task",
    "atari": "Atari game",
}
_FORMS = (
    "gym/<Gymnasium id>",
    "dmc/<domain>-<task>",
    "dmc-pixels/<domain>-<task>",
    "atari/<Game>",
    "tabular/<name>",
)
_PUBLISHED = {
    "Gym-": "gym/",
    "Dmc-visual-": "dmc-pixels/",
    "Dmc-": "dmc/",
    "Atari-": "atari/",
    "gym/tabular/": "tabular/",
}


def canonical_id(env_id: str) -> str:
    """Return the name in the form ``gym/...``, ``dmc/...``, also for published and bare Gymnasium names.

    Example:
        >>> [canonical_id(name) for name in ("CartPole-v1", "Gym-Ant-v4", "Dmc-walker-run", "Atari-Pong-v5")]
        ['gym/CartPole-v1', 'gym/Ant-v4', 'dmc/walker-run', 'atari/Pong']
    """
    for published, family in _PUBLISHED.items():
        if env_id.startswith(published):
            env_id = family + env_id.removeprefix(published)
            break
    if env_id.startswith("atari/"):
        return env_id.removesuffix("-v5")
    if env_id.startswith("tabular/"):
        return env_id.replace(":", "-")
    return env_id if env_id.partition("/")[0] in _FAMILIES else f"gym/{env_id}"


def env_of_file(env_id: str, instead: str) -> str:
    """Return the name of an environment that a file gave, if making it imports no module of its choice.

    Args:
        env_id: the name.
        instead: how the user can give the name, which may then import.

    Raises:
        InputError: it is of the form ``module:Id``, and that module has not been imported.

    Example:
        >>> env_of_file("gym/CartPole-v1", "pass env=")
        'gym/CartPole-v1'
        >>> env_of_file("gym/antigravity:Env-v0", "pass env=")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: the environment gym/antigravity:Env-v0 would import the module ...
    """
    module, colon, _ = canonical_id(env_id).removeprefix("gym/").rpartition(":")
    if colon and module not in sys.modules:
        raise InputError(
            f"the environment {env_id} would import the module {module!r}, which a file alone must not do: "
            f"if you trust it, {instead}."
        )
    return env_id


def registered_spec(env_id: str) -> EnvSpec | None:
    """Return what is registered here under a name, for workers that have not run the user's registrations.

    Example:
        >>> registered_spec("gym/CartPole-v1").max_episode_steps
        500
    """
    return gymnasium.registry.get(env_id.removeprefix("gym/").rpartition(":")[2])


def make_registered(
    env_id: str,
    render: bool = False,
    spec: EnvSpec | None = None,
    pixels: PixelConfig | None = None,
    atari: AtariConfig | None = None,
) -> gymnasium.Env:
    """Make one environment from its name in the form that :func:`canonical_id` gives.

    Args:
        env_id: the name.
        render: whether it will be drawn.
        spec: what to register under this name if nothing is.
        pixels: how ``dmc-pixels/`` and Gymnasium's images are observed.
        atari: the protocol of ``atari/``.

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
    if spec is not None:
        gymnasium.registry.setdefault(spec.id, spec)
    pixels, atari = pixels or PixelConfig(), atari or AtariConfig()
    with without_harmless_warnings():
        if family == "atari":
            return stack_frames(_make_atari(name, atari, render), frames_of_games(atari), env_id)
        if family == "dmc-pixels":
            return stack_frames(_make_dmc(name, pixels), pixels, env_id)
        if family == "tabular":
            return _make_tabular(name, render)
        env = _make_dmc(name) if family == "dmc" else _make_gym(name, render)
    return stack_frames(env, pixels, env_id)


def warn_of_raw_game(env_id: str) -> None:
    """Log a warning for an Atari game by its Gymnasium id, which brings no preprocessing.

    Example:
        >>> warn_of_raw_game("gym/ALE/Pong-v5")
    """
    if env_id.startswith("gym/ALE/"):
        game = env_id.removeprefix("gym/ALE/").removesuffix("-v5")
        _LOG.warning(
            "%s is stepped as it is registered: colours, and none of the published preprocessing. For that "
            "use atari/%s.",
            env_id,
            game,
        )


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
    if registered.startswith("ALE/"):
        load_emulator(f"gym/{name}")
    if not colon:
        return name
    try:
        importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as error:  # the latter of names such as ".a" and ""
        raise InputError(f"gym/{name}: module {module!r} cannot be imported: {error}.") from error
    return registered


def _make_dmc(name: str, pixels: PixelConfig | None = None) -> gymnasium.Env:
    # Not at the top: dm_control fixes its renderer while being imported, and fails there if it is broken.
    with renderer_needed():
        from uld_torchrl.envs.dmc import TASK_NAMES, CameraObservation, DMControlTask
    if name not in TASK_NAMES:
        raise _unknown("dmc-pixels" if pixels else "dmc", name, TASK_NAMES)
    task = DMControlTask(name)
    return CameraObservation(task, pixels.frame_size) if pixels else task


def _make_atari(name: str, config: AtariConfig, render: bool) -> gymnasium.Env:
    load_emulator(f"atari/{name}")
    if name not in game_names():
        raise _unknown("atari", name, game_names())
    return make_game(name, config, render)


def _make_tabular(name: str, render: bool) -> gymnasium.Env:
    # Gymnasium has some in this namespace, and users may.
    if f"tabular/{name}" in gymnasium.registry and name != "mdp":
        return _make_gym(f"tabular/{name}", render)
    # Not at the top: nothing else here needs the theory package.
    from uld_torchrl.envs.tabular import make_named

    return make_named(name, render)


def _unknown(family: str, name: str, known: Any) -> InputError:
    close = [f"{family}/{match}" for match in nearest(name, known)]
    kind = _KINDS[family]
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known are {', '.join(_FORMS)}."
    return InputError(f"env_id {family}/{name} names no known {kind}. {hint}")
