"""Where the value error is and what it consists of: bars over rows, heat maps over a grid world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from theory.checks import Array
from theory.errors import InputError
from theory.plots.style import PALETTE, describe, new_figure
from theory.problem import Problem
from theory.value_error import ValueErrorSplit

PARTS = {"reward": "blue", "dynamics": "orange", "planning": "green"}
"""Colour of each part of the value error."""
MOST_ROWS = 44


def plot_decomposition(split: ValueErrorSplit, labels: Sequence[str] | None = None) -> Figure:
    """Draw the parts of every row's value error as stacked bars, and their sum, the error, as a dot.

    Parts of opposite signs stack on opposite sides of zero. Of more than 44 rows those of the largest
    errors are drawn.

    Args:
        split: (n,) rows.
        labels: (n,) names of the rows; their numbers by default.

    Raises:
        InputError: another number of labels.

    Example:
        >>> from theory import Problem, value_error
        >>> problem = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)
        >>> plot_decomposition(value_error(problem)).axes[0].get_ylabel()
        'value error [reward]'
    """
    names = [str(row) for row in range(len(split.error))] if labels is None else list(labels)
    if len(names) != len(split.error):
        raise InputError(f"labels must name the {len(split.error)} rows, got {len(names)} names.")
    largest = np.argsort(-abs(split.error), kind="stable")[:MOST_ROWS]
    rows = np.sort(largest)
    figure, (axes,) = new_figure(panel=(9.6, 4.4))
    above, below = np.zeros(len(rows)), np.zeros(len(rows))
    for name, colour in PARTS.items():
        part = getattr(split, name)[rows]
        bottom = np.where(part >= 0.0, above, below)
        axes.bar(np.arange(len(rows)), part, bottom=bottom, color=PALETTE[colour], width=0.8, label=name)
        above, below = above + np.maximum(part, 0.0), below + np.minimum(part, 0.0)
    axes.scatter(
        np.arange(len(rows)), split.error[rows], s=16, color=PALETTE["black"], zorder=3, label="value error"
    )
    if not max(float(abs(getattr(split, name)).max()) for name in ("error", *PARTS)) > 0.0:
        axes.text(0.5, 0.6, "zero everywhere", ha="center", transform=axes.transAxes)
    axes.axhline(0.0, color=PALETTE["black"], linewidth=0.8)
    axes.set_xticks(np.arange(len(rows)), [names[row] for row in rows], rotation=90, fontsize=7)
    axes.set_xlim(-0.8, len(rows) - 0.2)
    axes.use_sticky_edges = False  # else the dot at the end of the longest bar is cut
    axes.autoscale_view(scalex=False)
    every = len(rows) == len(names)
    which = f"all {len(names)} rows" if every else f"the {len(rows)} largest of {len(names)} rows"
    describe(axes, "state and action" if labels is not None else "row", "value error [reward]", "")
    axes.set_title(f"Value error = reward + dynamics + planning part, {which}", fontsize=11)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def plot_error_map(problem: Problem, split: ValueErrorSplit, shape: tuple[int, int]) -> Figure:
    """Draw the largest absolute value error over the actions of each state of a grid world.

    Args:
        problem: from an MDP.
        split: of the problem.
        shape: rows and columns of the grid; states count along its rows.

    Raises:
        InputError: a bare chain, or a shape that does not hold the states.

    Example:
        >>> from theory import Features, Policy, Problem, Weights, frozen_lake, value_error
        >>> lake = frozen_lake()
        >>> policy, features = Policy.uniform(lake), Features.random(lake, 4, seed=0)
        >>> problem = Problem(lake, policy, features, Weights.uniform(lake))
        >>> len(plot_error_map(problem, value_error(problem), (4, 4)).axes)  # the map and its scale
        2
    """
    over_actions = _by_state(problem, abs(split.error), shape)
    largest = np.full(len(over_actions), np.nan)
    live = ~np.isnan(over_actions).all(axis=1)
    largest[live] = np.nanmax(over_actions[live], axis=1)
    figure, (axes,) = new_figure(panel=_panel(shape))
    image = _draw_map(axes, largest.reshape(shape), None)
    figure.colorbar(image, ax=axes, shrink=0.85, label="|value error| [reward]")
    describe(axes, "column", "row", "Largest |value error| of a state")
    axes.grid(visible=False)
    return figure


def plot_decomposition_map(problem: Problem, split: ValueErrorSplit, shape: tuple[int, int]) -> Figure:
    """Draw the error of the state values over a grid world, and the three parts it is the sum of.

    The error of a state is that of its actions in the mean of the policy. All maps share one scale.

    Args:
        problem: from an MDP.
        split: of the problem.
        shape: rows and columns of the grid; states count along its rows.

    Raises:
        InputError: see :func:`plot_error_map`.

    Example:
        >>> from theory import Features, Policy, Problem, Weights, frozen_lake, value_error
        >>> lake = frozen_lake()
        >>> policy, features = Policy.uniform(lake), Features.random(lake, 4, seed=0)
        >>> problem = Problem(lake, policy, features, Weights.uniform(lake))
        >>> len(plot_decomposition_map(problem, value_error(problem), (4, 4)).axes)  # maps and their scale
        5
    """
    maps = {name: _state_means(problem, getattr(split, name), shape) for name in ("error", *PARTS)}
    size = max(float(np.nanmax(abs(values))) for values in maps.values())
    figure, panels = new_figure(2, 2, panel=_panel(shape))
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        image = _draw_map(axes, values.reshape(shape), max(size, 1e-300))
        title = "value error, the sum of the parts" if name == "error" else f"{name} part"
        describe(axes, "column", "row", title)
        axes.grid(visible=False)
    figure.colorbar(image, ax=panels, shrink=0.6, label="mean over the policy's actions [reward]")
    return figure


def _by_state(problem: Problem, values: Array, shape: tuple[int, int]) -> Array:
    """Return (S, A) with the values of the rows, NaN where there is none."""
    if problem.mdp is None or problem.rows is None:
        raise InputError("A map needs a problem from an MDP; this one is a bare chain without states.")
    S, A = problem.mdp.r.shape
    if shape[0] * shape[1] != S:
        raise InputError(f"shape must hold the {S} states, got {shape[0]} x {shape[1]}.")
    full = np.full(S * A, np.nan)
    full[problem.rows] = values
    return full.reshape(S, A)


def _state_means(problem: Problem, values: Array, shape: tuple[int, int]) -> Array:
    """Return (S,) means over the actions of the policy, NaN for states without rows."""
    by_state = _by_state(problem, values, shape)
    assert problem.policy is not None  # a problem from an MDP has one
    return np.asarray((problem.policy.probs * by_state).sum(axis=1))


def _draw_map(axes: Axes, grid: Array, size: float | None) -> AxesImage:
    """Draw a grid with its numbers; from -size to size in two colours, or from zero in one."""
    signed = size is not None
    top = size if size is not None else max(float(np.nanmax(grid)), 1e-300)
    image = axes.imshow(grid, cmap="PuOr_r" if signed else "cividis", vmin=-top if signed else 0.0, vmax=top)
    for (row, column), value in np.ndenumerate(grid):
        if np.isnan(value):
            box = Rectangle(
                (column - 0.5, row - 0.5), 1, 1, facecolor="#DDDDDD", edgecolor="#888888", hatch="//"
            )
            axes.add_patch(box)
            continue
        share = value / top
        dark = abs(share) > 0.7 if signed else share < 0.5
        axes.text(
            column,
            row,
            _number(value, top),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    axes.set_xticks(range(grid.shape[1]))
    axes.set_yticks(range(grid.shape[0]))
    return image


def _number(value: float, top: float) -> str:
    """Return a number of at most seven characters; what rounding leaves of zero is zero."""
    if abs(value) <= 1e-9 * top:
        return "0"
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}" if abs(value) < 1e5 else f"{value:.1e}"


def _panel(shape: tuple[int, int]) -> tuple[float, float]:
    """Return inches in which a cell has room for its number."""
    return max(3.4, 0.62 * shape[1] + 0.9), max(2.6, 0.62 * shape[0] + 0.9)
