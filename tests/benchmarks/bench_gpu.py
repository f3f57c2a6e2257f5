"""Full updates a second on a GPU: eager, compiled, as CUDA graphs; in one process, taking turns.

Run: ``python tests/benchmarks/bench_gpu.py [periods]``. A full update is one of the encoder, one of the value
and one of the policy, with their draws and priorities. Networks and batches are those of preset mrq on
HalfCheetah; without CUDA those of preset debug, on the CPU, to try the script.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Unbounded

from uld_torchrl import (
    InputError,
    ULDOptimizationStepper,
    make_loss,
    make_networks,
    make_replay_buffer,
    preset,
)

OBSERVATION, ACTION = 17, 6
WAYS = [
    ("float32", "off"),
    ("tf32", "off"),
    ("tf32", "on"),
    ("tf32", "graph"),
    ("bfloat16", "off"),
    ("bfloat16", "on"),
    ("bfloat16", "graph"),
]


def steps(count: int) -> TensorDict:
    """Return random time steps of one lane, [1, count]."""
    no = torch.zeros(1, count, 1, dtype=torch.bool)
    flags = {"terminated": no, "truncated": no.clone(), "done": no.clone()}
    after = {"observation": torch.randn(1, count, OBSERVATION), "reward": torch.randn(1, count, 1), **flags}
    before = {"observation": torch.randn(1, count, OBSERVATION), "action": torch.rand(1, count, ACTION)}
    return TensorDict({**before, "next": after}, batch_size=[1, count])


def make(device: str, precision: str, compiled: str) -> ULDOptimizationStepper:
    """Make a stepper on a filled replay buffer."""
    config, spec = preset("mrq" if device == "cuda" else "debug"), Bounded(-1, 1, (ACTION,))
    networks = make_networks(Unbounded(OBSERVATION), spec, config.model)
    loss = make_loss(networks, spec, config).to(device)
    loss.check_windows = False
    records = 100_000 if device == "cuda" else 2_000
    batch = config.optim.batch_size
    rb = make_replay_buffer(capacity=records, horizon=5, batch_size=batch, device=device)
    rb.extend(steps(records).to(device))
    rb.can_sample()
    optim = replace(config.optim, precision=precision, compile=compiled)  # type: ignore[arg-type]
    return ULDOptimizationStepper(loss, rb, optim, tell=print)


def updates_a_second(stepper: ULDOptimizationStepper, periods: int) -> float:
    """Return the rate over whole periods, the reading of their verdicts included."""
    updates = periods * stepper.config.period
    start = time.perf_counter()
    for _ in range(updates):
        stepper.step(None)
    if stepper.loss_module.reward_scale.is_cuda:
        torch.cuda.synchronize()
    return updates / (time.perf_counter() - start)


def main(periods: int) -> None:
    """Print the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads {torch.get_num_threads()}"
    steppers, rates = {}, {}
    for way in WAYS:
        try:
            steppers[way] = make(device, *way)
            updates_a_second(steppers[way], 1)  # compiles, records
        except InputError as error:
            print(f"{way[0]} {way[1]}: {error}")
            steppers.pop(way, None)
    for way in list(steppers) * 3:
        rates.setdefault(way, []).append(updates_a_second(steppers[way], periods))
    print(f"{name}, torch {torch.__version__}")
    print("| precision | compile | updates/s | ratio to float32 off |\n|---|---|---|---|")
    base = statistics.median(rates[WAYS[0]])
    for (precision, compiled), found in rates.items():
        rate = statistics.median(found)
        print(f"| {precision} | {compiled} | {rate:.0f} | {rate / base:.2f} |")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ["2"]))
