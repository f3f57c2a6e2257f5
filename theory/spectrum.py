"""On which side of a boundary the eigenvalues of a matrix lie, when rounding may decide.

An eigenvalue is *on* the boundary if some matrix within rounding distance has an eigenvalue there: if the
smallest singular value of ``matrix - point * I`` is below the tolerance at the nearest boundary point. This
is sharper than multiplying the distance by the condition number of the eigenvectors, which calls every
defective matrix undecided, however far from the boundary it is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eig

from theory.checks import EPS, Array

Complex = NDArray[np.complex128]
Sides = NDArray[np.int64]
NEAREST = 8  # so many eigenvalues closest to the boundary are examined; each costs one SVD


def sides_of_circle(matrix: Array, size: float = 1.0) -> tuple[Complex, Sides]:
    """Return the eigenvalues and, for each, 1 inside the unit circle, 0 on it within rounding, -1 outside.

    ``size`` is that of the numbers that the matrix was computed from, if they are larger than it and 1.

    Example:
        >>> sides_of_circle(np.diag([0.5, -1.0, 1.2]))[1].tolist()
        [1, 0, -1]
    """
    values, separation = _eigenvalues(matrix)
    points = np.exp(1j * np.angle(values)).astype(np.complex128)
    scale = max(1.0, size, spectral_norm(matrix))
    return values, _sides(matrix, 1.0 - np.abs(values), separation, points, scale)


def sides_of_axis(matrix: Array, scale: float) -> tuple[Complex, Sides]:
    """Return the eigenvalues and, for each, 1 right of the imaginary axis, 0 on it within rounding, -1 left.

    ``scale`` is the size of the numbers that the matrix was computed from, which may be much larger than it.

    Example:
        >>> sides_of_axis(np.array([[0.0, 1.0], [-1.0, 0.0]]), 1.0)[1].tolist()
        [0, 0]
    """
    values, separation = _eigenvalues(matrix)
    points = (1j * values.imag).astype(np.complex128)
    return values, _sides(matrix, values.real, separation, points, scale)


def spectral_norm(matrix: Array) -> float:
    """Return the largest singular value, 0 for an empty matrix.

    Example:
        >>> spectral_norm(np.zeros((0, 0)))
        0.0
    """
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0


def rounding(size: int, scale: float) -> float:
    """Return the largest change of a matrix of that size and scale that is put down to rounding.

    Example:
        >>> rounding(1, 1.0) == 64 * EPS
        True
    """
    return 64.0 * max(size, 1) * EPS * scale


def _eigenvalues(matrix: Array) -> tuple[Complex, Array]:
    """Return the eigenvalues and, for each, the cosine between its left and right eigenvector.

    Rounding moves a simple eigenvalue by its own size over that cosine.
    """
    if not matrix.size:
        return np.zeros(0, dtype=np.complex128), np.zeros(0)
    # LAPACK's own scaling goes wrong where numbers leave 1e-146 to 1e138; a power of two changes no digit.
    unit = 2.0 ** math.frexp(float(np.abs(matrix).max()))[1]
    values, left, right = eig(matrix / unit, left=True, right=True)
    return values.astype(np.complex128) * unit, np.abs(np.sum(left.conj() * right, axis=0))


def _sides(matrix: Array, distances: Array, separation: Array, points: Complex, scale: float) -> Sides:
    """Return the sides; ``points`` are the boundary points nearest to the eigenvalues.

    On the boundary takes both: the matrix is nearly singular there, and it is this eigenvalue that rounding
    may have moved away from it, not another one at the same point.
    """
    sides = np.where(distances > 0.0, 1, -1)
    tolerance = rounding(len(matrix), scale)
    sides[np.abs(distances) <= tolerance] = 0
    for j in np.argsort(np.abs(distances))[:NEAREST]:
        shifted = matrix - points[j] * np.eye(len(matrix))
        least = np.linalg.svd(shifted, compute_uv=False)[-1]
        if max(least, abs(distances[j]) * separation[j]) <= tolerance:
            sides[j] = 0
    return sides
