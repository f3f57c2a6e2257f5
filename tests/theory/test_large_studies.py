"""Studies of sharper results on thousands of rows: memory stays far below that of one square matrix."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from theory import Features, Policy, Problem, Weights, check_greedy, feature_sweep, garnet, relax_to_state
from theory.bellman_residual import compare_with_residual_minimiser
from theory.localised import localised_bounds
from theory.truncation import truncation, truncation_horizon

STATES = 2500  # beyond the limit of 2000 up to which states are solved densely
STUDIES: dict[str, Callable[[Problem], object]] = {
    "relaxation": lambda problem: relax_to_state(problem, np.arange(2.0 * STATES).reshape(STATES, 2)),
    "localised bounds": localised_bounds,
    "Bellman residual": compare_with_residual_minimiser,
    "truncation": lambda problem: truncation(problem, 10),
    "horizon": lambda problem: truncation_horizon(problem, 0.1),
    "sweep": lambda problem: feature_sweep(problem.mdp, problem.policy, problem.weights, "random", [1, 4]),
    "greedy loss": lambda problem: check_greedy(problem.mdp, np.zeros((STATES, 2))),
}


@pytest.mark.parametrize("name", STUDIES)
def test_no_square_matrix_over_rows_is_formed(name):
    mdp = garnet(STATES, 2, 3, 0.9, seed=1, dense=False)
    problem = Problem(mdp, Policy.uniform(mdp), Features.random(mdp, 4, 1), Weights.uniform(mdp))
    assert problem.n == 2 * STATES
    tracemalloc.start()
    STUDIES[name](problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * 8 * problem.n**2
