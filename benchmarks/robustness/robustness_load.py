"""What a change to a large collection costs, and reading one that is being changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from robustness_common import (
    answers,
    build,
    command,
    ended,
    fork,
    opened,
    queries,
    small_pieces,
    summary,
    take,
    warmed,
)

from udq.collection import Collection
from udq.config import IndexConfig
from udq.indexing.encode import encode
from udq.indexing.verify import verify
from udq.photos.source import Source
from udq.search.ranking import ranking_by_feature
from udq.store import transaction
from udq.store.segments import PHOTOS, StoredPhoto
from udq.store.transaction import Transaction

UNTRAINED = IndexConfig().replace({"training": {"enabled": False}})
READERS = 8


def add_cost(photos: Path, scratch: Path, count: int, held: int, repeats: int) -> dict[str, Any]:
    """Add ``count`` photos to ten times as many, beside extracting them; remove as many."""
    base_photos = take(photos, held, scratch / "held")
    new = take(photos, count, scratch / "new", skip=held)
    base = build(scratch / "held", scratch / "base.udq", UNTRAINED)
    replicate(base, 10 * count)
    extractor = warmed(UNTRAINED)
    sources = [Source(path.name, path) for path in new]
    for _ in extractor.extract(Source(path.name, path) for path in base_photos[:10]):
        pass  # warm up
    added: list[float] = []
    extracted: list[float] = []
    removed: list[float] = []
    wrong: list[str] = []
    path = scratch / "photos.udq"
    for turn in range(repeats):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(base, path)
        before = ranked(opened(path))
        started = time.perf_counter()
        for _ in extractor.extract(sources):
            pass
        extracted.append(time.perf_counter() - started)
        started = time.perf_counter()
        grown, changes = opened(path, extractor).add(new)
        added.append(time.perf_counter() - started)
        if changes.added != count or len(grown) != 11 * count:
            wrong.append(f"{changes.added} photos added of {count}, {len(grown)} held")
        after = ranked(grown)
        names = set(opened(base).names)
        if any([pair for pair in now if pair[0] in names] != was for was, now in zip(before, after, strict=True)):
            wrong.append("answers about photos that were there changed by adding others")
        gone = grown.names[: 2 * count : 2]
        started = time.perf_counter()
        rest, changes = opened(path).remove(gone)
        removed.append(time.perf_counter() - started)
        left = [[pair for pair in now if pair[0] not in set(gone)] for now in after]
        if changes.removed != count or ranked(rest) != left:
            wrong.append("answers after removing are not those before without what was removed")
        print(f"  extract {extracted[-1]:6.1f} s  add {added[-1]:6.1f} s  remove {removed[-1]:6.3f} s", flush=True)
        if turn + 1 < repeats:
            continue
        started = time.perf_counter()
        done = command("remove", path, *rest.names[:count])
        whole_command = time.perf_counter() - started
        if done.returncode:
            wrong.append(f"udq remove: {done.stderr}")
        wrong += [f"verify: {damage.file}" for damage in verify(path)]
    return {
        "photos": count,
        "held": 10 * count,
        "repeats": repeats,
        "extract_s": summary(extracted),
        "add_s": summary(added),
        "ratio": round(statistics.median(added) / statistics.median(extracted), 3),
        "remove_s": summary(removed),
        "remove_command_s": round(whole_command, 3),
        "failures": wrong,
    }


def replicate(path: Path, photos: int, *, named: str = "copy-{number:06d}/{name}") -> None:
    """Replicate a collection's photos under other names until it has ``photos`` photos."""
    held = opened(path)
    originals = [segment.indexed(row) for segment in held.segments for row in segment.living]
    with Transaction(path) as change:
        entries: list[Any] = list(change.manifest.segments)
        first = change.manifest.next_id
        numbers = range(first, first + photos - len(originals))
        copies = [_again(originals[i % len(originals)], number, named) for i, number in enumerate(numbers)]
        for start in range(0, len(copies), PHOTOS):
            entries.append(change.write(copies[start : start + PHOTOS], codewords=held.model.quantizer.codewords))
        change.commit(entries, {}, next_id=first + len(copies))


def _again(photo: StoredPhoto, number: int, named: str = "copy-{number:06d}/{name}") -> StoredPhoto:
    image = dataclasses.replace(photo.image, id=number, name=named.format(number=number, name=photo.image.name))
    return dataclasses.replace(photo, image=image)


def ranked(collection: Collection) -> list[list[tuple[str, float]]]:
    """Return name and distance of every photo, in order, for each of the fixed queries."""
    names, found = collection.names, []
    for query in queries(collection):
        ranking = ranking_by_feature(collection.database, query)
        found.append([(names[i], float(ranking.distance[i])) for i in ranking.order.tolist()])
    return found


