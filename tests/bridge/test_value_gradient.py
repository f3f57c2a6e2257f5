"""The gradient of the agent's value loss is the stated multiple of A w - b, for any w, on any problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bridged import (
    UNIT,
    expected_gradient,
    garnet_problem,
    problems,
    random_weights,
    roundings,
    set_values,
    size_of_gradient,
    value_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Features, Policy, Problem, catalogue
from uld_torchrl.diagnostics.tabular import tabular_loss, transition_batch, value_weights

SEEDS = st.integers(0, 1000)
FEW = settings(max_examples=25)


def agrees(
    actual: np.ndarray,
    multiple: float,
    expected: np.ndarray,
    problem: Problem,
    size: np.ndarray,
    *,
    extra: int = 0,
) -> None:
    """Equal to that multiple up to the roundings of both sides, and ``extra`` ones of the test."""
    assert actual.shape == expected.shape
    expected = multiple * expected
    allowed = (roundings(problem, len(transition_batch(problem))) + extra) * UNIT * multiple * size
    assert np.all(np.abs(actual - expected) <= allowed), (actual, expected, allowed)


@FEW
@given(problems(), SEEDS)
def test_the_gradient_of_the_squared_error_is_twice_that_of_td(problem: Problem, seed: int) -> None:
    w, batch, loss = random_weights(problem, seed), transition_batch(problem), tabular_loss(problem)
    set_values(loss, w)
    size = size_of_gradient(problem, w, w)
    agrees(value_gradient(loss, batch)[0], 2.0, expected_gradient(problem, w), problem, size)


@FEW
@given(problems(), SEEDS)
def test_a_target_network_of_other_weights_enters_through_x_alone(problem: Problem, seed: int) -> None:
    w, behind = random_weights(problem, seed), random_weights(problem, seed + 1)
    loss, batch = tabular_loss(problem, target_encoder=True), transition_batch(problem)
    set_values(loss, w, behind)
    expected, size = expected_gradient(problem, w, behind), size_of_gradient(problem, w, behind)
    agrees(value_gradient(loss, batch)[0], 2.0, expected, problem, size)


@FEW
@given(problems(), SEEDS)
def test_inside_its_bend_hubers_gradient_is_that_of_td(problem: Problem, seed: int) -> None:
    w, batch = random_weights(problem, seed), transition_batch(problem)
    values, next_values = problem.Z @ w, problem.gamma * np.abs(problem.Z @ w).max()
    scale = 0.9 / (np.abs(values).max() + np.abs(problem.r).max() + next_values)  # every |Q - y| < 0.9
    small = Problem.from_chain(problem.P_pi, scale * problem.r, problem.Z, problem.mu, problem.gamma)
    batch["next", "reward"] *= scale
    loss = tabular_loss(problem, value_loss="huber")
    set_values(loss, scale * w)
    assert loss.value_loss(batch)[1]["td_error"].max() < 1.0
    expected, size = expected_gradient(small, scale * w), size_of_gradient(small, scale * w, scale * w)
    agrees(value_gradient(loss, batch)[0], 1.0, expected, problem, size, extra=1)


def test_beyond_its_bend_hubers_gradient_is_another() -> None:
    problem = garnet_problem(0)
    w, batch, loss = 10 * random_weights(problem), transition_batch(problem), tabular_loss(problem)
    bent = tabular_loss(problem, value_loss="huber")
    set_values(loss, w)
    set_values(bent, w)
    assert np.abs(value_gradient(bent, batch) - value_gradient(loss, batch) / 2).max() > 1.0


@FEW
@given(problems(), SEEDS)
def test_each_of_two_heads_gets_half_and_their_minimum_is_taken_before_the_mean(
    problem: Problem, seed: int
) -> None:
    heads = np.stack([random_weights(problem, seed), random_weights(problem, seed + 1)])
    batch, loss = transition_batch(problem), tabular_loss(problem, num_values=2)
    set_values(loss, heads)
    least = problem.chain @ (problem.Z @ heads.T).min(axis=1)
    largest = np.abs(heads).max(axis=0)
    size = size_of_gradient(problem, largest, largest)
    for found, w in zip(value_gradient(loss, batch), heads, strict=True):
        # 1/2 of 2 E[z (z w - r - gamma min)].
        expected = problem.Z.T @ (problem.mu * (problem.Z @ w - problem.r - problem.gamma * least))
        agrees(found, 1.0, expected, problem, size)


def test_two_equal_heads_each_get_the_gradient_of_td() -> None:
    problem = garnet_problem(1)
    w, batch, loss = random_weights(problem), transition_batch(problem), tabular_loss(problem, num_values=2)
    set_values(loss, w)
    for found in value_gradient(loss, batch):
        size = size_of_gradient(problem, w, w)
        agrees(found, 1.0, expected_gradient(problem, w), problem, size)


@FEW
@given(problems(), SEEDS, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_reward_scales_divide_the_rewards_and_their_ratio_multiplies_the_next_value(
    problem: Problem, seed: int, now: float, before: float
) -> None:
    # The heads learn Q / c: 2 (C w - b / c - gamma (c' / c) X w'), which is 2 (A w - b / c) once c' = c.
    w, behind = random_weights(problem, seed), random_weights(problem, seed + 1)
    loss, batch = tabular_loss(problem, reward_scaling=True), transition_batch(problem)
    set_values(loss, w, behind)
    loss.update_reward_scale_(before)
    loss.update_reward_scale_(now)
    scaled = Problem.from_chain(problem.P_pi, problem.r / now, problem.Z, problem.mu, problem.gamma)
    expected = expected_gradient(scaled, w, before / now * behind)
    size = size_of_gradient(scaled, w, before / now * behind)
    agrees(value_gradient(loss, batch)[0], 2.0, expected, problem, size, extra=4)
    loss.update_reward_scale_(now)
    set_values(loss, w)
    expected, size = expected_gradient(scaled, w), size_of_gradient(scaled, w, w)
    agrees(value_gradient(loss, batch)[0], 2.0, expected, problem, size, extra=4)


@pytest.mark.parametrize("name", catalogue.names())
def test_the_gradient_is_that_of_every_problem_in_the_catalogue(name: str) -> None:
    problem = catalogue.load(name).problem
    w, batch, loss = random_weights(problem), transition_batch(problem), tabular_loss(problem)
    set_values(loss, w)
    expected, size = expected_gradient(problem, w), size_of_gradient(problem, w, w)
    agrees(value_gradient(loss, batch)[0], 2.0, expected, problem, size)


def off(problem: Problem, gradient: np.ndarray, w: np.ndarray) -> float:
    return float(np.abs(gradient - 2 * expected_gradient(problem, w)).max())


def test_a_wrong_policy_in_the_target_is_noticed() -> None:
    problem = garnet_problem(2)
    assert problem.mdp and problem.features and problem.weights
    other = Problem(problem.mdp, Policy.uniform(problem.mdp), problem.features, problem.weights)
    w, loss = random_weights(problem), tabular_loss(problem)
    set_values(loss, w)
    assert off(problem, value_gradient(loss, transition_batch(other))[0], w) > 1e-3
    assert off(other, value_gradient(loss, transition_batch(other))[0], w) < 1e-13


def test_without_the_weights_the_mean_is_another() -> None:
    problem = garnet_problem(3)
    w, batch, loss = random_weights(problem), transition_batch(problem), tabular_loss(problem)
    set_values(loss, w)
    plain = value_gradient(loss, batch.exclude("priority_weight"))[0]
    assert off(problem, plain, w) > 1e-3


def test_the_value_loss_never_reads_features_of_a_terminal_state() -> None:
    problem = garnet_problem(4)
    w, batch, loss = random_weights(problem), transition_batch(problem), tabular_loss(problem)
    set_values(loss, w)
    before = value_gradient(loss, batch)
    loss.state_action_encoder_params["module", "features"].data[-1] = 1.0
    np.testing.assert_array_equal(value_gradient(loss, batch), before)


def test_only_the_value_heads_get_a_gradient() -> None:
    problem = garnet_problem(5)
    loss = tabular_loss(problem, freeze_encoder=False)
    set_values(loss, random_weights(problem))
    loss.value_loss(transition_batch(problem))[0].backward()
    touched = {name for name, p in loss.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in loss.named_parameters() if name.startswith("qvalue_network")}
    assert torch.equal(value_weights(loss), value_weights(loss, target=True))


def test_dependent_features_are_no_obstacle() -> None:
    base = garnet_problem(6)
    assert base.mdp and base.policy and base.weights
    Z = np.concatenate([base.features.Z, base.features.Z[..., :1]], -1)
    problem = Problem(base.mdp, base.policy, Features(Z), base.weights)
    w, batch, loss = random_weights(problem), transition_batch(problem), tabular_loss(problem)
    set_values(loss, w)
    expected, size = expected_gradient(problem, w), size_of_gradient(problem, w, w)
    agrees(value_gradient(loss, batch)[0], 2.0, expected, problem, size)
