"""The outcome of a check: a verdict, the number it rests on, and every condition behind it.

A theorem's check returns a :class:`Report`, never a bare boolean: what was compared, the tolerance that
was earned, and one :class:`Condition` for each assumption. Both write themselves as JSON and as Markdown.
Nothing is computed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Verdict = Literal["pass", "fail", "inconclusive"]
_VERDICTS = ("pass", "fail", "inconclusive")
_SENTENCES = {
    "pass": "the statement holds on this problem",
    "fail": "the statement does not hold on this problem",
    "inconclusive": "nothing can be said on this problem",
}


@dataclass(frozen=True)
class Condition:
    """One assumption of a theorem, measured.

    Attributes:
        name: what is assumed.
        holds: whether it does; ``None`` if rounding leaves it open.
        value: the measured number, ``None`` if there is none.
        threshold: the number that ``value`` is compared with.
        margin: how far ``value`` is from ``threshold``, positive on the safe side.
        why: what the condition is needed for, and the counterexample that shows it.

    Example:
        >>> Condition("discount below one", True, 0.9, 1.0, 0.1, "returns are finite").holds
        True
    """

    name: str
    holds: bool | None
    value: float | None = None
    threshold: float | None = None
    margin: float | None = None
    why: str = ""

    @classmethod
    def at_most(cls, name: str, value: float, threshold: float, why: str) -> Condition:
        """Return the condition that ``value`` does not exceed ``threshold``.

        It is undecided where the threshold is infinite (no bound was proved) or a number is NaN.

        Example:
            >>> Condition.at_most("residual", 0.25, 0.5, "an equality").margin
            0.25
            >>> Condition.at_most("residual", 0.25, math.inf, "an equality").holds is None
            True
        """
        if math.isnan(value) or not math.isfinite(threshold):
            return cls(name, None, value, threshold, None, why)
        return cls(name, bool(value <= threshold), value, threshold, threshold - value, why)


@dataclass(frozen=True, eq=False)
class Report:
    """What a check found; true in a condition if and only if the verdict is "pass".

    Attributes:
        theorem: which statement was checked.
        verdict: "pass", "fail", or "inconclusive" when a needed condition fails or rounding hides the answer.
        residual: the discrepancy found, ``None`` if nothing could be compared.
        tolerance: the largest discrepancy that rounding explains, ``None`` likewise.
        conditions: the assumptions, measured.
        data: further numbers, by name.

    Raises:
        ValueError: the verdict is none of the three.

    Example:
        >>> report = Report("1 = 1", "pass", 0.0, 1e-15, (), {"compared": 1})
        >>> bool(report)
        True
        >>> print(report.to_markdown().splitlines()[0])
        1 = 1: pass, the statement holds on this problem (residual 0, tolerance 1e-15).
    """

    theorem: str
    verdict: Verdict
    residual: float | None
    tolerance: float | None
    conditions: tuple[Condition, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in _VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(_VERDICTS)}; got {self.verdict!r}.")

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    def condition(self, name: str) -> Condition:
        """Return the condition of that name.

        Raises:
            KeyError: there is none; the message lists the names.

        Example:
            >>> Report("t", "pass", 0.0, 0.0, (Condition("c", True),)).condition("c").holds
            True
        """
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise KeyError(f"no condition {name!r}; there are {[c.name for c in self.conditions]}")

    def to_json(self) -> str:
        """Return strict JSON: infinities as strings, complex numbers sorted, as [real, imaginary] pairs.

        Example:
            >>> Report("t", "fail", math.inf, 0.0).to_json()
            '{"theorem": "t", "verdict": "fail", "residual": "inf", "tolerance": 0.0, ...}'
        """
        return json.dumps(
            {
                "theorem": self.theorem,
                "verdict": self.verdict,
                "residual": plain(self.residual),
                "tolerance": plain(self.tolerance),
                "conditions": [plain(asdict(condition)) for condition in self.conditions],
                "data": plain(dict(self.data)),
            },
            allow_nan=False,
        )

    def to_markdown(self) -> str:
        """Return the verdict in one sentence, the table of conditions, then the numbers.

        Example:
            >>> print(Report("t", "fail", 0.5, 0.1, (Condition("c", None, 1.0),), {"n": 2}).to_markdown())
            t: fail, the statement does not hold on this problem (residual 0.5, tolerance 0.1).
            <BLANKLINE>
            | condition | value | threshold | margin | holds | why |
            |---|---|---|---|---|---|
            | c | 1 | - | - | undecided | |
            <BLANKLINE>
            - n: 2
        """
        compared = f"residual {_short(self.residual)}, tolerance {_short(self.tolerance)}"
        parts = [f"{self.theorem}: {self.verdict}, {_SENTENCES[self.verdict]} ({compared})."]
        if self.conditions:
            parts.append("\n".join([*_TABLE_HEAD, *map(_table_row, self.conditions)]))
        if self.data:
            parts.append("\n".join(f"- {name}: {_short(value)}" for name, value in self.data.items()))
        return "\n\n".join(parts)


_TABLE_HEAD = ("| condition | value | threshold | margin | holds | why |", "|---|---|---|---|---|---|")


def _table_row(condition: Condition) -> str:
    holds = {True: "yes", False: "no", None: "undecided"}[condition.holds]
    numbers = map(_short, (condition.value, condition.threshold, condition.margin))
    cells = [condition.name, *numbers, holds, condition.why]
    # A bar inside a cell would end it.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells).rstrip() + " |"


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value + 0.0:.6g}"  # never "-0"
    return str(value) if isinstance(value, str) else json.dumps(plain(value))


def plain(value: Any) -> Any:
    """Return ``value`` made of lists, dicts, strings and finite numbers only.

    Infinities and NaN become strings, -0.0 becomes 0.0; a complex array becomes a sorted list of
    [real, imaginary] pairs rounded to 12 digits, so that two runs write the same text.

    Raises:
        TypeError: something in it has no plain form.

    Example:
        >>> plain({"eigenvalues": np.array([1j, -1j]), "limit": math.inf})
        {'eigenvalues': [[0.0, -1.0], [0.0, 1.0]], 'limit': 'inf'}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else str(value)
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return _sorted_pairs(value) if np.iscomplexobj(value) else plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"a report cannot hold a {type(value).__name__}: {value!r}.")


def _sorted_pairs(values: np.ndarray) -> list[Any]:
    rounded = np.round(values.ravel(), 12)
    pairs = sorted((value.real + 0.0, value.imag + 0.0) for value in rounded.tolist())  # before inf is text
    return [[plain(real), plain(imaginary)] for real, imaginary in pairs]
