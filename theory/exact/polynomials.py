r"""Where the roots of a polynomial lie, decided exactly: the unit circle and the imaginary axis.

Polynomials have integer coefficients, lowest first. Whether all roots lie strictly left of the imaginary
axis is decided by the recursion of Routh and Hurwitz; the unit circle is mapped to that axis (the question of
Schur, Cohn and Jury). A root *on* the boundary is a root of the polynomial and of its mirror image alike,
hence of their greatest common divisor g: the rest must lie strictly on the good side, and g must have no
roots but those on the axis, which by Hermite and Biehler is a strict question about g + g'. So "boundary" is
a verdict that is proved, like the other two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

from theory.exact.elimination import PRIME

Polynomial: TypeAlias = "list[int]"
Verdict = Literal["inside", "boundary", "outside"]


def circle_verdict(p: Polynomial) -> Verdict:
    r"""Say whether all roots lie inside the unit circle, the largest on it, or some outside.

    With :math:`z=(1+s)/(1-s)` the inside becomes the left half-plane. The root -1 would go to infinity; it
    is divided out before.

    Example:
        >>> circle_verdict([-1, 2]), circle_verdict([1, 0, 1]), circle_verdict([-2, 1]), circle_verdict([7])
        ('inside', 'boundary', 'outside', 'inside')
    """
    p = primitive(p)
    rest = p
    while len(rest) > 1 and sum(reflected(rest)) == 0:
        rest = divide(rest, [1, 1])
    verdict = left_verdict(_to_half_plane(rest))
    return "boundary" if verdict == "inside" and len(rest) < len(p) else verdict


def right_verdict(p: Polynomial) -> Verdict:
    """Say whether all roots lie right of the imaginary axis, the leftmost on it, or some left of it.

    Example:
        >>> right_verdict([-1, 2]), right_verdict([4, 0, 1]), right_verdict([1, 1])
        ('inside', 'boundary', 'outside')
    """
    return left_verdict(reflected(p))


def left_verdict(p: Polynomial) -> Verdict:
    """Say whether all roots lie left of the imaginary axis, the rightmost on it, or some right of it.

    Example:
        >>> left_verdict([1, 2]), left_verdict([0, 1]), left_verdict([-1, 1])
        ('inside', 'boundary', 'outside')
    """
    p = primitive(p)
    if left_of_axis(p):
        return "inside"
    common = gcd(p, reflected(p))
    simple = squarefree(common)
    on_axis = left_of_axis(add(simple, derivative(simple)))
    return "boundary" if on_axis and left_of_axis(divide(p, common)) else "outside"


def _to_half_plane(p: Polynomial) -> Polynomial:
    r"""Return :math:`(1-s)^np((1+s)/(1-s))`."""
    result, power = [0], [1]
    for c in reversed(p):  # Horner: times (1 + s), plus c (1 - s)^k
        result = add(_times(result, 1), [c * x for x in power])
        power = _times(power, -1)
    return primitive(result)


def _times(p: Polynomial, sign: int) -> Polynomial:
    """Return p times (1 + sign s)."""
    return [x + sign * y for x, y in zip([*p, 0], [0, *p], strict=True)]


def left_of_axis(p: Polynomial) -> bool:
    r"""Return whether every root has a negative real part (Routh, Hurwitz).

    The rows of Routh's table, each multiplied by the Hurwitz minor before it, are integers:

    .. math:: R_{k+1}=(l_k\,R_{k-1}-l_{k-1}\,R_k)/l_{k-2},

    shifted by one, with l the first entries. All roots are left of the axis if and only if all l are above 0.

    Example:
        >>> left_of_axis([1, 1]), left_of_axis([1, 0, 1]), left_of_axis([2, 3, 1])
        (True, False, True)
    """
    high = primitive(p)[::-1]
    high = [-c for c in high] if high[0] < 0 else high
    upper, lower, divisor, following = high[0::2], high[1::2], 1, 1
    while lower:
        if lower[0] <= 0:
            return False
        pairs = zip(upper[1:], [*lower[1:], 0], strict=False)
        row = [(lower[0] * x - upper[0] * y) // divisor for x, y in pairs]
        divisor, following = following, lower[0]
        upper, lower = lower, row
    return True


def primitive(p: Sequence[int]) -> Polynomial:
    """Return the polynomial without leading zeros and with coprime coefficients.

    Example:
        >>> primitive([2, 4, 0])
        [1, 2]
    """
    end = len(p)
    while end > 1 and p[end - 1] == 0:
        end -= 1
    return primitive_row(p[:end])


def primitive_row(row: Sequence[int]) -> list[int]:
    """Return integers divided by their greatest common divisor.

    Example:
        >>> primitive_row([0, 6, 4])
        [0, 3, 2]
    """
    common = math.gcd(*row)
    return [x // common for x in row] if common > 1 else list(row)


def derivative(p: Polynomial) -> Polynomial:
    """Return the derivative.

    Example:
        >>> derivative([5, 3, 2]), derivative([5])
        ([3, 4], [0])
    """
    return [k * c for k, c in enumerate(p)][1:] or [0]


def reflected(p: Polynomial) -> Polynomial:
    """Return p(-z).

    Example:
        >>> reflected([1, 2, 3])
        [1, -2, 3]
    """
    return [-c if k % 2 else c for k, c in enumerate(p)]


def add(p: Polynomial, q: Polynomial) -> Polynomial:
    """Return p + q.

    Example:
        >>> add([1, 2], [3])
        [4, 2]
    """
    size = max(len(p), len(q))
    return [x + y for x, y in zip(_padded(p, size), _padded(q, size), strict=True)]


def _padded(p: Polynomial, size: int) -> Polynomial:
    return [*p, *[0] * (size - len(p))]


def gcd(p: Polynomial, q: Polynomial) -> Polynomial:
    """Return the greatest common divisor with coprime coefficients, by pseudo-remainders.

    That there is none but 1 is usually seen modulo a prime already.

    Example:
        >>> gcd([-1, 0, 1], [1, 2, 1])  # z^2 - 1 and (z + 1)^2
        [1, 1]
    """
    p, q = primitive(p), primitive(q)
    if _coprime_modulo(p, q, PRIME):
        return [1]
    while q != [0]:
        p, q = q, _remainder(p, q)
    return p if p[-1] > 0 else [-c for c in p]


def _coprime_modulo(p: Polynomial, q: Polynomial, prime: int) -> bool:
    """Return whether two polynomials are coprime modulo a prime, and so over the rationals."""
    if p[-1] % prime == 0:
        return False
    p, q = ([c % prime for c in f] for f in (p, q))
    while any(q):
        while q[-1] == 0:
            q.pop()
        inverse = pow(q[-1], -1, prime)
        while len(p) >= len(q):
            factor, shift = p[-1] * inverse % prime, len(p) - len(q)
            p = [(c - factor * e) % prime for c, e in zip(p, [0] * shift + q, strict=True)][:-1]
        p, q = q, p
    return len(p) == 1


def _remainder(p: Polynomial, q: Polynomial) -> Polynomial:
    """Return a multiple of the remainder of p divided by q."""
    if len(q) == 1:
        return [0]
    while len(p) >= len(q):
        shift = len(p) - len(q)
        common = math.gcd(p[-1], q[-1])
        a, b = q[-1] // common, p[-1] // common
        p = primitive([a * c - b * e for c, e in zip(p, [0] * shift + q, strict=True)])
        if p == [0]:
            break
    return p


def divide(p: Polynomial, q: Polynomial) -> Polynomial:
    """Return the quotient of p by a divisor of it, with coprime coefficients.

    Example:
        >>> divide([-1, 0, 1], [1, 1])
        [-1, 1]
    """
    rest = [Fraction(c) for c in p]
    quotient: list[Fraction] = []
    for shift in range(len(p) - len(q), -1, -1):
        factor = rest[shift + len(q) - 1] / q[-1]
        quotient.append(factor)
        for k, c in enumerate(q):
            rest[shift + k] -= factor * c
    return cleared(quotient[::-1])


def squarefree(p: Polynomial) -> Polynomial:
    """Return the polynomial of the same roots, each once.

    Example:
        >>> squarefree([1, 2, 1])
        [1, 1]
    """
    return p if len(p) <= 2 else divide(p, gcd(p, derivative(p)))


def cleared(p: Sequence[Fraction]) -> Polynomial:
    """Return the polynomial with integer, coprime coefficients that has the same roots.

    Example:
        >>> cleared([Fraction(1, 2), Fraction(1, 3)])
        [3, 2]
    """
    common = math.lcm(*(c.denominator for c in p))
    return primitive([int(c * common) for c in p])


def compose(p: Polynomial, scale: Fraction, shift: Fraction) -> Polynomial:
    """Return p(scale * z + shift): its roots are those of p minus the shift, over the scale.

    Example:
        >>> compose([-6, 1], Fraction(2), Fraction(0)), compose([-6, 1], Fraction(1), Fraction(1))
        ([-3, 1], [-5, 1])
    """
    result = [Fraction(0)]
    for c in reversed(p):
        raised = [Fraction(0), *(scale * x for x in result)]
        result = [x + shift * y for x, y in zip(raised, [*result, Fraction(0)], strict=True)]
        result[0] += c
    return cleared(result)
