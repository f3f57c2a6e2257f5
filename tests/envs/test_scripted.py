"""Scripted lanes give exactly the data of the script, however they are stepped; replay keeps them apart."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDictBase

from uld_torchrl.data import make_replay_buffer

KINDS = ["lanes", "workers", "disabled", "same_step", "next_step"]
STEPS = 40


def records(steps: TensorDictBase, seams: torch.Tensor, lane: int) -> list[tuple]:
    """Return a lane's records in the form of the expected ones."""
    return [
        (
            tuple(step["observation"].tolist()),
            step["action"].item(),
            step["next", "reward"].item(),
            step["next", "terminated"].item(),
            step["next", "truncated"].item(),
            tuple(step["next", "observation"].tolist()),
            seam.item(),
        )
        for step, seam in zip(steps[lane].unbind(0), seams[lane], strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_lane_gives_the_data_of_its_script(kind: str, scripted: SimpleNamespace) -> None:
    with closing(scripted.kinds[kind]()) as env:
        steps, seams = scripted.play(env, STEPS)
        assert torch.equal(steps["next", "done"], steps["next", "terminated"] | steps["next", "truncated"])
        for lane in range(3):
            actions = steps["action"][lane, :, 0].tolist()
            expected = scripted.expect(lane, actions, seams=kind == "next_step")
            assert records(steps, seams, lane) == expected
            assert sum(record[3] or record[4] for record in expected) > 8, "the script must be played through"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_of_all_lanes_begins_new_episodes_wherever_they_are(
    kind: str, scripted: SimpleNamespace
) -> None:
    with closing(scripted.kinds[kind]()) as env:
        steps, _ = scripted.play(env, 7)
        again, seams = scripted.play(env, 12, seed=1)
        for lane in range(3):
            begun = int(again["observation"][lane, 0, 1])
            assert begun > steps["observation"][lane, :, 1].max()
            actions = again["action"][lane, :, 0].tolist()
            expected = scripted.expect(lane, actions, seams=kind == "next_step", first_episode=begun)
            assert records(again, seams, lane) == expected


def drawn(env_kind: str, horizon: int, scripted: SimpleNamespace) -> tuple[TensorDictBase, torch.Tensor, set]:
    """Return windows that cover every drawable anchor, the seams [lanes, T], and the drawable anchors."""
    with closing(scripted.kinds[env_kind]()) as env:
        steps, seams = scripted.play(env, STEPS)
    buffer = make_replay_buffer(
        capacity=3 * (STEPS + 5),
        num_lanes=3,
        horizon=horizon,
        batch_size=4096,
        generator=torch.Generator().manual_seed(0),
    )
    for step in steps.unbind(1):
        buffer.add(step)
    batch = buffer.sample()
    anchors = {tuple(anchor) for anchor in batch["anchor_index"][:, 0].tolist()}
    drawable = {tuple(anchor) for anchor in buffer._sampler.priorities.nonzero().tolist()}
    assert anchors == drawable, "the sample is too small to show all"
    return batch, seams, drawable


@pytest.mark.parametrize("horizon", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_no_window_mixes_lanes_or_episodes_or_holds_a_seam(
    kind: str, horizon: int, scripted: SimpleNamespace
) -> None:
    batch, seams, drawable = drawn(kind, horizon, scripted)
    for window in batch.unbind(0):
        time, lane = window["anchor_index"][0].tolist()
        length = int(window["validity_mask"].sum())
        valid = window[:length]
        before, after = valid["observation"], valid["next", "observation"]
        assert (before[:, 0] == lane).all() and (after[:, 0] == lane).all()
        assert (before[:, 1] == before[0, 1]).all() and (after[:, 1] == before[0, 1]).all()
        assert before[:, 2].tolist() == [before[0, 2].item() + step for step in range(length)]
        assert torch.equal(after[:, 2], before[:, 2] + 1) and torch.equal(after[:-1], before[1:])
        assert not valid["next", "truncated"][:-1].any()
        assert length == horizon or valid["next", "terminated"][-1]
        assert not seams[lane, time : time + length].any()
    assert drawable == legal(kind, horizon, scripted)


def legal(kind: str, horizon: int, scripted: SimpleNamespace) -> set[tuple[int, int]]:
    """Return the anchors (time, lane) of all windows that the script allows, by looking at each."""
    found = set()
    for lane in range(3):
        script = scripted.expect(lane, [0.0] * STEPS, seams=kind == "next_step")
        for time in range(STEPS - horizon + 1):
            endings = [
                (terminated, truncated) for *_, terminated, truncated, _, _ in script[time : time + horizon]
            ]
            before_last = [terminated for terminated, truncated in endings[:-1] if terminated or truncated]
            if not before_last or before_last[0]:
                found.add((time, lane))
    return found


def test_a_reward_of_a_seam_is_zero_and_counts_in_the_mean(scripted: SimpleNamespace) -> None:
    steps, seams = scripted.play(scripted.kinds["next_step"](), STEPS)
    assert seams.sum() >= 24
    assert (steps["next", "reward"].squeeze(-1)[seams] == 0).all()
    buffer = make_replay_buffer(capacity=200, num_lanes=3, horizon=2)
    buffer.extend(steps)
    expected = steps["next", "reward"].abs().sum() / (3 * STEPS)
    torch.testing.assert_close(buffer.mean_abs_reward(), expected)
