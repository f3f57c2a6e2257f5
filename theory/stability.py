r"""Which iterations reach the fixed point: TD, the model's rollout, and for which features at all.

:func:`stability` answers three questions about a problem: does expected TD converge and for which step sizes,
does the rollout series converge (in general and for this reward), and would both do so for *every* choice of
features (the uniform certificate). The iteration itself is in ``trajectory``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.linalg import schur

from theory.certificate import UniformCertificate, uniform_certificate
from theory.checks import EPS, Array
from theory.problem import Problem
from theory.spectrum import Complex, Sides, rounding, sides_of_axis, sides_of_circle, spectral_norm
from theory.td import td_system
from theory.whitening import whiten

TDVerdict = Literal["stable", "unstable", "boundary"]
RolloutVerdict = Literal["converges", "diverges", "boundary"]
LONGEST_TRANSIENT = 10_000
TRANSIENT_WORK = 3e8  # multiplications; many slow modes get fewer steps


@dataclass(frozen=True, eq=False)
class Stability:
    r"""How TD and the rollout behave on a problem; "boundary" means within rounding of the boundary.

    Attributes:
        td: whether expected TD converges for small step sizes: all eigenvalues of ``A`` on the row space of
            :math:`D^{1/2}Z` right of the imaginary axis.
        rollout: whether :math:`\sum_t(\gamma W_d)^tw_r` converges for every reward.
        rollout_for_reward: whether it does, exactly summed, for this problem's reward.
        eigenvalues: (k,) complex, of ``A`` on the row space.
        step_size_limit: TD converges exactly for step sizes below it; ``None`` unless TD is stable.
        best_step_size: the one of the smallest rate; ``None`` unless TD is stable.
        best_rate: that rate, the spectral radius of :math:`I-\alpha A` on the row space.
        transient_growth: the largest norm of :math:`(I-\alpha A)^t` over t, up to 10,000 (fewer if more than
            30 modes are slow), at the best step size; 1 means that the error never grows on the way. ``None``
            unless TD is stable.
        spectral_radius: :math:`\rho(\gamma W_d)`.
        tau: :math:`\lambda_{\max}((N+N^\top)/2)`, :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}`.
        kappa: :math:`\max_j(\mu^\top P^\pi)_j/\mu_j`.
        sigma: :math:`\|N\|_2`; like tau and kappa infinite if a row without weight is reached from one with.
        certificate: tau below 1, beyond rounding: TD and rollout converge for every choice of features.
            ``None`` if the bounds on tau leave it open.
        worst_feature: (n,), of D-norm one; alone it has :math:`A=1-\tau` and :math:`\gamma W_d=\tau`. If tau
            is infinite it is large on a row without weight instead, with :math:`\gamma W_d` at least 2.
        not_computed: beyond 2000 rows tau (and with it the worst feature) and sigma are ``None`` if Lanczos'
            iteration does not find them within the products it is given; here is why, by name.
    """

    td: TDVerdict
    rollout: RolloutVerdict
    rollout_for_reward: RolloutVerdict
    eigenvalues: Complex
    step_size_limit: float | None
    best_step_size: float | None
    best_rate: float | None
    transient_growth: float | None
    spectral_radius: float
    tau: float | None
    kappa: float
    sigma: float | None
    certificate: bool | None
    worst_feature: Array | None
    not_computed: dict[str, str] = field(default_factory=dict)


def stability(problem: Problem) -> Stability:
    r"""Say which iterations converge on this problem, and whether they would for every choice of features.

    TD, :math:`w\leftarrow w+\alpha(b-Aw)`, converges from the row space for small steps if and only if every
    eigenvalue of ``A`` there has a positive real part, and then exactly for
    :math:`0<\alpha<\min_j 2\,\mathrm{Re}\lambda_j/|\lambda_j|^2`. The rollout converges for every reward if
    and only if :math:`\rho(\gamma W_d)<1`, and for one reward if and only if its :math:`w_r` has no part in
    the generalised eigenspaces of modulus at least 1. Neither implies the other.

    **Uniform-stability theorem** (a result of this project; no earlier statement is known to us). Let
    :math:`\mu>0`, :math:`N=\gamma D^{1/2}P^\pi D^{-1/2}` and :math:`\tau=\lambda_{\max}((N+N^\top)/2)`. These
    are equivalent:

    (i) :math:`\tau<1`, that is :math:`D(I-\gamma P^\pi)+(I-\gamma P^\pi)^\top D\succ0`;
    (ii) TD is stable for every Z of full column rank;
    (iii) the rollout series converges, for every reward, for every Z of full column rank.

    Moreover :math:`\rho(\gamma W_d)\le\tau` for every Z.

    *Proof.* Write :math:`F=D^{1/2}Z`. Then :math:`A=F^\top(I-N)F`, and with :math:`F=QR`, Q having
    orthonormal columns and R invertible, :math:`\gamma W_d=F^+NF=R^{-1}(Q^\top NQ)R`.

    (i) implies (ii): for real :math:`x\ne0`, :math:`x^\top Ax=(Fx)^\top(I-\tfrac12(N+N^\top))Fx
    \ge(1-\tau)\|Fx\|^2>0`. So the symmetric part of A is positive definite, and every eigenvalue
    :math:`\lambda` of A with unit eigenvector v has :math:`\mathrm{Re}\lambda=\mathrm{Re}\,v^*Av
    =v^*\tfrac12(A+A^\top)v>0`.

    (i) implies (iii): an eigenvalue of :math:`\gamma W_d` is one of :math:`Q^\top NQ`, hence equals
    :math:`(Qv)^*N(Qv)` for a unit vector :math:`u=Qv`. N has no negative entry, so
    :math:`|u^*Nu|\le|u|^\top N|u|=|u|^\top\tfrac12(N+N^\top)|u|\le\tau`, where :math:`|u|` is taken entrywise
    and has norm one. (That the numerical radius of a non-negative matrix is the largest eigenvalue of its
    symmetric part is due to Goldberg, Tadmor and Zwas.) Hence :math:`\rho(\gamma W_d)\le\tau<1`. The
    inequality :math:`\rho(\gamma W_d)\le\tau` did not use :math:`\tau<1`.

    (ii) implies (i), and (iii) implies (i): by Perron and Frobenius the non-negative symmetric matrix
    :math:`(N+N^\top)/2` has a unit eigenvector :math:`x\ge0` for :math:`\tau`. Take the one feature
    :math:`Z=D^{-1/2}x`, so F = x. Then :math:`A=x^\top(I-N)x=1-\tau` and :math:`\gamma W_d=x^\top Nx=\tau`.
    TD is stable only if :math:`1-\tau>0`; the series converges for every reward only if :math:`\tau<1`. So
    where the certificate fails, one feature breaks both at once; it is returned as ``worst_feature``. QED.

    Sufficient for (i): :math:`\gamma^2\kappa<1`, because :math:`\tau\le\sigma\le\gamma\sqrt\kappa`.
    Stationary weights have :math:`\kappa=1`, those of discounted visitation :math:`\kappa\le1/\gamma`.

    Example:
        >>> chain, r = [[0, 1], [1, 0]], [1, 0]  # TD stable, rollout divergent
        >>> result = stability(Problem.from_chain(chain, r, [[1], [-3]], [0.9, 0.1], 0.9))
        >>> result.td, round(result.step_size_limit, 9), result.rollout, round(result.spectral_radius, 9)
        ('stable', 0.444444444, 'diverges', 1.5)
        >>> result.certificate  # some feature breaks both: this one has tau = 1.5 > 1
        False
    """
    eigenvalues, td, matrix = td_spectrum(problem)
    white = whiten(problem)
    G = problem.gamma * white.M
    moduli, sides = sides_of_circle(G, problem.gamma * white.next_norm)
    limit = best = rate = growth = None
    if td == "stable" and len(eigenvalues):
        limit = step_limit(eigenvalues)
        best, rate = best_step(eigenvalues)
        growth = _transient_growth(np.eye(len(matrix)) - best * matrix)
    uniform = uniform_certificate(problem)
    return Stability(
        td=td,
        rollout=_rollout_verdict(sides),
        rollout_for_reward=_rollout_for_reward(G, white.c, moduli, sides),
        eigenvalues=eigenvalues,
        step_size_limit=limit,
        best_step_size=best,
        best_rate=rate,
        transient_growth=growth,
        spectral_radius=float(np.abs(moduli).max(initial=0.0)),
        tau=uniform.tau,
        kappa=uniform.kappa,
        sigma=uniform.sigma,
        certificate=uniform.holds,
        worst_feature=uniform.worst_feature,
        not_computed=uniform.not_computed,
    )


def td_spectrum(problem: Problem) -> tuple[Complex, TDVerdict, Array]:
    """Return the eigenvalues of TD's matrix on the row space, the verdict on them, and the matrix there.

    Unlike everything about the rollout, this depends on the basis of the features' span. Where rounding hides
    on which side an eigenvalue lies, as with weights over many decades, the certificate still decides.

    Example:
        >>> td_spectrum(Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.9))[1]
        'unstable'
    """
    white = whiten(problem)
    matrix = white.V.T @ td_system(problem).A @ white.V
    # The size of what was summed: A itself, even X, may be what is left of much larger numbers.
    scale = spectral_norm(white.R * white.scale) ** 2 * (1.0 + problem.gamma * white.next_norm)
    values, sides = sides_of_axis(matrix, scale)
    if np.all(sides > 0):
        return values, "stable", matrix
    certificate = uniform_certificate(problem)
    if certificate.holds:
        return _in_sector(values, certificate, problem.gamma), "stable", matrix
    return values, "unstable" if np.any(sides < 0) else "boundary", matrix


def _in_sector(values: Complex, certificate: UniformCertificate, gamma: float) -> Complex:
    r"""Return eigenvalues moved to where tau < 1 puts them: :math:`\mathrm{Re}\lambda\ge c|\lambda|`.

    With :math:`y=Fv` an eigenvalue is :math:`y^*(I-N)y` over :math:`v^*v`, of real part at least
    :math:`(1-\tau)y^*y` and of modulus at most :math:`(1+\sigma)y^*y`.
    """
    sigma = gamma * math.sqrt(certificate.kappa) if certificate.sigma is None else certificate.sigma
    least = (1.0 - certificate.tau_bounds[1]) / (1.0 + sigma) * np.abs(values)
    real = np.maximum(values.real, np.maximum(least, np.finfo(np.float64).tiny))
    return np.asarray(real + 1j * values.imag, dtype=np.complex128)


def step_limit(eigenvalues: Complex) -> float:
    r"""Return :math:`\min_j 2\,\mathrm{Re}\lambda_j/|\lambda_j|^2`, the largest step size, itself excluded.

    Example:
        >>> step_limit(np.array([1.0 + 0.0j, 4.0 + 0.0j]))
        0.5
    """
    moduli = np.abs(eigenvalues)
    return float(np.min(2.0 * (eigenvalues.real / moduli) / moduli))


def best_step(eigenvalues: Complex) -> tuple[float, float]:
    r"""Return the step size of the smallest rate :math:`\max_j|1-\alpha\lambda_j|`, and that rate.

    The squared rate is a maximum of parabolas in the step size, hence convex; the sign of the slope of the
    active parabola is bisected.

    Example:
        >>> best_step(np.array([1.0 + 0j, 3.0 + 0j]))
        (0.5, 0.5)
    """
    low, high = 0.0, step_limit(eigenvalues)
    for _ in range(200):
        middle = 0.5 * (low + high)
        active = eigenvalues[np.argmax(np.abs(1.0 - middle * eigenvalues))]
        if middle * abs(active) > active.real / abs(active):
            high = middle
        else:
            low = middle
    best = 0.5 * (low + high)
    return best, float(np.abs(1.0 - best * eigenvalues).max())


def _transient_growth(step: Array) -> float:
    """Return the largest norm of a power of ``step``, whose spectral radius is below one.

    A power is held times an orthonormal basis of what it does not annihilate up to rounding, which leaves
    its norm as it is; where few slow modes remain, few columns do.
    """
    growth, power = 1.0, step
    work = 0
    for t in range(1, LONGEST_TRANSIENT + 1):
        bound = float(np.linalg.norm(power))  # the Frobenius norm costs no decomposition
        if bound > growth:
            bound = spectral_norm(power)
            growth = max(growth, bound)
        if bound <= 1.0:  # later powers are products of this one and of powers already seen
            break
        if t & (t - 1) == 0:  # at powers of two
            power = _without_vanished(power)
        work += len(step) * power.size
        if t >= 100 and work > TRANSIENT_WORK:
            break
        power = step @ power
    return growth


def _without_vanished(power: Array) -> Array:
    """Return (d, r) columns with the singular values of ``power`` that are above rounding."""
    left, values, _ = np.linalg.svd(power, full_matrices=False)
    kept = int(np.sum(values > len(power) * EPS * values[0]))
    return np.asarray(left[:, :kept] * values[:kept])


def _rollout_verdict(sides: Sides) -> RolloutVerdict:
    if np.any(sides < 0):
        return "diverges"
    return "boundary" if np.any(sides == 0) else "converges"


def _rollout_for_reward(G: Array, c: Array, values: Complex, sides: Sides) -> RolloutVerdict:
    """Say whether the series converges for ``c``: which of the modes that do not decay does it excite?"""
    if np.all(sides > 0):
        return "converges"
    decaying = float(np.abs(values[sides > 0]).max(initial=0.0))
    if not _excites(G, c, values, 0.5 * (decaying + min(1.0, float(np.abs(values[sides <= 0]).min())))):
        return "converges"
    if not np.any(sides < 0):
        return "boundary"
    persistent = float(np.abs(values[sides >= 0]).max(initial=0.0))
    growing = float(np.abs(values[sides < 0]).min())
    return "diverges" if _excites(G, c, values, 0.5 * (persistent + growing)) else "boundary"


def _excites(G: Array, c: Array, values: Complex, cut: float) -> bool:
    """Return whether ``c`` has a part in the generalised eigenspaces of modulus above ``cut``.

    That part is what the left invariant subspace of those eigenvalues sees of ``c``.
    """
    _, Y, count = schur(G.T, output="real", sort=lambda re, im: math.hypot(re, im) > cut)
    above = values[np.abs(values) > cut]
    rest = values[np.abs(values) <= cut]
    separation = np.abs(above[:, None] - rest[None, :]).min(initial=1.0)
    # Rounding turns the subspace by its size over the distance between the two groups of eigenvalues.
    allowed = rounding(len(G), max(1.0, spectral_norm(G))) / separation
    return bool(np.linalg.norm(Y[:, :count].T @ c) > allowed * max(float(np.linalg.norm(c)), 1e-300))
