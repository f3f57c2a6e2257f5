"""The encoder's loss with frozen features fits the linear model, whose value is TD's fixed point."""

from __future__ import annotations

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
    size_of_gradient,
    value_gradient,
)
from hypothesis import given, settings
from tensordict import TensorDict

from theory import (
    Features,
    LinearModel,
    Policy,
    Problem,
    fit_linear_model,
    model_based_solution,
    stability,
    td_fixed_point,
    td_system,
    value_error,
)
from uld_torchrl import PeriodicHardUpdate, ULDLoss
from uld_torchrl.diagnostics import model_weights, tabular_loss, transition_batch, value_weights


def even_loss(problem: Problem, **settings: object) -> ULDLoss:
    """A loss whose dynamics part is a sum over the features, and its reward part of weight one."""
    loss = tabular_loss(problem, dynamics_coeff=problem.d, reward_coeff=1.0, **settings)
    PeriodicHardUpdate(loss)
    return loss


def model_gradient(loss: ULDLoss, batch: TensorDict) -> tuple[np.ndarray, np.ndarray]:
    """Half the gradient of the encoder's loss: of w_r (d,) and of W_d (d, d)."""
    (parameter,) = loss.predictor_params.parameters()
    (found,) = torch.autograd.grad(loss.encoder_loss(batch)[0], [parameter])
    return found[-1].numpy() / 2, found[1:-1].T.numpy() / 2


def set_model(loss: ULDLoss, w_r: np.ndarray, W_d: np.ndarray) -> None:
    for weights, values in zip(model_weights(loss), (w_r, W_d), strict=True):
        weights.copy_(torch.tensor(values))


