"""The buffer as a whole: writing, restoring, the seam after a restart, the reward's scale."""

from __future__ import annotations

import pytest
import torch
from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter
from torchrl.envs import Transform

from uld_torchrl.data import ReplayKeys, make_replay_buffer
from uld_torchrl.errors import InputError

LIFE = ["none", "none", "none", "terminated", "none", "none", "truncated", "none", "none", "none", "none"]


def _buffer(time_steps, steps, *, capacity=40, lanes=2, seed=0, updates=True):
    generator = torch.Generator().manual_seed(seed)
    rb = make_replay_buffer(capacity=capacity, num_lanes=lanes, horizon=3, batch_size=32, generator=generator)
    if steps:
        endings = [[LIFE[(t + 3 * lane) % len(LIFE)] for t in range(steps)] for lane in range(lanes)]
        rb.extend(time_steps(endings))
    if updates:
        rb.update_priority(rb.sample()["anchor_index"], torch.linspace(0, 90, 32))
    return rb


@pytest.mark.parametrize("whole", [True, False])
def test_the_graph_that_made_an_action_is_not_kept(whole, time_steps):
    rb = make_replay_buffer(capacity=20, horizon=2, batch_size=4)
    data = time_steps([["none"] * 6])
    weight = torch.ones((), requires_grad=True)
    data["action"] = data["action"] * weight  # as a rollout without no_grad records it
    if whole:
        rb.extend(data)
    else:
        for step in data.unbind(1):
            rb.add(step)
    assert not any(entry.requires_grad for entry in rb.sample().values(True, True))
    assert not any(entry.requires_grad for entry in rb.storage.get(slice(None)).values(True, True))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_add_and_extend_write_the_same(lanes, steps, time_steps):
    both = [make_replay_buffer(capacity=30, num_lanes=lanes, horizon=2) for _ in range(2)]
    data = time_steps([["none"] * steps] * lanes)
    index = both[0].extend(data)
    single = [both[1].add(step) for step in data.unbind(1)]
    assert torch.equal(index, torch.cat(single))
    assert len(both[0]) == len(both[1]) == lanes * steps
    assert (both[0].storage[:] == both[1].storage[:]).all()
    assert torch.equal(both[0].sampler.priorities, both[1].sampler.priorities)
    assert "index" not in data


def test_only_the_named_entries_are_stored(time_steps):
    keys = ReplayKeys(observation=("agent", "eyes"), next_observation=("next", "agent", "eyes"))
    rb = make_replay_buffer(capacity=30, horizon=2, batch_size=4, keys=keys)
    data = time_steps([["none"] * 9])
    data["agent", "eyes"] = data.pop("observation")
    data["next", "agent", "eyes"] = data["next"].pop("observation")
    data["td_error"] = torch.rand(1, 9)
    data["next", "step_count"] = torch.rand(1, 9)
    rb.extend(data)
    batch = rb.sample()
    stored = set(rb.storage[:].keys(True, True))
    assert stored == set(keys.stored)
    assert stored | {"index", "anchor_index", "validity_mask"} == set(batch.keys(True, True))


