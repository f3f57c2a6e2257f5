"""Cost of 256 Atari windows with stacks: frames stored once against a naive buffer of full stacks.

Run: ``python tests/benchmarks/bench_frames.py``. Prints milliseconds (median) of one sample and of one write,
bytes of a stored step, and ratios, all measured in one run. The naive buffer stores every stack and next
stack; both draw by the same sampler.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tensordict import TensorDict

from uld_torchrl.data import PixelReplayBuffer, ReplayKeys, WindowReplayBuffer, make_replay_buffer

STEPS, EPISODE, ACTIONS = 20_000, 900, 18


def film(stack: int = 4) -> list[TensorDict]:
    """Return STEPS time steps of one lane, in episodes cut by truncation."""
    steps, frames = [], [torch.randint(256, (1, 1, 84, 84), dtype=torch.uint8)] * stack
    action = torch.zeros(1, ACTIONS, dtype=torch.long)
    for step in range(STEPS):
        now = torch.cat(frames, 1)
        frames = [*frames[1:], torch.randint(256, (1, 1, 84, 84), dtype=torch.uint8)]
        cut = torch.full((1, 1), step % EPISODE == EPISODE - 1)
        flags = {"terminated": torch.zeros_like(cut), "truncated": cut, "done": cut}
        after = {"pixels": torch.cat(frames, 1), "reward": torch.randn(1, 1), **flags}
        steps.append(TensorDict({"pixels": now, "action": action, "next": after}, batch_size=[1]))
        if bool(cut):
            frames = [torch.randint(256, (1, 1, 84, 84), dtype=torch.uint8)] * stack
    return steps


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def used(rb: WindowReplayBuffer) -> float:
    """Return the bytes of a stored step, records and frames."""
    records = sum(tensor.nbytes for tensor in rb._storage._storage.values(True, True))
    frames = rb.frames.nbytes if isinstance(rb, PixelReplayBuffer) else 0
    return (records + frames) / STEPS


def main() -> None:
    """Fill both buffers with the same steps and print what they cost."""
    steps = film()
    once = make_replay_buffer(capacity=STEPS, frame_stack=4)
    naive = make_replay_buffer(capacity=STEPS, keys=ReplayKeys.of_images())
    print(f"{torch.get_num_threads()} thread(s), {STEPS} steps, 256 windows of 5")
    print(f"{'':>22}  {'sample ms':>9}  {'write ms':>8}  {'bytes a step':>12}")
    figures = {}
    for name, rb in (("frames stored once", once), ("naive", naive)):
        rows = iter(steps)
        write = milliseconds(lambda: rb.add(next(rows)), STEPS)  # noqa: B023
        rb.sample()
        figures[name] = milliseconds(rb.sample, 30), write, used(rb)
        sample, write, size = figures[name]
        print(f"{name:>22}  {sample:>9.2f}  {write:>8.3f}  {size:>12.0f}")
    ratio = [b / a for a, b in zip(*figures.values(), strict=True)]
    print(f"{'naive / once':>22}  {ratio[0]:>9.2f}  {ratio[1]:>8.2f}  {ratio[2]:>12.2f}")


if __name__ == "__main__":
    main()
