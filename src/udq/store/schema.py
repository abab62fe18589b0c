"""What a manifest must contain: one table of keys and checks, applied to every manifest that is read or written.

The journal of a build contains parts of a manifest, and is checked by the same table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from udq.common.files import MAX_JSON, MAX_WEIGHTS
from udq.config import IndexConfig

NUMBER = r"(?:\d{6}|[1-9]\d{6,17})"
"""Number in the name of a file or folder: six digits, or as many as it takes; 18 at most."""

# Names of files and folders of a collection, relative to its folder.
NAMES = {
    "model": rf"model-{NUMBER}\.npz",
    "backbone": rf"backbone-{NUMBER}\.npz",
    "removed": rf"removed-{NUMBER}\.npy",
    "segments": rf"segments/{NUMBER}",
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


def _id(value: Any, where: str) -> None:
    """Check the id of a photo that may be added: there is room for more, as int64."""
    _count(value, where)
    if value >= 2**62:
        raise _unexpected("a number below 2**62", value, where)


def _bytes(value: Any, where: str) -> None:
    """Check the size of a file that is read as a whole."""
    _count(value, where)
    if value > MAX_WEIGHTS:
        raise _unexpected(f"at most {MAX_WEIGHTS:,} bytes", value, where)


def _number(value: Any, where: str) -> None:
    if type(value) not in (int, float):
        raise _unexpected("a number", value, where)


def _table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _unexpected("a table", value, where)


def _settings(value: Any, where: str) -> None:
    _table(value, where)
    if _finite(value) != value:
        raise ValueError(f"{where}: expected finite numbers")
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


def _distinct(key: str, check: Check) -> Check:
    """Return a check for a list of tables of which no two have the same value of ``key``."""

    def distinct(value: Any, where: str) -> None:
        check(value, where)
        seen: set[Any] = set()
        for number, item in enumerate(value):
            if item[key] in seen:
                raise ValueError(f"{where}[{number}].{key}: {item[key]!r:.80} is listed twice")
            seen.add(item[key])

    return distinct


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


_FACTS: dict[str, Check] = {"bytes": _bytes, "sha256": _text}
_NUMBERS: dict[str, Check] = {"images": _count, "regions": _count}
_GIVEN = _optional(_record({"path": _text, "sha256": _text}))
_SEGMENT_FILES = ("codes.npy", "boxes.npy", "offsets.npy", "images.json")  # format 3 added photos.npy


def _segment_files(value: Any, where: str) -> None:
    _files(_SEGMENT_FILES, _record({"bytes": _count, "sha256": _text}))(value, where)
    if ("points.npy" in value) != ("starts.npy" in value):
        raise ValueError(f"{where}: expected both points.npy and starts.npy, or neither")
    size = value["images.json"]["bytes"]
    if size > MAX_JSON:
        raise _unexpected(f"at most {MAX_JSON:,} bytes", size, f"{where}.images.json.bytes")


_MODEL = _record({"file": _file(NAMES["model"]), "origin": _text, **_FACTS})
_BACKBONE = _optional(_record({"file": _file(NAMES["backbone"]), **_FACTS}))
_SEGMENT = _record(
    {"folder": _file(NAMES["segments"]), **_NUMBERS, "files": _segment_files}, {"first_id": _id, "points": _count}
)
_SEGMENTS = _distinct("folder", _list_of(_SEGMENT))
_BROKEN = _list_of(_record({"image": _text, "reason": _text}, {"root": _text}))

_CHECKS = _record(
    {
        "udq": _text,
        "created": _text,
        "config": _settings,
        "training": _optional(_table),
        "model": _MODEL,
        "segments": _SEGMENTS,
        "broken": _BROKEN,
        "passed_over": _count,
    },
    {
        "changed": _optional(_text),
        "weights": _GIVEN,
        "rpn": _GIVEN,
        "backbone": _BACKBONE,
        "removed": _optional(_record({"file": _file(NAMES["removed"]), **_NUMBERS, **_FACTS})),
        "next_id": _id,
        "fitted_before": _count,
        "linked_folders": _count,
        "excluded_folders": _count,
        "excluded_photos": _count,
        "exclude": _list_of(_text),
    },
)


def _model_or_empty(value: Any, where: str) -> None:
    if value != {}:
        _MODEL(value, where)


_JOURNAL = _record(
    {
        "fingerprint": _text,
        "model": _model_or_empty,
        "backbone": _BACKBONE,
        "training": _optional(_table),
        "segments": _SEGMENTS,
        "done": _count,
        "broken": _BROKEN,
        "first": _record(dict.fromkeys(("model", "backbone", "segments"), _count)),
    }
)

_LOSSES = _list_of(_number)
_HISTORY = _record(
    {
        "rounds": _list_of(_record({"iteration": _count, "separability": _LOSSES, "discriminability": _LOSSES})),
        "kept": _count,
        "stopped": _optional(_text),
    },
    {
        "verified_pairs": _count,
        "estimate": _optional(_record({"before": _number, "after": _number, "error": _number, "queries": _count})),
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


def check_journal(document: Any) -> None:
    """Check the journal of a build; raises ValueError if a key is missing, or its value is of another type."""
    _JOURNAL(document, "")


def history(training: Any) -> dict[str, Any] | None:
    """Return the history of training in a manifest with finite numbers alone: others become None, as in JSON.

    None if the manifest has no history, or something else in its place, which no other part of a collection needs.
    """
    try:
        _HISTORY(training, "")
    except ValueError:
        return None
    if training["kept"] > len(training["rounds"]):
        return None
    finite: dict[str, Any] = _finite(training)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, int) and abs(value) >= 2**63 else value
