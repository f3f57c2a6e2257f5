r"""What it costs that the agent predicts the next *state's* embedding and takes its action only then.

The relaxed model on the agent's embeddings, :math:`z_{sa}\to E z_{s'}\to E z_{s'a'}`, has a dynamics part
that splits in two: the state model's error, and the price of the relaxation, which no state model can mend.
Both embeddings are taken in coordinates of their row spaces, which leaves every value as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from theory.audit.setting import Precise, Setting, at_float32
from theory.audit.value import EQUALITY, Size, size_of
from theory.audit.value import IDENTITY as VALUE_IDENTITY
from theory.checks import Array
from theory.relaxation import Relaxation, relax_to_state
from theory.report import Condition

IDENTITY = "relaxation: the residual of the dynamics splits"
ERROR_IDENTITY = f"relaxation: {VALUE_IDENTITY}"


@dataclass(frozen=True, eq=False)
class RelaxationAudit:
    r"""The relaxed linear model on zsa and zs, and what its two halves add to the value error.

    Attributes:
        relaxation: :math:`W_s`, :math:`M_\pi` and their residuals.
        state_embeddings: those of the live states at the precision of float32.
        error: of the relaxed model's value.
        state_part: what the state model adds.
        policy_part: what the relaxation adds.
        eps_s: root of the D-mean of :math:`\|\epsilon_s\|^2/k`, in units of zs.
        eps_M: the same of :math:`\|\epsilon_M\|^2/d` over next states, in units of zsa.
    """

    relaxation: Relaxation
    state_embeddings: Precise
    error: Size
    state_part: Size
    policy_part: Size
    eps_s: float
    eps_M: float

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The equalities, then the conditions of the relaxation under names that say whose they are."""
        report = self.relaxation.report
        assert report.residual is not None and report.tolerance is not None
        why = "an equality; else transitions, policy and embeddings do not fit together"
        value = self.relaxation.value
        equalities = (
            Condition.at_most(IDENTITY, report.residual, report.tolerance, why),
            Condition.at_most(ERROR_IDENTITY, value.identity_residual, value.tolerance, EQUALITY),
        )
        named = (replace(condition, name=f"relaxation: {condition.name}") for condition in report.conditions)
        return (*equalities, self._room, *named)

    @property
    def _room(self) -> Condition:
        """Whether the embeddings of states could do with a linear map at all."""
        rank, states = self.state_embeddings.rank, len(self.state_embeddings.values)
        why = f"rank {rank} of zs for {states} states: with as many any function of the state is linear in zs"
        name = "relaxation: state embeddings leave room for a price"
        return Condition(name, rank < states, rank, states, states - rank, why)

    @property
    def numbers(self) -> dict[str, Any]:
        """The error of the relaxed model's value, and its two parts from the dynamics."""
        return {
            "relaxation: rank of zs at float32": self.state_embeddings.rank,
            **self.error.named("relaxation: value error"),
            **self.state_part.named("relaxation: part of eps_s (state model)"),
            **self.policy_part.named("relaxation: part of eps_M (price of relaxing)"),
            "relaxation: eps_s, root mean square, in units of zs": self.eps_s,
            "relaxation: eps_M, root mean square, in units of zsa": self.eps_M,
            "relaxation: spectral radius of gamma W_s M_pi": self.relaxation.spectral_radius,
        }

    @property
    def arrays(self) -> dict[str, Any]:
        """The two parts in every row."""
        return {
            "relaxation: part of eps_s": self.relaxation.state_part,
            "relaxation: part of eps_M": self.relaxation.policy_part,
        }


def audit_relaxation(setting: Setting) -> RelaxationAudit:
    """Fit the relaxed model to the embeddings.

    Raises:
        InputError: values are infinite, or too many rows.
    """
    states, mu = setting.states, setting.problem.mu
    ahead = np.asarray(mu @ setting.problem.chain.P)
    zs = at_float32(setting.export.zs[states], ahead)
    features = np.zeros((setting.mdp.num_states, zs.coordinates.shape[1]))
    features[states] = zs.coordinates
    found = relax_to_state(setting.reduced, features)
    return RelaxationAudit(
        relaxation=found,
        state_embeddings=zs,
        error=size_of(setting, found.value.error),
        state_part=size_of(setting, found.state_part),
        policy_part=size_of(setting, found.policy_part),
        eps_s=_root_mean_square(found.eps_s, mu, setting.export.zs.shape[-1]),
        eps_M=_root_mean_square(found.eps_M, ahead, setting.export.zsa.shape[-1]),
    )


def _root_mean_square(residual: Array, weights: Array, width: int) -> float:
    """Return the root of the weighted mean over rows, and mean over the network's columns, of the squares."""
    return float(np.sqrt(weights @ (residual**2).sum(axis=1) / width))
