"""True values: against exact fractions and against enumeration of policies.

The oracle solves in ``Fraction`` with the float64 numbers that the MDP stores, so a bound that
holds here holds for the arithmetic as it is. Known worlds and what can be proved of an optimum are in
``test_optimality``.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from theory import (
    InputError,
    Policy,
    TabularMDP,
    certified_q,
    certified_v,
    chain_value,
    garnet,
    optimal,
    random_walk,
    river_swim,
    visitation,
)
from theory.optimality import _above
from theory.resolvent import Resolvent
from theory.splitmix import SplitMix64

SOLVERS = ("dense", "sparse", "iterative")


def exact_solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """Gauss-Jordan elimination; a zero pivot would raise."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    n = len(rows)
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i and rows[k][i] != 0:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def exact_chain(mdp: TabularMDP, probs: np.ndarray, gamma: float) -> tuple[list[int], list[list[Fraction]]]:
    """Live states and I - gamma P_pi over them."""
    live = [s for s in range(mdp.num_states) if not mdp.terminal[s]]
    matrix = [
        [
            Fraction(s == t)
            - Fraction(gamma)
            * sum(Fraction(probs[s, a]) * Fraction(mdp.P[s, a, t]) for a in range(mdp.num_actions))
            for t in live
        ]
        for s in live
    ]
    return live, matrix


def exact_values(mdp: TabularMDP, probs: np.ndarray) -> tuple[list[Fraction], list[list[Fraction]]]:
    """V (S,) and Q (S, A) in fractions."""
    live, matrix = exact_chain(mdp, probs, mdp.gamma)
    A = range(mdp.num_actions)
    right = [sum(Fraction(probs[s, a]) * Fraction(mdp.r[s, a]) for a in A) for s in live]
    v = [Fraction(0)] * mdp.num_states
    for s, value in zip(live, exact_solve(matrix, right), strict=True):
        v[s] = value
    q = [
        [
            Fraction(0)
            if mdp.terminal[s]
            else Fraction(mdp.r[s, a])
            + Fraction(mdp.gamma) * sum(Fraction(mdp.P[s, a, t]) * v[t] for t in range(mdp.num_states))
            for a in A
        ]
        for s in range(mdp.num_states)
    ]
    return v, q


def largest_error(value: np.ndarray, exact: list) -> Fraction:
    flat = [x for row in exact for x in (row if isinstance(row, list) else [row])]
    return max(abs(Fraction(float(a)) - b) for a, b in zip(value.reshape(-1), flat, strict=True))


def random_policy(mdp: TabularMDP, seed: int) -> Policy:
    raw = SplitMix64(seed).uniform(*mdp.r.shape) + 0.01
    return Policy(raw / raw.sum(axis=1, keepdims=True))


def as_sparse(mdp: TabularMDP) -> TabularMDP:
    return TabularMDP(sparse.csr_array(mdp.rows), mdp.r, mdp.gamma, mdp.terminal, mdp.start)


def ending(seed: int, gamma: float = 1.0) -> TabularMDP:
    """A Garnet in which every action of every state may end the run."""
    base = garnet(5, 2, 3, gamma, seed=seed, num_terminal=1)
    P = 0.9 * base.P
    P[:, :, -1] += 0.1
    return TabularMDP(P, base.r, gamma, base.terminal)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_q_and_v_lie_within_their_bound_of_the_exact_fractions(solver, gamma):
    mdp = ending(3, gamma)
    policy = random_policy(mdp, 8)
    v, q = exact_values(mdp, policy.probs)
    for form in (mdp, as_sparse(mdp)):
        for found, exact in (
            (certified_q(form, policy, solver=solver), q),
            (certified_v(form, policy, solver=solver), v),
        ):
            assert largest_error(found.value, exact) <= found.error_bound < 1e-11


@given(seed=st.integers(0, 2**32), gamma=st.sampled_from([0.3, 0.9, 0.999, 1.0]))
def test_the_bound_holds_on_any_garnet(seed, gamma):
    mdp = ending(seed, gamma)
    policy = random_policy(mdp, seed + 1)
    found = certified_q(mdp, policy)
    assert largest_error(found.value, exact_values(mdp, policy.probs)[1]) <= found.error_bound < 1e-10


@pytest.mark.parametrize("solve", [certified_v, certified_q])
@pytest.mark.parametrize("noise", [1e-3, 1e-9])
def test_the_bound_does_not_trust_the_solver(monkeypatch, noise, solve):
    mdp = ending(5)
    policy = Policy.uniform(mdp)
    exact = exact_values(mdp, policy.probs)
    honest = Resolvent._raw
    bumps = iter(SplitMix64(2).uniform(2, 4))

    def sloppy(self, b, *, transposed):
        x, solver, iterations = honest(self, b, transposed=transposed)
        return x + noise * next(bumps), solver, iterations

    monkeypatch.setattr(Resolvent, "_raw", sloppy)
    found = solve(mdp, policy)
    error = largest_error(found.value, exact[solve is certified_q])
    assert noise / 10 < error <= found.error_bound < 100 * noise


