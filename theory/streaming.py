r"""Features block by block, and least squares on a matrix that is never held whole.

A million rows of features are read in blocks of some thousand rows, in float64 whatever they are stored in
(float32, a file mapped into memory), so that nothing of the size of the features is formed beside them.
Least squares go block by block too: reflections take each block into the triangle of those before it ("tall
and skinny" QR: Demmel, Grigori, Hoemmen and Langou 2012). The normal equations are never formed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from scipy.linalg import lapack

from theory.checks import Array, Ints

BLOCK_ROWS = 8192  # some MB with 64 features: a block stays in the cache
REFLECTIONS = 32  # columns that LAPACK reflects at once

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class FeatureRows:
    r"""The features of a problem and the weights of its rows, in blocks.

    Attributes:
        table: (N, d), float32 or float64, in memory or mapped from a file; not copied.
        index: (n,), which of its rows are meant; None for all of them.
        mu: (n,), the weights.
        multiple: blocks have a multiple of so many rows, but for the last.

    Example:
        >>> rows = FeatureRows(np.ones((3, 2), dtype=np.float32), None, np.array([0.25, 0.25, 0.5]))
        >>> [rows.read(block).shape for block in rows.slices()]
        [(3, 2)]
    """

    table: Array
    index: Ints | None
    mu: Array
    multiple: int = 1

    def slices(self) -> Iterator[slice]:
        """Return the blocks of rows in order."""
        n, size = len(self.mu), max(1, BLOCK_ROWS // self.multiple) * self.multiple
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def read(self, rows: slice) -> Array:
        """Return the features of a block, (b, d), float64."""
        chosen = rows if self.index is None else self.index[rows]
        return np.asarray(self.table[chosen], dtype=np.float64)

    def root(self, rows: slice) -> Array:
        r"""Return :math:`\sqrt\mu` of a block, (b, 1)."""
        return np.asarray(np.sqrt(self.mu[rows])[:, None])

    def times(self, w: Array) -> Array:
        """Return ``Z w``, (n,) or (n, m)."""
        return np.concatenate([self.read(rows) @ w for rows in self.slices()])


class Triangle:
    """The triangular factor of a matrix and what its reflections make of right sides, block by block.

    Attributes:
        R: (min(n, k), k), after n rows.
        T: (min(n, k), m), the top of the reflected right sides: least squares on all rows are least squares
            with ``R`` and ``T``.

    Example:
        >>> triangle = Triangle()
        >>> triangle.add(np.array([[3.0]]), np.array([[1.0]]))
        >>> triangle.add(np.array([[4.0]]), np.array([[2.0]]))
        >>> round(float((triangle.T / triangle.R)[0, 0]), 9)  # (3 * 1 + 4 * 2) / (3 * 3 + 4 * 4)
        0.44
    """

    R: Array
    T: Array

    def __init__(self) -> None:
        self._rows = 0

    def add(self, block: Array, right: Array | None = None) -> None:
        """Take in (b, k) further rows and (b, m) right sides, the latter always or never."""
        if self._rows:
            block = np.concatenate([self.R, block])
            right = None if right is None else np.concatenate([self.T, right])
        self._rows += 1
        top = min(block.shape)
        if top == 0:  # no column: LAPACK refuses
            self.R = np.zeros((0, 0))
            return
        nb = min(REFLECTIONS, top)
        reflected, factors, _ = lapack.dgeqrt(nb, np.array(block, order="F"), overwrite_a=1)
        self.R = np.triu(reflected[:top])
        if right is not None:
            turned = np.array(right, order="F")
            self.T = lapack.dgemqrt(reflected[:, :top], factors, turned, trans="T", overwrite_c=1)[0][:top]


def triangle(blocks: Iterable[Array]) -> Array:
    """Return the triangular factor, (min(n, k), k), of a matrix given by blocks of rows.

    Example:
        >>> abs(triangle([np.array([[3.0]]), np.array([[4.0]])])).round(9).tolist()
        [[5.0]]
    """
    found = Triangle()
    for block in blocks:
        found.add(block)
    return found.R


def remembered(function: Callable[[Key], Result]) -> Callable[[Key], Result]:
    """Keep the result of a function of one immutable object for as long as the object lives.

    The result must not refer to the object, or neither would ever be freed.

    Example:
        >>> class Thing: ...
        >>> make, thing = remembered(lambda thing: []), Thing()
        >>> make(thing) is make(thing), make(thing) is make(Thing())
        (True, False)
    """
    kept: WeakKeyDictionary[Any, Result] = WeakKeyDictionary()

    @wraps(function)
    def lookup(thing: Key) -> Result:
        if thing not in kept:
            kept[thing] = function(thing)
        return kept[thing]

    return lookup
