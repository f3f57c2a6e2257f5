"""Environments: one call, :func:`make_env`, for Gymnasium and dm_control tasks with state vectors.

Every environment is a TorchRL ``EnvBase`` of batch size ``[num_envs]`` (also for one) with a flat
float32 ``observation`` and actions in [-1, 1] or one-hot. Pixels, Atari and tabular
environments are not here yet.
"""

from uld_torchrl.envs.rendering import choose_renderer, renderer_needed

# MuJoCo reads MUJOCO_GL while it is being imported, and fails there if the renderer is broken.
choose_renderer()
with renderer_needed():
    from uld_torchrl.envs.make import canonical_id, make_env, render_frame

__all__ = ["canonical_id", "choose_renderer", "make_env", "render_frame"]
