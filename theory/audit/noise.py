r"""What of the encoder's loss no model can predict: the variance of the next state's embedding.

The one-step loss on sampled transitions, a mean over data and elements of the embedding, is bias plus noise,

.. math:: E\|\hat z-z_{s'}\|^2 = \|\hat z-E z_{s'}\|^2 + \mathrm{tr}\,\mathrm{Var}(z_{s'}|s,a),

and depends on the embedding in both. A loss that has come down to the noise is as low as this embedding lets
it be. Terminal states count with the embedding of the export here, as the loss has it; nothing else in an
audit takes that from the export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.audit.setting import FLOAT32, Setting
from theory.checks import Array, frozen
from theory.report import Condition


@dataclass(frozen=True, eq=False)
class NoiseAudit:
    """Bias and noise of the predicted next embedding, in squared units of zs over its width.

    Attributes:
        noise: (n,), variance of the next embedding, mean over its elements.
        bias: (n,), squared error of the prediction against the expected one, likewise.
        spread: variance of zs itself over the data's next states: what a loss counts of which a constant
            prediction makes.
        mean_noise: D-mean of ``noise``.
        mean_bias: D-mean of ``bias``; the sum of the two is the expected loss.
        precision: what float32 may make of the bias.
    """

    noise: Array
    bias: Array
    spread: float
    mean_noise: float
    mean_bias: float
    precision: float

    @property
    def loss(self) -> float:
        """The expected one-step loss of the predictions."""
        return self.mean_noise + self.mean_bias

    @property
    def share(self) -> float | None:
        """How much of the expected loss is noise; ``None`` if there is no loss."""
        return self.mean_noise / self.loss if self.loss > 0.0 else None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether more training of this embedding could lower the loss by more than it would leave."""
        why = "the D-mean of the bias against that of the noise; else the loss is not at its floor"
        name = "the one-step dynamics loss is mostly noise"
        return (Condition.at_most(name, self.mean_bias, self.mean_noise + self.precision, why),)

    @property
    def numbers(self) -> dict[str, Any]:
        """The floor of the loss, and how far above it is."""
        return {
            "one-step dynamics loss, expected": self.loss,
            "one-step dynamics loss: noise floor, tr Var(z') / width, D-mean": self.mean_noise,
            "one-step dynamics loss: noise floor, largest": float(self.noise.max()),
            "one-step dynamics loss: bias, D-mean": self.mean_bias,
            "one-step dynamics loss: share of noise": self.share,
            "one-step dynamics loss of predicting a constant": self.spread,
        }

    @property
    def arrays(self) -> dict[str, Any]:
        """Noise and bias of every row."""
        return {"noise floor": self.noise, "bias of the predicted next embedding": self.bias}


def audit_noise(setting: Setting) -> NoiseAudit:
    """Split the one-step loss of the predicted next embeddings into bias and noise."""
    export, mu = setting.export, setting.problem.mu
    assert setting.problem.rows is not None
    P, zs = setting.mdp.rows[setting.problem.rows], export.zs
    centre = (mu @ P) @ zs
    away = zs - centre  # differences from the mean keep their digits where the mean is large
    expected = np.asarray(P @ away)
    # Of a deterministic step the two terms are equal up to rounding.
    noise = np.maximum(np.asarray(P @ (away**2)) - expected**2, 0.0).mean(axis=1)
    bias = ((setting.rows(export.zs_next_pred) - centre - expected) ** 2).mean(axis=1)
    spread = float(mu @ np.asarray(P @ (away**2)).mean(axis=1))
    precision = (16.0 * FLOAT32) ** 2 * float((zs**2).mean())
    return NoiseAudit(frozen(noise), frozen(bias), spread, float(mu @ noise), float(mu @ bias), precision)
