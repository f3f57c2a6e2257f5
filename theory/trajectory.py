r"""The path of expected TD, and whether it follows the rate that the eigenvalues predict.

The error of :math:`w_{t+1}=w_t+\alpha(b-Aw_t)` is :math:`(I-\alpha A)^t` applied to the first error, so it
shrinks like :math:`\rho(I-\alpha A)^t` on the row space. Here the iteration is run as written, and its rate
is measured from the errors alone. :func:`expected_errors` has them without running it: powers applied to
the first error, and what rounding allows at each step, so that a run can be found wrong at any step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from theory.checks import EPS, Array, as_array, check_count, check_shape
from theory.errors import InputError
from theory.problem import Problem
from theory.spectrum import rounding, spectral_norm
from theory.stability import td_spectrum
from theory.td import FixedPoint, td_fixed_point, td_system
from theory.whitening import whiten

HUGE = 1e100  # an iterate this large has diverged
MOST_FEATURES = 300  # beyond, the norms of all powers take too long


@dataclass(frozen=True, eq=False)
class Trajectory:
    r"""A run of expected TD.

    Attributes:
        error: (steps + 1,), Euclidean distance of each iterate from the set of fixed points; shorter if it
            exceeded 1e100.
        predicted_rate: the spectral radius of :math:`I-\alpha A` on the row space.
        observed_rate: factor by which the error changed per step over the second half of the steps at which
            it was not rounding; ``None`` if there are fewer than four such steps.
    """

    error: Array
    predicted_rate: float
    observed_rate: float | None


def td_trajectory(problem: Problem, *, step_size: float, steps: int, w0: Any | None = None) -> Trajectory:
    r"""Run expected semi-gradient TD and compare its rate with the prediction.

    Args:
        problem: must have a fixed point.
        step_size: :math:`\alpha`, finite and not zero: with zero every w would stand still.
        steps: number of updates, at least 1.
        w0: (d,), the start; zeros by default. The observed rate is the predicted one only if the first error
            has a part along the slowest mode.

    Raises:
        InputError: a bad step size, number of steps or start, or TD has no fixed point.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)  # A = 1
        >>> run = td_trajectory(problem, step_size=0.5, steps=3)
        >>> run.error.round(9).tolist(), round(run.predicted_rate, 9)
        ([1.5, 0.75, 0.375, 0.1875], 0.5)
    """
    if not (isinstance(step_size, Real) and 0.0 < abs(float(step_size)) <= HUGE):
        raise InputError(
            f"step_size must be finite and not zero, at most {HUGE:g} in size, got {step_size!r}."
        )
    steps = check_count("steps", steps)
    w = np.zeros(problem.d) if w0 is None else as_array("w0", w0)
    check_shape("w0", w, (problem.d,), "(features,)")
    target = td_fixed_point(problem)
    if target.w is None:
        raise InputError("TD has no fixed point on this problem, so no run of it has an error.")
    system, errors = td_system(problem), [_distance(w, target, target.w)]
    for _ in range(steps):
        w = w + step_size * (system.b - system.A @ w)
        errors.append(_distance(w, target, target.w))
        if errors[-1] > HUGE:
            break
    error = np.array(errors)
    values = td_spectrum(problem)[0]
    predicted = float(np.abs(1.0 - step_size * values).max(initial=0.0))
    return Trajectory(error, predicted, observed_rate(error, float(np.linalg.norm(target.w))))


@dataclass(frozen=True, eq=False)
class ExpectedErrors:
    r"""What the errors of a run must be.

    Attributes:
        error: (steps + 1,), :math:`\|(I-\alpha A)^te_0\|`, the part along other fixed points left out.
        tolerance: (steps + 1,), what rounding in the run, in the fixed point and here can account for.
        rate: the spectral radius of :math:`I-\alpha A` on the row space.
        rate_tolerance: how far rounding can move that, by Elsner's bound, defective matrices included.
    """

    error: Array
    tolerance: Array
    rate: float
    rate_tolerance: float


def expected_errors(problem: Problem, *, step_size: float, steps: int, w0: Any) -> ExpectedErrors:
    r"""Return the errors of a run of expected TD from the powers of :math:`I-\alpha A`.

    Args:
        problem: must have a fixed point.
        step_size: finite and not zero.
        steps: number of updates.
        w0: (d,), the start.

    Raises:
        InputError: there is no fixed point, or more than 300 features, where this takes too long.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)  # w = 1.5
        >>> expected_errors(problem, step_size=0.5, steps=2, w0=[0.0]).error.round(9).tolist()
        [1.5, 0.75, 0.375]
    """
    white, target = whiten(problem), td_fixed_point(problem)
    if target.w is None:
        raise InputError("TD has no fixed point on this problem, so no run of it has an error.")
    if problem.d > MOST_FEATURES:
        raise InputError(f"The norms of all powers are computed for at most {MOST_FEATURES} features.")
    away, A = as_array("w0", w0) - target.w, td_system(problem).A
    step, now, power = np.eye(problem.d) - step_size * A, away, np.eye(problem.d)
    errors, norms = [], []
    for _ in range(steps + 1):
        errors.append(float(np.linalg.norm(now - target.null_space @ (target.null_space.T @ now))))
        norms.append(float(np.linalg.norm(power)))
        now, power = step @ now, step @ power
    scale = spectral_norm(white.R * white.scale) ** 2 * (1.0 + problem.gamma * white.next_norm)
    each, size = rounding(max(problem.d, 1), 1.0 + abs(step_size) * scale), max(white.rank, 1)
    inner = np.eye(white.rank) - step_size * td_spectrum(problem)[2]
    widest = 2.0 * spectral_norm(inner) + each
    return ExpectedErrors(
        error=np.array(errors),
        tolerance=_carried(np.array(norms), each, target.w, away)
        + (1.0 + np.array(norms)) * _off(target, target.w, A, scale),
        rate=float(np.abs(np.linalg.eigvals(inner)).max(initial=0.0)),
        rate_tolerance=float(widest ** (1.0 - 1.0 / size) * each ** (1.0 / size)),
    )


def _carried(norms: Array, each: float, limit: Array, away: Array) -> Array:
    """Return what a rounding at each step becomes by the remaining steps, (steps + 1,)."""
    powers = np.convolve(norms, norms)[: len(norms)]
    grown: Array = np.linalg.norm(away) * powers + np.linalg.norm(limit) * np.cumsum(norms)
    return each * grown


def _off(target: FixedPoint, limit: Array, matrix: Array, scale: float) -> float:
    """Return how far rounding may have moved the fixed point."""
    values = np.linalg.svd(matrix, compute_uv=False)[: len(limit) - target.nullity]
    least = float(values.min(initial=math.inf))
    return rounding(len(limit), scale) * float(np.linalg.norm(limit)) / least if least > 0.0 else math.inf


def observed_rate(error: Array, size: float) -> float | None:
    """Return the factor per step at which errors change, from the slope of their logarithm.

    Steps from the first error within rounding of ``size``, the norm of the limit, are left out, and so is the
    first half of the others: there faster modes are still visible.

    Example:
        >>> round(observed_rate(0.5 ** np.arange(20.0), 0.0), 9)
        0.5
    """
    floor = 1e6 * EPS * max(size, float(error[0]))
    rounded = np.flatnonzero(error <= floor)
    usable = int(rounded[0]) if len(rounded) else len(error)
    if usable < 4:
        return None
    steps = np.arange(usable // 2, usable)
    # Complex modes make the error swing about the line; a taper keeps a swing cut short from tilting it.
    taper = np.hanning(len(steps) + 2)[1:-1]
    return float(np.exp(np.polyfit(steps, np.log(error[steps]), 1, w=taper)[0]))


def first_error(problem: Problem, w0: Array) -> float:
    """Return the distance of a start, (d,), from the set of fixed points; infinite if there is none.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> round(first_error(problem, np.zeros(1)), 9)
        1.5
    """
    target = td_fixed_point(problem)
    return math.inf if target.w is None else _distance(w0, target, target.w)


def _distance(w: Array, target: FixedPoint, nearest: Array) -> float:
    away = w - nearest
    return float(np.linalg.norm(away - target.null_space @ (target.null_space.T @ away)))
