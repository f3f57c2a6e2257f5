"""The acting policy as a ``torch.export`` program: a file that acts with torch alone.

The program is the deterministic policy of ``Agent.predict``, from an observation in the agent's form (a
float32 vector, or a stack of uint8 frames) to the task's own action: scaling and argmax are inside. How a
dict observation becomes a vector is not; the names of the vector's entries go into the file. Values, the
latent model and exploration are not exported.
"""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Discrete
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from uld_torchrl.envs.spaces import entry_names, vector_length
from uld_torchrl.errors import InputError
from uld_torchrl.modules import ExplorationNoise
from uld_torchrl.peers import refuse_peer
from uld_torchrl.trainers.agent import Agent
from uld_torchrl.trainers.files import replaced

ABOUT = "uld_policy.json"
"""Name of the description in the file, for ``torch.export.load(..., extra_files={ABOUT: ""})``."""


class _Acting(nn.Module):
    """Encoder and policy on plain tensors, and the way to the task's own action."""

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        *networks, noise = agent.policy
        if not isinstance(noise, ExplorationNoise) or not all(_on_tensors(net) for net in networks):
            raise InputError(
                f"agent must be an agent of ULD or MR.Q, got one of {agent.env_id} of another kind."
            )
        self.networks = nn.ModuleList(net.module for net in networks)
        self.keys = [(net.in_keys, net.out_keys) for net in networks]
        self.space = agent.action_space
        if not isinstance(self.space, Discrete):
            for name in ("low", "high"):
                self.register_buffer(name, torch.as_tensor(getattr(self.space, name)).double().flatten())

    def forward(self, observation: Tensor) -> Tensor:
        """Map (B, n) float32 or (B, k C, h, w) uint8 to actions of the task (B, ...)."""
        entries: dict[NestedKey, Any] = {self.keys[0][0][0]: observation}
        for network, (read, written) in zip(self.networks, self.keys, strict=True):
            found = network(*(entries[key] for key in read))
            entries.update(zip(written, found if isinstance(found, tuple) else (found,), strict=True))
        if isinstance(self.space, Discrete):
            return entries["pre_activation"].argmax(-1) + int(self.space.start)
        return self._scaled(entries["action"].clamp(-1, 1).double())

    def _scaled(self, action: Tensor) -> Tensor:
        """Scale as ``envs.spaces`` does: in float64, and so that -1 and 1 give the bounds exactly."""
        centre, half_range = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2
        inner = torch.where(action >= 1, self.high, centre + half_range * action)
        scaled = torch.where(action <= -1, self.low, inner)
        dtype = torch.as_tensor(self.space.low).dtype  # type: ignore[attr-defined]
        return scaled.to(dtype).reshape(-1, *self.space.shape)  # type: ignore[misc]


def _on_tensors(network: Any) -> bool:
    return isinstance(network, TensorDictModule) and len(network.in_keys) == 1


def export_policy(agent: Agent, path: Path | str) -> Path:
    """Write the deterministic policy to ``path``, to be run by torch alone.

    ``torch.export.load(path).module()`` is a function from a batch of observations (B, n) float32, or stacks
    of frames (B, k C, h, w) uint8, to actions of the task's own space, (B, ...) of its type for a Box and
    int64 (B) for Discrete, equal to :meth:`Agent.predict`. B is free; a single observation is a batch of one.
    The vector of a dict observation is its parts one after the other, as the file ``uld_policy.json`` in it
    names them; a Discrete one is one-hot. Nothing is checked but shapes: NaN gives NaN.

    Args:
        agent: from :func:`~uld_torchrl.load`; moved nowhere, the program runs on the CPU.
        path: file to write, ending in ``.pt2``; an old one is replaced.

    Returns:
        The path.

    Raises:
        InputError: no ``.pt2`` file in an existing folder, or an agent whose policy is of another make.

    Example:
        >>> import tempfile
        >>> from gymnasium.spaces import Box
        >>> from uld_torchrl import preset
        >>> from uld_torchrl.envs import TaskSpaces
        >>> agent = Agent.build("my-task", TaskSpaces(Box(-1, 1, (3,)), Box(0, 5, (2,))), preset("debug"))
        >>> path = export_policy(agent, Path(tempfile.mkdtemp()) / "policy.pt2")
        >>> act = torch.export.load(path).module()
        >>> observation = torch.tensor([[0.5, 0.0, -0.5]])
        >>> bool((act(observation) == torch.as_tensor(agent.predict(observation))).all())
        True
    """
    refuse_peer(agent.peer, "export_policy")
    path = Path(path)
    if path.suffix != ".pt2" or not path.parent.is_dir():
        raise InputError(f"path must be a file ending in .pt2 in an existing folder, got {str(path)!r}.")
    buffer = io.BytesIO()
    torch.export.save(_program(agent), buffer, extra_files={ABOUT: json.dumps(_about(agent), indent=2)})
    with replaced(path) as aside:
        aside.write_bytes(buffer.getvalue())
    return path


def _program(agent: Agent) -> ExportedProgram:
    acting = copy.deepcopy(_Acting(agent)).cpu().eval().requires_grad_(False)
    with torch.no_grad():
        program = torch.export.export(acting, (_example(agent),), dynamic_shapes=({0: Dim("batch")},))
    # A policy of discrete actions also draws a sample, which acting greedily does not read.
    program.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    program.graph_module.recompile()
    return program


def _example(agent: Agent) -> Tensor:
    space = agent.observation_space
    if agent.spaces.frames is not None:
        return torch.zeros(2, *(space.shape or ()), dtype=torch.uint8)
    return torch.zeros(2, vector_length(space))


def _about(agent: Agent) -> dict[str, Any]:
    """Return what goes in and comes out, as JSON data."""
    frames = agent.spaces.frames
    inputs: dict[str, Any] = {"entries": entry_names(agent.observation_space), "dtype": "float32"}
    if frames is not None:
        inputs = {"shape": agent.observation_space.shape, "frames": frames, "dtype": "uint8"}
    return {"env_id": agent.env_id, "observation": inputs, "action": str(agent.action_space)}
