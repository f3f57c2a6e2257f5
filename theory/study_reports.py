"""Reports on the studies: target networks, n-step returns, sampled LSTD.

Each says first whether what was predicted is what comes out when the iteration is run, the operator applied
or the data drawn; then the conditions; then the numbers. The predictions are computed elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import eig

from theory.checks import EPS, Array
from theory.equivalence_conditions import with_counterexample
from theory.lstd import LstdStudy
from theory.n_step import NStepFixedPoint, n_step_operator
from theory.problem import Problem
from theory.report import Condition, Report, Verdict
from theory.spectrum import rounding, spectral_norm
from theory.target_networks import TargetNetworks, outer_matrices
from theory.whitening import Whitened, whiten

COUNTEREXAMPLES = {
    "TD converges (K = 1)": "baird_star",
    "rollout converges (K to infinity)": "sign_flip",
    "exactly one fixed point": "tsitsiklis_van_roy_singular",
    "returns are finite": "continuing_undiscounted",
    "sampling leaves an error": "three_cycle",
}
"""The catalogue entry in which a condition fails, by the condition's name."""
DECIDABLE = 1e-3  # where rounding explains more than this, agreement says nothing


def target_network_report(problem: Problem, found: TargetNetworks, name: str = "this problem") -> Report:
    r"""Compare the radii with those of the inner loop as it is run, and report both.

    Args:
        problem: what ``found`` is about.
        found: the radii for some K.
        name: what the problem is called in the first line.

    Returns:
        A report whose residual is the largest difference of a radius, and whose verdict is "fail" if that is
        not rounding. That an iteration diverges is a finding, not a failure.

    Example:
        >>> from theory import target_network_radius
        >>> flip = Problem.from_chain([[0, 1], [1, 0]], [1, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> report = target_network_report(flip, target_network_radius(flip, 0.1, [1, 10]), "the flip")
        >>> report.verdict, report.data["inner steps that converge"]
        ('pass', [1])
    """
    run = outer_matrices(problem, found.step_size, found.inner_steps.tolist())
    radii = [float(np.abs(np.linalg.eigvals(H)).max(initial=0.0)) for H in run]
    residual = float(np.abs(found.radii - radii).max())
    pairs = zip(found.inner_steps.tolist(), run, strict=True)
    tolerance = max(_radius_tolerance(problem, found.step_size, K, H) for K, H in pairs)
    data = {
        "rows": problem.n,
        "features": problem.d,
        "gamma": problem.gamma,
        "step size": found.step_size,
        "largest step size of the inner loop": found.inner_limit,
        "inner steps that converge": [
            int(K) for K, said in zip(found.inner_steps, found.verdicts, strict=True) if said == "stable"
        ],
        "radius in the limit": found.limit_radius,
        "verdict in the limit": found.limit_verdict,
    }
    verdict = _verdict(residual, tolerance)
    theorem = f"The two loops, run, have the predicted radii on {name}"
    return _report(theorem, verdict, residual, tolerance, found.conditions, data)


def _radius_tolerance(problem: Problem, step_size: float, K: int, H: Array) -> float:
    r"""Return how far rounding may move the largest eigenvalue of :math:`H_K=I-S_KA`.

    ``S`` sums at most K steps and stays below the inverse of C; a simple eigenvalue moves by the rounding of
    the matrix over the cosine between its left and right eigenvector.
    """
    if not H.size:
        return rounding(1, 1.0)
    root = np.sqrt(problem.mu)[:, None]
    sizes = np.linalg.svd(root * problem.Z @ whiten(problem).V, compute_uv=False)
    steps = min(step_size * K, 1.0 / float(sizes[-1]) ** 2)
    moved = float(sizes[0]) * (float(sizes[0]) + problem.gamma * spectral_norm(root * problem.Z_next))
    values, left, right = eig(H, left=True, right=True)
    largest = int(np.argmax(np.abs(values)))
    cosine = float(np.abs(left[:, largest].conj() @ right[:, largest]))
    scale = max(1.0, spectral_norm(H)) + steps * moved
    return rounding(problem.d, scale) / cosine if cosine > 0.0 else math.inf


