"""Updates of several runs made together: each is the one that the run's own stepper makes.

The oracle is :class:`ULDOptimizationStepper`, of equal runs that are updated one by one. Whole runs are in
``test_seeds.py``; what an update consists of is in ``test_stepper.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict, TensorDictBase
from torch.nn.utils import clip_grad_norm_
from torchrl.data import Bounded, OneHot, Unbounded, UnboundedDiscrete

from uld_torchrl import NonFinite, make_loss, make_networks, make_replay_buffer
from uld_torchrl.config import AgentConfig, override, preset
from uld_torchrl.data import ReplayKeys
from uld_torchrl.trainers import ULDOptimizationStepper, Watchdog
from uld_torchrl.trainers.stacked import RunFailed, StackedStepper, clip_rows_, row_norms
from uld_torchrl.trainers.streams import RandomStreams

SEEDS = (7, 3)
BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(3, dtype=torch.int64)
PERIOD = 25
Steppers = dict[int, ULDOptimizationStepper]


def settings(*changes: str) -> AgentConfig:
    return override(preset("debug"), ["optim.batch_size=8", f"optim.period={PERIOD}", *changes])


def records(steps: int, spec: Any, *, images: bool) -> TensorDict:
    """Steps [1, steps] of one lane, of which every seventh is terminal."""
    key = "pixels" if images else "observation"

    def seen() -> torch.Tensor:
        if images:
            return torch.randint(256, (1, steps, 2, 32, 32), dtype=torch.uint8)
        return torch.randn(1, steps, 4)

    ended = (torch.arange(steps) % 7 == 6).view(1, steps, 1)
    following = {"reward": torch.randn(1, steps, 1), "terminated": ended, "done": ended.clone()}
    following |= {"truncated": torch.zeros_like(ended), key: seen()}
    return TensorDict(
        {key: seen(), "action": spec.rand((1, steps)), "next": following}, batch_size=[1, steps]
    )


def runs(config: AgentConfig, spec: Any = BOX, **options: Any) -> tuple[Steppers, RandomStreams]:
    """Make the steppers of two runs, each with networks and records from a random stream of its own."""
    images = options.pop("images", False)
    steppers, streams = {}, RandomStreams()
    for seed in SEEDS:
        torch.manual_seed(seed)
        seen = UnboundedDiscrete((2, 32, 32), dtype=torch.uint8) if images else Unbounded(4)
        loss = make_loss(make_networks(seen, spec, config.model, loss=config.loss), spec, config)
        keys = ReplayKeys.of_images() if images else None
        buffer = make_replay_buffer(capacity=200, horizon=config.loss.horizon, batch_size=8, keys=keys)
        buffer.extend(records(60, spec, images=images))
        steppers[seed] = ULDOptimizationStepper(loss, buffer, config.optim, **options)
        streams.add(seed)
    return steppers, streams


def together(steppers: Steppers, streams: RandomStreams, updates: int) -> list[TensorDictBase]:
    stacked = StackedStepper(steppers, streams)
    for _ in range(updates):
        metrics = stacked.step(stacked.sample())
    return metrics


def one_by_one(steppers: Steppers, streams: RandomStreams, updates: int) -> list[TensorDictBase]:
    metrics = []
    for seed, stepper in steppers.items():
        streams.switch(seed)
        for _ in range(updates):
            last = stepper.step(None)
        metrics.append(last)
    return metrics


def floats(stepper: ULDOptimizationStepper) -> Iterator[tuple[str, torch.Tensor]]:
    """Give networks, targets and scales, the priorities, and the optimisers' moments."""
    for name, value in stepper.loss_module.state_dict().items():
        if isinstance(value, torch.Tensor):
            yield name, value
    yield "priorities", stepper.replay_buffer.state_dict()["priorities"]
    for part, optimizer in stepper.optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                yield f"{part} {number} {name}", value


def flat(params: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in params.values(True, True)])


def furthest(one: Steppers, other: Steppers) -> float:
    """Return the largest relative distance of two tensors that should be equal."""
    distances = []
    for seed, stepper in one.items():
        for (name, mine), (same_name, theirs) in zip(floats(stepper), floats(other[seed]), strict=True):
            assert name == same_name
            scale = max(float(theirs.double().norm()), 1e-6)
            distances.append(float((mine.double() - theirs.double()).norm()) / scale)
    return max(distances)


