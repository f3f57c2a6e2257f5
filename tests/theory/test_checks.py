"""Checks at the boundary: whole numbers, numbers in a range, arrays of rows of one length, sums of rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from theory.checks import (
    any_array,
    as_array,
    as_matrix,
    check_count,
    check_gamma,
    check_number,
    row_tolerance,
)
from theory.errors import InputError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), True + 2])
def test_whole_numbers_of_every_kind_are_counts(value) -> None:
    assert check_count("steps", value) == 3 and type(check_count("steps", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 1.5, 2.0, "3", None, [3], np.array([3]), np.float64(3)])
def test_what_is_not_a_whole_number_is_no_count(value) -> None:
    with pytest.raises(InputError, match="steps must be a whole number, got"):
        check_count("steps", value)


def test_a_count_has_a_least_value() -> None:
    assert check_count("seed", 0, 0) == 0 and check_count("h", 1) == 1
    with pytest.raises(InputError, match="h must be at least 1, got 0"):
        check_count("h", 0)
    with pytest.raises(InputError, match="num_states must be at least 3, got 2"):
        check_count("num_states", 2, 3)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2), np.array(0.5)])
def test_real_numbers_of_every_kind_become_floats(value) -> None:
    found = check_number("epsilon", value, least=0.0, most=1.0)
    assert found == 0.5 and type(found) is float


@pytest.mark.parametrize("value", ["0.5", None, 0.5j, np.complex64(0.5), [0.5], np.array([0.5])])
def test_what_is_not_a_real_number_is_refused(value) -> None:
    with pytest.raises(InputError, match=r"epsilon must be a number and lie in \[0, 1\], got"):
        check_number("epsilon", value, least=0.0, most=1.0)


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        (-0.1, {"least": 0.0}, "be at least 0 and finite, got -0.1"),
        (0.0, {"above": 0.0}, "be greater than 0 and finite, got 0.0"),
        (2, {"above": 0.0, "most": 1.0}, "be greater than 0 and at most 1, got 2"),
        (1.1, {"least": 0.0, "most": 1.0}, r"lie in \[0, 1\], got 1.1"),
        (3.0, {"most": 2.0}, "be at most 2 and finite, got 3.0"),
        (float("nan"), {}, "be finite, got nan"),
        (float("inf"), {"least": 0.0}, "be at least 0 and finite, got inf"),
        (-float("inf"), {"most": 0.0}, "be at most 0 and finite, got -inf"),
        (10**400, {}, "be finite, got 1000"),
        (float("nan"), {"least": 0.0, "most": 1.0}, r"lie in \[0, 1\], got nan"),
    ],
)
def test_a_number_out_of_range_is_named_with_the_range(value, limits, words) -> None:
    with pytest.raises(InputError, match=f"x must {words}"):
        check_number("x", value, **limits)


def test_ends_of_a_range_are_in_it_unless_it_is_open() -> None:
    assert [check_number("x", x, least=0.0, most=1.0) for x in (0, 1)] == [0.0, 1.0]
    assert check_number("x", 5e-324, above=0.0) > 0.0
    assert check_gamma(0) == 0.0 and check_gamma(1) == 1.0


@pytest.mark.parametrize("read", [any_array, as_array])
def test_rows_of_different_lengths_are_refused(read) -> None:
    with pytest.raises(InputError, match="labels must be an array, every row of the same length"):
        read("labels", [[0], [0, 1]])


@pytest.mark.parametrize("read", [any_array, as_array])
def test_a_sparse_matrix_where_a_dense_array_belongs_is_refused(read) -> None:
    with pytest.raises(InputError, match="P must be a dense array, got a sparse one"):
        read("P", sparse.csr_array(np.eye(2)))


def test_an_array_read_is_a_copy_of_any_kind() -> None:
    words = np.array(["a", "b"])
    copy = any_array("labels", words)
    copy[0] = "c"
    assert words.tolist() == ["a", "b"] and copy.dtype == words.dtype


def test_a_sparse_matrix_must_be_real() -> None:
    with pytest.raises(InputError, match="P must hold real numbers, got an array of complex128"):
        as_matrix("P", sparse.csr_array(1j * np.eye(2)), str)


def test_a_number_beyond_float64_is_not_finite() -> None:
    with pytest.raises(InputError, match="r must be finite, got inf at index 1"):
        as_array("r", np.array([1.0, 2.0], dtype=np.longdouble) * np.longdouble(1e308) ** np.array([0, 2]))


@pytest.mark.parametrize(("kind", "tolerance"), [("float64", 1e-9), ("float32", 1e-5), ("float16", 1e-2)])
def test_a_row_may_miss_one_by_the_rounding_of_its_type(kind, tolerance) -> None:
    assert row_tolerance(np.zeros(1, dtype=kind)) == tolerance
    assert row_tolerance([0.5]) == row_tolerance(np.zeros(1, dtype=np.int64)) == 1e-9
