"""A user's own loop: TorchRL's collectors, our replay and losses, the user's optimisers.

Read the first test as an example. Which records share a window is checked by the oracle, on
observations that tell their lane, episode and time; two tests start worker processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torchrl.collectors import Collector, MultiAsyncCollector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, ReplayBuffer, RoundRobinWriter, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, set_exploration_type

from uld_torchrl import HorizonWindow, InputError, PeriodicHardUpdate, SubTrajectorySampler, make_env
from uld_torchrl.config import AgentConfig
from uld_torchrl.trainers.adapter import TorchRLTrainer

# Silences a warning about recurrent policies that TorchRL 0.14 gives for every policy.
QUIET = {"auto_register_policy_transforms": False}


def test_collector_replay_and_losses_with_the_users_own_optimisers_learn(make_parts: Callable) -> None:
    env = make_env("CartPole-v1", num_envs=2, seed=0)
    agent = make_parts(env, 2)
    loss, rb = agent.loss, agent.buffer
    encoder = [loss.state_encoder_params, loss.state_action_encoder_params, loss.predictor_params]
    optimisers = [
        torch.optim.Adam([p for params in networks for p in params.parameters()], lr=1e-2)
        for networks in (encoder, [loss.qvalue_network_params], [loss.actor_network_params])
    ]
    targets = PeriodicHardUpdate(loss, period=10)
    collector = Collector(env, agent.policy, frames_per_batch=20, total_frames=300, **QUIET)
    reward_errors = []
    for data in collector:
        rb.extend(data)  # [num_envs, T]: a lane for each environment
        for _ in range(5):
            targets.step()
            window = rb.sample()
            encoder_loss, parts = loss.encoder_loss(window)
            value_loss, value = loss.value_loss(window)
            rb.update_priority(window["anchor_index"], value["td_error"])
            actor_loss, _ = loss.actor_loss(value)
            for optimiser, one_loss in zip(optimisers, (encoder_loss, value_loss, actor_loss), strict=True):
                optimiser.zero_grad()
                one_loss.backward()
                optimiser.step()
            reward_errors.append(float(parts["reward_mae"]))
    collector.shutdown()
    assert rb[:].shape == (2, 150)
    # Every reward is 1, and the reward head is learning that.
    assert sum(reward_errors[-5:]) < sum(reward_errors[:5]) / 20


def test_priorities_set_by_the_users_loop_are_those_of_the_windows_drawn(make_parts: Callable) -> None:
    env = make_env("Pendulum-v1", num_envs=1, seed=0)
    agent = make_parts(env, 1)
    collector = Collector(env, agent.policy, frames_per_batch=40, total_frames=40, **QUIET)
    agent.buffer.extend(next(iter(collector)))
    collector.shutdown()
    PeriodicHardUpdate(agent.loss, period=10)
    window = agent.buffer.sample()
    _, value = agent.loss.value_loss(window)
    agent.buffer.update_priority(window["anchor_index"], 100 * value["td_error"])
    largest: dict[tuple[int, ...], float] = {}
    for anchor, error in zip(window["anchor_index"][:, 0].tolist(), value["td_error"].double(), strict=True):
        # The target's noise differs between two draws of one anchor; the larger error counts.
        largest[tuple(anchor)] = max(largest.get(tuple(anchor), 0.0), 100 * float(error))
    assert len(set(largest.values())) > 1
    for anchor, error in largest.items():
        assert float(agent.buffer.sampler.priorities[anchor]) == pytest.approx(max(error, 1) ** 0.4)


def all_windows(buffer: Any) -> TensorDictBase:
    """Draw so often that every legal window is there."""
    with pytest.warns(UserWarning, match="conflicting batch_sizes"):
        return buffer.sample(3000)


def test_one_collector_continues_its_lanes_across_batches(
    clock: type, make_parts: Callable, find_strays: Callable, script: Callable
) -> None:
    env = clock(3)
    agent = make_parts(env, 3)
    for data in Collector(env, agent.policy, frames_per_batch=12, total_frames=120, **QUIET):
        agent.buffer.extend(data)
    assert_lanes_are_whole(agent.buffer, [0, 1, 2], find_strays, script)


def assert_lanes_are_whole(buffer: Any, lanes: list[int], find_strays: Callable, script: Callable) -> None:
    """Check that each lane holds one environment without a gap, and ends where the script ends it."""
    records = buffer[:]
    lane, episode, time = records["observation"].unbind(-1)
    assert lane.tolist() == [[k] * records.shape[1] for k in lanes]
    terminated, truncated = script(records["observation"])
    assert torch.equal(records["next", "terminated"], terminated)
    assert torch.equal(records["next", "truncated"], truncated)
    ended = (terminated | truncated)[:, :-1, 0]
    assert torch.equal(episode.diff(), ended.float())
    assert torch.equal(time[:, 1:], torch.where(ended, 0.0, time[:, :-1] + 1))
    assert not find_strays(all_windows(buffer)).any()


def in_turns(clock: type, policy: Any, set_truncated: bool, order: list[int]) -> list[TensorDictBase]:
    """Return batches of several collectors of one environment each, in the order in which they arrive."""
    workers = [
        iter(
            Collector(
                clock(1, first),
                policy,
                frames_per_batch=7,
                total_frames=7 * order.count(first),
                set_truncated=set_truncated,
                **QUIET,
            )
        )
        for first in range(max(order) + 1)
    ]
    return [next(workers[k]) for k in order]


ORDERS = [[0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 1, 2], [2, 1, 1, 0, 2, 2, 0, 1]]


@pytest.mark.parametrize("order", ORDERS)
def test_batches_in_any_order_mix_no_window_when_the_collector_marks_their_ends(
    clock: type, make_parts: Callable, find_strays: Callable, script: Callable, order: list[int]
) -> None:
    agent = make_parts(clock(1), 1)
    for data in in_turns(clock, agent.policy, True, order):
        agent.buffer.extend(data)
    windows = all_windows(agent.buffer)
    assert not find_strays(windows).any()
    # And no other window is lost than those which a batch's end cuts.
    terminated, truncated = script(agent.buffer[:]["observation"][0])
    truncated[6::7] = True
    legal = {k for k in range(len(order) * 7 - 2) if is_legal(terminated[k : k + 3], truncated[k : k + 3])}
    assert set(windows["anchor_index"][:, 0, 0].tolist()) == legal


def is_legal(terminated: torch.Tensor, truncated: torch.Tensor) -> bool:
    """Walk along a window: a termination allows it, a truncation before its end forbids it."""
    for k in range(len(terminated) - 1):
        if terminated[k]:
            return True
        if truncated[k]:
            return False
    return True


@pytest.mark.parametrize("order", ORDERS)
def test_the_oracle_finds_mixed_windows_when_their_ends_are_not_marked(
    clock: type, make_parts: Callable, find_strays: Callable, order: list[int]
) -> None:
    agent = make_parts(clock(1), 1)
    for data in in_turns(clock, agent.policy, False, order):
        agent.buffer.extend(data)
    assert find_strays(all_windows(agent.buffer)).any()


def workers(clock: type) -> list[Callable[[], Any]]:
    """Two workers of two lanes each: lanes 0 and 1, lanes 2 and 3."""
    return [partial(clock, 2, 0), partial(clock, 2, 2)]


def follows(policy: Any, data: TensorDictBase) -> bool:
    """Tell whether the actions are those of the policy with the weights it has here, now."""
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        action = policy(data.select("observation").clone())["action"]
    return torch.allclose(action, data["action"], atol=1e-5)


def test_sync_workers_fill_a_lane_for_each_environment_and_get_the_trainers_weights(
    clock: type,
    make_parts: Callable,
    config: AgentConfig,
    find_strays: Callable,
    script: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make_parts(clock(2), 4)
    collector = MultiSyncCollector(
        workers(clock),
        agent.policy,
        frames_per_batch=20,
        total_frames=100,
        exploration_type=ExplorationType.DETERMINISTIC,
        **QUIET,
    )
    monkeypatch.setattr(collector, "cat_results", -1)
    with pytest.raises(InputError, match="cat_results must be 'stack'"):
        TorchRLTrainer(agent.loss, agent.buffer, collector, total_frames=100)
    monkeypatch.undo()
    trainer = TorchRLTrainer(
        agent.loss, agent.buffer, collector, total_frames=100, config=config.optim, progress_bar=False
    )
    used_new_weights = []
    trainer.register_op("batch_process", lambda data: used_new_weights.append(follows(agent.policy, data)))
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    trainer.train()
    assert used_new_weights == [True] * 5
    assert trainer.optimization_stepper.updates == 100
    assert not any(map(torch.equal, before, agent.policy.parameters()))
    assert_lanes_are_whole(agent.buffer, [0, 1, 2, 3], find_strays, script)


def test_async_workers_share_lanes_without_mixing_and_get_new_weights(
    clock: type, make_parts: Callable, find_strays: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_parts(clock(2), 2)
    collector = MultiAsyncCollector(
        workers(clock),
        agent.policy,
        frames_per_batch=20,
        total_frames=200,
        exploration_type=ExplorationType.DETERMINISTIC,
        set_truncated=True,
        **QUIET,
    )
    monkeypatch.setattr(collector, "set_truncated", False)
    with pytest.raises(InputError, match="set_truncated=True"):
        TorchRLTrainer(agent.loss, agent.buffer, collector, total_frames=100)
    monkeypatch.undo()
    accepted = TorchRLTrainer(agent.loss, agent.buffer, collector, total_frames=100)
    assert accepted.collector is collector
    came_from, with_old, old = [], [], None
    for data in collector:
        agent.buffer.extend(data)
        came_from.append(float(data["observation"][0, 0, 0]))
        if old is None:
            old = torch.clone(data["action"])
            with torch.no_grad():
                for parameter in agent.loss.actor_network_params.parameters():
                    parameter.add_(0.3)
            collector.update_policy_weights_()
        with_old.append(not follows(agent.policy, data))
    collector.shutdown()
    assert set(came_from) == {0.0, 2.0}
    # Batches under way when the weights changed may be mixed; later ones are not.
    assert with_old[0] and not any(with_old[4:])
    assert not find_strays(all_windows(agent.buffer)).any()


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, TensorDictReplayBuffer])
def test_sampler_and_sample_unit_work_in_torchrls_own_replay_buffer(
    buffer_class: type, clock: type, make_parts: Callable, find_strays: Callable
) -> None:
    ring, lanes, horizon = 60, 2, 3
    rb = buffer_class(
        storage=LazyTensorStorage(ring * lanes, ndim=2),
        sampler=SubTrajectorySampler(ring, lanes, horizon),
        sample_unit=HorizonWindow(horizon),
        writer=RoundRobinWriter(),
        batch_size=8,
    )
    env = clock(lanes)
    agent = make_parts(env, lanes)
    # 80 time steps in a ring of 60: the oldest are overwritten.
    for data in Collector(env, agent.policy, frames_per_batch=20, total_frames=160, **QUIET):
        rb.extend(data)
    PeriodicHardUpdate(agent.loss, period=10)
    window, info = rb.sample(return_info=True)
    assert window.shape == (8, horizon)
    assert torch.isfinite(agent.loss(window)["loss_qvalue"])
    # Only a TensorDictReplayBuffer puts what is known of the windows into the sample itself.
    assert ("anchor_index" in set(window.keys())) == (buffer_class is TensorDictReplayBuffer)
    rb.update_priority(info["anchor_index"], torch.arange(8.0) + 1)
    assert float(rb.sampler.max_priority) == pytest.approx(8**0.4)
    with pytest.warns(UserWarning, match="conflicting batch_sizes"):
        windows, info = rb.sample(1000, return_info=True)
    assert not find_strays(windows.set("validity_mask", info["validity_mask"])).any()
    assert len(info["anchor_index"][:, 0].unique(dim=0)) > 50
