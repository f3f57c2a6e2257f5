"""Images without the unroll: every observation of a window is read, so every one is there and shifted.

With it the first one is read only and stands for all, see ``test_augmentation``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, UnboundedDiscrete

from uld_torchrl import make_loss, make_networks
from uld_torchrl.config import AgentConfig, LossConfig, ModelConfig, OptimConfig
from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.functional import random_shift, two_hot_cross_entropy
from uld_torchrl.trainers import ULDOptimizationStepper
from uld_torchrl.trainers.augmentation import EVERY, shift_images

BOX = Bounded(-1, 1, (2,))
SIZE, PAD, STACK, STEPS, H, B = 31, 1, 2, 30, 3, 12
TINY = ModelConfig(z_s_dim=8, z_a_dim=4, z_sa_dim=6, hidden_dim=8, num_bins=5, bin_range=2.0, conv_channels=2)


def film() -> TensorDict:
    """Stacks of two frames of noise, a termination at step 11 and a truncation at step 20."""
    frames = torch.randint(256, (STEPS + 3, SIZE, SIZE), dtype=torch.uint8)
    now, then, place = [], [], -1
    for step in range(STEPS):
        place += 1
        if step in (0, 12, 21):  # an episode begins: one frame stands for the two
            now.append(frames[[place, place]])
        else:
            now.append(then[-1])
            place -= 1
        place += 1
        then.append(torch.stack([now[-1][-1], frames[place]]))
    flags = {name: torch.zeros(1, STEPS, 1, dtype=torch.bool) for name in ("terminated", "truncated", "done")}
    flags["terminated"][0, 11] = flags["truncated"][0, 20] = True
    flags["done"] = flags["terminated"] | flags["truncated"]
    after = {"pixels": torch.stack(then)[None], "reward": torch.randn(1, STEPS, 1), **flags}
    steps = {"pixels": torch.stack(now)[None], "action": BOX.rand((1, STEPS)), "next": after}
    return TensorDict(steps, batch_size=[1, STEPS])


def make(**optim: Any) -> tuple[ULDOptimizationStepper, WindowReplayBuffer, TensorDict]:
    """Make a stepper without the unroll on a replay buffer of frames, and what was written to it."""
    unroll = optim.pop("unroll", False)
    torch.manual_seed(1)
    config = AgentConfig(
        model=TINY,
        loss=LossConfig(horizon=H, n_steps=2, target_noise=0.0, unroll=unroll),
        optim=OptimConfig(**{"batch_size": B, "period": 2, "image_shift": PAD, **optim}),
    )
    spec = UnboundedDiscrete((STACK, SIZE, SIZE), dtype=torch.uint8)
    networks = make_networks(spec, BOX, config.model, loss=config.loss)
    rb, written = make_replay_buffer(capacity=100, horizon=H, batch_size=B, frame_stack=STACK), film()
    rb.extend(written)
    return ULDOptimizationStepper(make_loss(networks, BOX, config), rb, config.optim), rb, written


def alive(window: TensorDict) -> list[int]:
    """Steps up to and including the first termination."""
    return window["validity_mask"].nonzero().flatten().tolist()


def test_windows_of_a_frame_replay_hold_the_observation_of_every_step() -> None:
    _, rb, written = make()
    anchors = set()
    for _ in range(8):
        for window in rb.sample():
            start = int(window["anchor_index"][0, 0])
            anchors.add(start)
            for t in alive(window):
                assert torch.equal(window["pixels"][t], written["pixels"][0, start + t])
                assert torch.equal(window["next", "pixels"][t], written["next", "pixels"][0, start + t])
    # Windows over the termination, at the start of an episode and up to the truncation are among them.
    assert {10, 11, 12, 18} <= anchors


def drawn(seen: torch.Tensor, given: torch.Tensor, pad: int = PAD) -> torch.Tensor:
    """Number of the shift by which each image [B, ...] was made of the given one, -1 for none."""
    shifts = torch.cartesian_prod(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1))
    moved = (random_shift(given, pair.expand(len(given), 2), pad) for pair in shifts)
    fits = torch.stack([(seen == image).flatten(1).all(1) for image in moved], 1)
    return torch.where(fits.any(1), fits.long().argmax(1), -1)


def test_every_observation_gets_a_shift_of_its_own_if_all_are_read() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (200, H, STACK, 8, 8), dtype=torch.uint8)
    given = TensorDict({"pixels": images, "next": {"pixels": images.flip(0)}}, batch_size=[200, H])
    before = given.clone()
    out = shift_images(given, ["pixels"], PAD, steps=EVERY)
    assert (given == before).all()
    now = [drawn(out["pixels"][:, t], images[:, t]) for t in range(H)]
    then = [drawn(out["next", "pixels"][:, t], images.flip(0)[:, t]) for t in range(H)]
    for numbers in now + then:
        assert numbers.min() == 0 and len(numbers.unique()) == 9  # none is missing: 9 (8 / 9)^200
    # The same one twice by chance in a ninth of the pairs: half of 200 are beyond 1e-30.
    pairs = [(one, other) for k, one in enumerate(now + then) for other in (now + then)[k + 1 :]]
    assert all((one == other).sum() < 100 for one, other in pairs)


def spied(stepper: ULDOptimizationStepper, rb: Any, patch: pytest.MonkeyPatch) -> dict[str, list[TensorDict]]:
    """Do one update and return what was drawn and what each loss read."""
    seen: dict[str, list[TensorDict]] = {"drawn": [], "encoder_loss": [], "value_loss": []}
    sample, loss = rb.sample, stepper.loss_module
    patch.setattr(rb, "sample", lambda: seen["drawn"].append(sample()) or seen["drawn"][-1])
    for name in ("encoder_loss", "value_loss"):
        own, calls = getattr(loss, name), seen[name]
        patch.setattr(loss, name, lambda td, own=own, calls=calls: calls.append(td) or own(td))
    stepper.step(None, rb.sample())
    return seen


@pytest.mark.parametrize("schedule", ["periodic", "every_step"])
@pytest.mark.parametrize("unroll", [False, True])
def test_the_encoder_loss_reads_every_observation_shifted(
    schedule: str, unroll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, rb, _ = make(schedule=schedule, unroll=unroll)
    seen = spied(stepper, rb, monkeypatch)
    sources = seen["drawn"][1:] if schedule == "periodic" else seen["drawn"]
    assert len(sources) == len(seen["encoder_loss"]) == (2 if schedule == "periodic" else 1)
    for read, source in zip(seen["encoder_loss"], sources, strict=True):
        for t in range(H):
            assert (drawn(read["next", "pixels"][:, t], source["next", "pixels"][:, t]) >= 0).all()
            # With the unroll later observations are not read: the first one repeats.
            of = 0 if unroll else t
            numbers = drawn(read["pixels"][:, t], source["pixels"][:, of])
            assert (numbers >= 0).all() and len(numbers.unique()) > 2
    value, source = seen["value_loss"][0], seen["drawn"][0]
    assert (drawn(value["pixels"][:, 0], source["pixels"][:, 0]) >= 0).all()
    assert (drawn(value["next", "pixels"][:, 1], source["next", "pixels"][:, 1]) >= 0).all()  # n = 2


def test_the_loss_of_a_batch_of_frames_is_that_of_its_steps_one_by_one() -> None:
    stepper, rb, _ = make()
    loss = stepper.loss_module
    loss.terminated_coeff.fill_(0.1)
    f, g, m = (getattr(loss, name) for name in ("state_encoder", "state_action_encoder", "predictor"))
    params = [loss.state_encoder_params, loss.state_action_encoder_params, loss.predictor_params]
    batch = rb.sample()
    with params[0].to_module(f), params[1].to_module(g), params[2].to_module(m), torch.no_grad():
        total = torch.zeros(())
        for window in batch:
            for t in alive(window):
                step = window[t]
                d, z, logits = m.module(g.module(f.module(step["pixels"]), step["action"]))
                total += (z - f.module(step["next", "pixels"])).square().mean()
                total += 0.1 * two_hot_cross_entropy(logits, step["next", "reward"], loss.bins).sum()
                total += 0.1 * (d - step["next", "terminated"].float()).square().sum()
    assert not batch["validity_mask"].all()
    torch.testing.assert_close(loss.encoder_loss(batch)[0].detach(), total / B, rtol=1e-5, atol=1e-6)


def test_a_training_step_without_shift_reads_the_stored_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, rb, _ = make(image_shift=0, schedule="every_step")
    seen = spied(stepper, rb, monkeypatch)
    assert seen["encoder_loss"][0] is seen["drawn"][0] is seen["value_loss"][0]
