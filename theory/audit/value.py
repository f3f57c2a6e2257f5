r"""How wrong the network's values are, and which of its three predictions is to blame.

For any functions at all, with :math:`\hat V(s)=\sum_a\pi(a|s)q(s,a)` and :math:`\hat v` the value at the
predicted next embedding,

.. math:: q-Q^\pi = G\,[(\hat r-r) + \gamma(\hat v-P\hat V) + (q-\hat r-\gamma\hat v)],

so each part is a value error in units of reward, and they sum to the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.audit.setting import FLOAT32, Setting
from theory.checks import Array
from theory.report import Condition
from theory.value_error import ValueErrorSplit, value_error_of_functions

PARTS = ("reward", "dynamics", "planning")
IDENTITY = "value error is the sum of its parts"
EQUALITY = "an equality; else transitions, rewards, policy or terminal states do not fit together"


@dataclass(frozen=True)
class Size:
    """How large (n,) values are.

    Attributes:
        largest: modulus, among the rows that are judged.
        weighted: D-norm.
        start: mean over the start and the agent's policy, with its sign.
    """

    largest: float
    weighted: float
    start: float

    def named(self, name: str) -> dict[str, Any]:
        """Return the three numbers under a name."""
        return {
            f"{name}, largest": self.largest,
            f"{name}, D-norm": self.weighted,
            f"{name}, from the start": self.start,
        }


@dataclass(frozen=True, eq=False)
class ValueAudit:
    r"""The network's values against the true ones of the exported policy.

    Attributes:
        split: :math:`q-Q^\pi` of every row and its parts, with the residual of the identity.
        error: how large the error is.
        parts: how large the parts are: reward, dynamics, planning.
        worst: the row of the largest error, in words.
        main_part: the part of the largest D-norm; ``None`` if there is no error.
        true_start: :math:`V^\pi` from the start.
        claimed_start: :math:`\hat V` from the start.
        true_norm: D-norm of :math:`Q^\pi`.
        error_bound: what the true values may be off by.
        precision: what rounding an exact export to float32 may make of the error.
    """

    split: ValueErrorSplit
    error: Size
    parts: dict[str, Size]
    worst: str
    main_part: str | None
    true_start: float
    claimed_start: float
    true_norm: float
    error_bound: float
    precision: float

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Whether the parts sum to the error, and whether there is one."""
        exact = f"up to the precision of float32; the largest error is at {self.worst}"
        return (
            Condition.at_most(IDENTITY, self.split.identity_residual, self.split.tolerance, EQUALITY),
            Condition.at_most("the network's values are exact", self.error.largest, self.precision, exact),
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """The error and its parts."""
        numbers: dict[str, Any] = {
            "value from the start, true": self.true_start,
            "value from the start, claimed by the network": self.claimed_start,
            "D-norm of the true values": self.true_norm,
            **self.error.named("value error"),
        }
        for name in PARTS:
            numbers |= self.parts[name].named(f"{name} part")
        return numbers | {"largest value error at": self.worst, "most of it": self.main_part}

    @property
    def arrays(self) -> dict[str, Any]:
        """The error and its parts in every row."""
        return {name: getattr(self.split, name) for name in ("error", *PARTS)}


def audit_value(setting: Setting) -> ValueAudit:
    """Split the error of the network's values.

    Raises:
        InputError: the values of the exported policy are infinite.
    """
    export = setting.export
    q, r_hat, ahead = (setting.rows(array) for array in (export.q, export.r_hat, export.v_at_pred))
    split = value_error_of_functions(setting.problem, q, r_hat, ahead)
    parts = {name: size_of(setting, getattr(split, name)) for name in PARTS}
    main = max(parts, key=lambda name: (parts[name].weighted, parts[name].largest))
    precision, carried = _precision(setting, split, (q, r_hat, ahead))
    shown = np.where(setting.judged, abs(split.error), -1.0)
    return ValueAudit(
        split=split,
        error=size_of(setting, split.error),
        parts=parts,
        worst=setting.label(int(shown.argmax())),
        main_part=main if parts[main].largest > carried else None,
        true_start=setting.at_start(split.q_true),
        claimed_start=setting.at_start(q),
        true_norm=setting.norm(split.q_true),
        error_bound=setting.truth.error_bound,
        precision=precision,
    )


def _precision(
    setting: Setting, split: ValueErrorSplit, exported: tuple[Array, Array, Array]
) -> tuple[float, float]:
    r"""Return what rounding an export to float32 may make of an error of zero, and of a part of zero.

    With u half of eps: probabilities are rounded and divided by their sum, which moves a row by 2u in the
    1-norm and :math:`Q^\pi` by :math:`2u\gamma H\max|Q^\pi|`; q itself is off by :math:`u\max|q|`. A part
    carries on numbers that are each off by u, and in :math:`P\hat V` the policy too. The factor 2 is for what
    is of second order.
    """
    H, gamma = split.horizon, setting.mdp.gamma
    q, r_hat, ahead = (float(abs(array).max()) for array in exported)
    error = q / 2.0 + gamma * H * float(abs(split.q_true).max())
    part = H * (q + r_hat + gamma * (ahead + 2.0 * q))
    return 2.0 * FLOAT32 * error, 2.0 * FLOAT32 * part


def size_of(setting: Setting, values: Array) -> Size:
    """Measure (n,) values."""
    return Size(setting.largest(values), setting.norm(values), setting.at_start(values))
