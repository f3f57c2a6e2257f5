"""Statistics of the probes: against refits by brute force, and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld_torchrl.diagnostics.statistics import (
    STRENGTHS,
    calibration,
    centred,
    left_out_errors,
    ranks,
    relative_error,
    ridge_r2,
    standardised,
)

EPS = np.finfo(np.float64).eps


def refits(x, y, groups, strength):
    """Errors of ridge regressions with a free intercept, each fitted anew without one group."""
    around = x - x.mean(0)
    penalty = strength * np.linalg.eigvalsh(around.T @ around).max() * np.eye(x.shape[1])
    errors = np.empty(len(y))
    for group in set(groups.tolist()):
        out = groups == group
        mean_x, mean_y = x[~out].mean(0), y[~out].mean()
        seen = x[~out] - mean_x
        w = np.linalg.solve(seen.T @ seen + penalty, seen.T @ (y[~out] - mean_y))
        errors[out] = y[out] - mean_y - (x[out] - mean_x) @ w
    return errors


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 6),
    width=st.integers(1, 12),
    power=st.floats(-3, 1),
    repeats=st.integers(1, 3),
)
def test_the_closed_form_is_the_refit_without_each_group(seed, size, width, power, repeats):
    rng = np.random.default_rng(seed)
    groups = np.append(np.arange(size), rng.integers(0, size, size * (repeats - 1)))
    rng.shuffle(groups)
    x, y = rng.normal(size=(size, width))[groups], rng.normal(size=len(groups))
    found = left_out_errors(x, y, groups, np.array([10.0**power]))[0]
    # Both solve systems of condition up to 1 + 1/strength, and 1 - m h is at least the inverse of that.
    tolerance = 100 * len(y) * EPS * (1 + 10**-power) ** 2 * np.abs(y).max()
    np.testing.assert_allclose(found, refits(x, y, groups, 10.0**power), rtol=0, atol=tolerance)


def test_without_features_each_group_is_predicted_by_the_mean_of_the_others():
    y, groups = np.array([1.0, 2.0, 6.0, 7.0]), np.array([0, 0, 1, 2])
    errors = left_out_errors(np.zeros((4, 0)), y, groups, np.ones(1))[0]
    np.testing.assert_allclose(errors, [1 - 6.5, 2 - 6.5, 6 - 10 / 3, 7 - 3], rtol=0, atol=20 * EPS)


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_a_linear_target_is_predicted_up_to_the_weakest_penalty(seed, width):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, width))
    r2 = ridge_r2(x, x @ rng.uniform(1, 2, width) + 5)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    # Residuals of the fit are at most strength * condition^2 of y, left-out errors 1 / (1 - h) of these.
    left = 1 - 1 / 20 - (u**2).sum(1).max()
    assert 1 - (STRENGTHS[0] * (s[0] / s[-1]) ** 2 / left) ** 2 - 20 * EPS <= r2 <= 1


def test_a_target_that_the_features_say_nothing_of_is_predicted_no_better_than_by_the_mean():
    # All four combinations: without one row the slope has the wrong sign for it. By hand, at any strength
    # the residual is y itself, and the leverage only makes the error larger.
    x, y = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([1.0, -1.0, 1.0, -1.0])
    c = 1 / (1 + STRENGTHS[-1])
    expected = 1 - ((1 - 1 / 4) / (1 - 1 / 4 - c / 4)) ** 2
    assert ridge_r2(x, y) == pytest.approx(expected, abs=20 * EPS)
    assert expected < 0


def test_wide_features_do_not_win_by_fitting():
    # A column for each row fits anything, and says nothing of a row that was left out: exactly the mean.
    y = np.random.default_rng(0).normal(size=12)
    fitted = np.eye(12) @ np.linalg.lstsq(np.eye(12), y, rcond=None)[0]
    np.testing.assert_allclose(fitted, y, rtol=0, atol=100 * EPS)
    assert ridge_r2(standardised(np.eye(12)), y) == pytest.approx(0, abs=1e3 * EPS / STRENGTHS[0])


def test_equal_rows_leave_together():
    # Rows that stay behind would tell everything of their copies.
    y = np.random.default_rng(0).normal(size=6)
    x, groups = standardised(np.eye(6))[[*range(6), *range(6)]], np.array([*range(6), *range(6)])
    twice = np.append(y, y)
    assert ridge_r2(x, twice) > 0.999
    assert ridge_r2(x, twice, groups) == pytest.approx(0, abs=1e3 * EPS / STRENGTHS[0])


@given(st.integers(0, 2**31), st.integers(1, 30), st.sampled_from([1e-3, 1.0, 1e3]))
def test_r2_knows_neither_units_nor_directions(seed, width, unit):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(15, width))
    y = np.sin(x[:, 0]) + rng.normal(size=15)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    turned = ridge_r2(unit * x @ rotation + 3, 7 * y - 2)
    # Rounding of the inner products over the weakest penalty, which 1 - h may equal.
    assert turned == pytest.approx(ridge_r2(x, y), abs=1e4 * EPS / STRENGTHS[0])


def test_more_features_than_rows_are_as_good_as_their_inner_products():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, 40)), rng.normal(size=10)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    groups = np.arange(10)
    wide, square = (left_out_errors(part, y, groups, STRENGTHS) for part in (x, u * s))
    # Relative to errors: rounding over the weakest penalty.
    np.testing.assert_allclose(wide, square, rtol=0, atol=1e3 * EPS / STRENGTHS[0] * np.abs(wide).max())


def test_the_best_strength_is_taken():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 25))
    y = x[:, 0] + rng.normal(size=30)
    all_errors = [(refits(x, y, np.arange(30), strength) ** 2).sum() for strength in STRENGTHS]
    best = int(np.argmin(all_errors))
    assert 0 < best < len(STRENGTHS) - 1
    mean = ((y - y.mean()) ** 2).sum() * (30 / 29) ** 2
    # Refits by normal equations lose condition^2 of x, here below 1e4.
    assert ridge_r2(x, y) == pytest.approx(1 - all_errors[best] / mean, abs=1e4 * 30 * EPS)


@pytest.mark.parametrize(
    ("x", "y", "groups", "expected"),
    [
        (np.eye(3), np.full(3, 0.1), None, None),
        (np.eye(3), np.array([1.0, 2.0, 4.0]), np.zeros(3, dtype=int), None),
        (np.zeros((3, 2)), np.array([1.0, 2.0, 4.0]), None, 0.0),
        (np.zeros((3, 0)), np.array([1.0, 2.0, 4.0]), None, 0.0),
    ],
    ids=["constant target", "one group", "constant features", "no features"],
)
def test_what_does_not_vary_gives_no_r2_or_none_above_the_mean(x, y, groups, expected):
    assert ridge_r2(x, y, groups) == (expected if expected is None else pytest.approx(expected, abs=9 * EPS))


def test_standardised_columns_weigh_the_same_and_constant_ones_are_left_out():
    x = np.array([[1.0, 100.0, 7.0, 0.0], [3.0, -300.0, 7.0, 0.0], [2.0, 50.0, 7.0 + 1e-7, 0.0]])
    found = standardised(x)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found.mean(0), 0, atol=EPS)
    np.testing.assert_allclose(found.var(0), 1 / 2, rtol=9 * EPS)
    np.testing.assert_allclose(centred(x)[:, 1], [150, -250, 100], rtol=9 * EPS)
    assert standardised(np.ones((3, 2))).shape == (3, 0)


@pytest.mark.parametrize(
    ("spectrum", "effective", "stable", "srank"),
    [
        ([2.0] * 5, 5.0, 5.0, 5),
        ([3.0, 1.0], 4 / 3**0.75, 10 / 9, 2),
        ([98.5, 1.0, 0.5], None, None, 2),
        ([99.5, 0.5], None, None, 1),
        ([7.0, 0.0, 0.0], 1.0, 1.0, 1),
        ([0.0, 0.0], 0.0, 0.0, 0),
    ],
)
def test_ranks_of_known_spectra(spectrum, effective, stable, srank):
    rng = np.random.default_rng(0)
    size = len(spectrum)
    left = np.linalg.qr(rng.normal(size=(size + 3, size)))[0]
    right = np.linalg.qr(rng.normal(size=(size, size)))[0]
    found = ranks(left * spectrum @ right)
    if effective is not None:
        # p log p at a singular value of rounding size, eps, adds about 40 eps each.
        assert found.effective == pytest.approx(effective, abs=1e3 * EPS)
        assert found.stable == pytest.approx(stable, abs=1e2 * EPS)
    assert found.srank == srank


@given(st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e6]))
def test_ranks_do_not_depend_on_scale_and_lie_between_one_and_the_rank(seed, scale):
    x = np.random.default_rng(seed).normal(size=(6, 4))
    plain, scaled = ranks(x), ranks(scale * x)
    np.testing.assert_allclose(scaled, plain, rtol=1e2 * EPS)
    assert 1 < plain.stable < 4 and 1 < plain.effective < 4 and 1 <= plain.srank <= 4


def test_a_planted_line_comes_back():
    predicted = np.arange(40) / 8
    found = calibration(predicted, 2 * predicted + 3)
    assert found.slope == pytest.approx(2, abs=50 * EPS)
    assert found.intercept == pytest.approx(3, abs=50 * EPS)
    assert found.error == pytest.approx((predicted + 3).mean(), abs=50 * EPS)


def test_errors_that_cancel_within_a_bin_do_not_count_and_those_between_bins_do():
    predicted = np.array([0.0, 0.1, 1.0, 1.1])
    within = predicted + np.array([5.0, -5.0, 3.0, -3.0])
    between = predicted + np.array([5.0, 5.0, -5.0, -5.0])
    assert calibration(predicted, within, num_bins=2).error == pytest.approx(0, abs=9 * EPS)
    assert calibration(predicted, between, num_bins=2).error == pytest.approx(5, abs=9 * EPS)
    assert calibration(predicted, within, num_bins=4).error == pytest.approx(4, abs=9 * EPS)
    assert calibration(predicted, between, num_bins=1).error == pytest.approx(0, abs=9 * EPS)


@given(st.permutations(range(12)))
def test_calibration_does_not_depend_on_the_order_of_rows_even_with_ties(order):
    predicted = np.array([0.0] * 5 + [1.0] * 4 + [2.0] * 3)
    real = np.arange(12.0)
    order = np.array(order)
    found = calibration(predicted[order], real[order], num_bins=4)
    # Means of the tied rows by hand: 2, 6.5, 10.
    assert found.error == pytest.approx((5 * 2 + 4 * 5.5 + 3 * 8) / 12, abs=50 * EPS)
    assert found.slope == pytest.approx(calibration(predicted, real).slope, abs=50 * EPS)


def test_equal_predictions_or_equal_truths_have_no_line():
    assert calibration(np.full(4, 0.3), np.array([0.0, 1.0, 0.0, 1.0])) == (None, None, pytest.approx(0.2))
    # Right up to noise, as of CartPole's reward: a line would say slope 0, intercept 1.
    assert calibration(np.array([0.9, 1.1, 0.9, 1.1]), np.ones(4), 2) == (None, None, pytest.approx(0.1))


@pytest.mark.parametrize(("rows", "bins"), [(0, 10), (3, 0)])
def test_no_rows_or_no_bins_are_refused(rows, bins):
    with pytest.raises(ValueError, match=f"got {rows} rows and {bins} bins"):
        calibration(np.zeros(rows), np.zeros(rows), bins)


def test_the_relative_error_of_a_perfect_prediction_is_0_and_of_the_mean_1():
    target = np.array([[1.0, 0.0], [3.0, 0.0], [8.0, 6.0]])
    assert relative_error(target, target) == 0
    assert relative_error(np.broadcast_to(target.mean(0), (3, 2)), target) == 1
    # By hand: squared errors 3 * 4, squared deviations 9 + 1 + 16 and 4 + 4 + 16.
    assert relative_error(target + np.array([2.0, 0.0]), target) == pytest.approx(12 / 50, abs=EPS)
    assert relative_error(target[:1], target[:1]) is None
    assert relative_error(target[:0], target[:0]) is None
    assert relative_error(np.eye(2), np.full((2, 2), 0.1)) is None
