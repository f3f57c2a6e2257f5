"""Fractions from numbers: integers, fractions and strings unchanged, floats by the fraction they round.

A float such as 0.33333333333333337 was meant as 1/3. It is replaced only where a fraction with a
small denominator lies within a few units in the last place; any other float is taken as the exact
binary number it is, and so is every float that is to be audited. Every replacement is counted and
reported (:class:`Change`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from theory.errors import InputError

LARGEST_DENOMINATOR = 10_000
LARGEST_SNAPPED = 10_000  # beyond, so many fractions are this close that any float would have one
LONGEST_TEXT = 4000  # digits; Python writes no integer of more than 4300 unless told to
SNAP_ULPS = 8  # FrozenLake's thirds are one ulp off; sums of a few such entries a few more

ExactVector: TypeAlias = "list[Fraction]"
ExactMatrix: TypeAlias = "list[list[Fraction]]"


@dataclass(frozen=True)
class Change:
    """What was done to the floats of one input.

    Attributes:
        name: the input.
        entries: how many of its numbers were replaced.
        largest: the largest distance between a float and what stands for it.

    Example:
        >>> str(changed("gamma", [0.1], [Fraction(1, 10)]))
        'gamma: 1 number changed, by at most 5.6e-18'
    """

    name: str
    entries: int
    largest: Fraction

    def __str__(self) -> str:
        if not self.entries:
            return f"{self.name}: unchanged"
        noun = "number" if self.entries == 1 else "numbers"
        return f"{self.name}: {self.entries} {noun} changed, by at most {nearest_float(self.largest):.2g}"


def snap(number: float) -> Fraction:
    """Return the fraction with a denominator of at most 10000 that ``number`` rounds, else its exact value.

    The exact value is kept beyond 10000, and where the fraction would be 0 or 1: a discount just below one
    and a tiny probability are not the same problem as one and zero.

    Example:
        >>> snap(0.33333333333333337), snap(0.1), snap(2.0**-30) == Fraction(1, 2**30)
        (Fraction(1, 3), Fraction(1, 10), True)
    """
    exact = Fraction(number)
    simple = exact.limit_denominator(LARGEST_DENOMINATOR)
    near = abs(float(simple) - number) <= SNAP_ULPS * float(np.spacing(abs(number)))
    return simple if near and abs(number) <= LARGEST_SNAPPED and simple not in (0, 1) else exact


def normalised(row: Sequence[Fraction]) -> list[Fraction]:
    """Return the entries divided by their sum, which must not be zero.

    Example:
        >>> normalised([Fraction(1), Fraction(3)])
        [Fraction(1, 4), Fraction(3, 4)]
    """
    total = sum(row, Fraction(0))
    return [entry / total for entry in row]


def listed(name: str, value: Any) -> list[Any]:
    """Return a list of what is given in order; floats narrower than 64 bits keep their type.

    Raises:
        InputError: one number, text, a mapping or a set.

    Example:
        >>> listed("r", (1, "1/2")), listed("r", np.ones(1, dtype=np.float32))
        ([1, '1/2'], [np.float32(1.0)])
    """
    single = not isinstance(value, Iterable) or (isinstance(value, np.ndarray) and value.ndim == 0)
    if single or isinstance(value, str | Mapping | Set):
        raise InputError(f"{name} must be a list or an array, got {value!r}.")
    narrow = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float16)
    return list(value.tolist() if isinstance(value, np.ndarray) and not narrow else value)


def is_float(value: Any) -> bool:
    """Return whether a number was rounded to binary before it came here.

    Example:
        >>> is_float(0.5), is_float(np.float32(0.5)), is_float("0.5"), is_float(1)
        (True, True, False, False)
    """
    return isinstance(value, float | np.floating)


def as_fraction(name: str, value: Any, where: str = "") -> Fraction:
    """Return a number as a fraction: floats are snapped, everything else is taken as it is.

    Args:
        name: what the argument is called, for the message.
        value: an int, a Fraction, a string such as "1/3" or "0.95", or a float.
        where: the place of the entry in words, such as " at row 3".

    Raises:
        InputError: not a number, or not finite.

    Example:
        >>> as_fraction("gamma", "0.95"), as_fraction("gamma", 0.95), as_fraction("gamma", 1)
        (Fraction(19, 20), Fraction(19, 20), Fraction(1, 1))
    """
    try:
        if is_float(value):
            return snap(float(value))
        if isinstance(value, int | np.integer | Fraction | str) and not isinstance(value, bool):
            return Fraction(int(value) if isinstance(value, np.integer) else value)
    except (ValueError, OverflowError, ZeroDivisionError):
        pass
    raise InputError(
        f"{name} must hold finite numbers (int, float, Fraction, text such as '1/3'), got {value!r}{where}."
    )


def as_given(name: str, value: Any, where: str = "") -> Fraction:
    """Return a number that is to be audited as the fraction it is, a float at its exact binary value.

    Args:
        name: what the argument is called, for the message.
        value: as for :func:`as_fraction`.
        where: the place of the entry in words, such as " at row 3".

    Raises:
        InputError: not a number, or not finite.

    Example:
        >>> as_given("w", "1/10") == as_given("w", 0.1), as_given("w", 0.25)
        (False, Fraction(1, 4))
    """
    if is_float(value) and np.isfinite(value):
        return Fraction(float(value))
    return as_fraction(name, value, where)


def changed(name: str, given: Iterable[Any], exact: Iterable[Fraction]) -> Change:
    """Return how far the fractions are from the floats they stand for; other numbers count only if changed.

    Example:
        >>> changed("mu", [0.5, "1/3"], [Fraction(1, 2), Fraction(1, 3)]).entries
        0
    """
    pairs = zip(given, exact, strict=True)
    moved = [abs(Fraction(float(x)) - y) for x, y in pairs if is_float(x) and Fraction(float(x)) != y]
    return Change(name, len(moved), max(moved, default=Fraction(0)))


def nearest_float(number: Fraction) -> float:
    """Return the nearest float; infinite if there is none, never zero for what is not zero.

    Example:
        >>> nearest_float(Fraction(1, 10**400)) > 0.0, nearest_float(Fraction(10**400))
        (True, inf)
    """
    try:
        rounded = float(number)
    except OverflowError:
        rounded = np.inf if number > 0 else -np.inf
    if rounded == 0.0 and number != 0:
        return 5e-324 if number > 0 else -5e-324
    return rounded


def as_text(number: Fraction) -> str:
    """Return a fraction as text; one of thousands of digits as its nearest float, and this is said.

    Example:
        >>> as_text(Fraction(1, 3)), as_text(Fraction(1, 2**20000))
        ('1/3', 'about 4.9406564584124654e-324, a fraction of 6021 digits')
    """
    digits = round(max(abs(number.numerator), number.denominator).bit_length() * np.log10(2))
    if digits <= LONGEST_TEXT:
        return str(number)
    return f"about {nearest_float(number):.17g}, a fraction of {digits} digits"
