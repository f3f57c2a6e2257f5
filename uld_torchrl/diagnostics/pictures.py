"""The picture of a run's audits that ``theory.plots`` has not: values from the start, true and claimed.

Sizes and colours are those of ``theory.plots``; what the columns mean is in ``figures``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.plots.style import PALETTE, describe, new_figure
from uld_torchrl.diagnostics.figures import Row


def plot_values(rows: Sequence[Row], title: str) -> Figure:
    """Draw what the agent's choices are worth from the start, and what its network claims.

    Example:
        >>> steps = [{"step": 1, "best_value": 2.0, "greedy_value": 1.0}, {"step": 2, "best_value": 2.0}]
        >>> figure = plot_values(steps, "a run")
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['best, V*', "greedy in the network's values"]
    """
    figure, (axes,) = new_figure()
    _curve(axes, rows, "best_value", "best, V*", "black", "--")
    _curve(axes, rows, "greedy_value", "greedy in the network's values", "blue", "o-")
    _curve(axes, rows, "policy_value", "its policy", "green", "s-")
    _curve(axes, rows, "claimed_value", "what its network claims for that policy", "vermillion", "x:")
    describe(axes, "agent steps", "value from the start [reward]", f"{title}: values, true and claimed")
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _curve(axes: Axes, rows: Sequence[Row], column: str, label: str, colour: str, style: str) -> None:
    """Draw a column over steps, leaving gaps where it is empty; nothing where it is empty throughout."""
    found = [row.get(column) for row in rows]
    if any(value is not None for value in found):
        values = np.array([np.nan if value is None else value for value in found])
        steps = np.array([row["step"] for row in rows])
        axes.plot(steps, values, style, color=PALETTE[colour], label=label, markersize=4, linewidth=1.4)
