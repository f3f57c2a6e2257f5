"""``python -m theory report``: theorems 1 and 2 on a named problem, with pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from theory import plots
from theory.commands.choices import GRIDS, add_problem_arguments, chosen_problem
from theory.commands.output import Picture, add_output_argument, finish
from theory.commands.trajectory import draw_run, rollout_eigenvalues
from theory.errors import InputError
from theory.problem import Problem
from theory.problem_report import Findings, investigate, problem_report, weights_of_error
from theory.value_error import ValueErrorSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "report"
HELP = "report on one problem: theorems 1 and 2, stability, bounds"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the problem and where to write."""
    add_problem_arguments(parser)
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report; 1 if a theorem fails."""
    problem, name = chosen_problem(parsed)
    findings = investigate(problem)
    report = problem_report(problem, name, findings=findings)
    return finish(report, NAME, parsed.output, _pictures(problem, findings, GRIDS.get(parsed.mdp, ())))


def _pictures(problem: Problem, found: Findings, grid: tuple[int, ...]) -> list[Picture]:
    """Return what is worth drawing; maps only for MDPs that lie on a plane."""
    at = f", at {weights_of_error(found)}"
    pictures = [
        Picture("bounds.png", "Every bound against the true error", partial(_bounds, found)),
        Picture("tightness.png", "How much of each bound is truth", partial(_tightness, found)),
        Picture(
            "eigenvalues.png", "What decides about TD and about the rollout", partial(_plane, problem, found)
        ),
        Picture("td_error.png", "TD against its predicted rate", partial(_td, problem, found)),
        Picture("decomposition.png", f"What the error consists of{at}", partial(_parts, problem, found)),
    ]
    if len(grid) == 2:
        shape = (grid[0], grid[1])
        pictures += [
            Picture("error_map.png", f"Where the error is{at}", partial(_error_map, problem, found, shape)),
            Picture(
                "parts_map.png", f"What it consists of where{at}", partial(_parts_map, problem, found, shape)
            ),
        ]
    return pictures


def _split(found: Findings) -> ValueErrorSplit:
    if found.split is None:
        raise InputError("Returns are infinite, so there is no value error.")
    return found.split


def _bounds(found: Findings) -> Figure:
    split = _split(found)
    assert found.ladder is not None  # there is one wherever there is a value error
    return plots.plot_bounds(found.ladder, split)


def _tightness(found: Findings) -> Figure:
    split = _split(found)
    assert found.ladder is not None
    return plots.plot_tightness(found.ladder, split)


def _plane(problem: Problem, found: Findings) -> Figure:
    return plots.plot_eigenvalues(found.stability, rollout_eigenvalues(problem))


def _td(problem: Problem, found: Findings) -> Figure:
    if found.stability.best_step_size is None:
        raise InputError(f"TD is {found.stability.td}: there is no best step size to run it with.")
    return draw_run(problem, found.stability.best_step_size)


def _parts(problem: Problem, found: Findings) -> Figure:
    return plots.plot_decomposition(_split(found), problem.labels)


def _error_map(problem: Problem, found: Findings, shape: tuple[int, int]) -> Figure:
    return plots.plot_error_map(problem, _split(found), shape)


def _parts_map(problem: Problem, found: Findings, shape: tuple[int, int]) -> Figure:
    return plots.plot_decomposition_map(problem, _split(found), shape)
