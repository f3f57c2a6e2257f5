"""Target networks on the agent's loss rescue one problem and ruin another, step by step as theory says."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from bridged import UNIT, descend, garnet_problem, roundings, set_values, size_of_gradient

from theory import (
    Problem,
    catalogue,
    stability,
    target_network_radius,
    target_network_trajectory,
    td_fixed_point,
    td_system,
)
from theory.target_networks import outer_matrices
from theory.whitening import whiten
from uld_torchrl.diagnostics import tabular_loss, transition_batch


def follow(
    problem: Problem, step_size: float, inner_steps: int, outer_steps: int, w0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Iterates (steps + 1, d) and how far rounding may take each from those of theory, to first order.

    The pair (w, target) moves by [[I - alpha C, alpha gamma X], [0, I]], and at a copy by [[I, 0], [I, 0]]
    before that; each step adds alpha times the rounding of a gradient and four operations on w, on both
    sides. Theory adds up C w and gamma X w' + b apart, whose sizes are within that of the gradient.
    """
    loss, batch, d = tabular_loss(problem), transition_batch(problem), problem.d
    set_values(loss, w0)
    steps = inner_steps * outer_steps
    iterates = np.stack(list(islice(descend(loss, batch, step_size, period=inner_steps), steps + 1)))
    system, count, one = td_system(problem), roundings(problem, len(batch)) + 4, np.eye(d)
    moves = np.block(
        [[one - step_size * system.C, step_size * problem.gamma * system.X], [np.zeros((d, d)), one]]
    )
    copied = moves @ np.block([[one, np.zeros((d, d))], [one, np.zeros((d, d))]])
    carried, apart, total = [], np.zeros(steps + 1), np.zeros(steps + 1)
    for t, w in enumerate(iterates[:-1]):
        step = copied if t % inner_steps == 0 else moves
        carried = [step @ each for each in carried]
        target = iterates[t - t % inner_steps]
        size = 2 * step_size * count * size_of_gradient(problem, w, target) + 8 * np.abs(w)
        carried.append(np.vstack([np.diag(size), np.zeros((d, d))]))
        total[t + 1] = sum(np.linalg.norm(np.abs(each[:d]).sum(axis=1)) for each in carried)
    apart = UNIT * total
    return iterates, apart


def distances(problem: Problem, iterates: np.ndarray) -> np.ndarray:
    """From the set of fixed points, as theory measures it."""
    fixed = td_fixed_point(problem)
    away = iterates - fixed.w
    return np.linalg.norm(away - (away @ fixed.null_space) @ fixed.null_space.T, axis=1)


def slowest(problem: Problem, step_size: float, inner_steps: int) -> tuple[np.ndarray, bool, np.ndarray]:
    """The real direction (d,) in which the slowest mode of the outer iteration is longest.

    A complex mode turns: from its longest point the error never exceeds the radius's powers. Also whether the
    mode is real, and how far the errors of the computed mode may carry the first 100 iterates from it: its
    residual, and 3 d operations of each inner step on numbers up to (1 + alpha |C| + alpha gamma |X|) |mode|.
    """
    H, system = outer_matrices(problem, step_size, [inner_steps])[0], td_system(problem)
    values, vectors = np.linalg.eig(H)
    first = int(np.argmax(np.abs(values)))
    mode = whiten(problem).V @ vectors[:, first]
    axes, lengths, _ = np.linalg.svd(np.column_stack([mode.real, -mode.imag]), full_matrices=False)
    sizes = np.linalg.norm(system.C, 2) + problem.gamma * np.linalg.norm(system.X, 2)
    each = 3 * problem.d * inner_steps * UNIT * (1 + step_size * sizes)
    residual = np.linalg.norm(H @ vectors[:, first] - values[first] * vectors[:, first]) + each
    norms = [np.linalg.norm(np.linalg.matrix_power(H, k), 2) for k in range(100)]
    drift = residual * np.convolve(norms, np.abs(values[first]) ** np.arange(100))[:100]
    return axes[:, 0] * lengths[0], bool(abs(values[first].imag) < 1e-9), np.append(0.0, drift)


CASES = [
    # name, K, replacements, rho(H_K) with alpha = 0.1.
    ("baird_star", 1, 60, 1.0239),
    ("baird_star", 10, 8, 0.9824),
    ("sign_flip", 1, 20, 0.55),
    ("sign_flip", 10, 8, 1.1564),
]


