"""Proving what was expected of a catalogue entry: the same expectations, without rounding.

An integer or a fraction must be met exactly, a decimal to half a unit of its last printed digit; both are
decided in rational arithmetic. Expectations that exact arithmetic is too slow for (hundreds of one-hot
features) are left out and listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from theory.catalogue.entries import Entry
from theory.catalogue.exact_measures import STATE_MEASURES, Proofs, Real
from theory.errors import InputError
from theory.exact.backend import current
from theory.exact.problem import check_size
from theory.exact.rationals import as_text
from theory.exact.roots import Disc
from theory.report import Condition, Report


def prove_entry(entry: Entry) -> Report:
    """Prove all that is expected of an entry.

    Returns:
        A report with one condition for each expectation, without values: it is proved or refuted. The verdict
        is "pass" or "fail". ``data`` has what was expected and found, how floats were rationalised, and under
        "left out" the expectations that were not tried because the problem is too large for them.

    Raises:
        InputError: something is expected that cannot be measured.

    Example:
        >>> from dataclasses import replace
        >>> from theory.catalogue import load
        >>> entry = load("sign_flip")
        >>> wrong = {"w": ["1000000000000000000000000000001/5000000000000000000000000000000"]}
        >>> prove_entry(entry).verdict, prove_entry(replace(entry, expected=wrong)).verdict
        ('pass', 'fail')
    """
    proofs = Proofs(entry)
    expected = {**entry.expected, **entry.expected_exactly}
    left_out = _left_out(proofs, expected)
    found = {name: proofs.measure(name) for name in expected if name not in left_out}
    conditions = tuple(_proved(name, expected[name], value) for name, value in found.items())
    proved = all(condition.holds for condition in conditions)
    return Report(
        theorem=f"Catalogue {entry.id} {entry.name} in exact arithmetic",
        verdict="pass" if proved else "fail",
        residual=None,
        tolerance=0.0,
        conditions=conditions,
        data={
            "id": entry.id,
            "name": entry.name,
            "title": entry.title,
            "source": entry.source,
            "expected": expected,
            "found": {name: _text(value) for name, value in found.items()},
            "left out": left_out,
            "rationalised": [str(change) for change in proofs.problem.changes if change.entries] or "nothing",
            "arithmetic": current().name,
        },
    )


def agrees(wanted: Any, found: Any) -> bool:
    """Return whether what was found is what was wanted, decided exactly.

    Example:
        >>> agrees("1/3", Fraction(1, 3)), agrees("0.33", Fraction(1, 3)), agrees("0.34", Fraction(1, 3))
        (True, True, False)
    """
    if isinstance(wanted, list):
        if not isinstance(found, Sequence) or isinstance(found, str):
            return False
        if any(isinstance(item, Disc) for item in found):
            return _eigenvalues_agree(wanted, found)
        return len(wanted) == len(found) and all(map(agrees, wanted, found))
    try:
        number = Fraction(str(wanted))
    except ValueError:
        return bool(wanted == found)
    half = half_digit(str(wanted))
    if isinstance(found, Real):
        return found.within(number - half, number + half)
    return isinstance(found, Fraction) and abs(found - number) <= half


def half_digit(wanted: str) -> Fraction:
    """Return half a unit of the last printed digit of a decimal, 0 for an integer or a fraction.

    Example:
        >>> half_digit("0.25"), half_digit("1/4")
        (Fraction(1, 200), Fraction(0, 1))
    """
    if "." not in wanted:
        return Fraction(0)
    return Fraction(10) ** int(Decimal(wanted).as_tuple().exponent) / 2


def _left_out(proofs: Proofs, expected: Mapping[str, Any]) -> dict[str, str]:
    """Return the expectations that the problem is too large for, with the reason."""
    try:
        check_size(proofs.problem)
    except InputError as reason:
        return {name: str(reason) for name in expected if name not in STATE_MEASURES}
    return {}


def _proved(name: str, wanted: Any, found: Any) -> Condition:
    why = f"expected {_text(wanted)}, found {_text(found)}"
    return Condition(name, agrees(wanted, found), why=why)


def _eigenvalues_agree(wanted: Sequence[Sequence[str]], found: Sequence[Disc]) -> bool:
    """Return whether each disc, as often as its multiplicity, lies in the square of one wanted pair."""
    left = list(wanted)
    for disc in found:
        inside = [pair for pair in left if _contains(pair, disc)][: disc.multiplicity]
        if len(inside) < disc.multiplicity:
            return False
        for pair in inside:
            left.remove(pair)
    return not left


def _contains(pair: Sequence[str], disc: Disc) -> bool:
    real, imaginary = (Fraction(part) for part in pair)
    half = max(map(half_digit, pair))
    return max(abs(disc.real - real), abs(disc.imaginary - imaginary)) + disc.radius <= half


def _text(value: Any) -> Any:
    """Return words and fractions as text."""
    if isinstance(value, Real):
        return "a real number, compared exactly"
    if isinstance(value, Disc):
        return f"{float(value.real):.10g}{float(value.imaginary):+.10g}i ({value.multiplicity} times)"
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return as_text(value) if isinstance(value, Fraction) else str(value)
