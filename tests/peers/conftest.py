"""A stepper of a small peer; the oracles stand beside the tests that use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peers_small import N, actions_of, filled_buffer, transitions
from torchrl.data import Unbounded

from uld_torchrl.peers import PeerConfig
from uld_torchrl.peers.networks import make_peer
from uld_torchrl.peers.stepper import PeerStepper, make_stepper
from uld_torchrl.trainers import Watchdog

MakeStepper = Callable[..., PeerStepper]


@pytest.fixture(scope="session")
def make() -> MakeStepper:
    """Make the stepper of a peer with a filled buffer, and targets that are not the online networks."""

    def made(peer: PeerConfig, watchdog: Watchdog | None = None) -> PeerStepper:
        torch.manual_seed(0)
        networks = make_peer(peer, Unbounded(N), actions_of(peer))
        stepper = make_stepper(peer, *networks, filled_buffer(transitions(peer)), watchdog or Watchdog())
        for name, module in networks[0].named_children():
            if name.startswith("target_"):
                module.data.apply_(lambda weight: weight.add_(0.1 * torch.randn_like(weight)))
        return stepper

    return made
