r"""The law of LSTD's estimates from independent transitions, and samples of them.

With :math:`A^{-1}\Sigma A^{-\top}`, :math:`\Sigma=\mathrm E[zz^\top\delta^2]`, the estimates spread about the
fixed point like :math:`N^{-1/2}`; ``lstd`` compares the two. Everything is computed in coordinates where the
features are orthonormal under the weights, so that their scaling and dependence do no harm.

A transition of a tabular problem is one of finitely many, and the estimate depends only on how often each was
seen. So samples are drawn as multinomial counts: the same law, at a cost that does not grow with N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from theory.checks import EPS, Array, Ints, as_array, row_sums
from theory.errors import InputError
from theory.problem import Problem
from theory.spectrum import rounding
from theory.td import FixedPoint, td_fixed_point
from theory.whitening import whiten

BATCH = 2_000_000  # numbers held at once by a batch of runs


@dataclass(frozen=True, eq=False)
class SamplingLaw:
    r"""The transitions that can be drawn, and what their frequencies do to LSTD's weights.

    Attributes:
        p: (m,), probability of each transition, in order of the row it starts in.
        first: (rows,), the first transition of each row that can be drawn.
        step: (m, k), :math:`z-\gamma z'`; z' is 0 where the run ends.
        z: (rows, k), features.
        r: (rows,), expected reward.
        noise: (rows,), standard deviation of the reward.
        y: (k,), the fixed point in these coordinates.
        T: (d, k), takes coordinates to feature weights.
    """

    p: Array
    first: Ints
    step: Array
    z: Array
    r: Array
    noise: Array
    y: Array
    T: Array

    @property
    def rows(self) -> Ints:
        """(m,), the position in ``z`` of the row of each transition."""
        return np.repeat(np.arange(len(self.first)), np.diff(self.first, append=len(self.p)))

    @property
    def A(self) -> Array:
        r"""(k, k), :math:`\mathrm E[z(z-\gamma z')^\top]`."""
        return np.asarray((self.z[self.rows].T * self.p) @ self.step)

    @cached_property
    def influence(self) -> Array:
        r"""(rows, k), :math:`A^{-1}z`: where a TD error in that row pulls the weights."""
        return np.asarray(np.linalg.solve(self.A, self.z.T).T)

    @property
    def variance(self) -> Array:
        r"""(rows,), the part of :math:`\mathrm E\delta^2` that falls on each row."""
        delta = self.r[self.rows] - self.step @ self.y
        return np.asarray(np.add.reduceat(self.p * (delta**2 + self.noise[self.rows] ** 2), self.first))

    @property
    def covariance(self) -> Array:
        r"""(d, d), :math:`A^{-1}\Sigma A^{-\top}` of the feature weights."""
        half = self.T @ (self.influence * np.sqrt(self.variance)[:, None]).T
        return np.asarray(half @ half.T)

    @property
    def floor(self) -> float:
        """The trace that rounding of the TD errors alone would give."""
        size = float(np.abs(self.r).max() + np.abs(self.z @ self.y).max() + self.noise.max())
        miss = rounding(len(self.y), size) * float(np.linalg.cond(self.A))
        weight = np.add.reduceat(self.p, self.first)
        return miss**2 * float(weight @ ((self.influence @ self.T.T) ** 2).sum(axis=1))

    @property
    def curvature(self) -> float:
        r""":math:`N\,\mathrm E\|A^{-1}(\hat A-A)\|_F^2`, the same for every N."""
        squares = (self.influence**2).sum(axis=1)[self.rows] * (self.step**2).sum(axis=1)
        return max(0.0, float(self.p @ squares) - len(self.y))


def sampling_law(problem: Problem, *, reward_std: Any = 0.0) -> tuple[SamplingLaw | None, FixedPoint]:
    r"""Return the limit law of LSTD's estimates, or ``None`` if there is no unique fixed point.

    Args:
        problem: any problem; it is taken to the row space of :math:`D^{1/2}Z`.
        reward_std: standard deviation of the rewards about their expectation, a number or (rows,).

    Returns:
        The law, and the fixed points in its coordinates.

    Raises:
        InputError: a standard deviation that is negative or has another shape; features that are zero
            wherever there is weight.

    Example:
        >>> stays = Problem.from_chain([[0.75]], [1.0], [[1.0]], [1.0], 1.0)  # w = 1 / (1 - p)
        >>> law, _ = sampling_law(stays)
        >>> law.covariance.round(9)  # p (1 - p) / (1 - p)^4
        array([[48.]])
    """
    noise = _check_noise(reward_std, problem.n)
    white = whiten(problem)
    if white.rank == 0:
        raise InputError("Z is zero on every row with weight, so samples say nothing about any feature.")
    T = white.weights(np.eye(white.rank))
    Z = problem.Z @ T
    fixed = td_fixed_point(Problem.from_chain(problem.P_pi, problem.r, Z, problem.mu, problem.gamma))
    if fixed.w is None or fixed.kind != "unique":
        return None, fixed
    p, source, target = _transitions(problem)
    step = Z[source] - problem.gamma * np.vstack([Z, np.zeros(white.rank)])[target]
    drawn, first = np.unique(source, return_index=True)
    return SamplingLaw(p, first, step, Z[drawn], problem.r[drawn], noise[drawn], fixed.w, T), fixed


def draw_errors(law: SamplingLaw, size: int, runs: int, draws: np.random.Generator) -> tuple[Array, int]:
    r"""Draw samples, solve LSTD on each, and return how far the weights are from the fixed point.

    Args:
        law: of the problem.
        size: N, transitions a sample.
        runs: number of samples.
        draws: NumPy's generator.

    Returns:
        The errors, (runs, d), and how many systems were singular: these are solved with least norm in the
        coordinates of the law.

    Example:
        >>> law, _ = sampling_law(Problem.from_chain([[0.75]], [1.0], [[1.0]], [1.0], 1.0))
        >>> errors, singular = draw_errors(law, 100, 5, np.random.default_rng(0))
        >>> errors.shape, singular
        ((5, 1), 0)
    """
    batch = max(1, BATCH // law.step.size)
    y, singular = [], 0
    for start in range(0, runs, batch):
        seen = draws.multinomial(size, law.p, size=min(batch, runs - start)) / size
        A = law.z.T @ np.add.reduceat(seen[..., None] * law.step, law.first, axis=1)
        visits = np.add.reduceat(seen, law.first, axis=1)
        rewards = visits * law.r
        if law.noise.any():  # the sum of c draws of noise has c times its variance
            rewards += np.sqrt(visits / size) * law.noise * draws.standard_normal(visits.shape)
        solved, bad = _solve_each(A, rewards @ law.z)
        y.append(solved)
        singular += bad
    return (np.concatenate(y) - law.y) @ law.T.T, singular


def _transitions(problem: Problem) -> tuple[Array, Ints, Ints]:
    """Return the transitions that can be drawn: probability, row, next row (n where the run ends)."""
    steps = sparse.coo_array(problem.P_pi)
    leaving = 1.0 - row_sums(problem.P_pi)
    leaving[leaving <= problem.n * EPS] = 0.0
    source = np.concatenate([steps.row, np.arange(problem.n)])
    target = np.concatenate([steps.col, np.full(problem.n, problem.n)])
    p = problem.mu[source] * np.concatenate([steps.data, leaving])
    order = np.lexsort((target, source))
    order = order[p[order] > 0.0]
    return p[order] / p.sum(), source[order], target[order]


def _solve_each(A: Array, b: Array) -> tuple[Array, int]:
    """Solve each of the (runs, k, k) systems, singular ones with least norm; return how many these are."""
    least = rounding(A.shape[1], 1.0)
    bad = ~(np.linalg.cond(A, 1) < 1.0 / least)
    y = np.empty_like(b)
    y[~bad] = np.linalg.solve(A[~bad], b[~bad, :, None])[..., 0]
    y[bad] = (np.linalg.pinv(A[bad], rcond=least) @ b[bad, :, None])[..., 0]
    return y, int(bad.sum())


def _check_noise(reward_std: Any, rows: int) -> Array:
    """Return (rows,) standard deviations."""
    noise = as_array("reward_std", reward_std)
    if noise.shape not in ((), (rows,)) or noise.min() < 0.0:
        raise InputError(
            f"reward_std must be a number or {rows} numbers, one a row, none negative; got shape"
            f" {noise.shape} with least {noise.min(initial=np.inf):.6g}."
        )
    return np.full(rows, noise)
