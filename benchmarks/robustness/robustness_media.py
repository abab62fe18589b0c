"""Disks that are full, and disks that cannot be written."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustness_common import (
    QUICK,
    answers,
    build,
    command,
    complaint,
    forked,
    opened,
    small_pieces,
    small_prelude,
    take,
    warmed,
)

from udq.collection import Collection
from udq.indexing.verify import verify
from udq.store import layout, manifest

_SIZE = 96 * 2**20
# Bytes that are left on the disk: some of a change fits, all of it does not.
_LEFT = {"add": 24_000, "compact": 6_000, "retrain": 300_000, "remove": 0}
# Without the right to mount, a file-size limit stands in for a full disk.
_LIMIT = {"add": 2_000, "compact": 2_000, "retrain": 20_000, "remove": 100}


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[bool]:
    """Mount something while in the context; False where the system does not allow that."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, check=False).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(place)], check=True)


def full_disk(photos: Path, scratch: Path) -> dict[str, Any]:
    """Change a collection on a disk that has no room for it, three times over; then with room."""
    with small_pieces(), mounted(scratch / "disk", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs") as real:
        base, words, whole = _setting(photos, scratch)
        rows, wrong = {}, []
        for name in words:
            case = scratch / "disk" / "case"
            shutil.rmtree(case, ignore_errors=True)
            path = Path(shutil.copytree(base[name], case / "photos.udq"))
            states = {answers(opened(path))} | _states(path, name, words, scratch)
            lines, used, before = [], [], set(layout.own_files(path))
            filler = scratch / "disk" / "filler"
            if real:
                _fill(filler, _LEFT[name])
            for _ in range(3):
                limit = "" if real else _limited(_LIMIT[name])
                done = command(*words[name](path), prelude=f"{small_prelude()}\n{limit}")
                told, line = complaint(done)
                lines.append(line.replace(str(scratch), "..."))
                if not told:
                    wrong.append(f"{name}: expected one clear line, found {done.stderr[-300:]!r}")
                wrong += [f"{name}: verify on the full disk: {damage.file}" for damage in verify(path)]
                if answers(opened(path)) not in states:
                    wrong.append(f"{name}: answers are of no committed state")
                used.append(sum(file.stat().st_size for file in case.rglob("*") if file.is_file()))
                left = set(layout.own_files(path)) - set(manifest.files_of(manifest.read_manifest(path))) - before
                if left and name != "add":  # which commits, and keeps what the commit before named
                    wrong.append(f"{name}: left on the full disk: {', '.join(sorted(left))}")
            if max(used[1:]) > used[0]:
                wrong.append(f"{name}: each try leaves more on the full disk: {used} bytes")
            filler.unlink(missing_ok=True)
            done = command(*words[name](path), prelude=small_prelude())
            if done.returncode or answers(opened(path)) != whole[name] or verify(path):
                wrong.append(f"{name}: with room again: {done.stderr[-300:]!r}")
            rows[name] = {"line": lines[0], "bytes_after_each_try": used}
            print(f"  {name:>8}: {lines[0]}", flush=True)
    return {"how": f"tmpfs of {_SIZE:,} bytes" if real else "RLIMIT_FSIZE", "cases": rows, "failures": wrong}


def _setting(photos: Path, scratch: Path) -> tuple[dict[str, Path], dict[str, Any], dict[str, str]]:
    """Return, for each change, the collection, the command line for a path, and the answers when it is done."""
    extractor = warmed()
    held = take(photos, 40, scratch / "held")
    take(photos, 30, scratch / "new", skip=40)
    settings = scratch / "settings.toml"
    settings.write_text(QUICK.replace({"training": {"enabled": True}}).to_toml())
    base = build(scratch / "held", scratch / "base.udq")
    holed = Path(shutil.copytree(base, scratch / "holed.udq"))
    forked(lambda: opened(holed).remove([path.name for path in held[::3]]))
    gone = [path.name for path in held[1::3]]
    words = {
        "add": lambda path: ("add", path, scratch / "new", "--device", "cpu"),
        "compact": lambda path: ("compact", path),
        "remove": lambda path: ("remove", path, *gone),
        "retrain": lambda path: ("retrain", path, "--config", settings, "--device", "cpu"),
    }
    run = {
        "add": lambda path: opened(path, extractor).add(scratch / "new"),
        "compact": lambda path: opened(path).compact(),
        "remove": lambda path: opened(path).remove(gone),
        "retrain": lambda path: Collection.retrain(
            path, config=QUICK.replace({"training": {"enabled": True}}), device="cpu"
        ),
    }
    bases = {name: holed if name == "compact" else base for name in words}
    whole = {}
    for name, change in run.items():
        path = Path(shutil.copytree(bases[name], scratch / "whole" / f"{name}.udq"))
        forked(lambda path=path, change=change: change(path))
        whole[name] = answers(opened(path))
    return bases, words, whole


def _states(path: Path, name: str, words: dict[str, Any], scratch: Path) -> set[str]:
    """Return the answers after each batch of an add."""
    if name != "add":
        return set()
    states = set()
    copy = Path(shutil.copytree(path, scratch / "states.udq"))
    noted = scratch / "states.txt"
    script = (
        f"{small_prelude()}\nimport sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from robustness_common import answers, opened\nfrom udq.store import transaction\nswap = transaction.swap\n"
        "def swapped(path, *rest):\n    swap(path, *rest)\n"
        f"    open({str(noted)!r}, 'a').write(answers(opened(path)) + ' ')\n"
        "transaction.swap = swapped"
    )
    if command(*words[name](copy), prelude=script).returncode == 0:
        states |= set(noted.read_text().split())
    return states


def _fill(filler: Path, left: int) -> None:
    """Fill a disk up to some bytes."""
    free = shutil.disk_usage(filler.parent).free
    filler.write_bytes(bytes(max(0, free - left)))


def _limited(size: int) -> str:
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))"


