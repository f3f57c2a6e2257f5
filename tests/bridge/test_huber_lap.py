"""What the published value loss estimates where outcomes are random: not the mean, and by how much.

A state goes on to a reward K with probability p, else to nothing; K is in units of the reward scale, which
rare rewards make large. Huber's loss has the gradient min(|delta|, 1) sign(delta), LAP draws in proportion to
max(|delta|, 1) ** alpha. Where both errors exceed 1, the gradients balance at

    p (gamma K - q) ** alpha = (1 - p) q ** alpha,

the centre of the L^(1 + alpha) norm. It is the mean for alpha = 1 only; for the published 0.4 and p = 0.1 it
is 0.4 % of gamma K in place of 10 %. The theorems speak of means, hence of squared errors drawn uniformly.
"""

from __future__ import annotations

import numpy as np
import pytest
from bridged import set_values, value_gradient
from scipy.optimize import brentq

from theory import Problem
from uld_torchrl.diagnostics import tabular_loss, transition_batch

P, GAMMA = 0.1, 0.99


def lottery(prize: float) -> Problem:
    """From state 0 to state 1, whose reward is the prize, with probability P; else to state 2."""
    chain = [[0.0, P, 1.0 - P], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    return Problem.from_chain(chain, [0.0, prize, 0.0], np.eye(3), [1 / 3] * 3, GAMMA)


def estimate(value_loss: str, alpha: float, prize: float) -> float:
    """The value of state 0 at which the expected gradient of the loss under LAP is zero."""
    problem = lottery(prize)
    loss = tabular_loss(problem, value_loss=value_loss)
    even = transition_batch(problem)

    def gradient(q: float) -> float:
        set_values(loss, np.array([q, prize, 0.0]))
        _, found = loss.value_loss(even)
        errors = found[loss.tensor_keys.priority].clamp_min(1.0)
        drawn = even.clone()
        drawn["priority_weight"] = even["priority_weight"] * errors.pow(alpha).reshape(-1, 1)
        return float(value_gradient(loss, drawn)[0, 0])

    return float(brentq(gradient, 0.0, GAMMA * prize, xtol=1e-12))


def centre(alpha: float, prize: float) -> float:
    """Both errors above 1: the L^(1 + alpha) centre."""
    odds = (P / (1.0 - P)) ** (1.0 / alpha)
    return GAMMA * prize * odds / (1.0 + odds)


def centre_below_one(alpha: float, prize: float) -> float:
    """The error after nothing below 1, where Huber is quadratic: p (gamma K - q) ** alpha = (1 - p) q."""
    return float(brentq(lambda q: P * (GAMMA * prize - q) ** alpha - (1.0 - P) * q, 0.0, 1.0, xtol=1e-15))


@pytest.mark.parametrize("prize", [3.0, 100.0, 1000.0])
def test_squared_errors_drawn_uniformly_give_the_mean(prize: float) -> None:
    assert estimate("mse", 0.0, prize) == pytest.approx(P * GAMMA * prize, rel=1e-10)


def test_the_published_loss_gives_the_centre_of_another_norm() -> None:
    found = estimate("huber", 0.4, 1000.0)
    assert found == pytest.approx(centre(0.4, 1000.0), rel=1e-10)
    assert found == pytest.approx(4.06, abs=0.01)  # the mean is 99
    assert estimate("huber", 0.4, 100.0) == pytest.approx(centre_below_one(0.4, 100.0), rel=1e-10)


def test_in_proportion_to_the_error_it_is_the_mean_again() -> None:
    assert estimate("huber", 1.0, 1000.0) == pytest.approx(P * GAMMA * 1000.0, rel=1e-10)


def test_drawn_uniformly_it_is_nearly_the_median() -> None:
    assert estimate("huber", 0.0, 1000.0) == pytest.approx(P / (1.0 - P), rel=1e-10)  # the median is 0


def test_where_no_error_exceeds_one_it_is_the_mean() -> None:
    assert estimate("huber", 0.4, 1.0) == pytest.approx(P * GAMMA, rel=1e-10)
