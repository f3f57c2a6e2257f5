"""Agent: the networks, the loss and the acting policy of one task, saved as JSON and safetensors.

They are ULD's, or those of a peer (``uld_torchrl.peers``). Nothing is pickled: ``config.json`` says what to
build, ``model.safetensors`` holds the weights. What is read is checked before anything of its size is made.
Training state (optimisers, replay) is in checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.spaces import Discrete
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.data import Bounded, OneHot, TensorSpec, Unbounded, UnboundedDiscrete
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives.common import LossModule

from uld_torchrl.config import AgentConfig, from_dict, to_dict
from uld_torchrl.envs import (
    TaskSpaces,
    native_action,
    observation_stack,
    observation_vector,
    task_from_json,
    task_spaces,
    task_to_json,
    vector_length,
)
from uld_torchrl.envs.spaces import MAX_LENGTH, check_spaces
from uld_torchrl.errors import InputError
from uld_torchrl.modules import make_networks, make_policy
from uld_torchrl.objectives import PeriodicHardUpdate, ULDLoss, make_loss
from uld_torchrl.objectives.networks import NETWORKS
from uld_torchrl.peers import PeerConfig, about_peer, peer_of
from uld_torchrl.peers.networks import copy_targets, end_exploration, make_peer, online_networks
from uld_torchrl.trainers.files import replace_text, replaced
from uld_torchrl.untrusted import brief, open_plain, read_json, unreadable

FORMAT = 2
_HEADER_LIMIT = 2**20
_FLOATS = ("F64", "F32", "F16", "BF16")


class _NoNumbers(TorchDispatchMode):
    """A number read from a tensor of shapes only is 0: TorchRL reads some to draw a single value head."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0.0
        return func(*args, **(kwargs or {}))


