"""Replay: sub-trajectory windows drawn by LAP priority, as parts for TorchRL's replay buffers.

Which window is drawn is the sampler's choice, what it consists of is the sample unit's. Of images each
frame is stored once. The rules for a legal window are in :mod:`uld_torchrl.data.sampler`.
"""

from uld_torchrl.data.buffer import WindowReplayBuffer
from uld_torchrl.data.frames import FrameStore
from uld_torchrl.data.keys import ReplayKeys
from uld_torchrl.data.make import StorageName, make_replay_buffer
from uld_torchrl.data.memory import check_room, replay_bytes
from uld_torchrl.data.pixels import PixelReplayBuffer
from uld_torchrl.data.priorities import PrioritySum
from uld_torchrl.data.sampler import SubTrajectorySampler
from uld_torchrl.data.windows import HorizonWindow

__all__ = [
    "FrameStore",
    "HorizonWindow",
    "PixelReplayBuffer",
    "PrioritySum",
    "ReplayKeys",
    "StorageName",
    "SubTrajectorySampler",
    "WindowReplayBuffer",
    "check_room",
    "make_replay_buffer",
    "replay_bytes",
]
