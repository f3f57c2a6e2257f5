"""Published figures: complete for every suite, and their aggregates follow from their tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from uld_torchrl.envs import canonical_id
from uld_torchrl.errors import InputError
from uld_torchrl.experiments import (
    METHODS,
    SUITES,
    aggregate,
    aggregates,
    comparable,
    normalise,
    normaliser,
    points,
    suite,
)
from uld_torchrl.experiments.suites import NOT_AGGREGATED


@pytest.mark.parametrize("name", list(SUITES))
def test_every_task_of_a_suite_is_an_environment_with_published_scores(name: str) -> None:
    chosen = suite(name)
    assert len(set(chosen.envs)) == len(chosen.envs) == int("".join(c for c in name if c.isdigit()))
    for env in chosen.envs:
        assert canonical_id(env) == env
        assert normaliser(env) is not None
        steps = [point.step for point in points(env, "mrq")]
        assert chosen.total_steps in steps and steps == sorted(steps)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        (name, step)
        for name in ("gym5", "dmc28", "dmc-hard7", "dmc-easy21", "dmc-pixels28", "atari57")
        for step in sorted({point.step for point in points(suite(name).envs[0], "mrq")})
        if aggregates(name, step)
    ],
)
def test_the_published_mean_and_median_follow_from_the_scores_of_the_tasks(name: str, step: int) -> None:
    """To four digits, as they are given, and half a unit of the last digit of the normalised scores."""
    scores = {}
    for env in suite(name).envs:
        if env not in NOT_AGGREGATED:
            (point,) = [point for point in points(env, "mrq") if point.step == step]
            scores[env] = normalise(env, [point.mean])
    published = aggregates(name, step)
    for statistic in ("mean", "median"):
        assert aggregate(scores, statistic).value == pytest.approx(published[statistic].mean, abs=0.5001e-4)


def test_aggregates_of_atari_leave_out_two_games() -> None:
    """Control: with all 57 games the published mean does not follow."""
    scores = {env: normalise(env, [points(env, "mrq")[-1].mean]) for env in suite("atari57").envs}
    assert abs(aggregate(scores, "mean").value - aggregates("atari57", 2_500_000)["mean"].mean) > 0.01


def test_published_aggregates_of_the_suites_have_an_order() -> None:
    for name in SUITES:
        for step in {point.step for env in suite(name).envs for point in points(env, "mrq")}:
            for point in aggregates(name, step).values():
                assert point.low <= point.mean <= point.high


def test_end_points_have_the_steps_of_their_suite_and_intervals_only_where_published() -> None:
    (td7,) = points("gym/Ant-v4", "td7")
    assert (td7.step, td7.mean, td7.low, td7.high) == (1_000_000, 8509.0, 8164.0, 8852.0)
    (dreamer,) = points("dmc/acrobot-swingup", "dreamerv3")
    assert (dreamer.step, dreamer.mean) == (500_000, 230.0)
    assert math.isnan(dreamer.low) and math.isnan(dreamer.high)
    assert points("CartPole-v1", "td7") == []


def test_every_method_has_points() -> None:
    envs = {env for each in SUITES.values() for env in each.envs}
    for method in METHODS:
        assert any(points(env, method) for env in envs)


def test_scores_are_normalised_by_hand() -> None:
    np.testing.assert_allclose(normalise("gym/Ant-v4", [-70.288, 3942.0]), [0.0, 1.0], atol=1e-15)
    np.testing.assert_allclose(normalise("atari/Alien", [227.8, 7127.7]), [0.0, 1.0], atol=1e-15)
    assert normalise("CartPole-v1", [17.0]).tolist() == [17.0]


def test_raw_returns_of_several_tasks_are_no_scale() -> None:
    assert comparable(["CartPole-v1", "CartPole-v1"])
    assert not comparable(["CartPole-v1", "dmc/walker-run"])


@pytest.mark.parametrize(
    ("call", "told"),
    [(lambda: suite("dmc27"), "Did you mean dmc28"), (lambda: points("gym/Ant-v4", "td8"), "mean td7")],
)
def test_unknown_names_are_told_with_the_nearest(call: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call()  # type: ignore[operator]