def model_rounding(
    problem: Problem, windows: int, w_r: np.ndarray, W_d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What rounding may do to half the gradients, by the count of the value's, which has more products."""
    Z, by_mu = np.abs(problem.Z), np.abs(problem.Z).T * problem.mu
    count = UNIT * roundings(problem, windows)
    rewards = by_mu @ (Z @ np.abs(w_r) + np.abs(problem.r))
    return count * rewards, count * by_mu @ (Z @ np.abs(W_d) + problem.chain @ Z)


def fit(problem: Problem, loss: ULDLoss, batch: TensorDict, steps: int) -> None:
    """Descend the encoder's loss by plain gradient descent, at the best step size for its curvature C."""
    curvature = np.linalg.eigvalsh(td_system(problem).C)
    optimizer = torch.optim.SGD(loss.predictor_params.parameters(), lr=1.0 / (curvature[0] + curvature[-1]))
    for _ in range(steps):
        optimizer.zero_grad()
        loss.encoder_loss(batch)[0].backward()
        optimizer.step()


@settings(max_examples=20)
@given(problems())
def test_the_gradient_is_that_of_least_squares_for_any_model_and_for_the_fitted_one(problem: Problem) -> None:
    rng, system, batch = np.random.default_rng(problem.n), td_system(problem), transition_batch(problem)
    loss, model = even_loss(problem), fit_linear_model(problem)
    drawn = rng.normal(size=problem.d), rng.normal(size=(problem.d, problem.d))
    for w_r, W_d in (drawn, (model.w_r, model.W_d)):
        set_model(loss, w_r, W_d)
        expected = system.C @ w_r - system.b, system.C @ W_d - system.X
        allowed = model_rounding(problem, len(batch), w_r, W_d)
        for found, wanted, most in zip(model_gradient(loss, batch), expected, allowed, strict=True):
            assert np.all(np.abs(found - wanted) <= most)


def test_the_default_coefficients_weigh_the_two_fits() -> None:
    # The dynamics part is a mean over the d features, of weight 1; the reward's weight is 0.1.
    problem, batch = garnet_problem(0), transition_batch(garnet_problem(0))
    loss = tabular_loss(problem)
    PeriodicHardUpdate(loss)
    system = td_system(problem)
    w_r, W_d = model_gradient(loss, batch)
    np.testing.assert_allclose(w_r, -0.1 * system.b, rtol=0, atol=1e-15)
    np.testing.assert_allclose(W_d, -system.X / problem.d, rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", [0, 3])
def test_both_losses_descended_give_one_value_theorem_1(seed: int) -> None:
    # With gradients A w - b = g, C w_r - b = g_r, C W_d - X = G_d left over, TD's w is w* + A^-1 g, and the
    # model's, which solves w = w_r + gamma W_d w, is w* + A^-1 (g_r + gamma G_d w). So the two differ by A^-1
    # times what is left over, and rounding.
    problem = garnet_problem(seed)
    system, batch, loss = td_system(problem), transition_batch(problem), even_loss(problem)
    first_g, first_r = value_gradient(loss, batch)[0], model_gradient(loss, batch)[0]
    fit(problem, loss, batch, 100)
    for _ in zip(descend(loss, batch, stability(problem).best_step_size), range(100), strict=False):
        pass
    g, (g_r, G_d) = value_gradient(loss, batch)[0] / 2, model_gradient(loss, batch)
    # Both have arrived, by their own gradients.
    assert np.abs(g).max() < 1e-8 * np.abs(first_g).max()
    assert max(np.abs(g_r).max(), np.abs(G_d).max()) < 1e-8 * np.abs(first_r).max()
    w_r, W_d = (weights.numpy() for weights in model_weights(loss))
    td = value_weights(loss)[0].numpy()
    planned = np.linalg.solve(np.eye(problem.d) - problem.gamma * W_d, w_r)
    inverse, curvature = np.abs(np.linalg.inv(system.A)), np.abs(np.linalg.inv(system.C))
    values = UNIT * roundings(problem, len(batch)) * size_of_gradient(problem, td, td)
    rewards, dynamics = model_rounding(problem, len(batch), w_r, W_d)
    # Elimination solves a system whose entries are off by 4 d u (section 9.3 of the book, growth included).
    solving = 4 * problem.d * UNIT * np.abs(system.C) @ (np.abs(planned) + np.abs(W_d) @ np.abs(planned))
    left = np.abs(g_r) + problem.gamma * np.abs(G_d) @ np.abs(planned) + np.abs(g)
    rounding = values + rewards + problem.gamma * dynamics @ np.abs(planned) + solving
    assert np.all(np.abs(planned - td) <= inverse @ (left + rounding))
    star, fitted = td_fixed_point(problem).w, fit_linear_model(problem)
    assert np.all(np.abs(td - star) <= inverse @ (np.abs(g) + 2 * values))
    assert np.all(np.abs(w_r - fitted.w_r) <= curvature @ (np.abs(g_r) + 2 * rewards))
    assert np.all(np.abs(W_d - fitted.W_d) <= curvature @ (np.abs(G_d) + 2 * dynamics))
    for method in ("solve", "series"):
        rolled = model_based_solution(problem, method=method, model=LinearModel(w_r, W_d, problem.d, 1.0)).w
        assert np.all(np.abs(rolled - td) <= inverse @ (left + rounding + solving))


@pytest.mark.parametrize("steps", [0, 3, 30])
def test_the_value_error_splits_exactly_at_any_time_of_learning_theorem_2(steps: int) -> None:
    problem = garnet_problem(5)
    batch, loss = transition_batch(problem), even_loss(problem)
    fit(problem, loss, batch, steps)
    for _ in zip(descend(loss, batch, 0.5), range(steps), strict=False):
        pass
    w_r, W_d = (weights.numpy() for weights in model_weights(loss))
    split = value_error(
        problem, w=value_weights(loss)[0].numpy(), model=LinearModel(w_r, W_d, problem.d, 1.0)
    )
    assert split.identity_residual <= split.tolerance < 1e-11
    if 0 < steps < 30:
        assert min(np.abs(part).max() for part in (split.reward, split.dynamics, split.planning)) > 1e-3


def terminal_features(problem: Problem, loss: ULDLoss) -> np.ndarray:
    """Give terminal states the features 1, and return the next features (n, d) that follow."""
    assert problem.mdp is not None
    loss.state_action_encoder_params["module", "features"].data[torch.tensor(problem.mdp.terminal)] = 1.0
    leaving = 1.0 - np.asarray(problem.chain @ np.ones(problem.n))
    return problem.Z_next + leaving[:, None]


def test_features_of_terminal_states_would_leak_into_the_dynamics() -> None:
    # The value's target is cut at the end, the dynamics' is not: terminal embeddings must be zero.
    problem = garnet_problem(4)
    batch, loss, model = transition_batch(problem), even_loss(problem), fit_linear_model(problem)
    after = terminal_features(problem, loss)
    set_model(loss, model.w_r, model.W_d)
    g_r, G_d = model_gradient(loss, batch)
    reward, _ = model_rounding(problem, len(batch), model.w_r, model.W_d)
    assert np.all(np.abs(g_r) <= reward)
    assert np.abs(G_d).max() > 1e-2
    root = np.sqrt(problem.mu)[:, None]
    leaked = np.linalg.lstsq(root * problem.Z, root * after, rcond=None)[0]
    set_model(loss, model.w_r, leaked)
    # A terminal state's features are one in place of zero: at most d more units in each product.
    allowed = model_rounding(problem, len(batch), model.w_r, leaked)[1]
    allowed += UNIT * roundings(problem, len(batch)) * np.abs(problem.Z).T @ problem.mu[:, None]
    assert np.all(np.abs(model_gradient(loss, batch)[1]) <= allowed)
    rolled = np.linalg.solve(np.eye(problem.d) - problem.gamma * leaked, model.w_r)
    assert np.abs(rolled - td_fixed_point(problem).w).max() > 0.01


def test_a_wrong_policy_in_the_target_is_another_model() -> None:
    problem = garnet_problem(2)
    assert problem.mdp and problem.features and problem.weights
    other = Problem(problem.mdp, Policy.uniform(problem.mdp), problem.features, problem.weights)
    loss, model = even_loss(problem), fit_linear_model(problem)
    set_model(loss, model.w_r, model.W_d)
    g_r, G_d = model_gradient(loss, transition_batch(other))
    assert np.abs(g_r).max() < 1e-14
    assert np.abs(G_d).max() > 1e-3


def test_without_the_weights_the_fit_is_another() -> None:
    problem = garnet_problem(3)
    loss, model = even_loss(problem), fit_linear_model(problem)
    set_model(loss, model.w_r, model.W_d)
    g_r, G_d = model_gradient(loss, transition_batch(problem).exclude("priority_weight"))
    assert min(np.abs(g_r).max(), np.abs(G_d).max()) > 1e-3


@pytest.mark.parametrize("frozen", [True, False])
def test_features_that_are_not_frozen_move(frozen: bool) -> None:
    problem = garnet_problem(1)
    settings = {} if frozen else {"freeze_encoder": False}  # frozen is what a theorem needs, and the default
    batch, loss = transition_batch(problem), even_loss(problem, **settings)
    set_model(loss, random_weights(problem), np.eye(problem.d))
    loss.encoder_loss(batch)[0].backward()
    touched = {name.split("_params")[0] for name, p in loss.named_parameters() if p.grad is not None}
    assert touched == {"predictor"} if frozen else {"predictor", "state_encoder", "state_action_encoder"}
    for p in loss.parameters():
        if p.grad is not None:
            p.data -= 0.01 * p.grad
    features = loss.state_action_encoder_params["module", "features"].detach().numpy()
    same = np.array_equal(features[~problem.mdp.terminal].reshape(-1, problem.d), problem.Z)
    assert same == frozen


def test_dependent_features_still_give_a_model_whose_gradient_is_zero() -> None:
    base = garnet_problem(6)
    assert base.mdp and base.policy and base.weights and base.features
    Z = np.concatenate([base.features.Z, base.features.Z[..., :1]], -1)
    problem = Problem(base.mdp, base.policy, Features(Z), base.weights)
    batch, loss, model = transition_batch(problem), even_loss(problem), fit_linear_model(problem)
    assert model.rank == problem.d - 1
    set_model(loss, model.w_r, model.W_d)
    allowed = model_rounding(problem, len(batch), model.w_r, model.W_d)
    for found, most in zip(model_gradient(loss, batch), allowed, strict=True):
        assert np.all(np.abs(found) <= most)
    assert parameter(loss).grad is None
