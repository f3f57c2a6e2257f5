"""Descending the agent's value loss is expected TD: step by step, at its rate, to its fixed point."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from bridged import (
    UNIT,
    descend,
    garnet_problem,
    parameter,
    problems,
    random_weights,
    roundings,
    set_values,
    size_of_gradient,
)
from hypothesis import given, settings

from theory import Problem, catalogue, stability, td_fixed_point, td_system, td_trajectory
from theory.trajectory import expected_errors
from uld_torchrl import PeriodicHardUpdate, ULDOptimizationStepper, make_replay_buffer
from uld_torchrl.config import OptimConfig
from uld_torchrl.diagnostics import model_weights, tabular_loss, transition_batch, value_weights


def run(problem: Problem, step_size: float, steps: int, w0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Iterates of the agent's loss (steps + 1, d), and how far rounding may take each from those of theory.

    From the same w, the next ones differ by alpha times what rounding does to the gradient, and by four
    operations of the step; (I - alpha A)^t carries a difference on. To first order in the rounding unit.
    """
    loss, batch, system = tabular_loss(problem), transition_batch(problem), td_system(problem)
    set_values(loss, w0)
    iterates = np.stack(list(islice(descend(loss, batch, step_size), steps + 1)))
    count, step = roundings(problem, len(batch)) + 4, np.eye(problem.d) - step_size * system.A
    sizes = [step_size * count * size_of_gradient(problem, w, w) + 4 * np.abs(w) for w in iterates[:-1]]
    powers = [np.linalg.norm(np.linalg.matrix_power(step, t), 2) for t in range(steps)]
    carried = np.convolve(powers, np.linalg.norm(sizes, axis=1))[:steps]
    return iterates, UNIT * np.append(0.0, carried)


@settings(max_examples=8)
@given(problems())
def test_iterates_are_those_of_expected_td_step_by_step(problem: Problem) -> None:
    system, w, step_size = td_system(problem), random_weights(problem), 0.3
    iterates, apart = run(problem, step_size, 6, w)
    for found, allowed in zip(iterates, apart, strict=True):
        assert np.linalg.norm(found - w) <= allowed
        w = w - step_size * (system.A @ w - system.b)


@pytest.mark.parametrize("seed", [0, 3])
def test_gradient_descent_reaches_the_fixed_point_at_the_predicted_rate(seed: int) -> None:
    problem, w0 = garnet_problem(seed), np.array([3.0, -2.0, 1.0])
    step_size, steps = stability(problem).best_step_size, 130
    iterates, apart = run(problem, step_size, steps, w0)
    predicted = expected_errors(problem, step_size=step_size, steps=steps, w0=w0)
    errors = np.linalg.norm(iterates - td_fixed_point(problem).w, axis=1)
    allowed = predicted.tolerance + apart
    assert np.all(np.abs(errors - predicted.error) <= allowed)
    # Converged: nothing is left but the rounding of the run.
    assert predicted.error[-1] < allowed[-1]
    np.testing.assert_allclose(
        td_trajectory(problem, step_size=step_size, steps=steps, w0=w0).predicted_rate,
        predicted.rate,
        atol=predicted.rate_tolerance,
    )


@pytest.mark.parametrize(("share", "converges"), [(0.95, True), (1.05, False)])
def test_the_step_size_limit_of_theory_is_that_of_the_agents_loss(share: float, converges: bool) -> None:
    problem = catalogue.load("three_cycle").problem
    step_size, steps = share * stability(problem).step_size_limit, 60
    w0 = td_fixed_point(problem).w + np.array([1.0, -2.0, 1.0])
    iterates, apart = run(problem, step_size, steps, w0)
    errors = np.linalg.norm(iterates - td_fixed_point(problem).w, axis=1)
    predicted = expected_errors(problem, step_size=step_size, steps=steps, w0=w0)
    assert np.all(np.abs(errors - predicted.error) <= predicted.tolerance + apart)
    assert (predicted.rate < 1.0) == converges
    assert (errors[-1] < 0.5 * errors[0]) == converges
    assert (errors[-1] > 2.0 * errors[0]) != converges


def test_half_of_a_divergent_problem_still_diverges_at_its_rate() -> None:
    # w -> 2w at discount 0.9: A = -1/5, so the error grows by 1 + alpha / 5 at every step.
    problem = catalogue.load("tsitsiklis_van_roy_reward_one").problem
    iterates, apart = run(problem, 0.5, 20, np.array([1.0]))
    errors = np.abs(iterates[:, 0] + 7.5)
    allowed = apart + UNIT * 40 * errors
    assert np.all(np.abs(errors - 8.5 * 1.1 ** np.arange(21)) <= allowed)


