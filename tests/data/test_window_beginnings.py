"""``sample(steps=n)``: the beginnings of the windows that would have been drawn; nothing else is gathered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from films import GOES_ON, TERMINATED, TRUNCATED, recorded
from tensordict import TensorDict

from uld_torchrl import make_replay_buffer
from uld_torchrl.data import ReplayKeys, WindowReplayBuffer
from uld_torchrl.errors import InputError

HORIZON = 5


def assert_cut(rb: WindowReplayBuffer, steps: int) -> TensorDict:
    """Draw with the same random numbers with and without ``steps``, and compare; return the beginnings."""
    state = rb._rng.get_state()
    whole = rb.sample()
    after = rb._rng.get_state()
    rb._rng.set_state(state)
    cut = rb.sample(steps=steps)
    assert torch.equal(rb._rng.get_state(), after)
    assert cut.shape == (len(whole), steps)
    assert set(cut.keys(True, True)) == set(whole.keys(True, True))
    for key, entry in cut.items(True, True):
        assert torch.equal(entry, whole[key][:, :steps]), key
    assert rb.sample().shape == whole.shape  # the next one is whole again
    return cut


def filled(time_steps: Any, **options: Any) -> WindowReplayBuffer:
    generator = torch.Generator().manual_seed(0)
    rb = make_replay_buffer(
        capacity=60, num_lanes=2, horizon=HORIZON, batch_size=40, generator=generator, **options
    )
    ends = (["none"] * 6 + ["terminated"]) * 7, (["none"] * 10 + ["truncated"]) * 5
    rb.extend(time_steps([ends[0][:45], ends[1][:45]]))  # wraps round
    return rb


@pytest.mark.parametrize("steps", [1, 3, HORIZON])
def test_vectors_of_several_lanes_in_a_ring_that_has_wrapped(time_steps: Any, steps: int) -> None:
    rb = filled(time_steps)
    cut = assert_cut(rb, steps)
    rb.update_priority(cut["anchor_index"], torch.full((40,), 50.0))
    times, lanes = cut["anchor_index"][:, 0].unbind(-1)
    assert (rb.sampler.priorities[times, lanes] == 50.0**0.4).all()


def test_before_the_ring_is_full(time_steps: Any) -> None:
    rb = make_replay_buffer(
        capacity=50, horizon=HORIZON, batch_size=16, generator=torch.Generator().manual_seed(1)
    )
    rb.extend(time_steps([["none"] * 12]))
    assert_cut(rb, 2)


def test_mapped_to_a_file(time_steps: Any, tmp_path: Any) -> None:
    assert_cut(filled(time_steps, storage="memmap", folder=tmp_path), 3)


def test_nested_keys(time_steps: Any) -> None:
    keys = ReplayKeys(observation=("seen", "state"), next_observation=("next", "seen", "state"))
    rb = make_replay_buffer(
        capacity=50, horizon=HORIZON, batch_size=16, keys=keys, generator=torch.Generator().manual_seed(1)
    )
    steps = time_steps([["none"] * 20])
    steps["seen"] = TensorDict({"state": steps.pop("observation")}, batch_size=steps.shape)
    after = steps["next"]
    after["seen"] = TensorDict({"state": after.pop("observation")}, batch_size=steps.shape)
    rb.extend(steps)
    cut = assert_cut(rb, 2)
    assert torch.equal(cut["next", "seen", "state"], cut["seen", "state"] + 1)


@pytest.mark.parametrize("steps", [1, 3])
def test_images_up_to_and_past_a_termination(steps: int) -> None:
    ends = [[GOES_ON] * 5 + [TERMINATED] + [GOES_ON] * 8 + [TRUNCATED] + [GOES_ON] * 9] * 2
    films = recorded(ends, stack=3, channels=2)
    keys, generator = ReplayKeys.of_images(), torch.Generator().manual_seed(0)
    rb = make_replay_buffer(
        capacity=40,
        num_lanes=2,
        horizon=HORIZON,
        batch_size=64,
        frame_stack=3,
        keys=keys,
        generator=generator,
    )
    rb.extend(films)
    cut = assert_cut(rb, steps)
    assert steps == 1 or not cut["validity_mask"].all()


def test_fewer_frames_are_gathered() -> None:
    films = recorded([[GOES_ON] * 30], stack=3)
    rb = make_replay_buffer(capacity=40, horizon=HORIZON, batch_size=8, frame_stack=3)
    rb.extend(films)
    frames = [rb.sample(steps=steps)["pixels"].untyped_storage().nbytes() for steps in (2, HORIZON)]
    assert frames == [8 * (2 + 3) * 6, 8 * (HORIZON + 3) * 6]  # frames of 3 x 2 pixels


@pytest.mark.parametrize("steps", [0, -1, HORIZON + 1])
def test_other_numbers_of_steps_are_refused(time_steps: Any, steps: int) -> None:
    rb = filled(time_steps)
    with pytest.raises(InputError, match=rf"steps must lie in 1 ... horizon \(5\).* got {steps}"):
        rb.sample(steps=steps)
    assert rb.sample().shape == (40, HORIZON)


def test_after_a_failed_draw_windows_are_whole_again(time_steps: Any) -> None:
    rb = make_replay_buffer(capacity=50, horizon=HORIZON, batch_size=4)
    with pytest.raises(InputError, match="no window"):
        rb.sample(steps=2)
    rb.extend(time_steps([["none"] * 12]))
    assert rb.sample().shape == (4, HORIZON)
