r"""Which iterations converge, decided over the rationals; see ``theory.stability`` for the statements.

Eigenvalues are irrational, so they are never computed: their characteristic polynomials are rational, and on
which side of a circle or an axis its roots lie is decided in integers (``polynomials``). Numbers such as
:math:`\rho(\gamma W_d)` or tau exist here as comparisons with any fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from theory.exact.backend import interpolate, shifted
from theory.exact.definite import sign
from theory.exact.elimination import PRIME, regular_modulo
from theory.exact.linear import determinant, integers, minus, pencil, product, scaled, solve, transpose
from theory.exact.polynomials import (
    Polynomial,
    Verdict,
    circle_verdict,
    cleared,
    compose,
    divide,
    gcd,
    right_verdict,
    squarefree,
)
from theory.exact.problem import ExactProblem
from theory.exact.rationals import ExactMatrix, nearest_float
from theory.exact.system import ExactSystem, exact_system

if TYPE_CHECKING:
    from theory.stability import RolloutVerdict, TDVerdict

Comparison = Callable[[Fraction], int]
"""The sign of a real number minus a fraction, decided exactly."""

CLOSE = Fraction(1, 10**6)
_ROLLOUT: dict[Verdict, RolloutVerdict] = {
    "inside": "converges",
    "boundary": "boundary",
    "outside": "diverges",
}
_TD: dict[Verdict, TDVerdict] = {"inside": "stable", "boundary": "boundary", "outside": "unstable"}
_SIGN: dict[str, int] = {"inside": -1, "boundary": 0, "outside": 1}


@dataclass(frozen=True)
class ExactStability:
    r"""How TD and the rollout behave, proved; "boundary" is exact.

    Attributes:
        td: whether all eigenvalues of ``A`` on the row space lie right of the imaginary axis.
        rollout: whether :math:`\rho(\gamma W_d)` is below, at or above one.
        rollout_for_reward: the same for those modes that this problem's reward excites.
        certificate: tau is below one: both converge for every choice of features.
        td_polynomial: of the eigenvalues of ``A`` on the row space, integer coefficients, lowest first.
        model_polynomial: of those of :math:`\gamma W_d` on the row space.
    """

    td: TDVerdict
    rollout: RolloutVerdict
    rollout_for_reward: RolloutVerdict
    certificate: bool
    td_polynomial: Polynomial
    model_polynomial: Polynomial


def exact_stability(problem: ExactProblem) -> ExactStability:
    """Decide which iterations converge on a problem of fractions.

    Example:
        >>> chain = [[0, 1], [1, 0]]
        >>> flip = ExactProblem.from_chain(chain, [1, 0], [1, -3], ["63/80", "17/80"], "9/10")
        >>> found = exact_stability(flip)
        >>> found.td, found.rollout, found.certificate  # the eigenvalue of the rollout is -1
        ('stable', 'boundary', False)
    """
    system = exact_system(problem)
    td, model = td_polynomial(system), model_polynomial(system)
    rollout = circle_verdict(model)
    excited = rollout if rollout == "inside" else circle_verdict(excited_polynomial(system, model))
    return ExactStability(
        td=_TD[right_verdict(td)],
        rollout=_ROLLOUT[rollout],
        rollout_for_reward=_ROLLOUT[excited],
        certificate=compare_tau(problem)(Fraction(1)) < 0,
        td_polynomial=td,
        model_polynomial=model,
    )


def td_polynomial(system: ExactSystem) -> Polynomial:
    """Return the polynomial whose roots are the eigenvalues of TD's matrix on the row space.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "9/10")
        >>> td_polynomial(exact_system(chain))  # x + 1/5
        [1, 5]
    """
    return cleared([Fraction(c) for c in pencil(system.gram, system.within(system.A))])


def model_polynomial(system: ExactSystem) -> Polynomial:
    r"""Return the polynomial whose roots are the eigenvalues of :math:`\gamma W_d` on the row space.

    Example:
        >>> chain = ExactProblem.from_chain([[0, 1], [0, 1]], [1, 1], [1, 2], ["1/2", "1/2"], "9/10")
        >>> model_polynomial(exact_system(chain))  # x - 27/25
        [-27, 25]
    """
    X = system.within(scaled(system.gamma, system.X))
    return cleared([Fraction(c) for c in pencil(system.within(system.C), X)])


def excited_polynomial(system: ExactSystem, p: Polynomial) -> Polynomial:
    r"""Return the polynomial of those modes of :math:`G=\gamma W_d` that the reward excites.

    With characteristic polynomial p, :math:`(x-G)^{-1}w_r` is a vector of polynomials over p. What p shares
    with all of them cancels, and what is left is the polynomial of least degree that takes :math:`w_r` to
    zero. The numerators are interpolated from solutions at integers x that are no eigenvalues.

    Example:
        >>> zero = ExactProblem.from_chain([[0, 1], [0, 1]], [0, 0], [1, 2], ["1/2", "1/2"], "9/10")
        >>> excited_polynomial(exact_system(zero), [-27, 25])
        [1]
    """
    if _all_excited(system):
        return p
    common = p
    for numerator in _numerators(system):
        common = gcd(common, numerator)
    return divide(p, common)


def _all_excited(system: ExactSystem) -> bool:
    """Return whether c, G c, G^2 c, ... are seen to be independent, c being the reward: modulo a prime."""
    if not system.B:
        return True
    right = product(system.B, [[x] for x in system.b])
    X = system.within(scaled(system.gamma, system.X))
    targets = [[*row, *x] for row, x in zip(X, right, strict=True)]
    G, common = integers(solve(system.within(system.C), targets) or [])
    vector, krylov = [row.pop() for row in G], []
    for _ in G:  # over the common denominator, which changes no rank if the prime does not divide it
        krylov.append(vector)
        vector = [sum(x * y for x, y in zip(row, vector, strict=True)) % PRIME for row in G]
    return common % PRIME != 0 and regular_modulo(krylov)


def _numerators(system: ExactSystem) -> list[Polynomial]:
    """Return the entries of adj(x E - F) b on the row space, E and F being C and gamma X in integers."""
    both, _ = integers([*system.within(system.C), *system.within(scaled(system.gamma, system.X))])
    E, F = both[: system.rank], both[system.rank :]
    right = integers(product(system.B, [[x] for x in system.b]) if system.B else [])[0]
    points: list[int] = []
    columns: list[list[int]] = []
    x = 0
    while len(points) < system.rank:
        matrix = [[Fraction(e) for e in row] for row in shifted(E, F, x)]
        found = solve(matrix, [[Fraction(v) for v in row] for row in right])
        if found is not None:
            size = determinant(matrix)
            points.append(x)
            columns.append([int(row[0] * size) for row in found])
        x += 1
    return [interpolate(points, list(values)) for values in zip(*columns, strict=True)]


def compare_spectral_radius(p: Polynomial) -> Comparison:
    """Return the comparison of the largest modulus of the roots of a polynomial.

    Example:
        >>> compare = compare_spectral_radius([-27, 25])
        >>> [compare(t) for t in (Fraction(1), Fraction(27, 25), Fraction(2))]
        [1, 0, -1]
    """
    simple = squarefree(p)

    def compare(t: Fraction) -> int:
        if t <= 0:
            return int(t < 0 or any(p[:-1]))
        return _SIGN[circle_verdict(compose(simple, t, Fraction(0)))]

    return compare


def compare_least_real_part(p: Polynomial) -> Comparison:
    """Return the comparison of the smallest real part of the roots of a polynomial.

    Example:
        >>> compare = compare_least_real_part([4, 0, 1])  # 2i and -2i
        >>> [compare(Fraction(t)) for t in (-1, 0, 1)]
        [1, 0, -1]
    """
    simple = squarefree(p)
    return lambda t: -_SIGN[right_verdict(compose(simple, Fraction(1), t))]


def compare_step_size_limit(p: Polynomial) -> Comparison:
    r"""Return the comparison of TD's largest step size, given the polynomial of a stable A.

    The limit exceeds a if and only if all :math:`1-a\lambda` lie inside the unit circle, and equals it if the
    largest of them lies on it.

    Example:
        >>> compare = compare_step_size_limit([-4, 1])  # one eigenvalue, 4
        >>> [compare(Fraction(1, t)) for t in (1, 2, 4)]
        [-1, 0, 1]
    """
    simple = squarefree(p)

    def compare(a: Fraction) -> int:
        return 1 if a <= 0 else -_SIGN[circle_verdict(compose(simple, -1 / a, 1 / a))]

    return compare


def compare_tau(problem: ExactProblem) -> Comparison:
    r"""Return the comparison of :math:`\tau=\lambda_{\max}((N+N^\top)/2)`, infinite if support is left.

    :math:`\tau<t` if and only if :math:`2tD-\gamma(DP+P^\top D)` is positive definite on the support.

    Example:
        >>> cycle = ExactProblem.from_chain([[0, 1], [1, 0]], [1, 0], [1, 0], ["1/2", "1/2"], "9/10")
        >>> [compare_tau(cycle)(Fraction(t, 10)) for t in (8, 9, 10)]
        [1, 0, -1]
    """
    weighted = _weighted_chain(problem)
    if weighted is None:
        return lambda t: 1
    D, N = weighted
    symmetric = minus(N, scaled(Fraction(-1), transpose(N)))
    return lambda t: _definite(_less([2 * t * mu for mu in D], symmetric))


def compare_sigma(problem: ExactProblem) -> Comparison:
    r"""Return the comparison of :math:`\sigma=\|N\|_2`, infinite if support is left.

    :math:`\sigma<t` if and only if t > 0 and :math:`t^2D-\gamma^2P^\top DP` is positive definite.

    Example:
        >>> cycle = ExactProblem.from_chain([[0, 1], [1, 0]], [1, 0], [1, 0], ["1/2", "1/2"], "9/10")
        >>> [compare_sigma(cycle)(Fraction(t, 10)) for t in (8, 9, 10)]
        [1, 0, -1]
    """
    weighted = _weighted_chain(problem)
    if weighted is None:
        return lambda t: 1
    D, N = weighted
    squared = product(transpose(N), [[x / mu for x in row] for mu, row in zip(D, N, strict=True)])

    def compare(t: Fraction) -> int:
        if t <= 0:
            return int(t < 0 or any(any(row) for row in N))
        return _definite(_less([t * t * mu for mu in D], squared))

    return compare


def kappa(problem: ExactProblem) -> Fraction | None:
    r"""Return :math:`\max_j(\mu^\top P^\pi)_j/\mu_j`; None if it is infinite.

    Example:
        >>> kappa(ExactProblem.from_chain([[0, 1], [0, 1]], [1, 0], [1, 0], ["1/4", "3/4"], 1))
        Fraction(4, 3)
    """
    reached = [Fraction(0)] * problem.n
    for weight, row in zip(problem.mu, problem.P, strict=True):
        for j, p in row.items():
            reached[j] += weight * p
    if any(x and not mu for x, mu in zip(reached, problem.mu, strict=True)):
        return None
    return max(x / mu for x, mu in zip(reached, problem.mu, strict=True) if mu)


def certified(compare: Comparison, guess: float, threshold: Fraction) -> float | None:
    """Return a float that is proved to be within 1e-6 of a number, relatively or absolutely.

    It is the threshold itself if the number cannot be told from it at that accuracy; None if the guess is
    wrong.

    Example:
        >>> compare = compare_spectral_radius([-27, 25])
        >>> certified(compare, 1.08, Fraction(1)), certified(compare, 1.09, Fraction(1))
        (1.08, None)
    """
    if not np.isfinite(guess):
        return None
    middle = Fraction(f"{guess:.8g}")  # short, for the sake of the polynomials it goes into
    width = CLOSE * max(Fraction(1), abs(middle))
    if abs(middle - threshold) <= width:
        middle = threshold
    if compare(middle - width) < 0 or compare(middle + width) > 0:
        return None
    return nearest_float(middle)


def _weighted_chain(problem: ExactProblem) -> tuple[list[Fraction], ExactMatrix] | None:
    r"""Return the weights and :math:`\gamma DP` on the support; None if a row outside is reached from it."""
    place = {row: i for i, row in enumerate(row for row, weight in enumerate(problem.mu) if weight)}
    matrix = []
    for row in place:
        entries = [Fraction(0)] * len(place)
        for j, p in problem.P[row].items():
            weight = problem.gamma * problem.mu[row] * p
            if weight and j not in place:
                return None
            if weight:
                entries[place[j]] = weight
        matrix.append(entries)
    return [problem.mu[row] for row in place], matrix


def _less(diagonal: list[Fraction], matrix: ExactMatrix) -> ExactMatrix:
    """Return the diagonal matrix minus the other."""
    return [[(diagonal[i] if i == j else 0) - x for j, x in enumerate(row)] for i, row in enumerate(matrix)]


def _definite(matrix: ExactMatrix) -> int:
    return {"definite": -1, "semidefinite": 0, "indefinite": 1}[sign(matrix)]
