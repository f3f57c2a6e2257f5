"""When a peer updates what: delays, targets, exploration, the order of the parts, what is left out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers_small import SMALL, filled_buffer, transitions

from uld_torchrl.errors import NonFinite
from uld_torchrl.peers import PeerConfig
from uld_torchrl.peers.networks import online_networks
from uld_torchrl.peers.stepper import PeerStepper
from uld_torchrl.trainers import Watchdog

Make = Callable[..., PeerStepper]
NAMES = ("td3", "sac", "dqn")


def weights(stepper: PeerStepper, *, targets: bool = False) -> dict[str, torch.Tensor]:
    """Return one vector for each network."""
    prefix = "target_" if targets else ""
    found = {}
    for name in online_networks(stepper.loss_module):
        params = getattr(stepper.loss_module, f"{prefix}{name}_params", None)
        if params is not None:
            flat = sorted(params.flatten_keys(".").items())
            found[name] = torch.cat([value.detach().flatten() for _, value in flat])
    return found


def moved(stepper: PeerStepper, *, targets: bool = False, calls: int = 1) -> set[str]:
    """Return which networks change in so many calls."""
    before = weights(stepper, targets=targets)
    for _ in range(calls):
        stepper.step(None)
    after = weights(stepper, targets=targets)
    return {name for name in after if not torch.equal(before[name], after[name])}


def test_td3_delays_policy_and_targets(make: Make) -> None:
    stepper = make(dataclasses.replace(SMALL["td3"], policy_delay=3))
    for _ in range(2):
        assert moved(stepper) == {"qvalue_network"}
    assert moved(stepper) == {"qvalue_network", "actor_network"}
    assert moved(stepper, targets=True, calls=2) == set()
    assert moved(stepper, targets=True) == {"qvalue_network", "actor_network"}
    assert stepper.counters == {"updates": 6, "skipped_updates": 0}


@pytest.mark.parametrize(("name", "calls"), [("td3", 2), ("sac", 1)])
def test_targets_take_their_share_of_the_new_networks(make: Make, name: str, calls: int) -> None:
    stepper = make(dataclasses.replace(SMALL[name], tau=0.25))
    before = weights(stepper, targets=True)
    for _ in range(calls):
        stepper.step(None)
    online, after = weights(stepper), weights(stepper, targets=True)
    for network in after:
        if network != "actor_network" or name == "td3":  # SAC's policy has no target
            torch.testing.assert_close(after[network], 0.75 * before[network] + 0.25 * online[network])


def test_sac_updates_all_parts_at_every_update(make: Make) -> None:
    stepper = make(SMALL["sac"])
    temperature = stepper.loss_module.log_alpha.item()
    assert moved(stepper) == {"qvalue_network", "actor_network"}
    assert stepper.loss_module.log_alpha.item() != temperature
    assert moved(stepper, targets=True) >= {"qvalue_network"}


@pytest.mark.parametrize(("goal", "falls"), [(-50.0, True), (50.0, False)])
def test_the_temperature_falls_while_the_entropy_is_above_its_goal(
    make: Make, goal: float, falls: bool
) -> None:
    stepper = make(dataclasses.replace(SMALL["sac"], entropy_per_action=goal, temperature=0.5))
    found = [stepper.step(None)["temperature"].item() for _ in range(3)]
    assert (found[2] < found[0] < 0.5) if falls else (found[2] > found[0] > 0.5)


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_policy_climbs_the_values_after_their_step(make: Make, name: str) -> None:
    """Where the value step leaves zeros, TD3's loss is 0, and SAC's minus the entropy at temperature 1."""
    stepper = make(dataclasses.replace(SMALL[name], **({"policy_delay": 1} if name == "td3" else {})))
    values = stepper.optimizers["value"].param_groups[0]["params"]
    stepper.optimizers["value"].step = lambda: [  # type: ignore[method-assign,assignment]
        parameter.data.zero_() for parameter in values
    ]
    metrics = stepper.step(None)
    wanted = 0.0 if name == "td3" else -metrics["entropy"].item()
    assert metrics["loss_actor"].item() == pytest.approx(wanted)


def test_dqn_updates_copies_and_explores_by_calls(make: Make) -> None:
    peer = dataclasses.replace(
        SMALL["dqn"], update_every=3, target_period=4, epsilon_end=0.2, epsilon_steps=8
    )
    stepper = make(peer)
    updates, epsilons, copies = [], [], []
    for _ in range(12):
        before = weights(stepper, targets=True)["value_network"]
        stepper.step(None)
        updates.append(stepper.updates)
        epsilons.append(stepper.policy[-1].eps.item())
        after = weights(stepper, targets=True)["value_network"]
        copies.append(not torch.equal(before, after))
        if copies[-1]:
            torch.testing.assert_close(after, weights(stepper)["value_network"], rtol=0, atol=0)
    assert updates == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert copies == [False, False, False, True] * 3
    assert epsilons == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2])


def test_metrics_of_a_call_without_update_are_the_latest(make: Make) -> None:
    stepper = make(dataclasses.replace(SMALL["dqn"], update_every=2))
    assert len(list(stepper.step(None).keys())) == 0
    first = stepper.step(None)["loss_qvalue"]
    assert stepper.step(None)["loss_qvalue"] == first != stepper.step(None)["loss_qvalue"]


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_step_is_drawn_and_goes_on(make: Make, name: str) -> None:
    """One truncated step with reward 0: its value is learned towards gamma V', not towards 0."""
    peer = SMALL[name]
    steps = transitions(peer)[1:2]
    steps["next", "reward"].zero_()
    stepper = make(peer)
    stepper.replay_buffer = filled_buffer(steps)
    batch = stepper.replay_buffer.sample()[:, 0]
    assert batch["next", "truncated"].all() and not batch["next", "terminated"].any()
    error = stepper.step(None)["td_error_mean"].item()
    torch.manual_seed(0)
    ended = steps.clone()
    ended["next", "terminated"].fill_(True)
    other = make(peer)
    other.replay_buffer = filled_buffer(ended)
    assert error != pytest.approx(other.step(None)["td_error_mean"].item())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_reaches_no_weights(make: Make, name: str) -> None:
    peer = SMALL[name]
    stepper = make(peer, Watchdog("skip"))
    stepper.step(None)
    before, broken = weights(stepper), transitions(peer)
    broken["next", "reward"][3] = torch.nan
    stepper.step(None, broken)
    after = weights(stepper)
    assert all(torch.equal(before[network], after[network]) for network in before)
    assert stepper.counters == {"updates": 2, "skipped_updates": 1}
    assert moved(stepper), "the next update is applied"


