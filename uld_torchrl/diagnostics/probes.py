"""Probes: what an agent has learned, measured on one batch of replay windows of any environment.

:func:`probe` asks whether the value is linear in z_sa, how many directions z_sa uses, how far ahead the
latent model sees, and whether its rewards and terminations are right. On a tabular MDP the audit knows the
exact answers; these are estimates from a batch. The statistics themselves are in ``statistics``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase, is_tensor_collection
from torch import Tensor

from uld_torchrl.diagnostics.statistics import (
    Array,
    calibration,
    centred,
    ranks,
    relative_error,
    ridge_r2,
    standardised,
)
from uld_torchrl.errors import InputError
from uld_torchrl.objectives import ULDLoss
from uld_torchrl.trainers import Agent
from uld_torchrl.trainers.callbacks import same_random_state

DYNAMICS_COLUMN = "dynamics_error_t"

PROBE_COLUMNS = {
    "windows": "windows in the batch",
    "distinct_pairs": "distinct first pairs of observation and action in them",
    "value_r2_z_sa": "R^2, on pairs left out, of a ridge regression of the value (mean of the heads) on "
    "z_sa; empty if the value does not vary",
    "value_r2_raw": "the same on observation and action as they are",
    "target_r2_z_sa": "R^2, on pairs left out, of a ridge regression of the loss's n-step value target on "
    "z_sa; empty if the target does not vary",
    "target_r2_raw": "the same on observation and action as they are",
    "effective_rank": "effective rank of the centred z_sa: exp of the entropy of its singular values over "
    "their sum (Roy and Vetterli 2007)",
    "stable_rank": "stable rank of the centred z_sa: sum of its squared singular values over the largest",
    "srank": "smallest number of singular values of the centred z_sa that make 99 % of their sum "
    "(Kumar et al., arXiv 2010.14498)",
    "reward_slope": "slope of the real on the predicted reward over the window; 1 if right, empty if all "
    "predictions or all real rewards are equal",
    "reward_intercept": "intercept of the same line, reward units; 0 if right",
    "reward_calibration_error": "mean absolute difference of mean predicted and mean real reward in ten "
    "quantile bins of the prediction, weighted by rows, reward units",
    "terminated_rate": "share of the window's steps that terminate",
    "terminated_predicted": "mean predicted termination, clipped to [0, 1]; empty if no step terminates",
    "terminated_calibration_error": "as for rewards, of the predicted termination; empty if no step "
    "terminates",
    f"{DYNAMICS_COLUMN}<k>": "squared error of the embedding predicted for step k = 1 ... H over the "
    "variance of the embedding it is trained on, 1 = as bad as its mean; empty if that does not vary",
}
"""What :func:`probe` measures and what it means; the last entry stands for one column each of k = 1 ... H."""


def probe_columns(horizon: int) -> dict[str, str]:
    """Return the columns of a probe of windows of this length, in order, and what they mean.

    Example:
        >>> list(probe_columns(2))[-3:]
        ['terminated_calibration_error', 'dynamics_error_t1', 'dynamics_error_t2']
    """
    *plain, (_, meaning) = PROBE_COLUMNS.items()
    return dict(plain) | {
        f"{DYNAMICS_COLUMN}{k}": meaning.replace("k = 1 ... H", str(k)) for k in range(1, horizon + 1)
    }


class _Pairs(NamedTuple):
    """The first pair of each window, (B, .), and its values (B,) in reward units."""

    observation: Array
    action: Array
    z_sa: Array
    value: Array
    target: Array


class _Steps(NamedTuple):
    """Predicted and true, at all steps: embeddings (B, H, .), rewards and terminations (B, H)."""

    counts: NDArray[np.bool_]
    z_predicted: Array
    z_target: Array
    reward_predicted: Array
    reward: Array
    terminated_predicted: Array
    terminated: Array


@torch.no_grad()
def probe(agent: Agent | ULDLoss, batch: TensorDictBase) -> dict[str, float | None]:
    """Measure an agent on a batch of windows; nothing of the agent, the batch or the random state changes.

    - Linearity: R^2 of a ridge regression on the windows' first pairs (s_0, a_0), each predicted by the
      others (:func:`~uld_torchrl.diagnostics.statistics.ridge_r2`), so that a z_sa wider than the batch does
      not win by fitting. Equal pairs leave together. Features are z_sa, or the pair as it is: observations
      and actions, each standardised and of the same weight, images as all their pixels (a ridge needs inner
      products only). They explain the network's value, mean of the heads, and the loss's n-step target,
      whose smoothing noise is the same at each call.
      A z_sa of more directions than there are windows explains less than it could: draw more of them.
    - Ranks of the centred z_sa; none exceeds windows - 1.
    - Dynamics: the online networks' predictions against the embedding that the loss trains them on, that of
      the target encoder, unrolled as the loss unrolls them.
    - Calibration of the reward and termination predicted on the way.

    Steps after a termination, or false in ``validity_mask``, count nowhere.

    Args:
        agent: an agent, or the loss that holds its networks. Its targets must be those of its training.
        batch: windows [B, H] as the replay buffer samples them, B at least 2 and better 256; prioritised
            samples favour surprising pairs. Images are not shifted.

    Returns:
        The columns of :func:`probe_columns`; None where a number is not defined.

    Raises:
        InputError: a batch that the loss refuses, with fewer than 2 windows or with NaN; networks whose
            output is not finite; a loss without target updater, whose targets may be anything.

    Example:
        >>> from gymnasium.spaces import Box
        >>> from tensordict import TensorDict
        >>> from uld_torchrl import PeriodicHardUpdate, preset
        >>> from uld_torchrl.envs import TaskSpaces
        >>> agent = Agent.build("my-task", TaskSpaces(Box(-1, 1, (3,)), Box(-1, 1, (2,))), preset("debug"))
        >>> updater = PeriodicHardUpdate(agent.loss)
        >>> after = {"observation": torch.randn(64, 5, 3), "reward": torch.randn(64, 5, 1)}
        >>> after["terminated"] = torch.zeros(64, 5, 1, dtype=torch.bool)
        >>> now = {"observation": torch.randn(64, 5, 3), "action": torch.rand(64, 5, 2)}
        >>> row = probe(agent, TensorDict({**now, "next": after}, batch_size=[64, 5]))
        >>> row["windows"], row["value_r2_z_sa"] > row["value_r2_raw"], row["terminated_predicted"]
        (64.0, True, None)
    """
    loss = _loss(agent)
    batch = _checked(loss, batch)
    with same_random_state():
        torch.manual_seed(0)  # the same noise on the target action in every probe
        pairs, steps = _first_pairs(loss, batch), _steps(loss, batch)
    return {
        "windows": float(len(batch)),
        **_linearity(pairs),
        **_ranks(pairs.z_sa),
        **_calibrations(steps),
        **_dynamics(steps),
    }


# Before anything is computed


def _loss(agent: Agent | ULDLoss) -> ULDLoss:
    loss = agent.loss if isinstance(agent, Agent) else agent
    if not isinstance(loss, ULDLoss):
        raise InputError(f"agent must be an Agent or its ULDLoss, got {type(agent).__name__}.")
    if not all(loss._has_update_associated.values()):
        raise InputError(
            "the loss has no target updater, so its targets may be those of other networks (a loaded agent's "
            "are). Take the agent of the training, or set them: PeriodicHardUpdate(loss).copy_()."
        )
    return loss


def _checked(loss: ULDLoss, batch: TensorDictBase) -> TensorDictBase:
    """Return what is read of the batch, on the loss's device."""
    if not is_tensor_collection(batch):
        raise InputError(f"batch must be a TensorDict of windows [B, H], got {type(batch).__name__}.")
    loss._check(batch)
    if len(batch) < 2:
        raise InputError(f"a probe needs at least 2 windows, better 256, got {len(batch)}: sample more.")
    for key in loss.in_keys:
        entry = batch.get(key)
        if entry.is_floating_point() and not torch.isfinite(entry).all():
            window, step = (~torch.isfinite(entry)).nonzero()[0, :2].tolist()
            raise InputError(
                f"the batch's entry {key!r} must be finite, got {entry[window, step].flatten().tolist()[:8]} "
                f"at step {step} of window {window}."
            )
    keys = loss.tensor_keys
    return batch.select(*loss.in_keys, keys.validity_mask, keys.priority_weight, strict=False).to(
        loss.reward_scale.device
    )


