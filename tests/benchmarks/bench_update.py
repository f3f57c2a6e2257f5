"""Cost of the parts of one full-size update, beside the machine's matrix-multiplication rate.

Run: ``python tests/benchmarks/bench_update.py [preset]``. The rate is that of (1280, 512) x (512, 512)
in float32 with the same threads in the same run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from bench_sampling import ACTION, OBSERVATION, filled
from torchrl.data import Bounded, Unbounded

from uld_torchrl import ULDOptimizationStepper, make_loss, make_networks, preset

REPEATS = 20


def milliseconds(action: Callable[[], object]) -> float:
    """Return the median duration of ``action`` in milliseconds, after a warm-up."""
    times = []
    for _ in range(REPEATS + 3):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def matmul_rate() -> float:
    """Return the rate of float32 matrix multiplication in GFLOP/s."""
    left, right = torch.randn(1280, 512), torch.randn(512, 512)
    return 2 * 1280 * 512 * 512 / milliseconds(lambda: left @ right) / 1e6


def main(name: str) -> None:
    """Print the table."""
    config, spec = preset(name), Bounded(-1, 1, (ACTION,))
    loss = make_loss(make_networks(Unbounded(OBSERVATION), spec, config.model), spec, config)
    rb = filled(100_000)
    stepper = ULDOptimizationStepper(loss, rb, config.optim)
    stepper.target_updater.counter = 1  # no burst within the measurement
    batch = rb.sample()
    encoder = milliseconds(lambda: stepper._update_encoder(batch))
    value_and_policy = milliseconds(lambda: stepper.step(None, batch))
    print(f"preset {name}, threads {torch.get_num_threads()}, matrix rate {matmul_rate():.0f} GFLOP/s")
    print(f"encoder {encoder:.1f} ms, value and policy {value_and_policy:.1f} ms")
    print(f"one update {encoder + value_and_policy:.1f} ms")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["mrq"]))
