r"""Coordinates in which every feature basis looks alike: orthonormal under the data weights.

Theorem 1 is a statement about :math:`R`, the row space of :math:`D^{1/2}Z`. :func:`whiten` finds an
orthonormal basis ``V`` of it, divides the columns of ``Z V`` by their D-norms and factors the result as
``Q R``. In the coordinates :math:`y = R\,\mathrm{diag}(s)V^\top w` the model's matrix is
:math:`M = Q^\top D^{1/2}P^\pi\tilde Z`, where :math:`\tilde Z` has D-orthonormal columns, and TD's matrix is
:math:`I-\gamma M`: how the features are scaled or how nearly they are parallel no longer matters.
Features are read block by block; nothing of their size is kept.
This is the reference route of the numerical checks; the routes under test do not use it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular

from theory.assembly import assemble
from theory.checks import EPS, Array, frozen
from theory.problem import Problem
from theory.streaming import FeatureRows, Triangle, remembered


@dataclass(frozen=True, eq=False)
class Whitened:
    r"""A problem in D-orthonormal coordinates of the row space of :math:`D^{1/2}Z`, of dimension k.

    Attributes:
        V: (d, k), orthonormal basis of the row space; the identity if k = d.
        N: (d, d - k), orthonormal basis of its complement.
        scale: (k,), D-norms of the columns of ``Z V``.
        R: (k, k), upper triangular.
        singular_values: (k,) of ``F``, descending.
        gap: the smallest singular value kept over the largest dropped; infinite if none was dropped.
        M: (k, k), the model's matrix in these coordinates.
        next_norm: :math:`\|D^{1/2}P^\pi\tilde Z\|_F`, the size of what was summed for M: much larger where
            next features cancel, as those of rows without weight may.
        c: (k,), :math:`Q^\top D^{1/2}r`, the model's reward vector in these coordinates.
        columns: makes Q again, block by block.
    """

    V: Array
    N: Array
    scale: Array
    R: Array
    singular_values: Array
    gap: float
    M: Array
    next_norm: float
    c: Array
    columns: OrthonormalColumns

    @property
    def rank(self) -> int:
        """The dimension k of the row space."""
        return len(self.scale)

    @property
    def condition(self) -> float:
        """Ratio of the largest to the smallest singular value of F."""
        return float(self.singular_values[0] / self.singular_values[-1]) if self.rank else 1.0

    @property
    def Q(self) -> Array:
        """The factor with orthonormal columns, F = Q R, (n, k); for small problems."""
        source = self.columns.source
        return np.concatenate([source.root(rows) * self.columns.read(rows) for rows in source.slices()])

    def weights(self, y: Array) -> Array:
        """Return the feature weights w, (d,) or (d, m), whose whitened coordinates are ``y``."""
        scaled = (solve_triangular(self.R, y).T / self.scale).T
        return np.asarray(self.V @ scaled)


@dataclass(frozen=True, eq=False)
class OrthonormalColumns:
    r"""Features with D-orthonormal columns, :math:`\tilde Z=ZVS^{-1}R_1^{-1}R_2^{-1}`, made in blocks.

    Solving with the triangle of F leaves columns that are orthonormal up to rounding times its condition
    number; a second triangle, close to the identity, mends that. Each row is made from its own features only,
    so rows without weight are no exception.

    Attributes:
        source: the features.
        V: (d, k), basis of the row space; None for the identity.
        scale: (k,), S.
        first: (k, k), the triangle of F.
        second: (k, k), the triangle of what solving with ``first`` leaves.
    """

    source: FeatureRows
    V: Array | None
    scale: Array
    first: Array
    second: Array

    def read_roughly(self, rows: slice) -> Array:
        """Return a block before the second triangle, (b, k)."""
        features = self.source.read(rows)
        features = (features if self.V is None else features @ self.V) / self.scale
        return np.asarray(solve_triangular(self.first, features.T, trans="T", check_finite=False).T)

    def read(self, rows: slice) -> Array:
        r"""Return :math:`\tilde Z` of a block, (b, k)."""
        return self.mend(self.read_roughly(rows))

    def mend(self, features: Array) -> Array:
        """Return (m, k) features after the second triangle."""
        return np.asarray(solve_triangular(self.second, features.T, trans="T").T)

    def project(self, x: Array) -> Array:
        r"""Return :math:`\tilde Z^\top Dx`, (k,) or (k, m), of (n,) or (n, m) values."""
        total = np.zeros((len(self.scale), *x.shape[1:]))
        for rows in self.source.slices():
            total += (self.source.mu[rows, None] * self.read_roughly(rows)).T @ x[rows]
        return np.asarray(solve_triangular(self.second, total, trans="T"))


@remembered
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
    # An identity V must not cost the last bits of Z.
    F, scale = unit_columns(assemble(problem).R @ V if N.size else assemble(problem).R)
    k, basis = len(scale), V if N.size else None
    rough = OrthonormalColumns(problem.feature_rows, basis, scale, _upright(F), np.eye(k))
    columns, ahead = _orthonormalised(problem, rough)
    M, c, squares = np.zeros((k, k)), np.zeros(k), 0.0
    for rows in problem.feature_rows.slices():
        by_mu = (problem.mu[rows, None] * columns.read_roughly(rows)).T
        following = np.asarray(problem.chain.P[rows] @ ahead)
        squares += float(problem.mu[rows] @ np.einsum("ij,ij->i", following, following))
        M += by_mu @ following
        c += by_mu @ problem.r[rows]
    M, c = (frozen(solve_triangular(columns.second, part, trans="T")) for part in (M, c))
    return Whitened(
        V, N, scale, columns.second @ columns.first, values, gap, M, float(np.sqrt(squares)), c, columns
    )


def _orthonormalised(problem: Problem, rough: OrthonormalColumns) -> tuple[OrthonormalColumns, Array]:
    """Return the columns with their second triangle and, from the same pass, their average over actions."""
    found = Triangle()

    def read(rows: slice) -> Array:
        features = rough.read_roughly(rows)
        found.add(rough.source.root(rows) * features)
        return features

    means = problem.average_rows(read, len(rough.scale))
    columns = replace(rough, second=_upright(found.R))
    return columns, columns.mend(means)


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
    scale = assemble(problem).scale
    _, values, Vt = np.linalg.svd(assemble(problem).R / scale)
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


def _upright(matrix: Array) -> Array:
    """Return the triangular factor of a matrix with a diagonal that is not negative."""
    R = np.linalg.qr(matrix, mode="r")
    return np.asarray(np.where(np.diag(R) < 0.0, -1.0, 1.0)[:, None] * R)
