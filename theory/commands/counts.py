"""Lists of whole numbers on the command line."""

from __future__ import annotations

from theory.commands.choices import number


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the numbers in ``text``, which are separated by commas.

    Raises:
        InputError: one is not a whole number; the message names the option.

    Example:
        >>> whole_numbers("steps", "1,2,50")
        [1, 2, 50]
    """
    return [number(option, text, part, int) for part in text.split(",")]