# What the networks say


def _first_pairs(loss: ULDLoss, batch: TensorDictBase) -> _Pairs:
    keys, first = loss.tensor_keys, batch[:, 0]
    _, value = loss.value_loss(batch)
    action = first.get(keys.action)
    z_sa = loss._join(value.get(keys.state_embedding), action, loss.state_action_encoder_params)
    observed = [
        _array(str(key), first.get(key)).reshape(len(batch), -1) for key in loss.state_encoder.in_keys
    ]
    return _Pairs(
        np.concatenate(observed, 1),
        _array("action", action),
        _array("z_sa", z_sa),
        _array("value", value.get("pred_value")),
        _array("value target", value.get("target_value")),
    )


def _steps(loss: ULDLoss, batch: TensorDictBase) -> _Steps:
    keys = loss.tensor_keys
    terminated = loss._flag(batch, keys.terminated)
    z_target = loss._dynamics_target(batch.get("next"))
    ends, z_next, logits = loss._predictions(batch, z_target.shape[-1])
    return _Steps(
        loss._mask(batch, terminated).bool().cpu().numpy(),
        _array("predicted embedding", z_next),
        _array("target embedding", z_target),
        _array("predicted reward", loss.predicted_reward(logits)),
        _array("reward", loss._flag(batch, keys.reward)),
        _array("predicted termination", ends).clip(0.0, 1.0),
        _array("terminated", terminated),
    )


