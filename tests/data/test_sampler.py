"""The sampler and the sample unit against a plain list of everything ever written."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from uld_torchrl.data import HorizonWindow, ReplayKeys, SubTrajectorySampler, make_replay_buffer
from uld_torchrl.errors import InputError

ENDINGS = ("terminated", "truncated", "both", "done", "terminated_only", "truncated_only", "none")


@dataclass
class Oracle:
    """All records ever written, in plain Python; what the sampler does is worked out from the rules."""

    ring: int
    lanes: int
    horizon: int
    flags: dict[str, tuple[bool, bool, bool]]
    alpha: float = 0.4
    min_priority: float = 1.0
    endings: list[list[str]] = field(default_factory=list)
    priority: dict[tuple[int, int], float] = field(default_factory=dict)
    max_priority: float = 0.0

    def __post_init__(self) -> None:
        self.endings = [[] for _ in range(self.lanes)]
        self.max_priority = self.min_priority**self.alpha

    def legal(self, number: int, lane: int) -> bool:
        total = len(self.endings[lane])
        if number < max(0, total - self.ring) or number + self.horizon > total:
            return False
        for ending in self.endings[lane][number : number + self.horizon - 1]:
            terminated, truncated, done = self.flags[ending]
            if terminated:
                return True
            if truncated or done:
                return False
        return True

    def write(self, endings: list[list[str]]) -> None:
        for mine, new in zip(self.endings, endings, strict=True):
            mine.extend(new)
        now = {(n, k) for k in range(self.lanes) for n in range(len(self.endings[k])) if self.legal(n, k)}
        self.priority = {key: self.priority.get(key, self.max_priority) for key in now}

    def update(self, number: int, lane: int, errors: list[float]) -> None:
        if (number, lane) in self.priority:
            value = max(max(errors), self.min_priority) ** self.alpha
            self.priority[number, lane] = value
            self.max_priority = max(self.max_priority, value)

    def newest_at(self, time: int) -> int:
        """Return the number of the last record written at a place in the ring, or -1."""
        total = len(self.endings[0])
        return total - 1 - (total - 1 - time) % self.ring if time < min(total, self.ring) else -1

    def table(self) -> list[list[float]]:
        table = [[0.0] * self.lanes for _ in range(self.ring)]
        for (number, lane), value in self.priority.items():
            table[number % self.ring][lane] = value
        return table

    def validity(self, number: int, lane: int) -> list[bool]:
        window = [self.flags[e][0] for e in self.endings[lane][number : number + self.horizon]]
        return [not any(window[:t]) for t in range(self.horizon)]


@st.composite
def _runs(draw):
    """Draw the buffer's sizes and what is written to it, bit by bit: episodes in each lane."""
    lanes, horizon = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    ring = horizon + draw(st.integers(1, 12))
    chunks = draw(st.lists(st.integers(1, 4) | st.integers(1, 2 * ring + 3), min_size=1, max_size=14))
    episodes = st.lists(st.tuples(st.integers(1, 9), st.sampled_from(ENDINGS)), min_size=1, max_size=12)
    streams = []
    for _ in range(lanes):
        stream = [e for length, ending in draw(episodes) for e in ["none"] * (length - 1) + [ending]]
        streams.append([stream[t % len(stream)] for t in range(sum(chunks))])
    return ring, lanes, horizon, chunks, streams


def _write(rb, steps):
    """Write time steps [lanes, T] one at a time or in bulk, both ways that the buffer has."""
    if steps.shape[1] == 1 and steps["observation"][0, 0, 0] % 2:
        rb.add(steps[:, 0])
    else:
        rb.extend(steps)


