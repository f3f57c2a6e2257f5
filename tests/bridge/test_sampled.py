"""Sampled TD through the Gymnasium version of an MDP: its solutions scatter about w* exactly as the law says.

Data are independent restarts: every episode is cut after one step (or n), so the windows in the replay buffer
are independent, and no correlation along trajectories enters. M windows are drawn with replacement from N
records and the loss draws a' anew for each, so the mean of z delta has the covariance

    Sigma / M + (1 - 1 / M) Sigma' / N,    Sigma = E[z z' delta^2],  Sigma' the same of E[delta | s, a, s'],

where delta is the TD error at w*. The sampled solution w obeys A_M (w - w*) = mean of z delta exactly, A_M
being the sample's own matrix, so no linearisation enters: in the metric of this covariance the square of
A_M (w - w*) is chi-squared, by the central limit theorem for means over thousands of records. Each judgement
errs with probability FALSE_ALARM; seeds are fixed.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from bridged import garnet_problem, set_values, value_gradient
from scipy.stats import chi2
from tensordict import TensorDict

from theory import (
    Features,
    Policy,
    Problem,
    TabularMDP,
    Weights,
    catalogue,
    garnet,
    n_step_fixed_point,
    stability,
    td_fixed_point,
    td_system,
)
from theory.sampling_law import sampling_law
from uld_torchrl import ULDLoss, make_replay_buffer
from uld_torchrl.diagnostics import tabular_loss, transition_batch
from uld_torchrl.envs import TabularEnv, named_mdp

FALSE_ALARM = 1e-6


def restarts(
    mdp: TabularMDP, behaviour: np.ndarray, episodes: int, windows: int, seed: int, *, length: int = 1
) -> TensorDict:
    """Play episodes of so many steps at most through Gymnasium's interface, and draw windows from replay."""
    env = gymnasium.wrappers.TimeLimit(TabularEnv(mdp), length)
    env.reset(seed=seed)
    draws, steps = np.random.default_rng(seed), []
    for _ in range(episodes):
        (seen, info), done = env.reset(), False
        while not done:
            action = int(draws.choice(mdp.num_actions, p=behaviour[info["state"]]))
            after, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            steps.append((seen, action, after, reward, terminated, truncated and not terminated, done))
            seen = after
    columns = [torch.from_numpy(np.stack(column)) for column in zip(*steps, strict=True)]
    one_hot = torch.nn.functional.one_hot(columns[1], mdp.num_actions)
    names = ("observation", "reward", "terminated", "truncated", "done")
    values = (columns[2], *(column.unsqueeze(-1) for column in columns[3:]))
    record = {"observation": columns[0], "action": one_hot, "next": dict(zip(names, values, strict=True))}
    rb = make_replay_buffer(
        capacity=len(steps) + length,
        horizon=length,
        batch_size=windows,
        generator=torch.Generator().manual_seed(seed),
    )
    rb.extend(TensorDict(record, batch_size=[len(steps)]).unsqueeze(0))
    return rb.sample()


class Sampled:
    """The affine function of w that TD descends on these windows, whose a' are drawn once."""

    def __init__(self, loss: ULDLoss, windows: TensorDict, seed: int) -> None:
        self.loss, self.seed = loss, seed
        self.batch = windows.apply(lambda x: x.double() if x.is_floating_point() else x)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Half the loss's gradient, A_M w - b_M (d,)."""
        torch.manual_seed(self.seed)
        set_values(self.loss, w)
        return value_gradient(self.loss, self.batch)[0] / 2

    def solution(self, d: int) -> np.ndarray:
        """The w at which it is zero."""
        at_zero = self.gradient(np.zeros(d))
        slopes = np.stack([self.gradient(unit) - at_zero for unit in np.eye(d)], axis=1)
        return np.linalg.solve(slopes, -at_zero)

    def square(self, w: np.ndarray, star: np.ndarray, covariance: np.ndarray) -> float:
        """The square of A_M (w - star) in the metric of a covariance."""
        moved = self.gradient(w) - self.gradient(star)
        return float(moved @ np.linalg.solve(covariance, moved))


