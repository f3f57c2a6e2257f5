"""Comparing what was expected of a catalogue entry with what comes out.

How close is close enough stands in the expectation itself: an integer or a fraction is exact, so that
only rounding may differ (1e-9 relative, absolute below one); a decimal holds to half a unit of its last
printed digit.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from theory.catalogue.entries import Entry, load, names
from theory.catalogue.measures import measure
from theory.catalogue.proofs import prove_entry
from theory.report import Condition, Report

EXACT = 1e-9


def run_all(*, exact: bool = False) -> list[Report]:
    """Check every entry of the catalogue; a report passes if everything expected came out.

    Args:
        exact: prove it in rational arithmetic (:func:`theory.catalogue.proofs.prove_entry`).

    Example:
        >>> all(run_all())
        True
    """
    check = prove_entry if exact else check_entry
    return [check(load(name)) for name in names()]


def check_entry(entry: Entry) -> Report:
    """Measure all that is expected of an entry.

    Returns:
        A report with one condition for each expectation: its value is the largest deviation over what is
        allowed (1 at most), infinite if a verdict or a shape differs. The verdict is "pass" or "fail".
        ``data`` has what was expected and what was found.

    Raises:
        InputError: something is expected that cannot be measured.

    Example:
        >>> from dataclasses import replace
        >>> entry = load("sign_flip")
        >>> check_entry(entry).verdict, check_entry(replace(entry, expected={"td": "unstable"})).verdict
        ('pass', 'fail')
    """
    found = {name: measure(entry.problem, name) for name in entry.expected}
    conditions = tuple(_compare(name, wanted, found[name]) for name, wanted in entry.expected.items())
    worst = max((condition.value or 0.0 for condition in conditions), default=0.0)
    return Report(
        theorem=f"Catalogue {entry.id} {entry.name}",
        verdict="pass" if all(condition.holds for condition in conditions) else "fail",
        residual=worst,
        tolerance=1.0,
        conditions=conditions,
        data={
            "id": entry.id,
            "name": entry.name,
            "title": entry.title,
            "source": entry.source,
            "expected": dict(entry.expected),
            "found": found,
        },
    )


def _compare(name: str, wanted: Any, found: Any) -> Condition:
    worst = _deviation(wanted, found)
    why = f"expected {_text(wanted)}, found {_text(found)}"
    return Condition(name, worst <= 1.0, worst, 1.0, 1.0 - worst, why)


def _deviation(wanted: Any, found: Any) -> float:
    """Return the largest deviation over what is allowed, infinite if the two cannot be compared."""
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return math.inf
        return max((_deviation(one, other) for one, other in zip(wanted, found, strict=True)), default=0.0)
    number = _fraction(str(wanted))
    if number is None:
        return 0.0 if wanted == found else math.inf
    if isinstance(found, bool) or not isinstance(found, int | float):
        return math.inf
    return float(abs(Fraction(found) - number)) / _allowed(str(wanted), number)


def _fraction(wanted: str) -> Fraction | None:
    """Return the number that an expectation is, None for a verdict."""
    try:
        return Fraction(wanted)
    except ValueError:
        return None


def _allowed(wanted: str, number: Fraction) -> float:
    if "." in wanted:
        return 0.5 * 10.0 ** int(Decimal(wanted).as_tuple().exponent)
    return EXACT * max(1.0, abs(float(number)))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(_text, value)) + ")"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
