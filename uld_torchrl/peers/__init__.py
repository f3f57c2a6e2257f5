"""Peers: TD3, SAC and DQN by TorchRL's own losses, to be run in the same harness as ULD.

Here are their settings, without torch. The networks and losses are in ``networks``, an update is in
``stepper``; ``uld_torchrl.trainers.peer_trainer`` runs them.
"""

from uld_torchrl.peers.config import (
    PEERS,
    DQNConfig,
    PeerConfig,
    PeerName,
    SACConfig,
    TD3Config,
    about_peer,
    harness_config,
    metrics_of,
    name_of,
    own_settings,
    peer_of,
    read_settings,
    refuse_peer,
    shared_settings,
    split_agent,
    uld_settings,
)

__all__ = [
    "PEERS",
    "DQNConfig",
    "PeerConfig",
    "PeerName",
    "SACConfig",
    "TD3Config",
    "about_peer",
    "harness_config",
    "metrics_of",
    "name_of",
    "own_settings",
    "peer_of",
    "read_settings",
    "refuse_peer",
    "shared_settings",
    "split_agent",
    "uld_settings",
]