def test_a_run_that_is_to_stop_is_told_which_part_is_not_finite(make: Make) -> None:
    broken = transitions(SMALL["td3"])
    broken["next", "reward"][3] = torch.inf
    with pytest.raises(NonFinite, match=r"the loss of the value is inf .* batch: next\.reward \(1 of 6\)"):
        make(SMALL["td3"]).step(None, broken)


def explored(stepper: PeerStepper) -> Any:
    return dict(stepper.policy[-1].state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_stepper_goes_on_to_the_last_bit(make: Make, name: str) -> None:
    peer: PeerConfig = SMALL[name]
    if name == "dqn":
        peer = dataclasses.replace(peer, update_every=2, target_period=3)
    whole, resumed = make(peer), make(peer)
    for _ in range(3):
        whole.step(None)
    resumed.loss_module.load_state_dict(whole.loss_module.state_dict())
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    results = []
    for stepper in (whole, resumed):
        torch.manual_seed(3)
        metrics = [stepper.step(None) for _ in range(5)]
        results.append((metrics, weights(stepper), weights(stepper, targets=True), explored(stepper)))
    for one, other in zip(*(result[0] for result in results), strict=True):
        assert dict(one.items()) == dict(other.items())
    for part in (1, 2, 3):
        assert all(torch.equal(results[0][part][key], results[1][part][key]) for key in results[0][part])
