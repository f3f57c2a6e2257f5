"""Recorded images for the tests of image replay: every frame recognisable, every window compared."""

from __future__ import annotations

import torch
from tensordict import TensorDict

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


def assert_windows_name_themselves(rb, steps):
    """Each drawable window has the images of the steps that its actions name, up to a termination."""
    _, window, valid = every_window(rb)
    assert len(window) > 1
    for row, ok in zip(window, valid, strict=True):
        for t in ok.nonzero().flatten().tolist():
            naive = steps[0, int(row["action"][t])]
            assert torch.equal(row["pixels"][t], naive["pixels"])
            assert torch.equal(row["next", "pixels"][t], naive["next", "pixels"])