def stepper_for(problem: Problem, **settings: float) -> ULDOptimizationStepper:
    """The agent's own optimisers on the loss of a problem; its buffer holds each window once."""
    windows = transition_batch(problem)
    rb = make_replay_buffer(capacity=len(windows) + 8, horizon=1, batch_size=4)
    flag = torch.zeros_like(windows["next", "terminated"])
    windows["next", "truncated"], windows["next", "done"] = flag, windows["next", "terminated"]
    rb.extend(windows.exclude("priority_weight").permute(1, 0))
    config = OptimConfig(batch_size=4, period=1, schedule="every_step", value_grad_clip=1e9)
    return ULDOptimizationStepper(tabular_loss(problem), rb, replace(config, **settings))


def adamw(weight_decay: float, steps: int) -> tuple[float, np.ndarray, np.ndarray, int]:
    """Follow the agent's AdamW until its gradient has fallen to 1e-8 of the first, or so many steps.

    Returns the share that is left, w, and half the last gradient.
    """
    problem = garnet_problem(0)
    stepper = stepper_for(problem, weight_decay=weight_decay, value_lr=0.1)
    loss, optimizer, batch = stepper.loss_module, stepper.optimizers["value"], transition_batch(problem)
    first = 0.0
    for _ in range(steps):
        stepper.target_updater.step()
        optimizer.zero_grad()
        loss.value_loss(batch)[0].backward()
        gradient = parameter(loss).grad.flatten().numpy().copy()
        first = first or float(np.linalg.norm(gradient))
        if np.linalg.norm(gradient) <= 1e-8 * first:
            break
        optimizer.step()
    return float(np.linalg.norm(gradient)) / first, value_weights(loss)[0].numpy(), gradient / 2, len(batch)


def test_the_agents_adamw_without_weight_decay_stops_at_the_fixed_point() -> None:
    problem = garnet_problem(0)
    left, w, gradient, windows = adamw(0.0, 400)
    assert left <= 1e-8
    size = roundings(problem, windows) * UNIT * size_of_gradient(problem, w, w)
    # A w - b is this gradient up to rounding, so w - w* = A^-1 of it; so is the rounding of w* itself.
    inverse = np.abs(np.linalg.inv(td_system(problem).A))
    allowed = inverse @ (np.abs(gradient) + 2 * size)
    assert np.all(np.abs(w - td_fixed_point(problem).w) <= allowed)


def test_weight_decay_moves_where_it_stops() -> None:
    left, w, _, _ = adamw(0.1, 150)
    assert left > 1e-3
    assert np.abs(w - td_fixed_point(garnet_problem(0)).w).max() > 1e-2


def test_a_whole_update_of_the_agent_moves_value_and_model_by_adams_first_step() -> None:
    # Adam's first step is lr g / (|g| + eps): relative errors of g do not matter, a few roundings of it do.
    problem = garnet_problem(0)
    stepper = stepper_for(problem, weight_decay=0.0, value_lr=0.1, encoder_lr=0.2)
    loss, system = stepper.loss_module, td_system(problem)
    w0, w_r = random_weights(problem), random_weights(problem, 1)
    value_weights(loss).copy_(torch.tensor(w0))
    for weights, begin in zip(model_weights(loss), (w_r, np.eye(problem.d)), strict=True):
        weights.copy_(torch.tensor(begin))
    f, g = loss.state_encoder_params.clone(), loss.state_action_encoder_params.clone()
    stepper.step(None, transition_batch(problem))
    steps = {
        0.1: (value_weights(loss)[0].numpy() - w0, 2 * (system.A @ w0 - system.b)),
        0.2: (model_weights(loss)[0].numpy() - w_r, 0.1 * 2 * (system.C @ w_r - system.b)),
    }
    for lr, (moved, gradient) in steps.items():
        assert np.abs(gradient).min() > 1e-3
        np.testing.assert_allclose(moved, -lr * gradient / (np.abs(gradient) + 1e-8), rtol=0, atol=40 * UNIT)
    assert (loss.state_encoder_params == f).all() and (loss.state_action_encoder_params == g).all()


def test_targets_follow_only_when_they_are_copied() -> None:
    problem = garnet_problem(1)
    loss, batch = tabular_loss(problem), transition_batch(problem)
    updater = PeriodicHardUpdate(loss, period=3)
    behind = []
    for _ in range(4):
        updater.step()
        behind.append(float(value_weights(loss, target=True).abs().sum()))
        value_weights(loss).add_(1.0)
        loss.value_loss(batch)
    assert behind == [0.0, 0.0, 0.0, 9.0]