def test_wrong_time_steps_are_refused_by_name(time_steps):
    rb = make_replay_buffer(capacity=30, num_lanes=2, horizon=2)
    data = time_steps([["none"] * 4] * 2)
    with pytest.raises(InputError, match=r"num_lanes = 2, got \[2, 4\]"):
        rb.add(data)
    with pytest.raises(InputError, match=r"num_lanes = 2, got \[2\]"):
        rb.extend(data[:, 0])
    with pytest.raises(InputError, match=r"num_lanes = 2, got \[1, 4\]"):
        rb.extend(data[:1])
    with pytest.raises(InputError, match=r"lacks an entry .*truncated.*ReplayKeys"):
        rb.extend(data.exclude(("next", "truncated")))
    assert len(rb) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 11}, "more than horizon \\(5\\).*2 lane\\(s\\), got 5.*at least 12"),
        ({"num_lanes": 0}, "num_lanes must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_buffer_are_refused(change, message):
    settings = {"capacity": 20, "num_lanes": 2, "horizon": 5} | change
    with pytest.raises(InputError, match=message):
        make_replay_buffer(**settings)


def test_the_smallest_buffer_holds_one_step_more_than_a_window(time_steps):
    rb = make_replay_buffer(capacity=12, num_lanes=2, horizon=5)
    rb.extend(time_steps([["none"] * 15] * 2))
    assert rb.sampler.priorities.count_nonzero() == 4


def test_capacity_counts_the_steps_of_all_lanes(time_steps):
    rb = make_replay_buffer(capacity=31, num_lanes=3, horizon=2)
    rb.extend(time_steps([["none"] * 50] * 3))
    assert len(rb) == 30
    assert rb.storage.shape == (10, 3)


def test_empty_forgets_everything(time_steps):
    rb = _buffer(time_steps, 27)
    rb.empty()
    assert not rb.can_sample()
    assert rb.sampler.max_priority == 1
    rb.extend(time_steps([["none"] * 4] * 2))
    assert rb.sampler.priorities.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def _continued(rb, time_steps, state=None):
    """Draw, write on, and draw again; return all that was drawn."""
    rb._rng.manual_seed(11)
    drawn = [rb.sample()["observation"] for _ in range(3)]
    rb.update_priority(rb.sample()["anchor_index"], torch.linspace(5, 50, 32))
    for number in range(100, 109):
        rb.add(time_steps([["none"]] * 2, first=number)[:, 0])
        drawn.append(rb.sample()["observation"])
    return torch.stack(drawn)


@pytest.mark.parametrize("steps", [7, 20, 33, 58])
def test_a_restored_buffer_draws_the_same_records(steps, time_steps):
    rb = _buffer(time_steps, steps)
    twin = _buffer(time_steps, 13, seed=1)  # not empty before
    twin.load_state_dict(rb.state_dict())
    assert torch.equal(twin.sampler.priorities, rb.sampler.priorities)
    assert twin.sampler.head == rb.sampler.head == twin.writer._cursor
    assert twin.write_count == rb.write_count == steps
    assert torch.equal(twin.sample()["observation"], rb.sample()["observation"])  # the generator's state
    assert torch.equal(_continued(twin, time_steps), _continued(rb, time_steps))


@pytest.mark.parametrize("steps", [7, 20, 33, 58])
def test_a_larger_buffer_draws_the_same_records_until_the_small_one_forgets(steps, time_steps):
    rb, large = _buffer(time_steps, steps), _buffer(time_steps, 5, capacity=100, seed=1)
    large.load_state_dict(rb.state_dict())
    assert len(large) == len(rb)
    assert large.sampler.max_priority == rb.sampler.max_priority
    mine, theirs = ([buffer.sample() for _ in range(5)] for buffer in (rb, large))
    assert torch.equal(torch.stack(mine)["observation"], torch.stack(theirs)["observation"])
    assert torch.equal(torch.stack(mine)["validity_mask"], torch.stack(theirs)["validity_mask"])


def test_state_is_the_written_records_oldest_first(time_steps):
    state = _buffer(time_steps, 33).state_dict()
    assert state["records"]["observation"][:, 0, 0].tolist() == list(range(13, 33))
    assert state["records"]["next"]["reward"].shape == (20, 2, 1)
    assert state["priorities"].shape == (20, 2)
    assert (state["priorities"][-2:] == 0).all()
    assert len(_buffer(time_steps, 7).state_dict()["priorities"]) == 7


def test_state_is_a_copy(time_steps):
    rb = _buffer(time_steps, 20)
    state = rb.state_dict()
    observation = state["records"]["observation"].clone()
    priorities, largest = state["priorities"].clone(), state["max_priority"].clone()
    _continued(rb, time_steps)
    rb.update_priority(torch.tensor([[12, 0]]), torch.tensor([1e9]))
    assert torch.equal(state["records"]["observation"], observation)
    assert torch.equal(state["priorities"], priorities)
    assert torch.equal(state["max_priority"], largest)


def test_the_state_of_an_empty_buffer_empties_another(time_steps):
    rb = _buffer(time_steps, 33)
    rb.load_state_dict(_buffer(time_steps, 0, updates=False).state_dict())
    assert len(rb) == 0
    assert not rb.can_sample()
    rb.extend(time_steps([["none"] * 4] * 2))
    assert rb.sample().shape == (32, 3)


def test_a_checkpoint_takes_the_buffer_without_pickle(time_steps, tmp_path):
    rb, twin = _buffer(time_steps, 33), _buffer(time_steps, 0, updates=False, seed=9)
    Checkpoint().register("replay", rb, adapter=StateDictCheckpointAdapter()).save(tmp_path / "step")
    Checkpoint().register("replay", twin, adapter=StateDictCheckpointAdapter()).load(tmp_path / "step")
    assert torch.equal(_continued(twin, time_steps), _continued(rb, time_steps))


def test_torchrls_own_dumps_keep_the_sampler(time_steps, tmp_path):
    rb, twin = _buffer(time_steps, 33), _buffer(time_steps, 0, updates=False)
    rb.dumps(tmp_path)
    twin.loads(tmp_path)
    assert torch.equal(twin.sampler.priorities, rb.sampler.priorities)
    assert torch.equal(_continued(twin, time_steps), _continued(rb, time_steps))


def _with(state, **changes):
    return {**state, **changes}


def test_states_that_do_not_fit_are_refused_by_name(time_steps):
    state = _buffer(time_steps, 33).state_dict()
    small = make_replay_buffer(capacity=38, num_lanes=2, horizon=3)
    with pytest.raises(InputError, match=r"capacity must be at least 40 .* got 38"):
        small.load_state_dict(state)
    with pytest.raises(InputError, match=r"num_lanes must be 2.* got 1"):
        make_replay_buffer(capacity=40, horizon=3).load_state_dict(state)
    with pytest.raises(InputError, match=r"horizon must be 3.* got 4"):
        make_replay_buffer(capacity=40, num_lanes=2, horizon=4).load_state_dict(state)
    damaged = _with(state, priorities=torch.ones_like(state["priorities"]))
    with pytest.raises(InputError, match="damaged"):
        make_replay_buffer(capacity=40, num_lanes=2, horizon=3).load_state_dict(damaged)


@pytest.mark.parametrize("steps", [5, 23])
def test_no_window_runs_over_the_seam(steps, time_steps):
    rb = make_replay_buffer(capacity=40, num_lanes=2, horizon=3)
    endings = [["none"] * steps, ["none"] * (steps - 1) + ["terminated"]]
    rb.extend(time_steps(endings))
    before = rb.sampler.priorities.clone()
    rb.mark_newest_truncated()
    assert torch.equal(rb.sampler.priorities, before)
    newest = rb.storage[:][(steps - 1) % 20]["next"]
    assert newest["truncated"][:, 0].tolist() == [True, False]
    assert newest["done"][:, 0].tolist() == [True, True]
    assert rb.storage[:]["next", "truncated"].sum() == 1
    for number in range(steps, steps + 4):
        rb.add(time_steps([["none"]] * 2, first=number)[:, 0])
    legal = [
        {(n % 20) for n in range(steps - 3, steps + 4) if rb.sampler.priorities[n % 20, k]} for k in (0, 1)
    ]
    after = {steps % 20, (steps + 1) % 20}
    assert legal[0] == {(steps - 3) % 20} | after
    assert legal[1] == {(steps - 3) % 20, (steps - 2) % 20, (steps - 1) % 20} | after


def test_marking_an_empty_buffer_does_nothing():
    rb = make_replay_buffer(capacity=40, horizon=3)
    rb.mark_newest_truncated()
    assert len(rb) == 0


@pytest.mark.parametrize(("steps", "mean"), [(1, 0.0), (5, 2.0), (33, 22.5)])
def test_mean_abs_reward_is_over_written_records_only(steps, mean, time_steps):
    rb = make_replay_buffer(capacity=40, num_lanes=2, horizon=3)
    rb.extend(time_steps([["none"] * steps] * 2))  # rewards 0, -1, -2, ...
    assert rb.mean_abs_reward().shape == ()
    assert rb.mean_abs_reward() == mean


def test_mean_abs_reward_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one record"):
        make_replay_buffer(capacity=40, horizon=3).mean_abs_reward()


class _Halve(Transform):
    """Stores half the reward."""

    def _inv_call(self, tensordict):
        return tensordict.set(("next", "reward"), tensordict["next", "reward"] / 2)

    def forward(self, tensordict):
        return tensordict


def test_transforms_of_the_buffer_apply_to_single_steps_too(time_steps):
    rb = make_replay_buffer(capacity=40, num_lanes=2, horizon=3)
    rb.append_transform(_Halve())
    data = time_steps([["none"] * 4] * 2)  # rewards 0, -1, -2, ...
    rb.extend(data[:, :3])
    rb.add(data[:, 3])
    assert rb.storage[:]["next", "reward"][:, 1, 0].tolist() == [0.0, -0.5, -1.0, -1.5]
    assert rb.sample().shape == (256, 3)
