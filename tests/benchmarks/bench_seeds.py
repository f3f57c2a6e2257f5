"""What an update of K seeds together costs beside K updates of single runs, in one process.

    python tests/benchmarks/bench_seeds.py [--device cuda] [--repeats 15]

An update is that of schedule every_step: sampling, encoder, value, policy. Single and stacked updates take
turns, so that other work on the machine falls on both; figures are medians.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Unbounded

from uld_torchrl import ULDOptimizationStepper, make_loss, make_networks, make_replay_buffer
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.trainers.engines import Eager
from uld_torchrl.trainers.stacked import StackedStepper
from uld_torchrl.trainers.streams import RandomStreams

OBSERVATION, ACTION, STEPS = 17, 6, 4000  # as HalfCheetah
WIDTHS = ("z_s_dim", "z_a_dim", "z_sa_dim", "hidden_dim")
SETTINGS = {
    "preset small (256 wide, batch 256)": override(preset("small"), ["optim.schedule=every_step"]),
    "64 wide, batch 128": override(
        preset("small"),
        ["optim.schedule=every_step", "optim.batch_size=128", *(f"model.{name}=64" for name in WIDTHS)],
    ),
}


def make_runs(config: AgentConfig, count: int, device: str) -> tuple[dict[int, Any], RandomStreams]:
    """Make the steppers of runs whose replay buffers hold random numbers."""
    spec, streams, steppers = Bounded(-1, 1, (ACTION,), device=device), RandomStreams(), {}
    no = torch.zeros(1, STEPS, 1, dtype=torch.bool)
    for seed in range(count):
        torch.manual_seed(seed)
        networks = make_networks(Unbounded(OBSERVATION), Bounded(-1, 1, (ACTION,)), config.model)
        for module in networks.modules():
            module.to(device)
        loss = make_loss(networks, spec, config)
        size = config.optim.batch_size
        buffer = make_replay_buffer(capacity=STEPS + 10, horizon=5, batch_size=size, device=device)
        seen, after = torch.randn(2, 1, STEPS, OBSERVATION)
        following = {"observation": after, "reward": torch.randn(1, STEPS, 1), "terminated": no}
        following |= {"truncated": no, "done": no}
        step = {"observation": seen, "action": torch.rand(1, STEPS, ACTION) * 2 - 1, "next": following}
        buffer.extend(TensorDict(step, batch_size=[1, STEPS], device=device))
        steppers[seed] = ULDOptimizationStepper(loss, buffer, config.optim, engine=Eager())
        loss.check_windows = False
        streams.add(seed)
    return steppers, streams


def seconds(work: Callable[[], Any], device: str) -> float:
    """Time a call."""
    begin = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(config: AgentConfig, count: int, repeats: int, device: str) -> tuple[float, float]:
    """Return the milliseconds of an update of one run, and of one of all runs together."""
    steppers, streams = make_runs(config, count, device)
    stacked = StackedStepper(steppers, streams)
    (single,) = make_runs(config, 1, device)[0].values()
    one, all_ = [], []
    for number in range(repeats + 2):
        first = seconds(lambda: single.step(None), device)
        second = seconds(lambda: stacked.step(stacked.sample()), device)
        if number >= 2:  # the first ones find memory and caches cold
            one.append(first)
            all_.append(second)
    return 1e3 * statistics.median(one), 1e3 * statistics.median(all_)


def main() -> None:
    """Print a table a setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    print(f"{torch.get_num_threads()} thread(s), {given.device}")
    for name, config in SETTINGS.items():
        print(f"\n{name}\n\n| seeds | one run, ms | together, ms | together / one | together / K runs |")
        print("| --- | --- | --- | --- | --- |")
        for count in (1, 2, 5, 10):
            one, both = measure(config, count, given.repeats, given.device)
            print(f"| {count} | {one:.1f} | {both:.1f} | {both / one:.2f} | {both / one / count:.2f} |")


if __name__ == "__main__":
    main()
