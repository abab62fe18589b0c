"""Names of files as text that can be shown: on a terminal, in a page, in a picture.

A file's name may hold any byte. Bytes that are no text come from the system as lone surrogates (PEP 383), which
nothing can write; control characters would steer the terminal they are printed on.
"""

from __future__ import annotations

import unicodedata

# Unicode's categories of controls, surrogates, and what ends a line without being a control.
_UNSHOWN = frozenset(["Cc", "Cs", "Zl", "Zp"])
# They turn the direction of the text around them: a name could pass for another one.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(text: str) -> str:
    r"""Return text with what cannot be shown as escapes: ``\xe9`` for a byte that is no text, ``\x1b``, ``\u202e``.

    Everything else stays, a backslash too: a path of Windows reads as it is. Shown text is shown as it is again.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if unicodedata.category(character) not in _UNSHOWN and character not in _TURNING:
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00  # the byte itself
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 photo``, ``2 photos`` or ``1,000 queries``.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number; ``one`` with an s where empty.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
