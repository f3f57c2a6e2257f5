"""Input at the edge of float64: weights over many decades, huge sizes, rounding of float32, wrong kinds.

What can be computed is right, what cannot is refused in words.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

from theory import (
    Features,
    InputError,
    LinearModel,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    bounds,
    certified_q,
    chain_value,
    check_fixed_point_equivalence,
    fit_linear_model,
    h_step_solution,
    model_based_solution,
    optimal,
    river_swim,
    stability,
    td_fixed_point,
    td_trajectory,
    value_error,
    visitation,
)
from theory.certificate import UniformCertificate, uniform_certificate
from theory.problem import check_chain
from theory.spectrum import sides_of_axis, sides_of_circle
from theory.stability import _in_sector as in_sector
from theory.value_error import model_solution

THREE = [[0.2, 0.8, 0.0], [0.5, 0.2, 0.3], [0.1, 0.3, 0.6]]
ONE = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.9)
STAY = Policy.uniform(ONE)


def swim(num_states: int) -> Problem:
    """One-hot features: whatever the weights, the solution is the true value."""
    mdp = river_swim(num_states, 0.9)
    policy = Policy.uniform(mdp)
    return Problem(mdp, policy, Features.one_hot(mdp), Weights.discounted(mdp, policy))


def three(reward: float = 1.0, feature: float = 1.0, gamma: float = 0.9) -> Problem:
    Z = feature * np.array([[1.0, 2.0], [2.0, -1.0], [1.0, 1.0]])
    return Problem.from_chain(THREE, reward * np.array([1.0, 2.0, -1.0]), Z, [0.3, 0.3, 0.4], gamma)


@pytest.mark.parametrize("num_states", [20, 60, 120])
def test_weights_over_many_decades_cost_the_solution_no_digit(num_states: int) -> None:
    problem = swim(num_states)
    assert problem.mu.min() < 1e-11
    split, ladder = value_error(problem), bounds(problem)
    assert abs(split.error).max() < 1e-14 and abs(split.planning).max() < 1e-14
    assert ladder.S1 is not None and ladder.S1 < 1e-14
    found = td_fixed_point(problem)
    assert found.kind == "unique"
    np.testing.assert_allclose(found.w, split.q_true, rtol=0.0, atol=1e-14)
    assert check_fixed_point_equivalence(problem).verdict == "pass"


@pytest.mark.parametrize("num_states", [40, 120])
def test_td_is_stable_where_the_certificate_says_so(num_states: int) -> None:
    """Eigenvalues as small as the least weight are within rounding of zero."""
    found = stability(swim(num_states))
    assert (found.certificate, found.td) == (True, "stable")
    assert (found.eigenvalues.real > 0.0).all()
    assert found.step_size_limit == pytest.approx(6.4, rel=1e-9)
    assert found.best_step_size <= found.step_size_limit


def test_the_certificate_bounds_the_angle_of_eigenvalues_that_rounding_hides() -> None:
    """tau = 1/2 and sigma = 1 put the real part above a quarter of the modulus."""
    certificate = UniformCertificate(0.5, 1.0, 1.0, True, None, (0.5, 0.5))
    found = in_sector(np.array([-4e-20, -4e-20j, 0.0, 1.0 + 1.0j]), certificate, 0.9)
    assert found.tolist()[:2] == [1e-20, 1e-20 - 4e-20j]
    assert found[2].real > 0.0 and found[3] == 1.0 + 1.0j


def test_uneven_weights_leave_the_model_solution_where_elimination_finds_it() -> None:
    """D-norms of the features over seven decades make the whitened matrix too large to judge by its norm."""
    rng = np.random.default_rng(1)
    chain = rng.random((12, 12)) * (rng.random((12, 12)) < 0.3) + 0.05 * np.eye(12)
    chain /= chain.sum(axis=1, keepdims=True)
    mu = 10.0 ** -rng.uniform(0.0, 12.0, 12)
    problem = Problem.from_chain(chain, rng.normal(size=12), np.eye(12), mu / mu.sum(), 0.95)
    found = model_solution(fit_linear_model(problem), problem)
    np.testing.assert_allclose(found, value_error(problem).q_true, rtol=1e-8)
    # There is one way to solve a regular model, so both functions agree to the last bit.
    np.testing.assert_array_equal(found, model_based_solution(problem).w)


def outside_of_size(size: float, seed: int) -> Problem:
    """Each of four rows leads to one without weight whose features are large and orthogonal to the span."""
    rng = np.random.default_rng(seed)
    Z, mu = rng.normal(size=(4, 2)), rng.dirichlet(np.ones(4) * 3)
    root = np.sqrt(mu)[:, None]
    Q, B = np.linalg.qr(root * Z)[0], rng.normal(size=(4, 2))
    outside = size * (B - Q @ (Q.T @ B)) / root
    chain = np.kron([[0, 1], [0, 1]], np.eye(4))
    return Problem.from_chain(chain, np.ones(8), np.vstack([Z, outside]), np.append(mu, np.zeros(4)), 0.9)


@pytest.mark.parametrize(("size", "verdict"), [(1e4, "pass"), (1e8, "pass"), (1e12, "inconclusive")])
def test_what_cancels_in_the_model_widens_the_tolerance(size: float, verdict: str) -> None:
    """The model's matrix is 0 but for rounding of next features as large as ``size``."""
    for seed in range(10):
        assert check_fixed_point_equivalence(outside_of_size(size, seed)).verdict == verdict


