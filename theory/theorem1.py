r"""Theorem 1: TD's fixed point is the value of the best linear model.

**Statement.** Let R be the row space of :math:`D^{1/2}Z`, V an orthonormal basis of it, A and b TD's
matrices, and :math:`w_r=(D^{1/2}Z)^+D^{1/2}r`, :math:`W_d=(D^{1/2}Z)^+D^{1/2}Z'` the least-squares model.
The solutions of :math:`w=w_r+\gamma W_dw` are exactly the TD fixed points that lie in R; there is exactly one
if and only if :math:`V^\top AV` is invertible.

**Proof.** :math:`C=Z^\top DZ` has range and row space R, and :math:`Cw_r=b`, :math:`CW_d=X` are the normal
equations, with :math:`w_r` and the columns of :math:`W_d` in R. So a solution of the model's equation lies in
R, and multiplying by C gives :math:`Cw=b+\gamma Xw`, that is :math:`Aw=b`. Conversely, if w is in R and
:math:`Aw=b`, then :math:`C(w-w_r-\gamma W_dw)=0` with the bracket in R, where C is injective. On R both
equations are :math:`V^\top AVy=V^\top b`.

That both iterations *reach* the solution needs more, and different things for each
(:func:`theory.stability.stability`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from theory.assembly import assemble
from theory.checks import EPS, Array
from theory.equivalence_conditions import equivalence_conditions, with_counterexample
from theory.errors import InputError
from theory.exact.problem import ExactProblem
from theory.exact.system import ExactModel
from theory.exact.theorem1 import prove_fixed_point_equivalence
from theory.problem import Problem
from theory.report import Condition, Report, Verdict
from theory.rollout import model_based_solution, scaled_model
from theory.spectrum import rounding, spectral_norm
from theory.td import LinearModel, checked_model, fit_linear_model, td_fixed_point, td_system
from theory.whitening import Whitened, reward_norm, whiten

THEOREM = "Theorem 1 (TD fixed point = linear model's value)"
SAFETY = 64.0  # twice what 1,500 random problems needed
LARGEST_TOLERANCE = 1e-3  # beyond it agreement would say nothing
POWER = 1e-6


def check_fixed_point_equivalence(
    problem: Problem | ExactProblem, *, model: LinearModel | ExactModel | None = None, exact: bool = False
) -> Report:
    r"""Check on this problem that TD's fixed point is the value of the linear model.

    Two routes that share no factorisation are compared on the row space of :math:`D^{1/2}Z`: A and b
    assembled and solved by elimination (LSTD), and the model fitted by singular values, then solved. The
    discrepancy is relative, with features of D-norm one; the tolerance is what rounding can do to these two
    routes,

    .. math:: 64\sqrt d\,\epsilon\,[\kappa(A)+\kappa(F)\,\kappa(I-\gamma M)+\kappa(I-\gamma W_d)]

    F being the weighted features with columns of norm one, M the model in whitened coordinates, and each
    condition number scaled by what may cancel (:func:`condition_numbers`). A third route, in whitened
    coordinates, is the reference for both (``data``). The verdict is "inconclusive" where there is not
    exactly one solution, or the tolerance exceeds 1e-3; then whitened features help, and ``td_fixed_point``
    still gives accurate values.

    Args:
        problem: any problem; one of fractions only with ``exact``.
        model: the model to be checked; the least-squares fit by default, which the theorem speaks of. In
            exact mode an ``ExactModel``.
        exact: prove it in rational arithmetic instead, without a tolerance; floats are rationalised openly
            (:func:`theory.exact.theorem1.prove_fixed_point_equivalence`). Up to about 40 features, 160 rows.

    Raises:
        InputError: fractions without ``exact``, a model of floats with it, or a problem too large for it.

    Returns:
        The report. The first two conditions decide the verdict; the others say what else holds, and a
        failing one names the catalogue entry that shows why it matters. ``data`` has
        the solutions (``w_td``, ``w_model``, ``w_reference``), the kind of TD's fixed points, the condition
        numbers, and ``power``: the discrepancy that an error of 1e-6 in :math:`W_d` would have shown.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.9)
        >>> report = check_fixed_point_equivalence(problem)  # TD diverges here, and so does the rollout
        >>> report.verdict, report.data["w_td"].round(9)
        ('pass', array([-7.5]))
        >>> report.condition("TD is stable").holds, report.condition("rollout converges").holds
        (False, False)
    """
    if exact:
        return prove_fixed_point_equivalence(problem, model=model)
    if isinstance(problem, ExactProblem) or isinstance(model, ExactModel):
        raise InputError("A problem or a model of fractions needs exact=True.")
    model = None if model is None else checked_model(problem, model)
    white, fit, fixed = whiten(problem), fit_linear_model(problem), td_fixed_point(problem)
    numbers = condition_numbers(problem, white, fit)
    tolerance = SAFETY * math.sqrt(problem.d) * EPS * _spread(numbers)
    needed = (_invertible(problem, white), _accurate(tolerance))
    data: dict[str, Any] = {
        "kind": fixed.kind,
        "nullity": fixed.nullity,
        "rank": white.rank,
        "condition_numbers": numbers,
    }
    if not needed[0].holds:
        conditions = tuple(map(with_counterexample, needed + equivalence_conditions(problem)))
        return Report(THEOREM, "inconclusive", None, None, conditions, data)
    w_td = _lstd(problem, white)
    w_model = model_based_solution(problem, model=model or fit).w
    whitened = np.linalg.solve(np.eye(white.rank) - problem.gamma * white.M, white.c)
    reference = white.weights(np.asarray(whitened, dtype=np.float64))
    residual = discrepancy(problem, w_td, w_model)
    verdict: Verdict = "pass" if residual <= tolerance else "fail"
    if not needed[1].holds or w_td is None:
        verdict = "inconclusive"
    power = _power(problem, fit, w_td)
    data |= {"w_td": w_td, "w_model": w_model, "w_reference": reference, "power": power}
    conditions = needed + equivalence_conditions(problem) + (_powerful(power, tolerance),)
    named = tuple(map(with_counterexample, conditions))
    return Report(THEOREM, verdict, residual, tolerance, named, data)


def discrepancy(problem: Problem, first: Array | None, second: Array | None) -> float:
    """Return the distance of two weight vectors over the larger of their norms and that of the reward.

    All are measured with features of D-norm one; infinite if a solution is missing.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [1.0], [[2.0]], [1.0], 0.5)
        >>> discrepancy(problem, np.array([1.0]), np.array([2.0]))
        0.5
    """
    if first is None or second is None:
        return math.inf
    scale = np.linalg.norm(assemble(problem).R, axis=0)
    norms = [float(np.linalg.norm(scale * v)) for v in (first - second, first, second)]
    return norms[0] / max(norms[1], norms[2], reward_norm(problem))


def condition_numbers(problem: Problem, white: Whitened, fit: LinearModel) -> dict[str, float]:
    r"""Return the condition numbers that bound the error of the two routes, features having D-norm one.

    The matrices are differences, :math:`C-\gamma X` and :math:`I-\gamma M`, so the inverse is multiplied by
    the sizes of the two terms: by its own norm a 1 by 1 matrix would have condition 1, whatever cancelled.
    X and M are themselves sums that may cancel, over rows whose next features are large, so their size is
    that of the next features.

    Example:
        >>> problem = Problem.from_chain([[0.5]], [1.0], [[2.0]], [1.0], 0.5)  # I - gamma M = 1 - 1/4
        >>> numbers = condition_numbers(problem, whiten(problem), fit_linear_model(problem))
        >>> {name: round(number, 9) for name, number in numbers.items()}
        {'A': 1.666666667, 'features': 1.0, 'whitened': 1.666666667, 'model': 1.666666667}
    """
    A, ahead = _on_row_space(problem, white)[0], 1.0 + problem.gamma * white.next_norm
    M, G = problem.gamma * white.M, scaled_model(problem, fit)[0]
    return {
        "A": _condition(A, spectral_norm(white.R) ** 2 * ahead),
        "features": white.condition,
        "whitened": _condition(np.eye(white.rank) - M, ahead),
        "model": _condition(np.eye(problem.d) - G, 1.0 + spectral_norm(G)),
    }


def _spread(numbers: dict[str, float]) -> float:
    return numbers["A"] + numbers["features"] * numbers["whitened"] + numbers["model"]


def _condition(matrix: Array, size: float) -> float:
    """Return over its least singular value the size of the terms that a matrix is made of."""
    least = float(np.linalg.svd(matrix, compute_uv=False).min(initial=math.inf))
    return size / least if least > 0.0 else math.inf


def _on_row_space(problem: Problem, white: Whitened) -> tuple[Array, Array]:
    """Return TD's matrix and vector on the row space, for basis vectors whose features have D-norm one."""
    system = td_system(problem)
    return _between(system.A, white), white.V.T @ system.b / white.scale


