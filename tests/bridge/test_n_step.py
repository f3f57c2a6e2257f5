"""n-step data: the agent's uncorrected n-step loss has the fixed point that theory gives, ends included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bridged import (
    UNIT,
    descend,
    garnet_problem,
    random_weights,
    roundings,
    set_values,
    size_of_gradient,
    value_gradient,
)

from theory import Policy, Problem, n_step_fixed_point, n_step_problem, stability, td_fixed_point, td_system
from uld_torchrl.diagnostics import tabular_loss, transition_batch, value_weights
from uld_torchrl.functional import n_step_return


def behaviour_of(problem: Problem) -> Policy:
    assert problem.policy is not None
    return Policy(problem.policy.probs[:, ::-1])


def small(seed: int = 0) -> Problem:
    return garnet_problem(seed, states=4, actions=2, ends=1, d=3)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("corrected", [True, False])
def test_the_gradient_is_that_of_one_step_td_on_the_n_step_chain(n: int, corrected: bool) -> None:
    problem = small()
    behaviour = None if corrected else behaviour_of(problem)
    batch = transition_batch(problem, n_steps=n, behaviour=behaviour)
    loss, stepped = (
        tabular_loss(problem, horizon=n, n_steps=n),
        n_step_problem(problem, n, behaviour=behaviour),
    )
    assert (
        bool(batch["next", "terminated"].any())
        and abs(float(batch["priority_weight"][:, 0].sum()) - 1) < 1e-14
    )
    ended = batch["next", "terminated"].squeeze(-1)
    batch["next", "reward"][:, 1:][ended[:, :-1]] = 7.0  # what stands after an end is never read
    w, system = random_weights(problem), td_system(stepped)
    set_values(loss, w)
    # The n-step chain takes n products of (n, n) matrices, and each return n more operations.
    largest = Problem.from_chain(
        stepped.P_pi,
        n_step_problem(_absolute(problem), n, behaviour=behaviour).r,
        problem.Z,
        problem.mu,
        stepped.gamma,
    )
    count = roundings(problem, len(batch)) + n * (problem.n + 4)
    allowed = 2 * count * UNIT * size_of_gradient(largest, w, w)
    assert np.all(np.abs(value_gradient(loss, batch)[0] - 2 * (system.A @ w - system.b)) <= allowed)


def _absolute(problem: Problem) -> Problem:
    assert problem.mdp and problem.policy and problem.features and problem.weights
    mdp = problem.mdp
    positive = type(mdp)(mdp.P, np.abs(mdp.r), mdp.gamma, mdp.terminal, mdp.start)
    return Problem(positive, problem.policy, problem.features, problem.weights)


def test_descent_on_three_step_data_of_another_policy_reaches_its_own_fixed_point() -> None:
    problem = small(3)
    behaviour = behaviour_of(problem)
    stepped, fixed = (
        n_step_problem(problem, 3, behaviour=behaviour),
        n_step_fixed_point(problem, 3, behaviour=behaviour),
    )
    batch = transition_batch(problem, n_steps=3, behaviour=behaviour)
    loss = tabular_loss(problem, horizon=3, n_steps=3)
    first = np.abs(value_gradient_at(loss, batch, np.zeros(problem.d))).max()
    for _ in zip(descend(loss, batch, stability(stepped).best_step_size), range(80), strict=False):
        pass
    w, left = value_weights(loss)[0].numpy(), value_gradient(loss, batch)[0] / 2
    assert np.abs(left).max() < 1e-6 * first
    inverse = np.abs(np.linalg.inv(td_system(stepped).A))
    count = 2 * (roundings(problem, len(batch)) + 3 * (problem.n + 4)) * UNIT
    rewards = n_step_problem(_absolute(problem), 3, behaviour=behaviour).r
    size = size_of_gradient(
        Problem.from_chain(stepped.P_pi, rewards, problem.Z, problem.mu, stepped.gamma), w, w
    )
    assert np.all(np.abs(w - fixed.w) <= inverse @ (np.abs(left) + count * size))
    # It is not the fixed point of one step, nor that of the policy's own three steps.
    for other in (td_fixed_point(problem).w, n_step_fixed_point(problem, 3).w):
        assert np.abs(fixed.w - other).max() > 1e-2


def value_gradient_at(loss: object, batch: object, w: np.ndarray) -> np.ndarray:
    set_values(loss, w)
    return value_gradient(loss, batch)[0]


def test_windows_run_on_in_the_terminal_state_and_pay_nothing_there() -> None:
    problem = Problem.from_chain([[0.5]], [1.0], [[1.0]], [1.0], 0.5)
    batch = transition_batch(problem, n_steps=3)
    by_ends = {
        tuple(window): float(weight)
        for window, weight in zip(
            batch["next", "terminated"].squeeze(-1).tolist(), batch["priority_weight"][:, 0], strict=True
        )
    }
    assert by_ends == {
        (False, False, False): 0.125,
        (False, False, True): 0.125,
        (False, True, True): 0.25,
        (True, True, True): 0.5,
    }
    total, discount = n_step_return(
        batch["next", "reward"].squeeze(-1), batch["next", "terminated"].squeeze(-1), 0.5
    )
    weights = batch["priority_weight"][:, 0]
    # 1 + .5 / 2 + .25 / 4, and the bootstrap .125 of the windows that go on.
    assert torch.dot(weights, total).item() == 1.3125
    assert torch.dot(weights, discount).item() == 0.125**2
