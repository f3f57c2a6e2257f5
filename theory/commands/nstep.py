"""``python -m theory nstep``: where n-step TD ends, and the bias of uncorrected off-policy returns."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from theory import plots
from theory.commands.choices import POLICIES, add_problem_arguments, choose_policy, chosen_problem
from theory.commands.counts import whole_numbers
from theory.commands.output import Picture, add_output_argument, finish
from theory.errors import InputError
from theory.n_step import NStepFixedPoint, n_step_fixed_point
from theory.policy import Policy
from theory.problem import Problem
from theory.study_reports import n_step_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "nstep"
HELP = "n-step fixed points, and the bias of uncorrected off-policy returns"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the problem, the behaviour, the steps and where to write."""
    add_problem_arguments(parser)
    parser.add_argument(
        "--behaviour", help=f"whose actions lie between; default: the policy's own. One of {POLICIES}"
    )
    parser.add_argument("--steps", default="1,2,3,5,10,20,50", help="n, with commas; default: %(default)s")
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report; 1 if a fixed point does not stand still under its operator."""
    steps = whole_numbers("steps", parsed.steps)
    problem, name = chosen_problem(parsed)
    behaviour = _behaviour(parsed.behaviour, problem)
    found = [n_step_fixed_point(problem, n, behaviour=behaviour) for n in steps]
    report = n_step_report(problem, found, f"{name}, {_followed(parsed)}", behaviour=behaviour)
    drawn = Picture("nstep.png", "Bias and distance against n", partial(_draw, found))
    return finish(report, NAME, parsed.output, [drawn], table=_table(found), series=_series(found))


def _behaviour(value: str | None, problem: Problem) -> Policy | None:
    """Return the behaviour policy, or None for the policy itself."""
    if value is None:
        return None
    if problem.mdp is None:
        raise InputError("--behaviour needs actions, and this problem is a bare chain; leave it out.")
    try:
        return choose_policy(value, problem.mdp)
    except InputError as error:  # it speaks of --policy
        raise InputError(str(error).replace("--policy", "--behaviour")) from error


def _followed(parsed: Namespace) -> str:
    return "its own returns" if parsed.behaviour is None else f"returns of the {parsed.behaviour} policy"


def _largest(error: np.ndarray | None) -> float | None:
    return None if error is None else float(np.abs(error).max())


def _series(found: Sequence[NStepFixedPoint]) -> dict[str, object]:
    """Return the numbers for each n."""
    return {
        "n": [each.n for each in found],
        "fixed points": [each.kind for each in found],
        "bias": [each.bias for each in found],
        "largest error": [_largest(each.error) for each in found],
        "distance to the limit, D-norm": [each.distance for each in found],
        "w": [each.w for each in found],
    }


def _table(found: Sequence[NStepFixedPoint]) -> str:
    """Return bias, error and distance as Markdown."""
    lines = ["| n | fixed points | bias | largest error | distance to the limit |", "|---|---|---|---|---|"]
    for each in found:
        numbers = " | ".join(map(_cell, (each.bias, _largest(each.error), each.distance)))
        lines.append(f"| {each.n} | {each.kind} | {numbers} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _draw(found: Sequence[NStepFixedPoint]) -> Figure:
    return plots.plot_n_step(found)
