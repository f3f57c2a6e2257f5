r"""The uniform certificate: one number that says whether every choice of features is stable.

With :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}`, :math:`\tau=\lambda_{\max}((N+N^\top)/2)<1` if and only if TD and
the rollout converge for every full-rank feature matrix; statement and proof are in
:func:`theory.stability.stability`. Here are tau, the simpler numbers that bound it, and the worst feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from theory.chains import PairChain
from theory.checks import EPS, Array, Bools
from theory.lanczos import affordable_products, top_eigenvalue
from theory.problem import Problem
from theory.streaming import remembered

LARGEST = 1e300
DENSE_ROWS = 2000  # up to here all eigenvalues are computed, beyond it Lanczos looks for the one that matters


@dataclass(frozen=True, eq=False)
class UniformCertificate:
    """The numbers behind the certificate; see :class:`theory.stability.Stability` for their definitions.

    Attributes:
        tau: None if Lanczos did not find it.
        kappa: computed at every size.
        sigma: None if Lanczos did not find it.
        holds: whether tau is below 1 beyond rounding; None if the bounds on tau leave it open.
        worst_feature: (n,), None with ``tau``.
        tau_bounds: tau lies between these two, rounding aside, whether it was found or not.
        not_computed: the numbers that are None, and why.
    """

    tau: float | None
    kappa: float
    sigma: float | None
    holds: bool | None
    worst_feature: Array | None
    tau_bounds: tuple[float, float] = (0.0, math.inf)
    not_computed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class WeightedChain:
    r""":math:`N=\gamma D^{1/2}P^\pi D^{-1/2}` as an operator, zero on rows without weight.

    Attributes:
        chain: :math:`P^\pi`.
        gamma: discount.
        root: (n,), square roots of the weights.
        inverse: (n,), their inverses, 0 where there is no weight.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [0]], [0.9, 0.1], 0.5)
        >>> weighted_chain(problem).forward(np.array([0.0, 1.0]))
        array([1.5, 0. ])
    """

    chain: PairChain
    gamma: float
    root: Array
    inverse: Array

    def forward(self, x: Array) -> Array:
        """Return ``N x``."""
        return self.gamma * self.root * (self.chain @ (self.inverse * x))

    def backward(self, x: Array) -> Array:
        """Return the transpose of ``N`` times ``x``."""
        return self.gamma * self.inverse * (self.chain.T @ (self.root * x))

    def symmetric(self, x: Array) -> Array:
        """Return half of the sum of both."""
        return 0.5 * (self.forward(x) + self.backward(x))


def weighted_chain(problem: Problem) -> WeightedChain:
    """Return the chain of a problem in the coordinates of its weighted norm.

    Example:
        >>> weighted_chain(Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.5)).symmetric(np.ones(1))
        array([0.25])
    """
    root = np.sqrt(problem.mu)
    inverse = np.divide(1.0, root, out=np.zeros(problem.n), where=root > 0.0)
    return WeightedChain(problem.chain, problem.gamma, root, inverse)


def reach_of_data(problem: Problem) -> tuple[Array, bool]:
    r"""Return :math:`\mu^\top P^\pi`, (n,), and whether it reaches a row without weight.

    Example:
        >>> reach_of_data(Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [1.0, 0.0], 0.5))
        (array([0., 1.]), True)
    """
    reached = problem.chain.T @ problem.mu
    return reached, bool(np.any(reached[problem.mu == 0.0] > 0.0))


@remembered
def uniform_certificate(problem: Problem) -> UniformCertificate:
    r"""Return tau, kappa, sigma, whether tau is below 1 beyond rounding, and the worst feature.

    Rows without weight are left out if no row with weight reaches them; if one does, all three numbers are
    infinite: a feature that is large there alone makes any problem diverge.

    Up to 2000 rows with weight all eigenvalues are computed. Beyond, Lanczos may not find tau or sigma within
    the products it is given; they are None then. Whether tau is below 1 may still be known, from
    :math:`x^\top Nx\le\tau\le\min(\gamma\sqrt\kappa,\ \max_i(\mathrm{sym}(N)x)_i/x_i)` for any unit
    :math:`x>0` (Collatz and Wielandt's bound, N being non-negative).

    Example:
        >>> cycle = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [0]], [0.5, 0.5], 0.9)
        >>> result = uniform_certificate(cycle)
        >>> round(result.tau, 9), result.kappa, result.holds
        (0.9, 1.0, True)
    """
    support = problem.mu > 0.0
    reached, outside = reach_of_data(problem)
    if problem.gamma > 0.0 and outside:
        feature = _off_support_feature(problem, int(np.argmax(np.where(support, 0.0, reached))))
        return UniformCertificate(math.inf, math.inf, math.inf, False, feature, (math.inf, math.inf))
    kappa = float(np.max(reached[support] / problem.mu[support]))
    if np.count_nonzero(support) <= DENSE_ROWS:
        return _by_eigenvalues(problem, support, kappa)
    return _by_lanczos(problem, support, kappa)


def _by_eigenvalues(problem: Problem, support: Bools, kappa: float) -> UniformCertificate:
    root = np.sqrt(problem.mu[support])
    N = problem.gamma * root[:, None] * problem.chain.among(np.flatnonzero(support)) / root
    values, vectors = np.linalg.eigh(0.5 * (N + N.T))
    tau, sigma = float(values[-1]), float(np.linalg.norm(N, 2))
    feature = np.zeros(problem.n)
    feature[support] = np.abs(vectors[:, -1]) / root
    holds = tau < 1.0 - _slack(len(root), sigma)
    return UniformCertificate(tau, kappa, sigma, holds, feature, (tau, tau))


def _by_lanczos(problem: Problem, support: Bools, kappa: float) -> UniformCertificate:
    N, most = weighted_chain(problem), affordable_products(product_cost(problem))
    start = np.where(support, 1.0, 0.0)
    found = top_eigenvalue(N.symmetric, start, most)
    square = top_eigenvalue(*_square(problem), most)
    x = np.abs(found.vector)
    largest = problem.gamma * math.sqrt(kappa)
    lower, upper = found.value, max(found.value, min(largest, _collatz(N, x, support)))
    slack = _slack(problem.n, largest)
    if found.converged:
        upper = min(upper, found.value + found.residual)
    holds = True if upper < 1.0 - slack else False if lower >= 1.0 - slack else None
    missing = {
        name: f"Lanczos did not converge within {most} products"
        for name, ok in (("tau", found.converged), ("sigma", square.converged))
        if not ok
    }
    tau = found.value if found.converged else None
    sigma = math.sqrt(max(square.value, 0.0)) if square.converged else None
    feature = N.inverse * x if found.converged else None
    return UniformCertificate(tau, kappa, sigma, holds, feature, (lower, upper), missing)


def _square(problem: Problem) -> tuple[Callable[[Array], Array], Array]:
    r"""Return an operator over states with the largest eigenvalue :math:`\sigma^2`, and a start.

    :math:`N^\top N=LKL^\top` with :math:`K=\gamma^2P^\top DP` and :math:`L=D^{-1/2}\Pi^\top`; the operator
    is :math:`(L^\top L)^{1/2}K(L^\top L)^{1/2}`, and :math:`L^\top L` is diagonal.
    """
    chain, mu = problem.chain, problem.mu
    share = np.divide(chain.probs.reshape(-1) ** 2, mu, out=np.zeros(problem.n), where=mu > 0.0)
    size = problem.gamma * np.sqrt(share.reshape(chain.probs.shape).sum(axis=1))
    return lambda v: size * np.asarray(chain.P.T @ (mu * (chain.P @ (size * v)))), np.ones(len(size))


def product_cost(problem: Problem) -> int:
    """Return about how many multiplications one product with the chain and one with its transpose take.

    Example:
        >>> product_cost(Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.5))
        12
    """
    P = problem.chain.P
    return 2 * int(P.size if isinstance(P, np.ndarray) else P.nnz) + 10 * problem.n


def _collatz(N: WeightedChain, x: Array, support: Bools) -> float:
    """Return the largest ratio of entries of sym(N) x and x, an upper bound on tau for any positive x."""
    positive = np.where(support, np.maximum(x, 1e-6 * float(x.max())), 0.0)
    ahead = N.symmetric(positive)
    return float(np.max(ahead[support] / positive[support]))


def _slack(rows: int, size: float) -> float:
    return 64.0 * math.sqrt(rows) * EPS * max(1.0, size)


def _off_support_feature(problem: Problem, row: int) -> Array:
    """Return a feature that diverges because it is large at ``row``, which has no weight but is reached."""
    reach = problem.chain @ np.eye(1, problem.n, row)[0]
    start = int(np.argmax(problem.mu * reach))
    feature = np.zeros(problem.n)
    feature[start] = 1.0 / math.sqrt(problem.mu[start])
    with np.errstate(over="ignore"):  # by how much it must be larger may exceed float64
        larger = 2.0 * feature[start] / (problem.gamma * reach[start])
    feature[row] = min(float(larger), LARGEST)
    return feature
