"""``python -m theory trajectory``: a run of expected TD against the rate that its eigenvalues predict."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from theory import plots
from theory.checks import Array, check_count
from theory.commands.choices import add_problem_arguments, chosen_problem, number
from theory.commands.output import Picture, add_output_argument, finish
from theory.errors import InputError
from theory.problem import Problem
from theory.report import Condition, Report, Verdict
from theory.spectrum import Complex
from theory.splitmix import SplitMix64
from theory.stability import Stability, stability
from theory.trajectory import (
    MOST_FEATURES,
    ExpectedErrors,
    Trajectory,
    expected_errors,
    first_error,
    td_trajectory,
)
from theory.truncation import truncation
from theory.whitening import whiten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "trajectory"
HELP = "run expected TD and compare its rate with the prediction"
MOST_STEPS = 2000
LONGEST_ROLLOUT = 400
STARTS = "zeros, ones or random:SEED (each weight uniform in [-1, 1])"
HIDDEN = 1e-3  # of the first error: where rounding is larger, nothing can be told
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
    parser.add_argument(
        "--start", help=f"{STARTS}; default: zeros, or random:0 where zeros are a fixed point already"
    )
    add_output_argument(parser, NAME)


def run(parsed: Namespace) -> int:
    """Print or write the report on the run."""
    problem, name = chosen_problem(parsed)
    found = stability(problem)
    alpha = parsed.step_size if parsed.step_size is not None else _default_step_size(found)
    steps = parsed.steps if parsed.steps is not None else default_steps(problem, alpha)
    start, w0 = chosen_start(problem, parsed.start)
    path = td_trajectory(problem, step_size=alpha, steps=steps, w0=w0)
    expected = None
    if problem.d <= MOST_FEATURES:
        expected = expected_errors(problem, step_size=alpha, steps=len(path.error) - 1, w0=w0)
    values = rollout_eigenvalues(problem)
    disc = alpha if alpha > 0.0 else None
    pictures = [
        Picture("td_error.png", "TD against its predicted rate", partial(draw_run, problem, alpha, path)),
        Picture("eigenvalues.png", "Why: the eigenvalues", partial(_plane, found, values, disc)),
    ]
    report = trajectory_report(name, path, expected, found, alpha, start)
    return finish(report, NAME, parsed.output, pictures, series={"error": path.error})


def _plane(found: Stability, values: Complex, alpha: float | None) -> Figure:
    return plots.plot_eigenvalues(found, values, alpha)


def chosen_start(problem: Problem, value: str | None) -> tuple[str, Array]:
    """Return what the start is called in the report, and the weights, (d,).

    Raises:
        InputError: not one of the allowed words.

    Example:
        >>> flip = Problem.from_chain([[0, 1], [1, 0]], [0, 0], [[1], [-3]], [0.9, 0.1], 0.9)
        >>> chosen_start(flip, "ones")
        ('ones', array([1.]))
        >>> chosen_start(flip, None)[0]
        'random:0, since zeros are a fixed point'
    """
    word, *numbers = ("zeros" if value is None else value).split(":")
    if word in ("zeros", "ones") and not numbers:
        w0 = np.full(problem.d, float(word == "ones"))
        if value is None and first_error(problem, w0) == 0.0:
            return "random:0, since zeros are a fixed point", chosen_start(problem, "random:0")[1]
        return word, w0
    if word == "random" and len(numbers) == 1:
        seed = check_count("the seed of --start", number("start", value or "", numbers[0], int), 0)
        return f"random:{seed}", 2.0 * SplitMix64(seed).uniform(problem.d) - 1.0
    raise InputError(f"--start must be {STARTS}; got {value!r}.")


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
        steps, (_, w0) = default_steps(problem, step_size), chosen_start(problem, None)
        path = td_trajectory(problem, step_size=step_size, steps=steps, w0=w0)
    rollout = truncation(problem, min(len(path.error) - 1, LONGEST_ROLLOUT))
    return plots.plot_td_error(path, rollout)


def _default_step_size(found: Stability) -> float:
    """Return the best step size; without one the step that the largest eigenvalue of A allows."""
    if found.best_step_size is not None:
        return found.best_step_size
    largest = float(np.abs(found.eigenvalues).max(initial=0.0))
    return 1.0 / largest if largest > 0.0 else 1.0


def trajectory_report(
    name: str, path: Trajectory, expected: ExpectedErrors | None, found: Stability, alpha: float, start: str
) -> Report:
    """Compare the errors step by step, and the rates.

    The verdict is "fail" where an error differs from that of the powers of I - alpha A by more than rounding
    explains, or the predicted rate from theirs. It is "inconclusive" where rounding hides the errors, or the
    observed rate is not the predicted one, since the run may be too short or miss the slowest mode.
    """
    predicted, observed = path.predicted_rate, path.observed_rate
    agree, apart, allowed = _agreement(predicted, observed)
    steps, radius = _steps_agree(path, expected), _radius_agrees(path, expected)
    verdict: Verdict = "pass" if agree else "inconclusive"
    if expected is not None and not expected.tolerance[0] <= HIDDEN * path.error[0]:
        verdict = "inconclusive"
    if steps.holds is False or radius.holds is False:
        verdict = "fail"
    below = None if found.step_size_limit is None else 0.0 < alpha < found.step_size_limit
    conditions = (
        steps,
        radius,
        Condition(
            "TD converges at this step size", predicted < 1.0, predicted, 1.0, 1.0 - predicted,
            "the spectral radius of I - alpha A must be below 1"
            + ("" if predicted < 1.0 else "; see catalogue tsitsiklis_van_roy"),
        ),
        Condition(
            "the step size is below its limit", bool(below), alpha, found.step_size_limit,
            None if found.step_size_limit is None else min(alpha, found.step_size_limit - alpha),
            "there is a limit only if TD is stable" + ("" if below else "; see catalogue baird_star"),
        ),
        Condition(
            "the observed rate is the predicted one", agree, observed, predicted, allowed - apart,
            "over the second half of the steps; needs many, and a first error along the slowest mode",
        ),
    )  # fmt: skip
    data = {
        "start": start,
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
    theorem = f"TD follows its predicted rate on {name}"
    return Report(theorem, verdict, steps.value, steps.threshold, conditions, data)


def _steps_agree(path: Trajectory, expected: ExpectedErrors | None) -> Condition:
    """Return the comparison at the step where it is worst for what rounding allows there."""
    name, why = "every error is that of the powers of I - alpha A", "at the step where it is worst"
    if expected is None:
        return Condition(name, None, why=f"not computed beyond {MOST_FEATURES} features")
    apart = np.abs(path.error - expected.error)
    worst = int(np.argmax(apart / np.maximum(expected.tolerance, np.finfo(np.float64).tiny)))
    return Condition.at_most(name, float(apart[worst]), float(expected.tolerance[worst]), why)


def _radius_agrees(path: Trajectory, expected: ExpectedErrors | None) -> Condition:
    name, why = "the predicted rate is their spectral radius", "computed apart, up to rounding"
    if expected is None:
        return Condition(name, None, why=f"not computed beyond {MOST_FEATURES} features")
    return Condition.at_most(name, abs(path.predicted_rate - expected.rate), expected.rate_tolerance, why)


def _agreement(predicted: float, observed: float | None) -> tuple[bool | None, float, float]:
    """Return whether the rates agree, by how much their logarithms differ, and by how much they may."""
    if observed is None or observed <= 0.0 or predicted <= 0.0:
        return None, 0.0, 0.0
    apart = abs(math.log(observed) - math.log(predicted))
    allowed = ALLOWED * abs(math.log(predicted))
    return apart <= allowed, apart, allowed
