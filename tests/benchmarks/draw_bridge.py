"""Draw docs/bridge-loss.png: descent on the agent's own value loss beside the rates ``theory`` predicts.

Run: ``python tests/benchmarks/draw_bridge.py [path]`` (20 seconds). Left: a Garnet of 20 states and 8
random features; plain gradient descent on ``ULDLoss.value_loss``, on the expectation over all transitions and
on batches that replay draws of transitions stepped through ``TabularEnv``. Right: Baird's star with and
without a target network.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import gymnasium
import numpy as np
import torch
from matplotlib.axes import Axes
from tensordict import TensorDict

from theory import (
    Features,
    Policy,
    Problem,
    Weights,
    catalogue,
    garnet,
    stability,
    target_network_radius,
    td_fixed_point,
)
from theory.plots.style import PALETTE, describe, few_log_ticks, new_figure, save
from theory.sampling_law import sampling_law
from uld_torchrl import PeriodicHardUpdate, ULDLoss, make_replay_buffer
from uld_torchrl.diagnostics import tabular_loss, transition_batch, value_weights
from uld_torchrl.envs import TabularEnv

RECORDS, BATCH = 50_000, 256
STEP_SIZE = 0.1  # alpha on Baird's star


def descent(loss: ULDLoss, batches, step_size: float, steps: int, *, period: int = 1, w0=None) -> np.ndarray:
    """Descend the value loss on these batches; return (steps + 1, d) weights, the start first."""
    updater = PeriodicHardUpdate(loss, period=period)
    parameters = list(loss.qvalue_network_params.parameters())
    if w0 is not None:
        value_weights(loss).copy_(torch.tensor(w0))
    optimizer = torch.optim.SGD(parameters, lr=step_size / 2.0)  # the gradient is 2 (A w - b)
    path = [value_weights(loss)[0].numpy().copy()]
    for batch in islice(batches, steps):
        updater.step()
        optimizer.zero_grad()
        loss.value_loss(batch)[0].backward()
        optimizer.step()
        path.append(value_weights(loss)[0].numpy().copy())
    return np.stack(path)


def forever(batch: TensorDict):
    """Yield one batch again and again."""
    while True:
        yield batch


def replayed(problem: Problem, behaviour: np.ndarray):
    """Step the environment from independent restarts, and yield batches from the agent's replay buffer."""
    env, draws = gymnasium.wrappers.TimeLimit(TabularEnv(problem.mdp), 1), np.random.default_rng(0)
    env.reset(seed=0)
    records = []
    for _ in range(RECORDS):
        seen, info = env.reset()
        action = int(draws.choice(problem.mdp.num_actions, p=behaviour[info["state"]]))
        after, reward, terminated, _, _ = env.step(action)
        records.append((seen, action, after, reward, terminated))
    seen, action, after, reward, ended = (torch.from_numpy(np.stack(c)) for c in zip(*records, strict=True))
    flags = {"terminated": ended, "truncated": ~ended, "done": torch.ones_like(ended)}
    following = {name: flag.unsqueeze(-1) for name, flag in flags.items()}
    following |= {"observation": after, "reward": reward.unsqueeze(-1)}
    one_hot = torch.nn.functional.one_hot(action, problem.mdp.num_actions)
    rb = make_replay_buffer(capacity=RECORDS + 8, horizon=1, batch_size=BATCH)
    record = {"observation": seen, "action": one_hot, "next": following}
    rb.extend(TensorDict(record, batch_size=[RECORDS]).unsqueeze(0))
    while True:
        yield rb.sample().apply(lambda x: x.double() if x.is_floating_point() else x)


def draw_garnet(axes: Axes) -> None:
    """Draw expected and sampled descents to the fixed point, and the predicted rate."""
    rng = np.random.default_rng(0)
    mdp = garnet(20, 3, 3, 0.9, seed=0, num_terminal=1)
    policy, behaviour = (Policy(rng.dirichlet(np.ones(3), 20)) for _ in range(2))
    weights = Weights.custom(mdp.start[:, None] * behaviour.probs)
    problem = Problem(mdp, policy, Features(rng.normal(size=(20, 3, 8))), weights)
    found, star, steps = stability(problem), td_fixed_point(problem).w, 400
    step_size, at = found.best_step_size, np.arange(steps + 1)
    exact = descent(tabular_loss(problem), forever(transition_batch(problem)), step_size, steps)
    torch.manual_seed(0)
    batches = replayed(problem, behaviour.probs)
    path = descent(tabular_loss(problem, next_action="sampled"), batches, step_size / 4, steps)
    mean = np.cumsum(path[1:], axis=0) / at[1:, None]
    trace = float(np.trace(sampling_law(problem)[0].covariance))
    level = np.sqrt(trace * (1.0 / (BATCH * at[1:]) + 1.0 / RECORDS))
    curves = (
        (at, path, "orange", 1.0, f"batches of {BATCH} from replay, $\\alpha/4$"),
        (at[1:], mean, "green", 2.0, "the mean of these iterates"),
        (at, exact, "blue", 2.5, "exact expectation, $\\alpha$"),
    )
    for x, weights, colour, width, label in curves:
        distance = np.linalg.norm(weights - star, axis=1)
        axes.loglog(x[-steps:], distance[-steps:], color=PALETTE[colour], linewidth=width, label=label)
    line = distance[50] * found.best_rate ** (at - 50.0)
    axes.loglog(at[1:], line[1:], "--", color=PALETTE["black"], label=f"predicted rate {found.best_rate:.3f}")
    axes.loglog(at[1:], level, ":", color=PALETTE["black"], label="predicted error of the mean")
    axes.set_ylim(1e-8, 1.0)
    describe(axes, "gradient step", r"$\|w_t-w^*\|$", "Descending the agent's value loss on a Garnet")
    axes.legend(fontsize=8)


def draw_baird(axes: Axes) -> None:
    """Draw Baird's star with targets replaced after 1 and after 10 steps, and the predicted rates."""
    problem = catalogue.load("baird_star").problem
    fixed, steps = td_fixed_point(problem), 2000
    for period, colour in ((1, "vermillion"), (10, "blue")):
        loss, batch = tabular_loss(problem), forever(transition_batch(problem))
        w0 = np.array([1.0, 1, 1, 1, 1, 1, 10, 1])
        path = descent(loss, batch, STEP_SIZE, steps if period > 1 else 600, period=period, w0=w0)
        away = path - fixed.w
        distance = np.linalg.norm(away - (away @ fixed.null_space) @ fixed.null_space.T, axis=1)
        radius = target_network_radius(problem, STEP_SIZE, period).radii[0]
        label = "no target network (K = 1)" if period == 1 else "target network, K = 10"
        at = np.arange(len(distance))
        axes.semilogy(at, distance, color=PALETTE[colour], linewidth=2, label=label)
        top = 100 + int(np.argmax(distance[100:] * radius ** (-at[100:] / period)))  # touch it from above
        line = distance[top] * radius ** ((at - top) / period)
        axes.semilogy(at, line, "--", color=PALETTE["black"], label=f"predicted {radius:.4f} per replacement")
    axes.set_ylim(1e-1, 1e7)
    few_log_ticks(axes.yaxis)
    describe(axes, "gradient step", r"$\|w_t-w^*\|$", "Baird's star, step size 0.1")
    axes.legend(fontsize=8)


def main(path: str) -> None:
    """Write the picture."""
    figure, (left, right) = new_figure(2)
    draw_garnet(left)
    draw_baird(right)
    save(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or [str(Path(__file__).parents[2] / "docs/bridge-loss.png")]))