def test_a_solver_that_returns_nonsense_gets_an_infinite_bound(monkeypatch):
    monkeypatch.setattr(Resolvent, "_raw", lambda self, b, transposed: (np.full(self.m, np.nan), "dense", 0))
    with np.errstate(invalid="ignore"):
        assert certified_v(ending(5), Policy.uniform(ending(5))).error_bound == np.inf


def test_h_is_the_longest_expected_stay_and_not_one_over_one_minus_gamma():
    walk = random_walk()
    found = certified_v(walk, Policy.uniform(walk))
    assert 9.0 <= found.H < 9.0 * (1 + 1e-12)
    mild = random_walk(gamma=0.9)
    live, matrix = exact_chain(mild, np.ones((7, 1)), 0.9)
    exact = max(exact_solve(matrix, [Fraction(1)] * len(live)))
    assert exact <= Fraction(certified_v(mild, Policy.uniform(mild)).H) < exact * (1 + Fraction(1, 10**12))
    assert float(exact) < 5.4
    swim = river_swim()
    assert 100.0 <= certified_v(swim, Policy.uniform(swim)).H < 100.0 * (1 + 1e-10)


def test_each_solver_says_its_name_and_how_long_it_took():
    mdp = as_sparse(ending(1, 0.9))
    found = {solver: certified_v(mdp, Policy.uniform(mdp), solver=solver) for solver in SOLVERS}
    assert [found[s].solver for s in SOLVERS] == ["dense", "sparse", "bicgstab"]
    assert [found[s].iterations for s in ("dense", "sparse")] == [0, 0]
    assert found["iterative"].iterations > 0


def test_an_unknown_solver_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="solver must be one of auto, dense, sparse, iterative; got 'magic'"):
        certified_q(river_swim(), Policy.uniform(river_swim()), solver="magic")


def test_gamma_one_with_a_policy_that_never_ends_names_the_states():
    P = [[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]]
    mdp = TabularMDP.from_dense(P, np.ones((3, 2)), 1.0, terminal=[False, False, True])
    with pytest.raises(InputError, match="gamma is 1 and the run never ends from state 0, state 1"):
        certified_q(mdp, Policy.from_actions([0, 0, 0], 2))
    assert certified_v(mdp, Policy.from_actions([0, 1, 0], 2)).value.tolist() == [2.0, 1.0, 0.0]


def test_a_faint_chance_to_end_counts_in_an_mdp_where_a_bare_row_sum_would_be_rounding():
    stay = 1.0 - 1e-13
    mdp = TabularMDP.from_dense([[[stay, 1e-13]], [[0, 1]]], [[1], [0]], 1.0, terminal=[False, True])
    exact = 1 / (1 - Fraction(float(mdp.P[0, 0, 0])))
    found = certified_v(mdp, Policy.uniform(mdp))
    assert abs(Fraction(found.value[0]) - exact) <= Fraction(found.error_bound) < exact / 5
    with pytest.raises(InputError, match="never ends from row 0"):
        chain_value([[stay]], [1.0], 1.0)


