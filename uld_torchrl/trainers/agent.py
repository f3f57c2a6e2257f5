"""Agent: the networks, the loss and the acting policy of one task, saved as JSON and safetensors.

Nothing is pickled: ``config.json`` says what to build, ``model.safetensors`` holds the weights.
Training state (optimisers, replay) is in checkpoints, not here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from uld_torchrl.config import AgentConfig, from_dict, to_dict
from uld_torchrl.errors import InputError
from uld_torchrl.modules import make_networks, make_policy
from uld_torchrl.modules.specs import action_bounds, is_discrete, vector_size
from uld_torchrl.objectives import ULDLoss, make_loss
from uld_torchrl.objectives.networks import NETWORKS
from uld_torchrl.trainers.files import replace_text

FORMAT = 1


@dataclass
class Agent:
    """What was learned, and what is needed to act: loss (with all networks) and policy.

    ``policy`` maps ``observation`` to ``action``; it explores under ``ExplorationType.RANDOM``.

    Example:
        >>> spec = Bounded(-1, 1, (2,))
        >>> agent = Agent.build("my-task", Unbounded(3), spec)
        >>> agent.num_parameters
        3846982
    """

    env_id: str
    config: AgentConfig
    observation_dim: int
    action_spec: TensorSpec
    loss: ULDLoss
    policy: TensorDictSequential

    @classmethod
    def build(
        cls,
        env_id: str,
        observation_spec: TensorSpec,
        action_spec: TensorSpec,
        config: AgentConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> Agent:
        """Make a new agent for the specs; parameters come from torch's global generator.

        Raises:
            InputError: a spec of an unsupported kind.
        """
        config = config or AgentConfig()
        networks = make_networks(observation_spec, action_spec, config.model)
        for module in networks.modules():
            module.to(device)
        loss = make_loss(networks, action_spec, config)
        policy = make_policy(networks, action_spec, config).to(device)
        return cls(env_id, config, vector_size(observation_spec), action_spec, loss, policy)

    @classmethod
    def for_env(
        cls, env_id: str, env: EnvBase, config: AgentConfig, device: torch.device | str = "cpu"
    ) -> Agent:
        """Make a new agent for an environment of batch size [num_envs]."""
        return cls.build(
            env_id, env.observation_spec["observation"], single_spec(env.action_spec), config, device
        )

    @property
    def num_parameters(self) -> int:
        """Number of online parameters, targets not counted."""
        return sum(tensor.numel() for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name in NETWORKS
            for key, value in getattr(self.loss, f"{name}_params").data.flatten_keys(".").items()
        }

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (online parameters) to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "env_id": self.env_id,
            "observation_dim": self.observation_dim,
            "action": _describe(self.action_spec),
            "config": to_dict(self.config),
        }
        tensors = {key: value.contiguous().cpu() for key, value in self._tensors().items()}
        aside = folder / ".model.safetensors.new"
        save_file(tensors, aside)
        os.replace(aside, folder / "model.safetensors")
        replace_text(folder / "config.json", json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Agent:
        """Read an agent that :meth:`save` wrote.

        Raises:
            InputError: a file is missing, damaged, or of another version.
        """
        about = _read_json(folder / "config.json")
        try:
            spec, config = _action_spec(about["action"]), from_dict(about["config"])
            agent = cls.build(about["env_id"], Unbounded(about["observation_dim"]), spec, config, device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{folder / 'config.json'} is not a model description ({reason}).") from error
        agent._load_tensors(folder / "model.safetensors")
        return agent

    def _load_tensors(self, path: Path) -> None:
        try:
            stored = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        own = self._tensors()
        _check_tensors(path, stored, own)
        for key, value in stored.items():
            own[key].copy_(value)


def single_spec(spec: TensorSpec) -> TensorSpec:
    """Return the spec of one environment, (A,), from that of a batch, (num_envs, A).

    Example:
        >>> single_spec(Bounded(-1, 1, (4, 2))).shape
        torch.Size([2])
    """
    while spec.ndim > 1:
        spec = spec[0]
    return spec


def _describe(spec: TensorSpec) -> dict[str, Any]:
    if is_discrete(spec):
        return {"kind": "one_hot", "size": spec.shape[-1]}
    low, high = action_bounds(spec)
    return {"kind": "box", "low": low.tolist(), "high": high.tolist()}


def _action_spec(about: Mapping[str, Any]) -> TensorSpec:
    if about["kind"] == "one_hot":
        return OneHot(about["size"], dtype=torch.int64)
    return Bounded(torch.tensor(about["low"]), torch.tensor(about["high"]), dtype=torch.float32)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{path} is not a file of format {FORMAT} that this version reads.")
    return data


def _check_tensors(path: Path, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    wrong = sorted(set(stored) ^ set(own))
    wrong += [key for key in own.keys() & stored.keys() if own[key].shape != stored[key].shape]
    if wrong:
        raise InputError(f"{path} does not fit its config.json: {', '.join(wrong[:3])} differ.")