@pytest.mark.parametrize(
    ("schedule", "spec"),
    [
        ("periodic", BOX),
        ("every_step", CHOICE),
        pytest.param("periodic", CHOICE, marks=pytest.mark.slow),
        pytest.param("every_step", BOX, marks=pytest.mark.slow),
    ],
)
def test_after_50_updates_every_run_is_what_it_is_alone(schedule: str, spec: Any) -> None:
    config = settings(f"optim.schedule={schedule}")
    stacked, alone = runs(config, spec), runs(config, spec)
    metrics = together(*stacked, 50)
    expected = one_by_one(*alone, 50)
    assert furthest(stacked[0], alone[0]) < 1e-5
    for mine, theirs in zip(metrics, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(
            torch.allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6) for name in list(theirs.keys())
        )
    assert [stepper.counters for stepper in stacked[0].values()] == [
        {"updates": 50, "skipped_updates": 0}
    ] * 2


@pytest.mark.parametrize(
    "changes",
    [
        ["loss.dynamics_target=state_action", "loss.unroll=false"],
        ["loss.freeze_encoder=true", "loss.target_encoder=false"],
        ["loss.value_loss=mse", "loss.reward_loss=mse", "model.value_head=linear"],
        ["loss.dynamics_target=state_action", "loss.unroll=false", "optim.schedule=every_step"],
        ["loss.end_to_end=true", "loss.target_value=mean", "optim.value_grad_clip=0.1"],
        ["loss.end_to_end=true", "optim.schedule=every_step"],
        ["loss.encoder_horizon=1", "model.predictor=mlp", "loss.n_steps=1"],
        ["loss.infonce_coeff=0.1", "replay.fade=0.99"],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_so_it_is_with_every_switch(changes: list[str]) -> None:
    config = settings(*changes, "optim.period=3")
    stacked, alone = runs(config, CHOICE), runs(config, CHOICE)
    together(*stacked, 7)
    one_by_one(*alone, 7)
    assert furthest(stacked[0], alone[0]) < 1e-5


def test_so_it_is_on_images_that_each_run_shifts_by_itself() -> None:
    config = settings("model.conv_channels=2", "optim.image_shift=2", "optim.period=2")
    stacked, alone = runs(config, images=True), runs(config, images=True)
    together(*stacked, 3)
    one_by_one(*alone, 3)
    for seed, stepper in stacked[0].items():
        loss, expected = stepper.loss_module, alone[0][seed].loss_module
        for name, network in loss._modules.items():
            if name.endswith("_params"):  # as wholes: biases begin at zero, and have hardly moved
                mine, theirs = (flat(params) for params in (network, expected._modules[name]))
                assert float((mine - theirs).norm() / theirs.norm()) < 1e-5


def test_the_networks_of_a_run_are_views_of_the_stack_also_after_a_load() -> None:
    steppers, streams = runs(settings())
    other, _ = runs(settings())
    stacked = StackedStepper(steppers, streams)
    stacked.step(stacked.sample())
    loss, second = steppers[3].loss_module, other[7]
    loss.load_state_dict(second.loss_module.state_dict())
    for name, network in loss._modules.items():
        if name.endswith("_params"):
            rows = stacked.losses.weights.get(name)[1]
            assert set(rows.keys(True, True)) == set(network.keys(True, True))
            for key, tensor in network.items(True, True):
                assert tensor.data_ptr() == rows.get(key).data_ptr() == network.data.get(key).data_ptr()
                assert torch.equal(tensor, second.loss_module._modules[name].get(key))


def test_a_run_can_go_on_alone_and_come_back() -> None:
    config = settings("optim.period=6")
    (steppers, streams), alone = runs(config), runs(config)
    stacked = StackedStepper(steppers, streams)
    stacked.step(stacked.sample())
    for _ in range(4):  # the second run is then four updates ahead, and its periods begin earlier
        streams.switch(3)
        steppers[3].step(None)
    for _ in range(12):
        stacked.step(stacked.sample())
    for (seed, stepper), updates in zip(alone[0].items(), (13, 17), strict=True):
        alone[1].switch(seed)
        for _ in range(updates):
            stepper.step(None)
    assert [stepper.updates for stepper in steppers.values()] == [13, 17]
    assert furthest(steppers, alone[0]) < 1e-5


@given(st.lists(st.floats(-50, 50, width=32), min_size=12, max_size=12), st.floats(0.125, 30, width=32))
def test_each_row_is_clipped_as_torch_clips_it_alone(values: list[float], limit: float) -> None:
    numbers = torch.tensor(values).view(2, 6)
    tensors = [numbers[:, :2].clone(), numbers[:, 2:].clone().view(2, 2, 2)]
    norms = row_norms(tensors)
    clip_rows_(tensors, norms, limit)
    for k in range(2):
        parameters = [torch.zeros(2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
        for parameter, gradient in zip(parameters, (numbers[k, :2], numbers[k, 2:].view(2, 2)), strict=True):
            parameter.grad = gradient.clone()
        assert torch.allclose(clip_grad_norm_(parameters, limit), norms[k], rtol=1e-6)
        for parameter, tensor in zip(parameters, tensors, strict=True):
            assert torch.allclose(parameter.grad, tensor[k], rtol=1e-6)


def test_the_value_gradient_of_one_run_is_clipped_and_that_of_another_is_not() -> None:
    config = settings("optim.value_grad_clip=2.0")
    stacked, alone = runs(config), runs(config)
    metrics = together(*stacked, 1)
    one_by_one(*alone, 1)
    norms = [float(own["value_grad_norm"]) for own in metrics]
    assert min(norms) < 2.0 < max(norms), norms
    for stepper, norm in zip(stacked[0].values(), norms, strict=True):
        gradients = [p.grad for p in stepper.value_optimizer.param_groups[0]["params"]]
        assert math.isclose(float(torch.nn.utils.get_total_norm(gradients)), min(norm, 2.0), rel_tol=1e-5)


def poisoned(stepper: ULDOptimizationStepper) -> None:
    """Let the reward head's weights be NaN."""
    stepper.loss_module.qvalue_network_params.data.apply_(lambda tensor: tensor.fill_(math.nan))


def test_what_is_not_finite_in_one_run_reaches_no_other_and_is_told_by_its_seed() -> None:
    stacked, alone = runs(settings("optim.schedule=every_step")), runs(settings("optim.schedule=every_step"))
    poisoned(stacked[0][3])
    with pytest.raises(RunFailed, match="seed 3") as caught:
        together(*stacked, 1)
    assert isinstance(caught.value.fault, NonFinite)
    assert caught.value.fault.report["part"] == "value"
    one_by_one(*alone, 1)
    del stacked[0][3], alone[0][3]
    for seed, stepper in stacked[0].items():
        for name, value in stepper.loss_module.state_dict().items():
            if isinstance(value, torch.Tensor):
                assert torch.allclose(value, alone[0][seed].loss_module.state_dict()[name], rtol=1e-4)


def test_a_run_that_skips_does_so_alone() -> None:
    config = settings("optim.schedule=every_step")
    steppers, streams = runs(config)
    for stepper in steppers.values():
        stepper.watchdog = Watchdog("skip")
    before = {name: p.clone() for name, p in steppers[3].loss_module.actor_network_params.items(True, True)}
    poisoned(steppers[3])
    together(steppers, streams, 2)
    assert [stepper.watchdog.skipped_updates for stepper in steppers.values()] == [0, 2]
    after = steppers[3].loss_module.actor_network_params
    assert all(torch.equal(after.get(key), value) for key, value in before.items())
    moments = steppers[7].policy_optimizer.state_dict()["state"][0]
    assert float(moments["step"]) == 2.0


def test_each_run_draws_the_noise_that_it_would_draw_alone() -> None:
    streams = RandomStreams()
    for seed in SEEDS:
        torch.manual_seed(seed)
        streams.add(seed)
    with streams.draws(SEEDS):
        drawn = torch.vmap(torch.randn_like, randomness="different")(torch.zeros(2, 4))
        drawn_again = torch.empty(2, 4).exponential_()
    streams.switch(3)
    third = torch.rand(2)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(drawn[1], torch.randn(4, generator=generator))
    assert torch.equal(drawn_again[1], torch.empty(4).exponential_(generator=generator))
    assert torch.equal(third, torch.rand(2, generator=generator))
