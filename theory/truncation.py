r"""Cutting a rollout short: the error after h steps, and how many steps a tolerance needs.

The rollout of a linear model for h steps gives :math:`w_h=\sum_{t<h}(\gamma W_d)^tw_r`. If
:math:`w_*=w_r+\gamma W_dw_*` then, exactly and without any convergence,

.. math:: w_*-w_h=(\gamma W_d)^hw_*.

In D-orthonormal coordinates :math:`\gamma W_d` is the compression :math:`G=Q^\top NQ` of
:math:`N=\gamma D^{1/2}P^\pi D^{-1/2}`, and the error in the D-norm of values is
:math:`\|G^hy_*\|\le\|G^h\|\|Zw_*\|_D`. The spectral radius alone says nothing about small h: where G is not
normal, powers grow first. A guaranteed horizon therefore uses norms of powers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.checks import Array, check_count, check_number
from theory.problem import Problem
from theory.spectrum import rounding, sides_of_circle, spectral_norm
from theory.td import Kind, LinearModel, fit_linear_model, solve_any
from theory.whitening import Whitened, reward_norm, whiten

LONGEST_ROLLOUT = 100_000  # steps that are run one by one
HUGE = 1e70  # powers that have grown this much have diverged
DOUBLINGS = 40  # the powers 2^j whose norms may certify a horizon


@dataclass(frozen=True, eq=False)
class Truncation:
    r"""Rollouts of 0 to H steps against the value they aim at.

    Attributes:
        kind: of the solutions of :math:`w=w_r+\gamma W_dw` in the row space.
        w_star: (d,), the solution; of an affine set the one in the range of :math:`I-\gamma W_d`, which is
            the limit of the rollout if there is any. ``None`` if there is no solution, as are all below.
        error: (H + 1,), :math:`\|Z(w_*-w_h)\|_D` of rollouts run with the model.
        predicted: (H + 1,), :math:`\|G^hy_*\|`, from the compression.
        bound: (H + 1,), :math:`\|G^h\|\,\|Zw_*\|_D`, which holds for every reward with a value of that size.
            All three are shorter where the powers exceed 1e70.
        identity_residual: largest :math:`\|Z(w_*-w_h-(\gamma W_d)^hw_*)\|_D` over what rounding allows at
            that h, so 1 at most; the two sides are computed in different coordinates.
        reason: why there is no solution, or only one of many; empty if it is unique.
    """

    kind: Kind
    w_star: Array | None
    error: Array | None
    predicted: Array | None
    bound: Array | None
    identity_residual: float | None
    reason: str

    @property
    def holds(self) -> bool | None:
        """Whether the identity holds up to rounding; ``None`` if there is nothing to compare with."""
        return None if self.identity_residual is None else self.identity_residual <= 1.0


@dataclass(frozen=True)
class Horizon:
    r"""How many steps keep the error of a rollout within a tolerance, for good.

    Attributes:
        needed: the least h such that no rollout of h steps or more misses by more than the tolerance;
            ``None`` with a reason if there is none or it exceeds 100,000.
        guaranteed: an h that suffices for every reward whose value is of the same D-norm, from the norms of
            :math:`G^{2^j}`; never below ``needed`` or ``radius_only``. ``None`` if powers do not shrink.
        contraction: :math:`\log(\text{tolerance}/\|Zw_*\|_D)/\log\|G\|`, that guarantee from the norm of G
            alone; ``None`` unless it is below 1.
        radius_only: the same from the spectral radius in place of the norm: no guarantee, and too short
            where G is not normal. ``None`` unless it is below 1.
        norm: :math:`\|G\|`, at most :math:`\sigma`.
        spectral_radius: :math:`\rho(\gamma W_d)`.
        size: :math:`\|Zw_*\|_D`, the error of no step at all.
        reason: why ``needed`` is ``None``, and that the solution is one of many; else empty.
    """

    needed: int | None
    guaranteed: int | None
    contraction: int | None
    radius_only: int | None
    norm: float
    spectral_radius: float
    size: float | None
    reason: str


def truncation(problem: Problem, steps: int, *, model: LinearModel | None = None) -> Truncation:
    r"""Compare rollouts of 0 to ``steps`` steps with the solution, and check the identity at each.

    Args:
        problem: gives the solution, in whitened coordinates.
        steps: H.
        model: the model that is rolled out, in the coordinates of the features; the least-squares fit by
            default. Another one is audited: the identity then fails.

    Raises:
        InputError: a number of steps that is negative or not whole.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> run = truncation(problem, 3)  # gamma W_d = 0.6 and w = 1.5: the error is 0.6^h of the value
        >>> (run.error / run.error[0]).round(9).tolist(), run.holds
        ([1.0, 0.6, 0.36, 0.216], True)
    """
    steps = check_count("steps", steps, 0)
    white, root = whiten(problem), np.sqrt(problem.mu)
    model = fit_linear_model(problem) if model is None else model
    G = problem.gamma * white.M
    aim = _aim(problem, white, G)
    if aim.y is None:
        return Truncation(aim.kind, None, None, None, None, None, aim.reason)
    w_star = white.weights(aim.y)
    w, power = np.zeros(problem.d), np.eye(white.rank)
    missing, ahead, norms = [], [], []
    for _ in range(steps + 1):
        missing.append(root * (problem.Z @ (w_star - w)))
        ahead.append(power @ aim.y)
        norms.append(spectral_norm(power))
        if norms[-1] > HUGE:
            break
        w, power = model.w_r + problem.gamma * (model.W_d @ w), G @ power
    apart = np.array(missing) - root * (white.weights(np.array(ahead).T).T @ problem.Z.T)
    size = float(np.linalg.norm(aim.y))
    allowed = _allowed(problem, white, G, np.array(norms), size)
    return Truncation(
        kind=aim.kind,
        w_star=w_star,
        error=np.linalg.norm(missing, axis=1),
        predicted=np.linalg.norm(ahead, axis=1),
        bound=np.array(norms) * size,
        identity_residual=float((np.linalg.norm(apart, axis=1) / allowed).max()),
        reason=aim.reason,
    )


def truncation_horizon(problem: Problem, tolerance: float) -> Horizon:
    r"""Return how many steps bring :math:`\|Z(w_*-w_h)\|_D` below a tolerance, for good.

    With :math:`p=\|G^{2^j}\|<1` and :math:`g=\prod_{i<j}\max(1,\|G^{2^i}\|)`, every :math:`t\ge2^jm` has
    :math:`\|G^t\|\le p^mg`; the guarantee is the least such horizon over j. For j = 0 it is that of the norm
    of G itself. A power whose norm is below 1 by no more than rounding counts for nothing.

    Args:
        problem: any problem; where the solution is not unique, or the powers of G do not shrink, the result
            says so.
        tolerance: above zero, in the unit of values.

    Raises:
        InputError: a tolerance that is not positive and finite.

    Example:
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> horizon = truncation_horizon(problem, 0.1)  # 2.37 * 0.6^h
        >>> horizon.needed, horizon.guaranteed, horizon.radius_only
        (7, 7, 7)
    """
    tolerance = check_number("tolerance", tolerance, above=0.0)
    white = whiten(problem)
    G = problem.gamma * white.M
    radius = float(np.abs(np.linalg.eigvals(G)).max(initial=0.0))
    aim = _aim(problem, white, G)
    if aim.y is None:
        return Horizon(None, None, None, None, spectral_norm(G), radius, None, aim.reason)
    inner, start = aim.basis.T @ G @ aim.basis, aim.basis.T @ aim.y
    size = float(np.linalg.norm(start))
    share = tolerance / size if size > 0.0 else math.inf
    candidates = _guarantees(inner, share)
    moduli, sides = sides_of_circle(inner)
    slowest = float(np.abs(moduli).max(initial=0.0))
    guaranteed = min((h for h, _ in candidates.values()), default=None)
    needed, reason = _needed(inner, start, tolerance, candidates)
    return Horizon(
        needed=needed,
        guaranteed=guaranteed,
        contraction=candidates[0][0] if 0 in candidates else None,
        radius_only=_steps(share, slowest) if np.all(sides > 0) else None,
        norm=spectral_norm(inner),
        spectral_radius=radius,
        size=size,
        reason="; ".join(filter(None, (aim.reason, reason))),
    )


@dataclass(frozen=True, eq=False)
class _Aim:
    """The solution in whitened coordinates, and the subspace in which the error of a rollout lives."""

    y: Array | None
    kind: Kind
    basis: Array
    reason: str


def _aim(problem: Problem, white: Whitened, G: Array) -> _Aim:
    """Return the solution that the rollout aims at.

    Where 1 is an eigenvalue of G, every term of the series lies in the range of I - G; if no Jordan block
    hides there, just one solution does.
    """
    system, everything = np.eye(white.rank) - G, np.eye(white.rank)
    scale, noise = max(1.0, spectral_norm(G)), reward_norm(problem)
    y, null, _, solvable = solve_any(system, white.c, scale, noise)
    if not solvable:
        return _Aim(None, "none", everything, "(I - gamma W_d) w = w_r has no solution")
    if null.shape[1] == 0:
        return _Aim(y, "unique", everything, "")
    basis = np.linalg.svd(system)[0][:, : white.rank - null.shape[1]]
    inside, defect, _, _ = solve_any(basis.T @ system @ basis, basis.T @ white.c, scale, noise)
    if defect.shape[1]:
        return _Aim(y, "affine", everything, "1 is a defective eigenvalue of gamma W_d: rollouts grow")
    return _Aim(
        basis @ inside, "affine", basis, "one of many solutions: the one in the range of I - gamma W_d"
    )


def _allowed(problem: Problem, white: Whitened, G: Array, norms: Array, size: float) -> Array:
    """Return what rounding may do to the identity at each number of steps, (H + 1,).

    An error of the model at one step is carried on by the remaining ones: sums of products of norms.
    """
    nonzero = np.linalg.svd(np.eye(white.rank) - G, compute_uv=False)
    nonzero = nonzero[nonzero > rounding(white.rank, max(1.0, spectral_norm(G)))]
    inverse = 1.0 / float(nonzero.min(initial=1.0))
    carried = 1.0 + np.convolve(norms, norms)[: len(norms)]
    unit = (size + float(np.linalg.norm(white.c))) or 1.0
    return np.asarray(rounding(max(problem.d, 1), white.condition * max(1.0, inverse) * unit) * carried)


def _guarantees(G: Array, share: float) -> dict[int, tuple[int, float]]:
    """Return, for each j whose power shrinks, a horizon and a bound on the norms of all lower powers."""
    found: dict[int, tuple[int, float]] = {}
    power, growth = G, 1.0
    for j in range(DOUBLINGS):
        norm = spectral_norm(power)
        if not growth * norm < HUGE:
            break
        if norm < 1.0 - 2**j * rounding(len(G), growth**2):  # squaring doubles what rounding has done
            found[j] = 2**j * _steps(share / growth, norm), growth
        if norm < 1.0 / HUGE:
            break
        growth *= max(1.0, norm)
        power = power @ power
    return found


def _steps(share: float, factor: float) -> int:
    """Return the least m with ``factor ** m <= share``, for a factor below one."""
    if share >= 1.0:
        return 0
    return math.ceil(math.log(share) / math.log(factor)) if factor > 0.0 else 1


def _needed(
    G: Array, start: Array, tolerance: float, guarantees: dict[int, tuple[int, float]]
) -> tuple[int | None, str]:
    """Return the step after the last one whose error exceeds the tolerance, or why there is none."""
    if not guarantees:
        return None, "powers of gamma W_d do not shrink beyond rounding"
    growth = min(bound for _, bound in guarantees.values())
    needed, missing = 0, start
    for h in range(LONGEST_ROLLOUT):
        size = float(np.linalg.norm(missing))
        if size > tolerance:
            needed = h + 1
        if size * growth <= tolerance:
            return needed, ""
        missing = G @ missing
    return None, f"more than {LONGEST_ROLLOUT:,} steps"
