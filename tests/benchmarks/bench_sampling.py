"""Cost of one draw of 256 windows against the buffer's size, and of one write.

Run: ``python tests/benchmarks/bench_sampling.py``. Prints milliseconds (median) and the ratio to the
smallest buffer, all measured in one run; keys and sizes are HalfCheetah's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict

from uld_torchrl import make_replay_buffer
from uld_torchrl.data import WindowReplayBuffer

OBSERVATION, ACTION, EPISODE = 17, 6, 1000
SIZES = (10_000, 100_000, 1_000_000)


def steps(count: int) -> TensorDict:
    """Return ``count`` random time steps of one lane, [1, count], in episodes cut by truncation."""
    truncated = (torch.arange(count) % EPISODE == EPISODE - 1).view(1, count, 1)
    flags = {"terminated": torch.zeros_like(truncated), "truncated": truncated, "done": truncated}
    after = {"observation": torch.randn(1, count, OBSERVATION), "reward": torch.randn(1, count, 1), **flags}
    before = {"observation": torch.randn(1, count, OBSERVATION), "action": torch.rand(1, count, ACTION)}
    return TensorDict({**before, "next": after}, batch_size=[1, count])


def filled(size: int) -> WindowReplayBuffer:
    """Return a full buffer of ``size`` time steps with uneven priorities."""
    rb = make_replay_buffer(capacity=size, horizon=5, batch_size=256)
    for _ in range(0, size, 10_000):
        rb.extend(steps(10_000))
    for _ in range(20):
        rb.update_priority(rb.sample()["anchor_index"], 10 * torch.rand(256))
    return rb


def median_ms(action: Callable[[], object], repeats: int = 200) -> float:
    """Return the median duration of ``action`` in milliseconds, after a warm-up."""
    times = []
    for repeat in range(repeats + 20):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start) if repeat >= 20 else 0.0)
    return statistics.median(times[20:])


def main() -> None:
    """Print the table."""
    rows = []
    for size in SIZES:
        rb, step = filled(size), steps(1)[:, 0]
        draw = median_ms(lambda rb=rb: rb._sampler.sample(rb._storage, 256))
        rows.append((size, draw, median_ms(rb.sample), median_ms(lambda rb=rb, step=step: rb.add(step))))
    print(f"threads {torch.get_num_threads()}; milliseconds, ratio to {SIZES[0]} entries in brackets")
    for size, *costs in rows:
        cells = [f"{cost:.3f} ({cost / first:.2f})" for cost, first in zip(costs, rows[0][1:], strict=True)]
        print(f"{size:>9} entries: draw {cells[0]}, draw and gather {cells[1]}, write {cells[2]}")


if __name__ == "__main__":
    main()
