"""One changed byte at a time, anywhere in a collection."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from robustness_common import QUICK, answers, build, command, complaint, forked, opened, small_pieces, take

from udq.errors import UdqError
from udq.indexing.repair import repair
from udq.indexing.verify import verify
from udq.store import manifest as manifests

# Photos of each collection; some are removed from it.
_HELD, _REMOVED = 30, 4
# One in this many changes is also checked through the command line, which takes a second.
_BY_COMMAND = 500


def flips(photos: Path, scratch: Path, count: int, repairs: int) -> dict[str, Any]:
    """Change ``count`` bytes, one at a time, and repair some; return what became of it, by kind of file."""
    rng = np.random.default_rng(0)
    with small_pieces():
        files = take(photos, _HELD, scratch / "photos")
        paths = [_collection(files, scratch, codewords) for codewords in (256, 16)]
        whole = {path: answers(opened(path)) for path in paths}
        outcomes: dict[str, Counter[str]] = {}
        failures: list[dict[str, Any]] = []
        by_command = 0
        for number in range(count):
            path = paths[number % 2]
            file, place, value = _choose(path, rng)
            before = _change(path / file, place, value)
            try:
                found, wrong = _examine(path, file, whole[path])
                if number % _BY_COMMAND == 0:
                    by_command += 1
                    told, line = complaint(command("verify", path))
                    wrong += [] if told else [f"udq verify: {line}"]
            finally:
                _change(path / file, place, before)
            outcomes.setdefault(_kind(file), Counter()).update(found)
            failures += [{"file": file, "place": place, "byte": [before, value], "failure": each} for each in wrong]
            if (number + 1) % 500 == 0:
                print(f"  {number + 1} of {count} changes, {len(failures)} failures", flush=True)
        for path in paths:
            if answers(opened(path)) != whole[path] or verify(path):
                raise RuntimeError("a change was not taken back")
        repaired, unrepaired = _repairs(paths, whole, scratch, repairs, rng)
    total: Counter[str] = sum(outcomes.values(), Counter())
    return {
        "flips": count,
        "detected": total["detected"],
        "refused": total["refused"],
        "same_answers": total["same answers"],
        "wrong_answers": total["wrong answers"],
        "tracebacks": total["traceback"],
        "by_command": by_command,
        "by_kind": {kind: dict(found) for kind, found in sorted(outcomes.items())},
        "repairs": repaired,
        "failures": failures + unrepaired,
    }


def _collection(files: list[Path], scratch: Path, codewords: int) -> Path:
    config = QUICK.replace({"quantizer": {"codewords": codewords}})
    path = build(scratch / "photos", scratch / f"k{codewords}.udq", config)
    forked(lambda: opened(path).remove([file.name for file in files[:_REMOVED]]))
    # The change before left files that are of no state any more, until the next one.
    manifest = manifests.read_manifest(path)
    assert (manifest.document["removed"] or {}).get("images") == _REMOVED
    return path


def _files(path: Path) -> list[str]:
    return [manifests.MANIFEST, manifests.COPY, *manifests.files_of(manifests.read_manifest(path))]


def _kind(file: str) -> str:
    """Return a file's name without its numbers."""
    return re.sub(r"segments/\d+/|-\d+", "", file)


def _choose(path: Path, rng: np.random.Generator) -> tuple[str, int, int]:
    """Return a file, a place in it, and a byte: half of them any byte alike, half of them any file alike."""
    files = _files(path)
    sizes = np.array([(path / file).stat().st_size for file in files])
    weights = sizes / sizes.sum() if rng.random() < 0.5 else np.full(len(files), 1 / len(files))
    file = files[int(rng.choice(len(files), p=weights))]
    place = int(rng.integers((path / file).stat().st_size))
    return file, place, ((path / file).read_bytes()[place] + int(rng.integers(1, 256))) % 256


def _change(file: Path, place: int, value: int) -> int:
    """Change a byte and return what it was."""
    with file.open("r+b") as opened_file:
        opened_file.seek(place)
        before = opened_file.read(1)[0]
        opened_file.seek(place)
        opened_file.write(bytes([value]))
    return before


def _examine(path: Path, file: str, whole: str) -> tuple[list[str], list[str]]:
    """Return what became of a change, and what of that is wrong."""
    found, wrong = [], []
    try:
        named = [damage.file for damage in verify(path)]
        if file in named:
            found.append("detected")
        else:
            wrong.append(f"verify names {named}")
    except UdqError as error:
        wrong.append(f"verify: {error}")
    except Exception as error:  # whatever it is, it is what this looks for
        found.append("traceback")
        wrong.append(f"verify: {type(error).__name__}: {error}")
    try:
        same = answers(opened(path)) == whole
        found.append("same answers" if same else "wrong answers")
        wrong += [] if same else ["wrong answers"]
    except UdqError as error:
        found.append("refused")
        wrong += [f"more than a line: {error}"] if "\n" in str(error) else []
    except Exception as error:  # whatever it is, it is what this looks for
        found.append("traceback")
        wrong.append(f"search: {type(error).__name__}: {error}")
    return found, wrong


def _repairs(
    paths: list[Path], whole: dict[Path, str], scratch: Path, count: int, rng: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Change a byte of a copy and repair that, file by file in turn."""
    outcomes: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    for number in range(count):
        path = paths[number % 2]
        files = _files(path)
        file = files[(number // 2) % len(files)]
        copy = scratch / "repaired" / path.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(path, copy)
        place = int(rng.integers((copy / file).stat().st_size))
        _change(copy / file, place, int(rng.integers(1, 256)) ^ (copy / file).read_bytes()[place])
        try:
            outcome, wrong = _repair(copy, path, whole[path])
        except Exception as error:  # whatever it is, it is what this looks for
            outcome, wrong = "failed", [f"{type(error).__name__}: {error}"]
        outcomes.setdefault(_kind(file), Counter())[outcome] += 1
        failures += [{"file": file, "place": place, "failure": f"repair: {each}"} for each in wrong]
        for each in wrong:
            print(f"  FAILED repair of {file}: {each}", flush=True)
    by_kind = {kind: dict(found) for kind, found in sorted(outcomes.items())}
    return {"repairs": count, "by_kind": by_kind}, failures


def _repair(copy: Path, path: Path, whole: str) -> tuple[str, list[str]]:
    """Return what became of a repair, and what of that is wrong."""
    wrong = []
    done = repair(copy, device="cpu")
    wrong += [f"verify afterwards: {damage.file}" for damage in verify(copy)]
    before, mended = set(opened(path).names), opened(copy)
    now = set(mended.names)
    missing = before - now - set(done.dropped)
    if len(missing) > done.nameless:
        wrong.append(f"{len(missing)} photos gone, {done.nameless} of them said")
    if len(now) != len(mended.names):
        wrong.append("a name twice")
    if len(now - before) > done.back:
        wrong.append(f"{len(now - before)} photos back, {done.back} of them said")
    if missing:
        return "names lost and said", wrong
    return ("same answers" if answers(mended) == whole else "all photos, other answers"), wrong