def readers(photos: Path, scratch: Path, minutes: float) -> dict[str, Any]:
    """Change a collection for some minutes while others read it; every answer must be of one committed state."""
    with small_pieces():
        extractor = warmed()
        take(photos, 40, scratch / "held")
        new = take(photos, 30, scratch / "new", skip=40)
        folder = scratch / "mirrored"
        take(photos, 24, folder, skip=70)
        path = build([scratch / "held", folder], scratch / "photos.udq")
        held = opened(path)
        extracted = extractor.extract(Source(f"new/{each.name}", each) for each in new)
        spare = [encode(photo, 0, held.model) for photo in extracted]
        log, until = scratch / "states.txt", time.time() + 60 * minutes
        log.write_text(answers(held) + "\n")
        noted = [scratch / f"reader-{i}.json" for i in range(READERS)]
        children = [fork(lambda i=i: _read(path, log, until, noted[i], seed=i)) for i in range(READERS)]
        changes = scratch / "writer.json"
        writer = fork(lambda: _write(path, log, until, spare, extractor, scratch, changes))
        wrong = [f"reader ended with {status}" for child in children if (status := ended(child))]
        if status := ended(writer):
            wrong.append(f"the writer ended with {status}")
        wrong += [f"verify: {damage.file}" for damage in verify(path)]
    facts = [json.loads(file.read_text()) for file in noted if file.exists()]
    kinds = sum((Counter(each["kinds"]) for each in facts), Counter())
    for each in facts:
        wrong += each["errors"]
    states = set(log.read_text().split())
    written = json.loads(changes.read_text()) if changes.exists() else {}
    return {
        "minutes": minutes,
        "readers": READERS,
        "reads": kinds.total(),
        "by_kind": dict(kinds),
        "states_committed": len(states),
        "states_seen": len({state for each in facts for state in each["seen"]}),
        "changes": written,
        "failures": wrong,
    }


def _write(
    path: Path, log: Path, until: float, spare: Sequence[StoredPhoto], extractor: Any, scratch: Path, noted: Path
) -> None:
    """Change a collection repeatedly; readers get the answers of a state before it is committed."""
    swap, count = transaction.swap, Counter[str]()

    def announced(place: Path, manifest: Any, before: Any) -> None:
        coming = opened(place)
        coming.manifest = manifest
        with log.open("a") as file:
            file.write(answers(coming) + "\n")
        swap(place, manifest, before)

    transaction.swap = announced
    rng = np.random.default_rng(1)
    change = 0
    while time.time() < until:
        held = opened(path, extractor)
        kind = ("add", "remove", "sync", "add", "remove", "compact")[change % 6]
        change += 1
        if kind == "add":
            _append(path, [spare[i] for i in rng.permutation(len(spare))[:8]], held.model.quantizer.codewords)
        elif kind == "remove" and len(held) > 30:
            names = [name for name in held.names if not name.startswith(("0", "re"))]
            held.remove([str(name) for name in rng.permutation(names or held.names)[:7]])
        elif kind == "sync":
            _shuffle(scratch / "mirrored", scratch / "new", rng)
            held.add([scratch / "held", scratch / "mirrored"], sync=True)
        elif kind == "compact":
            held.compact()
        count[kind] += 1
    noted.write_text(json.dumps(count))


def _append(path: Path, photos: Sequence[StoredPhoto], codewords: int) -> None:
    """Add photos that were extracted before."""
    with Transaction(path) as change:
        first = change.manifest.next_id
        removed = opened(path)
        lost = {
            segment.images[row].id: int(np.diff(segment.offsets)[row])
            for segment in removed.segments
            for row in np.flatnonzero(segment.removed)
        }
        entry = change.write([_again(photo, first + i) for i, photo in enumerate(photos)], codewords=codewords)
        change.commit([*change.manifest.segments, entry], lost, next_id=first + len(photos))


def _shuffle(folder: Path, new: Path, rng: np.random.Generator) -> None:
    """Rename, change, delete and add a photo or two of a folder."""
    files = sorted(folder.iterdir())
    one, other, third = (files[int(i)] for i in rng.permutation(len(files))[:3])
    one.rename(folder / f"renamed-{rng.integers(10**9):09d}.jpg")
    source = sorted(new.iterdir())[int(rng.integers(30))]
    shutil.copy(source, other)
    if len(files) > 20:
        third.unlink()
    else:
        shutil.copy(source, folder / f"renamed-{rng.integers(10**9):09d}.jpg")


def _read(path: Path, log: Path, until: float, noted: Path, *, seed: int) -> None:
    """Open, refresh and search a collection that others change."""
    rng, kinds, errors = np.random.default_rng(seed), Counter[str](), []
    known: set[str] = set()
    seen: set[str] = set()
    held = opened(path)
    before = answers(held)
    while time.time() < until:
        kind = ("open", "refresh", "again")[int(rng.integers(3))]
        try:
            if kind != "again":
                held = opened(path) if kind == "open" else held.refreshed()
            if rng.random() < 0.3:
                time.sleep(float(rng.uniform(0, 0.05)))  # opened, and not looked into yet
            state = answers(held)
            kinds[kind] += 1
            seen.add(state)
            if state not in known:
                known = set(log.read_text().split())
            if state not in known:
                errors.append(f"{kind}: answers are of no committed state")
            if kind == "again" and state != before:
                errors.append("again: a collection that is held open answers otherwise")
            before = state
        except Exception:  # whatever it is, it is what this looks for
            errors.append(f"{kind}: {traceback.format_exc()}")
    noted.write_text(json.dumps({"kinds": kinds, "errors": errors[:20], "seen": sorted(seen), "pid": os.getpid()}))
