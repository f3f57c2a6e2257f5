"""Environments: one call, :func:`make_env`, for names, environments, vector environments and callables.

Every environment is a TorchRL ``EnvBase`` of batch size ``[num_envs]`` (also for one) with a flat
float32 ``observation`` or uint8 ``pixels``, and actions in [-1, 1] or one-hot. Modules are imported when a
name is first used: worker processes do without torch, and without ``theory`` if nothing is tabular.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from uld_torchrl.envs.rendering import choose_renderer, renderer_needed

if TYPE_CHECKING:
    from uld_torchrl.envs.images import observation_stack, stack_frames
    from uld_torchrl.envs.make import (
        lane_states,
        make_env,
        render_frame,
        restart_lanes,
        restore_lanes,
        share_environments,
        task_spaces,
    )
    from uld_torchrl.envs.registry import canonical_id
    from uld_torchrl.envs.sources import EnvLike, copy_env, describe_env, env_name
    from uld_torchrl.envs.space_json import (
        space_from_json,
        space_to_json,
        task_from_json,
        task_to_json,
    )
    from uld_torchrl.envs.spaces import (
        TaskSpaces,
        native_action,
        observation_vector,
        vector_length,
    )
    from uld_torchrl.envs.tabular import TabularEnv, named_mdp, state_observations
    from uld_torchrl.envs.tapes import LaneState

# MuJoCo reads MUJOCO_GL while it is being imported, and fails there if the renderer is broken.
choose_renderer()

_HOMES = {
    "EnvLike": "sources",
    "LaneState": "tapes",
    "TabularEnv": "tabular",
    "TaskSpaces": "spaces",
    "canonical_id": "registry",
    "copy_env": "sources",
    "describe_env": "sources",
    "env_name": "sources",
    "lane_states": "make",
    "make_env": "make",
    "named_mdp": "tabular",
    "native_action": "spaces",
    "observation_stack": "images",
    "observation_vector": "spaces",
    "render_frame": "make",
    "restart_lanes": "make",
    "restore_lanes": "make",
    "share_environments": "make",
    "space_from_json": "space_json",
    "space_to_json": "space_json",
    "stack_frames": "images",
    "state_observations": "tabular",
    "task_from_json": "space_json",
    "task_spaces": "make",
    "task_to_json": "space_json",
    "vector_length": "spaces",
}
__all__ = [
    "EnvLike",
    "LaneState",
    "TabularEnv",
    "TaskSpaces",
    "canonical_id",
    "choose_renderer",
    "copy_env",
    "describe_env",
    "env_name",
    "lane_states",
    "make_env",
    "named_mdp",
    "native_action",
    "observation_stack",
    "observation_vector",
    "render_frame",
    "restart_lanes",
    "restore_lanes",
    "share_environments",
    "space_from_json",
    "space_to_json",
    "stack_frames",
    "state_observations",
    "task_from_json",
    "task_spaces",
    "task_to_json",
    "vector_length",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with renderer_needed():
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
