"""The one exception of this package: a value given by the user that cannot be used.

It is a ``ValueError`` and says which argument, which value, what is allowed and how to mend it.
Numerical outcomes (a singular system, an undecidable comparison) are results, not exceptions.
"""

from __future__ import annotations


class InputError(ValueError):
    """A value given by the user is not usable; the message says which, where, and what is allowed.

    Example:
        >>> raise InputError("gamma must lie in [0, 1], got 1.5.")
        Traceback (most recent call last):
        ...
        theory.errors.InputError: gamma must lie in [0, 1], got 1.5.
    """
