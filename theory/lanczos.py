"""The largest eigenvalue of a symmetric operator that is only ever multiplied with vectors.

Lanczos' iteration, orthogonalised in full and restarted from its better half, with a limit on the products.
It says when it has not converged; what it then has is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from theory.checks import Array

SUBSPACE = 20  # vectors that are kept
CONVERGED = 1e-8  # residual over eigenvalue; the eigenvalue is off by its square over the gap
MOST_WORK = 2e9  # multiplications and additions altogether
FEWEST_PRODUCTS = 20
MOST_PRODUCTS = 2000


@dataclass(frozen=True, eq=False)
class TopEigenvalue:
    """What Lanczos' iteration found.

    Attributes:
        value: never above the largest eigenvalue, but for rounding.
        vector: (n,), of norm one.
        residual: norm of (operator - value) times vector; some eigenvalue is as near as this to ``value``.
        products: with how many vectors the operator was multiplied.
        converged: whether the residual is small enough.
    """

    value: float
    vector: Array
    residual: float
    products: int
    converged: bool


def top_eigenvalue(product: Callable[[Array], Array], start: Array, most_products: int) -> TopEigenvalue:
    """Return the largest eigenvalue of a symmetric operator, as far as so many products show it.

    The restart keeps half of the vectors (thick restart: Wu and Simon 2000).

    Args:
        product: takes (n,) to (n,).
        start: (n,), with a part along the eigenvector; of a non-negative operator, positive.
        most_products: at least 1.

    Example:
        >>> found = top_eigenvalue(lambda x: np.array([1.0, 3.0]) * x, np.ones(2), 10)
        >>> round(found.value, 9), found.converged
        (3.0, True)
    """
    most = min(SUBSPACE, len(start))
    basis, projected, j = np.empty((most, len(start))), np.zeros((most, most)), 0
    basis[0] = start / np.linalg.norm(start)
    products = 0
    while True:
        y = product(basis[j])
        products += 1
        along = basis[: j + 1] @ y
        projected[: j + 1, j] = projected[j, : j + 1] = along
        y = y - along @ basis[: j + 1]
        y -= (basis[: j + 1] @ y) @ basis[: j + 1]  # once is not enough in floating point
        size = float(np.linalg.norm(y))
        values, vectors = np.linalg.eigh(projected[: j + 1, : j + 1])
        residual = size * abs(float(vectors[-1, -1]))
        converged = residual <= CONVERGED * abs(float(values[-1]))
        if converged or products >= most_products:
            break
        if j + 1 == most:  # go on with the better half
            j = most // 2 - 1
            basis[: j + 1] = vectors[:, -j - 1 :].T @ basis
            projected = np.diag(np.concatenate([values[-j - 1 :], np.zeros(most - j - 1)]))
        j += 1
        basis[j] = y / size
    x = vectors[:, -1] @ basis[: len(vectors)]
    return TopEigenvalue(float(values[-1]), x / np.linalg.norm(x), residual, products, converged)


def affordable_products(cost: int) -> int:
    """Return how many products, each of so many multiplications, are made at most.

    Example:
        >>> affordable_products(10**3), affordable_products(10**7), affordable_products(10**10)
        (2000, 200, 20)
    """
    return int(np.clip(MOST_WORK / max(cost, 1), FEWEST_PRODUCTS, MOST_PRODUCTS))