@given(run=_runs(), data=st.data())
def test_priorities_are_the_oracles_after_every_write_and_update(run, data, time_steps, flags):
    ring, lanes, horizon, chunks, streams = run
    alpha, least = data.draw(st.sampled_from([(0.4, 1.0), (1.0, 0.5), (0.0, 1.0)]))
    rb = make_replay_buffer(
        capacity=ring * lanes, num_lanes=lanes, horizon=horizon, alpha=alpha, min_priority=least
    )
    oracle = Oracle(ring, lanes, horizon, flags, alpha, least)
    written = 0
    for chunk in chunks:
        new = [stream[written : written + chunk] for stream in streams]
        _write(rb, time_steps(new, first=written))
        oracle.write(new)
        written += chunk
        torch.testing.assert_close(
            rb.sampler.priorities, torch.tensor(oracle.table(), dtype=torch.float64), rtol=1e-12, atol=0
        )
        assert rb.can_sample() == bool(oracle.priority)
        # Any coordinates, legal or not, some of them twice.
        places = st.tuples(st.integers(0, ring - 1), st.integers(0, lanes - 1), st.floats(0, 1e6))
        updates = data.draw(st.lists(places, max_size=5))
        updates += [(time, lane, error / 2) for time, lane, error in updates]
        if updates:
            index = torch.tensor([(time, lane) for time, lane, _ in updates])
            rb.update_priority(index, torch.tensor([error for *_, error in updates], dtype=torch.float64))
        for time, lane in {(time, lane) for time, lane, _ in updates}:
            errors = [e for t, k, e in updates if (t, k) == (time, lane)]
            oracle.update(oracle.newest_at(time), lane, errors)
        assert rb.sampler.max_priority.item() == pytest.approx(oracle.max_priority, rel=1e-12)


@given(run=_runs())
def test_windows_hold_the_oracles_records(run, time_steps, flags):
    ring, lanes, horizon, chunks, streams = run
    rb = make_replay_buffer(capacity=ring * lanes, num_lanes=lanes, horizon=horizon)
    oracle = Oracle(ring, lanes, horizon, flags)
    written = 0
    for chunk in chunks:
        new = [stream[written : written + chunk] for stream in streams]
        _write(rb, time_steps(new, first=written))
        oracle.write(new)
        written += chunk
        anchors = sorted(oracle.priority)
        if not anchors:
            with pytest.raises(InputError, match=f"horizon {horizon} .* holds {min(written, ring)} time"):
                rb.sample()
            continue
        numbers, in_lane = torch.tensor(anchors).unbind(-1)
        index, info = rb._sample_unit.expand((numbers % ring, in_lane), {}, rb.storage)
        records = rb.storage.get(index)
        expected = numbers.unsqueeze(-1) + torch.arange(horizon)
        assert torch.equal(records["observation"][..., 0], expected.float())
        assert torch.equal(records["observation"][..., 1], in_lane.unsqueeze(-1).expand_as(expected).float())
        assert info["validity_mask"].tolist() == [oracle.validity(*anchor) for anchor in anchors]


def test_a_sample_has_windows_anchors_and_masks(time_steps):
    rb = make_replay_buffer(capacity=40, num_lanes=2, horizon=3, batch_size=64)
    rb.extend(time_steps([["none"] * 12, ["none", "terminated"] * 6]))
    batch = rb.sample()
    assert batch.shape == (64, 3)
    assert batch["observation"].shape == (64, 3, 2)
    assert batch["next", "reward"].shape == (64, 3, 1)
    assert batch["anchor_index"].shape == (64, 3, 2)
    assert batch["validity_mask"].dtype == torch.bool
    assert torch.equal(batch["anchor_index"][:, 0], batch["observation"][:, 0].long())
    alive = torch.ones(64)
    for step in range(3):
        assert torch.equal(batch["validity_mask"][:, step], alive > 0)
        alive = alive * (1 - batch["next", "terminated"][:, step, 0].float())
    assert not batch["validity_mask"].all()


def test_a_window_may_end_at_a_truncation_and_cross_a_termination_but_no_more(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=3)
    rb.extend(time_steps([["none", "none", "none", "truncated", "none", "terminated", "none", "none"]]))
    legal = rb.sampler.priorities[:, 0].nonzero()[:, 0].tolist()
    assert legal == [0, 1, 4, 5]  # 2 and 3 run past the truncation, 6 and 7 past the newest record


