"""What a manifest must contain: one table of keys and checks, applied to every manifest that is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from udq.config import IndexConfig

# Names of files and folders of a collection, relative to its folder.
NAMES = {
    "model": r"model-\d{6}\.npz",
    "backbone": r"backbone-\d{6}\.npz",
    "removed": r"removed-\d{6}\.npy",
    "segments": r"segments/\d{6}",
}
# Names of files in the folder of a segment.
SEGMENT_FILE = r"[a-z]+\.(npy|json)"

Check = Callable[[Any, str], None]
"""Value and its place in the manifest -> ValueError or UdqError if the value is not what a manifest contains."""


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise _unexpected("text", value, where)


def _count(value: Any, where: str) -> None:
    if type(value) is not int or not 0 <= value < 2**63:
        raise _unexpected("a whole number, 0 or more", value, where)


def _table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _unexpected("a table", value, where)


def _settings(value: Any, where: str) -> None:
    _table(value, where)
    IndexConfig().replace(value)


def _file(pattern: str) -> Check:
    """Return a check for the name of a file or folder of a collection; no such name leads out of the collection."""

    def check(value: Any, where: str) -> None:
        _text(value, where)
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{where}: {value!r:.80} is not a file of a collection")

    return check


def _optional(check: Check) -> Check:
    """Return a check that also accepts None."""

    def optional(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return optional


def _list_of(check: Check) -> Check:
    def each(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _unexpected("a list", value, where)
        for number, item in enumerate(value):
            check(item, f"{where}[{number}]")

    return each


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check for a table with some keys; other keys are ignored, as later versions may add them."""

    def check(value: Any, where: str) -> None:
        _table(value, where)
        prefix = f"{where}." if where else ""
        for name, check_value in required.items():
            if name not in value:
                raise ValueError(f"{prefix}{name}: missing")
            check_value(value[name], f"{prefix}{name}")
        for name, check_value in (optional or {}).items():
            if name in value:
                check_value(value[name], f"{prefix}{name}")

    return check


def _files(required: tuple[str, ...], check_facts: Check) -> Check:
    """Return a check for the table of a segment's files: name -> size and checksum."""
    check_name, check_required = _file(SEGMENT_FILE), _record(dict.fromkeys(required, check_facts))

    def check(value: Any, where: str) -> None:
        check_required(value, where)
        for name, facts in value.items():
            check_name(name, where)
            check_facts(facts, f"{where}.{name}")

    return check


def _unexpected(expected: str, found: Any, where: str) -> ValueError:
    return ValueError(f"{where}: expected {expected}, found {found!r:.40}")


_FACTS: dict[str, Check] = {"bytes": _count, "sha256": _text}
_NUMBERS: dict[str, Check] = {"images": _count, "regions": _count}
_GIVEN = _optional(_record({"path": _text, "sha256": _text}))
_SEGMENT_FILES = ("codes.npy", "boxes.npy", "offsets.npy", "images.json")  # format 3 added photos.npy

_CHECKS = _record(
    {
        "udq": _text,
        "created": _text,
        "config": _settings,
        "training": _optional(_table),
        "model": _record({"file": _file(NAMES["model"]), "origin": _text, **_FACTS}),
        "segments": _list_of(
            _record(
                {
                    "folder": _file(NAMES["segments"]),
                    **_NUMBERS,
                    "files": _files(_SEGMENT_FILES, _record(_FACTS)),
                },
                {"first_id": _count},
            )
        ),
        "broken": _list_of(_record({"image": _text, "reason": _text}, {"root": _text})),
        "passed_over": _count,
    },
    {
        "changed": _optional(_text),
        "weights": _GIVEN,
        "rpn": _GIVEN,
        "backbone": _optional(_record({"file": _file(NAMES["backbone"]), **_FACTS})),
        "removed": _optional(_record({"file": _file(NAMES["removed"]), **_NUMBERS, **_FACTS})),
        "next_id": _count,
        "fitted_before": _count,
        "linked_folders": _count,
        "excluded_folders": _count,
        "excluded_photos": _count,
        "exclude": _list_of(_text),
    },
)


def check(document: Any) -> None:
    """Check that a manifest has every key that this version reads, each with a value of its type and range.

    Args:
        document: the parsed manifest, of which format and version are checked already.

    Raises:
        ValueError: a key is missing, or its value is of another type or out of range.
        UdqError: the configuration is not one of this version.
    """
    _CHECKS(document, "")
