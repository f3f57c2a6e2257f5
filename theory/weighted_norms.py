r"""The chain seen in the norm weighted by the data: its size, its resolvent's, the oblique projection's.

With every weight positive, :math:`\|x\|_D^2=\sum\mu x^2` is a norm, and in the coordinates
:math:`D^{1/2}x` it is the ordinary one: :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}` stands for the discounted
chain and an orthonormal basis of the columns of :math:`D^{1/2}Z` for the features. Only that basis
enters, so nothing here depends on how well conditioned the features are. Rows without weight that no
row with weight reaches (transient states under stationary weights) are left out first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds

from theory.certificate import uniform_certificate
from theory.checks import Array, Bools
from theory.problem import Problem
from theory.resolvent import Resolvent
from theory.spectrum import rounding, spectral_norm
from theory.whitening import Whitened, whiten

DENSE_ROWS = 500  # up to here all columns of the resolvent are solved for; Lanczos takes some 50 solves


@dataclass(frozen=True, eq=False)
class WeightedNorms:
    r"""Norms of one problem under its weights.

    Attributes:
        support: (n,), the rows with weight; m of them.
        root: (m,), :math:`\sqrt\mu` there.
        basis: (m, k), orthonormal basis of the columns of :math:`D^{1/2}Z` there.
        sigma: :math:`\|N\|_2=\gamma\|P^\pi\|_D`.
        tau: largest eigenvalue of :math:`(N+N^\top)/2`.
        kappa: :math:`\max_j(\mu^\top P^\pi)_j/\mu_j`.
        resolvent: :math:`\|G\|_D`.
        oblique: norm of :math:`ZA^{-1}Z^\top D(I-\gamma P^\pi)`; None if A is singular on the span.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> norms = weighted_norms(problem)
        >>> norms.kappa, round(norms.sigma**2, 9)
        (2.0, 0.5)
    """

    support: Bools
    root: Array
    basis: Array
    sigma: float
    tau: float
    kappa: float
    resolvent: float
    oblique: float | None

    def norm(self, values: Array) -> float:
        r"""Return :math:`\|x\|_D` of (n,) values, or the root of the summed squares of (n, d)."""
        return float(np.linalg.norm((self.root * values[self.support].T).T))

    def distance(self, values: Array) -> float:
        r"""Return :math:`\|x-\Pi x\|_D`, how far (n,) values are from the span of the features."""
        inside = self.root * values[self.support]
        return float(np.linalg.norm(inside - self.basis @ (self.basis.T @ inside)))


def weighted_norms(problem: Problem) -> WeightedNorms | None:
    """Measure a problem in its weighted norm; None if a row without weight is reached from one with weight.

    Example:
        >>> partial = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [1.0, 0.0], 0.5)
        >>> weighted_norms(partial) is None
        True
    """
    support = problem.mu > 0.0
    if np.any((problem.mu @ problem.P_pi)[~support] > 0.0):
        return None
    inside = Problem.from_chain(
        problem.P_pi[support][:, support],
        problem.r[support],
        problem.Z[support],
        problem.mu[support],
        problem.gamma,
    )
    white, size = whiten(inside), uniform_certificate(inside)
    return WeightedNorms(
        support=support,
        root=np.sqrt(inside.mu),
        basis=white.Q,
        sigma=size.sigma,
        tau=size.tau,
        kappa=size.kappa,
        resolvent=_resolvent_norm(inside),
        oblique=_oblique_norm(inside, white),
    )


def _resolvent_norm(problem: Problem) -> float:
    r"""Return :math:`\|G\|_D`, the largest singular value of :math:`D^{1/2}GD^{-1/2}`."""
    n, root, G = problem.n, np.sqrt(problem.mu), Resolvent(problem.P_pi, problem.gamma)
    if n <= DENSE_ROWS:
        columns = [root * G.solve(column).x for column in np.diag(1.0 / root)]
        return spectral_norm(np.column_stack(columns))
    # ARPACK may hand over (n, 1), which would broadcast against (n,) to an (n, n) array.
    operator = LinearOperator(
        (n, n),
        matvec=lambda x: root * G.solve(np.ravel(x) / root).x,
        rmatvec=lambda x: G.solve_transposed(np.ravel(x) * root).x / root,
        dtype=np.float64,
    )
    return float(svds(operator, k=1, v0=np.ones(n), return_singular_vectors=False)[0])


def _oblique_norm(problem: Problem, white: Whitened) -> float | None:
    """Return the norm of the oblique projection onto the features, None if it does not exist."""
    inner = np.eye(white.rank) - problem.gamma * white.M
    if white.rank == 0 or np.linalg.norm(inner, -2) <= rounding(white.rank, max(1.0, spectral_norm(inner))):
        return None
    root = np.sqrt(problem.mu)[:, None]
    ahead = problem.gamma * (problem.P_pi.T @ (root * white.Q)) / root
    return spectral_norm(np.asarray(np.linalg.solve(inner, (white.Q - ahead).T), dtype=np.float64))