def test_a_policy_of_another_shape_is_refused():
    with pytest.raises(InputError, match="for 2 states and 2 actions, the MDP has 6 and 2"):
        certified_q(river_swim(), Policy([[0.5, 0.5], [0.5, 0.5]]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_bare_chain_at_gamma_one_counts_the_walk(solver):
    P = 0.5 * (np.eye(5, k=1) + np.eye(5, k=-1))
    found = chain_value(P, [0, 0, 0, 0, 0.5], 1.0, solver=solver)
    assert np.abs(found.value - np.arange(1, 6) / 6).max() <= found.error_bound < 1e-12


def test_a_bare_chain_whose_rows_sum_to_one_has_no_value_at_gamma_one():
    with pytest.raises(InputError, match="never ends from row 1"):
        chain_value([[0.5, 0.0], [0.0, 1.0]], [1.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("P", "message"),
    [
        ([[0.6, 0.5], [0.0, 0.5]], "at most 1, got 1.1 at row 0"),
        ([[0.5, 0.0], [-0.1, 0.5]], "negative, got -0.1 at row 1"),
        ([[0.5, 0.0], [np.nan, 0.5]], "finite, got nan at row 1"),
        ([[0.5, 0.5]], r"shape \(2, 2\)"),
    ],
)
def test_bad_chains_are_refused(P, message):
    with pytest.raises(InputError, match=message):
        chain_value(P, [1.0, 1.0], 0.9)


@pytest.mark.parametrize("method", ["bicgstab", "gmres", "neumann"])
def test_every_iterative_method_solves_on_its_own(method):
    from theory import resolvent

    P = ending(4, 0.9).P[:4, 0, :4]
    b = np.arange(1.0, 5.0)
    run = resolvent._neumann if method == "neumann" else resolvent._krylov
    x, iterations = run(method, P, 0.9, b)
    assert np.abs(b + 0.9 * P @ x - x).max() < 1e-12
    assert iterations > 1


def test_auto_takes_sparse_lu_for_a_local_graph_and_iterates_on_a_random_one():
    n = 2500
    local = sparse.diags_array([np.full(n - 1, 0.5), np.full(n - 1, 0.5)], offsets=[-1, 1])
    tangled = as_sparse_garnet(n)
    found = {name: chain_value(P, np.ones(n), 0.9) for name, P in (("local", local), ("tangled", tangled))}
    assert found["local"].solver == "sparse"
    assert found["tangled"].solver == "bicgstab"
    assert max(f.error_bound for f in found.values()) < 1e-11
    assert np.abs(found["tangled"].value - 10.0).max() < 1e-11


def as_sparse_garnet(n: int) -> sparse.csr_array:
    """Five random successors a state."""
    columns = SplitMix64(3).subsets(n, 5, n).reshape(-1)
    return sparse.csr_array((np.full(5 * n, 0.2), (np.repeat(np.arange(n), 5), columns)), shape=(n, n))


def best_by_enumeration(mdp: TabularMDP) -> tuple[list[Fraction], list[list[Fraction]]]:
    """V* and Q* as the largest over all deterministic policies, in fractions."""
    tables = [
        exact_values(mdp, np.eye(mdp.num_actions)[list(actions)])
        for actions in itertools.product(range(mdp.num_actions), repeat=mdp.num_states)
    ]
    v = [max(table[0][s] for table in tables) for s in range(mdp.num_states)]
    q = [
        [max(table[1][s][a] for table in tables) for a in range(mdp.num_actions)]
        for s in range(mdp.num_states)
    ]
    return v, q


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("gamma", "seed"), [(0.0, 1), (0.6, 2), (0.99, 3), (1.0, 4), (1.0, 5)])
def test_the_optimum_is_the_best_of_all_policies(solver, gamma, seed):
    mdp = ending(seed, gamma)
    v, q = best_by_enumeration(mdp)
    found = optimal(mdp, solver=solver)
    assert largest_error(found.v, v) <= found.error_bound < 1e-11
    assert largest_error(found.q, q) <= found.error_bound
    greedy = exact_values(mdp, found.policy.probs)[0]
    assert max(a - b for a, b in zip(v, greedy, strict=True)) <= 2 * Fraction(found.error_bound)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_upper_bound_holds_around_the_values_of_any_policy(gamma, seed):
    mdp = ending(seed, gamma)
    best = [float(x) for x in best_by_enumeration(mdp)[0]]
    gains = []
    for actions in itertools.product(range(2), repeat=4):
        v = certified_v(mdp, Policy.from_actions([*actions, 0], 2)).value
        gain, bound = float((best - v).max()), _above(mdp, v, "auto")
        assert gain <= bound + 1e-12
        gains.append((gain, bound))
    assert sum(0.01 < gain <= bound < 30.0 * gain for gain, bound in gains) >= 8


def exact_visits(mdp: TabularMDP, probs: np.ndarray, gamma: float) -> list[Fraction]:
    """Normalised visits from the start, (S * A,)."""
    live, matrix = exact_chain(mdp, probs, gamma)
    transposed = [list(column) for column in zip(*matrix, strict=True)]
    visits = dict(zip(live, exact_solve(transposed, [Fraction(mdp.start[s]) for s in live]), strict=True))
    rows = [
        visits.get(s, Fraction(0)) * Fraction(probs[s, a])
        for s in range(mdp.num_states)
        for a in range(mdp.num_actions)
    ]
    return [x / sum(rows) for x in rows]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["discounted", "episodic"])
@given(seed=st.integers(0, 2**16))
def test_visits_lie_within_their_bound_of_the_exact_fractions(solver, kind, seed):
    mdp = ending(seed, 0.9)
    policy = random_policy(mdp, seed)
    found = visitation(mdp, policy, kind, solver=solver)
    exact = exact_visits(mdp, policy.probs, 0.9 if kind == "discounted" else 1.0)
    error = sum(abs(Fraction(float(a)) - b) for a, b in zip(found.mu.reshape(-1), exact, strict=True))
    assert error <= found.error_bound < 1e-11


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_stationary_distribution_repeats_itself(solver, size):
    mdp = garnet(size, 2, 2, 0.9, seed=size)
    policy = random_policy(mdp, 1)
    found = visitation(mdp, policy, "stationary", solver=solver)
    states = found.mu.sum(axis=1)
    following = np.einsum("sa,sat->t", found.mu, mdp.P)
    assert np.abs(following - states).max() < 1e-14
    assert np.abs(found.mu - states[:, None] * policy.probs).max() < 1e-16
    assert found.error_bound < 1e-12


def test_an_unknown_kind_of_visitation_is_refused():
    with pytest.raises(InputError, match="kind must be one of discounted, episodic, stationary; got 'on'"):
        visitation(river_swim(), Policy.uniform(river_swim()), "on")
