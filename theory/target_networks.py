r"""Target networks: K gradient steps towards a frozen target, then the target is replaced.

With :math:`M=I-\alpha C`, K steps of :math:`w\leftarrow w+\alpha(b+\gamma X\bar w-Cw)` from
:math:`w=\bar w` end at :math:`H_K\bar w` and a constant,

.. math:: H_K=M^K+(I-M^K)\,\gamma C^{-1}X,

so K = 1 is TD, :math:`H_1=I-\alpha A`, and K to infinity is the rollout of the linear model,
:math:`\gamma W_d`. The fixed point is that of TD for every K; whether it is reached depends on K, in either
direction. Here are the spectral radius of :math:`H_K` and the two loops as they are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from theory.checks import Array, Ints, as_array, check_count, check_shape, frozen
from theory.errors import InputError
from theory.problem import Problem
from theory.report import Condition
from theory.spectrum import Sides, rounding, sides_of_circle
from theory.td import td_fixed_point, td_system
from theory.trajectory import HUGE, Trajectory, observed_rate
from theory.whitening import whiten

IterationVerdict = Literal["stable", "unstable", "boundary"]
LARGEST_POWER = 1e70  # inner weights that have grown this much drown everything else in rounding


@dataclass(frozen=True, eq=False)
class TargetNetworks:
    r"""How fast, or whether at all, learning with a target network converges.

    Attributes:
        step_size: :math:`\alpha` of the inner loop.
        inner_steps: (m,), K: inner steps for each frozen target.
        radii: (m,), :math:`\rho(H_K)` on the row space of :math:`D^{1/2}Z`: the factor per frozen target.
        verdicts: (m,), "stable": the outer iteration converges from every start; "unstable": it does not;
            "boundary": the radius is 1 within rounding.
        limit_radius: :math:`\rho(\gamma W_d)`, what the radius tends to as K grows; ``None`` unless the inner
            loop converges.
        limit_verdict: of that radius; ``None`` likewise.
        inner_limit: :math:`2/\lambda_{\max}(C)`; the inner loop converges for step sizes below it.
        conditions: that the inner loop converges, that TD (K = 1) does, and that the limit does.
    """

    step_size: float
    inner_steps: Ints
    radii: Array
    verdicts: tuple[IterationVerdict, ...]
    limit_radius: float | None
    limit_verdict: IterationVerdict | None
    inner_limit: float
    conditions: tuple[Condition, ...]


def target_network_radius(
    problem: Problem, step_size: float, inner_steps: int | Sequence[int]
) -> TargetNetworks:
    r"""Return the spectral radius of learning with a target network that is replaced every K steps.

    .. math:: H_K=M^K+(I-M^K)\,\gamma C^{-1}X,\qquad M=I-\alpha C,\quad C=Z^\top DZ,\quad X=Z^\top DZ'

    In the coordinates of the left singular vectors of :math:`D^{1/2}Z`, on its row space, C is diagonal and
    :math:`C^{-1}X` is the whitened model matrix: no C is inverted, and dependent features do no harm.

    Args:
        problem: any problem; it need not have a fixed point.
        step_size: :math:`\alpha>0`.
        inner_steps: K, or several.

    Raises:
        InputError: a step size that is not positive and finite; K below 1 or not whole; a step size above
            :math:`2/\lambda_{\max}(C)` with so large a K that the inner weights grow 1e70 times.

    Example:
        >>> chain, r = [[0, 1], [1, 0]], [1, 0]  # TD converges, the rollout does not
        >>> flip = Problem.from_chain(chain, r, [[1], [-3]], [0.9, 0.1], 0.9)
        >>> found = target_network_radius(flip, 0.1, [1, 8, 10])
        >>> found.radii.round(3).tolist(), found.verdicts, round(found.limit_radius, 9)
        ([0.55, 0.989, 1.156], ('stable', 'stable', 'unstable'), 1.5)
    """
    check_step_size(step_size)
    steps = _check_inner_steps(inner_steps)
    curvature, G = _diagonal_coordinates(problem)
    largest = float(curvature.max(initial=0.0))
    _check_growth(step_size, largest, int(steps.max()))
    spectra = [sides_of_circle(_outer_matrix(step_size * curvature, G, K)) for K in steps.tolist()]
    limit_values, limit_sides = sides_of_circle(G)
    inner = _inner_condition(step_size, largest)
    limit = float(np.abs(limit_values).max(initial=0.0)) if inner.holds else None
    limit_verdict = _verdict(limit_sides) if inner.holds else None
    return TargetNetworks(
        step_size=float(step_size),
        inner_steps=steps,
        radii=frozen(np.array([np.abs(values).max(initial=0.0) for values, _ in spectra])),
        verdicts=tuple(_verdict(sides) for _, sides in spectra),
        limit_radius=limit,
        limit_verdict=limit_verdict,
        inner_limit=2.0 / largest if largest > 0.0 else math.inf,
        conditions=(inner, _td_condition(step_size, curvature, G), _limit_condition(limit, limit_verdict)),
    )


def target_network_trajectory(
    problem: Problem, *, step_size: float, inner_steps: int, outer_steps: int, w0: Any | None = None
) -> Trajectory:
    r"""Run the two loops as they are written and compare their rate with the prediction.

    Args:
        problem: must have a TD fixed point, which is that of every K.
        step_size: :math:`\alpha>0`.
        inner_steps: K.
        outer_steps: how often the target is replaced, at least 1.
        w0: (d,), the start; zeros by default. The observed rate is the predicted one only if the first error
            has a part along the slowest mode.

    Returns:
        The errors after each replacement of the target, the predicted rate :math:`\rho(H_K)`, and the rate
        measured from the errors.

    Raises:
        InputError: see :func:`target_network_radius`; a wrong start, or TD has no fixed point.

    Example:
        >>> flip = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> run = target_network_trajectory(flip, step_size=0.1, inner_steps=1, outer_steps=2)
        >>> run.error.round(9).tolist(), round(run.predicted_rate, 9)
        ([0.2, 0.11, 0.0605], 0.55)
    """
    found = target_network_radius(problem, step_size, [inner_steps])
    outer_steps = check_count("outer_steps", outer_steps)
    w = np.zeros(problem.d) if w0 is None else as_array("w0", w0)
    check_shape("w0", w, (problem.d,), "(features,)")
    fixed = td_fixed_point(problem)
    if fixed.w is None:
        raise InputError("TD has no fixed point on this problem, so no run of it has an error.")
    system, away = td_system(problem), np.eye(problem.d) - fixed.null_space @ fixed.null_space.T
    errors = [float(np.linalg.norm(away @ (w - fixed.w)))]
    for _ in range(outer_steps):
        target = system.b + problem.gamma * (system.X @ w)
        for _ in range(inner_steps):
            w = w + step_size * (target - system.C @ w)
        errors.append(float(np.linalg.norm(away @ (w - fixed.w))))
        if errors[-1] > HUGE:
            break
    error = np.array(errors)
    return Trajectory(error, float(found.radii[0]), observed_rate(error, float(np.linalg.norm(fixed.w))))


def inner_step_limit(problem: Problem) -> float:
    r"""Return :math:`2/\lambda_{\max}(C)`: the inner loop converges for positive step sizes below it.

    Infinite if the features are zero wherever there is weight.

    Example:
        >>> inner_step_limit(Problem.from_chain([[0.5]], [1.0], [[2.0]], [1.0], 0.9))
        0.5
    """
    largest = float(np.linalg.eigvalsh(td_system(problem).C)[-1])
    return 2.0 / largest if largest > 0.0 else math.inf


def outer_matrices(problem: Problem, step_size: float, inner_steps: Sequence[int]) -> list[Array]:
    r"""Return :math:`H_K` on the row space, (k, k) for each K, by running the inner loop on a basis of it.

    It takes as many steps as the largest K, and knows nothing of the formula behind the radius.

    Raises:
        InputError: see :func:`target_network_radius`.

    Example:
        >>> flip = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> [round(float(H.item()), 9) for H in outer_matrices(flip, 0.1, [2, 1])]
        [0.181, 0.55]
    """
    check_step_size(step_size)
    steps = _check_inner_steps(inner_steps)
    system, V = td_system(problem), whiten(problem).V
    target, W, seen = problem.gamma * (system.X @ V), V, {}
    for taken in range(1, int(steps.max()) + 1):
        W = W + step_size * (target - system.C @ W)
        if taken in steps:
            seen[taken] = V.T @ W
    return [seen[K] for K in steps.tolist()]


def check_step_size(step_size: float) -> None:
    """Raise unless the step size is positive and finite.

    Raises:
        InputError: it is not.

    Example:
        >>> check_step_size(0.1)
    """
    if not (isinstance(step_size, Real) and 0.0 < step_size < math.inf):
        raise InputError(f"step_size must be positive and finite, got {step_size!r}.")


def _check_inner_steps(inner_steps: int | Sequence[int]) -> Ints:
    """Return (m,) whole numbers, at least one of them, none below 1."""
    steps = np.atleast_1d(np.array(inner_steps))
    if steps.ndim != 1 or steps.dtype.kind not in "iu" or not len(steps) or steps.min() < 1:
        raise InputError(f"inner_steps must be a whole number from 1, or several, got {inner_steps!r}.")
    steps = steps.astype(np.int64)
    steps.setflags(write=False)
    return steps


def _diagonal_coordinates(problem: Problem) -> tuple[Array, Array]:
    r"""Return C and :math:`\gamma C^{-1}X` on the row space in coordinates where C is diagonal.

    The former as its eigenvalues, (k,); the latter, (k, k), is similar to :math:`\gamma W_d`.
    """
    white = whiten(problem)
    if white.rank == 0:
        return np.zeros(0), np.zeros((0, 0))
    # D^(1/2) Z V = Q B with orthonormal columns in Q, and B = U diag(s) W^T.
    U, s, _ = np.linalg.svd(white.R * white.scale)
    return s**2, problem.gamma * (U.T @ white.M @ U)


def _outer_matrix(rates: Array, G: Array, inner_steps: int) -> Array:
    """Return H_K in the coordinates of :func:`_diagonal_coordinates`; ``rates`` are alpha times C."""
    kept = (1.0 - rates) ** inner_steps
    return np.diag(kept) + (1.0 - kept)[:, None] * G


def _check_growth(step_size: float, largest: float, most_steps: int) -> None:
    growth = abs(1.0 - step_size * largest)
    if growth > 1.0 and most_steps * math.log(growth) > math.log(LARGEST_POWER):
        raise InputError(
            f"step_size {step_size:g} is above 2 / lambda_max(C) = {2.0 / largest:.6g}, where the inner loop"
            f" diverges, and inner_steps {most_steps} is so many that its weights grow more than"
            f" {LARGEST_POWER:g} times; take a smaller step size or fewer inner steps."
        )


def _verdict(sides: Sides) -> IterationVerdict:
    if np.any(sides < 0):
        return "unstable"
    return "boundary" if np.any(sides == 0) else "stable"


def _inner_condition(step_size: float, largest: float) -> Condition:
    """Return whether the inner loop converges: alpha lambda_max(C) below 2, undecided within rounding."""
    value = step_size * largest
    margin = 2.0 - value
    holds = None if abs(margin) <= rounding(1, 2.0) else margin > 0.0
    why = "else the inner loop moves away from the least-squares fit to its target, the farther the longer"
    return Condition("inner loop converges", holds, value, 2.0, margin, why)


def _td_condition(step_size: float, curvature: Array, G: Array) -> Condition:
    values, sides = sides_of_circle(_outer_matrix(step_size * curvature, G, 1))
    why = "else TD without a target network diverges; more inner steps may rescue it"
    radius = float(np.abs(values).max(initial=0.0))
    return _radius_condition("TD converges (K = 1)", radius, _verdict(sides), why)


def _limit_condition(limit: float | None, verdict: IterationVerdict | None) -> Condition:
    name = "rollout converges (K to infinity)"
    why = "else many inner steps diverge, whatever TD does"
    if limit is None or verdict is None:
        return Condition(name, None, None, 1.0, None, f"{why}; here the inner loop has no limit")
    return _radius_condition(name, limit, verdict, why)


def _radius_condition(name: str, radius: float, verdict: IterationVerdict, why: str) -> Condition:
    holds = {"stable": True, "unstable": False, "boundary": None}[verdict]
    return Condition(name, holds, radius, 1.0, 1.0 - radius, why)