def test_draws_follow_the_priorities(time_steps):
    generator = torch.Generator().manual_seed(0)
    rb = make_replay_buffer(capacity=200, num_lanes=2, horizon=2, alpha=1.0, generator=generator)
    rb.extend(time_steps([["none"] * 130] * 2))  # wraps round
    index = torch.cartesian_prod(torch.arange(100), torch.arange(2))
    rb.update_priority(index, torch.linspace(0, 30, 200))
    (time, lane), _ = rb.sampler.sample(rb.storage, 200_000)
    counts = torch.bincount(time * 2 + lane, minlength=200).double()
    expected = rb.sampler.priorities.reshape(-1) / rb.sampler.priorities.sum() * 200_000
    positive = expected > 0
    assert positive.sum() == 198
    assert counts[~positive].sum() == 0
    assert scipy.stats.chisquare(counts[positive], expected[positive]).pvalue > 0.01


def test_alpha_zero_draws_every_window_equally_often(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2, alpha=0.0)
    rb.extend(time_steps([["none"] * 10]))
    rb.update_priority(torch.tensor([[3, 0]]), torch.tensor([1e6]))
    assert rb.sampler.priorities[:9].eq(1).all()


def test_update_takes_what_a_sample_offers(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2, batch_size=8)
    rb.extend(time_steps([["none"] * 10]))
    batch = rb.sample()
    td_error = torch.rand(8) * 50
    rb.update_priority(batch["anchor_index"], td_error)
    whole = rb.sampler.priorities.clone()
    assert whole.max() > 1
    rb.update_priority(batch["anchor_index"][:, 0], torch.zeros(8))
    assert rb.sampler.priorities.max() == 1
    rb.update_priority(batch["anchor_index"][:, 0], td_error.unsqueeze(-1))
    assert torch.equal(rb.sampler.priorities, whole)


def test_an_overwritten_anchor_is_not_resurrected(time_steps):
    rb = make_replay_buffer(capacity=8, horizon=3)
    rb.extend(time_steps([["none"] * 8]))
    rb.update_priority(torch.tensor([[0, 0]]), torch.tensor([32.0]))
    rb.add(time_steps([["none"]])[:, 0])
    rb.update_priority(torch.tensor([[0, 0], [7, 0]]), torch.tensor([1e6, 1e6]))
    assert rb.sampler.priorities[[0, 7], 0].tolist() == [0.0, 0.0]
    assert rb.sampler.max_priority == pytest.approx(32.0**0.4)  # the ignored error raises nothing
    rb.extend(time_steps([["none"] * 2]))
    assert rb.sampler.priorities[0, 0] == pytest.approx(32.0**0.4)


def test_an_error_in_between_leaves_the_priorities_as_they_were(time_steps, monkeypatch):
    rb = make_replay_buffer(capacity=20, horizon=2, batch_size=8)
    rb.extend(time_steps([["none"] * 10]))
    rb.update_priority(torch.tensor([[1, 0], [4, 0]]), torch.tensor([5.0, 9.0]))
    before = rb.sampler.priorities.clone()
    with monkeypatch.context() as patch:
        patch.setattr(type(rb.storage), "get", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rb.sample()
    with pytest.raises(InputError):
        rb.update_priority(torch.tensor([[1, 0], [4, 0]]), torch.tensor([100.0, float("nan")]))
    assert torch.equal(rb.sampler.priorities, before)
    assert rb.sampler.max_priority == pytest.approx(9.0**0.4)
    assert rb.sample().shape == (8, 2)


INDEX = torch.tensor([[0, 0], [1, 0]])


@pytest.mark.parametrize(
    ("index", "td_error", "message"),
    [
        (INDEX, torch.tensor([1.0, float("nan")]), "td_error must be finite .* got nan \\(1 of 2"),
        (INDEX, torch.tensor([float("inf"), 1.0]), "td_error must be finite .* got inf"),
        (INDEX, torch.tensor([-0.5, -1.0]), "not negative, got -0.5 \\(2 of 2"),
        (INDEX, torch.ones(3), "one value for each of the 2 anchors.*\\(3,\\)"),
        (INDEX, torch.ones(2, 5), "one value for each of the 2 anchors"),
        (torch.arange(2), torch.ones(2), "index must hold integer .*\\(2,\\)"),
        (torch.zeros(2, 3, dtype=torch.long), torch.ones(2), "index must hold integer"),
        (INDEX.float(), torch.ones(2), "index must hold integer .* torch.float32"),
        (torch.tensor([[0, 0], [20, 0]]), torch.ones(2), "1 anchors outside the storage; time .*20\\)"),
        (torch.tensor([[0, 1], [-1, 0]]), torch.ones(2), "2 anchors outside the storage"),
    ],
)
def test_bad_updates_are_refused_by_name(index, td_error, message, time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2)
    rb.extend(time_steps([["none"] * 10]))
    with pytest.raises(InputError, match=message):
        rb.update_priority(index, td_error)
    assert rb.sampler.priorities[:9].eq(1).all()


def test_an_update_of_nothing_is_nothing(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2)
    rb.extend(time_steps([["none"] * 10]))
    rb.update_priority(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0))
    assert rb.sampler.priorities[:9].eq(1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"num_lanes": 0}, "num_lanes must be at least 1, got 0"),
        ({"ring_length": 5}, "more than horizon \\(5\\).*got 5.*at least 12"),
        ({"alpha": -0.1}, "alpha must be finite and not negative, got -0.1"),
        ({"alpha": float("inf")}, "alpha must be finite"),
        ({"min_priority": 0.0}, "min_priority must be finite and greater than zero, got 0.0"),
        ({"min_priority": float("nan")}, "min_priority must be finite"),
    ],
)
def test_bad_settings_are_refused_by_name(change, message):
    settings = {"ring_length": 20, "num_lanes": 2, "horizon": 5} | change
    with pytest.raises(InputError, match=message):
        SubTrajectorySampler(**settings)