def read_only(photos: Path, scratch: Path) -> dict[str, Any]:
    """Read a collection on a disk that cannot be written, and try to change it."""
    with small_pieces():
        held = take(photos, 40, scratch / "held")
        new = take(photos, 6, scratch / "new", skip=40)
        path = build(scratch / "held", scratch / "disk" / "photos.udq")
        before, files = answers(opened(path)), _contents(path)
        view = scratch / "view"
        with mounted(view, "--bind", "-o", "ro", str(path.parent)) as real:
            if real:
                place = view / path.name
            else:  # as another user, where this one may do anything
                place = path
                subprocess.run(["chmod", "-R", "a-w", str(path.parent)], check=True)
            try:
                (place / "writable").touch()
                sys.exit(f"{place}: expected a place that cannot be written")
            except OSError:
                pass
            rows, wrong = {}, []
            for words in (("info", place), ("verify", place), ("search", place, held[0], "-k", "3")):
                done = command(*words)
                rows[str(words[0])] = f"exit code {done.returncode}"
                if done.returncode or done.stderr.strip():
                    wrong.append(f"{words[0]}: {done.stderr[-300:]!r}")
            changes: tuple[tuple[object, ...], ...] = (
                ("add", place, *new), ("remove", place, held[0].name), ("compact", place),
                ("verify", place, "--repair"), ("retrain", place),
            )  # fmt: skip
            for words in changes:
                told, line = complaint(done := command(*words))
                rows[" ".join(str(word) for word in words if word in (words[0], "--repair"))] = line.replace(
                    str(scratch), "..."
                )
                if not told:
                    wrong.append(f"{words[0]}: expected one clear line, found {done.stderr[-300:]!r}")
            if answers(opened(place)) != before:
                wrong.append("other answers")
        if not real:
            subprocess.run(["chmod", "-R", "u+w", str(path.parent)], check=True)
        if _contents(path) != files:
            wrong.append("a file has changed")
    for name, said in rows.items():
        print(f"  {name:>15}: {said}", flush=True)
    return {"how": "read-only bind mount" if real else "chmod", "cases": rows, "failures": wrong}


def _contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
