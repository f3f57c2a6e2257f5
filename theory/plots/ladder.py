"""The bounds of theorem 2 against the true error, and how much each rung gives away."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.bounds import POINTWISE, SUPREMUM, WEIGHTED, BoundLadder
from theory.checks import Array
from theory.errors import InputError
from theory.plots.style import PALETTE, describe, few_log_ticks, new_figure, spread
from theory.value_error import ValueErrorSplit

RUNGS = {
    "B1": (r"B1: $G|e|$", "blue", "o"),
    "B2": (r"B2: $G(|\epsilon_r|+\gamma|\epsilon_d w|)$", "green", "s"),
    "B25": (r"B2.5: $G(|\epsilon_r|+\gamma|\epsilon_d||w|)$", "orange", "^"),
    "B3": (r"B3: $G(|\epsilon_r|+\gamma\|w\|_\infty\|\epsilon_d\|_1)$", "vermillion", "D"),
}
"""Label, colour and marker of each pointwise rung."""


def plot_bounds(ladder: BoundLadder, split: ValueErrorSplit) -> Figure:
    r"""Draw every pointwise bound against the true error of its row, log-log, with the diagonal.

    A valid bound lies on the diagonal or above it. What is below rounding is drawn at rounding. Of more than
    2000 rows so many are drawn, evenly spread over the errors.

    Args:
        ladder: n rows; its bounds must apply.
        split: of the same problem, for the true errors (n,).

    Raises:
        InputError: the bounds do not apply (the message says why), or the two differ in rows.

    Example:
        >>> from theory import Problem, bounds, value_error
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> plot_bounds(bounds(problem), value_error(problem)).axes[0].get_xscale()
        'log'
    """
    error = _errors(ladder, split)
    chosen = spread(error)
    floor = _floor(ladder, error)
    figure, (axes,) = new_figure(panel=(6.4, 4.8))
    shown: list[Array] = []
    for name in POINTWISE:
        label, colour, marker = RUNGS[name]
        x, y = np.maximum(error[chosen], floor), np.maximum(getattr(ladder, name)[chosen], floor)
        shown.extend((x, y))
        axes.scatter(
            x,
            y,
            s=24 if len(chosen) <= 500 else 8,
            marker=marker,
            facecolor="none",
            edgecolor=PALETTE[colour],
            label=label,
        )
    if ladder.published is not None and ladder.published > 0.0:
        label = f"published bound, for all rows: {ladder.published:.3g}"
        axes.axhline(ladder.published, color=PALETTE["purple"], linestyle="--", label=label)
        shown.append(np.array([ladder.published]))
    if (np.concatenate(shown) <= floor).any():
        label = "at or below rounding"
        axes.axhline(floor, color=PALETTE["grey"], linestyle="-.", linewidth=1, label=label)
        axes.axvline(floor, color=PALETTE["grey"], linestyle="-.", linewidth=1)
    ends = _widened(np.concatenate(shown))
    axes.plot(ends, ends, color=PALETTE["black"], linewidth=1, label="bound = error")
    axes.set(xscale="log", yscale="log", xlim=_widened(np.maximum(error, floor)), ylim=ends)
    few_log_ticks(axes.xaxis)
    few_log_ticks(axes.yaxis)
    rows = f"{len(chosen)} of {len(error)} rows" if len(chosen) < len(error) else f"{len(error)} rows"
    describe(axes, "true value error of a row [reward]", "bound [reward]", f"Bounds against truth, {rows}")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return figure


def plot_tightness(ladder: BoundLadder, split: ValueErrorSplit) -> Figure:
    """Draw how much of each bound is truth: its distribution over rows, and one bar for each norm bound.

    Args:
        ladder: n rows; its bounds must apply.
        split: of the same problem.

    Raises:
        InputError: see :func:`plot_bounds`.

    Example:
        >>> from theory import Problem, bounds, value_error
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> len(plot_tightness(bounds(problem), value_error(problem)).axes)
        2
    """
    error = _errors(ladder, split)
    figure, (left, right) = new_figure(2, panel=(5.4, 4.4))
    ratios = {name: _ratios(error, getattr(ladder, name), ladder.rounding) for name in POINTWISE}
    _draw_distributions(left, ratios)
    _draw_bars(right, ladder)
    return figure


def _draw_distributions(axes: Axes, ratios: dict[str, Array]) -> None:
    """Draw for each rung the share of rows whose bound is at most so tight."""
    least = min(float(values.min(initial=1.0)) for values in ratios.values())
    start = 10.0 ** np.floor(np.log10(max(least, 1e-6)))
    for name, values in ratios.items():
        if len(values):
            label, colour, _ = RUNGS[name]
            tight = np.sort(np.clip(values, start, None))
            share = np.arange(1, len(tight) + 1) / len(tight)
            axes.step([start, *tight], [0.0, *share], where="post", color=PALETTE[colour], label=label)
            median = float(np.median(tight))
            axes.plot([median], [0.5], "o", color=PALETTE[colour], markersize=6)
    axes.axvline(1.0, color=PALETTE["black"], linewidth=1)
    axes.set(xscale="log", xlim=(start, 1.3), ylim=(0.0, 1.02))
    x = "true error / bound of a row (1: attained; dot: median)"
    describe(axes, x, "share of rows up to there", "Bounds for each row")
    axes.legend(fontsize=8, loc="upper left", framealpha=0.9)


def _draw_bars(axes: Axes, ladder: BoundLadder) -> None:
    """Draw one bar for each bound in a norm; for what does not apply the reason in its place."""
    names = ["lower", *SUPREMUM, *WEIGHTED]
    colours = ["black", *["blue"] * len(SUPREMUM), *["green"] * len(WEIGHTED)]
    given = [ladder.tightness.get(name) for name in names]
    least = min([value for value in given if value], default=0.1)
    start = 10.0 ** min(-1.0, np.floor(np.log10(least)) - 1.0)
    for place, (name, value, colour) in enumerate(zip(names, given, colours, strict=True)):
        if value is None:
            reason = ladder.inapplicable.get(name, "does not apply")
            reason = reason if len(reason) <= 60 else f"{reason[:57]}..."
            axes.text(start * 1.15, place, reason, va="center", fontsize=7, color="#555555")
        else:
            axes.barh(place, max(value - start, 0.0), left=start, color=PALETTE[colour], height=0.62)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            beside = max(value, 1.0) if value > 0.6 else value  # not on the line at 1
            axes.text(beside * 1.12, place, f"{value:.2g}", va="center", fontsize=8, bbox=box)
    labels = ["lower bound / error", *(f"{name}, median" for name in SUPREMUM)]
    labels += [f"{name.replace('_', ' ')}, D-norm" for name in WEIGHTED]
    axes.set_yticks(range(len(names)), [label.replace("S25", "S2.5") for label in labels], fontsize=8)
    axes.set(xscale="log", xlim=(start, 4.0), ylim=(len(names) - 0.4, -0.6))
    axes.axvline(1.0, color=PALETTE["black"], linewidth=1)
    describe(axes, "true error / bound (1: attained)", "", "Bounds in a norm")


def _errors(ladder: BoundLadder, split: ValueErrorSplit) -> Array:
    """Return the true errors, (n,), if there are bounds to compare them with."""
    if ladder.B1 is None:
        reason = ladder.inapplicable.get("B1", "they do not apply")
        raise InputError(f"There are no bounds to draw: {reason}.")
    if len(ladder.B1) != len(split.error):
        raise InputError(
            "ladder and split must be of one problem, got "
            f"{len(ladder.B1)} and {len(split.error)} rows; compute both from it."
        )
    if all(float(np.max(getattr(ladder, name))) <= ladder.rounding for name in POINTWISE):
        raise InputError("There are no bounds to draw: all are below rounding, as the error is.")
    return np.asarray(abs(split.error))


def _floor(ladder: BoundLadder, error: Array) -> float:
    """Return what is drawn for numbers that rounding hides."""
    largest = max(float(error.max()), float(np.max(ladder.B3)) if ladder.B3 is not None else 0.0)
    return max(ladder.rounding, 1e-12 * largest, 1e-300)


def _ratios(error: Array, bound: Array, rounding: float) -> Array:
    """Return error over bound for the rows whose bound is more than rounding."""
    counted = bound > rounding
    return np.asarray(error[counted] / bound[counted])


def _widened(values: Array) -> tuple[float, float]:
    """Return limits a little beyond the values, on a logarithmic axis."""
    low, high = float(values.min()), float(values.max())
    margin = max((high / low) ** 0.04, 1.25)
    return low / margin, high * margin
