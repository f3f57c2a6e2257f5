"""A user's callable that makes environments, called with care: in this process or in a worker.

Worker processes import this, and with it neither torch nor MuJoCo.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from uld_torchrl.config_images import PixelConfig
from uld_torchrl.envs.faults import one_line, place
from uld_torchrl.envs.images import stack_frames
from uld_torchrl.envs.lanes import Maker, custom_name
from uld_torchrl.errors import InputError

_KINDS = "a name such as 'dmc/cartpole-swingup', a gymnasium.Env, a gymnasium.vector.VectorEnv or a callable"


def maker_of(make: Any) -> Maker:
    """Return a user's callable as a maker whose failures are told to the user.

    Raises:
        InputError: it cannot be called without arguments.

    Example:
        >>> maker_of(lambda: gymnasium.make("CartPole-v1"))().action_space
        Discrete(2)
    """
    if not callable(make) or isinstance(make, str):
        raise InputError(f"env must be {_KINDS} without arguments, got {make!r}.")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise InputError(
            f"env: the callable {_label(make)} must take no arguments ({error}). Wrap it: "
            "lambda: make(your_argument)."
        ) from error
    except ValueError:  # some built-in callables have no signature
        pass
    return partial(_call, make)


def stacking(make: Maker, pixels: PixelConfig | None) -> Maker:
    """Return a maker of environments that observe stacks of frames if those of ``make`` observe images.

    Example:
        >>> stacking(lambda: gymnasium.make("CartPole-v1"), None)().observation_space.shape
        (4,)
    """
    return partial(_stacked, make, pixels)


def _stacked(make: Maker, pixels: PixelConfig | None) -> gymnasium.Env:
    env = make()
    return stack_frames(env, pixels, custom_name(env))


def _call(make: Callable[[], Any]) -> gymnasium.Env:
    try:
        env = make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"env: the callable {_label(make)} raised {type(error).__name__}: {one_line(error)} "
            f"({place(error)})."
        ) from error
    if isinstance(env, gymnasium.Env):
        return env
    kind = f"{type(env).__module__}.{type(env).__qualname__}"
    hint = "Pass a vector environment itself, not a callable." if isinstance(env, VectorEnv) else ""
    raise InputError(
        f"env: the callable {_label(make)} must return a gymnasium.Env, got {kind}. {hint}".rstrip()
    )


def _label(make: Any) -> str:
    return str(getattr(make, "__qualname__", None) or repr(make))
