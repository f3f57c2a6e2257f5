"""Lanczos' iteration: the largest eigenvalue, how sure it is, and how many products it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.lanczos import SUBSPACE, affordable_products, top_eigenvalue


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), count=st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_it_is_never_above_the_largest_eigenvalue_and_finds_it_where_it_says_so(seed, n, count):
    rng = np.random.default_rng(seed)
    matrix = rng.random((n, n))
    matrix += matrix.T
    largest = np.linalg.eigvalsh(matrix)[-1]
    found = top_eigenvalue(lambda x: matrix @ x, np.ones(n), count)
    assert found.value <= largest * (1 + 1e-12)
    assert 1 <= found.products <= count
    miss = matrix @ found.vector - found.value * found.vector
    assert np.linalg.norm(miss) == pytest.approx(found.residual, abs=1e-10 * largest)
    if found.converged:
        assert found.value == pytest.approx(largest, rel=1e-10)
    else:
        assert found.products == count


def test_close_eigenvalues_need_restarts_and_are_told_apart():
    values = np.linspace(0.0, 1.0, 400) ** 0.5
    found = top_eigenvalue(lambda x: values * x, np.ones(400), 1000)
    assert found.converged and found.products > 2 * SUBSPACE
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert abs(found.vector[-1]) == pytest.approx(1.0, abs=1e-9)


def test_too_few_products_are_reported_with_what_they_gave():
    values = np.linspace(0.0, 1.0, 400) ** 0.5
    found = top_eigenvalue(lambda x: values * x, np.ones(400), 30)
    assert not found.converged and found.products == 30
    assert 0.9 < found.value < 1.0 and found.residual > 1e-8


def test_zero_and_one_dimension_converge_at_once():
    assert top_eigenvalue(lambda x: 0.0 * x, np.ones(3), 5).converged
    assert top_eigenvalue(lambda x: 2.0 * x, np.ones(1), 5).value == 2.0


def test_work_is_bounded_and_products_are_neither_too_few_nor_too_many():
    assert [affordable_products(cost) for cost in (1, 10**7, 10**9)] == [2000, 200, 20]
