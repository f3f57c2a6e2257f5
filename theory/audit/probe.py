r"""The linear probe: the best linear model and value on the network's own embeddings of pairs.

Reward, next embedding and value are fitted to the embeddings by weighted least squares, expected next
embeddings of the exported policy, zero where the run ends. Everything that the theorems say about linear
features is then said about these: theorem 1, stability, theorem 2 with its bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from theory.audit.setting import Setting
from theory.bounds import bounds
from theory.equivalence_conditions import equivalence_conditions, with_counterexample
from theory.problem_report import Findings, problem_report
from theory.report import Condition, Report
from theory.stability import stability
from theory.td import LinearModel, fit_linear_model
from theory.theorem1 import check_fixed_point_equivalence
from theory.value_error import value_error

IDENTITY = "probe: TD and the linear model have one fixed point"
EMBEDDING_FREE = (
    "tau, kappa and sigma know no embedding: below 1, tau vouches for every one. The spectral radius, the "
    "eigenvalues and the step size are of this embedding"
)


@dataclass(frozen=True, eq=False)
class ProbeAudit:
    r"""Theorems 1 and 2 on the embeddings of pairs, at the precision of float32.

    Attributes:
        model: :math:`w_r` and :math:`W_d`.
        findings: theorem 1, stability, the value error of :math:`Zw` with its parts, and the bounds.
        report: what was found, in words.
    """

    model: LinearModel
    findings: Findings
    report: Report

    @property
    def error(self) -> float | None:
        """The largest value error of the probe; ``None`` where values are infinite."""
        split = self.findings.split
        return None if split is None else float(abs(split.error).max())

    @property
    def numbers(self) -> dict[str, Any]:
        """What the report says; what is long is among the arrays."""
        long = {"w", "eigenvalues of A", "rows", "gamma"}
        numbers = {f"probe: {name}": value for name, value in self.report.data.items() if name not in long}
        return {**numbers, "probe: what depends on the embedding": EMBEDDING_FREE}

    @property
    def arrays(self) -> dict[str, Any]:
        """The weights, the reward model and the eigenvalues."""
        data = self.report.data
        long = {name: data[name] for name in ("w", "eigenvalues of A")}
        return {f"probe: {name}": value for name, value in {**long, "w_r": self.model.w_r}.items()}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Theorem 1, then the conditions of the report under names that say whose they are."""
        named = (replace(condition, name=f"probe: {condition.name}") for condition in self.report.conditions)
        return (self._equivalence, *named)

    @property
    def _equivalence(self) -> Condition:
        """Whether theorem 1 holds: an equality, open where rounding could hide that it fails."""
        found = self.findings.equivalence
        holds = {"pass": True, "fail": False}.get(found.verdict)
        why = "theorem 1; open where float64 cannot decide it"
        return Condition(IDENTITY, holds, found.residual, found.tolerance, why=why)


def audit_probe(setting: Setting) -> ProbeAudit:
    """Fit the probe and ask everything about it."""
    full, reduced = setting.probe, setting.reduced
    first = check_fixed_point_equivalence(reduced)
    # Rank and the number of columns are the network's own.
    own = {condition.name: with_counterexample(condition) for condition in equivalence_conditions(full)}
    conditions = tuple(own.get(condition.name, condition) for condition in first.conditions)
    finite = first.condition("returns are finite").holds
    found = Findings(
        equivalence=replace(first, conditions=conditions),
        stability=stability(reduced),
        split=value_error(full) if finite else None,
        ladder=bounds(full) if finite else None,
    )
    report = problem_report(full, "the embeddings of pairs", findings=found)
    return ProbeAudit(fit_linear_model(full), found, report)
