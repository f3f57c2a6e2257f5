"""What a soft Gumbel-softmax policy climbs: values of mixtures of actions, unknown to theory and data.

Two actions, whose values differ by a hundredth; between them the critic, which only ever saw one-hot actions,
says something of its own, here a hump. The policy's objective E[Q(softmax((l + g) / tau))] is an integral
over one logistic variable, the difference of two Gumbel ones. At temperature 1 its maximum lies on the side
of the worse action; at 0.2 samples are almost one-hot, and it lies on that of the better one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from uld_torchrl.modules import GumbelPolicy

BETTER, WORSE, HUMP = 1.0, 0.99, 0.04


def value(first: NDArray[np.float64]) -> NDArray[np.float64]:
    """The critic at (first, 1 - first): right at both actions, HUMP at most too high, nearer to the worse."""
    return WORSE + (BETTER - WORSE) * first + HUMP * 27 / 4 * first * (1 - first) ** 2


NOISE = np.linspace(
    -40, 40, 80_001
)  # smooth integrands that vanish at both ends: the sum is exact to rounding
DENSITY = expit(NOISE) * expit(-NOISE)


def objective(logit: float, tau: float) -> float:
    """E[Q] at a difference of logits."""
    return float(np.trapezoid(value(expit((logit + NOISE) / tau)) * DENSITY, NOISE))


def best(tau: float) -> float:
    """The difference of logits with the highest objective; where positive, the greedy action is the first."""
    grid = np.linspace(-12, 12, 97)
    return float(grid[np.argmax([objective(logit, tau) for logit in grid])])


def test_the_hump_hides_no_value_of_an_action() -> None:
    assert value(np.array([1.0, 0.0])).tolist() == [BETTER, WORSE]


@pytest.mark.parametrize("tau", [1.0, 0.2])
@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_the_policy_has_the_law_of_the_integral(tau: float, logit: float) -> None:
    policy = GumbelPolicy(2, 2, 4, tau).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.mlp.l3.bias.copy_(torch.tensor([logit, 0.0]))
    torch.manual_seed(0)
    draws = 100_000
    action, _ = policy(torch.zeros(draws, 2, dtype=torch.float64))
    found = value(action[:, 0].detach().numpy())
    # Six standard errors: once in 10^9.
    assert abs(found.mean() - objective(logit, tau)) < 6 * found.std() / np.sqrt(draws)


def test_at_temperature_one_the_worse_action_is_chosen_and_at_a_fifth_the_better() -> None:
    assert best(1.0) < 0
    assert objective(best(1.0), 1.0) > BETTER  # it promises itself more than any action is worth
    assert best(0.2) > 0


def test_without_the_hump_both_temperatures_choose_the_better_action(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.HUMP", 0.0)
    assert best(1.0) == best(0.2) == 12.0