def second_moment(problem: Problem) -> np.ndarray:
    """Sigma (d, d) at the fixed point, from the law of the solutions A^-1 Sigma A^-T."""
    A = td_system(problem).A
    return A @ sampling_law(problem)[0].covariance @ A.T


def lstd_setting(name: str) -> tuple[Problem, TabularMDP, np.ndarray]:
    """A problem, its MDP, and the behaviour whose first steps are distributed as the problem's weights."""
    if name != "garnet":
        mdp = named_mdp(f"catalogue-{name}")
        return catalogue.load(name).problem, mdp, np.ones((mdp.num_states, 1))
    given = garnet_problem(0)
    mdp, policy, features = given.mdp, given.policy, given.features
    assert mdp and policy and features
    behaviour = Policy(policy.probs[:, ::-1])
    problem = Problem(mdp, policy, features, Weights.custom(mdp.start[:, None] * behaviour.probs))
    return problem, mdp, behaviour.probs


def averaged(problem: Problem) -> np.ndarray:
    """Sigma' (d, d): the TD error averaged over the next action, at the fixed point."""
    batch, w = transition_batch(problem), td_fixed_point(problem).w
    chance, reward = batch["priority_weight"][:, 0].numpy(), batch["next", "reward"].flatten().numpy()
    values = value_of(problem, batch["next", "observation"][:, 0].numpy(), w)
    z = features_of(problem, batch["observation"][:, 0].numpy())
    S = batch["next", "observation"].shape[-1] - batch["action"].shape[-1]
    pair = np.concatenate([batch["observation"][:, 0], batch["next", "observation"][:, 0, :S]], -1)
    _, group = np.unique(pair, axis=0, return_inverse=True)
    delta = reward + problem.gamma * values - z @ w
    total = np.bincount(group.ravel(), chance)[group.ravel()]
    mean = np.bincount(group.ravel(), chance * delta)[group.ravel()] / total
    return (z.T * (chance * mean**2)) @ z


def features_of(problem: Problem, seen: np.ndarray) -> np.ndarray:
    """The features of [one-hot of s, one-hot of a], zero in terminal states."""
    A = 1 if problem.mdp is None else problem.mdp.num_actions
    state, action = seen[:, :-A].argmax(axis=1), seen[:, -A:].argmax(axis=1)
    rows = np.arange(problem.n) if problem.rows is None else problem.rows
    table = np.zeros(((seen.shape[1] - A) * A, problem.d))
    table[rows] = problem.Z
    return table[state * A + action]


def value_of(problem: Problem, seen: np.ndarray, w: np.ndarray) -> np.ndarray:
    return features_of(problem, seen) @ w


@pytest.mark.parametrize("name", ["garnet", "boyan_chain", "sign_flip"])
def test_solutions_scatter_about_the_fixed_point_by_the_law(name: str) -> None:
    problem, mdp, behaviour = lstd_setting(name)
    records, windows, runs = 1500, 3000, 16
    star = td_fixed_point(problem).w
    spread = second_moment(problem) / windows + (1 - 1 / windows) * averaged(problem) / records
    loss, squares = tabular_loss(problem, next_action="sampled"), []
    for seed in range(runs):
        sampled = Sampled(loss, restarts(mdp, behaviour, records, windows, seed), seed)
        squares.append(sampled.square(sampled.solution(problem.d), star, spread))
    low, high = chi2.isf([1 - FALSE_ALARM / 2, FALSE_ALARM / 2], problem.d * runs)
    assert low <= sum(squares) <= high
    assert max(squares) <= chi2.isf(FALSE_ALARM / runs, problem.d)