@dataclass
class Agent:
    """What was learned, and what is needed to act: loss (with all networks) and policy.

    ``policy`` is a TensorDict module from ``observation`` (..., n), or of images ``pixels``
    (..., k C, h, w), to ``action`` (..., m) in [-1, 1] or one-hot, for collectors and rollouts in
    environments of :func:`~uld_torchrl.make_env`; it explores under ``ExplorationType.RANDOM``.
    :meth:`predict` takes and gives what the task itself uses.

    Example:
        >>> from gymnasium.spaces import Box
        >>> spaces = TaskSpaces(Box(-1, 1, (3,)), Box(-2, 2, (2,)))
        >>> agent = Agent.build("my-task", spaces)
        >>> agent.num_parameters
        3846982
        >>> agent.predict([0.5, 0.0, -0.5]).shape
        (2,)
    """

    env_id: str
    config: AgentConfig
    spaces: TaskSpaces
    loss: ULDLoss | Any
    """Of ULD, or TorchRL's of the peer."""
    policy: TensorDictSequential
    peer: PeerConfig | None = None
    """Settings of the peer that this agent is; None: it is ULD."""

    @classmethod
    def build(
        cls,
        env_id: str,
        spaces: TaskSpaces,
        config: AgentConfig | None = None,
        device: torch.device | str = "cpu",
        peer: PeerConfig | None = None,
    ) -> Agent:
        """Make a new agent for a task's own spaces; parameters come from torch's global generator.

        On the device "meta" its tensors have shapes only, and take no memory.

        Raises:
            InputError: a space of an unsupported kind.
        """
        check_spaces(spaces, env_id)
        config = config or AgentConfig()
        specs = _observation_spec(spaces), _action_spec(spaces.action)
        loss, policy = _make_uld(config, *specs, device) if peer is None else _make_peer(peer, *specs, device)
        return cls(env_id, config, spaces, loss, policy, peer)

    @classmethod
    def for_env(
        cls,
        env_id: str,
        env: EnvBase,
        config: AgentConfig,
        device: torch.device | str = "cpu",
        peer: PeerConfig | None = None,
    ) -> Agent:
        """Make a new agent for an environment of :func:`~uld_torchrl.make_env`."""
        return cls.build(env_id, task_spaces(env), config, device, peer)

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """The task's own observation space."""
        return self.spaces.observation

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The task's own action space."""
        return self.spaces.action

    @property
    def num_parameters(self) -> int:
        """Number of online parameters, targets not counted."""
        return sum(tensor.numel() for tensor in self._tensors().values())

    def predict(self, observation: Any, deterministic: bool = True) -> Any:
        """Choose actions for one observation or a batch, as the task's own spaces define both.

        Args:
            observation: of ``observation_space``, or a batch of B with one more dimension in front (of
                each part of a dict). Of an image task that is the stack of the last frames, uint8
                (k C, h, w), as environments wrapped in :func:`~uld_torchrl.envs.stack_frames` observe it.
            deterministic: the policy's action, for discrete tasks the most probable one, whatever
                ``greedy_discrete_eval`` says; False adds the exploration noise of training.

        Returns:
            Of ``action_space``: an array (or integer) for one observation, an array [B, ...] for a batch.

        Raises:
            InputError: the observation does not fit, or is not finite.
        """
        td = self._read(_as_arrays(observation)).to(self._device)
        kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with torch.no_grad(), set_exploration_type(kind):
            action = self._greedy_policy(td).get("action")
        return native_action(self.spaces.action, action.cpu().numpy())

    def _read(self, observation: Any) -> TensorDict:
        space = self.spaces.observation
        if self.spaces.frames is None:
            vectors = torch.as_tensor(observation_vector(space, observation))
            return TensorDict({"observation": vectors}, batch_size=vectors.shape[:-1])
        # A copy: torch takes no array that runs backwards, and warns of one that is read-only.
        stacks = torch.from_numpy(observation_stack(space, observation).copy())
        return TensorDict({"pixels": stacks}, batch_size=stacks.shape[:-3])

    @cached_property
    def _greedy_policy(self) -> TensorDictSequential:
        if self.peer is not None:
            return self.policy
        *networks, noise = self.policy
        return TensorDictSequential(*networks, noise.as_greedy())

    @property
    def _device(self) -> torch.device:
        return next(self.loss.parameters()).device

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name in (NETWORKS if self.peer is None else online_networks(self.loss))
            for key, value in getattr(self.loss, f"{name}_params").data.flatten_keys(".").items()
        }

    def save(self, folder: Path, *, step: int | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` (online parameters) to ``folder``.

        Args:
            folder: is made if need be.
            step: agent steps of training, noted in the description.
        """
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "step": step,
            "env_id": self.env_id,
            **task_to_json(self.spaces),
            "config": to_dict(self.config),
            **self._kind(),
        }
        tensors = {key: value.contiguous().cpu() for key, value in self._tensors().items()}
        with replaced(folder / "model.safetensors") as aside:
            save_file(tensors, aside)
        replace_text(folder / "config.json", json.dumps(about, indent=2) + "\n")

    def _kind(self) -> dict[str, Any]:
        if self.peer is None:
            return {"reward_scale": self.loss.reward_scale.item()}
        return about_peer(self.peer)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Agent:
        """Read an agent that :meth:`save` wrote; targets begin as copies, DQN explores as in the end.

        Names, types and shapes in the file of weights are compared with the description before an agent of
        that size is made.

        Raises:
            InputError: a file is missing, damaged, of another version, or no plain file.
        """
        path, weights = folder / "config.json", folder / "model.safetensors"
        about = _read_description(path)
        try:
            spaces, config, peer = task_from_json(about), from_dict(about["config"]), peer_of(about)
            parts = (_name(about["env_id"]), spaces, _checked_images(config))
            # 1 where an earlier version saved: its values keep the unit that they were trained in.
            scale = _scale(about.get("reward_scale", 1.0))
            wanted = cls.build(*parts, device="meta", peer=peer)._tensors()
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            reason = brief(f"{type(error).__name__}: {error}")
            raise InputError(
                f"{path} is not a model description ({reason}). Put an undamaged copy there."
            ) from error
        _check_header(weights, wanted)
        agent = cls.build(*parts, device=device, peer=peer)
        agent._load_tensors(weights)
        if peer is not None:
            copy_targets(agent.loss)
            end_exploration(agent.policy)
            return agent
        agent.loss.reward_scale.fill_(scale)
        PeriodicHardUpdate(agent.loss).copy_()
        return agent

    def _load_tensors(self, path: Path) -> None:
        own = self._tensors()
        try:
            with safe_open(path, framework="pt") as file:
                for key, value in own.items():
                    value.copy_(file.get_tensor(key))
        except (OSError, SafetensorError) as error:
            raise unreadable(path, brief(error)) from error
        broken = [key for key, value in own.items() if not value.isfinite().all()]
        if broken:
            raise unreadable(path, f"{broken[0]} holds NaN or infinity")


def _make_uld(
    config: AgentConfig, observation_spec: TensorSpec, action_spec: TensorSpec, device: torch.device | str
) -> tuple[ULDLoss, TensorDictSequential]:
    shapes_only = torch.device(device).type == "meta"
    with torch.device("meta") if shapes_only else nullcontext():
        networks = make_networks(observation_spec, action_spec, config.model, loss=config.loss)
    for module in networks.modules():
        module.to(device)
    with _NoNumbers() if shapes_only else nullcontext():
        loss = make_loss(networks, action_spec, config)
    return loss, make_policy(networks, action_spec, config).to(device)


def _make_peer(
    peer: PeerConfig, observation_spec: TensorSpec, action_spec: TensorSpec, device: torch.device | str
) -> tuple[LossModule, TensorDictSequential]:
    if torch.device(device).type == "meta":
        with torch.device("meta"), _NoNumbers():
            return make_peer(peer, observation_spec, action_spec)
    loss, policy = make_peer(peer, observation_spec, action_spec)
    return loss.to(device), policy.to(device)


def _name(value: Any) -> str:
    if not (isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()):
        raise ValueError(f"env_id {value!r}")
    return value


def _checked_images(config: AgentConfig) -> AgentConfig:
    """Refuse frames of a size that no description of a model can have, see ``space_json``."""
    for images in (config.pixels, config.atari):
        size = images.frame_size**2 * images.frame_stack * (1 if images.grayscale else 3)
        if size > MAX_LENGTH:
            raise ValueError(f"images of {size} numbers")
    return config


def _scale(value: Any) -> float:
    largest = torch.finfo(torch.float32).max
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= largest:
        raise ValueError(f"reward_scale {value!r}")
    return float(value)


def _as_arrays(observation: Any) -> Any:
    """Return tensors, also those in a dict, as arrays."""
    if isinstance(observation, Mapping):
        return {key: _as_arrays(part) for key, part in observation.items()}
    if not isinstance(observation, Tensor):
        return observation
    observation = observation.detach().cpu()
    try:
        return observation.numpy()
    except TypeError:  # bfloat16
        return observation.double().numpy()


def _observation_spec(spaces: TaskSpaces) -> TensorSpec:
    """Return the spec of the agent's form of the observations: a vector, or a stack of frames."""
    if spaces.frames is None:
        return Unbounded(vector_length(spaces.observation))
    return UnboundedDiscrete(spaces.observation.shape, dtype=torch.uint8)


def _action_spec(space: gymnasium.Space[Any]) -> TensorSpec:
    """Return the spec of the agent's form of the actions: one-hot, or [-1, 1]."""
    if isinstance(space, Discrete):
        return OneHot(int(space.n), dtype=torch.int64)
    return Bounded(-1, 1, (vector_length(space),), dtype=torch.float32)


def _read_description(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict) or type(data.get("format")) is not int or data["format"] != FORMAT:
        raise InputError(f"{path} is not a file of format {FORMAT} that this version reads.")
    return data


def _check_header(path: Path, own: Mapping[str, Tensor]) -> None:
    """Compare what a file of weights says it holds with what is wanted; the weights stay on the disk."""
    with open_plain(path) as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _HEADER_LIMIT:
        raise unreadable(path, f"its header is said to have {size} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
            kinds = {key: part.get_dtype() for key, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, brief(error)) from error
    wrong = [key for key in own.keys() & shapes.keys() if own[key].shape != shapes[key]]
    wrong += [key for key, kind in kinds.items() if kind not in _FLOATS]
    if wrong := sorted({*wrong, *(shapes.keys() ^ own.keys())}):
        names = brief(", ".join(map(repr, wrong[:3])))
        raise InputError(f"{path} does not fit its config.json: {names} differ. Put both of one save there.")
