"""`theory.plots`: everything is labelled and inside its panel, bytes repeat, and nothing global changes."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from pictured import FAIR, FLIP, SMALL, ladder_and_split, lake, n_steps, sweeps, three_cycle

from theory import (
    BoundLadder,
    ValueErrorSplit,
    bounds,
    plots,
    stability,
    td_trajectory,
    value_error,
)
from theory.catalogue import load
from theory.lstd import lstd_study
from theory.target_networks import target_network_radius
from theory.truncation import truncation

GAP = 9  # pixels between tick labels, at least


def narrow() -> tuple[BoundLadder, ValueErrorSplit]:
    """Errors over little more than a decade: there matplotlib itself labels so much that labels collide."""
    high = np.array([400.0, 900.0])
    ladder = replace(bounds(SMALL), B1=high, B2=high, B25=high, B3=high, published=900.0)
    return ladder, replace(value_error(SMALL), error=np.array([35.0, 390.0]))


FIGURES: dict[str, Callable[[], Figure]] = {
    "bounds": lambda: plots.plot_bounds(*ladder_and_split()),
    "bounds, narrow": lambda: plots.plot_bounds(*narrow()),
    "tightness": lambda: plots.plot_tightness(*ladder_and_split()),
    "eigenvalues": lambda: plots.plot_eigenvalues(
        stability(three_cycle()), [0.9, -0.45 + 0.78j, -0.45 - 0.78j]
    ),
    "eigenvalues, unstable": lambda: plots.plot_eigenvalues(
        stability(load("baird_star").problem), [0.99, 0.0]
    ),
    "td_error": lambda: plots.plot_td_error(
        td_trajectory(lake(), step_size=5.0, steps=60), truncation(lake(), 60)
    ),
    "target_networks": lambda: plots.plot_target_networks(target_network_radius(FLIP, 0.1, [1, 8, 10, 250])),
    "decomposition": lambda: plots.plot_decomposition(ladder_and_split()[1], lake().labels),
    "error_map": lambda: plots.plot_error_map(lake(), ladder_and_split()[1], (4, 4)),
    "decomposition_map": lambda: plots.plot_decomposition_map(lake(), ladder_and_split()[1], (4, 4)),
    "feature_sweep": lambda: plots.plot_feature_sweep(sweeps()),
    "lstd": lambda: plots.plot_lstd(lstd_study(FAIR, [10, 1000, 4000], runs=50, seed=0)),
    "n_step": lambda: plots.plot_n_step(n_steps()),
    "kolter": lambda: plots.plot_kolter(plots.kolter_curve(np.linspace(0.05, 0.95, 50))),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_panel_is_labelled_and_no_text_leaves_the_picture(name: str) -> None:
    figure = FIGURES[name]()
    figure.canvas.draw()
    frame = figure.bbox
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels
    for axes in panels:
        assert axes.get_title() and axes.get_xlabel() and (axes.get_ylabel() or axes.get_yticklabels())
        texts = [
            axes.title,
            axes.xaxis.label,
            axes.yaxis.label,
            *axes.get_xticklabels(),
            *axes.get_yticklabels(),
        ]
        legend = axes.get_legend()
        for part in [*texts, *axes.texts, *([legend] if legend else []), *figure.legends]:
            box = part.get_window_extent()
            if box.width > 0 and part.get_visible() and _in_limits(axes, part):
                assert box.x0 >= -1 and box.y0 >= -1, (part, box)
                assert box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1, (part, box)


@pytest.mark.parametrize("name", FIGURES)
def test_tick_labels_stand_apart(name: str) -> None:
    figure = FIGURES[name]()
    figure.canvas.draw()
    for axes in figure.axes:
        for which, labels in (("x", axes.get_xticklabels), ("y", axes.get_yticklabels)):
            both = [*labels(), *labels(minor=True)]
            limits = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
            shown = [label for label in both if label.get_text() and _between(label, which, limits)]
            ends = sorted(
                (box.x0, box.x1) if which == "x" else (box.y0, box.y1)
                for box in (label.get_window_extent() for label in shown)
            )
            assert all(first[1] + GAP <= second[0] for first, second in pairwise(ends)), (which, shown)


def _between(label: Text, which: str, limits: list[float]) -> bool:
    return bool(limits[0] <= label.get_position()[which == "y"] <= limits[1])


def _in_limits(axes: Axes, part: object) -> bool:
    """Tick labels beyond the limits exist but are not drawn."""
    if part not in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        return True
    x, y = part.get_position()  # type: ignore[attr-defined]
    where = (x, axes.get_xlim()) if part in axes.get_xticklabels() else (y, axes.get_ylim())
    return min(where[1]) <= where[0] <= max(where[1])


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_drawn_lies_outside_its_axes(name: str) -> None:
    figure = FIGURES[name]()
    figure.canvas.draw()
    drawn = 0
    for axes in figure.axes:
        curves = [line.get_xydata() for line in axes.lines if _is_curve(line, axes)]
        points = [
            np.asarray(found.get_offsets()) for found in axes.collections if len(found.get_offsets()) > 1
        ]
        for data in [*curves, *points]:
            data = np.asarray(data, dtype=float)
            data = data[np.isfinite(data).all(axis=1)]
            (x0, x1), (y0, y1) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
            for column, (low, high) in ((0, (x0, x1)), (1, (y0, y1))):
                assert (data[:, column] >= low - 1e-9 * abs(low)).all(), (data, low)
                assert (data[:, column] <= high + 1e-9 * abs(high)).all(), (data, high)
            drawn += len(data)
    assert drawn or name.endswith("map")


def _is_curve(line: Line2D, axes: Axes) -> bool:
    """Lines across a panel, and the diagonal, go on beyond it on purpose."""
    return line.get_transform() == axes.transData and line.get_label() != "bound = error"


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_result_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for file in ("first.png", "second.png"):
        plots.save(FIGURES[name](), tmp_path / file)
    first = (tmp_path / "first.png").read_bytes()
    assert first == (tmp_path / "second.png").read_bytes()
    # The only text chunks could be versions and dates.
    assert b"tEXt" not in first and b"tIME" not in first


def test_another_result_gives_other_bytes(tmp_path: Path) -> None:
    for file, problem in (("first.png", SMALL), ("second.png", FLIP)):
        plots.save(plots.plot_decomposition(value_error(problem)), tmp_path / file)
    assert (tmp_path / "first.png").read_bytes() != (tmp_path / "second.png").read_bytes()


def test_settings_of_the_user_neither_cut_nor_scale_a_picture(tmp_path: Path) -> None:
    figure = FIGURES["kolter"]()
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.dpi": 300}):
        plots.save(figure, tmp_path / "a.png")
    header = (tmp_path / "a.png").read_bytes()[16:24]
    width, height = figure.get_size_inches() * figure.dpi
    assert struct.unpack(">II", header) == (round(width), round(height))


def test_matplotlib_comes_with_the_first_plot_and_pyplot_never() -> None:
    code = (
        "import sys, theory, theory.__main__\n"
        "from theory import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "theory.__main__.main(['report', '--mdp', 'riverswim', '--features', 'random:3'])\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_kolter(plots.kolter_curve([0.4, 0.9]))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "assert sorted(plots.__all__) == dir(plots) and all(hasattr(plots, name) for name in dir(plots))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="no attribute 'plot_nothing'"):
        plots.plot_nothing  # noqa: B018


def test_the_palette_is_that_of_okabe_and_ito() -> None:
    assert {colour for name, colour in plots.PALETTE.items() if name != "grey"} == {
        "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
    }  # fmt: skip


def test_a_saved_file_is_a_png_of_whole_chunks(tmp_path: Path) -> None:
    plots.save(FIGURES["lstd"](), tmp_path / "a.png")
    data, place, kinds = (tmp_path / "a.png").read_bytes(), 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place + 4 : place + 8 + length]
        assert zlib.crc32(chunk) == struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0]
        kinds.append(chunk[:4])
        place += 12 + length
    assert set(kinds) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
