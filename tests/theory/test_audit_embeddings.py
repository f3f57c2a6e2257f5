"""The audit's embeddings: precision, linearity against chance, the linear probe."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from exports import exact_export, random_export, same_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from theory import (
    Policy,
    TabularMDP,
    audit_embeddings,
    bounds,
    check_fixed_point_equivalence,
    fit_linear_model,
    frozen_lake,
    optimal,
    stability,
    td_fixed_point,
    value_error,
)
from theory.audit import read_export
from theory.audit.linearity import audit_linearity, effective_rank
from theory.audit.setting import FLOAT32, at_float32, setting_of

seeds = st.integers(0, 10_000)
few = settings(max_examples=15)


def r_squared(columns: np.ndarray, q: np.ndarray, mu: np.ndarray) -> float:
    """Weighted, with an intercept, by ordinary least squares."""
    root = np.sqrt(mu)
    F = root[:, None] * np.column_stack([np.ones(len(q)), columns])
    left = root * q - F @ np.linalg.lstsq(F, root * q)[0]
    return float(1 - left @ left / (mu @ (q - mu @ q) ** 2))


# Precision


def test_directions_below_float32_are_dropped_and_no_others() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 12))
    rounded = exact.astype(np.float32).astype(np.float64)
    found = at_float32(rounded, np.full(40, 1 / 40))
    assert (found.rank, found.rank_float64) == (5, 12) and found.gap > 1e4
    assert abs(found.values - exact).max() < 1e-5 and np.linalg.matrix_rank(found.values) == 5
    np.testing.assert_allclose(
        found.coordinates @ found.coordinates.T, found.values @ found.values.T, atol=1e-9
    )
    assert found.coordinates.shape == (40, 5)


def test_columns_of_any_scale_are_kept() -> None:
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(20, 4)) * [1e-9, 1.0, 1e6, 1e-3]
    found = at_float32(Z, np.full(20, 0.05))
    assert found.rank == 4 and found.gap == math.inf
    assert found.values is Z and found.coordinates is Z


def test_more_columns_than_rows_become_as_many_coordinates_as_rows() -> None:
    Z = np.random.default_rng(2).normal(size=(6, 50))
    found = at_float32(Z, np.full(6, 1 / 6))
    assert found.rank == found.rank_float64 == 6 and found.coordinates.shape == (6, 6)
    assert found.values is Z
    np.testing.assert_allclose(found.coordinates @ found.coordinates.T, Z @ Z.T, atol=1e-10)


def test_an_embedding_of_zeros_is_one_zero_coordinate() -> None:
    found = at_float32(np.zeros((4, 3)), np.full(4, 0.25))
    assert found.rank == 0 and not found.coordinates.any() and found.coordinates.shape == (4, 1)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_collapsed_network_is_audited(constant: float) -> None:
    mdp, export = random_export(3, 4)
    export["zsa"], export["zs"] = np.full((7, 3, 4), constant), np.full((7, 3), constant)
    report = audit_embeddings(export, mdp)
    assert report.verdict == "pass" and not {"probe", "linearity", "relaxation", "labelling"} & set(
        report.unjudged
    )
    assert report.linearity.rank == int(constant) and report.linearity.effective_rank == 0.0
    assert report.linearity.true.full == pytest.approx(0.0, abs=1e-12)
    assert report.linearity.at == 0 and report.linearity.true.r2.tolist() == [0.0]
    (coarse, *_) = report.labelling.clusterings
    assert coarse.state_classes == coarse.pair_classes == 1


def test_float32_exports_are_computed_in_float64() -> None:
    mdp, export = random_export(4, 5)
    single = {name: np.asarray(value, dtype=np.float32) for name, value in export.items()}
    first, second = audit_embeddings(export, mdp), audit_embeddings(single, mdp)
    assert second.verdict == "pass" and second.setting.export.zsa.dtype == np.float64
    assert second.value.error.largest < 1e-5 and second.condition("the network's values are exact").holds
    assert second.linearity.rank == first.linearity.rank == 5
    assert second.probe.error == pytest.approx(first.probe.error, rel=1e-3)
    assert second.setting.policy.probs.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-15)


# Linearity


@given(seeds, st.integers(1, 8))
@few
def test_r_squared_is_that_of_least_squares(seed: int, d: int) -> None:
    mdp, export = random_export(seed, d)
    report = audit_embeddings(export, mdp)
    found, problem = report.linearity, same_problem(mdp, export)
    q = report.setting.q_true
    assert found.rows == 18 and found.rank == d == len(found.random) - 1
    assert found.true.full == pytest.approx(r_squared(problem.Z, q, problem.mu), abs=1e-9)
    assert found.true.r2[-1] == pytest.approx(found.true.full, abs=1e-9)
    ladder = bounds(problem)
    assert found.true.distance == pytest.approx(ladder.best_D, rel=1e-9)
    # The first component is the direction in which the centred embeddings vary most.
    centred = np.sqrt(problem.mu)[:, None] * (problem.Z - problem.mu @ problem.Z)
    first = np.linalg.svd(centred)[2][0]
    assert found.true.r2[1] == pytest.approx(r_squared(problem.Z @ first[:, None], q, problem.mu), abs=1e-9)
    assert found.network.r2[-1] == pytest.approx(found.true.r2[-1], abs=1e-9)  # it is right


def test_random_features_explain_their_share_on_average() -> None:
    """R squared of k normal features is Beta(k / 2, (m - 1 - k) / 2): 400 draws, five standard errors."""
    rng, m, k, runs = np.random.default_rng(5), 18, 6, 400
    q, mu = rng.normal(size=m), np.full(m, 1 / m)
    drawn = [r_squared(rng.normal(size=(m, k)), q, mu) for _ in range(runs)]
    a, b = k / 2, (m - 1 - k) / 2
    allowed = 5 * math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)) / runs)
    mdp, export = random_export(5, k)
    found = audit_embeddings(export, mdp).linearity
    assert found.random[k] == k / (m - 1) and abs(np.mean(drawn) - found.random[k]) < allowed


def test_beyond_chance_is_the_adjusted_r_squared() -> None:
    mdp, export = random_export(6, 4)
    found = audit_embeddings(export, mdp).linearity
    assert found.true is not None
    curve = replace(found.true, r2=np.array([0.0, 0.0, 0.0, 0.0, 0.7]))
    assert found.beyond_chance(curve, 4) == pytest.approx(1 - 0.3 * 17 / 13)
    random = replace(found.true, r2=np.asarray(found.random))
    assert found.beyond_chance(random, 3) == pytest.approx(0.0)


def test_random_embeddings_are_seldom_taken_for_good_ones() -> None:
    """One in a hundred, where the adjusted R squared is positive for half of them."""
    mdp, export = random_export(5, 6)
    del export["counts"]  # equal weights: directions of normal embeddings are uniform
    setting = setting_of(read_export(export, mdp), mdp)
    rng, held, above = np.random.default_rng(5), 0, 0
    for _ in range(200):
        drawn = replace(setting.export, zsa=rng.normal(size=(7, 3, 6)))
        found = audit_linearity(replace(setting, export=drawn))
        held += found.conditions[2].holds
        above += found.beyond_chance(found.true, found.at) > 0.0
    assert binom.sf(9, 200, 0.01) < 1e-4
    assert 0 <= held <= 9 and above > 60


def test_what_random_features_exceed_once_in_a_hundred_times() -> None:
    """Two of m - 1 coordinates of a uniform direction: P(R squared > x) = (1 - x)^((m - 3) / 2)."""
    mdp, export = random_export(6, 2)
    found = audit_embeddings(export, mdp).linearity
    assert found.rows == 18 and found.by_chance(2) == pytest.approx(1 - 0.01 ** (2 / 15))
    assert found.by_chance(0) == 0.0 and found.by_chance(17) is None


def test_as_many_directions_as_rows_explain_anything_and_the_report_says_so() -> None:
    mdp, export = random_export(7, 40)
    export["q"] = np.random.default_rng(7).normal(size=(7, 3))  # values of nothing at all
    report = audit_embeddings(export, mdp)
    found = report.linearity
    assert found.trivial and found.rank == 18 and found.network.full == pytest.approx(1.0)
    assert found.network.distance < 1e-9
    room = report.condition("the embedding leaves room for a misfit")
    assert room.holds is False and "rank 18 and an intercept against 18 rows" in room.why
    linear = report.condition("the true value is linear in zsa")
    assert linear.holds is None and "trivially so" in linear.why
    assert report.data["R^2 of all of zsa is trivial"].startswith("yes")
    # Half of the components are not enough.
    assert found.network.r2[8] < 0.9 and found.random[8] == 8 / 17
    few_columns, export = random_export(7, 4)
    assert not audit_embeddings(export, few_columns).linearity.trivial


def test_rows_without_weight_leave_fewer_rows_to_explain() -> None:
    mdp, export = random_export(8, 5)
    export["counts"] = np.zeros((7, 3))
    export["counts"][:2] = 1.0
    found = audit_embeddings(export, mdp).linearity
    assert found.rows == 6 and found.trivial


def test_a_value_that_is_a_direction_of_the_embedding_is_linear_at_once() -> None:
    mdp, export = random_export(9, 4)
    noise = export["zsa"]
    export["zsa"] = np.concatenate([100.0 * export["q"][..., None], noise], axis=-1)
    report = audit_embeddings(export, mdp)
    found = report.linearity
    assert found.true.r2[1] > 0.99 and found.true.full == pytest.approx(1.0) and not found.trivial
    assert found.true.distance < 1e-12 and report.condition("the true value is linear in zsa").holds
    better = report.condition("the value is more linear in zsa than in random features")
    assert better.holds and better.value == pytest.approx(found.true.r2[found.at])
    assert better.threshold == found.by_chance(found.at) and better.threshold > found.random[found.at]
    # And the linear probe finds it.
    assert report.probe.findings.ladder.best_D < 1e-12


def test_a_direction_that_knows_nothing_of_the_value_is_worse_than_chance() -> None:
    mdp, export = random_export(10, 2)
    problem = same_problem(mdp, export)
    q = audit_embeddings(export, mdp).setting.q_true
    Z, mu = problem.Z - problem.mu @ problem.Z, problem.mu
    varying = q - mu @ q
    clean = Z - np.outer(varying, mu * varying @ Z) / (mu @ varying**2)
    export["zsa"] = np.zeros((7, 3, 2))
    export["zsa"].reshape(21, 2)[problem.rows] = clean
    report = audit_embeddings(export, mdp)
    assert report.linearity.true.r2[-1] < 1e-12
    name = "the value is more linear in zsa than in random features"
    assert report.condition(name).holds is False
    assert report.condition("the true value is linear in zsa").holds is False


def test_constant_values_are_not_judged() -> None:
    mdp = TabularMDP.from_dense([[[0.5, 0.5]] * 2] * 2, np.ones((2, 2)), 0.5)
    export = exact_export(mdp, Policy.uniform(mdp), zsa=np.random.default_rng(0).normal(size=(2, 2, 1)))
    report = audit_embeddings(export, mdp)
    assert report.linearity.true is None and report.linearity.network is None
    assert "infinite or constant" in report.condition("the true value is linear in zsa").why
    assert report.data["R^2 of the true value"] is None


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(np.ones(7)) == 7.0 and effective_rank(np.array([3.0, 0.0])) == 1.0
    # Shares 1/2, 1/4, 1/4: entropy 1.5 bits.
    assert effective_rank(np.array([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)


# The probe


@given(seeds, st.integers(1, 10))
@few
def test_the_probe_is_theorems_1_and_2_on_the_embeddings(seed: int, d: int) -> None:
    mdp, export = random_export(seed, d)
    probe, problem = audit_embeddings(export, mdp).probe, same_problem(mdp, export)
    alone, found = stability(problem), probe.findings.stability
    assert (found.td, found.rollout, found.certificate) == (alone.td, alone.rollout, alone.certificate)
    assert found.spectral_radius == pytest.approx(alone.spectral_radius, rel=1e-8)
    assert probe.findings.equivalence.verdict == check_fixed_point_equivalence(problem).verdict
    np.testing.assert_allclose(probe.findings.split.error, value_error(problem).error, atol=1e-9)
    assert probe.findings.ladder.published == pytest.approx(bounds(problem).published, rel=1e-9)
    np.testing.assert_allclose(probe.model.w_r, fit_linear_model(problem).w_r, atol=1e-10)
    w = td_fixed_point(problem).w
    np.testing.assert_allclose(
        problem.Z @ w, probe.findings.split.q_true + probe.findings.split.error, atol=1e-8
    )


def test_hundreds_of_columns_in_float32_are_probed_in_coordinates_of_their_span() -> None:
    """What does not depend on the basis is that of the features the columns are made of."""
    mdp = frozen_lake("4x4", 0.95)
    rng = np.random.default_rng(0)
    few_columns = rng.normal(size=(16, 4, 6))
    orthogonal = np.linalg.qr(rng.normal(size=(256, 6)))[0].T
    export = exact_export(mdp, Policy.epsilon_greedy(optimal(mdp).q, 0.1), counts=rng.integers(1, 9, (16, 4)))
    export["zsa"] = (few_columns @ orthogonal).astype(np.float32)
    report = audit_embeddings(export, mdp)
    assert report.linearity.rank == 6 < report.linearity.rank_float64
    found, alone = report.probe.findings.stability, stability(same_problem(mdp, export, few_columns))
    for name in ("td", "rollout", "certificate"):
        assert getattr(found, name) == getattr(alone, name)
    for name in ("spectral_radius", "step_size_limit", "best_rate", "tau", "sigma", "kappa"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name), rel=1e-4), name
    independent = report.condition("probe: features are independent")
    assert independent.holds is False and (independent.value, independent.threshold) == (6, 256)
    assert independent.why.endswith("see catalogue baird_star")
    assert report.probe.report.verdict == "pass" and report.probe.model.w_r.shape == (256,)
    assert report.condition("probe: decidable in float64").holds
    assert report.data["rank of zsa at float32, at float64"] == [6, report.linearity.rank_float64]


def test_tau_knows_no_embedding_and_the_spectral_radius_does() -> None:
    mdp, export = random_export(11, 5)
    other = {**export, "zsa": np.random.default_rng(99).normal(size=(7, 3, 5))}
    first, second = (audit_embeddings(each, mdp).probe.findings.stability for each in (export, other))
    assert first.tau == pytest.approx(second.tau, rel=1e-12)
    assert abs(first.spectral_radius - second.spectral_radius) > 1e-3
    assert "tau, kappa and sigma know no embedding" in audit_embeddings(export, mdp).to_markdown()


def test_an_embedding_that_td_diverges_on_is_named() -> None:
    """w to 2w: features 1 and 2, the second state for ever, weights uniform."""
    mdp = TabularMDP.from_dense([[[0, 1]], [[0, 1]]], [[1], [1]], 0.9)
    export = exact_export(mdp, Policy([[1.0], [1.0]]), zsa=np.array([[[1.0]], [[2.0]]]))
    report = audit_embeddings(export, mdp)
    assert report.probe.findings.stability.td == "unstable"
    assert report.probe.findings.stability.spectral_radius == pytest.approx(1.08)
    assert report.condition("probe: TD is stable").why.endswith("see catalogue baird_star_reward_one")
    assert report.condition("probe: rollout converges").why.endswith("see catalogue sign_flip")
    assert report.verdict == "pass"  # a finding, not a contradiction


def test_transitions_into_terminal_states_have_no_next_embedding() -> None:
    mdp, export = random_export(12, 4, terminal=2)
    problem, huge = same_problem(mdp, export), dict(export)
    huge["zsa"] = export["zsa"].copy()
    huge["zsa"][mdp.terminal] = 1e4
    found = audit_embeddings(huge, mdp)
    np.testing.assert_allclose(found.setting.probe.Z_next, problem.Z_next, atol=1e-12)
    assert float(mdp.P[:5, :, 5:].sum()) > 0.5


def test_the_threshold_of_precision_is_that_of_float32() -> None:
    assert np.finfo(np.float32).eps == FLOAT32