def _array(name: str, value: Tensor) -> Array:
    array = value.detach().cpu().double().numpy()
    if not np.isfinite(array).all():
        raise InputError(f"the agent's {name} is not finite on this batch: its networks have diverged.")
    return array


# What follows from it


def _linearity(pairs: _Pairs) -> dict[str, float | None]:
    raw = np.hstack([standardised(pairs.observation), standardised(pairs.action)])
    groups = _equal_rows(np.hstack([pairs.observation, pairs.action]))
    # One row for equal pairs: copies that differ by the networks' rounding would predict each other.
    z_sa = standardised(pairs.z_sa)[np.unique(groups, return_index=True)[1][groups]]
    values = {"value": pairs.value, "target": pairs.target}
    return {"distinct_pairs": float(groups.max() + 1)} | {
        f"{name}_r2_{features}": ridge_r2(x, y, groups)
        for name, y in values.items()
        for features, x in (("z_sa", z_sa), ("raw", raw))
    }


def _equal_rows(x: Array) -> NDArray[np.intp]:
    """Return the number (n,) of each row's group of equal rows, in order of appearance."""
    seen: dict[bytes, int] = {}
    # Adding zero makes one of the two zeros.
    return np.array([seen.setdefault((row + 0.0).tobytes(), len(seen)) for row in x])


def _ranks(z_sa: Array) -> dict[str, float | None]:
    found = ranks(centred(z_sa))
    return {
        "effective_rank": found.effective,
        "stable_rank": found.stable,
        "srank": float(found.srank),
    }


def _calibrations(steps: _Steps) -> dict[str, float | None]:
    counts = steps.counts
    reward = calibration(steps.reward_predicted[counts], steps.reward[counts])
    predicted, real = steps.terminated_predicted[counts], steps.terminated[counts]
    ends = bool(real.any())
    return {
        "reward_slope": reward.slope,
        "reward_intercept": reward.intercept,
        "reward_calibration_error": reward.error,
        "terminated_rate": float(real.mean()),
        "terminated_predicted": float(predicted.mean()) if ends else None,
        "terminated_calibration_error": calibration(predicted, real).error if ends else None,
    }


def _dynamics(steps: _Steps) -> dict[str, float | None]:
    columns = zip(
        steps.counts.T, *(z.swapaxes(0, 1) for z in (steps.z_predicted, steps.z_target)), strict=True
    )
    return {
        f"{DYNAMICS_COLUMN}{k}": relative_error(predicted[counts], target[counts])
        for k, (counts, predicted, target) in enumerate(columns, 1)
    }
