"""Which side of the circle or the axis: polynomials made from known roots, Jury's recursion, and floats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.exact.polynomials import (
    circle_verdict,
    cleared,
    compose,
    divide,
    gcd,
    left_of_axis,
    primitive,
    right_verdict,
    squarefree,
)
from theory.exact.roots import root_discs, squarefree_factors
from theory.exact.stability import compare_least_real_part, compare_spectral_radius, compare_step_size_limit

PYTHAGOREAN = [(3, 4, 5), (5, 12, 13), (8, 15, 17), (20, 21, 29)]


def times(p: list[Fraction], q: list[Fraction]) -> list[Fraction]:
    result = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        for j, y in enumerate(q):
            result[i + j] += x * y
    return result


def from_roots(roots: list[tuple[Fraction, Fraction]]) -> list[int]:
    """Return the polynomial with these roots; one that is not real comes with its conjugate."""
    p = [Fraction(1)]
    for a, b in roots:
        factor = [-a, Fraction(1)] if b == 0 else [a * a + b * b, -2 * a, Fraction(1)]
        p = times(p, factor)
    return cleared(p)


def jury(p: list[int]) -> bool:
    """Schur, Cohn and Jury: all roots strictly inside the unit circle."""
    p = primitive(p)
    while len(p) > 1:
        a, c = p[-1], p[0]
        if abs(c) >= abs(a):
            return False
        p = primitive([a * x - c * y for x, y in zip(p[1:], p[-2::-1], strict=True)])
    return True


RATIONAL = st.builds(Fraction, st.integers(-8, 8), st.integers(1, 6))
ON_CIRCLE = st.one_of(
    st.sampled_from([(Fraction(1), Fraction(0)), (Fraction(-1), Fraction(0)), (Fraction(0), Fraction(1))]),
    st.sampled_from([(Fraction(s * a, c), Fraction(b, c)) for a, b, c in PYTHAGOREAN for s in (1, -1)]),
)
ROOTS = st.lists(st.one_of(st.tuples(RATIONAL, RATIONAL), ON_CIRCLE), max_size=5)


@given(ROOTS)
def test_the_circle_verdict_is_that_of_the_largest_modulus(roots):
    largest = max((a * a + b * b for a, b in roots), default=Fraction(0))
    expected = "inside" if largest < 1 else "boundary" if largest == 1 else "outside"
    assert circle_verdict(from_roots(roots)) == expected
    assert jury(from_roots(roots)) == (expected == "inside")


@given(ROOTS)
def test_the_half_plane_verdict_is_that_of_the_smallest_real_part(roots):
    least = min((a for a, _ in roots), default=Fraction(1))
    expected = "inside" if least > 0 else "boundary" if least == 0 else "outside"
    assert right_verdict(from_roots(roots)) == expected


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8).filter(lambda p: p[-1] != 0))
def test_any_polynomial_is_judged_as_its_float_roots_are_where_these_are_clear(p):
    roots = np.roots(p[::-1])
    margin = 1.0 - np.abs(roots).max(initial=0.0)
    if abs(margin) > 1e-2:
        assert circle_verdict(p) == ("inside" if margin > 0 else "outside")
    assert jury(p) == (circle_verdict(p) == "inside")
    least = roots.real.min(initial=1.0)
    if abs(least) > 1e-2:
        assert right_verdict(p) == ("inside" if least > 0 else "outside")
        assert left_of_axis([c * (-1) ** k for k, c in enumerate(p)]) == (least > 0)


@pytest.mark.parametrize(("off", "verdict"), [(-1, "inside"), (0, "boundary"), (1, "outside")])
def test_a_root_is_placed_at_a_distance_of_ten_to_the_minus_thirty(off, verdict):
    tiny = off * Fraction(1, 10**30)
    for on in [(Fraction(1), Fraction(0)), (Fraction(-1), Fraction(0)), (Fraction(3, 5), Fraction(4, 5))]:
        a, b = on[0] * (1 + tiny), on[1] * (1 + tiny)
        assert circle_verdict(from_roots([(a, b), (Fraction(1, 3), Fraction(0))])) == verdict
    for b in (0, 2):
        assert right_verdict(from_roots([(-tiny, Fraction(b)), (Fraction(1), Fraction(0))])) == verdict


def test_pairs_of_mirror_images_are_not_on_the_boundary():
    """z and 1/z, or z and -z, are shared with the mirror image too."""
    two, half = (Fraction(2), Fraction(0)), (Fraction(1, 2), Fraction(0))
    minus_half = (Fraction(-1, 2), Fraction(0))
    assert circle_verdict(from_roots([two, half])) == "outside"
    assert circle_verdict(from_roots([two, half, (Fraction(0), Fraction(1))])) == "outside"
    assert right_verdict(from_roots([half, minus_half])) == "outside"
    assert right_verdict(from_roots([half, minus_half, (Fraction(0), Fraction(1))])) == "outside"


def test_multiple_roots_on_the_boundary_are_on_the_boundary():
    i, one = (Fraction(0), Fraction(1)), (Fraction(1), Fraction(0))
    assert circle_verdict(from_roots([i, i, one, one])) == "boundary"
    assert right_verdict(from_roots([i, i, one])) == "boundary"


@given(ROOTS.filter(bool), RATIONAL)
def test_comparisons_have_the_sign_of_the_difference(roots, t):
    p = from_roots(roots)
    square = max(a * a + b * b for a, b in roots)
    expected = 1 if t < 0 else (square > t * t) - (square < t * t)
    assert compare_spectral_radius(p)(t) == expected
    least = min(a for a, _ in roots)
    assert compare_least_real_part(p)(t) == (least > t) - (least < t)


@given(st.lists(st.tuples(RATIONAL.map(abs).filter(bool), RATIONAL), min_size=1, max_size=4), RATIONAL)
def test_the_step_size_limit_is_compared_exactly(roots, t):
    limit = min(2 * a / (a * a + b * b) for a, b in roots)
    compare = compare_step_size_limit(from_roots(roots))
    assert compare(t) == (limit > t) - (limit < t)
    assert compare(limit) == 0


@given(ROOTS, ROOTS)
def test_the_greatest_common_divisor_holds_the_common_roots(first, second):
    p, q = from_roots(first), from_roots(second)
    common = gcd(p, q)
    assert divide(p, common) and times_int(divide(p, common), common) in (p, [-c for c in p])
    shared = [root for root in first if first.count(root) and root in second]
    assert (len(common) > 1) == bool({(a, abs(b)) for a, b in first} & {(a, abs(b)) for a, b in second})
    assert not shared or len(common) > 1


def times_int(p: list[int], q: list[int]) -> list[int]:
    return [int(c) for c in times([Fraction(c) for c in p], [Fraction(c) for c in q])]


@given(ROOTS.filter(bool), RATIONAL.filter(bool), RATIONAL)
def test_composing_moves_the_roots(roots, scale, shift):
    moved = [((a - shift) / scale, b / scale) for a, b in roots]
    composed = compose(from_roots(roots), scale, shift)
    assert composed in (from_roots(moved), [-c for c in from_roots(moved)])


def test_multiplicities_are_taken_apart():
    one, two, three = ((Fraction(k), Fraction(0)) for k in (1, 2, 3))
    factors = squarefree_factors(from_roots([one, two, two, three, three, three]))
    assert factors == [[-1, 1], [-2, 1], [-3, 1]]
    assert squarefree(from_roots([one, two, two])) == from_roots([one, two])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=4, unique=True))
def test_each_disc_holds_one_root(pairs):
    roots = [(Fraction(a, 2), Fraction(b, 2)) for a, b in pairs]
    discs = root_discs(from_roots([*roots, roots[0]]))
    both = {(a, sign * b) for a, b in roots for sign in (1, -1)}
    assert discs is not None and len(discs) == len(both)
    for disc in discs:
        inside = [
            (a, b) for a, b in both if (a - disc.real) ** 2 + (b - disc.imaginary) ** 2 <= disc.radius**2
        ]
        assert len(inside) == 1 and disc.radius < Fraction(1, 10**6)
        assert disc.multiplicity == (2 if (inside[0][0], abs(inside[0][1])) == roots[0] else 1)


def test_coefficients_beyond_floats_leave_the_roots_unlocated():
    assert root_discs([10**400, 0, 1]) is None
    assert root_discs([-1, 0, 10**20]) is not None
