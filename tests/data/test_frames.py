"""Image replay against a naive buffer of full stacks, over drawn episodes, lanes and wrap-around.

The naive buffer keeps what each step was given; every window that can be drawn is compared with it.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter

from uld_torchrl.data import make_replay_buffer
from uld_torchrl.data.frames import SPARE, FrameStore, frames_for, stack_view
from uld_torchrl.errors import InputError

GOES_ON, TERMINATED, TRUNCATED = "goes on", "terminated", "truncated"


class Film:
    """One lane: every frame has a number of its own, in every pixel of every channel."""

    def __init__(self, lane, stack, channels, size=(3, 2)):
        self._shape, self._stack = (channels, *size), stack
        self._number, self._lane = 0, lane
        self._begin()

    def _frame(self):
        self._number += 1
        values = torch.arange(self._shape[0]).view(-1, 1, 1) + 5 * self._number + 97 * self._lane
        return (values % 256).to(torch.uint8).expand(self._shape)

    def _begin(self):
        self._stacked = [self._frame()] * self._stack

    def step(self, ending):
        now = torch.cat(self._stacked)
        self._stacked = [*self._stacked[1:], self._frame()]
        then = torch.cat(self._stacked)
        if ending != GOES_ON:
            self._begin()
        return now, then, ending == TERMINATED, ending == TRUNCATED


def recorded(endings, stack, channels=1):
    """The steps [lanes, T] of films that end as ``endings[lane][t]`` says."""
    rows = []
    for lane, row in enumerate(endings):
        film = Film(lane, stack, channels)
        rows.append([film.step(ending) for ending in row])
    now, then = (torch.stack([torch.stack([step[part] for step in row]) for row in rows]) for part in (0, 1))
    flags = [torch.tensor([[step[part] for step in row] for row in rows]).unsqueeze(-1) for part in (2, 3)]
    number = torch.arange(len(endings[0]), dtype=torch.float32).expand(len(endings), -1).unsqueeze(-1)
    after = {"terminated": flags[0], "truncated": flags[1], "done": flags[0] | flags[1]}
    after |= {"pixels": then, "reward": number}
    entries = {"pixels": now, "action": number.clone(), "next": after}
    return TensorDict(entries, batch_size=[len(endings), len(endings[0])])


def every_window(rb):
    """All windows that can be drawn, whatever their priority: [(time, lane), ...] and the sample [N, H]."""
    legal = (rb._sampler.priorities > 0).nonzero()
    index, info = rb._sample_unit.expand(tuple(legal.unbind(-1)), {}, rb._storage)
    return legal.tolist(), rb._collate_fn(rb._storage.get(index)), info["validity_mask"]


def assert_windows_are_the_naive_ones(rb, steps, written):
    """Compare every drawable window with the given steps [lanes, written], of which the newest are kept."""
    anchors, window, valid = every_window(rb)
    ring, horizon = rb._sampler.ring_length, rb._sampler.horizon
    for row, (time, lane) in enumerate(anchors):
        first = written - 1 - (rb._sampler.head - 1 - time) % ring  # which step the ring holds at ``time``
        assert first + horizon <= written
        for t in range(horizon):
            naive = steps[lane, first + t]
            assert float(window["action"][row, t]) == first + t
            if valid[row, t]:
                assert torch.equal(window["pixels"][row, t], naive["pixels"])
                assert torch.equal(window["next", "pixels"][row, t], naive["next", "pixels"])
            else:
                end = int(valid[row].sum()) - 1
                last = steps[lane, first + end]["next", "pixels"].chunk(rb.frames.stack)[-1]
                assert torch.equal(window["next", "pixels"][row, t].chunk(rb.frames.stack)[-1], last)
    return anchors


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
    before = rb.frames.state_dict()
    with pytest.raises(InputError, match=r"lane 0, pixels are not the next pixels of the step before"):
        rb.add(steps[:, 3])
    after = rb.frames.state_dict()
    assert len(rb) == 2
    assert all(torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in before)
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


@pytest.mark.parametrize("count", [9, 35])
@pytest.mark.parametrize("capacity", [20, 60])
def test_a_restored_buffer_holds_the_same_windows_and_goes_on(count, capacity, tmp_path):
    endings = [[TERMINATED if t % 7 == 6 else GOES_ON for t in range(60)]]
    steps = recorded(endings, stack=2)
    rb = small()
    rb.extend(steps[:, :count])
    checkpoint = Checkpoint()
    checkpoint.register("replay", rb, adapter=StateDictCheckpointAdapter())
    checkpoint.save(tmp_path / "saved")
    other = small(capacity)
    again = Checkpoint()
    again.register("replay", other, adapter=StateDictCheckpointAdapter())
    again.load(tmp_path / "saved")
    for number in range(count, 60):
        other.add(steps[:, number])
        if capacity == 20:
            assert_windows_are_the_naive_ones(other, steps, number + 1)
    _, window, _ = every_window(other)
    assert len(window) > 10
    for row in window:  # each step is recognised by its number
        naive = steps[0, int(row["action"][0])]
        assert torch.equal(row["pixels"][0], naive["pixels"])
        assert torch.equal(row["next", "pixels"][0], naive["next", "pixels"])


def test_a_state_of_another_stack_is_refused():
    rb = small()
    rb.extend(recorded([[GOES_ON] * 6], stack=2))
    other = make_replay_buffer(capacity=20, horizon=2, frame_stack=4)
    with pytest.raises(InputError, match="frame_stack must be 2, as saved; got 4"):
        other.load_state_dict(rb.state_dict())


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
    total = rb.frames.nbytes + records + sums._blocks.nbytes + sums._sums.nbytes
    assert 84 * 84 < total / steps < 84 * 84 * 1.05
