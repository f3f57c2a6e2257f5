"""`theory.plots` in corners: nothing but zeros, numbers beside a line, what rounding hides, no matplotlib."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from theory import Problem, bounds, plots, stability, value_error
from theory.__main__ import main
from theory.catalogue import load

SMALL = Problem.from_chain([[0, 1], [0, 1]], [1, 1], [[1], [2]], [0.5, 0.5], 0.5)


def test_errors_of_zero_everywhere_are_said_to_be() -> None:
    split = value_error(load("tsitsiklis_van_roy").problem)
    assert not split.error.any()
    (axes,) = plots.plot_decomposition(split).axes
    assert [text.get_text() for text in axes.texts] == ["zero everywhere"]
    assert not plots.plot_decomposition(value_error(SMALL)).axes[0].texts


def test_a_number_just_below_one_stands_right_of_the_line_at_one() -> None:
    ladder = bounds(SMALL)
    near = replace(ladder, tightness=dict.fromkeys(ladder.tightness, 0.88))
    texts = plots.plot_tightness(near, value_error(SMALL)).axes[1].texts
    places = [text.get_position()[0] for text in texts if text.get_text() == "0.88"]
    assert places and min(places) > 1.0


def test_eigenvalues_of_zero_are_drawn_in_a_plane_of_size_one() -> None:
    singular = load("tsitsiklis_van_roy_singular").problem
    left = plots.plot_eigenvalues(stability(singular), [1.0], None).axes[0]
    assert np.ptp(left.get_xlim()) > 1.0


def test_a_bound_chart_says_where_rounding_is_drawn() -> None:
    ladder, split = bounds(SMALL), value_error(SMALL)
    hidden = replace(split, error=split.error * [0.0, 1.0])
    for given, expected in ((hidden, 1), (split, 0)):
        legend = plots.plot_bounds(ladder, given).axes[0].get_legend()
        assert [text.get_text() for text in legend.get_texts()].count("at or below rounding") == expected


def test_without_matplotlib_the_report_is_written_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'matplotlib'")

    for name in ("plot_bounds", "plot_tightness", "plot_eigenvalues", "plot_td_error", "plot_decomposition"):
        monkeypatch.setattr(plots, name, missing)
    assert main(["report", "--mdp", "catalogue:sign_flip", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text("utf-8")
    assert (
        text.count("not drawn. No module named 'matplotlib'; pictures need it: 'pip install matplotlib'") == 5
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
