"""Bringing an environment back to where it was, in another process: its open episode is played again.

A tape holds the random state just before the episode's reset and the actions since. It is checked by what it
leads to, so it serves environments that nothing is known of, too: where they carry more than that (what a
wrapper learned, a generator of their own), the check fails, and the caller begins a new episode. Saving
MuJoCo's or the emulator's state instead would be quicker, but is not the whole state of a task.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np


@dataclass(frozen=True)
class LaneState:
    """Where one environment is.

    ``seed``: of its last seeded reset, None if there was none. ``before``: random state, as JSON, when the
    open episode was begun by a later reset, None if the seeded one began it. ``actions``: since then,
    [T, ...], in the agent's form. ``observation`` and ``after``: the last observation and the random state
    now, by which a replay is judged.

    Example:
        >>> LaneState(0, None, np.zeros((3, 1)), np.zeros(4), "{}").seed
        0
    """

    seed: int | None
    before: str | None
    actions: np.ndarray
    observation: np.ndarray
    after: str

    def to_dict(self) -> dict[str, Any]:
        """Return arrays and plain values, see :meth:`from_dict`."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LaneState:
        """Return what :meth:`to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it describes none.
        """
        return cls(
            None if data["seed"] is None else int(data["seed"]),
            None if data["before"] is None else str(data["before"]),
            np.asarray(data["actions"]),
            np.asarray(data["observation"]),
            str(data["after"]),
        )


def random_state(env: gymnasium.Env[Any, Any]) -> Any:
    """Return all that decides what chance does next in an environment, to be restored by the next function.

    An environment whose chance is not in ``np_random`` says what it is by methods ``get_random_state()`` and
    ``set_random_state(state)``; the state must be plain data (JSON). Of Atari games it is the emulator's.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> _ = env.reset(seed=0)
        >>> state = random_state(env)
        >>> first = env.reset()[0]
        >>> restore_random_state(env, state)
        >>> bool((env.reset()[0] == first).all())
        True
    """
    inner = env.unwrapped
    if hasattr(inner, "get_random_state"):
        return {"own": inner.get_random_state()}
    state: dict[str, Any] = {"numpy": inner.np_random.bit_generator.state}
    if hasattr(inner, "ale"):
        emulator = inner.ale.cloneState(include_rng=True).serialize()
        state["ale"] = base64.b64encode(emulator).decode()
    return state


def restore_random_state(env: gymnasium.Env[Any, Any], state: Any) -> None:
    """Set what :func:`random_state` returned; None changes nothing.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> restore_random_state(env, random_state(env))
    """
    inner = env.unwrapped
    if state is None:
        return
    if "own" in state:
        inner.set_random_state(state["own"])  # type: ignore[attr-defined]
        return
    inner.np_random.bit_generator.state = state["numpy"]
    if "ale" in state:
        # Only here: few machines have the emulator, and workers of other tasks do without it.
        from ale_py import ALEState

        inner.ale.restoreState(ALEState(base64.b64decode(state["ale"])))  # type: ignore[attr-defined]


class Tape:
    """The open episode of one environment.

    Example:
        >>> env = gymnasium.make("CartPole-v1")
        >>> tape = Tape(env)
        >>> tape.begins(seed=3)
        >>> first = env.reset(seed=3)[0]
        >>> tape.state(first).seed
        3
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        self._seed: int | None = None
        self._seeded = False
        self._before: Any = None
        self._actions: list[np.ndarray] = []

    def begins(self, seed: int | None) -> None:
        """Note an episode, just before ``reset(seed=seed)`` is called."""
        self._seeded = seed is not None
        if seed is not None:
            self._seed = seed
        else:
            self._before = known_random_state(self._env)
        self._actions = []

    def goes_on(self, action: np.ndarray) -> None:
        """Note an action."""
        self._actions.append(np.array(action))

    def state(self, observation: np.ndarray) -> LaneState:
        """Return where the environment is now; ``observation`` is its last one."""
        before = None if self._seeded else to_json(self._before)
        after = to_json(known_random_state(self._env))
        return LaneState(self._seed, before, np.array(self._actions), np.array(observation), after)


def known_random_state(env: gymnasium.Env[Any, Any]) -> Any:
    """Return :func:`random_state`, or None of an environment that does not show it.

    Example:
        >>> known_random_state(gymnasium.make("CartPole-v1")) is None
        False
    """
    try:
        return random_state(env)
    except Exception:  # a user's environment may hold any object under these names
        return None


@contextmanager
def unseen(env: gymnasium.Env[Any, Any], frames: int) -> Iterator[Callable[[int], None]]:
    """Let an environment that renders what it observes go without, until few enough actions are left.

    Args:
        env: any environment; of one that does not render nothing changes.
        frames: number of the last observations that are needed.

    Yields:
        What to call, before the reset and each step, with the number of observations still to come.

    Example:
        >>> with unseen(gymnasium.make("CartPole-v1"), 1) as left:
        ...     left(5)
    """
    cameras = [layer for layer in layers(env) if hasattr(layer, "skips_rendering")]

    def left(number: int) -> None:
        for camera in cameras:
            camera.skips_rendering = number > frames

    try:
        yield left
    finally:
        left(0)


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[Any]:
    """Yield an environment's wrappers, outermost first, and the environment itself.

    Example:
        >>> [type(layer).__name__ for layer in layers(gymnasium.make("CartPole-v1"))][-1]
        'CartPoleEnv'
    """
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def to_json(state: Any) -> str:
    """Return a random state as JSON; arrays become lists.

    Example:
        >>> to_json({"key": np.arange(2)})
        '{"key": [0, 1]}'
    """
    return json.dumps(state, default=lambda value: value.tolist())
