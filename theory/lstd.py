r"""How least-squares TD behaves on sampled transitions: the rate of its error, and the constant.

From N independent transitions :math:`(z_t,r_t,z_t')` LSTD solves :math:`\hat A\hat w=\hat b` with
:math:`\hat A=\frac1N\sum z_t(z_t-\gamma z_t')^\top`, :math:`\hat b=\frac1N\sum z_tr_t` (Bradtke and Barto
1996). It is the model fitted to the sample and solved, so the law below is that of the linear model too:

.. math:: \sqrt N(\hat w-w^*)\to\mathcal N(0,\,A^{-1}\Sigma A^{-\top}),\qquad
          \Sigma=\mathrm E[zz^\top\delta^2],\quad\delta=r+\gamma z'^\top w^*-z^\top w^*.

What the law needs and how samples are drawn is in ``sampling_law``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from theory.checks import Array, Bools, Ints, check_count, frozen
from theory.errors import InputError
from theory.problem import Problem
from theory.report import Condition, Verdict
from theory.sampling_law import draw_errors, sampling_law
from theory.td import FixedPoint

NONLINEAR = 0.01  # largest curvature: the law linearises the solution of a sampled system
SECOND_ORDER = (
    10.0  # Gaussian terms of second order change the squared error by at most 9 times the curvature
)
SURE = 3.29  # standard errors a statistic may be off before the law is doubted: one in a thousand


@dataclass(frozen=True, eq=False)
class LstdStudy:
    r"""Sampled LSTD against its law. Numbers that do not exist on a problem are ``None``.

    Attributes:
        verdict: "pass" if slope and constant are those of the law, "fail" if one is not, "inconclusive" if
            there is no law (no unique fixed point, or no error at all) or samples are too few for it.
        sizes: (m,), N, ascending.
        runs: independent samples of each size.
        rewards: how they were drawn, in words.
        conditions: what the law needs, then what it says.
        w: (d,), the fixed point in the row space that the estimates tend to.
        mse: (m,), mean of :math:`\|\hat w-w^*\|^2` over the runs; where a run's system is singular its
            solution of least D-norm is taken.
        mse_error: (m,), standard errors of ``mse``.
        singular: (m,), how many runs had a singular system.
        curvature: (m,), :math:`\mathrm E\|A^{-1}(\hat A-A)\|_F^2` with features of D-norm one: the law, which
            is linear in :math:`\hat A`, needs it to be small.
        used: (m,), which sizes the comparison takes: curvature at most 0.01.
        slope: of the logarithm of the root of ``mse`` against that of N over these sizes; the law says -1/2.
        slope_ci: its 95% confidence interval.
        predicted_trace: :math:`\mathrm{tr}\,A^{-1}\Sigma A^{-\top}`, the limit of N times ``mse``.
        ratio: (m,), N times ``mse`` over the predicted trace.
        covariance: (d, d), :math:`A^{-1}\Sigma A^{-\top}`.
    """

    verdict: Verdict
    sizes: Ints
    runs: int
    rewards: str
    conditions: tuple[Condition, ...]
    w: Array | None = None
    mse: Array | None = None
    mse_error: Array | None = None
    singular: Ints | None = None
    curvature: Array | None = None
    used: Bools | None = None
    slope: float | None = None
    slope_ci: tuple[float, float] | None = None
    predicted_trace: float | None = None
    ratio: Array | None = None
    covariance: Array | None = None


def lstd_study(
    problem: Problem, sizes: Sequence[int], runs: int, seed: int, *, reward_std: Any = 0.0
) -> LstdStudy:
    r"""Draw samples of several sizes, solve LSTD on each, and compare its errors with their law.

    Rows are drawn from :math:`\mu`, the next row from :math:`P^\pi` (so the next action is drawn too), each
    transition independently of the others. Rewards are the expected ones unless ``reward_std`` is given: a
    problem stores no distribution of rewards.

    Args:
        problem: any problem; with dependent features everything happens in their row space.
        sizes: N, at least two different ones.
        runs: samples of each size, at least 2.
        seed: of NumPy's generator; the same seed gives the same study with the same NumPy.
        reward_std: standard deviation of Gaussian noise on the rewards, a number or (rows,).

    Raises:
        InputError: sizes that are not two different whole numbers from 1, fewer than 2 runs, a negative seed
            or standard deviation.

    Example:
        >>> fair = Problem.from_chain([[0.5, 0.5]] * 2, [1, 0], [[1, 0], [0, 1]], [0.5, 0.5], 0.5)
        >>> study = lstd_study(fair, [1000, 4000, 16000], runs=400, seed=0)
        >>> study.verdict, study.w.round(9), round(study.predicted_trace, 9)
        ('pass', array([1.5, 0.5]), 0.625)
        >>> study.slope_ci[0] < -0.5 < study.slope_ci[1]
        True
    """
    counts = _check_sizes(sizes)
    runs, seed = check_count("runs", runs, 2), check_count("seed", seed, 0)
    law, fixed = sampling_law(problem, reward_std=reward_std)
    drawn_as = "their expectation, with Gaussian noise" if np.any(reward_std) else "their expectation"
    study = LstdStudy("inconclusive", counts, runs, drawn_as, (_unique(fixed),))
    if law is None:
        return study
    streams = np.random.SeedSequence(seed).spawn(len(counts))
    drawn = [
        draw_errors(law, N, runs, np.random.default_rng(stream))
        for N, stream in zip(counts.tolist(), streams, strict=True)
    ]
    squares = np.array([(errors**2).sum(axis=1) for errors, _ in drawn])
    singular = np.array([bad for _, bad in drawn])
    study = replace(
        study,
        w=frozen(law.T @ law.y),
        mse=squares.mean(axis=1),
        mse_error=squares.std(axis=1, ddof=1) / math.sqrt(runs),
        singular=singular,
        curvature=law.curvature / counts,
        used=law.curvature / counts <= NONLINEAR,
        predicted_trace=float(np.trace(law.covariance)),
        covariance=law.covariance,
    )
    return _judge(study, law.floor)


def sizes_for_law(problem: Problem, count: int = 5) -> list[int]:
    """Return sample sizes, each four times the one before, all large enough for the law to be judged.

    Without a unique fixed point there is no such size, and they start from 100.

    Raises:
        InputError: see :func:`theory.sampling_law.sampling_law`.

    Example:
        >>> sizes_for_law(Problem.from_chain([[0.75]], [1.0], [[1.0]], [1.0], 1.0), 3)
        [600, 2400, 9600]
    """
    law, _ = sampling_law(problem)
    least = 100 if law is None else max(100, round(2.0 * law.curvature / NONLINEAR))
    return [least * 4**i for i in range(count)]


def _judge(study: LstdStudy, floor: float) -> LstdStudy:
    """Compare the constant, and the slope over the sizes that the law covers, with the law."""
    mse, mse_error, used, curvature = study.mse, study.mse_error, study.used, study.curvature
    if mse is None or mse_error is None or used is None or curvature is None:
        return study
    trace = study.predicted_trace or 0.0
    conditions = (*study.conditions, _estimable(trace, floor), _enough(int(used.sum())))
    if not trace > floor:
        return replace(study, conditions=conditions)
    ratio, relative = study.sizes * mse / trace, mse_error / mse
    study = replace(study, conditions=conditions, ratio=ratio)
    if used.sum() < 2:
        return study
    x = np.log(study.sizes[used])
    slope, error = _slope(x, 0.5 * np.log(mse[used]), 0.5 * relative[used])
    bend = SECOND_ORDER * curvature[used]
    says = (
        _slope_condition(slope, SURE * error + 0.5 * float(bend[0] / (x[-1] - x[0]))),
        _constant(float(ratio[used][-1]), float(SURE * (ratio * relative)[used][-1] + bend[-1])),
    )
    return replace(
        study,
        verdict="pass" if all(condition.holds for condition in says) else "fail",
        conditions=(*conditions, *says),
        slope=slope,
        slope_ci=(slope - 1.96 * error, slope + 1.96 * error),
    )


def _slope(x: Array, y: Array, errors: Array) -> tuple[float, float]:
    """Return the slope of y against x and its standard error, each y weighted by its own."""
    weights = 1.0 / np.maximum(errors, 1e-12) ** 2
    away = x - np.average(x, weights=weights)
    spread = float(weights @ away**2)
    return float(weights @ (away * y)) / spread, 1.0 / math.sqrt(spread)


def _unique(fixed: FixedPoint) -> Condition:
    why = "else the estimates tend to no one point, and no law holds"
    return Condition(
        "exactly one fixed point", fixed.kind == "unique", fixed.nullity, 0.0, -fixed.nullity, why
    )


def _estimable(trace: float, floor: float) -> Condition:
    why = "else the TD error is 0 on every transition, and any sample that suffices gives w exactly"
    return Condition("sampling leaves an error", trace > floor, trace, floor, trace - floor, why)


def _enough(used: int) -> Condition:
    why = f"else a slope cannot be told: a size counts if its curvature is at most {NONLINEAR}"
    return Condition("at least two sizes are large enough", used >= 2, used, 2.0, used - 2.0, why)


def _slope_condition(slope: float, allowed: float) -> Condition:
    why = "the law says so, up to chance and terms of second order"
    margin = allowed - abs(slope + 0.5)
    return Condition("the error falls with slope -1/2", margin >= 0.0, slope, -0.5, margin, why)


def _constant(ratio: float, allowed: float) -> Condition:
    why = (
        "N times the mean squared error over the predicted trace, at the largest size, is 1 up to chance and"
        " terms of second order"
    )
    margin = allowed - abs(ratio - 1.0)
    return Condition("the constant is the predicted trace", margin >= 0.0, ratio, 1.0, margin, why)


def _check_sizes(sizes: Sequence[int]) -> Ints:
    """Return (m,) different whole numbers from 1, ascending, at least two of them."""
    counts = np.array(sizes)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 1).any() or len(np.unique(counts)) < 2:
        raise InputError(f"sizes must hold at least two different whole numbers from 1, got {sizes!r}.")
    return np.unique(counts).astype(np.int64)
