"""Image replay against a naive buffer of full stacks, over drawn episodes, lanes and wrap-around.

The naive buffer keeps what each step was given; every window that can be drawn is compared with it.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from films import (
    GOES_ON,
    TERMINATED,
    TRUNCATED,
    assert_windows_are_the_naive_ones,
    assert_windows_name_themselves,
    every_window,
    recorded,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from uld_torchrl.data import make_replay_buffer
from uld_torchrl.data.frames import SPARE, FrameStore, frames_for, stack_view
from uld_torchrl.errors import InputError


@st.composite
def recordings(draw):
    lanes, steps = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    ending = st.sampled_from([GOES_ON] * draw(st.integers(1, 8)) + [TERMINATED, TRUNCATED])
    endings = draw(st.lists(st.lists(ending, min_size=steps, max_size=steps), min_size=lanes, max_size=lanes))
    chunks, left = [], steps
    while left:
        chunks.append(min(left, draw(st.integers(1, 9))))
        left -= chunks[-1]
    shape = {"stack": draw(st.integers(1, 4)), "channels": draw(st.sampled_from([1, 3]))}
    return endings, chunks, shape, draw(st.integers(1, 4)), draw(st.integers(5, 14))


@settings(max_examples=80, deadline=None)
@given(recordings())
def test_every_stack_that_can_be_drawn_is_the_naive_buffers(recording):
    endings, chunks, shape, horizon, ring = recording
    steps = recorded(endings, **shape)
    rb = make_replay_buffer(
        capacity=ring * len(endings), num_lanes=len(endings), horizon=horizon, frame_stack=shape["stack"]
    )
    written = 0
    for chunk in chunks:
        part = steps[:, written : written + chunk]
        rb.add(part[:, 0]) if chunk == 1 else rb.extend(part)
        written += chunk
        assert_windows_are_the_naive_ones(rb, steps, written)


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_also_when_frames_run_out_no_overwritten_one_is_drawn(recording):
    """With hardly any room to spare every first frame of an episode costs a record."""
    endings, chunks, shape, horizon, ring = recording
    steps = recorded(endings, **shape)
    with mock.patch("uld_torchrl.data.frames.frames_for", lambda steps, stack: steps + stack + 1):
        rb = make_replay_buffer(
            capacity=ring * len(endings), num_lanes=len(endings), horizon=horizon, frame_stack=shape["stack"]
        )
    written = 0
    for chunk in chunks:
        rb.extend(steps[:, written : written + chunk])
        written += chunk
        assert_windows_are_the_naive_ones(rb, steps, written)


def test_each_one_step_episode_costs_two_frames_and_no_more():
    with mock.patch("uld_torchrl.data.frames.frames_for", lambda steps, stack: 28):
        rb = make_replay_buffer(capacity=20, horizon=2, frame_stack=1)
    rb.extend(recorded([[TERMINATED] * 20], stack=1))
    rb.extend(recorded([[TERMINATED] * 10], stack=1))
    assert rb._sampler.num_written == 14


@settings(max_examples=40, deadline=None)
@given(recordings())
def test_it_offers_the_windows_that_a_vector_buffer_offers_while_frames_last(recording):
    endings, _, shape, horizon, ring = recording
    steps = recorded(endings, **shape)
    sizes = {"capacity": ring * len(endings), "num_lanes": len(endings), "horizon": horizon}
    mine = make_replay_buffer(**sizes, frame_stack=shape["stack"])
    plain = make_replay_buffer(**sizes, keys=mine._given)
    for step in steps.unbind(1):
        mine.add(step)
        plain.add(step)
    begun = max(1 + sum(ending != GOES_ON for ending in row[:-1]) for row in endings)
    if begun <= ring // SPARE + 8 * shape["stack"] - 1:  # spare places: one is the last next frame's
        assert torch.equal(mine._sampler.priorities > 0, plain._sampler.priorities > 0)
        assert mine.mean_abs_reward() == plain.mean_abs_reward()


def test_many_short_episodes_shrink_the_buffer_and_are_never_drawn_overwritten():
    endings = [[GOES_ON, TERMINATED] * 300, [GOES_ON] * 600]
    steps = recorded(endings, stack=2)
    rb = make_replay_buffer(capacity=400, num_lanes=2, horizon=2, frame_stack=2)
    sizes = []
    for number, step in enumerate(steps.unbind(1), 1):
        rb.add(step)
        sizes.append(rb._sampler.num_written)
        if number % 50 == 0:
            assert_windows_are_the_naive_ones(rb, steps, number)
    # Lane 0 writes 3 frames for 2 records: 2/3 of its frames are records' (one is the newest next frame).
    assert sizes[-1] == pytest.approx(frames_for(200, 2) * 2 / 3, abs=2)
    assert max(sizes) < 200


def test_sizes_recover_when_episodes_get_longer():
    rb = make_replay_buffer(capacity=100, horizon=2, frame_stack=1)
    short = recorded([[TERMINATED] * 150], stack=1)
    rb.extend(short)
    assert rb._sampler.num_written < 60
    long = recorded([[GOES_ON] * 150], stack=1)
    rb.extend(long)
    assert rb._sampler.num_written == 100
    assert_windows_are_the_naive_ones(rb, long, 150)


def test_rewards_and_terminations_of_forgotten_steps_do_not_count():
    rb = make_replay_buffer(capacity=100, horizon=2, frame_stack=1)
    rb.extend(recorded([[TERMINATED] * 90], stack=1))
    held = rb._sampler.num_written
    assert held < 60
    assert float(rb.mean_abs_reward()) == pytest.approx(sum(range(90 - held, 90)) / held)
    # Those that ended are gone one by one as frames are needed: 100 places for records, 9 more for frames.
    tail = recorded([[GOES_ON] * 100], stack=1)
    rb.extend(tail[:, :99])
    assert rb.has_termination()
    rb.add(tail[:, 99])
    assert not rb.has_termination()


def test_a_recording_that_begins_in_the_middle_of_an_episode_keeps_its_whole_stack():
    steps = recorded([[GOES_ON] * 12], stack=4)[:, 6:]
    rb = make_replay_buffer(capacity=20, horizon=2, frame_stack=4)
    rb.extend(steps)
    _, window, _ = every_window(rb)
    assert torch.equal(window["pixels"][:, 0], steps["pixels"][0, :5])
    assert torch.equal(window["next", "pixels"][:, 1], steps["next", "pixels"][0, 1:])


def test_stacks_by_hand():
    """Frames 1 2 3, stack of 3: clamped to the first frame, and the terminal frame is kept."""
    frame = torch.arange(1, 4, dtype=torch.uint8).view(3, 1, 1)
    one, two, three = frame
    stack = lambda *frames: torch.stack(frames).view(1, 3, 1, 1)  # noqa: E731
    store = FrameStore(10, 1, 3)
    no, yes = torch.tensor([False]), torch.tensor([True])
    first = store.write(stack(one, one, one), stack(one, one, two), no)
    store.write(stack(one, one, two), stack(one, two, three), yes)
    now, then = store.windows(torch.tensor([0]), *first, torch.tensor([2]), horizon=3)
    assert now.flatten(2).tolist() == [[[1, 1, 1], [1, 1, 2], [1, 2, 3]]]
    assert then.flatten(2).tolist() == [[[1, 1, 2], [1, 2, 3], [2, 3, 3]]]


def test_stack_views_share_memory_and_hold_channels_of_a_frame_together():
    frames = torch.arange(2 * 5 * 3 * 2 * 2, dtype=torch.int32).view(2, 5, 3, 2, 2)
    stacks = stack_view(frames, 4)
    assert stacks.shape == (2, 2, 12, 2, 2)
    for start in range(2):
        assert torch.equal(stacks[:, start], frames[:, start : start + 4].flatten(1, 2))
    assert stacks.data_ptr() == frames.data_ptr()


def small(capacity=20, **settings):
    return make_replay_buffer(capacity=capacity, horizon=2, frame_stack=2, batch_size=8, **settings)


def test_a_step_that_does_not_follow_the_last_one_is_refused_and_nothing_is_stored():
    steps = recorded([[GOES_ON] * 6], stack=2)
    rb = small()
    rb.extend(steps[:, :2])
    before = rb.frames.state_dict()["rings"]["0"].clone()
    with pytest.raises(InputError, match=r"lane 0, pixels are not the next pixels of the step before"):
        rb.add(steps[:, 3])
    assert len(rb) == 2
    assert torch.equal(before, rb.frames.state_dict()["rings"]["0"])
    rb.mark_newest_truncated()
    rb.add(steps[:, 3])
    assert len(rb) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda td: td.set("pixels", td["pixels"].float()), r"pixels must be uint8 stacks of 2 frames"),
        (
            lambda td: td.set("pixels", td["pixels"][:, :1]),
            r"\[1, 2 \* channels, height, width\]; got .*uint8",
        ),
        (
            lambda td: td.set(("next", "pixels"), td["next", "pixels"][..., :1]),
            r"pixels must keep their shape",
        ),
        (
            lambda td: td.set(("next", "pixels"), td["next", "pixels"].flip(1)),
            r"lane 0, next pixels are not pixels moved on by one frame of 1 channel\(s\).*frame_stack=2",
        ),
    ],
)
def test_images_that_are_no_stacks_are_refused_by_name(change, message):
    rb = small()
    step = recorded([[GOES_ON] * 2], stack=2)[:, 1].clone()
    change(step)
    with pytest.raises(InputError, match=message):
        rb.add(step)
    assert len(rb) == 0


def test_the_shape_of_the_first_step_binds_all():
    rb = small()
    rb.add(recorded([[TERMINATED]], stack=2)[:, 0])
    with pytest.raises(InputError, match="must keep their shape"):
        rb.add(recorded([[GOES_ON]], stack=2, channels=3)[:, 0])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"frame_stack": 0}, "frame_stack must be at least 1, got 0"),
        ({"storage": "disk"}, "storage must be one of"),
        ({"storage": "memmap"}, "needs a folder"),
    ],
)
def test_bad_settings_are_refused_by_name(settings_, message):
    with pytest.raises(InputError, match=message):
        make_replay_buffer(**{"capacity": 20, "horizon": 2, "frame_stack": 2, **settings_})


@pytest.mark.parametrize("fault", ["order", "action"])
def test_a_refused_write_leaves_no_frame_behind(fault):
    steps = recorded([[GOES_ON] * 12], stack=2)
    rb = small()
    rb.extend(steps[:, :3])
    wrong = steps[:, [3, 4, 6]] if fault == "order" else steps[:, 3:6].clone()
    if fault == "action":
        wrong["action"] = torch.zeros(1, 3, 7)
    reason = "not the next pixels" if fault == "order" else r"'action' must have the shape \(1,\) as before"
    with pytest.raises(InputError, match=reason):
        rb.extend(wrong)
    rb.extend(steps[:, 3:12])
    assert_windows_name_themselves(rb, steps)
    assert rb._sampler.num_written >= 9


def test_a_refused_write_over_old_frames_forgets_them():
    steps = recorded([[GOES_ON] * 80], stack=2)
    with mock.patch("uld_torchrl.data.frames.frames_for", lambda steps, stack: steps + stack + 1):
        rb = small()
    rb.extend(steps[:, :40])
    with pytest.raises(InputError, match="not the next pixels"):
        rb.extend(steps[:, [40, 41, 42, 43, 45]])
    assert rb._sampler.num_written < 20
    assert_windows_name_themselves(rb, steps)
    rb.extend(steps[:, 40:])
    assert_windows_name_themselves(rb, steps)


def test_single_records_and_torchrls_dumps_are_refused(tmp_path):
    rb = small()
    rb.extend(recorded([[GOES_ON] * 6], stack=2))
    with pytest.raises(InputError, match=r"windows only: use rb.sample\(\)"):
        rb[:]
    with pytest.raises(InputError, match="dumps would leave the frames out"):
        rb.dumps(tmp_path)


def test_other_frames_may_come_after_empty():
    rb = small()
    rb.extend(recorded([[GOES_ON] * 6], stack=2, channels=3))
    rb.empty()
    steps = recorded([[GOES_ON] * 6], stack=2)
    rb.extend(steps)
    assert_windows_name_themselves(rb, steps)


def test_mapped_files_take_a_second_state(tmp_path):
    steps = recorded([[GOES_ON] * 9], stack=2)
    rb = small(storage="memmap", folder=tmp_path)
    rb.extend(steps)
    source = small()
    source.extend(steps)
    for _ in range(2):
        rb.load_state_dict(source.state_dict())
        assert_windows_name_themselves(rb, steps)


def test_empty_forgets_the_frames_too():
    rb = small()
    steps = recorded([[GOES_ON] * 12], stack=2)
    rb.extend(steps)
    rb.empty()
    rb.extend(steps[:, 4:])  # begins anywhere
    assert len(rb) == 8


def test_memory_mapped_files_hold_the_same(tmp_path):
    endings = [[TERMINATED if t % 7 == 6 else GOES_ON for t in range(50)]]
    steps = recorded(endings, stack=2)
    mapped = small(storage="memmap", folder=tmp_path / "replay")
    plain = small()
    for rb in (mapped, plain):
        for step in steps.unbind(1):
            rb.add(step)
    assert_windows_are_the_naive_ones(mapped, steps, 50)
    assert torch.equal(mapped._sampler.priorities, plain._sampler.priorities)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "replay").rglob("*") if path.is_file()}
    assert sizes["frames.memmap"] == mapped.frames.nbytes == frames_for(20, 2) * 6
    assert any(name.startswith("action") for name in sizes)


def test_an_atari_step_takes_its_frame_and_less_than_five_percent_more():
    """Bytes of all tensors that the buffer keeps, at 18 actions; the ring is large against its constants."""
    steps = 10_000
    rb = make_replay_buffer(capacity=steps, frame_stack=4)
    frame = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    no = torch.zeros(1, 1, dtype=torch.bool)
    after = {"pixels": frame, "reward": torch.zeros(1, 1), "terminated": no, "truncated": no, "done": no}
    action = torch.zeros(1, 18, dtype=torch.long)
    rb.add(TensorDict({"pixels": frame, "action": action, "next": after}, batch_size=[1]))
    records = sum(tensor.nbytes for tensor in rb._storage._storage.values(True, True))
    sums = rb._sampler._priorities
    total = rb.frames.nbytes + records + sums.nbytes
    assert 84 * 84 < total / steps < 84 * 84 * 1.05


def test_the_callers_arrays_may_be_used_again():
    steps = recorded([[GOES_ON] * 8], stack=2)
    rb = small()
    for number in range(8):
        step = steps[:, number].clone()
        rb.add(step)
        step["pixels"].zero_()
        step["next", "pixels"].zero_()
    assert_windows_name_themselves(rb, steps)


@pytest.mark.parametrize("flag", ["terminated", "truncated", "done"])
def test_each_flag_alone_ends_an_episode(flag):
    steps = recorded([[GOES_ON] * 4], stack=2)
    rb = small()
    last = steps[:, 1].clone()
    last["next", flag] = torch.ones(1, 1, dtype=torch.bool)
    rb.add(last)
    rb.add(steps[:, 3])  # begins anywhere
    assert len(rb) == 2