def n_step_report(
    problem: Problem,
    found: Sequence[NStepFixedPoint],
    name: str = "this problem",
    *,
    behaviour: Any = None,
) -> Report:
    r"""Apply the n-step operator step by step to each fixed point, and report what it leaves, and the biases.

    Args:
        problem: what ``found`` is about.
        found: fixed points for some n.
        name: what the problem is called in the first line.
        behaviour: the one of ``found``.

    Returns:
        A report whose residual is the largest :math:`\|\Pi(T_b^{n-1}T_\pi q-q)\|_D` in units of the values;
        the verdict is "fail" if it is not rounding, "inconclusive" if there is no fixed point at all.

    Example:
        >>> from theory import n_step_fixed_point
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> found = [n_step_fixed_point(problem, n) for n in (1, 2, 50)]
        >>> report = n_step_report(problem, found, "w to 2w")
        >>> report.verdict, report.data["bias in the limit"]
        ('pass', 0.0)
    """
    white = whiten(problem)
    left = [_left_over(problem, white, each.n, each.q, behaviour) for each in found if each.q is not None]
    residual = max(left) if left else None
    steps = max((each.n for each in found), default=1)
    tolerance = 64.0 * (steps + problem.n) * EPS * white.condition
    verdict: Verdict = "inconclusive" if residual is None else _verdict(residual, tolerance)
    data = {
        "rows": problem.n,
        "features": problem.d,
        "gamma": problem.gamma,
        "bias in the limit": found[0].limit_bias if found else None,
    }
    theorem = f"n-step fixed points stand still on {name}"
    return _report(theorem, verdict, residual, tolerance, _for_all_n(found), data)


def _left_over(problem: Problem, white: Whitened, n: int, q: Array, behaviour: Any) -> float:
    """Return what the operator, applied as it is written, leaves of the projected equation."""
    after = n_step_operator(problem, n, q, behaviour=behaviour)
    size = float(np.abs(after).max() + np.abs(problem.r).max()) or 1.0
    return float(np.linalg.norm(white.Q.T @ (np.sqrt(problem.mu) * (after - q)))) / size


def _for_all_n(found: Sequence[NStepFixedPoint]) -> tuple[Condition, ...]:
    """Return each condition once: as it is where it fails first, else as it is for the last n."""
    last: dict[str, Condition] = {}
    for each in found:
        for condition in each.conditions:
            if condition.name not in last or last[condition.name].holds:
                last[condition.name] = condition
    return tuple(last.values())


def lstd_report(problem: Problem, study: LstdStudy, name: str = "this problem") -> Report:
    r"""Report a study of sampled LSTD: its verdict, its conditions, and its numbers for each size.

    Args:
        problem: what the study is about.
        study: the study.
        name: what the problem is called in the first line.

    Returns:
        A report whose residual is the distance of :math:`N\,\mathrm{mse}` over the predicted trace from 1 at
        the largest size, and its tolerance what chance and terms of second order explain of it.

    Example:
        >>> from theory import lstd_study
        >>> fair = Problem.from_chain([[0.5, 0.5]] * 2, [1, 0], [[1, 0], [0, 1]], [0.5, 0.5], 0.5)
        >>> lstd_report(fair, lstd_study(fair, [1000, 4000], runs=200, seed=0)).verdict
        'pass'
    """
    residual, tolerance = None, None
    for condition in study.conditions:
        if condition.name == "the constant is the predicted trace" and condition.value is not None:
            residual = abs(condition.value - 1.0)
            tolerance = residual + (condition.margin or 0.0)
    data = {
        "rows": problem.n,
        "features": problem.d,
        "gamma": problem.gamma,
        "rewards": study.rewards,
        "runs of each size": study.runs,
        "predicted trace": study.predicted_trace,
        "slope": study.slope,
        "95% interval of the slope": None if study.slope_ci is None else _interval(*study.slope_ci),
    }
    theorem = f"Sampled LSTD follows its law on {name}"
    return _report(theorem, study.verdict, residual, tolerance, study.conditions, data)


def _interval(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}"


def _report(
    theorem: str,
    verdict: Verdict,
    residual: float | None,
    tolerance: float | None,
    conditions: Sequence[Condition],
    data: dict[str, Any],
) -> Report:
    """Return the report; a condition that fails leads to the catalogue."""
    named = tuple(with_counterexample(condition, COUNTEREXAMPLES) for condition in conditions)
    return Report(theorem, verdict, residual, tolerance, named, data)


def _verdict(residual: float, tolerance: float) -> Verdict:
    if residual > tolerance:
        return "fail"
    return "pass" if tolerance <= DECIDABLE else "inconclusive"
