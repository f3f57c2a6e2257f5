"""``python -m theory trajectory``: a run of expected TD against the rate that its eigenvalues predict."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from theory import plots
from theory.commands.choices import add_problem_arguments, chosen_problem
from theory.commands.output import Picture, add_output_argument, finish
from theory.problem import Problem
from theory.report import Condition, Report, Verdict
from theory.spectrum import Complex
from theory.stability import Stability, stability
from theory.trajectory import Trajectory, td_trajectory
from theory.truncation import truncation
from theory.whitening import whiten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "trajectory"
HELP = "run expected TD and compare its rate with the prediction"
MOST_STEPS = 2000
LONGEST_ROLLOUT = 400
ALLOWED = 0.02  # by which the logarithms of the rates may differ: slower modes are still visible then


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the problem, the step size and where to write."""
    add_problem_arguments(parser)
    parser.add_argument(
        "--step-size",
        type=float,
        help="any but 0; default: the best, or where TD is not stable 1 over the largest eigenvalue",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help=f"updates; default: what the prediction needs for 1e-8, at most {MOST_STEPS}",
    )
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report on the run."""
    problem, name = chosen_problem(parsed)
    found = stability(problem)
    alpha = parsed.step_size if parsed.step_size is not None else _default_step_size(found)
    steps = parsed.steps if parsed.steps is not None else default_steps(problem, alpha)
    path = td_trajectory(problem, step_size=alpha, steps=steps)
    values = rollout_eigenvalues(problem)
    disc = alpha if alpha > 0.0 else None
    pictures = [
        Picture("td_error.png", "TD against its predicted rate", partial(draw_run, problem, alpha, path)),
        Picture("eigenvalues.png", "Why: the eigenvalues", partial(_plane, found, values, disc)),
    ]
    report = _report(name, path, found, alpha)
    return finish(report, NAME, parsed.output, pictures, series={"error": path.error})


def _plane(found: Stability, values: Complex, alpha: float | None) -> Figure:
    return plots.plot_eigenvalues(found, values, alpha)


def rollout_eigenvalues(problem: Problem) -> Complex:
    r"""Return the eigenvalues of :math:`\gamma W_d` on the row space, (k,)."""
    return np.asarray(problem.gamma * np.linalg.eigvals(whiten(problem).M), dtype=np.complex128)


def default_steps(problem: Problem, step_size: float) -> int:
    """Return how many steps the predicted rate needs to shrink the error, or let it grow, 1e8 times."""
    one = td_trajectory(problem, step_size=step_size, steps=1)
    pace = abs(math.log(one.predicted_rate)) if one.predicted_rate > 0.0 else math.inf
    return int(min(MOST_STEPS, max(10.0, math.ceil(math.log(1e8) / pace)))) if pace > 0.0 else MOST_STEPS


def draw_run(problem: Problem, step_size: float, path: Trajectory | None = None) -> Figure:
    """Draw a run of TD, and a rollout of as many steps up to 400."""
    if path is None:
        path = td_trajectory(problem, step_size=step_size, steps=default_steps(problem, step_size))
    rollout = truncation(problem, min(len(path.error) - 1, LONGEST_ROLLOUT))
    return plots.plot_td_error(path, rollout)


def _default_step_size(found: Stability) -> float:
    """Return the best step size; without one the step that the largest eigenvalue of A allows."""
    if found.best_step_size is not None:
        return found.best_step_size
    largest = float(np.abs(found.eigenvalues).max(initial=0.0))
    return 1.0 / largest if largest > 0.0 else 1.0


def _report(name: str, path: Trajectory, found: Stability, alpha: float) -> Report:
    """Compare the rates; nothing can be said where too few steps are above rounding."""
    predicted, observed = path.predicted_rate, path.observed_rate
    agree, apart, allowed = _agreement(predicted, observed)
    verdict: Verdict = "pass" if agree else "inconclusive"
    below = None if found.step_size_limit is None else 0.0 < alpha < found.step_size_limit
    conditions = (
        Condition(
            "TD converges at this step size", predicted < 1.0, predicted, 1.0, 1.0 - predicted,
            "the spectral radius of I - alpha A must be below 1"
            + ("" if predicted < 1.0 else "; see catalogue tsitsiklis_van_roy"),
        ),
        Condition(
            "the step size is below its limit", bool(below), alpha, found.step_size_limit,
            None if found.step_size_limit is None else found.step_size_limit - alpha,
            "there is a limit only if TD is stable" + ("" if below else "; see catalogue baird_star"),
        ),
        Condition(
            "the observed rate is the predicted one", agree, observed, predicted, allowed - apart,
            "over the second half of the steps; needs many, and a first error along the slowest mode",
        ),
    )  # fmt: skip
    data = {
        "step size": alpha,
        "steps": len(path.error) - 1,
        "predicted rate": predicted,
        "observed rate": observed,
        "first error": float(path.error[0]),
        "last error": float(path.error[-1]),
        "largest error": float(path.error.max()),
        "TD": found.td,
        "largest step size": found.step_size_limit,
        "best step size": found.best_step_size,
        "best rate": found.best_rate,
        "eigenvalues of A": found.eigenvalues,
    }
    residual = None if observed is None else abs(observed - predicted)
    return Report(f"TD follows its predicted rate on {name}", verdict, residual, None, conditions, data)


def _agreement(predicted: float, observed: float | None) -> tuple[bool | None, float, float]:
    """Return whether the rates agree, by how much their logarithms differ, and by how much they may."""
    if observed is None or observed <= 0.0 or predicted <= 0.0:
        return None, 0.0, 0.0
    apart = abs(math.log(observed) - math.log(predicted))
    allowed = ALLOWED * abs(math.log(predicted))
    return apart <= allowed, apart, allowed
