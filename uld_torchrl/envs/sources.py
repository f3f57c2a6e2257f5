"""What a user may call an environment, and how one comes from it: names, objects, callables.

A source knows its makers, one for each lane, or it is a vector environment that steps its lanes itself.
Nothing is stepped here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from uld_torchrl.config_images import AtariConfig, PixelConfig
from uld_torchrl.envs.callables import maker_of, stacking
from uld_torchrl.envs.lanes import Maker, custom_name
from uld_torchrl.envs.registry import canonical_id, make_registered, registered_spec, warn_of_raw_game
from uld_torchrl.envs.silence import without_harmless_warnings
from uld_torchrl.errors import InputError

_LOG = logging.getLogger(__name__)

EnvLike: TypeAlias = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env]
"""A name, an environment, a vector environment, or a callable without arguments that makes one."""


@dataclass(frozen=True)
class Source:
    """Makers of the lanes; the name, if it is known before the first is made; whether they give objects."""

    makers: Sequence[Maker]
    name: str | None = None
    given: bool = False


def env_name(env: EnvLike) -> str:
    """Return the name of an environment: its canonical id, or ``custom/<class>`` for an object.

    A callable is called once, and what it makes is closed again. A SyncVectorEnv or AsyncVectorEnv has
    the name of its first environment.

    Raises:
        InputError: ``env`` is of another kind, or its callable fails.

    Example:
        >>> env_name("CartPole-v1"), env_name(gymnasium.make("CartPole-v1"))
        ('gym/CartPole-v1', 'custom/CartPoleEnv')
    """
    return describe_env(env)[0]


def describe_env(env: EnvLike) -> tuple[str, list[str]]:
    """Return the name of an environment and, of an object, the classes it is made of, wrappers first.

    Raises:
        InputError: ``env`` is of another kind, or its callable fails.

    Example:
        >>> describe_env(lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 9))
        ('custom/CartPoleEnv', ['gymnasium...TimeLimit', 'gymnasium...CartPoleEnv'])
    """
    if isinstance(env, str):
        return canonical_id(env), []
    if isinstance(env, VectorEnv):
        return _describe_vector(env)
    if isinstance(env, gymnasium.Env):
        return custom_name(env), _layers(env)
    made = maker_of(env)()
    made.close()
    return custom_name(made), _layers(made)


def _describe_vector(env: VectorEnv) -> tuple[str, list[str]]:
    inner = env.unwrapped
    if isinstance(inner, SyncVectorEnv):
        name, layers = describe_env(inner.envs[0])
    elif isinstance(inner, AsyncVectorEnv):
        name, layers = describe_env(inner.env_fns[0])
    else:
        return custom_name(inner), _layers(env)
    return name, layers if is_plain_vector(env) else [*_layers(env), *layers]


def _layers(env: Any) -> list[str]:
    layers = [f"{type(env).__module__}.{type(env).__qualname__}"]
    while (env := vars(env).get("env")) is not None:
        layers.append(f"{type(env).__module__}.{type(env).__qualname__}")
    return layers


def copy_env(env: EnvLike) -> EnvLike:
    """Return what to build another environment of the same kind from, such as one for evaluation.

    Names and callables come back as they are; of a SyncVectorEnv or AsyncVectorEnv its first callable;
    any other object as a deep copy.

    Raises:
        InputError: the object cannot be copied.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> copy_env(env) is env, copy_env("CartPole-v1")
        (False, 'CartPole-v1')
    """
    if is_plain_vector(env):
        return env.env_fns[0]  # type: ignore[union-attr]
    return deep_copy(env) if isinstance(env, (gymnasium.Env, VectorEnv)) else env


def is_plain_vector(env: EnvLike) -> bool:
    """Return whether ``env`` is Gymnasium's SyncVectorEnv or AsyncVectorEnv itself, without wrappers.

    Example:
        >>> is_plain_vector(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")]))
        True
    """
    return type(env) in (SyncVectorEnv, AsyncVectorEnv)


def deep_copy(env: Any) -> Any:
    """Return an independent copy of an environment.

    Raises:
        InputError: it holds something that cannot be copied.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> deep_copy(env).unwrapped is env.unwrapped
        False
    """
    if isinstance(env.unwrapped, EzPickle):
        _LOG.warning(
            "%s is copied by making it again with its arguments: what was changed in it since then is not in "
            "the copy. Pass a callable that makes it as you want it.",
            custom_name(env),
        )
    try:
        with without_harmless_warnings():
            return copy.deepcopy(env)
    except Exception as error:
        raise InputError(
            f"env: {custom_name(env)} cannot be copied ({type(error).__name__}: {error}). For several "
            "environments pass a callable that makes it; for evaluation a callable, or eval_env=."
        ) from error


def find_source(
    env: EnvLike,
    num_envs: int | None,
    render: bool,
    pixels: PixelConfig | None = None,
    atari: AtariConfig | None = None,
) -> Source:
    """Return the makers of ``num_envs`` lanes (None: 1, or as many as a SyncVectorEnv has).

    What they make observes stacks of frames where it observes images, see ``images.py``.

    Raises:
        InputError: ``env`` is of no known kind, or the number does not fit.

    Example:
        >>> len(find_source("CartPole-v1", 3, False).makers)
        3
    """
    if isinstance(env, str) and env:
        name = canonical_id(env)
        warn_of_raw_game(name)
        make = partial(make_registered, name, render, registered_spec(name), pixels, atari)
        return Source([make] * (num_envs or 1), name)
    if is_plain_vector(env):
        check_number(num_envs, env)  # type: ignore[arg-type]
        _warn_of_raw_games(env.spec)  # type: ignore[union-attr]
        return Source([stacking(maker_of(make), pixels) for make in env.env_fns])  # type: ignore[union-attr]
    if isinstance(env, gymnasium.Env):
        copies = [deep_copy(env) for _ in range((num_envs or 1) - 1)]
        makers = [stacking(partial(_same, each), pixels) for each in (env, *copies)]
        return Source(makers, custom_name(env), given=True)
    return Source([stacking(maker_of(env), pixels)] * (num_envs or 1))


def _warn_of_raw_games(spec: EnvSpec | None) -> None:
    """Warn of a raw game made by ``make_vec``; the wrappers that it was given may be the preprocessing."""
    if spec is not None and not spec.kwargs.get("wrappers"):
        warn_of_raw_game(f"gym/{spec.id}")


def check_number(num_envs: int | None, env: VectorEnv) -> None:
    """Refuse a number of lanes that is not the vector environment's own.

    Raises:
        InputError: it is another one.

    Example:
        >>> check_number(None, gymnasium.make_vec("CartPole-v1", 2))
    """
    if num_envs not in (None, env.num_envs):
        raise InputError(
            f"num_envs must be {env.num_envs}, the vector environment's own number, or left out; got "
            f"{num_envs}."
        )


def _same(env: gymnasium.Env) -> gymnasium.Env:
    return env
