"""What the bridge's tests share: random problems, gradients of the agent's loss, what rounding allows.

A tolerance here is a count of roundings times the size of what is rounded (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1: a sum of k products is off by at most k u times the sum of their absolute
values, in any order), written down with the count; none is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import strategies as st
from tensordict import TensorDict

from theory import Features, Policy, Problem, Weights, garnet, td_system
from uld_torchrl import PeriodicHardUpdate, ULDLoss
from uld_torchrl.diagnostics.tabular import value_weights

UNIT = 2.0**-53
"""The largest relative error of one float64 operation."""


def garnet_problem(
    seed: int = 0,
    *,
    states: int = 5,
    actions: int = 2,
    ends: int = 1,
    d: int = 3,
    gamma: float = 0.9,
    weights: str = "random",
) -> Problem:
    """A Garnet with a random stochastic policy, random features and these weights."""
    rng = np.random.default_rng(seed)
    mdp = garnet(states, actions, 2, gamma, seed=seed, num_terminal=ends)
    policy = Policy(rng.dirichlet(np.ones(actions), states))
    live = ~mdp.terminal[:, None] * np.ones(actions)
    mu = {
        "random": lambda: Weights.custom(_share(live * rng.uniform(0.1, 1.0, live.shape))),
        "part": lambda: Weights.custom(_share(live * (1 + np.arange(live.size).reshape(live.shape)) % 3)),
        "uniform": lambda: Weights.uniform(mdp),
        "discounted": lambda: Weights.discounted(mdp, policy),
    }[weights]()
    return Problem(mdp, policy, Features(rng.normal(size=(states, actions, d))), mu)


def _share(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Garnets of many sizes, with and without ends, under weights of each kind."""
    return garnet_problem(
        draw(st.integers(0, 2**20)),
        states=draw(st.integers(2, 6)),
        actions=draw(st.integers(1, 3)),
        ends=draw(st.integers(0, 1)),
        d=draw(st.integers(1, 6)),
        gamma=draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])),
        weights=draw(st.sampled_from(["random", "part", "uniform", "discounted"])),
    )


def random_weights(problem: Problem, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=problem.d)


def parameter(loss: ULDLoss) -> torch.Tensor:
    """The one parameter of the value heads, [heads, 1, d]."""
    (found,) = loss.qvalue_network_params.parameters()
    return found


def set_values(loss: ULDLoss, w: np.ndarray, target: np.ndarray | None = None) -> None:
    """Set every head to w, and every target head too, or to ``target``."""
    value_weights(loss).copy_(torch.as_tensor(w))
    PeriodicHardUpdate(loss).copy_()
    if target is not None:
        value_weights(loss, target=True).copy_(torch.as_tensor(target))


def value_gradient(loss: ULDLoss, batch: TensorDict) -> np.ndarray:
    """The gradient of the agent's value loss, (heads, d)."""
    (gradient,) = torch.autograd.grad(loss.value_loss(batch)[0], [parameter(loss)])
    return gradient.squeeze(1).numpy()


def roundings(problem: Problem, windows: int) -> int:
    """Roundings on the way to one entry of an expected gradient, by the loss and by the theory.

    The loss: d products and sums for each of two values, four operations for target and error, two for the
    window's probability, four for squares and means, and two sums over the windows (losses times weights, and
    weights). The theory: three sums over at most n rows (C and X; the next features, over states and actions;
    b), d for the product with w, and four more.
    """
    return (2 * windows + 2 * problem.d + 10) + (3 * problem.n + problem.d + 4)


def size_of_gradient(problem: Problem, w: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The sum of the absolute values of all products in A w - b, (d,)."""
    Z = np.abs(problem.Z)
    inside = Z @ np.abs(w) + np.abs(problem.r) + problem.gamma * (problem.chain @ (Z @ np.abs(target)))
    return Z.T @ (problem.mu * inside)


def expected_gradient(problem: Problem, w: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """A w - b; with a target network, C w - b - gamma X w'."""
    system = td_system(problem)
    if target is None:
        return system.A @ w - system.b
    return system.C @ w - system.b - problem.gamma * (system.X @ target)


def descend(loss: ULDLoss, batch: TensorDict, step_size: float, *, period: int = 1) -> Iterator[np.ndarray]:
    """Run plain gradient descent on the value loss, 2 (A w - b), and yield w before each step."""
    updater = PeriodicHardUpdate(loss, period=period)
    optimizer = torch.optim.SGD([parameter(loss)], lr=step_size / 2.0)
    while True:
        yield value_weights(loss)[0].numpy().copy()
        updater.step()
        optimizer.zero_grad()
        loss.value_loss(batch)[0].backward()
        optimizer.step()
