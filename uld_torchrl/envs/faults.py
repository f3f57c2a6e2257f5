"""What an environment gives at run time, looked at before it is used: faults with lane, value and cure.

Here: exceptions, rewards, flags and numbers that are not finite. Shapes and keys are compared where they
are read, in ``spaces.py``. Nothing here touches torch: worker processes import it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space

from uld_torchrl.envs.rendering import renderer_needed
from uld_torchrl.envs.spaces import LIMIT, entry_names
from uld_torchrl.errors import EnvironmentFault, InputError

_NUMBERS = frozenset({float, np.float64, np.float32})
_FLAGS = frozenset({bool, np.bool_})
_FINITE = "It must be finite and within the range of float32. Mend the environment, or clip the value there."


@dataclass(frozen=True)
class Where:
    """An environment by its name, and the lane, if it is one of a known number.

    Example:
        >>> str(Where("custom/Maze", 2)), str(Where("custom/Maze"))
        ('custom/Maze, lane 2', 'custom/Maze')
    """

    name: str
    lane: int | None = None

    def __str__(self) -> str:
        return self.name if self.lane is None else f"{self.name}, lane {self.lane}"

    def fault(self, what: str) -> EnvironmentFault:
        """Return the fault that befell it.

        Example:
            >>> Where("custom/Maze", 2).fault("it is gone.").lanes
            (2,)
        """
        return EnvironmentFault(f"{self}: {what}", () if self.lane is None else (self.lane,))


def place(error: BaseException) -> str:
    """Return the file and line where an exception was raised, as ``file.py:12``.

    Example:
        >>> place(ValueError("never raised"))
        'unknown place'
    """
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"


def one_line(error: BaseException) -> str:
    r"""Return an exception's message with its line breaks and runs of spaces made single spaces.

    Example:
        >>> one_line(ValueError("first\n  second"))
        'first second'
    """
    return " ".join(str(error).split())


def raised(where: Where, call: str, error: Exception) -> EnvironmentFault:
    """Return the fault for an exception that ``call``, such as ``step()``, has raised.

    Example:
        >>> raised(Where("custom/Maze", 0), "step()", KeyError("wall"))
        EnvironmentFault("custom/Maze, lane 0: step() raised KeyError: 'wall' (unknown place). ...
    """
    return where.fault(
        f"{call} raised {type(error).__name__}: {one_line(error)} ({place(error)}). Mend "
        "the environment, and try it on its own with actions drawn from its action_space."
    )


def misbehaved(where: Where, call: str, what: object) -> EnvironmentFault:
    """Return the fault for a result of ``call`` that breaks what the environment's spaces promise.

    Example:
        >>> misbehaved(Where("custom/Maze", 0), "step()", "it returned None.")
        EnvironmentFault('custom/Maze, lane 0: in the result of step(), it returned None.')
    """
    return where.fault(f"in the result of {call}, {what}")


def not_made(where: Where, error: Exception) -> EnvironmentFault:
    """Return the fault for an environment that could not be made anew after an earlier one.

    Example:
        >>> not_made(Where("custom/Maze", 0), OSError("port in use"))
        EnvironmentFault('custom/Maze, lane 0: making it anew raised OSError: port in use (unknown place).')
    """
    return where.fault(f"making it anew raised {type(error).__name__}: {one_line(error)} ({place(error)}).")


def number(value: Any, where: Where) -> float:
    """Return a reward as a float.

    Raises:
        EnvironmentFault: it is no number, or several.

    Example:
        >>> number(np.array([1.5]), Where("custom/Maze", 0))
        1.5
    """
    if type(value) in _NUMBERS:
        return value
    array = _plain(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiub":
        raise misbehaved(where, "step()", f"the reward is {_short(value)}; it must be one number.")
    return float(array.reshape(()))


def flag(value: Any, name: str, where: Where) -> bool:
    """Return ``terminated`` or ``truncated`` as a bool; 0 and 1 will do.

    Raises:
        EnvironmentFault: it is anything else.

    Example:
        >>> flag(np.array([True]), "terminated", Where("custom/Maze", 0))
        True
    """
    if type(value) in _FLAGS:
        return value
    array = _plain(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biu" or array.reshape(()) not in (0, 1):
        raise misbehaved(where, "step()", f"{name} is {_short(value)}; it must be True or False.")
    return bool(array.reshape(()))


def as_float32(rows: np.ndarray, space: Space[Any], where: Callable[[int], Where], call: str) -> np.ndarray:
    """Return observations [N, n] as float32.

    Args:
        rows: float64.
        space: of one observation, for the name of an entry.
        where: from the row to its lane.
        call: ``reset()`` or ``step()``.

    Raises:
        EnvironmentFault: a number is not finite, or too large for float32.

    Example:
        >>> from functools import partial
        >>> from gymnasium.spaces import Discrete
        >>> as_float32(np.array([[0.0, 1.0]]), Discrete(2), partial(Where, "custom/Maze"), "step()")
        array([[0., 1.]], dtype=float32)
    """
    fits = np.abs(rows) <= LIMIT
    if not fits.all():
        row, column = (int(index) for index in np.argwhere(~fits)[0])
        entry = entry_names(space)[column]
        raise misbehaved(where(row), call, f"{entry} is {rows[row, column]}. {_FINITE}")
    return rows.astype(np.float32)


def check_rewards(rewards: np.ndarray, where: Callable[[int], Where]) -> None:
    """Refuse rewards [N] that are not finite or too large for float32.

    Raises:
        EnvironmentFault: there is one.

    Example:
        >>> from functools import partial
        >>> check_rewards(np.array([0.0, np.inf]), partial(Where, "custom/Maze"))
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.EnvironmentFault: custom/Maze, lane 1: in the result of step(), the reward is ...
    """
    fits = np.abs(rewards) <= LIMIT
    if not fits.all():
        row = int(np.argmin(fits))
        raise misbehaved(where(row), "step()", f"the reward is {rewards[row]}. {_FINITE}")


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Turn what fails in drawing the environment ``name`` into an error that says how to mend it.

    Raises:
        InputError: no renderer, or a package that draws is missing.
        EnvironmentFault: anything else.

    Example:
        >>> with drawing("gym/CartPole-v1"):
        ...     raise gymnasium.error.DependencyNotInstalled("pip install pygame")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: gym/CartPole-v1 cannot be drawn: pip install pygame.
    """
    try:
        with renderer_needed():
            yield
    except InputError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(f"{name} cannot be drawn: {error}.") from error
    except Exception as error:
        raise raised(Where(name), "render()", error) from error


def _plain(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:97]}..."
