"""The learning curve of runs as a PNG. Comparisons and reports are not here."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uld_torchrl.trainers.logs import read_rows

_COLOUR = "#0072B2"


def plot_learning_curve(evaluations: Path, png: Path, title: str) -> None:
    """Draw mean return over agent steps, with a band of one standard deviation over episodes.

    Args:
        evaluations: an eval.csv. png: file to write. title: shown above.
    """
    rows = read_rows(evaluations)
    steps = [int(row["step"]) for row in rows]
    mean = [float(row["episode_return_mean"]) for row in rows]
    std = [float(row["episode_return_std"]) for row in rows]
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=_COLOUR, alpha=0.2, linewidth=0, label="sd over episodes")
    axes.plot(steps, mean, color=_COLOUR, marker="o", markersize=3, label="mean")
    axes.set(title=title, xlabel="agent steps", ylabel="evaluation return", xlim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(png)
