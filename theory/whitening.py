r"""Coordinates in which every feature basis looks alike: orthonormal under the data weights.

Theorem 1 is a statement about :math:`R`, the row space of :math:`D^{1/2}Z`. :func:`whiten` finds an
orthonormal basis ``V`` of it, divides the columns of ``Z V`` by their D-norms and factors the result as
``Q R``. In the coordinates :math:`y = R\,\mathrm{diag}(s)V^\top w` the model's matrix is
:math:`M = Q^\top D^{1/2}P^\pi\tilde Z`, where :math:`\tilde Z` has D-orthonormal columns, and TD's matrix is
:math:`I-\gamma M`: how the features are scaled or how nearly they are parallel no longer matters.
This is the reference route of the numerical checks; the routes under test do not use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from theory.checks import Array
from theory.problem import Problem

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Whitened:
    r"""A problem in D-orthonormal coordinates of the row space of :math:`D^{1/2}Z`, of dimension k.

    Attributes:
        V: (d, k), orthonormal basis of the row space; the identity if k = d.
        N: (d, d - k), orthonormal basis of its complement.
        scale: (k,), D-norms of the columns of ``Z V``.
        F: (n, k), :math:`D^{1/2}ZV` with columns of norm one.
        Q: (n, k), orthonormal columns, F = Q R.
        R: (k, k), upper triangular.
        singular_values: (k,) of F, descending.
        gap: the smallest singular value kept over the largest dropped; infinite if none was dropped.
        M: (k, k), the model's matrix in these coordinates.
        c: (k,), :math:`Q^\top D^{1/2}r`, the model's reward vector in these coordinates.
    """

    V: Array
    N: Array
    scale: Array
    F: Array
    Q: Array
    R: Array
    singular_values: Array
    gap: float
    M: Array
    c: Array

    @property
    def rank(self) -> int:
        """The dimension k of the row space."""
        return len(self.scale)

    @property
    def condition(self) -> float:
        """Ratio of the largest to the smallest singular value of F."""
        return float(self.singular_values[0] / self.singular_values[-1]) if self.rank else 1.0

    def weights(self, y: Array) -> Array:
        """Return the feature weights w, (d,) or (d, m), whose whitened coordinates are ``y``."""
        scaled = (solve_triangular(self.R, y).T / self.scale).T
        return np.asarray(self.V @ scaled)


def whiten(problem: Problem) -> Whitened:
    """Return the problem in D-orthonormal coordinates of the row space of its weighted features.

    Singular values of the weighted, column-scaled features below ``max(n, d) * eps`` times the largest count
    as zero.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.9)
        >>> float(whiten(problem).M[0, 0].round(12))  # one feature: the model's matrix itself
        1.2
    """
    V, N, values, gap = _row_space(problem)
    root = np.sqrt(problem.mu)[:, None]
    # An identity V must not cost the last bits of Z.
    features = problem.Z if N.shape[1] == 0 else problem.Z @ V
    F, scale = unit_columns(root * features)
    Q, R = np.linalg.qr(F)
    flip = np.where(np.diag(R) < 0.0, -1.0, 1.0)
    Q, R = Q * flip, flip[:, None] * R
    tilde = _orthonormal_features(features / scale, Q, R, root)
    M = Q.T @ (root * np.asarray(problem.P_pi @ tilde))
    return Whitened(V, N, scale, F, Q, R, values, gap, M, Q.T @ (root[:, 0] * problem.r))


def unit_columns(matrix: Array) -> tuple[Array, Array]:
    """Return the matrix with columns of norm one, and their norms; a zero column stays, with norm one.

    Example:
        >>> unit_columns(np.array([[3.0, 0.0], [4.0, 0.0]]))[1]
        array([5., 1.])
    """
    norms = np.linalg.norm(matrix, axis=0)
    norms = np.where(norms > 0.0, norms, 1.0)
    return matrix / norms, norms


def orthonormal(columns: Array) -> Array:
    """Return an orthonormal basis of the span of independent columns.

    Example:
        >>> orthonormal(np.array([[3.0], [4.0]])).round(9).tolist() in ([[0.6], [0.8]], [[-0.6], [-0.8]])
        True
    """
    return np.asarray(np.linalg.qr(columns)[0])


def reward_norm(problem: Problem) -> float:
    """Return the D-norm of the rewards, or 1 if they are zero: the unit in which residuals are told.

    Example:
        >>> reward_norm(Problem.from_chain([[0.5]], [-3.0], [[1.0]], [1.0], 0.9))
        3.0
    """
    return float(np.sqrt(problem.mu @ problem.r**2)) or 1.0


def _row_space(problem: Problem) -> tuple[Array, Array, Array, float]:
    """Return bases of the row space and of its complement, the singular values kept, and their gap."""
    F, scale = unit_columns(np.sqrt(problem.mu)[:, None] * problem.Z)
    _, values, Vt = np.linalg.svd(np.linalg.qr(F, mode="r"))
    largest = float(values[0])
    rank = int(np.sum(values > max(problem.n, problem.d) * EPS * largest)) if largest > 0.0 else 0
    if rank == problem.d:
        return np.eye(problem.d), np.zeros((problem.d, 0)), values, np.inf
    # The null space of F in scaled coordinates, taken back to those of w; its complement is the row space.
    complete = np.linalg.qr(Vt[rank:].T / scale[:, None], mode="complete")[0]
    N, V = np.split(complete, [problem.d - rank], axis=1)
    dropped = float(values[rank]) if rank < len(values) else 0.0
    gap = float(values[rank - 1]) / dropped if rank and dropped > 0.0 else np.inf
    return V, N, values[:rank], gap


def _orthonormal_features(scaled: Array, Q: Array, R: Array, root: Array) -> Array:
    """Return the features with D-orthonormal columns, (n, k).

    On rows with weight they are the rows of Q without their weights, which spares the condition number of R;
    rows whose weight is too small for that to be accurate take the triangular solve.
    """
    if Q.shape[1] == 0:
        return scaled
    solved = solve_triangular(R, scaled.T, trans="T").T
    heavy = root[:, 0] * np.linalg.cond(R) >= 1.0
    return np.asarray(np.where(heavy[:, None], Q / np.where(heavy[:, None], root, 1.0), solved))
