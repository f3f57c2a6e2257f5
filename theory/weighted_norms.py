r"""The chain seen in the norm weighted by the data: its size, its resolvent's, the oblique projection's.

With every weight positive, :math:`\|x\|_D^2=\sum\mu x^2` is a norm, and in the coordinates
:math:`D^{1/2}x` it is the ordinary one: :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}` stands for the discounted
chain and an orthonormal basis of the columns of :math:`D^{1/2}Z` for the features. Only that basis
enters, so nothing here depends on how well conditioned the features are. Rows without weight that no
row with weight reaches (transient states under stationary weights) are left out: with weight 0 they are
zero in these coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import solve_triangular

from theory.certificate import product_cost, reach_of_data, uniform_certificate, weighted_chain
from theory.checks import Array
from theory.lanczos import CONVERGED, MOST_WORK, top_eigenvalue
from theory.problem import Problem
from theory.spectrum import rounding, spectral_norm
from theory.streaming import FeatureRows, Triangle
from theory.whitening import Whitened, whiten

DENSE_ROWS = 500  # up to here all columns of the resolvent are solved for; beyond, Lanczos takes some solves
PRODUCTS_A_SOLVE = 100  # products with the chain that a pair of solves takes, roughly
FEWEST_SOLVES = 12  # pairs, with G and its transpose
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class WeightedNorms:
    r"""Norms of one problem under its weights.

    Attributes:
        mu: (n,), the weights.
        white: the features in D-orthonormal coordinates.
        sigma: :math:`\|N\|_2=\gamma\|P^\pi\|_D`; None if it was not computed.
        tau: largest eigenvalue of :math:`(N+N^\top)/2`; None if it was not computed.
        kappa: :math:`\max_j(\mu^\top P^\pi)_j/\mu_j`.
        resolvent: :math:`\|G\|_D`; None if it was not computed.
        oblique: norm of :math:`ZA^{-1}Z^\top D(I-\gamma P^\pi)`; None if A is singular on the span.
        not_computed: which of these are None for want of products or solves, and why.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> norms = weighted_norms(problem)
        >>> norms.kappa, round(norms.sigma**2, 9)
        (2.0, 0.5)
    """

    mu: Array
    white: Whitened
    sigma: float | None
    tau: float | None
    kappa: float
    resolvent: float | None
    oblique: float | None
    not_computed: dict[str, str] = field(default_factory=dict)

    def norm(self, values: Array) -> float:
        r"""Return :math:`\|x\|_D` of (n,) values."""
        return math.sqrt(float(self.mu @ values**2))

    def distance(self, values: Array, rows: FeatureRows) -> float:
        r"""Return :math:`\|x-\Pi x\|_D`, how far (n,) values are from the span of the features."""
        columns = self.white.columns
        inside = solve_triangular(columns.second, columns.project(values))
        left = [values[block] - columns.read_roughly(block) @ inside for block in rows.slices()]
        return self.norm(np.concatenate(left))


def weighted_norms(problem: Problem) -> WeightedNorms | None:
    """Measure a problem in its weighted norm; None if a row without weight is reached from one with weight.

    Example:
        >>> partial = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [1.0, 0.0], 0.5)
        >>> weighted_norms(partial) is None
        True
    """
    if reach_of_data(problem)[1]:
        return None
    white, size = whiten(problem), uniform_certificate(problem)
    resolvent, missing = _resolvent_norm(problem, size.kappa), dict(size.not_computed)
    if resolvent is None:
        missing["resolvent"] = (
            f"Lanczos did not converge within {_affordable_solves(problem)} pairs of solves"
        )
    return WeightedNorms(
        mu=problem.mu,
        white=white,
        sigma=size.sigma,
        tau=size.tau,
        kappa=size.kappa,
        resolvent=resolvent,
        oblique=_oblique_norm(problem, white),
        not_computed=missing,
    )


def _resolvent_norm(problem: Problem, kappa: float) -> float | None:
    r"""Return :math:`\|G\|_D`, the norm of :math:`D^{1/2}GD^{-1/2}` on rows with weight."""
    N, G = weighted_chain(problem), problem.resolvent
    support = np.flatnonzero(problem.mu > 0.0)
    if problem.n <= DENSE_ROWS:
        columns = [(N.root * G.solve(column).x)[support] for column in np.diag(N.inverse)[support]]
        return spectral_norm(np.column_stack(columns))

    def square(x: Array) -> Array:
        ahead = N.root * G.approximate(N.inverse * x)
        return N.inverse * G.approximate(N.root * ahead, transposed=True)

    reach = problem.gamma * math.sqrt(kappa)
    even = top_eigenvalue(square, N.root, 1)
    if reach < 1.0 and math.sqrt(even.value) * (1.0 - reach) > 1.0 - CONVERGED:
        return math.sqrt(
            even.value
        )  # stationary weights: it cannot be larger than 1 / (1 - gamma sqrt(kappa))
    # Not constant: Krylov solvers are erratic where the right side is nearly an eigenvector.
    start = np.where(problem.mu > 0.0, 1.0 + np.arange(problem.n) * GOLDEN % 1.0, 0.0)
    found = top_eigenvalue(square, start, _affordable_solves(problem))
    return math.sqrt(found.value) if found.converged else None


def _affordable_solves(problem: Problem) -> int:
    return max(FEWEST_SOLVES, min(500, int(MOST_WORK / (PRODUCTS_A_SOLVE * product_cost(problem)))))


def _oblique_norm(problem: Problem, white: Whitened) -> float | None:
    r"""Return the norm of the oblique projection onto the features, None if it does not exist.

    It is :math:`\sqrt{1+\|(I-\gamma M)^{-1}B\|^2}` with :math:`B=Q^\top N(I-QQ^\top)`, what the features
    leak; :math:`B^\top=N^\top Q-Q\gamma M^\top` is reduced to a triangle block by block.
    """
    inner = np.eye(white.rank) - problem.gamma * white.M
    if white.rank == 0 or np.linalg.norm(inner, -2) <= rounding(white.rank, max(1.0, spectral_norm(inner))):
        return None
    leak, N, columns = Triangle(), weighted_chain(problem), white.columns
    into, A = _gathered(problem, white), problem.chain.probs.shape[1]
    # In the coordinates before the second triangle T, so that only small matrices are multiplied with it.
    model = solve_triangular(columns.second, white.M.T) @ columns.second
    for rows in problem.feature_rows.slices():
        states, Q = slice(rows.start // A, rows.stop // A), N.root[rows, None] * columns.read_roughly(rows)
        spread = (problem.chain.probs[states, :, None] * into[states, None, :]).reshape(len(Q), -1)
        leak.add(N.inverse[rows, None] * spread - Q @ model)
    leaked = problem.gamma * columns.mend(leak.R).T
    return math.hypot(1.0, spectral_norm(np.asarray(np.linalg.solve(inner, leaked), dtype=np.float64)))


def _gathered(problem: Problem, white: Whitened) -> Array:
    r"""Return :math:`P^\top D^{1/2}Q` before the second triangle, (m, k) for m states.

    As many rows at once as there are states: the product is as large for fewer.
    """
    P, source = problem.chain.P, problem.feature_rows
    most = max(P.shape[1], next(source.slices()).stop)
    total, held = np.zeros((P.shape[1], white.rank)), np.empty((most, white.rank))
    first = last = 0
    for rows in source.slices():
        if rows.stop - first > len(held):
            total += P[first:last].T @ held[: last - first]
            first = rows.start
        held[rows.start - first : rows.stop - first] = source.mu[rows, None] * white.columns.read_roughly(
            rows
        )
        last = rows.stop
    return np.asarray(total + P[first:last].T @ held[: last - first])
