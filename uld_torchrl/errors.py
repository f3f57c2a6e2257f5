"""Bad input: the exceptions of the command line, and nearest-name suggestions.

:class:`InputError` is a ``ValueError`` whose message is written for the user: the argument, the
value given, what is allowed, how to fix it. The command line prints it and exits with code 2.
:class:`EnvironmentFault` is the same for an environment that misbehaves while it runs, :class:`NonFinite`
for a loss, gradient or batch that holds NaN or infinity.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """A value given by the user is not usable; the message says which, and what is allowed.

    Example:
        >>> raise InputError("num_envs must be greater than zero, got 0.")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: num_envs must be greater than zero, got 0.
    """


class EnvironmentFault(InputError):
    """An environment misbehaved while running; the message says which lane, what and how to mend it.

    ``lanes`` are those that it befell, as far as that is known.

    Example:
        >>> raise EnvironmentFault("custom/Maze, lane 0: step() returned the reward nan.")
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.EnvironmentFault: custom/Maze, lane 0: step() returned the reward nan.
    """

    def __init__(self, message: str, lanes: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.lanes = tuple(lanes)


class NonFinite(InputError):
    """A loss, gradient or batch is not finite; nothing was learned from it.

    Args:
        message: which, and what to do.
        report: the same for programs; JSON can hold it.

    Example:
        >>> raise NonFinite("the loss of the value is nan in update 31.", {"part": "value"})
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.NonFinite: the loss of the value is nan in update 31.
    """

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` of the known names that resemble ``name``, best first.

    Example:
        >>> nearest("cartpol", ["cartpole", "walker"])
        ['cartpole']
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)
    return [by_lower[match] for match in found]


def check_seed(seed: int) -> int:
    """Return ``seed`` if every random generator in use takes it.

    Raises:
        InputError: it is negative or has more than 32 bits.

    Example:
        >>> check_seed(7)
        7
    """
    try:
        if 0 <= operator.index(seed) < 2**32:
            return operator.index(seed)
    except TypeError:
        pass
    raise InputError(f"seed must be an integer from 0 to {2**32 - 1}, got {seed!r}.")


def check_name(argument: str, name: str) -> str:
    """Return ``name`` if a file or folder of any system may be called so.

    Raises:
        InputError: it may not.

    Example:
        >>> check_name("name", "small-2")
        'small-2'
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    raise InputError(
        f"{argument} must consist of letters, digits, '.', '_' and '-' (at most 100), got {name!r}."
    )


def one_of(argument: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        InputError: it is not; the message names the argument, the value and the allowed set.

    Example:
        >>> one_of("preset", "mrq", ("uld", "mrq"))
        'mrq'
    """
    allowed = list(allowed)
    if value in allowed:
        return value
    raise InputError(f"{argument} must be one of {', '.join(allowed)}; got {value!r}.")


def flag(argument: str, value: bool) -> bool:
    """Return ``value`` if it is True or False; of a word such as "false" the truth would be another.

    Raises:
        InputError: it is neither.

    Example:
        >>> flag("unroll", False)
        False
    """
    if isinstance(value, bool):
        return value
    raise InputError(f"{argument} must be True or False, got {value!r}.")


def check_kinds(config: Any) -> None:
    """Refuse settings of another kind than their field: words, switches for numbers, fractions for integers.

    Args:
        config: a dataclass whose annotations are strings (``from __future__ import annotations``).

    Raises:
        InputError: one is.

    Example:
        >>> from uld_torchrl.config import ReplayConfig
        >>> ReplayConfig(capacity=1.5)
        Traceback (most recent call last):
        ...
        uld_torchrl.errors.InputError: capacity must be an integer, got 1.5.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type == "bool":
            flag(field.name, value)
        if field.type in ("int", "float") and (isinstance(value, bool) or not isinstance(value, Real)):
            raise InputError(f"{field.name} must be a number, got {value!r}.")
        if field.type == "int" and not isinstance(value, Integral):
            raise InputError(f"{field.name} must be an integer, got {value!r}.")


def check_positive(config: Any, *names: str) -> None:
    """Refuse settings that are not greater than zero, or infinite.

    Raises:
        InputError: one is not.

    Example:
        >>> import types
        >>> check_positive(types.SimpleNamespace(size=3), "size")
    """
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise InputError(f"{name} must be greater than zero, got {value}.")
        _check_finite(name, value)


def check_non_negative(config: Any, *names: str) -> None:
    """Refuse settings below zero, or infinite.

    Raises:
        InputError: one is.

    Example:
        >>> import types
        >>> check_non_negative(types.SimpleNamespace(decay=0.0), "decay")
    """
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise InputError(f"{name} must not be negative, got {value}.")
        _check_finite(name, value)


def _check_finite(name: str, value: float) -> None:
    if value == math.inf:
        raise InputError(f"{name} must be finite, got {value}.")
