r"""The inequalities of theorem 2: the ladder from the exact resolvent bound to the published one.

At the solution :math:`w` of :math:`(I-\gamma W_d)w=w_r` the value error is :math:`Ge` with
:math:`e=\epsilon_r+\gamma\epsilon_dw` (see ``value_error``). Each rung gives away a little more, at
every row, and each has a supremum form with :math:`H=\|G\|_\infty`:

.. math:: |VE| \le G|e| \le G(|\epsilon_r|+\gamma|\epsilon_dw|) \le G(|\epsilon_r|+\gamma|\epsilon_d||w|)
          \le G(|\epsilon_r|+\gamma\|w\|_\infty\|\epsilon_d\|_1).

The second group bounds the norm weighted by the data, :math:`\|x\|_D^2=\sum\mu x^2`. A bound that
does not apply is None, and ``inapplicable`` says why; nothing is ever returned as infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from theory.checks import Array
from theory.problem import Problem
from theory.spectrum import rounding
from theory.value_error import OneStep, ValueErrorSplit, at_solution
from theory.weighted_norms import WeightedNorms, weighted_norms

POINTWISE = ("B1", "B2", "B25", "B3")
SUPREMUM = ("S1", "S2", "S25", "S3", "published")
WEIGHTED = ("oblique", "sigma", "cea", "kappa", "residual", "loss_to_value")


@dataclass(frozen=True, eq=False)
class BoundLadder:
    r"""Bounds on the value error of the theorem-1 solution; what does not apply is None.

    Attributes:
        lower: :math:`\max|e|/(1+\gamma)`, never above :math:`\|VE\|_\infty`.
        B1: (n,), :math:`G|e|`.
        B2: (n,), :math:`G(|\epsilon_r|+\gamma|\epsilon_dw|)`.
        B25: (n,), :math:`G(|\epsilon_r|+\gamma|\epsilon_d||w|)`, the least B3
            over all scales of the features.
        B3: (n,), :math:`G(|\epsilon_r|+\gamma\|w\|_\infty\|\epsilon_d\|_1)`.
        S1, S2, S25, S3: H times the largest entry of what G is applied to in B1, B2, B25, B3.
        published: S3 without the discount in front of the dynamics term, as the circulating text has
            it; the text writes :math:`1/(1-\gamma)` for H, the same number if nothing terminates.
        oblique: :math:`\|ZA^{-1}Z^\top D(I-\gamma P)\|_D\,\|Q-\Pi Q\|_D`, the exact worst case over rewards.
        sigma: :math:`\|Q-\Pi Q\|_D/\sqrt{1-\sigma^2}`, if :math:`\sigma=\gamma\|P\|_D<1`.
        cea: :math:`\|Q-\Pi Q\|_D\sqrt{1+(\sigma/(1-\tau))^2}`, if :math:`\tau<1`.
        kappa: :math:`\|Q-\Pi Q\|_D/\sqrt{1-\gamma^2\kappa}`, if :math:`\gamma^2\kappa<1`.
        residual: :math:`\|G\|_D\|e\|_D`.
        loss_to_value: :math:`\|G\|_D(\sqrt{E_D\epsilon_r^2}+\gamma\|w\|_2\sqrt{E_D\|\epsilon_d\|^2})`, from
            the two training losses alone.
        H: :math:`\|G\|_\infty`; finite at :math:`\gamma=1` if everything terminates.
        tightness: truth over bound for every bound that applies, 1 if attained: the median over the
            rows for B1 to B3 and for S1 to ``published``, so that they compare; the ratio of norms for the
            bounds on a norm, bound over truth for ``lower``.
        inapplicable: the bounds that are None, and why.
        error_sup: :math:`\|VE\|_\infty`.
        error_D: :math:`\|VE\|_D`.
        best_D: :math:`\|Q-\Pi Q\|_D`, the least error that any weights could have; None as they are.
        factors: what multiplies ``best_D`` in oblique, sigma, cea and kappa.
        rounding: every inequality holds up to this much: what the identity of the value error may be off by,
            and in the weighted norm also the error of w itself and of what the bounds are made of.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> ladder = bounds(problem)
        >>> ladder.B1.round(9).tolist(), round(ladder.published, 9), round(ladder.H, 9)
        ([1.5, 1.0], 3.2, 2.0)
    """

    lower: float | None
    B1: Array | None
    B2: Array | None
    B25: Array | None
    B3: Array | None
    S1: float | None
    S2: float | None
    S25: float | None
    S3: float | None
    published: float | None
    oblique: float | None
    sigma: float | None
    cea: float | None
    kappa: float | None
    residual: float | None
    loss_to_value: float | None
    H: float
    tightness: dict[str, float] = field(repr=False)
    inapplicable: dict[str, str] = field(repr=False)
    error_sup: float
    error_D: float
    best_D: float | None
    factors: dict[str, float] = field(repr=False)
    rounding: float


def bounds(problem: Problem) -> BoundLadder:
    r"""Compute every bound of theorem 2 at the theorem-1 solution, and how tight each one is.

    If :math:`(I-\gamma W_d)w=w_r` has no solution all of them are None, with the reason.

    Args:
        problem: n rows, d features. The bounds in the weighted norm need that no row without weight is
            reached from one with weight.

    Raises:
        InputError: :math:`Q^\pi` is infinite.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 5 / 6)
        >>> ladder = bounds(problem)
        >>> ladder.S1, ladder.inapplicable["S1"]
        (None, '(I - gamma W_d) w = w_r has no solution')
    """
    parts, split = at_solution(problem)
    found = _Found()
    if split.w is not None and abs(parts.planning).max() * split.horizon <= split.tolerance:
        _add_ladder(found, problem.gamma, parts, split.w)
        _add_weighted(found, problem, parts, split, split.w)
    else:
        reason = "(I - gamma W_d) w = w_r has no solution"
        found.missing.update(dict.fromkeys(("lower", *SUPREMUM, *WEIGHTED, *POINTWISE), reason))
    if not math.isfinite(split.horizon):
        reason = "no bound on ||G||_inf could be proved: gamma and the row sums are too close to 1"
        found.missing.update({name: reason for name in SUPREMUM if name not in found.missing})
    return _finish(found, problem, split)


@dataclass
class _Found:
    """What has been computed so far."""

    one_step: dict[str, Array] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    rounding: float = 0.0


def _add_ladder(found: _Found, gamma: float, parts: OneStep, w: Array) -> None:
    """Add what G is applied to on each rung, and the lower bound."""
    reward, hoelder = abs(parts.reward), abs(w).max() * parts.sums
    bellman = parts.reward + gamma * parts.dynamics
    found.one_step = {
        "B1": abs(bellman),
        "B2": reward + gamma * abs(parts.dynamics),
        "B25": reward + gamma * parts.weighted,
        "B3": reward + gamma * hoelder,
        "published": reward + hoelder,
    }
    found.scalars["lower"] = float(abs(bellman).max()) / (1.0 + gamma)


def _add_weighted(found: _Found, problem: Problem, parts: OneStep, split: ValueErrorSplit, w: Array) -> None:
    """Add the bounds in the weighted norm, or why they do not apply."""
    norms = weighted_norms(problem)
    if norms is None:
        found.missing = dict.fromkeys(WEIGHTED, "a row without weight is reached from one with weight")
        return
    found.best = norms.distance(split.q_true, problem.feature_rows)
    found.factors, found.missing = _factors(norms, problem)
    found.scalars.update({name: factor * found.best for name, factor in found.factors.items()})
    largest = max(found.factors.values(), default=0.0)
    found.rounding = _weighted_rounding(norms, problem, parts, split, largest)
    if norms.resolvent is None:
        reason = f"||G||_D was not computed: {norms.not_computed['resolvent']}"
        found.missing.update(residual=reason, loss_to_value=reason)
        return
    dynamics_loss = math.sqrt(float(problem.mu @ parts.squares))
    losses = norms.norm(parts.reward) + problem.gamma * float(np.linalg.norm(w)) * dynamics_loss
    bellman = norms.norm(parts.reward + problem.gamma * parts.dynamics)
    found.scalars.update(residual=norms.resolvent * bellman, loss_to_value=norms.resolvent * losses)


def _weighted_rounding(
    norms: WeightedNorms, problem: Problem, parts: OneStep, split: ValueErrorSplit, factor: float
) -> float:
    r"""Return what rounding can do to the bounds that multiply the best possible error.

    They hold for the exact solution. In D-orthonormal coordinates the computed one misses it by
    :math:`(I-\gamma M)^{-1}` times what TD's equation leaves of it, at most as large as the rounding of that.
    """
    white, values = norms.white, split.error + split.q_true
    inner = np.eye(white.rank) - problem.gamma * white.M
    least = float(np.linalg.svd(inner, compute_uv=False).min(initial=1.0))
    noise = rounding(white.rank, max(1.0, problem.gamma * white.next_norm))
    if least <= noise:  # what is singular has no such bound
        return 0.0
    left = problem.r + problem.gamma * (problem.chain @ values) - values
    miss = float(np.linalg.norm(white.columns.project(left)))
    missed = (miss + rounding(problem.d, norms.norm(parts.magnitude))) / least
    size = norms.norm(split.q_true) + norms.norm(values)
    return missed + factor * size * (rounding(1, 1.0) + noise / least)


def _factors(norms: WeightedNorms, problem: Problem) -> tuple[dict[str, float], dict[str, str]]:
    """Return what the best possible error is multiplied with in each bound, and what is missing why."""
    slack = rounding(problem.n, 1.0)
    factors: dict[str, float] = {}
    missing = {
        name: f"{number} was not computed: {norms.not_computed[number]}"
        for name, numbers in (("sigma", ("sigma",)), ("cea", ("sigma", "tau")))
        for number in numbers
        if number in norms.not_computed
    }
    if norms.oblique is None:
        missing["oblique"] = "A is singular"
    else:
        factors["oblique"] = norms.oblique
    if norms.sigma is not None and norms.sigma < 1.0 - slack:
        factors["sigma"] = float((1.0 - norms.sigma**2) ** -0.5)
    elif norms.sigma is not None:
        missing["sigma"] = f"sigma = {norms.sigma:.6g} is not below 1"
    if norms.tau is not None and norms.tau >= 1.0 - slack:
        missing["cea"] = f"tau = {norms.tau:.6g} is not below 1"
    elif norms.tau is not None and norms.sigma is not None:
        factors["cea"] = float(np.hypot(1.0, norms.sigma / (1.0 - norms.tau)))
    reach = problem.gamma**2 * norms.kappa
    if reach < 1.0 - slack:
        factors["kappa"] = float((1.0 - reach) ** -0.5)
    else:
        missing["kappa"] = f"gamma^2 kappa = {reach:.6g} is not below 1"
    return factors, missing


def _finish(found: _Found, problem: Problem, split: ValueErrorSplit) -> BoundLadder:
    """Carry the one-step terms on with G and H, and compare everything with the truth."""
    carried = {
        name: problem.resolvent.solve(found.one_step[name]).x for name in POINTWISE if name in found.one_step
    }
    scalars = dict(found.scalars)
    for name, term in found.one_step.items():
        if math.isfinite(split.horizon):
            scalars[name.replace("B", "S")] = split.horizon * float(term.max())
    sup, weighted = float(abs(split.error).max()), float(np.sqrt(problem.mu @ split.error**2))
    return BoundLadder(
        lower=scalars.get("lower"),
        B1=carried.get("B1"),
        B2=carried.get("B2"),
        B25=carried.get("B25"),
        B3=carried.get("B3"),
        S1=scalars.get("S1"),
        S2=scalars.get("S2"),
        S25=scalars.get("S25"),
        S3=scalars.get("S3"),
        published=scalars.get("published"),
        oblique=scalars.get("oblique"),
        sigma=scalars.get("sigma"),
        cea=scalars.get("cea"),
        kappa=scalars.get("kappa"),
        residual=scalars.get("residual"),
        loss_to_value=scalars.get("loss_to_value"),
        H=split.horizon,
        tightness=_tightness(abs(split.error), carried, scalars, sup, weighted),
        inapplicable=found.missing,
        error_sup=sup,
        error_D=weighted,
        best_D=found.best,
        factors=found.factors,
        rounding=split.tolerance + found.rounding,
    )


def _tightness(
    error: Array, carried: dict[str, Array], scalars: dict[str, float], sup: float, weighted: float
) -> dict[str, float]:
    """Return truth over bound for every bound there is, bound over truth for the lower one."""
    ratios = {name: _median_ratio(error, bound) for name, bound in carried.items()}
    for name, bound in scalars.items():
        ratios[name] = (
            _ratio(weighted, bound) if name in WEIGHTED else _median_ratio(error, np.full(len(error), bound))
        )
    if "lower" in scalars:
        ratios["lower"] = _ratio(scalars["lower"], sup)
    return ratios


def _median_ratio(error: Array, bound: Array) -> float:
    """Return the median of error over bound, where a bound of zero counts as attained."""
    safe = np.where(bound > 0.0, bound, 1.0)
    return float(np.median(np.where(bound > 0.0, error / safe, 1.0)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else 1.0
