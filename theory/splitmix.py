"""The splitmix64 generator, in integers: the same numbers on every machine and every NumPy.

NumPy may change the streams of its distributions between versions; MDPs and features that tests
and reports name by a seed must not change with it. Only uniform numbers are here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from theory.checks import Array, Ints, check_count
from theory.errors import InputError

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class SplitMix64:
    """A stream of 64-bit integers from a seed (Steele, Lea and Flood 2014).

    Raises:
        InputError: the seed is no whole number, negative, or has more than 64 bits.

    Example:
        >>> [hex(int(x)) for x in SplitMix64(0).bits(2)]
        ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """

    def __init__(self, seed: int) -> None:
        seed = check_count("seed", seed, least=0)
        if seed >= 2**64:
            raise InputError(f"seed must be from 0 to 2**64 - 1, got {seed}.")
        self._state = np.uint64(seed)

    def bits(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next ``count`` integers of 64 bits.

        Example:
            >>> SplitMix64(1).bits(3).dtype
            dtype('uint64')
        """
        with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
            z = self._state + GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
            self._state = self._state + GOLDEN * np.uint64(count)
            z = (z ^ (z >> np.uint64(30))) * FIRST
            z = (z ^ (z >> np.uint64(27))) * SECOND
            return np.asarray(z ^ (z >> np.uint64(31)))

    def uniform(self, *shape: int) -> Array:
        """Return numbers in [0, 1), multiples of 2**-53.

        Example:
            >>> SplitMix64(0).uniform(2).round(6)
            array([0.883311, 0.431528])
        """
        count = int(np.prod(shape, dtype=np.int64))
        return ((self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def subsets(self, count: int, size: int, limit: int) -> Ints:
        """Return ``count`` uniformly random subsets of range(limit), (count, size), by Floyd's method.

        Example:
            >>> SplitMix64(0).subsets(1, 3, 3).tolist()
            [[0, 1, 2]]
        """
        chosen = np.full((count, size), -1, dtype=np.int64)
        for column, top in enumerate(range(limit - size, limit)):
            draw = np.floor(self.uniform(count) * (top + 1)).astype(np.int64)
            taken = (chosen == draw[:, None]).any(axis=1)
            chosen[:, column] = np.where(taken, top, draw)
        return chosen
