"""Problem: the rows that the theorems see, from an MDP or bare, and the mistakes that are named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from theory import Features, InputError, Policy, Problem, TabularMDP, Weights, cliff_walking, garnet

CHAIN = {"P_pi": [[0.0, 1.0], [0.5, 0.0]], "r": [1.0, 2.0], "Z": [[1.0], [2.0]], "mu": [0.25, 0.75]}


def ending() -> TabularMDP:
    """State 0 goes to 1 or ends (state 1 of the arrays is terminal), state 2 goes back to 0."""
    P = [[[0, 0, 1], [0.0, 1.0, 0.0]], [[0, 1, 0], [0, 1, 0]], [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]
    return TabularMDP.from_dense(P, [[1, 2], [9, 9], [3, 4]], 0.9, terminal=[False, True, False])


def test_a_bare_chain_keeps_its_arrays():
    problem = Problem.from_chain(**CHAIN, gamma=0.9)
    assert (problem.n, problem.d, problem.gamma) == (2, 1, 0.9)
    assert problem.Z_next.tolist() == [[2.0], [0.5]]
    assert problem.dense_P.tolist() == CHAIN["P_pi"]
    unset = ("labels", "mdp", "policy", "features", "weights", "rows")
    assert all(getattr(problem, name) is None for name in unset)


def test_live_rows_are_cut_by_hand():
    mdp = ending()
    policy = Policy([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
    problem = Problem(mdp, policy, Features.one_hot(mdp), Weights.uniform(mdp))
    assert problem.rows.tolist() == [0, 1, 4, 5]
    assert problem.labels == ("s0,a0", "s0,a1", "s2,a0", "s2,a1")
    assert problem.dense_P.tolist() == [
        [0, 0, 0.5, 0.5],
        [0, 0, 0, 0],
        [0.125, 0.375, 0, 0],
        [0.25, 0.75, 0, 0],
    ]
    assert problem.r.tolist() == [1, 2, 3, 4]
    assert problem.mu.tolist() == [0.25] * 4
    assert problem.Z.tolist() == np.eye(4).tolist()
    assert problem.mdp is mdp


def test_a_sparse_mdp_gives_the_same_problem_sparsely():
    mdp = garnet(6, 3, 2, 0.9, seed=5, num_terminal=2)
    thin = TabularMDP(sparse.csr_array(mdp.rows), mdp.r, mdp.gamma, mdp.terminal)
    policy, weights, features = Policy.uniform(mdp), Weights.uniform(mdp), Features.random(mdp, 3, 1)
    one, other = (Problem(m, policy, features, weights) for m in (mdp, thin))
    assert sparse.issparse(other.P_pi)
    assert not sparse.issparse(one.P_pi)
    assert np.abs(one.dense_P - other.dense_P).max() < 1e-16
    assert np.abs(one.Z_next - other.Z_next).max() < 1e-15


def test_only_reachable_rows_are_kept_if_asked_and_weights_rescaled():
    mdp = cliff_walking()
    everything = (mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    assert Problem(*everything).n == 47 * 4
    reached = Problem(*everything, reachable_from="start")
    assert reached.n == 37 * 4
    assert reached.mu == pytest.approx(np.full(148, 1 / 148))
    assert reached.labels[-1] == "s36,a3"
    assert reached.dense_P.sum(axis=1).min() == 0.0  # the step into the goal


def test_uniform_stability_numbers_of_cliff_walking_tell_the_two_row_sets_apart():
    """The largest eigenvalue of the symmetric part of gamma P: 1.3397 over 37 states, 2.0120 over 47."""
    mdp = cliff_walking(0.99)
    arguments = (mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    taus = []
    for problem in (Problem(*arguments, reachable_from="start"), Problem(*arguments)):
        N = 0.99 * problem.dense_P  # D is a multiple of the identity
        taus.append(np.linalg.eigvalsh((N + N.T) / 2).max())
    assert taus == pytest.approx([1.3397, 2.0120], abs=5e-5)


@pytest.mark.parametrize("shape", [(3, 2, 2), (6, 2), (4, 2)])
def test_features_come_for_all_rows_or_for_the_live_ones(shape):
    mdp = ending()
    Z = np.arange(np.prod(shape), dtype=float).reshape(shape)
    problem = Problem(mdp, Policy.uniform(mdp), Features(Z), Weights.uniform(mdp))
    kept = Z if shape[0] == 4 else Z.reshape(6, 2)[[0, 1, 4, 5]]
    assert problem.Z.tolist() == kept.tolist()


def test_what_does_not_fit_the_mdp_is_named():
    mdp = ending()
    good = {
        "policy": Policy.uniform(mdp),
        "features": Features.one_hot(mdp),
        "weights": Weights.uniform(mdp),
    }
    for name, value, message in (
        (
            "features",
            Features(np.ones((5, 2))),
            r"\(3, 2, d\), \(6, d\) or, for the live rows only, \(4, d\)",
        ),
        ("policy", Policy([[1.0]]), "for 1 states and 1 actions, the MDP has 3 and 2"),
        ("weights", Weights([[1.0]]), r"mu must have shape \(3, 2\)"),
        ("weights", Weights(np.ones((3, 2))), "to state 1, action 0, which is terminal"),
    ):
        with pytest.raises(InputError, match=message):
            Problem(mdp, **(good | {name: value}))
    far = Weights([[0, 0], [0, 0], [1, 1]])
    goes_on = TabularMDP.from_dense(
        [[[0, 1, 0]] * 2, [[0, 1, 0]] * 2, [[1, 0, 0]] * 2],
        np.zeros((3, 2)),
        0.9,
        terminal=[False, True, False],
    )
    with pytest.raises(InputError, match="mu is zero on every row that can be reached"):
        Problem(goes_on, good["policy"], good["features"], far, reachable_from=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"P_pi": [[0.0, 1.1], [0.5, 0.0]]}, "at most 1, got 1.1 at row 0"),
        ({"P_pi": [[0.0, 1.0], [0.5, -0.1]]}, "negative, got -0.1 at row 1"),
        ({"P_pi": [[0.0, 1.0], [np.nan, 0.0]]}, "P_pi must be finite, got nan at row 1"),
        ({"P_pi": [[0.0, 1.0]]}, r"P_pi must have shape \(2, 2\)"),
        ({"r": []}, r"r must have shape \(n,\) with n > 0"),
        ({"r": [[1.0, 2.0]]}, r"r must have shape \(n,\)"),
        ({"Z": [[1.0]]}, r"Z must have shape \(n, d\) with n = 2 rows and d > 0, got \(1, 1\)"),
        ({"Z": np.zeros((2, 0))}, r"d > 0, got \(2, 0\)"),
        ({"Z": [[1.0], [np.inf]]}, "Z must be finite, got inf"),
        ({"mu": [0.0, 0.0]}, "mu is zero everywhere"),
        ({"mu": [0.5, 0.6]}, "mu must sum to 1, got 1.1"),
        ({"mu": [1.5, -0.5]}, "mu must not be negative, got -0.5 at row 1"),
        ({"mu": [1.0]}, r"mu must have shape \(2,\)"),
        ({"gamma": 1.5}, r"gamma must lie in \[0, 1\], got 1.5"),
    ],
)
@pytest.mark.parametrize("thin", [False, True])
def test_bad_chains_are_named(change, message, thin):
    arguments = CHAIN | {"gamma": 0.9} | change
    if thin:
        arguments["P_pi"] = sparse.csr_array(np.array(arguments["P_pi"]))
    with pytest.raises(InputError, match=message):
        Problem.from_chain(**arguments)


def test_a_vector_is_one_feature_and_duplicated_columns_are_kept():
    assert Problem.from_chain(**(CHAIN | {"Z": [1.0, 2.0]}), gamma=0.9).Z.shape == (2, 1)
    twice = Problem.from_chain(**(CHAIN | {"Z": [[1.0, 1.0], [2.0, 2.0]]}), gamma=0.9)
    assert twice.d == 2


def test_entries_that_a_sparse_chain_lists_twice_are_summed():
    twice = sparse.csr_array(
        (np.array([0.25, 0.75, 0.5]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2)
    )
    problem = Problem.from_chain(**(CHAIN | {"P_pi": twice}), gamma=0.9)
    assert problem.P_pi.nnz == 2
    assert problem.dense_P.tolist() == CHAIN["P_pi"]
    assert twice.nnz == 3


def test_float32_weights_are_rescaled_and_float64_ones_kept_to_the_bit():
    rough = np.array([1 / 3, 1 / 3, 1 / 3], dtype=np.float32)
    arrays = {"P_pi": np.zeros((3, 3)), "r": np.ones(3), "Z": np.ones((3, 1))}
    assert abs(Problem.from_chain(**arrays, mu=rough, gamma=0.9).mu.sum() - 1.0) < 1e-15
    exact = [0.32, 0.58, 0.1]
    assert Problem.from_chain(**arrays, mu=exact, gamma=0.9).mu.tolist() == exact


def test_gamma_one_is_allowed_on_a_chain_that_never_ends():
    """Whether a fixed point exists is for the theorems to say; only values do not."""
    assert Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 1.0).gamma == 1.0
