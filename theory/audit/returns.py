r"""How much of the critic's error is due to what it was asked for: uncorrected n-step returns.

A critic trained on n-step returns of a behaviour b and a bootstrap of the policy aims at the fixed point of
:math:`T_b^{n-1}T_\pi`, not at :math:`Q^\pi`, however well it learns:

.. math:: q-Q^\pi = (Q_n-Q^\pi) + (q-Q_n).

The behaviour is that of the data, :math:`b(a|s)` proportional to the visits, uniform where there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from theory.audit.setting import Setting
from theory.audit.value import Size, size_of
from theory.checks import Array
from theory.errors import InputError
from theory.n_step import NStepFixedPoint, n_step_fixed_point
from theory.policy import Policy
from theory.report import Condition


@dataclass(frozen=True, eq=False)
class ReturnsAudit:
    r"""The critic's error in two parts.

    Attributes:
        n: steps before the bootstrap.
        behaviour: of the data.
        fixed_point: tabular; its ``target`` is :math:`Q_n`.
        target_part: :math:`Q_n-Q^\pi`, (n,) rows: what even a perfect critic would be off by.
        rest: :math:`q-Q_n`.
        sizes: of the two, by name.
    """

    n: int
    behaviour: Policy
    fixed_point: NStepFixedPoint
    target_part: Array
    rest: Array
    sizes: dict[str, Size]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether the returns follow the policy."""
        return tuple(
            replace(condition, name=f"{self.n}-step {condition.name}")
            for condition in self.fixed_point.conditions
            if condition.name == "returns follow the policy"
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """The two parts, and what the first becomes for ever longer returns."""
        numbers: dict[str, Any] = {}
        for name, size in self.sizes.items():
            numbers |= size.named(name)
        return {**numbers, "n-step part for n without end, largest": self.fixed_point.limit_bias}

    @property
    def arrays(self) -> dict[str, Any]:
        """The two parts in every row."""
        return {"n-step part": self.target_part, "rest of the critic's error": self.rest}


def audit_returns(setting: Setting) -> ReturnsAudit:
    """Split the critic's error.

    Raises:
        InputError: the export has no counts or no n_step, values are infinite, or too many rows.
    """
    n, counts = setting.export.n_step, setting.export.counts
    missing = [name for name, value in (("counts", counts), ("n_step", n)) if value is None]
    if n is None or counts is None:
        raise InputError(f"The export has no {' and no '.join(missing)}.")
    behaviour = behaviour_of(counts)
    found = n_step_fixed_point(setting.problem, n, behaviour=behaviour)
    if found.target is None:
        raise InputError("Returns of the policy, of the behaviour or of their mixture are infinite.")
    rest = setting.rows(setting.export.q) - found.target
    target_part = found.target - setting.q_true
    sizes = {"n-step part": size_of(setting, target_part), "rest": size_of(setting, rest)}
    return ReturnsAudit(n, behaviour, found, target_part, rest, sizes)


def behaviour_of(counts: Array) -> Policy:
    """Return the policy that acts as often as (S, A) counts say, uniformly in a state that has none.

    Example:
        >>> behaviour_of(np.array([[3.0, 1.0], [0.0, 0.0]])).probs.tolist()
        [[0.75, 0.25], [0.5, 0.5]]
    """
    used = np.where(counts.sum(axis=1, keepdims=True) > 0.0, counts, 1.0)
    return Policy(used / used.sum(axis=1, keepdims=True))
