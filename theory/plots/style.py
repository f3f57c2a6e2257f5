"""What all pictures share: the palette, sizes, and how they become files.

No pyplot: a :class:`matplotlib.figure.Figure` with an Agg canvas of its own needs no display and leaves no
global state.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from theory.checks import Array, Ints

PALETTE = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#999999",
}
"""The colours of Okabe and Ito (2008), which colour-blind readers can tell apart, and a grey."""

DPI = 120
PANEL = (6.0, 4.2)  # inches
MOST_POINTS = 2000  # drawn one by one


def new_figure(
    columns: int = 1, rows: int = 1, panel: tuple[float, float] = PANEL
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row.

    Example:
        >>> figure, panels = new_figure(2)
        >>> len(panels), figure.get_size_inches().tolist()
        (2, [12.0, 4.2])
    """
    size = (columns * panel[0], rows * panel[1])
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


def describe(axes: Axes, x: str, y: str, title: str) -> None:
    """Label a panel and give it a faint grid behind the data.

    Example:
        >>> figure, (axes,) = new_figure()
        >>> describe(axes, "step", "error", "a run")
        >>> axes.get_xlabel()
        'step'
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def few_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 if it spans less than two decades; else at the decades.

    Example:
        >>> figure, (axes,) = new_figure()
        >>> axes.set(xscale="log", xlim=(30.0, 400.0))
        [...]
        >>> few_log_ticks(axes.xaxis)
        >>> [label.get_text() for label in axes.get_xticklabels()][1:-1]
        ['20', '50', '100', '200']
    """
    low, high = axis.get_view_interval()
    if high < 100.0 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write the figure as a PNG in its own size, without a date or version: equal figures give equal bytes.

    Example:
        >>> import io, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(new_figure()[0], f"{folder}/empty.png")
        ...     Path(f"{folder}/empty.png").read_bytes()[1:4]
        b'PNG'
    """
    # Not Figure.savefig: the user's settings could cut or rescale the picture.
    canvas: Any = FigureCanvasAgg(figure)
    with Path(path).open("wb") as file:
        canvas.print_png(file, metadata={"Software": None})


def spread(values: Array, most: int = MOST_POINTS) -> Ints:
    """Return the indices of at most ``most`` values, evenly spread over their order, extremes included.

    Example:
        >>> spread(np.array([3.0, 1.0, 2.0, 0.0]), 2)
        array([3, 0])
    """
    order = np.argsort(values, kind="stable")
    if len(order) <= most:
        return np.arange(len(values), dtype=np.int64)
    return np.asarray(order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)], dtype=np.int64)