@pytest.mark.parametrize(("name", "inner_steps", "outer_steps", "radius"), CASES)
def test_a_target_network_rescues_one_problem_and_ruins_another(
    name: str, inner_steps: int, outer_steps: int, radius: float
) -> None:
    problem = catalogue.load(name).problem
    mode, is_real, drift = slowest(problem, 0.1, inner_steps)
    found = target_network_radius(problem, 0.1, inner_steps)
    assert found.radii[0] == pytest.approx(radius, abs=5e-5)
    assert found.verdicts == ("stable" if radius < 1 else "unstable",)
    w0 = td_fixed_point(problem).w + mode
    iterates, apart = follow(problem, 0.1, inner_steps, outer_steps, w0)
    errors = distances(problem, iterates[::inner_steps])
    run = target_network_trajectory(
        problem, step_size=0.1, inner_steps=inner_steps, outer_steps=outer_steps, w0=w0
    )
    # The fixed point is the same in both; the distance itself takes 3 d operations.
    allowed = apart[::inner_steps] + 3 * problem.d * UNIT * errors
    assert np.all(np.abs(errors - run.error) <= allowed)
    powers = found.radii[0] ** np.arange(outer_steps + 1) * errors[0]
    allowed = allowed + drift[: outer_steps + 1]
    assert np.all(errors <= powers + allowed) and allowed.max() < 1e-9
    assert (errors[-1] < errors[0]) == (radius < 1)
    assert is_real == ((name, inner_steps) != ("baird_star", 10))
    if is_real:
        assert np.all(errors >= powers - allowed)


def test_from_any_start_errors_are_those_of_theory() -> None:
    # Baird's own start; its modes are far from orthogonal, and errors grow tenfold before they fall.
    problem = catalogue.load("baird_star").problem
    w0 = np.array([1.0, 1, 1, 1, 1, 1, 10, 1])
    iterates, apart = follow(problem, 0.1, 10, 12, w0)
    errors = distances(problem, iterates[::10])
    run = target_network_trajectory(problem, step_size=0.1, inner_steps=10, outer_steps=12, w0=w0)
    assert np.all(np.abs(errors - run.error) <= apart[::10] + 3 * problem.d * UNIT * errors)
    assert errors.max() > 5 * errors[0]


def test_a_target_network_that_is_never_replaced_is_least_squares() -> None:
    # The limit of the inner loop is the projection of one Bellman backup, not the fixed point.
    problem, w0, steps = garnet_problem(0), np.array([1.0, -1.0, 2.0]), 60
    system = td_system(problem)
    low, *_, high = np.linalg.eigvalsh(system.C)
    iterates, apart = follow(problem, 2.0 / (low + high), steps, 1, w0)
    limit = np.linalg.solve(system.C, system.b + problem.gamma * system.X @ w0)
    unfinished = ((high - low) / (high + low)) ** steps * np.linalg.norm(w0 - limit)
    solving = np.abs(np.linalg.inv(system.C)) @ size_of_gradient(problem, limit, w0)
    allowed = (
        unfinished + apart[-1] + (roundings(problem, 0) + 4 * problem.d) * UNIT * np.linalg.norm(solving)
    )
    assert np.linalg.norm(iterates[-1] - limit) <= allowed < 1e-3
    assert np.linalg.norm(limit - td_fixed_point(problem).w) > 0.1


def test_the_four_ways_of_theory_are_those_of_the_agents_loss() -> None:
    # TD and rollout converge, or not, independently: K = 1 is the one, K without end the other; 20 will do.
    seen = set()
    for name in ("tsitsiklis_van_roy_convergent", "sign_flip", "baird_star", "tsitsiklis_van_roy_reward_one"):
        problem, grows = catalogue.load(name).problem, []
        for inner_steps, outer_steps in ((1, 5), (20, 2)):
            loss, batch = tabular_loss(problem), transition_batch(problem)
            set_values(loss, td_fixed_point(problem).w + slowest(problem, 0.1, inner_steps)[0])
            steps = islice(descend(loss, batch, 0.1, period=inner_steps), inner_steps * outer_steps + 1)
            errors = distances(problem, np.stack(list(steps))[::inner_steps])
            grows.append(bool(errors[-1] > errors[0]))
        found = stability(problem)
        assert grows == [found.td == "unstable", found.rollout == "diverges"], name
        seen.add(tuple(grows))
    assert len(seen) == 4
