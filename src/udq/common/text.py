"""Text for messages: counts with their nouns, errors on one line, and file names that are safe to show.

A file name may hold any byte. Bytes that are not valid text come from the system as lone surrogates (PEP 383), which
no encoder accepts; control characters would change the state of the terminal they are printed on.
"""

from __future__ import annotations

import unicodedata

# Unicode categories of control characters, surrogates, and line separators that are not control characters.
_UNSHOWN = frozenset(["Cc", "Cs", "Zl", "Zp"])
# They reverse the direction of the text around them, so that one name could pass for another.
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def counted(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 photo``, ``2 photos`` or ``1,000 queries``.

    Args:
        number: the count.
        one: the singular noun.
        many: the plural noun; ``one`` with an s if empty.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def one_line(error: Exception | str) -> str:
    """Return the message of an error on one line, without runs of white space; its class name if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def nfc(text: str) -> str:
    """Return text in Unicode's composed form (NFC): macOS stores ``é`` as two characters, keyboards type one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def shown(text: str) -> str:
    r"""Return text with characters that cannot be shown as escapes: ``\xe9`` for an invalid byte, ``\x1b``, ``\u202e``.

    Everything else stays, including backslashes, so that Windows paths are readable. The function is idempotent.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSHOWN and character not in _BIDIRECTIONAL:
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00  # the byte itself
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