def test_what_cancels_in_the_model_is_no_regular_equation() -> None:
    found = check_fixed_point_equivalence(outside_of_size(1e16, 0)).condition("exactly one solution")
    assert not found.holds and found.threshold > 1.0
    assert td_fixed_point(outside_of_size(1e16, 0)).kind != "unique"


@pytest.mark.parametrize("size", [1e-71, 1e71, 1e200, 1e-200])
def test_sizes_whose_powers_leave_float64_are_refused_with_the_limits(size: float) -> None:
    with pytest.raises(InputError, match=r"size in Z must be 0 or from 1e-70 to 1e\+70, got .* in column 0"):
        three(feature=size)
    with pytest.raises(InputError, match=r"size in r must be 0 or from 1e-70 to 1e\+70, got"):
        three(reward=size)
    mdp = TabularMDP.from_dense([[[1.0]]], [[size]], 0.9)
    with pytest.raises(InputError, match="size in r must be"):
        Problem(mdp, Policy.uniform(mdp), Features([[1.0]]), Weights([[1.0]]))


def test_large_features_are_measured_where_they_are(monkeypatch) -> None:
    monkeypatch.setattr("theory.features.LARGE", 4)
    with pytest.raises(InputError, match=r"size in Z must be .*, got 1e\+80 in column 1"):
        Features(np.array([[1.0, 0.0]] * 3 + [[1.0, -1e80]]))


def test_a_feature_or_reward_that_is_zero_has_no_size() -> None:
    problem = Problem.from_chain(THREE, np.zeros(3), [[0.0, 1.0]] * 3, [0.3, 0.3, 0.4], 0.9)
    assert td_fixed_point(problem).kind == "affine"


@pytest.mark.parametrize("reward", [1e-69, 1e69])
@pytest.mark.parametrize("feature", [1e-69, 1e69])
def test_within_the_limits_only_the_units_change(reward: float, feature: float) -> None:
    plain, scaled = three(), three(reward, feature)
    assert check_fixed_point_equivalence(scaled).verdict == "pass"
    first, second = stability(plain), stability(scaled)
    assert (first.td, first.rollout) == (second.td, second.rollout)
    assert second.step_size_limit == pytest.approx(first.step_size_limit / feature**2, rel=1e-9)
    assert second.transient_growth == pytest.approx(first.transient_growth, rel=1e-9)
    for method in ("solve", "series", "doubling"):
        np.testing.assert_allclose(
            model_based_solution(scaled, method=method).w,
            model_based_solution(plain, method=method).w * (reward / feature),
            rtol=1e-9,
        )
    one, other = bounds(plain), bounds(scaled)
    for name in ("S1", "published", "oblique", "residual", "loss_to_value", "error_D"):
        assert getattr(other, name) == pytest.approx(reward * getattr(one, name), rel=1e-9)