def test_a_window_needs_a_record():
    with pytest.raises(InputError, match="horizon must be at least 1, got 0"):
        HorizonWindow(0)


def test_writes_out_of_order_and_other_storages_are_refused(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2)
    rb.extend(time_steps([["none"] * 4]))
    with pytest.raises(InputError, match="next to time step 4; got time step 1"):
        rb.mark_update(torch.tensor([[1, 0]]))
    with pytest.raises(InputError, match=r"ndim=2 and hold \(20, 1\).* got none"):
        rb.sampler.mark_update(torch.tensor([[4, 0]]))
    other = make_replay_buffer(capacity=40, horizon=2)
    other.extend(time_steps([["none"] * 4]))
    with pytest.raises(InputError, match=r"hold \(20, 1\).*got ndim=2, shape \(40, 1\)"):
        rb.sampler.mark_update(torch.tensor([[4, 0]]), storage=other.storage)


def test_the_buffers_generator_decides_the_draws(time_steps):
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        rb = make_replay_buffer(capacity=100, horizon=2, generator=generator)
        rb.extend(time_steps([["none"] * 90]))
        torch.rand(seed + 1)  # the global generator plays no part
        return rb.sample()["anchor_index"]

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_without_a_generator_the_global_one_decides(time_steps):
    rb = make_replay_buffer(capacity=100, horizon=2)
    rb.extend(time_steps([["none"] * 90]))
    torch.manual_seed(5)
    first = rb.sample()["anchor_index"]
    torch.manual_seed(5)
    assert torch.equal(rb.sample()["anchor_index"], first)


def test_state_returns_into_a_sampler_of_the_same_shape(time_steps):
    rb = make_replay_buffer(capacity=20, horizon=3)
    rb.extend(time_steps([["none"] * 27]))
    rb.update_priority(torch.tensor([[2, 0], [15, 0]]), torch.tensor([7.0, 3.0]))
    twin = SubTrajectorySampler(20, 1, 3, keys=ReplayKeys())
    twin.load_state_dict(rb.sampler.state_dict())
    assert torch.equal(twin.priorities, rb.sampler.priorities)
    assert (twin.head, twin.num_written, twin.oldest) == (7, 20, 7)
    assert twin.max_priority == rb.sampler.max_priority
    assert torch.equal(twin._priorities._sums, rb.sampler._priorities._sums)
    with pytest.raises(InputError, match=r"shape \(21, 1\) .*got \(20, 1\)"):
        SubTrajectorySampler(21, 1, 3).load_state_dict(rb.sampler.state_dict())
