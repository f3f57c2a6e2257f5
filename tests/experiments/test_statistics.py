"""Statistics over tasks and seeds, against values worked out by hand, and coverage on simulated scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from uld_torchrl.errors import InputError
from uld_torchrl.experiments import (
    STATISTICS,
    aggregate,
    performance_profile,
    probability_of_improvement,
)

TASKS = {"a": [0.0, 1.0, 2.0, 9.0], "b": [4.0, 4.0, 4.0, 8.0], "c": [-2.0, 0.0, 0.0, 0.0]}
# Task means 3, 5, -0.5.
RUNS = st.lists(st.floats(-10, 10), min_size=2, max_size=5)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [
        ("mean", 2.5),
        ("median", 3.0),
        # Pooled and sorted: -2 0 0 0 | 0 1 2 4 4 4 | 8 9 has 12 runs, 3 go on each side: 0 0 1 2 4 4.
        ("iqm_runs", 11 / 6),
        # Three task means: a quarter of three, rounded down, is none.
        ("iqm_tasks", 2.5),
    ],
)
def test_statistics_are_those_worked_out_by_hand(statistic: str, value: float) -> None:
    assert aggregate(TASKS, statistic).value == pytest.approx(value, abs=1e-15)


def test_the_interquartile_mean_of_tasks_leaves_out_the_outer_ones() -> None:
    scores = {str(k): [float(value)] for k, value in enumerate((-100, 1, 2, 3, 4, 5, 6, 100))}
    assert aggregate(scores, "iqm_tasks").value == 3.5


def test_runs_are_resampled_within_their_task() -> None:
    """Stratified, equal runs give an interval of no width; pooled, -100 and 100 would mix."""
    found = aggregate({"a": [-100.0] * 3, "b": [100.0] * 3}, "mean")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_two_runs_is_that_of_all_four_resamples() -> None:
    # Means of two drawn of (0, 1): 0, .5, .5, 1, each a quarter: the 2.5 % and 97.5 % points are 0 and 1.
    found = aggregate({"a": [0.0, 1.0]}, "mean")
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_single_run_has_no_interval() -> None:
    found = aggregate({"a": [3.0], "b": [1.0, 2.0]}, "mean")
    assert found.value == 2.25
    assert math.isnan(found.low) and math.isnan(found.high)


def test_a_seed_repeats_the_interval_and_another_does_not() -> None:
    first, again, other = (aggregate(TASKS, "mean", resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_intervals_cover_the_truth_as_often_as_the_bootstrap_of_ten_seeds_can() -> None:
    """Of 200 studies of 5 tasks and 10 seeds; the nominal 95 % lies above the exact coverage of percentiles.

    The percentile interval of a mean of n normal runs is about mean -+ 1.96 s sqrt((n - 1) / n) / sqrt(n)
    with the pooled s on 5 (n - 1) degrees of freedom: 93.0 % for n = 10. The count must lie where a binomial
    of that rate lies but once in 10^6; resampled over tasks, whose means lie 10 apart, it would cover always.
    """
    rng, truth, covered = np.random.default_rng(0), np.arange(5) * 10.0, 0
    for study in range(200):
        scores = {str(k): rng.normal(mean, 1.0, 10) for k, mean in enumerate(truth)}
        found = aggregate(scores, "mean", resamples=400, seed=study)
        covered += found.low <= truth.mean() <= found.high
    low, high = binom.ppf([1e-6, 1 - 1e-6], 200, 0.93)
    assert low <= covered <= high


def test_a_profile_counts_each_task_alike() -> None:
    found = performance_profile({"a": [0.0] * 9 + [2.0], "b": [2.0]}, [-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(found, [1.0, 0.55, 0.55, 0.0], atol=1e-15)


def test_improvement_is_the_share_of_pairs_won() -> None:
    # Task a: 3 > 1, 3 > 2, 2 > 1, 2 = 2: 3.5 of 4. Task b: 0 of 2.
    found = probability_of_improvement({"a": [3.0, 2.0], "b": [0.0]}, {"b": [1.0, 2.0], "a": [1.0, 2.0]})
    assert found.value == (3.5 / 4 + 0) / 2


@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=5), st.lists(st.floats(-10, 10), min_size=2, max_size=5)
)
def test_improvement_of_one_is_what_the_other_lacks(x: list[float], y: list[float]) -> None:
    ours = probability_of_improvement({"t": x}, {"t": y}, resamples=20)
    theirs = probability_of_improvement({"t": y}, {"t": x}, resamples=20)
    assert ours.value + theirs.value == pytest.approx(1.0, abs=1e-12)
    assert 0.0 <= ours.low <= ours.high <= 1.0


@pytest.mark.parametrize("statistic", list(STATISTICS))
@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
def test_statistics_move_and_stretch_with_the_scores(statistic: str, shift: float, scale: float) -> None:
    moved = {task: np.array(runs) * scale + shift for task, runs in TASKS.items()}
    plain = aggregate(TASKS, statistic, resamples=20)
    found = aggregate(moved, statistic, resamples=20)
    for name in ("value", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name) * scale + shift, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "statistic", "told"),
    [
        ({}, "mean", "at least one task"),
        ({"a": []}, "mean", "scores of a must be a list of at least one run"),
        ({"a": [[1.0]]}, "mean", r"shape \(1, 1\)"),
        ({"a": [1.0, math.nan]}, "mean", "scores of a must be finite"),
        ({"a": [1.0]}, "iqm", "statistic must be one of"),
    ],
)
def test_scores_that_say_nothing_are_refused(
    scores: dict[str, list[float]], statistic: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        aggregate(scores, statistic)


def test_other_tasks_are_not_compared() -> None:
    with pytest.raises(InputError, match="only one has b"):
        probability_of_improvement({"a": [1.0]}, {"a": [1.0], "b": [1.0]})
