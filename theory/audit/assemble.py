"""The audit of a trained agent on a tabular MDP: what theory says of what it learned, in units of reward.

:func:`audit_embeddings` reads an export, computes every part that can be judged and puts them into a report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from theory.audit.acting import IDENTITY as GREEDY_IDENTITY
from theory.audit.acting import ActingAudit, audit_acting
from theory.audit.export import read_export
from theory.audit.labelling import IDENTITY as LABELLING_IDENTITY
from theory.audit.labelling import audit_labelling
from theory.audit.linearity import audit_linearity
from theory.audit.noise import audit_noise
from theory.audit.probe import IDENTITY as PROBE_IDENTITY
from theory.audit.probe import audit_probe
from theory.audit.relaxing import ERROR_IDENTITY as RELAXED_IDENTITY
from theory.audit.relaxing import IDENTITY as RELAXATION_IDENTITY
from theory.audit.relaxing import audit_relaxation
from theory.audit.report import AuditReport
from theory.audit.returns import audit_returns
from theory.audit.setting import Setting, setting_of
from theory.audit.value import IDENTITY as VALUE_IDENTITY
from theory.audit.value import ValueAudit, audit_value
from theory.equivalence_conditions import with_counterexample
from theory.errors import InputError
from theory.mdp import TabularMDP
from theory.report import Condition, Verdict

T = TypeVar("T")

COUNTEREXAMPLES = {
    "the true value is linear in zsa": "random_walk_5_groups",
    "the value is more linear in zsa than in random features": "random_walk_5_groups",
    "theorem 3: equal rewards": "random_walk_5_groups",
    "theorem 3: equal transitions": "random_walk_5_groups",
}
"""The catalogue entry in which a condition fails, by its name; conditions of the probe name their own."""
EQUALITIES = (
    VALUE_IDENTITY,
    f"probe: {VALUE_IDENTITY}",
    PROBE_IDENTITY,
    RELAXATION_IDENTITY,
    RELAXED_IDENTITY,
    LABELLING_IDENTITY,
    GREEDY_IDENTITY,
)
"""The conditions that hold for any network."""


class Part(Protocol):
    """What each part of an audit can say of itself."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What holds and what does not."""

    @property
    def numbers(self) -> Mapping[str, Any]:
        """What is worth a line in the report."""

    @property
    def arrays(self) -> Mapping[str, Any]:
        """What is as long as there are rows."""


def audit_embeddings(arrays_or_path: Any, mdp: TabularMDP, *, name: str = "the export") -> AuditReport:
    r"""Audit what a trained agent learned on a tabular MDP.

    Args:
        arrays_or_path: a mapping from name to array or the path of an ``.npz`` file: ``zs`` (S, k), ``zsa``
            (S, A, d), ``q``, ``pi``, ``r_hat``, ``v_at_pred`` (S, A), ``zs_next_pred`` (S, A, k), and what
            else :class:`theory.audit.export.Export` lists. Rewards and values in units of reward.
        mdp: S states, terminal ones included, and A actions, in whose order the arrays are. If the export has
            a discount of its own, that is used, and the report says so.
        name: what the export is called in the first line.

    Raises:
        InputError: an export that cannot be read or does not belong to the MDP; see
            :func:`theory.audit.export.read_export`.

    Example:
        >>> import numpy as np
        >>> mdp = TabularMDP.from_dense([[[1.0]]], [[1.0]], 0.5)  # one state that pays 1 for ever: Q = 2
        >>> one = np.ones((1, 1))
        >>> export = {"zs": one, "zsa": one[None], "zs_next_pred": one[None], "pi": one, "r_hat": one}
        >>> report = audit_embeddings({**export, "q": 3 * one, "v_at_pred": 4 * one}, mdp)
        >>> report.verdict, report.value.error.largest, report.value.main_part
        ('pass', 1.0, 'dynamics')
    """
    setting = setting_of(read_export(arrays_or_path, mdp), mdp)
    unjudged: dict[str, str] = {}

    def judged(part: str, make: Callable[[Setting], T]) -> T | None:
        try:
            return make(setting)
        except InputError as error:
            unjudged[part] = str(error)
            return None

    value, returns = judged("value", audit_value), judged("returns", audit_returns)
    acting, linearity = judged("acting", audit_acting), judged("linearity", audit_linearity)
    probe, relaxation = judged("probe", audit_probe), judged("relaxation", audit_relaxation)
    labelling, noise = judged("labelling", audit_labelling), judged("noise", audit_noise)
    found = (value, returns, acting, linearity, probe, relaxation, labelling, noise)
    parts: list[Part] = [setting, *(part for part in found if part is not None)]
    conditions = tuple(
        with_counterexample(condition, COUNTEREXAMPLES) for part in parts for condition in part.conditions
    )
    verdict = _verdict(value, conditions)
    numbers = {key: number for part in parts for key, number in part.numbers.items()}
    return AuditReport(
        theorem=f"Audit of {name}",
        verdict=verdict,
        residual=None if value is None else value.split.identity_residual,
        tolerance=None if value is None else value.split.tolerance,
        conditions=conditions,
        data=numbers | {f"{part} is not judged": why for part, why in unjudged.items()},
        sentence=f"Audit of {name}: {verdict}, {_sentence(verdict, setting, value, acting)}.",
        setting=setting,
        value=value,
        returns=returns,
        acting=acting,
        linearity=linearity,
        probe=probe,
        relaxation=relaxation,
        labelling=labelling,
        noise=noise,
        unjudged=unjudged,
        arrays={key: array for part in parts for key, array in part.arrays.items()},
    )


def _verdict(value: ValueAudit | None, conditions: tuple[Condition, ...]) -> Verdict:
    """Return "fail" if an equality fails, "inconclusive" if that of the value error could not be checked."""
    found = [condition.holds for condition in conditions if condition.name in EQUALITIES]
    if False in found:
        return "fail"
    return "pass" if value is not None and value.split.holds else "inconclusive"


def _sentence(
    verdict: Verdict, setting: Setting, value: ValueAudit | None, acting: ActingAudit | None
) -> str:
    """Return what was found in one sentence, without the full stop."""
    said = [
        {
            "pass": "every equality checked holds, as it must for any network",
            "fail": "an equality does not hold",
            "inconclusive": "the network's values cannot be judged",
        }[verdict]
    ]
    if value is not None:
        wrong = value.main_part is not None and value.error.largest > value.precision  # parts may cancel
        most = f", most of it from {value.main_part}" if wrong else ""
        where = "" if setting.judged.all() else f" on the {setting.judged.sum()} pairs judged"
        said.append(f"the network's value error is at most {value.error.largest:.4g}{where}{most}")
    if acting is not None and acting.greedy is not None:
        share = "" if acting.greedy.ratio is None else f" ({acting.greedy.ratio:.1%})"
        said.append(
            f"its greedy policy is worth {acting.greedy.value:.4g} of {acting.best:.4g}{share} from the start"
        )
    return "; ".join(said)
