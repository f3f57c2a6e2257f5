"""One full-size update from images: shapes of every convolution, losses worked out stack by stack."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, UnboundedDiscrete

from uld_torchrl import make_loss, make_networks, make_replay_buffer
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.functional import random_shift, two_hot_cross_entropy
from uld_torchrl.objectives import PeriodicHardUpdate
from uld_torchrl.trainers import ULDOptimizationStepper

BOX = Bounded(-1, 1, (6,))
STEPS, BATCH = 40, 6
QUIET = AgentConfig(loss=LossConfig(target_noise=0.0))


def film() -> TensorDict:
    """40 steps of noise in stacks of 3 RGB frames, a termination at step 17, a truncation at step 29."""
    frames = torch.randint(256, (STEPS + 3, 3, 84, 84), dtype=torch.uint8)
    rows, stack = [], [frames[0]] * 3
    next_frame = 1
    for step in range(STEPS):
        now = torch.cat(stack)
        stack = [*stack[1:], frames[next_frame]]
        next_frame += 1
        rows.append((now, torch.cat(stack)))
        if step in (17, 29):
            stack = [frames[next_frame]] * 3
            next_frame += 1
    now, then = (torch.stack(part).unsqueeze(0) for part in zip(*rows, strict=True))
    flags = {name: torch.zeros(1, STEPS, 1, dtype=torch.bool) for name in ("terminated", "truncated", "done")}
    flags["terminated"][0, 17] = flags["truncated"][0, 29] = True
    flags["done"] = flags["terminated"] | flags["truncated"]
    after = {"pixels": then, "reward": torch.randn(1, STEPS, 1), **flags}
    return TensorDict({"pixels": now, "action": BOX.rand((1, STEPS)), "next": after}, batch_size=[1, STEPS])


@pytest.fixture(scope="module")
def filled():
    torch.manual_seed(0)
    rb = make_replay_buffer(capacity=100, batch_size=BATCH, frame_stack=3)
    rb.extend(film())
    return rb


def networks(model: ModelConfig | None = None):
    return make_networks(UnboundedDiscrete((9, 84, 84), dtype=torch.uint8), BOX, model)


def encoder_loss_by_hand(nets, window, bins, coefficient):
    """Sum over the window, one stack at a time."""
    f, g, m = (net.module for net in (nets.state_encoder, nets.state_action_encoder, nets.predictor))
    dynamics = reward = terminated = 0.0
    for row in window:
        z, alive = f(row["pixels"][0]), 1.0
        for t in range(row.shape[0]):
            d, z, logits = m(g(z, row["action"][t]))
            after = row["next"][t]
            dynamics += alive * (z - f(after["pixels"]).detach()).square().mean()
            reward += alive * two_hot_cross_entropy(logits, after["reward"].squeeze(-1), bins)
            terminated += alive * (d - after["terminated"].float()).square().squeeze(-1)
            alive *= 1.0 - float(after["terminated"])
    return (dynamics + 0.1 * reward + coefficient * 0.1 * terminated) / len(window)


def td_errors_by_hand(nets, window, gamma=0.99, n=3):
    """Return max_i |Q_i - y| of each window, targets equal to the networks and both reward scales 1."""
    f, g, pi = (net.module for net in (nets.state_encoder, nets.state_action_encoder, nets.actor_network))
    heads = [head.module for head in nets.qvalue_network]
    errors = []
    for row in window:
        target, alive = 0.0, 1.0
        for t in range(n):
            target += gamma**t * alive * float(row["next", "reward"][t])
            alive *= 1.0 - float(row["next", "terminated"][t])
        z_n = f(row["next", "pixels"][n - 1])
        z_sa = g(z_n, pi(z_n)[0].clamp(-1, 1))
        target += gamma**n * alive * min(float(head(z_sa)) for head in heads)
        z_sa = g(f(row["pixels"][0]), row["action"][0])
        errors.append(max(abs(float(head(z_sa)) - target) for head in heads))
    return torch.tensor(errors)


def test_losses_of_full_size_networks_are_those_worked_out_stack_by_stack(filled) -> None:
    torch.manual_seed(1)
    nets = networks()
    with torch.no_grad():
        for net in nets.modules():
            for name, parameter in net.named_parameters():
                if name.endswith("bias"):
                    parameter.uniform_(-0.1, 0.1)
    loss = make_loss(nets, BOX, QUIET)
    PeriodicHardUpdate(loss, period=1)
    loss.terminated_coeff.fill_(loss.full_terminated_coeff)
    # Every third window, those over the termination and at the start of an episode among them.
    anchors = torch.tensor([0, 3, 14, 16, 18, 31])
    index, info = filled._sample_unit.expand((anchors, torch.zeros_like(anchors)), {}, filled._storage)
    window = filled._collate_fn(filled._storage.get(index))
    window.set("validity_mask", info["validity_mask"])
    with torch.no_grad():
        encoder, _ = loss.encoder_loss(window)
        torch.testing.assert_close(
            encoder, encoder_loss_by_hand(nets, window, loss.bins, 1.0), rtol=1e-4, atol=1e-5
        )
        _, value = loss.value_loss(window)
        torch.testing.assert_close(value["td_error"], td_errors_by_hand(nets, window), rtol=1e-4, atol=1e-4)


def test_a_full_size_update_has_the_published_shapes_and_moves_every_network(filled, monkeypatch) -> None:
    torch.manual_seed(2)
    loss = make_loss(networks(), BOX, QUIET)
    before = copy.deepcopy(dict(loss.named_parameters()))
    stepper = ULDOptimizationStepper(loss, filled, OptimConfig(batch_size=BATCH, period=2))
    seen = []
    for number, convolution in enumerate(loss.state_encoder.module.convolutions):
        convolution.register_forward_hook(
            lambda _, inputs, out, number=number: seen.append(
                (number, tuple(inputs[0].shape), tuple(out.shape))
            )
        )
    metrics = stepper.step(None, filled.sample())
    assert all(bool(torch.isfinite(value).all()) for value in metrics.values())
    inputs = [shape for number, shape, _ in seen if number == 0]
    # A burst of two encoder updates, each: targets for B * H next stacks, then s_0. Then the value: s_0, s_n.
    assert sorted(inputs) == sorted(
        [(5 * BATCH, 9, 84, 84), (BATCH, 9, 84, 84)] * 2 + [(BATCH, 9, 84, 84)] * 2
    )
    sides = {number: out[1:] for number, _, out in seen}
    assert sides == {0: (32, 41, 41), 1: (32, 20, 20), 2: (32, 9, 9), 3: (32, 7, 7)}
    after = dict(loss.named_parameters())
    still = [
        name for name in before if not name.startswith("target") and torch.equal(before[name], after[name])
    ]
    assert still == []


def is_shifted(seen: torch.Tensor, given: torch.Tensor, pad: int) -> torch.Tensor:
    """Whether each image is one of the (2 pad + 1)^2 shifts of the given one, bool [B]."""
    steps = torch.cartesian_prod(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1))
    shifted = (random_shift(given, pair.expand(len(given), 2), pad) for pair in steps)
    return torch.stack([(seen == image).flatten(1).all(1) for image in shifted]).any(0)


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_losses_read_shifted_images_of_the_right_steps(filled, monkeypatch, schedule, shift) -> None:
    """What each loss reads is a shift of that very step's stack; the batch itself stays as it is."""
    model = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=8, hidden_dim=8, conv_channels=2)
    loss = make_loss(networks(model), BOX, QUIET)
    config = OptimConfig(batch_size=BATCH, period=2, image_shift=shift, schedule=schedule)
    stepper = ULDOptimizationStepper(loss, filled, config)
    drawn, read = [], {"encoder_loss": [], "value_loss": []}
    sample = filled.sample
    monkeypatch.setattr(filled, "sample", lambda: drawn.append(sample()) or drawn[-1])
    for name, calls in read.items():
        own = getattr(loss, name)
        monkeypatch.setattr(loss, name, lambda td, own=own, calls=calls: calls.append(td) or own(td))
    batch = sample()
    given = batch.clone()
    torch.manual_seed(3)
    stepper.step(None, batch)
    assert (batch == given).all()
    encoder_batches = drawn if schedule == "periodic" else [given]
    assert len(read["encoder_loss"]) == len(encoder_batches) == (2 if schedule == "periodic" else 1)
    unmoved = []
    for seen, source, steps in [
        *(
            (seen, source, range(5))
            for seen, source in zip(read["encoder_loss"], encoder_batches, strict=True)
        ),
        (read["value_loss"][0], given, [2]),  # n = 3
    ]:
        pairs = [(seen["pixels"][:, 0], source["pixels"][:, 0])]
        pairs += [(seen["next", "pixels"][:, t], source["next", "pixels"][:, t]) for t in steps]
        for image, original in pairs:
            assert bool(is_shifted(image, original, shift).all())
            unmoved += (image == original).flatten(1).all(1).tolist()
    # Of nine shifts one moves nothing; a third would be a chance below 1e-3 for the few stacks here.
    assert all(unmoved) if shift == 0 else sum(unmoved) < len(unmoved) / 3
