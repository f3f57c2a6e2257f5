"""`theory.plots`: what is drawn is what was computed, plot by plot; `test_plots` has what they share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from pictured import FAIR, FLIP, SMALL, ladder_and_split, lake, n_steps, sweeps, three_cycle

from theory import (
    InputError,
    Problem,
    bounds,
    plots,
    stability,
    td_trajectory,
    value_error,
)
from theory.catalogue import load
from theory.interpolation import FeatureSweep, SweepPoint
from theory.lstd import lstd_study
from theory.n_step import n_step_fixed_point
from theory.plots.decomposition import _number
from theory.target_networks import target_network_radius
from theory.truncation import truncation


def _scatters(axes: Axes) -> dict[str, np.ndarray]:
    return {str(found.get_label()): np.asarray(found.get_offsets()) for found in axes.collections}


def test_every_bound_is_drawn_at_its_row_and_none_lies_below_the_diagonal() -> None:
    ladder, split = ladder_and_split()
    (axes,) = plots.plot_bounds(ladder, split).axes
    found = _scatters(axes)
    assert (axes.get_xscale(), axes.get_yscale(), len(found)) == ("log", "log", 4)
    rungs = (ladder.B1, ladder.B2, ladder.B25, ladder.B3)
    for points, bound in zip(found.values(), rungs, strict=True):
        np.testing.assert_allclose(points, np.stack([abs(split.error), bound], axis=1), rtol=1e-12)
        assert (points[:, 1] >= points[:, 0] * (1.0 - 1e-12)).all()
    diagonal = next(line for line in axes.lines if line.get_label() == "bound = error")
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    colours = {tuple(found.get_edgecolor()[0]) for found in axes.collections}
    assert len(colours) == 4
    # An error twice as large as the bounds allow would be seen.
    wrong = _scatters(plots.plot_bounds(ladder, replace(split, error=2.0 * split.error)).axes[0])
    assert any((points[:, 1] < points[:, 0]).any() for points in wrong.values())


def test_of_many_rows_some_are_drawn_with_the_largest_and_the_smallest_error() -> None:
    ladder, split = bounds(SMALL), value_error(SMALL)
    scale = np.linspace(1.0, 3.0, 2500)
    rungs = {name: np.outer(scale, getattr(ladder, name)).ravel() for name in ("B1", "B2", "B25", "B3")}
    error = np.outer(scale, split.error).ravel()
    (axes,) = plots.plot_bounds(replace(ladder, **rungs), replace(split, error=error)).axes
    points = next(iter(_scatters(axes).values()))
    assert len(points) == 2000 and "2000 of 5000 rows" in axes.get_title()
    assert (points[:, 0].min(), points[:, 0].max()) == (abs(error).min(), abs(error).max())


def test_errors_below_rounding_are_drawn_at_rounding() -> None:
    ladder, split = ladder_and_split()
    partly = replace(split, error=np.where(np.arange(44) < 2, [0.0, 1e-300] * 22, split.error))
    for points in _scatters(plots.plot_bounds(ladder, partly).axes[0]).values():
        assert (points[:2, 0] >= ladder.rounding).all() and (points[:2, 0] < 1e-10).all()


def test_without_bounds_the_reason_is_given() -> None:
    singular = load("tsitsiklis_van_roy_singular").problem
    for plot in (plots.plot_bounds, plots.plot_tightness):
        with pytest.raises(InputError, match=r"no bounds to draw: .* has no solution"):
            plot(bounds(singular), value_error(singular))
        with pytest.raises(InputError, match="all are below rounding"):
            plot(bounds(FAIR), value_error(FAIR))
        with pytest.raises(InputError, match="of one problem, got 2 and 44 rows"):
            plot(bounds(SMALL), value_error(lake()))


def test_a_bar_ends_at_its_tightness_and_a_missing_bound_has_its_reason() -> None:
    ladder = bounds(FLIP)  # tau > 1: some bounds do not apply
    left, right = plots.plot_tightness(ladder, value_error(FLIP)).axes
    ends = sorted(bar.get_x() + bar.get_width() for bar in right.patches)
    names = [name for name in ladder.tightness if not re.fullmatch(r"B\d+", name)]
    np.testing.assert_allclose(ends, sorted(ladder.tightness[name] for name in names))
    texts = [text.get_text() for text in right.texts]
    assert ladder.inapplicable and len(texts) == len(names) + len(ladder.inapplicable)
    assert any(text.startswith("tau = ") for text in texts)
    # A reason has its place even where there is no bar below it.
    last = replace(
        ladder,
        tightness={name: value for name, value in ladder.tightness.items() if name != "loss_to_value"},
        inapplicable={**ladder.inapplicable, "loss_to_value": "too long to compute " * 9},
    )
    axes = plots.plot_tightness(last, value_error(FLIP)).axes[1]
    texts = {text.get_text(): text.get_position()[1] for text in axes.texts}
    shown = next(text for text in texts if text.startswith("too long"))
    assert len(shown) == 60 and min(axes.get_ylim()) < texts[shown] < max(axes.get_ylim()) - 0.3
    # The curves of the rungs end at one, and the dots are the medians.
    steps = [line for line in left.lines if len(line.get_xdata()) == 3]
    assert all(line.get_ydata()[-1] == 1.0 for line in steps) and len(steps) == 4
    dots = [line.get_xdata()[0] for line in left.lines if list(line.get_ydata()) == [0.5]]
    np.testing.assert_allclose(dots, [ladder.tightness[name] for name in ("B1", "B2", "B25", "B3")])
    many, split = ladder_and_split()
    lines = plots.plot_tightness(many, split).axes[0].lines
    dots = [line.get_xdata()[0] for line in lines if list(line.get_ydata()) == [0.5]]
    np.testing.assert_allclose(dots, [many.tightness[name] for name in ("B1", "B2", "B25", "B3")])


# --- iterations ---


def test_the_run_its_prediction_and_the_rollout_are_drawn_relative_to_their_starts() -> None:
    run, rollout = td_trajectory(lake(), step_size=5.0, steps=60), truncation(lake(), 60)
    (axes,) = plots.plot_td_error(run, rollout).axes
    curves = {line.get_label().split(",")[0]: line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(curves["expected TD"], run.error / run.error[0])
    np.testing.assert_allclose(curves["predicted"], run.predicted_rate ** np.arange(61.0))
    np.testing.assert_allclose(curves["rollout cut after t steps"], rollout.error / rollout.error[0])
    assert axes.get_yscale() == "log"
    assert len(plots.plot_td_error(run).axes[0].lines) == 2


def test_a_run_from_the_fixed_point_has_nothing_to_draw() -> None:
    run = td_trajectory(SMALL, step_size=0.5, steps=3)
    with pytest.raises(InputError, match="starts at the fixed point"):
        plots.plot_td_error(replace(run, error=np.zeros(4)))


def test_the_disc_of_the_largest_step_size_touches_the_eigenvalue_that_limits_it() -> None:
    found = stability(three_cycle())
    left, right = plots.plot_eigenvalues(found, [0.9, -0.45 + 0.78j, -0.45 - 0.78j]).axes
    values = np.array(found.eigenvalues)
    drawn = _scatters(left)["eigenvalues"]
    np.testing.assert_allclose(drawn, np.stack([values.real, values.imag], axis=1))
    best, largest = (patch for patch in left.patches if isinstance(patch, Circle))
    inside = [abs(values - complex(*disc.center)) / disc.radius for disc in (best, largest)]
    assert inside[0].max() < 1.0
    np.testing.assert_allclose(inside[1].max(), 1.0, rtol=1e-9)
    (circle,) = (patch for patch in right.patches if isinstance(patch, Circle))
    assert (tuple(circle.center), circle.radius) == ((0.0, 0.0), 1.0)
    np.testing.assert_allclose(_scatters(right)["eigenvalues"][:, 0], [0.9, -0.45, -0.45])
    assert left.get_aspect() == right.get_aspect() == 1.0


def test_a_given_step_size_has_one_disc_and_an_unstable_problem_none() -> None:
    def discs(figure: Figure) -> list[Circle]:
        return [patch for patch in figure.axes[0].patches if isinstance(patch, Circle)]

    (disc,) = discs(plots.plot_eigenvalues(stability(three_cycle()), [0.9], 4.0))
    assert (disc.center[0], disc.radius) == (0.25, 0.25)
    unstable = plots.plot_eigenvalues(stability(load("baird_star").problem), [0.99])
    assert not discs(unstable) and "TD unstable" in unstable.axes[0].get_title()
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="step_size must be positive and finite"):
            plots.plot_eigenvalues(stability(three_cycle()), [0.9], step)


def test_radii_are_drawn_by_verdict_with_the_limit() -> None:
    found = target_network_radius(FLIP, 0.1, [1, 8, 10, 250])
    (axes,) = plots.plot_target_networks(found).axes
    points = _scatters(axes)
    np.testing.assert_allclose(points["stable"], [[1, 0.55], [8, found.radii[1]]])
    np.testing.assert_allclose(points["unstable"], [[10, found.radii[2]], [250, found.radii[3]]])
    assert points["stable"][:, 1].max() < 1.0 < points["unstable"][:, 1].min()
    heights = [line.get_ydata()[0] for line in axes.lines[1:]]
    np.testing.assert_allclose(heights, [1.0, 1.5])
    diverging = target_network_radius(FLIP, 2.0, [1, 2])  # the inner loop diverges: there is no limit
    assert len(plots.plot_target_networks(diverging).axes[0].lines) == 2


# --- where the error is ---


def test_the_bars_of_a_row_add_up_to_its_error() -> None:
    split = value_error(lake(), w=np.ones(8))  # not the solution: all three parts are there
    (axes,) = plots.plot_decomposition(split, lake().labels).axes
    total = np.zeros(44)
    for bars in axes.containers:
        total += [bar.get_height() for bar in bars]
    assert len(axes.containers) == 3 and abs(split.planning).max() > 0.1
    np.testing.assert_allclose(total, split.error, atol=1e-12)
    np.testing.assert_allclose(_scatters(axes)["value error"][:, 1], split.error)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(lake().labels)
    # No bar covers another: on each side of zero they meet end to end.
    for row in range(44):
        spans = sorted(
            sorted((bars[row].get_y(), bars[row].get_y() + bars[row].get_height()))
            for bars in axes.containers
        )
        assert all(first[1] <= second[0] + 1e-12 for first, second in pairwise(spans))


def test_the_dot_at_the_end_of_the_longest_bar_is_whole() -> None:
    error = ladder_and_split()[1].error
    split = replace(ladder_and_split()[1], reward=error, dynamics=0 * error, planning=0 * error)
    low, high = plots.plot_decomposition(split).axes[0].get_ylim()
    assert low < 1.01 * split.error.min() and 1.01 * split.error.max() < high


def test_of_many_rows_those_of_the_largest_errors_are_drawn_in_order() -> None:
    split = value_error(SMALL)
    error = np.arange(100.0) * (-1.0) ** np.arange(100)
    many = replace(split, error=error, reward=error, dynamics=0 * error, planning=0 * error)
    (axes,) = plots.plot_decomposition(many).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(row) for row in range(56, 100)]
    assert "44 largest of 100 rows" in axes.get_title()
    with pytest.raises(InputError, match="must name the 2 rows, got 1"):
        plots.plot_decomposition(split, ["one"])


def test_the_maps_of_the_parts_add_up_to_that_of_the_error() -> None:
    split = value_error(lake(), w=np.ones(8))
    figure = plots.plot_decomposition_map(lake(), split, (4, 4))
    error, *parts = (np.ma.filled(axes.images[0].get_array(), np.nan) for axes in figure.axes[:4])
    np.testing.assert_allclose(sum(parts), error, atol=1e-12)
    live = lake().mdp.live_states()
    means = split.error.reshape(11, 4).mean(axis=1)  # of the uniform policy
    np.testing.assert_allclose(error.ravel()[live], means)
    assert np.isnan(np.delete(error.ravel(), live)).all()
    limits = {axes.images[0].get_clim() for axes in figure.axes[:4]}
    assert len(limits) == 1 and sum(limits.pop()) == 0.0


def test_the_map_of_errors_is_the_largest_over_actions() -> None:
    split = value_error(lake())
    axes = plots.plot_error_map(lake(), split, (4, 4)).axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan).ravel()
    np.testing.assert_allclose(shown[lake().mdp.live_states()], abs(split.error).reshape(11, 4).max(axis=1))
    assert len(axes.texts) == 11 and len(axes.patches) == 5  # numbers in live states, hatching in the others


@pytest.mark.parametrize("plot", [plots.plot_error_map, plots.plot_decomposition_map])
def test_a_map_needs_states_on_a_grid(plot: Callable[..., Figure]) -> None:
    with pytest.raises(InputError, match="bare chain"):
        plot(SMALL, value_error(SMALL), (1, 2))
    with pytest.raises(InputError, match="must hold the 16 states, got 3 x 5"):
        plot(lake(), value_error(lake()), (3, 5))


# --- curves ---


def test_both_curves_of_every_sweep_are_drawn_and_the_best_is_below() -> None:
    for axes in plots.plot_feature_sweep(sweeps()).axes:
        curves = {line.get_label(): line.get_ydata() for line in axes.lines}
        for sweep in sweeps():
            floor = 1e-9 * max(other.size_D for other in sweeps())
            td, best = curves[f"{sweep.features}: TD"], curves[f"{sweep.features}: best"]
            np.testing.assert_allclose(td, np.maximum(sweep.curve("error_D"), floor))
            np.testing.assert_allclose(best, np.maximum(sweep.curve("best_D"), floor))
            assert (best <= td * (1.0 + 1e-9)).all()
    one = plots.plot_feature_sweep(sweeps()[0]).axes[0]
    assert [line.get_label() for line in one.lines] == ["random: TD", "random: best", "norm of the values"]
    with pytest.raises(InputError, match="at least one sweep"):
        plots.plot_feature_sweep([])


def test_where_td_has_no_fixed_point_its_curve_has_a_marked_gap() -> None:
    points = (SweepPoint(2, 2, "unique", 0.1, 0.1, 0.1, 0.1), SweepPoint(1, 1, "none", None, None, 0.5, 0.5))
    axes = plots.plot_feature_sweep(FeatureSweep("svd", points, 4, 1.0, 1.0)).axes[0]
    curves = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(curves["svd: TD"].get_ydata(), [np.nan, 0.1])
    np.testing.assert_array_equal(curves["svd: best"].get_xdata(), [1, 2])
    np.testing.assert_array_equal(curves["svd: no unique fixed point"].get_xdata(), [1])


def test_sampled_errors_are_drawn_with_the_line_of_their_law() -> None:
    study = lstd_study(FAIR, [10, 1000, 4000], runs=50, seed=0)
    (axes,) = plots.plot_lstd(study).axes
    curves = {line.get_label().split(",")[0]: line.get_xydata() for line in axes.lines}
    root = np.sqrt(study.mse)
    np.testing.assert_allclose(curves["sampled LSTD"], np.stack([study.sizes, root], axis=1)[study.used])
    np.testing.assert_allclose(curves["too few samples for the law"], [[10, root[0]]])
    np.testing.assert_allclose(curves["predicted"][:, 1] ** 2 * study.sizes, study.predicted_trace)
    (bars,) = (np.array(found.get_segments()) for found in axes.collections)
    np.testing.assert_allclose(bars[:, 1, 1] ** 2, study.mse + 1.96 * study.mse_error)
    assert (bars[:, 0, 1] < root).all() and (root < bars[:, 1, 1]).all()
    assert f"{study.slope:.3f}" in axes.get_title()
    with pytest.raises(InputError, match="no errors to draw"):
        plots.plot_lstd(lstd_study(load("tsitsiklis_van_roy_singular").problem, [10, 20], runs=2, seed=0))


def test_bias_and_error_are_drawn_in_order_of_n() -> None:
    points = sorted(n_steps(), key=lambda point: point.n)
    left, right = plots.plot_n_step(n_steps()).axes
    error, bias, limit = left.lines
    np.testing.assert_array_equal(bias.get_xdata(), [1, 3, 8])
    np.testing.assert_allclose(bias.get_ydata(), [point.bias for point in points])
    np.testing.assert_allclose(error.get_ydata(), [abs(point.error).max() for point in points])
    np.testing.assert_allclose(limit.get_ydata(), points[0].limit_bias)
    np.testing.assert_allclose(right.lines[0].get_ydata(), [point.distance for point in points])
    endless = Problem.from_chain([[1.0]], [1.0], [[1.0]], [1.0], 1.0)
    with pytest.raises(InputError, match="finite returns"):
        plots.plot_n_step([n_step_fixed_point(endless, 1)])


def test_kolters_errors_are_the_known_ones_and_unbounded_at_the_singular_share() -> None:
    known = {
        0.5: 0.00174,
        0.6: 0.02162,
        0.7: 0.45199,
        0.71: 3.88283,
        0.711: 13.7221,
        0.72: 0.66264,
        0.9: 0.05642,
    }
    curve = plots.kolter_curve(known)
    np.testing.assert_allclose(curve.error, list(known.values()), atol=6e-5)
    assert round(curve.singular, 7) == 0.7113974
    assert (curve.best <= curve.error).all() and curve.best.max() < 0.002
    near = plots.kolter_curve([curve.singular - 1e-6, curve.singular + 1e-6])
    assert near.error.min() > 1000.0
    (axes,) = plots.plot_kolter(plots.kolter_curve([0.9, 0.5])).axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0.5, 0.9])
    assert axes.lines[2].get_xdata()[0] == curve.singular
    for bad in ([], [1.2], [-0.1], [float("nan")]):
        with pytest.raises(InputError, match="numbers from 0 to 1"):
            plots.kolter_curve(bad)


def test_points_whose_features_have_run_out_are_hollow_and_floors_are_named() -> None:
    points = tuple(SweepPoint(d, min(d, 2), "unique", 0.1, 0.1, 0.1, 0.1 * (d < 3)) for d in (1, 2, 3, 4))
    figure = plots.plot_feature_sweep(FeatureSweep("eigen", points, 4, 1.0, 1.0))
    for axes in figure.axes:
        (hollow,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
        np.testing.assert_array_equal(hollow.get_ydata(), [np.nan, np.nan, 0.1, 0.1])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[2:] == ["norm of the values", "at or below rounding", "rank below d"]
    full = plots.plot_feature_sweep(FeatureSweep("eigen", points[:2], 4, 1.0, 1.0))
    assert len(full.legends[0].get_texts()) == 3 and len(full.axes[1].lines) == 3


def test_a_legend_names_only_what_is_drawn() -> None:
    study = lstd_study(FAIR, [10, 20], runs=5, seed=0)
    assert study.used is not None and not study.used.any()
    texts = [text.get_text() for text in plots.plot_lstd(study).axes[0].get_legend().get_texts()]
    assert "too few samples for the law" in texts and "sampled LSTD, 95% interval" not in texts
    still = replace(td_trajectory(SMALL, step_size=0.5, steps=3), predicted_rate=0.0)
    texts = [text.get_text() for text in plots.plot_td_error(still).axes[0].get_legend().get_texts()]
    assert texts == ["expected TD"]


def test_one_number_of_steps_has_whole_ticks() -> None:
    for axes in plots.plot_n_step([n_step_fixed_point(SMALL, 1)]).axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_numbers_on_a_map_are_not_in_powers_of_ten_below_a_hundred_thousand() -> None:
    assert [_number(value, 1e3) for value in (99.4, 99.5, 99.99, 100.4)] == ["99", "100", "100", "100"]
    assert _number(-99.6, 1e3) == "-100" and _number(0.1234, 1.0) == "0.12"
