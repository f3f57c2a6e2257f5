r"""Discs that are proved to hold the roots of a polynomial, with multiplicities.

Floats give the centres; the radii are exact. For a polynomial of degree k with simple roots and leading
coefficient a, and any distinct centres :math:`z_j`, the roots lie in the union of the discs

.. math:: |z-z_j|\le k\,\frac{|p(z_j)|}{|a|\prod_{i\ne j}|z_j-z_i|},

and discs that touch no other hold one root each (Smith 1970). Multiplicities are taken out first (Yun).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np

from theory.exact.polynomials import Polynomial, derivative, divide, gcd
from theory.exact.rationals import nearest_float

Gauss = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Disc:
    """A disc that holds exactly one root.

    Attributes:
        real: of the centre.
        imaginary: of the centre.
        radius: a bound on the distance of the root from the centre.
        multiplicity: of the root.
    """

    real: Fraction
    imaginary: Fraction
    radius: Fraction
    multiplicity: int


def root_discs(p: Polynomial) -> list[Disc] | None:
    """Return one disc for each different root; None if floats cannot tell the roots apart or hold them.

    Example:
        >>> discs = root_discs([-2, 5, -4, 1])
        >>> [(float(disc.real), disc.radius < 1e-12, disc.multiplicity) for disc in discs]
        [(2.0, True, 1), (1.0, True, 2)]
    """
    discs: list[Disc] = []
    for multiplicity, factor in enumerate(squarefree_factors(p), start=1):
        monic = np.array([nearest_float(Fraction(c, factor[-1])) for c in reversed(factor)])
        if not np.all(np.isfinite(monic)):
            return None
        centres = [_gauss(z) for z in np.roots(monic)]
        if len(set(centres)) < len(centres):
            return None
        discs += [
            Disc(*centre, _radius(factor, centres, j), multiplicity) for j, centre in enumerate(centres)
        ]
    apart = all(
        _norm(one.real - two.real, one.imaginary - two.imaginary) > (one.radius + two.radius) ** 2
        for j, one in enumerate(discs)
        for two in discs[:j]
    )
    return discs if apart else None


def squarefree_factors(p: Polynomial) -> list[Polynomial]:
    """Return polynomials without multiple roots; the k-th, from 1, has the k-fold roots of p.

    Example:
        >>> squarefree_factors([-2, 5, -4, 1])  # (z - 2)(z - 1)^2
        [[-2, 1], [-1, 1]]
    """
    factors = []
    shared = gcd(p, derivative(p))
    simple = divide(p, shared)
    while len(simple) > 1:
        deeper = gcd(simple, shared)
        factors.append(divide(simple, deeper))
        simple, shared = deeper, divide(shared, deeper)
    return factors


def _gauss(z: complex) -> Gauss:
    return Fraction(float(z.real)), Fraction(float(z.imag))


def _norm(real: Fraction, imaginary: Fraction) -> Fraction:
    return real * real + imaginary * imaginary


def _radius(p: Polynomial, centres: Sequence[Gauss], j: int) -> Fraction:
    """Return Smith's radius of one disc, rounded up."""
    x, y = centres[j]
    real, imaginary = Fraction(0), Fraction(0)
    for c in reversed(p):
        real, imaginary = real * x - imaginary * y + c, real * y + imaginary * x
    squared = Fraction(len(p) - 1) ** 2 * _norm(real, imaginary) / Fraction(p[-1]) ** 2
    for i, (u, v) in enumerate(centres):
        if i != j:
            squared /= _norm(x - u, y - v)
    return _root_above(squared)


def _root_above(x: Fraction) -> Fraction:
    """Return a fraction not below the square root, and not much above."""
    scale = 10**30
    return Fraction(isqrt(x.numerator * scale * scale // x.denominator) + 1, scale)
