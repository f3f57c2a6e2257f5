"""Settings of the networks and of the losses; one place for each default.

Published values (MR.Q, arXiv 2501.16142) throughout. The switches at the end of :class:`LossConfig` and
:class:`ModelConfig` lead from the published losses to those of the theorems, and to the ablations of the
published design study (``ablations``), one at a time; all of them are off by default. No torch here, see
``config``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uld_torchrl.errors import InputError, check_kinds, check_non_negative, check_positive, one_of

ValueHeadName = Literal["mlp", "linear"]
ValueLossName = Literal["huber", "mse"]
RewardLossName = Literal["two_hot", "mse"]
DynamicsTargetName = Literal["state", "state_action"]
PredictorName = Literal["linear", "mlp"]
TargetValueName = Literal["min", "mean"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks."""

    z_s_dim: int = 512
    """Width of the state embedding z_s."""
    z_a_dim: int = 256
    """Width of the action embedding z_a inside the state-action encoder."""
    z_sa_dim: int = 512
    """Width of the state-action embedding z_sa."""
    hidden_dim: int = 512
    """Width of the hidden layers of every network."""
    num_bins: int = 65
    """Bins of the two-hot reward encoding."""
    bin_range: float = 10.0
    """The bins are symexp of an even grid on [-bin_range, bin_range]."""
    gumbel_tau: float = 10.0
    """Temperature of the Gumbel-softmax policy (discrete actions)."""
    conv_channels: int = 32
    """Channels of each convolution of the encoder of images."""
    value_head: ValueHeadName = "mlp"
    """Value on z_sa: 'mlp' (published), or 'linear', Q = z_sa . w without a bias, as in the theorems."""
    num_values: int = 2
    """Value heads; targets take their minimum, the policy climbs their mean."""
    predictor: PredictorName = "linear"
    """Latent model m on z_sa: 'linear' (published), or 'mlp', three layers of hidden_dim."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "z_s_dim", "z_a_dim", "z_sa_dim", "hidden_dim", "bin_range", "gumbel_tau")
        check_positive(self, "conv_channels", "num_values")
        one_of("value_head", self.value_head, ("mlp", "linear"))
        one_of("predictor", self.predictor, ("linear", "mlp"))
        if self.num_bins < 3:
            raise InputError(f"num_bins must be at least 3, got {self.num_bins}.")
        for name, largest in (("num_bins", 100_000), ("num_values", 1_000)):
            if getattr(self, name) > largest:
                raise InputError(f"{name} must be at most {largest}, got {getattr(self, name)}.")
        if self.bin_range > 80:
            raise InputError(f"bin_range must be at most 80 (exp(88) is no float32), got {self.bin_range}.")


@dataclass(frozen=True)
class LossConfig:
    """Coefficients of the encoder, value and policy losses."""

    horizon: int = 5
    """Steps H that the latent dynamics are unrolled over."""
    n_steps: int = 3
    """Steps n of the return in the value target; at most the horizon."""
    gamma: float = 0.99
    """Discount factor, between 0 and 1."""
    dynamics_coeff: float = 1.0
    """Weight of the latent dynamics loss."""
    reward_coeff: float = 0.1
    """Weight of the reward loss (two-hot cross-entropy)."""
    terminated_coeff: float = 0.1
    """Weight of the termination loss, once the replay buffer holds a termination."""
    pre_activation_coeff: float = 1e-5
    """Weight of the penalty on the policy's squared pre-activations."""
    exploration_noise: float = 0.2
    """Standard deviation of the acting noise, in units of a [-1, 1] action (halved for discrete actions)."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action (halved for discrete actions)."""
    target_noise_clip: float = 0.3
    """The target noise is clipped to this magnitude (halved for discrete actions)."""
    value_loss: ValueLossName = "huber"
    """Error of the value: 'huber' (published), or 'mse', its square, not halved."""
    reward_loss: RewardLossName = "two_hot"
    """'two_hot': cross-entropy over the bins (published); 'mse': one linear output, squared error."""
    dynamics_target: DynamicsTargetName = "state"
    """The latent model predicts z_s' ('state', published) or z_s'a' of the target policy ('state_action')."""
    unroll: bool = True
    """Unroll the latent model on its own predictions; off: each step starts from its own observation."""
    target_encoder: bool = True
    """Take embeddings in targets from the target encoders; off: from the online ones, without gradient."""
    freeze_encoder: bool = False
    """Leave f and g as they were drawn; the latent model, the value and the policy still learn."""
    reward_scaling: bool = True
    """Divide the value by the mean absolute reward in the buffer; off: by 1."""
    target_value: TargetValueName = "min"
    """Value targets take the least of the target heads ('min', published) or their mean ('mean')."""
    encoder_horizon: int = 0
    """Steps of a window that the encoder's loss reads; 0: all of the horizon."""
    end_to_end: bool = False
    """Train f and g by the value's loss, at encoder_lr, in place of the encoder's loss; m does not learn."""
    infonce_coeff: float = 0.0
    """Weight of InfoNCE on predicted next embeddings in the encoder's loss (DR.Q, arXiv 2605.11711: 0.1)."""
    infonce_temperature: float = 0.1
    """Temperature of its cosine similarities."""
    exploration_noise_repeat: int = 1
    """Agent steps of an episode that take the same acting noise, before it is drawn anew; 1: each its own."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_positive(self, "horizon", "n_steps", "infonce_temperature", "exploration_noise_repeat")
        check_non_negative(
            self,
            "dynamics_coeff",
            "reward_coeff",
            "terminated_coeff",
            "pre_activation_coeff",
            "exploration_noise",
            "target_noise",
            "target_noise_clip",
            "encoder_horizon",
            "infonce_coeff",
        )
        if self.n_steps > self.horizon:
            raise InputError(f"n_steps must be at most horizon ({self.horizon}), got {self.n_steps}.")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma must lie in [0, 1], got {self.gamma}.")
        self._check_choices()

    def _check_choices(self) -> None:
        one_of("value_loss", self.value_loss, ("huber", "mse"))
        one_of("reward_loss", self.reward_loss, ("two_hot", "mse"))
        one_of("dynamics_target", self.dynamics_target, ("state", "state_action"))
        one_of("target_value", self.target_value, ("min", "mean"))
        steps = encoder_steps(self.encoder_horizon, self.horizon)
        check_unroll(self.dynamics_target, self.unroll, steps)
        check_end_to_end(self.end_to_end, self.freeze_encoder)


def check_unroll(dynamics_target: str, unroll: bool, horizon: int) -> None:
    """Refuse to unroll over recorded actions a model that predicts z_s'a' of the policy's action.

    Raises:
        InputError: ``unroll`` with dynamics_target "state_action" and more than one step.

    Example:
        >>> check_unroll("state_action", False, 5)
    """
    if dynamics_target == "state_action" and unroll and horizon > 1:
        raise InputError(
            f"unroll must be false for dynamics_target 'state_action' with horizon {horizon}: what is "
            "predicted is z_s'a' of the policy's action, which the recorded actions cannot go on from. Set "
            "loss.unroll=false, or loss.encoder_horizon=1."
        )


def encoder_steps(encoder_horizon: int, horizon: int) -> int:
    """Return how many steps of a window the encoder's loss reads.

    Raises:
        InputError: more than there are.

    Example:
        >>> encoder_steps(0, 5), encoder_steps(1, 5)
        (5, 1)
    """
    if 0 <= encoder_horizon <= horizon:
        return encoder_horizon or horizon
    raise InputError(
        f"encoder_horizon must be at most horizon ({horizon}), or 0 for all of it, got {encoder_horizon}."
    )


def check_end_to_end(end_to_end: bool, freeze_encoder: bool) -> None:
    """Refuse to train by the value what is frozen.

    Raises:
        InputError: both are set.

    Example:
        >>> check_end_to_end(True, False)
    """
    if end_to_end and freeze_encoder:
        raise InputError(
            "end_to_end and freeze_encoder exclude each other, got True for both: the one trains f and g by "
            "the value's loss, the other leaves them as they were drawn. Set loss.freeze_encoder=false."
        )
