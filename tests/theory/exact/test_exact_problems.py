"""Inputs: what is exact stays as it is, floats are rationalised openly, mistakes are named."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from theory import (
    ExactProblem,
    Features,
    InputError,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    exact_stability,
    prove_value_error,
)
from theory.catalogue import load
from theory.exact.backend import using
from theory.exact.linear import product, transpose
from theory.exact.problem import check_size
from theory.exact.rationals import LARGEST_DENOMINATOR, nearest_float, snap
from theory.exact.system import exact_system
from theory.exact.theorem1 import prove_fixed_point_equivalence
from theory.exact.theorem2 import exact_value_error

THIRD = Fraction(1, 3)
FLOATS = Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.5)


def exact_chain(**changes):
    given_ = {"P_pi": [["1/3", "2/3"], [1, 0]], "r": [1, "-0.7"], "Z": [[1, 0], [Fraction(1, 7), 2]]}
    return ExactProblem.from_chain(**{**given_, "mu": ["1/4", "3/4"], "gamma": "0.95", **changes})


def test_integers_fractions_and_text_pass_unchanged():
    problem = exact_chain(Z=[[Fraction(1, 10**40), 0], ["1e-3", np.int64(2)]])
    assert ({0: THIRD, 1: 2 * THIRD}, {0: Fraction(1)}) == problem.P
    assert ((Fraction(1, 10**40), Fraction(0)), (Fraction(1, 1000), Fraction(2))) == problem.Z
    assert (problem.r, problem.mu) == ((1, Fraction(-7, 10)), (Fraction(1, 4), Fraction(3, 4)))
    assert problem.gamma == Fraction(19, 20)
    assert problem.largest_change == 0 and all(change.entries == 0 for change in problem.changes)


def test_floats_become_the_fractions_they_round_and_this_is_reported():
    problem = exact_chain(P_pi=[[0.33333333333333337, 0.6666666666666666], [1, 0]], gamma=0.95, mu=[0.1, 0.9])
    assert problem.P[0] == {0: THIRD, 1: 2 * THIRD}
    assert (problem.gamma, problem.mu) == (Fraction(19, 20), (Fraction(1, 10), Fraction(9, 10)))
    changes = {change.name: change for change in problem.changes}
    assert [changes[name].entries for name in ("P_pi", "r", "Z", "mu", "gamma")] == [2, 0, 0, 2, 1]
    assert changes["P_pi"].largest == Fraction(0.33333333333333337) - THIRD
    assert problem.largest_change == Fraction(19, 20) - Fraction(0.95)
    assert str(changes["P_pi"]) == "P_pi: 2 numbers changed, by at most 3.7e-17"
    assert str(changes["Z"]) == "Z: unchanged"


@given(st.floats(-100, 100), st.integers(1, 2000), st.integers(-3000, 3000))
def test_simple_fractions_are_recovered_and_other_floats_are_taken_as_they_are(x, denominator, numerator):
    assert snap(numerator / denominator) == Fraction(numerator, denominator)
    exact = snap(x)
    assert exact == Fraction(x) or (
        exact.denominator <= LARGEST_DENOMINATOR and float(exact) == pytest.approx(x)
    )


def test_rows_of_floats_that_miss_one_by_rounding_end_nowhere_and_others_do():
    tenths = ExactProblem.from_chain([[0.1] * 10] * 10, [0] * 10, [1] * 10, [0.1] * 10, 1)
    assert all(sum(row.values()) == 1 for row in tenths.P)
    odd = [0.1234567890123, 0.8765432109877]
    assert sum(exact_chain(P_pi=[odd, [1, 0]]).P[0].values()) == 1
    assert sum(exact_chain(P_pi=[[0.5, 0.5 - 1e-10], [1, 0]]).P[0].values()) < 1
    nearly = ["1/3", Fraction(2, 3) - Fraction(1, 10**30)]
    assert sum(exact_chain(P_pi=[nearly, [1, 0]]).P[0].values()) == 1 - Fraction(1, 10**30)


def test_chains_and_weights_in_float32_sum_to_one_up_to_the_rounding_of_float32():
    chain, mu = np.full((3, 3), 1 / 3, dtype=np.float32), np.full(3, 1 / 3, dtype=np.float32)
    for P_pi in (chain, sparse.csr_array(chain)):
        exact = ExactProblem.from_chain(P_pi, [1, 2, 3], [1, 0, 2], mu, "1/2")
        assert exact.P == ({0: THIRD, 1: THIRD, 2: THIRD},) * 3 and exact.mu == (THIRD,) * 3
        assert {change.name: change.entries for change in exact.changes}["P_pi"] == 9
    below = np.array([0.7, 0.2, 0.1], dtype=np.float32)
    assert sum(map(Fraction, below.tolist())) < 1
    assert sum(ExactProblem.from_chain([below] * 3, [0] * 3, [1] * 3, mu, 1).P[0].values()) == 1
    with pytest.raises(InputError, match="must sum to at most 1"):
        ExactProblem.from_chain(chain.astype(np.float64), [0] * 3, [1] * 3, mu, 1)
    with pytest.raises(InputError, match="mu must sum to 1"):
        ExactProblem.from_chain(np.eye(3), [0] * 3, [1] * 3, mu.astype(np.float64), 1)


def test_products_of_thirds_are_ninths():
    mdp = TabularMDP.from_dense(np.full((3, 3, 3), 1 / 3), np.zeros((3, 3)), 0.9)
    problem = Problem(mdp, Policy.uniform(mdp), Features.one_hot(mdp), Weights.uniform(mdp))
    exact = ExactProblem.from_problem(problem)
    assert {p for row in exact.P for p in row.values()} == {Fraction(1, 9)}
    assert set(exact.mu) == {Fraction(1, 9)} and exact.rows == tuple(range(9))
    assert [change.name for change in exact.changes] == ["P", "r", "gamma", "start", "policy", "Z", "mu"]


def test_an_mdp_leaves_its_terminal_states_out_and_keeps_what_is_reached():
    ends = TabularMDP.from_dense(
        [[[0, 0.25, 0.75]], [[0, 0, 1]], [[0, 0, 1]]], [[1], [2], [0]], 1.0, terminal=[False, False, True]
    )
    problem = Problem(ends, Policy.uniform(ends), Features.one_hot(ends), Weights.uniform(ends))
    exact = ExactProblem.from_problem(problem)
    assert ({1: Fraction(1, 4)}, {}) == exact.P and exact.r == (1, 2)
    later = Problem(
        ends, Policy.uniform(ends), Features.one_hot(ends), Weights.uniform(ends), reachable_from=1
    )
    assert ExactProblem.from_problem(later).P == ({},)


def test_sparse_chains_and_mappings_are_read():
    dense = exact_chain(P_pi=[[0.5, 0.5], [0, 0.25]]).P
    assert dense == exact_chain(P_pi=sparse.csr_array([[0.5, 0.5], [0, 0.25]])).P
    assert dense == exact_chain(P_pi=[{0: "1/2", 1: 0.5}, {1: "1/4"}]).P


def test_entries_that_a_sparse_chain_stores_twice_are_summed_and_the_given_matrix_is_left_alone():
    twice = sparse.csr_array(
        (np.array([0.5, 0.5, 1.0]), np.array([1, 1, 1]), np.array([0, 2, 3])), shape=(2, 2)
    )
    exact = ExactProblem.from_chain(twice, [1, 1], [1, 2], ["1/2", "1/2"], "1/2")
    assert exact.P == ({1: 1}, {1: 1}) and twice.nnz == 3
    assert prove_fixed_point_equivalence(exact).data["w_td"] == ["3/2"]
    in_other_formats = sparse.coo_array((np.array([0.25, 0.25]), ([0, 0], [1, 1])), shape=(2, 2))
    assert ({1: Fraction(1, 2)}, {}) == exact_chain(P_pi=in_other_formats).P


def test_a_float_is_replaced_only_within_eight_units_in_the_last_place():
    third, ulp = 1 / 3, np.spacing(1 / 3)
    assert snap(third + 7 * ulp) == THIRD
    assert [snap(third + k * ulp) for k in (10, 20)] == [Fraction(third + k * ulp) for k in (10, 20)]


@pytest.mark.parametrize(
    "number",
    [np.nextafter(1, 0), np.nextafter(1, 2), 5e-324, -5e-324, 1e8 + 0.123456789, -12345.678, 10000.1],
)
def test_a_float_beside_zero_or_one_or_beyond_ten_thousand_is_taken_as_it_is(number):
    assert snap(number) == Fraction(number)


def test_a_discount_a_weight_and_a_probability_do_not_become_zero_or_one():
    almost = np.nextafter(1, 0)
    assert exact_chain(gamma=almost).gamma == Fraction(almost) < 1
    assert exact_chain(mu=[5e-324, 1.0]).mu[0] > 0
    assert exact_chain(P_pi=[[5e-324, 0.5], [0, 1]]).P[0][0] == Fraction(5e-324)


def test_moments_are_the_weighted_products():
    problem = exact_chain()
    weighted = [[mu * z for z in row] for mu, row in zip(problem.mu, problem.Z, strict=True)]
    assert problem.moment(problem.Z, problem.Z_next) == product(transpose(weighted), problem.Z_next)
    assert problem.Z_next[0] == [THIRD + Fraction(2, 21), Fraction(4, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": []}, r"r must have shape \(n,\) with n > 0"),
        ({"r": "12"}, "r must be a list or an array, got '12'"),
        ({"r": {0: 1, 1: 2}}, "r must be a list or an array, got {0: 1, 1: 2}"),
        ({"mu": {"1/4", "3/4"}}, "mu must be a list or an array"),
        ({"r": np.array(1.0)}, "r must be a list or an array"),
        ({"P_pi": [{"a": 1}, {}]}, "Row 0 of P_pi has a successor 'a' .*from 0 to 1"),
        ({"P_pi": [{0: 1}, {0.5: 1}]}, "Row 1 of P_pi has a successor 0.5 "),
        ({"P_pi": [{True: 1}, {}]}, "Row 0 of P_pi has a successor True "),
        ({"r": [1, None]}, r"r must hold finite numbers .*, got None at row 1"),
        ({"r": [1, "1/0"]}, r"got '1/0' at row 1"),
        ({"r": [float("nan"), 1]}, r"got nan at row 0"),
        ({"r": [float("inf"), 1]}, r"got inf at row 0"),
        ({"r": [True, 1]}, r"got True at row 0"),
        ({"P_pi": [[1, 0]]}, "P_pi must have shape|P_pi must have 2 rows"),
        ({"P_pi": [[1, 0, 0], [1, 0, 0]]}, r"P_pi must have shape \(n, n\), got 2 rows with 3 entries"),
        (
            {"P_pi": [{2: 1}, {}]},
            "Row 0 of P_pi has a successor 2 that is no row; rows are whole numbers from 0 to 1",
        ),
        ({"P_pi": [["-1/3", 0], [1, 0]]}, r"P_pi must not be negative, got -1/3 at row 0"),
        ({"P_pi": [[1, 0], ["2/3", "1/2"]]}, r"must sum to at most 1, got 7/6 at row 1"),
        ({"P_pi": [[0.7, 0.4], [1, 0]]}, r"must sum to at most 1, got 11/10 at row 0"),
        ({"Z": [[1], [1, 2]]}, r"Z must have shape \(n, d\) with n = 2"),
        ({"Z": [[], []]}, r"Z must have shape"),
        ({"mu": ["1/4", "1/4"]}, r"mu must sum to 1, got 1/2; divide it by its sum"),
        ({"mu": ["1/4", Fraction(3, 4) - Fraction(1, 10**30)]}, "mu must sum to 1"),
        ({"mu": [0.5, 0.4]}, "mu must sum to 1, got 9/10"),
        ({"mu": ["5/4", "-1/4"]}, r"mu must not be negative, got -1/4 at row 1"),
        ({"mu": [1]}, r"mu must have shape \(2,\)"),
        ({"gamma": "11/10"}, r"gamma must lie in \[0, 1\], got 11/10"),
        ({"gamma": "ninety"}, r"gamma must hold finite numbers .*got 'ninety'"),
    ],
)
def test_what_cannot_be_used_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        exact_chain(**changes)


@pytest.mark.parametrize("problem", [FLOATS, [[1]], None])
@pytest.mark.parametrize("door", [exact_stability, exact_value_error, exact_system])
def test_what_is_no_problem_is_refused_at_every_door(door, problem):
    with pytest.raises(InputError, match=r"problem must be an ExactProblem.*ExactProblem.from_problem"):
        door(problem)


@pytest.mark.parametrize("prove", [prove_value_error, prove_fixed_point_equivalence])
@pytest.mark.parametrize("problem", [[[1]], None, "chain"])
def test_what_is_no_problem_is_refused_by_the_proofs(prove, problem):
    with pytest.raises(InputError, match="problem must be an ExactProblem or a Problem, got a "):
        prove(problem)


def test_only_a_problem_of_floats_is_made_exact():
    with pytest.raises(InputError, match=r"problem must be a Problem of floats, got a list"):
        ExactProblem.from_problem([[1]])
    with pytest.raises(InputError, match=r"problem must be a Problem of floats, got an? ExactProblem"):
        ExactProblem.from_problem(exact_chain())


@pytest.mark.parametrize(("n", "d"), [(500, 2), (2, 200)])
def test_a_problem_too_large_is_refused_with_its_size_and_a_way_out(n, d, monkeypatch):
    problem = ExactProblem.from_chain([{}] * n, [1] * n, [[1] * d] * n, [Fraction(1, n)] * n, "1/2")
    with using("python"), pytest.raises(InputError) as refusal:
        check_size(problem)
    message = str(refusal.value)
    assert f"got n = {n} and d = {d}" in message and "200 rows and 48 features" in message
    assert "exact=False" in message and "reachable_from" in message


def test_flint_is_advised_only_where_it_is_missing(monkeypatch):
    problem = ExactProblem.from_chain([{}] * 300, [1] * 300, [1] * 300, [Fraction(1, 300)] * 300, "1/2")
    for present in (True, False):
        monkeypatch.setattr("theory.exact.problem.has_flint", lambda present=present: present)
        with using("python"), pytest.raises(InputError) as refusal:
            check_size(problem)
        assert ("python-flint" in str(refusal.value)) is not present


def test_catalogue_numbers_are_exact_where_the_file_has_fractions():
    exact = load("garnet_discounted_visitation").exact_problem
    assert sum(exact.mu) == 1 and all(sum(row.values()) == 1 for row in exact.P)
    assert exact.largest_change == 0
    # The weights are the discounted visitation from a uniform start: mu = (1 - gamma) start + gamma P' mu.
    for j, mu in enumerate(exact.mu):
        inflow = sum(x * row.get(j, 0) for x, row in zip(exact.mu, exact.P, strict=True))
        assert mu == Fraction(1, 10) * Fraction(1, 12) + Fraction(9, 10) * inflow


@pytest.mark.parametrize(
    ("number", "rounded"),
    [
        (Fraction(10**400), np.inf),
        (Fraction(-(10**400)), -np.inf),
        (Fraction(0), 0.0),
        (Fraction(1, 4), 0.25),
    ],
)
def test_the_nearest_float_never_fails(number, rounded):
    assert nearest_float(number) == rounded
    assert nearest_float(Fraction(-1, 10**400)) < 0.0 < nearest_float(Fraction(1, 10**400))
