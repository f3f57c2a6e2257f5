"""``uld bench env``: stepping the environment, from the bare Gymnasium loop to a training run.

The yardstick of all is the bare loop of the same environment. The share of a run that evaluation takes is
that of all its episodes, beside the time between two evaluations.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import gymnasium
import torch
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl.bench.report import Figure, Report, machine
from uld_torchrl.bench.setup import DEFAULT_ENV, Parts, assemble
from uld_torchrl.bench.timing import Call, milliseconds
from uld_torchrl.config import AgentConfig, override
from uld_torchrl.envs import make_env
from uld_torchrl.envs.sources import find_source
from uld_torchrl.trainers import Callback, ULDTrainer
from uld_torchrl.trainers.evaluation import evaluate, make_eval_env

LANES = (1, 2, 4, 8)
ACTING = "with policy and replay"
PERIOD = 50
"""Steps in a period of the short runs: as many updates a step as in a longer one."""


def bench_env(
    config: AgentConfig, *, env: str = DEFAULT_ENV, device: torch.device | str = "cpu", quick: bool = False
) -> Report:
    """Measure a step of the environment, bare, wrapped, with policy and replay, and in a training run.

    Args:
        config: of the agent that acts and learns.
        env: by its name.
        device: of the agent.
        quick: few rounds; for tests.

    Example:
        >>> from uld_torchrl import bench, preset
        >>> report = bench.bench_env(preset("debug"), env="Pendulum-v1", quick=True)
        >>> report["wrapped"].yardstick
        'bare'
    """
    parts = assemble(config, env, device, steps=64)
    lanes = LANES[:2] if quick else LANES
    calls: dict[str, Call] = {"bare": _bare(env, parts.config)}
    calls |= {_named(count): wrapped_call(env, count, parts.config, device) for count in lanes}
    calls[ACTING] = acting_call(parts)
    times = milliseconds(calls, rounds=20 if quick else 2000, warm_up=10, device=device)
    plain = times.pop("bare")
    bare = Figure.of("bare", plain, "ms")
    figures = [bare, *(Figure.of(name, samples, "ms", to=bare) for name, samples in times.items())]
    for name in ("wrapped", ACTING):
        above = [mine - its for mine, its in zip(times[name], plain, strict=True)]
        figures.append(Figure.of(f"{name}, above bare", above, "ms"))
    for count in lanes:
        speeds = [1e3 * count / each for each in times[_named(count)]]
        figures.append(Figure.of(f"{_named(count)}, speed", speeds, "steps/s"))
    return Report("env", {**machine(device), "env": parts.env_id}, figures + _in_runs(config, parts, quick))


def _named(lanes: int) -> str:
    return "wrapped" if lanes == 1 else f"wrapped, {lanes} lanes"


def _bare(env: str, config: AgentConfig) -> Call:
    """Return one step of Gymnasium's own environment with a random action."""
    made: gymnasium.Env[Any, Any] = find_source(env, 1, False, config.pixels, config.atari).makers[0]()
    made.reset(seed=0)
    made.action_space.seed(0)
    actions = [made.action_space.sample() for _ in range(64)]

    def steps() -> Iterator[None]:
        while True:
            for action in actions:
                *_, terminated, truncated, _ = made.step(action)
                if terminated or truncated:
                    made.reset()
                yield

    return steps().__next__


def wrapped_call(env: str, lanes: int, config: AgentConfig, device: torch.device | str) -> Call:
    """Return one step of all lanes, without a policy.

    Example:
        >>> wrapped_call("Pendulum-v1", 2, AgentConfig(), "cpu")()
    """
    made = make_env(env, num_envs=lanes, seed=0, device=device, pixels=config.pixels, atari=config.atari)
    # The same action again and again: drawing one costs as much as a step.
    action, td = made.rand_action(made.reset())["action"], made.reset()

    def call() -> None:
        nonlocal td
        _, td = made.step_and_maybe_reset(td.set("action", action))

    return call


def acting_call(parts: Parts) -> Call:
    """Return one step of all lanes as training takes it before its update: policy, step, write.

    Example:
        >>> from uld_torchrl import preset
        >>> acting_call(assemble(preset("debug"), "Pendulum-v1", "cpu", steps=32))()
    """
    td = parts.env.reset()

    def call() -> None:
        nonlocal td
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            acted = parts.agent.policy(td)
        stepped, td = parts.env.step_and_maybe_reset(acted)
        parts.buffer.add(stepped)

    return call


class _Clock(Callback):
    """Notes the time every so many steps of a run."""

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.seen: list[tuple[int, float]] = []

    def __call__(self, trainer: ULDTrainer) -> None:
        """Note the step and the time."""
        self.seen.append((trainer.step, time.perf_counter()))


def _in_runs(config: AgentConfig, parts: Parts, quick: bool) -> list[Figure]:
    """Return steps/s of short training runs, and what evaluation adds."""
    steps = [_training(config, parts, lanes, quick) for lanes in ((1,) if quick else (1, 4))]
    episodes = config.run.eval_episodes
    with closing(make_eval_env(parts.env_id, episodes, parts.device, parts.config)) as env:
        seconds = _evaluation(parts, env)
    between = config.run.eval_every / steps[0].value
    share = Figure.of("evaluation, share of a run", [100 * seconds / (seconds + between)], "%")
    return [*steps, Figure.of(f"evaluation of {episodes} episodes", [seconds], "s"), share]


def _training(config: AgentConfig, parts: Parts, lanes: int, quick: bool) -> Figure:
    """Train over whole periods, so that each has its share of encoder updates."""
    period = min(config.optim.period, 5 if quick else PERIOD)
    begin = config.loss.horizon * lanes + config.optim.batch_size
    clock, rare = _Clock(period), 10**9
    short = {
        "optim.period": period,
        "run.num_envs": lanes,
        "run.random_steps": begin,
        "run.total_steps": -(-begin // period) * period + (3 if quick else 4) * period,
        **{f"run.{name}_every": rare for name in ("eval", "checkpoint", "log")},
        "run.eval_episodes": 1,
    }
    config = override(config, [f"{name}={value}" for name, value in short.items()])
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(
            ULDTrainer(parts.env_id, config, run_dir=folder, device=parts.device, callbacks=[clock])
        ) as trainer,
    ):
        trainer.train()
    learning = [row for row in clock.seen if row[0] > begin][:-1]  # the last one has seen an evaluation
    speeds = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(learning)]
    return Figure.of(f"training, {lanes} lane{'s' * (lanes > 1)}", speeds, "steps/s")


def _evaluation(parts: Parts, env: EnvBase) -> float:
    start = time.perf_counter()
    evaluate(env, parts.agent.policy, seed=0, episodes=parts.config.run.eval_episodes)
    return time.perf_counter() - start