def test_values_that_exceed_float64_are_refused() -> None:
    mdp = TabularMDP.from_dense([[[1.0]]], [[1e308]], 0.9)
    with pytest.raises(InputError, match=r"rewards up to 1e\+308 exceed float64"):
        certified_q(mdp, Policy.uniform(mdp))
    with pytest.raises(InputError, match="exceed float64"):
        optimal(mdp)


def test_a_faint_discount_still_has_a_worst_feature() -> None:
    problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [1.0, 0.0], 1e-310)
    feature = stability(problem).worst_feature
    assert feature is not None and np.isfinite(feature).all() and feature[1] > 1e299


def test_without_discounted_future_rows_outside_do_not_matter() -> None:
    problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [1.0, 0.0], 0.0)
    found = uniform_certificate(problem)
    assert (found.tau, found.kappa, found.sigma, found.holds) == (0.0, 0.0, 0.0, True)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_what_float32_lost_is_no_chance_to_end(form) -> None:
    chain = np.array([[0.9, 0.1], [0.9, 0.1]], dtype=np.float32)
    assert chain.astype(np.float64).sum() != 2.0
    with pytest.raises(InputError, match="gamma is 1 and the run never ends from row 0"):
        chain_value(form(chain), [1, 2], 1.0)
    problem = Problem.from_chain(form(chain), [1, 2], [[1], [2]], [0.5, 0.5], 1.0)
    assert check_fixed_point_equivalence(problem).condition("returns are finite").holds is False


def test_a_chance_to_end_that_float32_can_hold_is_kept() -> None:
    assert chain_value(np.array([[0.5]], dtype=np.float32), [1.0], 1.0).value == pytest.approx([2.0])
    kept = np.array([[1.0 - 1e-4]], dtype=np.float32)
    assert chain_value(kept, [1.0], 1.0).value == pytest.approx([1.0 / (1.0 - float(kept[0, 0]))])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_only_rows_that_exceed_one_are_divided_by_their_sum(form) -> None:
    chain = np.array([[0.5, 0.5 + 9e-10], [0.5, 0.5 - 9e-10]])
    found = check_chain(form(chain), 2)
    found = found.toarray() if sparse.issparse(found) else found
    assert abs(found[0].sum() - 1.0) < 1e-15
    assert found[1].tolist() == chain[1].tolist()
    ladder = bounds(Problem.from_chain([[1.0 + 9e-10]], [1], [[1]], [1], 1.0 - 1e-10))
    assert math.isfinite(ladder.H) and ladder.S1 is not None


def test_a_horizon_that_cannot_be_proved_leaves_its_bounds_out(monkeypatch) -> None:
    monkeypatch.setattr("theory.resolvent.PairResolvent.H", math.inf)
    ladder = bounds(three())
    for name in ("S1", "S2", "S25", "S3", "published"):
        assert getattr(ladder, name) is None and "could be proved" in ladder.inapplicable[name]
    assert ladder.B1 is not None and "S1" not in ladder.tightness


