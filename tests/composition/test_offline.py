"""Offline data: a recorded [N, T] data set through the replay buffer, and plain [B, H] slices of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector

from uld_torchrl import InputError, PeriodicHardUpdate, ULDOptimizationStepper
from uld_torchrl.config import AgentConfig

N, T, HORIZON = 6, 30, 3


@pytest.fixture
def dataset(clock: type) -> TensorDict:
    """Recorded trajectories [N, T] by random actions, and nothing in them but the documented entries."""
    data = next(iter(Collector(clock(N), None, frames_per_batch=N * T, total_frames=N * T)))
    kept = [("next", name) for name in ("observation", "reward", "terminated", "truncated", "done")]
    return data.select("observation", "action", *kept).contiguous()


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
def test_a_data_set_in_the_replay_buffer_trains_without_an_environment(
    dataset: TensorDict, clock: type, make_parts: Callable, find_strays: Callable, schedule: str
) -> None:
    agent = make_parts(clock(N), N)
    agent.buffer.extend(dataset)
    assert torch.equal(agent.buffer[:]["observation"], dataset["observation"])
    config = AgentConfig().optim
    config = type(config)(batch_size=4, period=5, schedule=schedule, encoder_lr=3e-3)
    stepper = ULDOptimizationStepper(agent.loss, agent.buffer, config)
    errors = []
    for _ in range(60):
        window = agent.buffer.sample()
        assert not find_strays(window).any()
        errors.append(float(stepper.step(None, window)["dynamics_error"]))
    assert sum(errors[-10:]) < sum(errors[:10]) / 2


def slices(dataset: TensorDict, script: Callable) -> TensorDict:
    """Return all windows [B, H] of the data set that do not run on past a truncation, by brute force."""
    found = []
    for lane in range(N):
        for start in range(T - HORIZON + 1):
            window = dataset[lane, start : start + HORIZON]
            terminated, truncated = (flag[:-1, 0].tolist() for flag in script(window["observation"]))
            first = [k for k in range(HORIZON - 1) if terminated[k] or truncated[k]]
            if not first or terminated[first[0]]:
                found.append(window)
    return torch.stack(found)


def test_plain_slices_give_the_losses_of_the_same_windows_from_the_buffer(
    dataset: TensorDict, clock: type, make_parts: Callable, script: Callable
) -> None:
    agent = make_parts(clock(N), N)
    PeriodicHardUpdate(agent.loss, period=5)
    agent.buffer.extend(dataset)
    window = agent.buffer.sample()
    assert {"validity_mask", "anchor_index"} <= set(window.keys())
    plain = window.exclude("validity_mask", "anchor_index")
    losses = []
    for td in (window, plain):
        torch.manual_seed(0)  # the noise of the target action
        losses.append(agent.loss(td.clone()))
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())

    offline = slices(dataset, script)
    assert offline.shape[1:] == (HORIZON,) and offline["next", "terminated"][:, 0].any()
    sum(value for name, value in agent.loss(offline).items() if name.startswith("loss_")).backward()
    assert all(parameter.grad is not None for parameter in agent.loss.parameters() if parameter.requires_grad)


def test_a_slice_across_a_truncation_is_refused(
    dataset: TensorDict, clock: type, make_parts: Callable, script: Callable
) -> None:
    agent = make_parts(clock(N), N)
    PeriodicHardUpdate(agent.loss, period=5)
    cut = int(script(dataset["observation"][0])[1].squeeze(-1).nonzero()[0])
    window = dataset[:1, cut : cut + HORIZON]
    with pytest.raises(InputError, match="runs on past the truncation at its step 0"):
        agent.loss(window)


def test_slices_alone_train_with_the_stepper_too(
    dataset: TensorDict, clock: type, make_parts: Callable, script: Callable
) -> None:
    agent = make_parts(clock(N), N)
    agent.buffer.extend(dataset)
    config = type(AgentConfig().optim)(batch_size=4, period=5, schedule="every_step")
    stepper = ULDOptimizationStepper(agent.loss, agent.buffer, config)
    offline, before = slices(dataset, script), agent.buffer.sampler.priorities.clone()
    for _ in range(3):
        stepper.step(None, offline[torch.randint(len(offline), (4,))])
    assert stepper.updates == 3
    # Slices have no anchors, so there is nothing to set priorities on.
    assert torch.equal(agent.buffer.sampler.priorities, before)
