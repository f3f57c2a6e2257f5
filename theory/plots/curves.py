"""Studies as curves: error against features, the sampling law of LSTD, the bias of n-step returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from theory.checks import Array
from theory.errors import InputError
from theory.interpolation import FeatureSweep
from theory.lstd import LstdStudy
from theory.n_step import NStepFixedPoint
from theory.plots.style import PALETTE, describe, new_figure

KINDS = {
    "random": ("vermillion", "o"),
    "svd": ("blue", "s"),
    "eigen": ("purple", "^"),
    "krylov": ("green", "D"),
}
"""Colour and marker of each kind of features."""
ROUNDING = 1e-9  # of the size of the values; what is below is drawn there


def plot_feature_sweep(sweeps: FeatureSweep | Sequence[FeatureSweep]) -> Figure:
    r"""Draw the error of TD and the best possible one against the number of features, in the D-norm.

    Errors below 1e-9 of the values' norm are drawn there. Where TD has no unique fixed point its curve has
    a gap, marked at the top. Hollow are points whose rank is below d: the kind has run out of features.

    Args:
        sweeps: one, or several of one problem, one for each kind of features.

    Raises:
        InputError: no sweep.

    Example:
        >>> from theory import Policy, Weights, random_walk
        >>> from theory.interpolation import feature_sweep
        >>> walk = random_walk(5)
        >>> policy, weights = Policy.uniform(walk), Weights.uniform(walk)
        >>> figure = plot_feature_sweep(feature_sweep(walk, policy, weights, "svd", [1, 3, 5]))
        >>> figure.axes[0].get_xlabel()
        'number of features d'
    """
    given = [sweeps] if isinstance(sweeps, FeatureSweep) else list(sweeps)
    if not given:
        raise InputError("sweeps must hold at least one sweep, got none.")
    figure, panels = new_figure(2, panel=(4.9, 4.2))
    floor = ROUNDING * max(max(sweep.size_D for sweep in given), 1e-288)
    for axes, scale in zip(panels, ("linear", "log"), strict=True):
        for sweep in given:
            _draw_sweep(axes, sweep, floor)
        axes.axhline(given[0].size_D, color=PALETTE["black"], linestyle=":", label="norm of the values")
        if scale == "log":
            _mark_rounding(axes, given, floor)
        axes.set_yscale(scale)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = f"Value error against features, {scale} scale"
        describe(axes, "number of features d", "error, D-norm [reward]", title)
    panels[0].set_ylim(bottom=0.0)
    handles, labels = panels[1].get_legend_handles_labels()
    if any((sweep.curve("rank") < sweep.dims).any() for sweep in given):
        handles.append(Line2D([], [], color=PALETTE["black"], marker="o", markerfacecolor="white", ls=""))
        labels.append("rank below d")
    columns = (len(labels) + 1) // 2  # two rows: the curves of a kind stay one below the other
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _draw_sweep(axes: Axes, sweep: FeatureSweep, floor: float) -> None:
    """Draw the two curves of one kind of features, and where TD has no point."""
    colour, marker = KINDS.get(sweep.features, ("black", "x"))
    order = np.argsort(sweep.dims, kind="stable")
    x, error = sweep.dims[order], sweep.curve("error_D")[order]
    best = np.maximum(sweep.curve("best_D")[order], floor)
    style: dict[str, Any] = {"color": PALETTE[colour], "linewidth": 1.3}
    label = f"{sweep.features}: TD"
    axes.plot(x, np.maximum(error, floor), marker=marker, markersize=3.5, label=label, **style)
    axes.plot(x, best, linestyle="--", label=f"{sweep.features}: best", **style)
    short = sweep.curve("rank")[order] < x
    if short.any():
        hollow = np.where(short, np.maximum(error, floor), np.nan)
        axes.plot(
            x, hollow, marker, color=PALETTE[colour], markersize=5, markerfacecolor="white", label="_hollow"
        )
    missing = x[np.isnan(error)]
    if len(missing):
        top, name = np.full(len(missing), 0.98), f"{sweep.features}: no unique fixed point"
        across = axes.get_xaxis_transform()
        axes.plot(missing, top, "v", color=PALETTE[colour], transform=across, clip_on=False, label=name)


def _mark_rounding(axes: Axes, sweeps: Sequence[FeatureSweep], floor: float) -> None:
    """Say at which height errors are drawn that rounding could have made."""
    errors = [sweep.curve(name) for sweep in sweeps for name in ("error_D", "best_D")]
    if any((error <= floor).any() for error in errors):
        axes.axhline(floor, color=PALETTE["grey"], linestyle="-.", linewidth=1, label="at or below rounding")


def plot_lstd(study: LstdStudy) -> Figure:
    r"""Draw the root mean square error of sampled LSTD against the sample size, with the predicted line.

    The line is :math:`\sqrt{\mathrm{tr}\,A^{-1}\Sigma A^{-\top}/N}`; bars are 95% intervals, hollow sizes too
    small to be compared with it.

    Args:
        study: (m,) sizes; must have a law.

    Raises:
        InputError: there is no law to compare with.

    Example:
        >>> from theory import Problem
        >>> from theory.lstd import lstd_study
        >>> fair = Problem.from_chain([[0.5, 0.5]] * 2, [1, 0], [[1, 0], [0, 1]], [0.5, 0.5], 0.5)
        >>> plot_lstd(lstd_study(fair, [1000, 4000], runs=50, seed=0)).axes[0].get_xscale()
        'log'
    """
    if study.mse is None or study.mse_error is None or study.predicted_trace is None:
        failing = [condition.why for condition in study.conditions if not condition.holds]
        raise InputError(f"The study has no errors to draw: {'; '.join(failing) or 'no unique fixed point'}.")
    figure, (axes,) = new_figure()
    sizes, root = study.sizes.astype(np.float64), np.sqrt(study.mse)
    low, high = _interval(study.mse, study.mse_error)
    bars = np.array([root - low, high - root])
    axes.errorbar(sizes, root, yerr=bars, fmt="none", ecolor=PALETTE["blue"], capsize=3)
    used = np.ones(len(sizes), dtype=bool) if study.used is None else study.used
    if used.any():
        axes.plot(sizes[used], root[used], "o", color=PALETTE["blue"], label="sampled LSTD, 95% interval")
    if not used.all():
        axes.plot(
            sizes[~used], root[~used], "o", color=PALETTE["blue"], markerfacecolor="white",
            label="too few samples for the law",
        )  # fmt: skip
    line = np.sqrt(study.predicted_trace / sizes)
    label = rf"predicted, $\sqrt{{{study.predicted_trace:.4g}/N}}$"
    axes.plot(sizes, line, color=PALETTE["orange"], linestyle="--", label=label)
    axes.set(xscale="log", yscale="log")
    slope = ", too few samples for a slope" if study.slope is None else f", slope {study.slope:.3f}"
    if study.slope_ci is not None:
        slope += f" [{study.slope_ci[0]:.3f}, {study.slope_ci[1]:.3f}]"
    describe(axes, "transitions N", "root mean square error of w", f"Sampling{slope}")
    axes.legend(fontsize=9, loc="best")
    return figure


def plot_n_step(points: Sequence[NStepFixedPoint]) -> Figure:
    r"""Draw the bias of n-step returns and the error of their fixed points against n.

    Args:
        points: of one problem and behaviour, in any order; returns must be finite.

    Raises:
        InputError: none of them has finite returns.

    Example:
        >>> from theory import Problem
        >>> from theory.n_step import n_step_fixed_point
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> plot_n_step([n_step_fixed_point(problem, n) for n in (1, 2, 4)]).axes[0].get_xlabel()
        'steps n'
    """
    known = sorted((point for point in points if point.bias is not None), key=lambda point: point.n)
    if not known:
        raise InputError("points must hold a fixed point with finite returns, got none.")
    figure, (left, right) = new_figure(2, panel=(5.2, 4.2))
    n = np.array([point.n for point in known])
    bias = np.array([point.bias for point in known], dtype=np.float64)
    error = _or_nan([None if point.error is None else float(abs(point.error).max()) for point in known])
    left.plot(n, error, "-s", color=PALETTE["vermillion"], markersize=4, label="fixed point with features")
    left.plot(n, bias, "-o", color=PALETTE["blue"], markersize=4, label="without features: the bias")
    limit = known[-1].limit_bias
    if limit is not None and limit > 0.0:
        label = f"limit of the bias: {limit:.4g}"
        left.axhline(limit, color=PALETTE["black"], linestyle="--", linewidth=1, label=label)
    left.set_ylim(bottom=0.0)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    describe(left, "steps n", "largest value error [reward]", "n-step fixed points")
    left.legend(fontsize=8, loc="best")
    distance = _or_nan([point.distance for point in known])
    right.plot(n, distance, "-D", color=PALETTE["green"], markersize=4)
    right.set_ylim(bottom=0.0)
    describe(right, "steps n", "distance, D-norm [reward]", "Distance from the limit of large n")
    return figure


def _interval(mse: Array, mse_error: Array) -> tuple[Array, Array]:
    """Return the roots of the ends of the 95% interval of a mean; the lower one stays positive."""
    low, high = mse - 1.96 * mse_error, mse + 1.96 * mse_error
    return np.sqrt(np.maximum(low, 1e-3 * mse)), np.sqrt(high)


def _or_nan(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
