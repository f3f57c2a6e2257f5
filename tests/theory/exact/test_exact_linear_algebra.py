"""Elimination, LDL and the two backends against brute force: cofactors, NumPy, and one another."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError
from theory.exact import backend as backends
from theory.exact import definite
from theory.exact.backend import FLINT, PYTHON, has_flint, interpolate, using
from theory.exact.definite import ldl, sign
from theory.exact.elimination import PRIME, determinant, reduce, regular_modulo
from theory.exact.linear import (
    apply,
    identity,
    null_space,
    pencil,
    product,
    rank,
    row_basis,
    solve,
    transpose,
)
from theory.exact.linear import determinant as exact_determinant
from theory.exact.solutions import least_norm, same, solve_all

SMALL = st.integers(-4, 4)


def matrices(rows: int, columns: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(SMALL, min_size=columns, max_size=columns), min_size=rows, max_size=rows)


ANY = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(lambda shape: matrices(*shape))
SQUARE = st.integers(1, 5).flatmap(lambda size: matrices(size, size))


def by_cofactors(matrix: list[list[int]]) -> int:
    total = 0
    for order in itertools.permutations(range(len(matrix))):
        sign = (-1) ** sum(a > b for a, b in itertools.combinations(order, 2))
        total += sign * int(np.prod([matrix[i][j] for i, j in enumerate(order)], dtype=object))
    return total


def to_fractions(matrix: list[list[int]]) -> list[list[Fraction]]:
    return [[Fraction(x) for x in row] for row in matrix]


@given(SQUARE)
def test_the_determinant_is_the_sum_over_permutations(matrix):
    assert determinant(matrix) == by_cofactors(matrix)


def test_long_entries_cost_no_digit():
    big = 10**40
    assert determinant([[big + 1, big], [big, big - 1]]) == -1
    assert exact_determinant([[Fraction(1, big), Fraction(1, 3)], [Fraction(1), Fraction(big)]]) == Fraction(
        2, 3
    )


@given(ANY)
def test_the_reduced_form_has_the_same_row_space_and_unit_pivots(matrix):
    reduced = reduce(matrix)
    for i, (row, pivot) in enumerate(zip(reduced.rows, reduced.pivots, strict=True)):
        assert not any(row[:pivot])
        assert [other[pivot] for other in reduced.rows] == [
            reduced.denominator * int(j == i) for j in range(len(reduced.rows))
        ]
    assert len(reduced.pivots) == np.linalg.matrix_rank(np.array(matrix))
    # Each row given is the combination of reduced rows that its pivot entries say.
    for row in matrix:
        combination = [
            sum(
                Fraction(row[p] * r[j], reduced.denominator)
                for r, p in zip(reduced.rows, reduced.pivots, strict=True)
            )
            for j in range(len(row))
        ]
        assert combination == row


@given(SQUARE, st.data())
def test_solving_gives_the_solution_and_refuses_singular_matrices(matrix, data):
    right = data.draw(matrices(len(matrix), 2))
    A, B = to_fractions(matrix), [[Fraction(x, 7) for x in row] for row in right]
    found = solve(A, B)
    if by_cofactors(matrix) == 0:
        assert found is None
    else:
        assert found is not None and product(A, found) == B


@given(ANY)
def test_the_null_space_is_taken_to_zero_and_complements_the_rank(matrix):
    exact = to_fractions(matrix)
    directions = null_space(row_basis(exact), len(matrix[0]))
    assert len(directions) == len(matrix[0]) - rank(exact)
    assert all(not any(apply(exact, direction)) for direction in directions)
    assert rank(directions) == len(directions)


@given(ANY, st.data())
def test_all_solutions_are_found_whatever_the_rank(matrix, data):
    right = [Fraction(x) for x in data.draw(st.lists(SMALL, min_size=len(matrix), max_size=len(matrix)))]
    exact = to_fractions(matrix)
    found = solve_all(exact, right, len(matrix[0]))
    solvable = rank(exact) == rank([[*row, x] for row, x in zip(exact, right, strict=True)])
    assert (found.kind == "none") == (not solvable)
    if found.w is not None:
        assert apply(exact, found.w) == right
        assert all(sum(x * y for x, y in zip(found.w, v, strict=True)) == 0 for v in found.directions)
        assert (found.kind == "unique") == (rank(exact) == len(matrix[0]))


def test_sets_of_solutions_differ_by_their_point_or_their_directions():
    line = solve_all([[Fraction(1), Fraction(1)]], [Fraction(2)], 2)
    shifted = solve_all([[Fraction(1), Fraction(1)]], [Fraction(2) + Fraction(1, 10**30)], 2)
    turned = solve_all([[Fraction(1), 1 + Fraction(1, 10**30)]], [Fraction(2)], 2)
    scaled = solve_all([[Fraction(3), Fraction(3)]], [Fraction(6)], 2)
    nothing = solve_all([[Fraction(0), Fraction(0)]], [Fraction(2)], 2)
    assert [same(line, other) for other in (scaled, shifted, turned, nothing)] == [True, False, False, False]
    assert same(nothing, solve_all([[Fraction(0), Fraction(0)]], [Fraction(3)], 2))


def test_the_point_of_least_norm_is_orthogonal_to_the_directions():
    assert least_norm([Fraction(3), Fraction(0), Fraction(1)], [[Fraction(1), Fraction(2), Fraction(0)]]) == (
        Fraction(12, 5),
        Fraction(-6, 5),
        Fraction(1),
    )


@given(SQUARE)
def test_ldl_gives_the_matrix_back_and_the_signs_of_its_eigenvalues(matrix):
    symmetric = product(to_fractions(matrix), transpose(to_fractions(matrix)))
    factor = ldl(symmetric)
    assert factor.sign == ("definite" if by_cofactors(matrix) else "semidefinite")
    L = transpose(factor.columns)
    middle = [[x if i == j else Fraction(0) for j in range(len(L))] for i, x in enumerate(factor.D)]
    assert product(product(L, middle), transpose(L)) == symmetric
    least = min(factor.D)
    below = [[x - (least + 1) * int(i == j) for j, x in enumerate(row)] for i, row in enumerate(symmetric)]
    assert ldl(below).sign == "indefinite" or np.linalg.eigvalsh(np.array(symmetric, dtype=float))[0] >= least


@pytest.mark.parametrize(("off", "wanted"), [(-1, "definite"), (0, "semidefinite"), (1, "indefinite")])
def test_definiteness_is_decided_at_a_distance_of_ten_to_the_minus_thirty(off, wanted):
    x = 1 + off * Fraction(1, 10**30)
    assert ldl([[Fraction(1), x], [x, Fraction(1)]]).sign == wanted
    third = Fraction(1, 3**40)  # long, so that rounding is tried first
    assert sign([[third, x * third], [x * third, third]]) == wanted


def test_a_zero_pivot_whose_row_is_not_zero_is_indefinite():
    assert ldl([[Fraction(0), Fraction(1)], [Fraction(1), Fraction(5)]]).sign == "indefinite"
    assert ldl([[Fraction(0), Fraction(0)], [Fraction(0), Fraction(5)]]).sign == "semidefinite"


@given(SQUARE, st.integers(-2, 30), st.lists(st.integers(1, 80), min_size=5, max_size=5))
def test_the_sign_by_short_numbers_is_that_of_the_full_factor(matrix, below, powers):
    square = product(to_fractions(matrix), transpose(to_fractions(matrix)))
    lower = [[x - below * int(i == j) for j, x in enumerate(row)] for i, row in enumerate(square)]
    scale = [Fraction(1, 3**power) for power in powers]
    long = [[scale[i] * scale[j] * x for j, x in enumerate(row)] for i, row in enumerate(lower)]
    assert sign(long) == ldl(long).sign == ldl(lower).sign


@pytest.mark.parametrize(("x", "y", "wanted"), [(49, 88, "indefinite"), (-49, -88, "definite")])
def test_rounding_that_would_turn_the_sign_decides_nothing(x, y, wanted):
    # The eigenvalue of (1, 1, 1) is y - 2x, in hundredths of the last bit: -10 and 10; rounded 100 and -100.
    off, diagonal = (Fraction(k * 100 * 2**62 + z, 100 * 2**64) for k, z in ((1, x), (2, y)))
    assert sign([[diagonal if i == j else -off for j in range(3)] for i in range(3)]) == wanted


@pytest.mark.parametrize("wanted", ["definite", "indefinite"])
def test_a_clear_case_of_long_fractions_is_decided_by_short_numbers(wanted, monkeypatch):
    seen = []
    monkeypatch.setattr(definite, "ldl", lambda matrix: seen.append(matrix) or ldl(matrix))
    off = Fraction(1, 7) if wanted == "definite" else Fraction(7)
    long = [[Fraction(1, 3**99) * (1 if i == j else off) for j in range(3)] for i in range(3)]
    assert sign(long) == wanted
    assert {x.denominator for matrix in seen for row in matrix for x in row} == {1}
    assert max(abs(x) for matrix in seen for row in matrix for x in row) < 2**70


@given(SQUARE)
def test_a_matrix_that_is_invertible_modulo_a_prime_is_invertible(matrix):
    assert regular_modulo(matrix) == (by_cofactors(matrix) != 0)  # entries far below the prime: both ways
    assert not regular_modulo([[x * PRIME for x in row] for row in matrix])


@given(SQUARE)
def test_the_pencil_is_the_characteristic_polynomial(matrix):
    coefficients = pencil(identity(len(matrix)), to_fractions(matrix))
    assert coefficients[-1] == 1
    assert coefficients[0] == (-1) ** len(matrix) * by_cofactors(matrix)
    assert -coefficients[-2] == sum(matrix[i][i] for i in range(len(matrix)))
    if len(matrix) > 1:  # Cayley and Hamilton
        power, total = identity(len(matrix)), [[Fraction(0)] * len(matrix) for _ in matrix]
        for c in coefficients:
            total = [
                [t + c * p for t, p in zip(*rows, strict=True)] for rows in zip(total, power, strict=True)
            ]
            power = product(power, to_fractions(matrix))
        assert not any(any(row) for row in total)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=7))
def test_interpolation_gives_the_polynomial_back(coefficients):
    points = list(range(-3, len(coefficients) - 3))
    values = [sum(c * x**k for k, c in enumerate(coefficients)) for x in points]
    assert interpolate(points, values) == coefficients


@pytest.mark.skipif(not has_flint(), reason="python-flint is not installed")
@given(ANY, SQUARE, st.data())
@settings(max_examples=60)
def test_both_backends_agree(matrix, square, data):
    python, flint = PYTHON.reduce(matrix), FLINT.reduce(matrix)
    assert python.pivots == flint.pivots
    as_fractions = [
        [[Fraction(x, found.denominator) for x in row] for row in found.rows] for found in (python, flint)
    ]
    assert as_fractions[0] == as_fractions[1]
    assert PYTHON.determinant(square) == FLINT.determinant(square)
    left = data.draw(matrices(len(square), len(square)))
    gram = [[sum(map(int.__mul__, x, y)) + int(x is y) for y in left] for x in left]
    assert PYTHON.pencil(gram, square) == FLINT.pencil(gram, square)


def test_the_backend_is_python_without_flint_and_flint_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(backends, "_flint", None)
    assert backends.current() is PYTHON
    with pytest.raises(InputError, match="pip install python-flint"), using("flint"):
        pass
    with pytest.raises(InputError, match="must be one of auto, python, flint; got 'sympy'"), using("sympy"):
        pass


def test_the_choice_of_a_backend_ends_with_its_block():
    before = backends.current()
    with using("python"):
        assert backends.current() is PYTHON
    assert backends.current() is before
