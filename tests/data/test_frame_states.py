"""A replay buffer of images saved and restored: the same windows, nothing copied, nothing half loaded."""

from __future__ import annotations

import pytest
import torch
from films import GOES_ON, TERMINATED, assert_windows_name_themselves, recorded
from tensordict import TensorDict
from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter

from uld_torchrl.data import make_replay_buffer
from uld_torchrl.data.frames import frames_for
from uld_torchrl.errors import InputError


def small(capacity=20, **settings):
    return make_replay_buffer(capacity=capacity, horizon=2, frame_stack=2, batch_size=8, **settings)


@pytest.mark.parametrize("count", [9, 17, 35])
@pytest.mark.parametrize("capacity", [20, 60])
@pytest.mark.parametrize("stack", [2, 4])
def test_a_restored_buffer_holds_the_same_windows_and_goes_on(count, capacity, stack, tmp_path):
    endings = [[TERMINATED if t % 7 == 6 else GOES_ON for t in range(60)]]
    steps = recorded(endings, stack=stack)
    rb = make_replay_buffer(capacity=20, horizon=2, frame_stack=stack)
    rb.extend(steps[:, :count])
    checkpoint = Checkpoint()
    checkpoint.register("replay", rb, adapter=StateDictCheckpointAdapter())
    checkpoint.save(tmp_path / "saved")
    other = make_replay_buffer(capacity=capacity, horizon=2, frame_stack=stack)
    again = Checkpoint()
    again.register("replay", other, adapter=StateDictCheckpointAdapter())
    again.load(tmp_path / "saved")
    assert_windows_name_themselves(other, steps)
    for number in range(count, 60):
        other.add(steps[:, number])
        assert_windows_name_themselves(other, steps)


def test_a_saved_state_does_not_copy_the_frames():
    rb = small()
    rb.extend(recorded([[GOES_ON] * 30], stack=2))
    ring = rb.state_dict()["frames"]["rings"]["0"]
    assert ring.data_ptr() == rb.frames._frames.data_ptr() and ring.is_contiguous()


def test_records_whose_frames_do_not_fit_are_forgotten():
    steps = recorded([[TERMINATED] * 50], stack=1)
    rb = make_replay_buffer(capacity=1000, horizon=2, frame_stack=1)
    rb.extend(steps)
    smaller = make_replay_buffer(capacity=52, horizon=2, frame_stack=1)
    smaller.load_state_dict(rb.state_dict())
    assert smaller._sampler.num_written == frames_for(52, 1) // 2
    assert_windows_name_themselves(smaller, steps)


def test_states_of_another_kind_change_nothing():
    images, vectors = small(), make_replay_buffer(capacity=20, horizon=2)
    steps = recorded([[GOES_ON] * 6], stack=2)
    images.extend(steps)
    other = make_replay_buffer(capacity=20, horizon=2, frame_stack=4)
    for rb, state, message in (
        (images, vectors_state(), "holds vectors, this one takes images"),
        (vectors, images.state_dict(), "holds images, this one takes vectors"),
        (other, images.state_dict(), "frame_stack must be 2, as saved; got 4"),
    ):
        before = len(rb)
        with pytest.raises(InputError, match=message):
            rb.load_state_dict(state)
        assert len(rb) == before and rb.can_sample() == (rb is images)


def vectors_state():
    rb = make_replay_buffer(capacity=20, horizon=2)
    flag = torch.zeros(1, 6, 1, dtype=torch.bool)
    after = {"reward": torch.zeros(1, 6, 1), "terminated": flag, "truncated": flag, "done": flag}
    after |= {"observation": torch.zeros(1, 6, 3)}
    entries = {"observation": torch.zeros(1, 6, 3), "action": torch.zeros(1, 6, 1), "next": after}
    rb.extend(TensorDict(entries, batch_size=[1, 6]))
    return rb.state_dict()


def test_a_state_of_another_stack_is_refused():
    rb = small()
    rb.extend(recorded([[GOES_ON] * 6], stack=2))
    other = make_replay_buffer(capacity=20, horizon=2, frame_stack=4)
    with pytest.raises(InputError, match="frame_stack must be 2, as saved; got 4"):
        other.load_state_dict(rb.state_dict())


def test_after_a_restore_a_step_must_follow_as_before():
    steps = recorded([[GOES_ON] * 12], stack=2)
    rb, other = small(), small()
    rb.extend(steps[:, :5])
    other.load_state_dict(rb.state_dict())
    with pytest.raises(InputError, match="not the next pixels"):
        other.add(steps[:, 6])
    other.add(steps[:, 5])