@pytest.mark.parametrize("seed", [195, 3, 17, 40, 71, 123])
def test_rounding_covers_the_error_of_the_weights_under_ill_conditioned_features(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain = rng.random((4, 4))
    chain /= chain.sum(axis=1, keepdims=True)
    Z = rng.standard_normal((4, 5)) @ rng.standard_normal((5, 5)) * 10.0 ** rng.uniform(-8, 8, 5)
    ladder = bounds(Problem.from_chain(chain, rng.standard_normal(4), Z, np.ones(4) / 4, 0.999))
    for name in ("oblique", "sigma", "cea", "kappa"):
        bound = getattr(ladder, name)
        assert bound is None or ladder.error_D <= bound + ladder.rounding


def test_rounding_is_no_excuse_under_ordinary_features() -> None:
    assert bounds(three()).rounding < 1e-10


@pytest.mark.parametrize("off", [1e-10, -1e-10])
def test_an_eigenvalue_a_little_off_the_boundary_is_off_it(off: float) -> None:
    assert sides_of_circle(np.array([[1.0 - off]]))[1].tolist() == [np.sign(off)]
    assert sides_of_axis(np.array([[off]]), 1.0)[1].tolist() == [np.sign(off)]


def test_an_eigenvalue_left_of_much_larger_numbers_is_on_no_side() -> None:
    assert sides_of_circle(np.array([[0.5]]), 1e16)[1].tolist() == [0]


def test_more_eigenvalues_than_are_examined_may_lie_on_the_boundary() -> None:
    values = np.append(np.full(12, -1e-18), 1.0)
    assert sides_of_axis(np.diag(values), 1.0)[1].tolist() == [0] * 12 + [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: model_based_solution(three(), model=LinearModel(np.ones(3), np.eye(3), 3, 1.0)),
            "model.w_r",
        ),
        (
            lambda: check_fixed_point_equivalence(three(), model=LinearModel(np.ones(2), np.eye(3), 2, 1.0)),
            r"model.W_d must have shape \(2, 2\)",
        ),
        (
            lambda: check_fixed_point_equivalence(
                three(), model=LinearModel(np.ones(2), np.full((2, 2), np.nan), 2, 1.0)
            ),
            "model.W_d must be finite",
        ),
        (lambda: chain_value(np.zeros((0, 0)), [], 0.9), "at least one row"),
        (lambda: Features.aggregate([[1], [1, 2]]), "every row of the same length"),
        (lambda: Features([[1.0, 2.0]]).rescale(3.0), r"T must have shape \(d, k\) or \(d,\)"),
        (lambda: Features.random(ONE, 1.5, 0), "d must be a whole number, got 1.5"),
        (lambda: Features.svd(ONE, STAY, 1.5), "d must be a whole number, got 1.5"),
        (lambda: Features.tile([[1.0], [0.0]], 1.5), "tiles must be a whole number"),
        (lambda: Features.tile([[1e308], [-1e308]], 2), "coordinates must not exceed 1e300"),
        (lambda: Features.rbf([[1.0]], [[0.0]], "a"), "width must be a number"),
        (lambda: h_step_solution(three(), 1.5), "h must be a whole number, got 1.5"),
        (
            lambda: model_based_solution(three(), method="series", horizon=1.5),
            "horizon must be a whole number",
        ),
        (lambda: td_trajectory(three(), step_size=0.1, steps=1.5), "steps must be a whole number"),
        (lambda: td_trajectory(three(), step_size="a", steps=1), "step_size must be finite"),
        (lambda: td_trajectory(three(), step_size=1e200, steps=5), r"at most 1e\+100 in size"),
        (lambda: certified_q(ONE, np.ones((1, 1))), "policy must be a Policy, got a ndarray"),
        (lambda: visitation(ONE, STAY, ["stationary"]), "kind must be one of"),
        (lambda: Weights([[1e308, 1e308]]), "positive finite sum"),
        (lambda: Problem(ONE, np.ones((1, 1)), Features([[1.0]]), Weights([[1.0]])), "needs a Policy"),
        (lambda: Problem(ONE, STAY, np.ones((1, 1)), Weights([[1.0]])), "needs a Features, got a ndarray"),
        (lambda: Problem(ONE, STAY, Features([[1.0]]), np.ones((1, 1))), "needs a Weights"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_bumps_far_away_vanish() -> None:
    Z = Features.rbf([[1e200], [0.0], [20.0]], [[0.0]], 1.0).Z
    assert Z[:, 0].tolist() == [0.0, 1.0, 0.0]


def test_results_that_hold_arrays_compare_by_identity() -> None:
    problem = three()
    trajectory = td_trajectory(problem, step_size=0.1, steps=2)
    results = [td_fixed_point(problem), fit_linear_model(problem), model_based_solution(problem)]
    for result in [*results, stability(problem), uniform_certificate(problem), trajectory]:
        assert result == result and len({result, result}) == 1
    assert td_fixed_point(problem) != td_fixed_point(problem)