def _between(matrix: Array, white: Whitened) -> Array:
    return np.asarray(white.V.T @ matrix @ white.V / np.outer(white.scale, white.scale))


def _lstd(problem: Problem, white: Whitened) -> Array | None:
    A, b = _on_row_space(problem, white)
    try:
        return np.asarray(white.V @ (np.linalg.solve(A, b) / white.scale), dtype=np.float64)
    except np.linalg.LinAlgError:  # singular in these coordinates only: far too ill-conditioned
        return None


def _power(problem: Problem, fit: LinearModel, w_td: Array | None) -> float:
    """Return the discrepancy found when W_d is off by 1e-6 of its norm, in the direction of the solution."""
    norm = 0.0 if w_td is None else float(np.linalg.norm(w_td))
    if w_td is None or norm == 0.0:
        return 0.0
    direction = w_td / norm
    wrong = fit.W_d + POWER * spectral_norm(fit.W_d) * np.outer(direction, direction)
    return discrepancy(problem, w_td, model_based_solution(problem, model=replace(fit, W_d=wrong)).w)


def _invertible(problem: Problem, white: Whitened) -> Condition:
    G = problem.gamma * white.M
    values = np.linalg.svd(np.eye(white.rank) - G, compute_uv=False)
    least = float(values.min(initial=1.0))
    threshold = rounding(white.rank, max(1.0, problem.gamma * white.next_norm))
    why = "else there is no solution or more than one (Tsitsiklis and Van Roy's w to 2w at gamma = 5/6)"
    return Condition("exactly one solution", least > threshold, least, threshold, least - threshold, why)


def _accurate(tolerance: float) -> Condition:
    holds, margin = tolerance <= LARGEST_TOLERANCE, LARGEST_TOLERANCE - tolerance
    why = "else rounding hides the answer (monomials of high degree); whiten the features"
    return Condition("decidable in float64", holds, tolerance, LARGEST_TOLERANCE, margin, why)


def _powerful(power: float, tolerance: float) -> Condition:
    why = "else the check could not see an error of 1e-6 in W_d, as when every reward is zero"
    return Condition("would notice an error", power > tolerance, power, tolerance, power - tolerance, why)
