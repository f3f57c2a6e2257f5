"""What the agent's choices are worth: of the policy greedy in its values and of the exported one.

Both are compared with the best there is. All values are solved for, none is sampled; the mean is over the
MDP's start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from theory.audit.setting import Setting
from theory.control import GreedyLoss, greedy_loss
from theory.errors import InputError
from theory.optimality import optimal
from theory.report import Condition

IDENTITY = "greedy loss is the regret carried on"
EQUALITY = "an equality; else the transitions, the policy or the ends do not fit together"


@dataclass(frozen=True)
class Worth:
    r"""What a policy is worth from the start.

    Attributes:
        value: its value.
        loss: the best value minus it.
        ratio: it over the best value; ``None`` unless the best is positive.
    """

    value: float
    loss: float
    ratio: float | None

    def named(self, name: str) -> dict[str, Any]:
        """Return the three numbers under a name."""
        return {
            f"{name}: value from the start": self.value,
            f"{name}: loss against V*": self.loss,
            f"{name}: share of V*": "V* is not positive" if self.ratio is None else self.ratio,
        }


@dataclass(frozen=True, eq=False)
class ActingAudit:
    r"""The values of policies from the start.

    Attributes:
        best: :math:`V^*`.
        greedy: of the policy greedy in the network's values, the first action on ties; ``None`` if it never
            ends at gamma = 1.
        exported: of the exported policy; ``None`` likewise.
        error_bound: what ``best`` may be off by.
        loss: the greedy policy's in every state, with its bounds.
        disagreements: live states with rows where the exported policy's likeliest action is not greedy.
        missing: why something is ``None``, by name.
    """

    best: float
    greedy: Worth | None
    exported: Worth | None
    error_bound: float
    loss: GreedyLoss
    disagreements: int
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether the loss adds up, and whether the greedy policy is optimal from the start."""
        name, cost = "greedy policy is optimal from the start", self.loss.cost
        if cost is None or self.greedy is None:
            return (Condition(name, None, why=self.missing["greedy"]),)
        why = "up to rounding; else the regret of its choices, carried on"
        return (
            Condition.at_most(IDENTITY, cost.identity_residual, cost.tolerance, EQUALITY),
            Condition.at_most(name, self.greedy.loss, cost.slack, why),
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """What the policies are worth."""
        return {
            "V* from the start": self.best,
            **({} if self.greedy is None else self.greedy.named("policy greedy in the network's values")),
            **({} if self.exported is None else self.exported.named("exported policy")),
            "states where the exported policy's likeliest action is not greedy": self.disagreements,
            "largest error against Q*": self.loss.error,
            "smallest action gap": self.loss.gap.smallest,
            **{f"{name} policy is not judged": why for name, why in self.missing.items()},
        }

    @property
    def arrays(self) -> dict[str, Any]:
        """What acting greedily loses in every state."""
        return {} if self.loss.cost is None else {"greedy loss of every state": self.loss.cost.loss}


def audit_acting(setting: Setting) -> ActingAudit:
    """Compare what the network's values and its policy are worth with the best there is.

    Raises:
        InputError: optimal values do not exist.
    """
    mdp, missing = setting.mdp, dict[str, str]()
    optimum, loss = optimal(mdp), greedy_loss(mdp, setting.export.q)
    best, greedy, exported = float(mdp.start @ optimum.v), None, None
    if loss.cost is None:
        missing["greedy"] = f"the greedy policy never ends from {loss.never_ending} states at gamma = 1"
    else:
        greedy = worth(best, best - float(mdp.start @ loss.cost.loss))
    try:
        exported = worth(best, setting.at_start(setting.q_true))
    except InputError as error:
        missing["exported"] = str(error)
    return ActingAudit(
        best=best,
        greedy=greedy,
        exported=exported,
        error_bound=optimum.error_bound,
        loss=loss,
        disagreements=_disagreements(setting),
        missing=missing,
    )


def worth(best: float, value: float) -> Worth:
    """Return a value with its distance from the best and its share of it.

    Example:
        >>> worth(4.0, 3.0), worth(-4.0, -5.0).ratio
        (Worth(value=3.0, loss=1.0, ratio=0.75), None)
    """
    return Worth(value, best - value, value / best if best > 0.0 else None)


def _disagreements(setting: Setting) -> int:
    """Count states where an action that the policy likes best is not among those of the largest value."""
    states = setting.states
    q, pi = setting.export.q[states], setting.export.pi[states]
    return int(sum(q[i, pi[i].argmax()] < q[i].max() for i in range(len(states))))
