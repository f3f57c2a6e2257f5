"""Pictures of a comparison: learning curves beside the published ones, and performance profiles."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.plots.style import PALETTE, describe, new_figure
from uld_torchrl.experiments.comparison import Comparison
from uld_torchrl.experiments.statistics import curve_interval, performance_profile

_OURS = [PALETTE[name] for name in ("blue", "vermillion", "green", "purple", "orange", "sky", "black")]
_THEIRS = ("s", "D", "^", "v", "P", "X", "*", "h")
_PANEL = (4.2, 3.0)
_COLUMNS = 4


def curves_figure(comparison: Comparison, resamples: int = 2000) -> Figure:
    """Return a panel an environment: mean over seeds with its 95 % interval, published figures in grey."""
    envs = comparison.envs
    columns = min(_COLUMNS, len(envs))
    figure, panels = new_figure(columns, math.ceil(len(envs) / columns), panel=_PANEL)
    for axes, env in zip(panels, envs, strict=False):
        _ours(axes, comparison, env, resamples)
        _theirs(axes, comparison, env)
        describe(axes, "agent steps", "return", env)
    for axes in panels[len(envs) :]:
        axes.set_visible(False)
    found = {
        text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def _ours(axes: Axes, comparison: Comparison, env: str, resamples: int) -> None:
    for number, variant in enumerate(comparison.variants):
        steps, returns = comparison.curves(env, variant)
        if not len(steps):
            continue
        colour, label = _OURS[number % len(_OURS)], f"{variant}, n={len(returns)}"
        axes.plot(steps, returns.mean(0), color=colour, linewidth=1.5, label=label, marker=".", markersize=4)
        low, high = curve_interval(returns, resamples=resamples)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _theirs(axes: Axes, comparison: Comparison, env: str) -> None:
    """Draw published figures up to the runs' last step; later end points are named at the edge, not drawn."""
    last = max(record.steps[-1] for record in comparison.records if record.env == env)
    for number, (method, found) in enumerate(comparison.published(env).items()):
        points = [point for point in found if point.step <= last]
        if not points:
            continue
        steps, means = [point.step for point in points], [point.mean for point in points]
        (line,) = axes.plot(steps, means, "--", color=PALETTE["grey"], linewidth=1)
        line.set(marker=_THEIRS[number % len(_THEIRS)], markersize=4, label=f"{method} (published)")
        if not any(math.isnan(point.low) for point in points):
            low, high = [point.low for point in points], [point.high for point in points]
            axes.fill_between(steps, low, high, color=PALETTE["grey"], alpha=0.2, linewidth=0)


def profile_figure(comparison: Comparison) -> Figure:
    """Return the share of runs above each normalised score, a line a variant."""
    figure, (axes,) = new_figure(panel=(5.5, 3.6))
    found = {variant: comparison.scores(variant) for variant in comparison.variants}
    pooled = np.concatenate([runs for scores in found.values() for runs in scores.values()])
    levels = np.linspace(min(0.0, pooled.min()), max(1.0, pooled.max()), 400)
    for number, (variant, scores) in enumerate(found.items()):
        colour = _OURS[number % len(_OURS)]
        axes.plot(levels, performance_profile(scores, levels), color=colour, label=variant, linewidth=1.5)
    describe(axes, "normalised score", "share of runs above", "performance profile")
    axes.legend(frameon=False, fontsize=8)
    return figure
