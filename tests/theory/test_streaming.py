"""Features in blocks: the same numbers for every block size, in any type, on file or in memory."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import (
    Features,
    InputError,
    Policy,
    Problem,
    Weights,
    bounds,
    check_fixed_point_equivalence,
    fit_linear_model,
    garnet,
    stability,
    td_fixed_point,
    td_system,
    value_error,
)
from theory.assembly import assemble
from theory.bounds import POINTWISE, SUPREMUM, WEIGHTED
from theory.streaming import Triangle, remembered, triangle
from theory.whitening import whiten

few = settings(max_examples=40, deadline=None)


def random_problem(seed: int, dense: bool, dependent: bool, partial: bool) -> Problem:
    """A Garnet of 7 states with one that is terminal, 2 actions, 3 features."""
    rng = np.random.default_rng(seed)
    mdp = garnet(7, 2, 3, 0.9, seed=seed, num_terminal=1, dense=dense)
    Z = rng.normal(size=(7, 2, 3))
    if dependent:
        Z[:, :, 2] = Z[:, :, 0] - 2 * Z[:, :, 1]
    mu = rng.dirichlet(np.ones(14)).reshape(7, 2) * ~mdp.terminal[:, None]
    if partial:
        mu[rng.random(mu.shape) < 0.3] = 0.0
        mu[0, 0] += 0.01
    return Problem(mdp, Policy(rng.dirichlet(np.ones(2), 7)), Features(Z), Weights(mu))


def in_blocks(rows: int) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr("theory.streaming.BLOCK_ROWS", rows)
    return patch


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 11),
    dense=st.booleans(),
    dependent=st.booleans(),
    partial=st.booleans(),
)
@few
def test_every_block_size_gives_what_matrices_written_out_give(seed, rows, dense, dependent, partial):
    patch = in_blocks(rows)
    try:
        problem = random_problem(seed, dense, dependent, partial)
        model, white, system = fit_linear_model(problem), whiten(problem), td_system(problem)
        error, Z_next = value_error(problem).error, problem.Z_next
    finally:
        patch.undo()
    P, Z, mu, r = problem.dense_P, problem.Z, problem.mu, problem.r
    root = np.sqrt(mu)[:, None]
    np.testing.assert_allclose(Z_next, P @ Z, atol=1e-14)
    np.testing.assert_allclose(system.C, Z.T @ (mu[:, None] * Z), atol=1e-14)
    np.testing.assert_allclose(system.X, Z.T @ (mu[:, None] * (P @ Z)), atol=1e-14)
    np.testing.assert_allclose(system.b, Z.T @ (mu * r), atol=1e-14)
    assert assemble(problem).next_norm == pytest.approx(np.linalg.norm(root * (P @ Z)), rel=1e-12)
    inverse = np.linalg.pinv(root * Z, rcond=1e-10)
    limit = 1e-12 * white.condition**2
    onto = root * Z @ inverse
    np.testing.assert_allclose(root[:, 0] * (Z @ model.w_r), onto @ (root[:, 0] * r), atol=limit)
    np.testing.assert_allclose(root * (Z @ model.W_d), onto @ (root * (P @ Z)), atol=limit)
    np.testing.assert_allclose(white.Q.T @ white.Q, np.eye(white.rank), atol=1e-13)
    np.testing.assert_allclose(white.Q @ white.Q.T, onto, atol=limit)
    expected = np.linalg.eigvals(inverse @ (root * (P @ Z)))
    found = np.concatenate([np.linalg.eigvals(white.M), np.zeros(3 - white.rank)])
    size = np.abs(np.poly(expected)).max()
    np.testing.assert_allclose(np.poly(found), np.poly(expected), atol=limit * size)
    G = np.linalg.inv(np.eye(len(P)) - 0.9 * P)
    w = value_error(problem).w
    np.testing.assert_allclose(error, Z @ w - G @ r, atol=1e-10 * (1 + np.abs(Z @ w).max()))


@pytest.mark.parametrize("rows", [3, 100])
def test_columns_are_orthonormal_whatever_the_features_condition_number(monkeypatch, rows):
    """One triangular solve would leave the condition number, 1e8, times rounding."""
    monkeypatch.setattr("theory.streaming.BLOCK_ROWS", rows)
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(50, 4))
    Z[:, 3] = Z[:, :3] @ [1.0, -1.0, 2.0] + 1e-8 * Z[:, 3]
    problem = Problem.from_chain(rng.dirichlet(np.ones(50), 50), np.ones(50), Z, np.full(50, 0.02), 0.9)
    white = whiten(problem)
    assert white.condition > 1e8
    np.testing.assert_allclose(white.Q.T @ white.Q, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(white.columns.project(np.ones(50)), white.c, atol=1e-14)
    np.testing.assert_allclose(white.Q.T @ np.full(50, 0.02**0.5), white.c, atol=1e-14)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 11), dense=st.booleans())
@few
def test_bounds_and_stability_do_not_depend_on_the_blocks(seed, rows, dense):
    whole = random_problem(seed, dense, False, False)
    expected, stable = bounds(whole), stability(whole)
    patch = in_blocks(rows)
    try:
        cut = random_problem(seed, dense, False, False)
        found, again = bounds(cut), stability(cut)
        assert check_fixed_point_equivalence(cut).verdict == check_fixed_point_equivalence(whole).verdict
    finally:
        patch.undo()
    assert found.inapplicable.keys() == expected.inapplicable.keys()
    allowed = 1e-9 * whiten(whole).condition
    for name in (*POINTWISE, *SUPREMUM, *WEIGHTED, "lower", "best_D", "H"):
        if name not in expected.inapplicable:
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=allowed, atol=1e-12
            )
    assert (again.td, again.rollout) == (stable.td, stable.rollout)
    assert again.spectral_radius == pytest.approx(stable.spectral_radius, rel=allowed)


@given(seed=st.integers(0, 10**6), dense=st.booleans())
@few
def test_a_problem_of_an_mdp_and_its_chain_written_out_agree(seed, dense):
    lazy = random_problem(seed, dense, False, False)
    bare = Problem.from_chain(lazy.P_pi, lazy.r, lazy.Z, lazy.mu, lazy.gamma)
    np.testing.assert_allclose(whiten(lazy).M, whiten(bare).M, atol=1e-12 * whiten(bare).condition)
    np.testing.assert_allclose(value_error(lazy).reward, value_error(bare).reward, atol=1e-11)
    one, other = bounds(lazy), bounds(bare)
    for name in ("B1", "B3", "residual", "oblique", "H"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=1e-9 * whiten(bare).condition
        )
    assert stability(lazy).tau == pytest.approx(stability(bare).tau, rel=1e-12)


def test_a_wrong_average_over_the_actions_is_noticed(monkeypatch):
    """The negative control: the next features of another policy, in every route alike."""
    monkeypatch.setattr("theory.problem.average", lambda probs, x: 0.5 * (x[::2] + x[1::2]))
    problem = random_problem(3, False, False, False)
    assert check_fixed_point_equivalence(problem).verdict == "pass"
    assert not value_error(problem).holds


def test_least_squares_by_blocks_are_least_squares():
    rng = np.random.default_rng(0)
    F, T = rng.normal(size=(23, 4)), rng.normal(size=(23, 2))
    for cuts in ([], [1], [2, 5, 6], list(range(1, 23))):
        found = Triangle()
        for block, right in zip(np.split(F, cuts), np.split(T, cuts), strict=True):
            found.add(block, right)
        expected = np.linalg.lstsq(F, T)[0]
        np.testing.assert_allclose(np.linalg.solve(found.R, found.T), expected, rtol=1e-12)
        np.testing.assert_allclose(found.R.T @ found.R, F.T @ F, rtol=1e-12)
        assert np.all(np.tril(found.R, -1) == 0.0)


def test_least_squares_by_blocks_do_not_square_the_condition_number():
    """With the normal equations a condition number of 1e9 would leave no digit."""
    rng = np.random.default_rng(1)
    U = np.linalg.qr(rng.normal(size=(40, 3)))[0]
    F = U * [1.0, 1e-4, 1e-9] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    truth = np.array([1.0, 2.0, 3.0])
    found = Triangle()
    for block in np.split(F, 8):
        found.add(block, (block @ truth)[:, None])
    assert np.abs(np.linalg.solve(found.R, found.T)[:, 0] - truth).max() < 1e-6
    normal = np.linalg.lstsq(F.T @ F, F.T @ (F @ truth), rcond=None)[0]
    assert np.abs(normal - truth).max() > 1e-2


def test_fewer_rows_than_columns_leave_a_trapezoid():
    R = triangle([np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 1.0]])])
    assert R.shape == (2, 3)
    np.testing.assert_allclose(R.T @ R, [[1, 2, 3], [2, 5, 7], [3, 7, 10]], atol=1e-14)


def large_problem(Z: np.ndarray) -> Problem:
    mdp = garnet(6, 2, 2, 0.9, seed=1, dense=False)
    return Problem(mdp, Policy.uniform(mdp), Features(Z), Weights.uniform(mdp))


def test_float32_on_file_is_read_where_it_is_and_computed_in_float64(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("theory.features.LARGE", 0)
    Z = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    np.save(tmp_path / "Z.npy", Z)
    mapped = np.load(tmp_path / "Z.npy", mmap_mode="r")
    problem, exact = large_problem(mapped), large_problem(Z.astype(np.float64))
    assert np.shares_memory(problem.Z, mapped) and problem.Z.dtype == np.float32
    assert td_system(problem).A.tolist() == td_system(exact).A.tolist()
    assert fit_linear_model(problem).W_d.tolist() == fit_linear_model(exact).W_d.tolist()
    assert bounds(problem).B3.tolist() == bounds(exact).B3.tolist()


def test_large_features_are_copied_unless_they_are_read_only(monkeypatch):
    monkeypatch.setattr("theory.features.LARGE", 0)
    Z = np.ones((4, 2), dtype=np.float32)
    kept = Features(Z)
    Z[:] = 7.0
    assert (kept.Z.dtype, kept.Z.tolist()) == (np.dtype(np.float32), [[1.0, 1.0]] * 4)
    Z.setflags(write=False)
    assert np.shares_memory(Features(Z).Z, Z)


def test_nan_in_large_features_is_named(monkeypatch):
    monkeypatch.setattr("theory.features.LARGE", 1)
    Z = np.ones((5, 2, 3))
    Z[4, 1, 2] = np.nan
    with pytest.raises(InputError, match=r"Z must be finite, got nan at index \(4, 1, 2\)"):
        Features(Z)
    monkeypatch.setattr("theory.features.LARGE", 100)  # looked through six rows at a time
    for row in (5, 13, 199):
        Z = np.ones((200, 1))
        Z[row] = np.inf
        with pytest.raises(InputError, match=rf"Z must be finite, got inf at index \({row}, 0\)"):
            Features(Z)


def test_random_features_are_the_same_however_they_are_filled(monkeypatch):
    mdp = garnet(9, 2, 2, 0.9, seed=0)
    whole = Features.random(mdp, 3, 5).Z
    monkeypatch.setattr("theory.features.LARGE", 16 * 2 * 3 * 2)
    assert Features.random(mdp, 3, 5).Z.tolist() == whole.tolist()


def test_what_is_remembered_goes_with_the_problem():
    calls: list[int] = []

    @remembered
    def count(problem: Problem) -> int:
        calls.append(problem.n)
        return problem.n

    one, other = (random_problem(0, False, False, False) for _ in range(2))
    assert [count(one), count(one), count(other)] == [12, 12, 12]
    assert calls == [12, 12]


def test_a_problem_is_freed_without_the_garbage_collector():
    problem = random_problem(0, False, False, False)
    check_fixed_point_equivalence(problem), stability(problem), bounds(problem), td_fixed_point(problem)
    gone = weakref.ref(problem)
    gc.collect()
    gc.disable()
    try:
        del problem
        assert gone() is None
    finally:
        gc.enable()
