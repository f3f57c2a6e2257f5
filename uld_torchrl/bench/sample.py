"""``uld bench sample``: drawing, gathering and writing against the number of records in the replay buffer.

The yardstick of each is the same at 1e5 records. With an environment of images also what a naive buffer of
whole stacks would cost.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase

from uld_torchrl.bench.report import Figure, Report, machine
from uld_torchrl.bench.setup import DEFAULT_ENV
from uld_torchrl.bench.timing import Call, milliseconds
from uld_torchrl.config import AgentConfig
from uld_torchrl.data import ReplayKeys, WindowReplayBuffer, check_room, make_replay_buffer, replay_bytes
from uld_torchrl.envs import make_env, task_spaces

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
IMAGE_SIZES = (10_000,)
YARDSTICK = 100_000
EPISODE = 1000
CHUNK = 10_000


def bench_sample(
    config: AgentConfig, *, env: str = DEFAULT_ENV, device: torch.device | str = "cpu", quick: bool = False
) -> Report:
    """Measure draws alone, with the gather (whole windows, and the value's steps), updates and writes.

    Args:
        config: batch size, horizon and steps of the return are taken from it.
        env: whose records are written.
        device: of the replay buffer.
        quick: small buffers and few rounds; for tests.

    Raises:
        InputError: there is no room for the largest buffer.

    Example:
        >>> from uld_torchrl import bench, preset
        >>> report = bench.bench_sample(preset("debug"), env="Pendulum-v1", quick=True)
        >>> report["draw, 1e+03 records"].unit
        'ms'
    """
    made = make_env(env, seed=0, pixels=config.pixels, atari=config.atari)
    stack, step = task_spaces(made).frames, made.fake_tensordict()
    sizes = _sizes(quick, stack is not None)
    calls: dict[str, Call] = {}
    for size in sizes:
        for kind, buffer in _buffers(step, size, stack, config, device).items():
            own = _calls(buffer, step, config)
            calls |= {f"{name}, {size:.0e} records{kind}": call for name, call in own.items()}
    times = milliseconds(calls, rounds=5 if quick else 200, device=device)
    base = min(sizes, key=lambda size: abs(size - YARDSTICK))
    loss = config.loss
    settings = {"batch": config.optim.batch_size, "horizon": loss.horizon, "steps": loss.n_steps}
    figures = []
    for name, samples in times.items():
        first = Figure.of(f"{base:.0e} records", times[f"{name.split(',')[0]}, {base:.0e} records"], "ms")
        figures.append(Figure.of(name, samples, "ms", to=first))
    return Report("sample", {**machine(device), "env": env, **settings}, figures)


def _sizes(quick: bool, images: bool) -> tuple[int, ...]:
    if images:
        return (200,) if quick else IMAGE_SIZES
    return (1000, 2000) if quick else SIZES


def _buffers(
    step: TensorDictBase, size: int, stack: int | None, config: AgentConfig, device: torch.device | str
) -> dict[str, WindowReplayBuffer]:
    options: dict[str, Any] = {
        "horizon": config.loss.horizon,
        "batch_size": config.optim.batch_size,
        "device": device,
    }
    if stack is None:
        check_room(replay_bytes(step, size), size, device)
        buffer = make_replay_buffer(capacity=size, **options)
        _fill(buffer, step, size)
        return {"": buffer}
    keys = ReplayKeys.of_images()
    check_room(replay_bytes(step, size, keys=keys), size, device)
    once = make_replay_buffer(capacity=size, frame_stack=stack, **options)
    naive = make_replay_buffer(capacity=size, keys=keys, **options)
    _film(step, size, stack, (once, naive))
    return {"": once, ", whole stacks": naive}


def _fill(buffer: WindowReplayBuffer, step: TensorDictBase, size: int) -> None:
    """Write random records, in episodes cut by truncation, with uneven priorities."""
    chunk = min(CHUNK, size)
    rows = step.unsqueeze(-1).expand(1, chunk).clone()
    rows = rows.apply(lambda x: torch.randn_like(x) if x.is_floating_point() else x)
    truncated = (torch.arange(chunk) % EPISODE == EPISODE - 1).view(1, chunk, 1)
    rows.get("next").update({"truncated": truncated, "done": truncated})
    for _ in range(0, size, chunk):
        buffer.extend(rows)
    for _ in range(20):
        anchors = buffer.sample()["anchor_index"]
        buffer.update_priority(anchors, 10 * torch.rand(len(anchors), device=anchors.device))


def _film(step: TensorDictBase, size: int, stack: int, buffers: tuple[WindowReplayBuffer, ...]) -> None:
    """Write time steps of random frames to all buffers."""
    shape = step["pixels"].shape
    channels = shape[1] // stack
    now, ends = torch.zeros(shape, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.bool)
    for number in range(size):
        frame = torch.randint(256, (1, channels, *shape[2:]), dtype=torch.uint8)
        after = torch.cat([now[:, channels:], frame], 1)
        cut = ends.logical_or(torch.tensor(number % EPISODE == EPISODE - 1))
        flags = {"terminated": ends, "truncated": cut, "done": cut}
        following = {"pixels": after, "reward": torch.randn(1, 1), **flags}
        record = TensorDict({"pixels": now, "action": step["action"], "next": following}, batch_size=[1])
        for buffer in buffers:
            buffer.add(record)
        now = frame.repeat(1, stack, 1, 1) if bool(cut) else after


def _calls(buffer: WindowReplayBuffer, step: TensorDictBase, config: AgentConfig) -> dict[str, Call]:
    batch = config.optim.batch_size
    errors = torch.rand(batch, device=step.device)

    def draw() -> tuple[tuple[torch.Tensor, torch.Tensor], object]:
        return buffer._sampler.sample(buffer._storage, batch)

    calls: dict[str, Call] = {
        "draw": draw,
        "draw and gather windows": buffer.sample,
        "draw and gather the value's steps": partial(buffer.sample, steps=config.loss.n_steps),
        "draw and set priorities": lambda: buffer.update_priority(torch.stack(draw()[0], -1), errors),
    }
    if "pixels" not in step:
        calls["write"] = lambda: buffer.add(step)
    return calls
