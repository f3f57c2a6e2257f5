r"""The uniform certificate: one number that says whether every choice of features is stable.

With :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}`, :math:`\tau=\lambda_{\max}((N+N^\top)/2)<1` if and only if TD and
the rollout converge for every full-rank feature matrix; statement and proof are in
:func:`theory.stability.stability`. Here are tau, the simpler numbers that bound it, and the worst feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh, svds

from theory.checks import Array
from theory.problem import Problem
from theory.whitening import EPS

DENSE_ROWS = 2000  # up to here all eigenvalues are computed, beyond it Lanczos finds the one that matters


@dataclass(frozen=True)
class UniformCertificate:
    """The numbers behind the certificate; see :class:`theory.stability.Stability` for their definitions."""

    tau: float
    kappa: float
    sigma: float
    holds: bool
    worst_feature: Array


def uniform_certificate(problem: Problem) -> UniformCertificate:
    r"""Return tau, kappa, sigma, whether tau is below 1 beyond rounding, and the worst feature.

    Rows without weight are left out if no row with weight reaches them; if one does, all three numbers are
    infinite: a feature that is large there alone makes any problem diverge.

    Example:
        >>> cycle = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [0]], [0.5, 0.5], 0.9)
        >>> result = uniform_certificate(cycle)
        >>> round(result.tau, 9), result.kappa, result.holds
        (0.9, 1.0, True)
    """
    support = problem.mu > 0.0
    reached = np.asarray(problem.mu @ problem.P_pi)
    if problem.gamma > 0.0 and np.any(reached[~support] > 0.0):
        feature = _off_support_feature(problem, int(np.argmax(np.where(support, 0.0, reached))))
        return UniformCertificate(math.inf, math.inf, math.inf, False, feature)
    root = np.sqrt(problem.mu[support])
    N = sparse.csr_array(problem.P_pi)[support][:, support]
    N = sparse.csr_array(sparse.diags_array(problem.gamma * root) @ N @ sparse.diags_array(1.0 / root))
    tau, sigma, perron = _extremes(N)
    feature = np.zeros(problem.n)
    feature[support] = np.abs(perron) / root
    kappa = float(np.max(reached[support] / problem.mu[support]))
    holds = tau < 1.0 - 64.0 * math.sqrt(len(root)) * EPS * max(1.0, sigma)
    return UniformCertificate(tau, kappa, sigma, holds, feature)


def _extremes(N: sparse.csr_array) -> tuple[float, float, Array]:
    """Return the largest eigenvalue of the symmetric part, the norm, and the eigenvector."""
    n = N.shape[0]
    if n <= DENSE_ROWS:
        dense = N.toarray()
        values, vectors = np.linalg.eigh(0.5 * (dense + dense.T))
        return float(values[-1]), float(np.linalg.norm(dense, 2)), np.asarray(vectors[:, -1])
    # ARPACK hands (n,) or (n, 1); @ of a sparse matrix takes both. The start is fixed, so that runs agree.
    half = LinearOperator((n, n), matvec=lambda x: 0.5 * (N @ x + N.T @ x), dtype=np.float64)
    values, vectors = eigsh(half, k=1, which="LA", v0=np.ones(n))
    norm = svds(N, k=1, v0=np.ones(n), return_singular_vectors=False)
    return float(values[0]), float(norm[0]), np.asarray(vectors[:, 0])


def _off_support_feature(problem: Problem, row: int) -> Array:
    """Return a feature that diverges because it is large at ``row``, which has no weight but is reached."""
    reach = problem.P_pi @ np.eye(1, problem.n, row)[0]
    start = int(np.argmax(problem.mu * reach))
    feature = np.zeros(problem.n)
    feature[start] = 1.0 / math.sqrt(problem.mu[start])
    feature[row] = 2.0 * feature[start] / (problem.gamma * reach[start])
    return feature
