"""The chain over rows as a product: it multiplies as the matrix would, and its resolvent is certified."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from theory import InputError, Policy, garnet
from theory.chains import PairChain, bare_chain, pair_chain, pair_product
from theory.graphs import never_ending
from theory.resolvent import PairResolvent, Resolvent, _bandwidth, _spreads

seeds = st.integers(0, 10**6)
few = settings(max_examples=40, deadline=None)


def product(seed: int, dense: bool, gamma: float = 0.9) -> PairChain:
    mdp = garnet(7, 3, 2, gamma, seed=seed, num_terminal=2, dense=dense)
    probs = np.random.default_rng(seed).dirichlet(np.ones(3), 7)
    probs[2] = [0.0, 1.0, 0.0]
    return pair_product(mdp, Policy(probs), mdp.live_states())[0]


@given(seed=seeds, dense=st.booleans())
@few
def test_it_multiplies_as_the_matrix_written_out(seed, dense):
    chain = product(seed, dense)
    written = chain.over_rows()
    matrix = written if dense else written.toarray()
    rng = np.random.default_rng(seed)
    x, X = rng.normal(size=15), rng.normal(size=(15, 2))
    for one in (x, X):
        np.testing.assert_allclose(chain @ one, matrix @ one, atol=1e-14)
        np.testing.assert_allclose(chain.T @ one, matrix.T @ one, atol=1e-14)
    rows = np.array([0, 4, 11])
    np.testing.assert_allclose(chain.among(rows), matrix[np.ix_(rows, rows)], atol=1e-16)
    states = chain.over_states()
    averages = np.kron(np.eye(5), np.ones((1, 3))) * chain.probs.reshape(1, -1)
    expected = averages @ (chain.P if dense else chain.P.toarray())
    np.testing.assert_allclose(states if dense else states.toarray(), expected, atol=1e-15)
    assert chain.never_ending().tolist() == never_ending(written, chain.leaves).tolist()


def test_the_rows_from_which_no_run_ends_are_found_through_the_states():
    P = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])  # the second action of state 1 may end
    leaves = np.array([False, False, False, True])
    for probs, stuck in (([0.0, 1.0], [False] * 4), ([1.0, 0.0], [True, False, True, False])):
        chain = PairChain(P, np.array([[1.0, 0.0], probs]), leaves)
        expected = [True, True, True, False] if probs[1] == 0.0 else stuck
        assert chain.never_ending().tolist() == expected


@given(seed=seeds, dense=st.booleans(), solver=st.sampled_from(["dense", "sparse", "iterative"]))
@few
def test_the_resolvent_over_rows_is_within_its_bound(seed, dense, solver):
    chain = product(seed, dense)
    resolvent = PairResolvent(chain, 0.9, solver)
    matrix = pair_matrix(chain)
    b = np.random.default_rng(seed).normal(size=15)
    exact, turned = (
        np.linalg.solve(np.eye(15) - 0.9 * matrix, b),
        np.linalg.solve(np.eye(15) - 0.9 * matrix.T, b),
    )
    found, back = resolvent.solve(b), resolvent.solve_transposed(b)
    rounding = 1e-13  # of the exact ones
    assert np.abs(found.x - exact).max() <= found.error_bound + rounding < 1e-11
    assert np.abs(back.x - turned).sum() <= back.error_bound + 15 * rounding < 1e-10
    H = np.abs(np.linalg.inv(np.eye(15) - 0.9 * matrix)).sum(axis=1).max()
    assert H * (1 - 1e-12) <= resolvent.H <= H * (1 + 1e-10)
    np.testing.assert_allclose(resolvent.approximate(b), exact, atol=1e-6)
    np.testing.assert_allclose(resolvent.approximate(b, transposed=True), turned, atol=1e-6)


def pair_matrix(chain: PairChain) -> np.ndarray:
    written = chain.over_rows()
    return written if isinstance(written, np.ndarray) else written.toarray()


@pytest.mark.parametrize("noise", [1e-3, 1e-9])
def test_the_bound_over_rows_does_not_trust_the_solver_over_states(monkeypatch, noise):
    chain, b, honest = product(1, True), np.arange(15.0), Resolvent._raw
    exact = np.linalg.solve(np.eye(15) - 0.9 * pair_matrix(chain), b)

    def sloppy(self, b, *, transposed):
        x, solver, iterations = honest(self, b, transposed=transposed)
        return x + noise * np.arange(len(x)), solver, iterations

    monkeypatch.setattr(Resolvent, "_raw", sloppy)
    found = PairResolvent(chain, 0.9).solve(b)
    error = np.abs(found.x - exact).max()
    assert noise / 10 < error <= found.error_bound < 1000 * noise


def test_roundings_of_transposed_solves_are_counted_along_columns():
    P = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    chain = PairChain(P, np.full((2, 2), 0.5), np.zeros(4, dtype=bool), np.arange(2))
    for form in (chain, PairChain(sparse.csr_array(P), chain.probs, chain.leaves, chain.names)):
        resolvent = PairResolvent(form, 0.5)
        assert (resolvent._terms, resolvent._terms_transposed) == (2, 4)


def test_a_rough_solve_that_fails_is_done_again(monkeypatch):
    chain, b = product(1, False), np.arange(15.0)
    monkeypatch.setattr("theory.resolvent._krylov", lambda name, P, gamma, b, rounds=3: (0.0 * b, 0))
    found = PairResolvent(chain, 0.9, "iterative").approximate(b)
    np.testing.assert_allclose(found, np.linalg.solve(np.eye(15) - 0.9 * pair_matrix(chain), b), rtol=1e-12)


def test_runs_without_end_are_named_by_state_or_by_row():
    mdp = garnet(3, 2, 1, 1.0, seed=0)
    chain = pair_product(mdp, Policy.uniform(mdp), mdp.live_states())[0]
    with pytest.raises(InputError, match="the run never ends from state 0, state 1, state 2"):
        PairResolvent(chain, 1.0)
    with pytest.raises(InputError, match="the run never ends from row 0"):
        PairResolvent(bare_chain(np.eye(1)), 1.0)


def test_the_chain_written_out_has_the_rows_of_its_product():
    mdp = garnet(4, 2, 2, 0.9, seed=0, dense=False)
    written, rows = pair_chain(mdp, Policy.uniform(mdp), mdp.live_states())
    assert sparse.issparse(written) and rows.tolist() == list(range(8))


@given(seed=seeds, n=st.integers(2, 60), degree=st.integers(1, 3), width=st.integers(0, 8))
@few
def test_a_graph_that_spreads_has_no_narrow_band(seed, n, degree, width):
    rng = np.random.default_rng(seed)
    near = np.clip(np.arange(n)[:, None] + rng.integers(-width - 1, width + 2, (n, degree)), 0, n - 1)
    far = rng.integers(0, n, (n, degree)) if seed % 2 else near
    rows = np.repeat(np.arange(n), degree)
    graph = sparse.csr_array((np.ones(n * degree), (rows, far.reshape(-1))), shape=(n, n))
    assert not (_spreads(graph, width) and _bandwidth(graph) <= width)


def test_a_random_graph_is_seen_to_spread_and_a_line_is_not():
    line = sparse.diags_array([0.5, 0.5], offsets=[-1, 1], shape=(500, 500), format="csr")
    assert not _spreads(line, 1)
    assert _spreads(garnet(500, 2, 3, 0.9, seed=0, dense=False).rows[:500], 20)
