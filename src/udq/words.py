"""Numbers with their nouns, as a person writes them."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 photo``, ``2 photos`` or ``1,000 queries``.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number; ``one`` with an s where empty.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
