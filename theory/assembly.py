r"""One pass over the rows of a problem: everything of size d by d that the theorems start from.

TD's matrices are sums over the rows (the route of LSTD); the linear model is least squares on the rows,
reduced by reflections to a triangle (no normal equations). Both read the same blocks and share nothing else,
so that each can check the other. The pass is made once for a problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from theory.checks import Array, frozen
from theory.problem import Problem
from theory.streaming import Triangle, remembered


@dataclass(frozen=True, eq=False)
class Assembled:
    r"""Sums over the rows and, apart from them, the triangle of least squares.

    Attributes:
        C: (d, d), :math:`Z^\top DZ`.
        X: (d, d), :math:`Z^\top DZ'`.
        b: (d,), :math:`Z^\top Dr`.
        R: (min(n, d), d), triangular factor of :math:`D^{1/2}Z=QR`.
        targets: (min(n, d), 1 + d), :math:`Q^\top D^{1/2}[r, Z']`.
        scale: (d,), D-norms of the features, 1 for a feature that is zero.
        next_norm: :math:`\|D^{1/2}Z'\|_F`.
    """

    C: Array
    X: Array
    b: Array
    R: Array
    targets: Array
    scale: Array
    next_norm: float


@remembered
def assemble(problem: Problem) -> Assembled:
    """Pass over the rows of a problem once.

    Example:
        >>> found = assemble(Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5))
        >>> found.C, found.X, abs(found.R * found.targets).round(9)
        (array([[2.5]]), array([[3.]]), array([[1.5, 3. ]]))
    """
    C, X, b = (np.zeros((problem.d, width)) for width in (problem.d, problem.d, 1))
    triangle, squares = Triangle(), 0.0
    for block in problem.blocks():
        rewards = problem.r[block.rows, None]
        by_mu = (block.Z * problem.mu[block.rows, None]).T
        C += by_mu @ block.Z
        X += by_mu @ block.Z_next
        b += by_mu @ rewards
        weighted_next = block.root * block.Z_next
        squares += float(np.vdot(weighted_next, weighted_next))
        triangle.add(block.root * block.Z, np.hstack([block.root * rewards, weighted_next]))
    norms = np.linalg.norm(triangle.R, axis=0)
    scale = np.where(norms > 0.0, norms, 1.0)
    return Assembled(
        C=frozen(C),
        X=frozen(X),
        b=frozen(b[:, 0]),
        R=frozen(triangle.R),
        targets=frozen(triangle.T),
        scale=frozen(scale),
        next_norm=float(np.sqrt(squares)),
    )
