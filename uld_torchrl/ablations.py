"""The ablations of MR.Q's design study, each as settings: what a name changes, and where that is from.

A name is a few ``section.field=value`` settings over any preset, so that a run with it is one of the same
settings. The published changes of score are in ``docs/ablations.md``. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from uld_torchrl.errors import InputError, nearest

_STUDY = "MR.Q (arXiv 2501.16142), Table 2"


@dataclass(frozen=True)
class Ablation:
    """Settings that take one part of the agent away, and what they change, in a sentence.

    Example:
        >>> ABLATIONS["linear-value"].settings
        ('model.value_head=linear',)
    """

    settings: tuple[str, ...]
    change: str
    source: str = _STUDY


_LINEAR_VALUE = ("model.value_head=linear",)
_SA_TARGET = ("loss.dynamics_target=state_action", "loss.unroll=false")
_NO_TARGET_ENCODER = ("loss.target_encoder=false",)

ABLATIONS: dict[str, Ablation] = {
    "linear-value": Ablation(
        _LINEAR_VALUE, "Each value head is a linear function of z_sa, Q = z_sa . w, in place of an MLP."
    ),
    "sa-target": Ablation(
        _SA_TARGET,
        "The latent model predicts z_s'a' of the target policy's action in place of z_s', and so, since "
        "recorded actions cannot go on from that action, is not unrolled: each step of a window starts from "
        "its own observation.",
    ),
    "no-target-encoder": Ablation(
        _NO_TARGET_ENCODER,
        "Embeddings in targets are those of the online encoders, without gradient, in place of the target "
        "encoders'.",
    ),
    "revert": Ablation(
        (*_LINEAR_VALUE, *_SA_TARGET, *_NO_TARGET_ENCODER),
        "linear-value, sa-target and no-target-encoder together: the losses of the theorems.",
    ),
    "nonlinear-model": Ablation(
        ("model.predictor=mlp",), "The latent model m is an MLP on z_sa in place of one linear layer."
    ),
    "mse-reward": Ablation(
        ("loss.reward_loss=mse",),
        "The latent model gives the reward as one number, with squared error, in place of two-hot "
        "cross-entropy over bins.",
    ),
    "no-reward-scale": Ablation(
        ("loss.reward_scaling=false",), "The value is not divided by the mean absolute reward."
    ),
    "no-min": Ablation(
        ("loss.target_value=mean",), "Value targets take the mean of the target heads in place of the least."
    ),
    "no-lap": Ablation(
        ("replay.lap_alpha=0", "loss.value_loss=mse"),
        "All windows are drawn equally often, and the value's error is the square in place of Huber's.",
    ),
    "no-mr": Ablation(
        ("loss.end_to_end=true",),
        "There is no encoder loss: the value's loss trains f and g, at their own learning rate.",
    ),
    "one-step": Ablation(("loss.n_steps=1",), "The return in the value's target has one step in place of 3."),
    "no-unroll": Ablation(
        ("loss.encoder_horizon=1",), "The encoder's loss reads the first step of a window in place of all 5."
    ),
}


def ablation(name: str) -> Ablation:
    """Return the ablation of that name.

    Raises:
        InputError: there is none; the message has the nearest names, or all.

    Example:
        >>> ablation("no-min").settings
        ('loss.target_value=mean',)
    """
    if name in ABLATIONS:
        return ABLATIONS[name]
    close = nearest(name, ABLATIONS)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(ABLATIONS)}."
    raise InputError(f"ablation {name!r} is unknown; {hint}")