def test_descent_on_sampled_transitions_stops_within_the_interval() -> None:
    """TD as it is run: gradient steps on the replayed windows, whose a' were drawn once."""
    problem, mdp, behaviour = lstd_setting("garnet")
    records, windows = 1500, 3000
    sample = restarts(mdp, behaviour, records, windows, 0)
    sampled = Sampled(tabular_loss(problem, next_action="sampled"), sample, 0)
    w, step_size, sizes = np.zeros(problem.d), stability(problem).best_step_size, []
    for _ in range(200):
        gradient = sampled.gradient(w)
        sizes.append(float(np.linalg.norm(gradient)))
        w = w - step_size * gradient
    assert sizes[-1] <= 1e-6 * sizes[0]
    star, spread = td_fixed_point(problem).w, second_moment(problem) * (1 / records + 1 / windows)
    interval = chi2.isf(FALSE_ALARM, problem.d)
    assert sampled.square(w, star, spread) <= interval
    # The start was far outside.
    assert sampled.square(np.zeros(problem.d), star, spread) > 10 * interval


@pytest.mark.parametrize("wrong", ["policy", "weights"])
def test_the_fixed_point_of_another_policy_or_weighting_is_refused(wrong: str) -> None:
    problem, mdp, behaviour = lstd_setting("garnet")
    assert problem.policy and problem.features and problem.weights
    other = (
        Problem(mdp, Policy.uniform(mdp), problem.features, problem.weights)
        if wrong == "policy"
        else Problem(mdp, problem.policy, problem.features, Weights.uniform(mdp))
    )
    records = 6000
    sample = restarts(mdp, behaviour, records, 2 * records, 1)
    sampled = Sampled(tabular_loss(problem, next_action="sampled"), sample, 1)
    w, spread = sampled.solution(problem.d), second_moment(problem) * (1 / records + 1 / (2 * records))
    limit = chi2.isf(FALSE_ALARM, problem.d)
    assert sampled.square(w, td_fixed_point(problem).w, spread) <= limit
    assert sampled.square(w, td_fixed_point(other).w, spread) > limit


def test_three_step_windows_of_another_policy_reach_the_three_step_fixed_point() -> None:
    # No ends: a window that begins later than its episode would cross the cut, so all begin with a restart.
    mdp, n, episodes, windows = garnet(4, 2, 2, 0.9, seed=3), 3, 4000, 12000
    rng = np.random.default_rng(3)
    policy, behaviour = Policy(rng.dirichlet(np.ones(2), 4)), Policy(rng.dirichlet(np.ones(2), 4))
    weights = Weights.custom(mdp.start[:, None] * behaviour.probs)
    problem = Problem(mdp, policy, Features(rng.normal(size=(4, 2, 3))), weights)
    batch = transition_batch(problem, n_steps=n, behaviour=behaviour)
    w = n_step_fixed_point(problem, n, behaviour=behaviour).w
    rewards = batch["next", "reward"].squeeze(-1).numpy() @ 0.9 ** np.arange(n)
    z = features_of(problem, batch["observation"][:, 0].numpy())
    delta = rewards + 0.9**n * value_of(problem, batch["next", "observation"][:, -1].numpy(), w) - z @ w
    sigma = (z.T * (batch["priority_weight"][:, 0].numpy() * delta**2)) @ z
    # At most: windows of one record share their rewards, but not a'.
    spread = sigma * (1 / episodes + 1 / windows)
    sample = restarts(mdp, behaviour.probs, episodes, windows, 5, length=n)
    sampled = Sampled(tabular_loss(problem, next_action="sampled", horizon=n, n_steps=n), sample, 5)
    found, limit = sampled.solution(problem.d), chi2.isf(FALSE_ALARM, problem.d)
    assert sampled.square(found, w, spread) <= limit
    for other in (td_fixed_point(problem).w, n_step_fixed_point(problem, n).w):
        assert sampled.square(found, other, spread) > limit
