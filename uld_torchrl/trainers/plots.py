"""Learning curves of one or several runs as a PNG. Comparisons and reports are not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uld_torchrl.tables import read_numbers
from uld_torchrl.trainers.files import replaced

_COLOUR = "#0072B2"


def plot_learning_curve(evaluations: Sequence[Path], png: Path, title: str) -> None:
    """Draw evaluation return over agent steps.

    One run: its mean, with a band of one standard deviation over episodes. Several runs of the same
    evaluation steps: a thin line each, and their mean.

    Args:
        evaluations: eval.csv files.
        png: file to write.
        title: shown above.
    """
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = [_read(path) for path in evaluations]
    if len(curves) == 1:
        _one(axes, curves[0])
    else:
        _several(axes, curves)
    axes.set(title=title, xlabel="agent steps", ylabel="evaluation return", xlim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with replaced(png) as aside:
        figure.savefig(aside, format="png")


def _read(path: Path) -> np.ndarray:
    """Return step, mean and standard deviation, (3, evaluations)."""
    names = ("step", "episode_return_mean", "episode_return_std")
    return np.array(read_numbers(path, names)).T


def _one(axes: Axes, curve: np.ndarray) -> None:
    step, mean, std = curve
    axes.fill_between(
        step, mean - std, mean + std, color=_COLOUR, alpha=0.2, linewidth=0, label="sd over episodes"
    )
    axes.plot(step, mean, color=_COLOUR, marker="o", markersize=3, label="mean over episodes")


def _several(axes: Axes, curves: list[np.ndarray]) -> None:
    for number, (step, mean, _) in enumerate(curves):
        axes.plot(step, mean, color=_COLOUR, alpha=0.35, linewidth=1, label="" if number else "one seed")
    step = curves[0][0]
    mean = np.mean([curve[1] for curve in curves], 0)
    axes.plot(step, mean, color=_COLOUR, linewidth=2, label=f"mean of {len(curves)} seeds")
