"""Small peers, transitions and buffers for the tests of ``uld_torchrl.peers``."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.data import Bounded, OneHot, TensorSpec

from uld_torchrl.data import WindowReplayBuffer, make_replay_buffer
from uld_torchrl.peers import DQNConfig, PeerConfig, SACConfig, TD3Config

N = 3
BOX, CHOICE = Bounded(-1, 1, (2,)), OneHot(2, dtype=torch.int64)
SMALL: dict[str, PeerConfig] = {
    "td3": TD3Config(hidden_dim=8, batch_size=4, gamma=0.9),
    "sac": SACConfig(hidden_dim=8, batch_size=4, gamma=0.9),
    "dqn": DQNConfig(hidden_dim=8, second_dim=6, batch_size=4, gamma=0.9, update_every=1, target_period=5),
}


def actions_of(peer: PeerConfig) -> TensorSpec:
    return CHOICE if isinstance(peer, DQNConfig) else BOX


def transitions(peer: PeerConfig, count: int = 6) -> TensorDict:
    """Return steps [count]; the first is terminated, the second truncated, the others neither."""
    torch.manual_seed(5)
    flags = torch.zeros(2, count, 1, dtype=torch.bool)
    flags[0, 0], flags[1, 1] = True, True
    after = {
        "observation": torch.randn(count, N),
        "reward": torch.randn(count, 1),
        "terminated": flags[0],
        "truncated": flags[1],
        "done": flags.any(0),
    }
    given = {"observation": torch.randn(count, N), "action": actions_of(peer).rand((count,)), "next": after}
    return TensorDict(given, batch_size=[count])


def filled_buffer(steps: TensorDict, batch_size: int = 4) -> WindowReplayBuffer:
    buffer = make_replay_buffer(capacity=50, horizon=1, batch_size=batch_size, alpha=0.0)
    buffer.extend(steps.unsqueeze(0))
    return buffer
