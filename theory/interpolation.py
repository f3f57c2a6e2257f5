r"""The value error against the number of features, from one feature to as many as there are rows.

For features of one kind, taken in order, a sweep compares the error of the TD fixed point,
:math:`\|Zw-Q^\pi\|`, with the best that any weights could do, :math:`\|Q^\pi-\Pi Q^\pi\|_D`. The best
error cannot grow with the number of features, since their spans are nested; that of TD can and does.
Krylov features :math:`r, P^\pi r, \dots` (the Bellman error basis functions of Parr et al. 2007, 2008) reach
zero as soon as their span is invariant, however few they are. Drawing the curves is in ``theory.plots``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.chains import pair_chain, state_chain
from theory.checks import Array, Ints, to_dense
from theory.errors import InputError
from theory.features import Features
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.regression import weighted_regression
from theory.resolvent import DENSE_LIMIT
from theory.rollout import h_step_solution
from theory.splitmix import SplitMix64
from theory.td import Kind
from theory.value_error import true_values
from theory.weights import Weights

FEATURE_KINDS = ("random", "svd", "eigen", "krylov")
INDEPENDENT = 1e-10  # what is left of a vector when others are taken out, relative to it


@dataclass(frozen=True)
class SweepPoint:
    r"""One number of features.

    Attributes:
        d: how many were asked for.
        rank: rank of the weighted features; below d if the kind has no more of them.
        kind: of the solutions of :math:`(I-\gamma W_d)w=w_r` in the row space.
        error_sup: :math:`\|Zw-Q^\pi\|_\infty`; ``None`` unless the solution is unique, as is the next.
        error_D: :math:`\|Zw-Q^\pi\|_D`.
        best_sup: :math:`\|\Pi Q^\pi-Q^\pi\|_\infty` of the projection in the D-norm.
        best_D: :math:`\|\Pi Q^\pi-Q^\pi\|_D`, below which no weights come.
    """

    d: int
    rank: int
    kind: Kind
    error_sup: float | None
    error_D: float | None
    best_sup: float
    best_D: float


@dataclass(frozen=True)
class FeatureSweep:
    """The errors of one kind of features, in the order in which the numbers were asked for.

    Attributes:
        features: one of :data:`FEATURE_KINDS`.
        points: one for each number of features.
        rows: n, the number of live rows; with that many independent features every error is zero.
        size_sup: largest absolute true value, the scale of the errors in the sup norm.
        size_D: the D-norm of the true values.
    """

    features: str
    points: tuple[SweepPoint, ...]
    rows: int
    size_sup: float
    size_D: float

    @property
    def dims(self) -> Ints:
        """The numbers of features, (points,)."""
        return np.array([point.d for point in self.points], dtype=np.int64)

    def curve(self, name: str) -> Array:
        """Return one measurement against the number of features, (points,), NaN where there is none.

        Raises:
            InputError: there is no such measurement.

        Example:
            >>> point = SweepPoint(1, 1, "none", None, None, 0.5, 0.25)
            >>> FeatureSweep("svd", (point,), 4, 1.0, 1.0).curve("error_D").tolist()
            [nan]
        """
        names = ("error_sup", "error_D", "best_sup", "best_D", "rank")
        if name not in names:
            raise InputError(f"name must be one of {', '.join(names)}; got {name!r}.")
        values = [getattr(point, name) for point in self.points]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def feature_sweep(
    mdp: TabularMDP,
    policy: Policy,
    weights: Weights,
    features: str,
    dims: Iterable[int],
    *,
    seed: int = 0,
) -> FeatureSweep:
    """Measure the value error of the TD fixed point for growing numbers of features of one kind.

    Args:
        mdp: n live rows.
        policy: whose values are approximated.
        weights: of the data.
        features: "random" (uniform numbers), "svd" (left singular vectors of the resolvent), "eigen"
            (see :func:`eigen_features`) or "krylov". Each number of features takes the first so many of
            one sequence. "svd" is dense, of cost n^3, and "eigen" in the number of states; both up to 2000.
        dims: numbers of features, each from 1 to n; any order.
        seed: of "random".

    Raises:
        InputError: an unknown kind, no number or one outside 1 to n, more rows or states than the dense
            limit, or infinite values.

    Example:
        >>> from theory import random_walk
        >>> walk = random_walk(5)
        >>> policy = Policy.uniform(walk)
        >>> sweep = feature_sweep(walk, policy, Weights.uniform(walk), "krylov", [1, 3, 5])
        >>> [point.rank for point in sweep.points], bool(sweep.points[-1].error_sup < 1e-12)
        ([1, 3, 5], True)
    """
    counts = [int(d) for d in dims]
    n = len(mdp.live_states()) * mdp.num_actions
    if not counts or min(counts) < 1 or max(counts) > n:
        raise InputError(f"dims must be numbers from 1 to the {n} live rows, got {counts}.")
    Z = _sequence(features, mdp, policy, max(counts), seed).Z
    problems = [Problem(mdp, policy, Features(Z[..., :d], features), weights) for d in counts]
    q = true_values(problems[0]).value
    points = tuple(_point(problem, q, d) for problem, d in zip(problems, counts, strict=True))
    return FeatureSweep(features, points, n, float(abs(q).max()), _norm(problems[0], q))


def eigen_features(mdp: TabularMDP, policy: Policy, d: int) -> Features:
    r"""Return up to d orthonormal features that span eigenvectors of :math:`P^\pi`, largest modulus first.

    An eigenvector u of the chain over states, :math:`\Pi Pu=\lambda u`, gives :math:`Pu` over rows; a complex
    pair gives its real and its imaginary part. There are fewer than d if no more are independent. Up to a cut
    through a pair the span is invariant, so that the model of the dynamics is exact.

    Raises:
        InputError: d outside 1 to the number of live rows, or more states than the dense limit of 2000.

    Example:
        >>> mdp = TabularMDP.from_dense([[[1.0], [1.0]]], [[0, 0]], 0.9)
        >>> eigen_features(mdp, Policy.uniform(mdp), 2).Z.round(6).tolist()
        [[[0.707107], [0.707107]]]
    """
    chain = state_chain(mdp, policy)
    _check_dense("eigen", len(chain.states), "states")
    A = mdp.num_actions
    rows = (chain.states[:, None] * A + np.arange(A)).reshape(-1)
    if not 1 <= d <= len(rows):
        raise InputError(f"d must be from 1 to the {len(rows)} live rows, got {d}.")
    values, vectors = np.linalg.eig(to_dense(chain.P))
    order = sorted(range(len(values)), key=lambda j: _leading(complex(values[j])))
    parts = [part for j in order if values[j].imag >= 0.0 for part in _real_parts(values[j], vectors[:, j])]
    lifted = np.asarray(mdp.rows[rows][:, chain.states] @ np.column_stack(parts))
    basis = _independent(lifted, d)
    full = np.zeros((mdp.r.size, basis.shape[1]))
    full[rows] = basis
    return Features(full.reshape(*mdp.r.shape, -1), "eigen")


def _sequence(kind: str, mdp: TabularMDP, policy: Policy, d: int, seed: int) -> Features:
    """Return up to d features of a kind; the first of them are the same for every d."""
    if kind == "random":
        # One feature after another, unlike Features.random: the first of them do not depend on d.
        columns = 2.0 * SplitMix64(seed).uniform(d, *mdp.r.shape) - 1.0
        return Features(np.moveaxis(columns, 0, -1), kind)
    if kind == "svd":
        _check_dense(kind, len(pair_chain(mdp, policy, mdp.live_states())[1]), "rows")
        return Features.svd(mdp, policy, d)
    if kind == "eigen":
        return eigen_features(mdp, policy, d)
    if kind == "krylov":
        return Features.krylov(mdp, policy, d)
    raise InputError(f"features must be one of {', '.join(FEATURE_KINDS)}; got {kind!r}.")


def _check_dense(kind: str, size: int, what: str) -> None:
    if size > DENSE_LIMIT:
        raise InputError(
            f"{kind} features are dense: they need at most {DENSE_LIMIT} {what}, got {size}. "
            "Use random or krylov."
        )


def _point(problem: Problem, q: Array, d: int) -> SweepPoint:
    """Measure one problem whose true values are known."""
    fit = weighted_regression(problem.Z, q[:, None], problem.mu)
    best = problem.Z @ fit.coefficients[:, 0] - q
    solution = h_step_solution(problem, 1)
    error = problem.Z @ solution.w - q if solution.w is not None and solution.kind == "unique" else None
    return SweepPoint(
        d=d,
        rank=fit.rank,
        kind=solution.kind,
        error_sup=None if error is None else float(abs(error).max()),
        error_D=None if error is None else _norm(problem, error),
        best_sup=float(abs(best).max()),
        best_D=_norm(problem, best),
    )


def _norm(problem: Problem, values: Array) -> float:
    return float(np.sqrt(problem.mu @ values**2))


def _leading(value: complex) -> tuple[float, float]:
    """Return the place of an eigenvalue in order; rounding must not decide between equal moduli."""
    return -round(abs(value), 10), -round(value.real, 10)


def _real_parts(value: Any, vector: Any) -> list[Array]:
    return [vector.real] if value.imag == 0.0 else [vector.real, vector.imag]


def _independent(columns: Array, d: int) -> Array:
    """Return an orthonormal basis of the first d independent columns, in their order."""
    basis = np.zeros((len(columns), 0))
    for column in columns.T:
        size, left = float(np.linalg.norm(column)), column
        for _ in range(2):  # once is not enough for orthogonality in floating point
            left = left - basis @ (basis.T @ left)
        if basis.shape[1] < d and np.linalg.norm(left) > INDEPENDENT * max(size, INDEPENDENT):
            basis = np.column_stack([basis, left / np.linalg.norm(left)])
    return basis
