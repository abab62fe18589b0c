# ruff: noqa: D102 -- Engine says what the methods of its subclasses do
"""Which storage serves a collection: plain segments, SQLite, Lance and LMDB with the same photos.

    python benchmarks/storage.py [--photos 10000] [--wheels FOLDER] [--json OUT]

A photo has about 100 regions (8 bytes of code and 8 of box each), a name, a folder, a size, a digest, a time and an id
that never changes. Codes are those of a few objects a photo with noise; all engines hold the same. Each step runs in a
process of its own. udq needs neither Lance nor LMDB: an engine whose package is missing (``pip install pylance lmdb``)
is a row that says so. ``--wheels`` is a folder where ``pip download pylance lmdb`` has put its wheels, for their sizes.
Linux only: it reads /proc, and asks the file system which bytes have not reached the disk yet.

Killing a process does not cut the power: what was written but not flushed survives the first and not the second.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udq.common import files as disk_files
from udq.common.provenance import provenance
from udq.store import builder
from udq.store import manifest as manifests

BATCH = 4096
"""Photos of a segment, and of a transaction while a collection is built."""

SUBSPACES, CODEWORDS, OBJECTS = 8, 256, 2000
REPEATS, FLIPS, KILLS = 5, 200, 20
LARGER = 10
"""How many times larger the collection is that is opened and scanned once more."""

FEWER = 1000
"""Photos of the collections that are damaged or killed over and over."""


# --- photos ---


@dataclass(frozen=True)
class Photos:
    """N photos and their G regions, in the order of ids."""

    ids: NDArray[np.int64]
    names: Sequence[str]
    roots: Sequence[str]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    mtimes: NDArray[np.int64]
    counts: NDArray[np.int64]
    codes: NDArray[np.uint8]
    boxes: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The regions of photo i are rows offsets[i] to offsets[i+1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    def where(self, kept: NDArray[np.bool_]) -> Photos:
        """The photos with True in (N,) ``kept``."""
        rows = np.repeat(kept, self.counts)
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                found[each.name] = value[rows if each.name in ("codes", "boxes") else kept]
            else:
                found[each.name] = [value[i] for i in np.flatnonzero(kept)]
        return Photos(**found)

    def fingerprint(self) -> str:
        """A checksum of everything that is held about these photos."""
        whole = hashlib.sha256(json.dumps([list(self.names), list(self.roots)]).encode())
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                whole.update(np.ascontiguousarray(value).tobytes())
        return whole.hexdigest()


def joined(parts: Iterable[Photos]) -> Photos:
    """All photos of some parts, in the order of ids."""
    listed = list(parts)
    found: dict[str, Any] = {}
    for each in fields(Photos):
        values = [getattr(part, each.name) for part in listed]
        arrays = isinstance(values[0], np.ndarray)
        found[each.name] = np.concatenate(values) if arrays else [name for value in values for name in value]
    return Photos(**found)


def photos(first: int, count: int) -> Photos:
    """Make photos with ids from ``first`` on: the same ones every time."""
    objects = np.random.default_rng(0).integers(0, CODEWORDS, (OBJECTS, SUBSPACES), dtype=np.uint8)
    rng = np.random.default_rng([1, first])
    counts = rng.integers(80, 121, count)
    shown = np.repeat(rng.integers(0, OBJECTS, (count, 10)), counts, axis=0)
    codes = objects[shown[np.arange(len(shown)), rng.integers(0, 10, len(shown))]]
    noise = rng.random(codes.shape) < 0.5
    codes[noise] = rng.integers(0, CODEWORDS, int(noise.sum()), dtype=np.uint8)
    low = rng.integers(0, 900, (len(codes), 2))
    ids = np.arange(first, first + count)
    return Photos(
        ids=ids,
        names=[f"2024-{i % 12 + 1:02d}/IMG_{i:06d}.jpg" for i in ids],
        roots=["/home/someone/Pictures"] * count,
        sizes=np.tile(np.array([1600, 1200]), (count, 1)),
        digests=rng.integers(0, 256, (count, 16), dtype=np.uint8),
        mtimes=1_700_000_000_000_000_000 + rng.integers(0, 10**16, count),
        counts=counts,
        codes=codes,
        boxes=np.concatenate([low, low + rng.integers(20, 300, low.shape)], axis=1).astype(np.uint16),
    )


def batches(total: int) -> Iterator[Photos]:
    """The photos that a collection is built with."""
    for first in range(0, total, BATCH):
        yield photos(first, min(BATCH, total - first))


def removed_ids(total: int, count: int) -> NDArray[np.int64]:
    """Which photos are removed: anywhere among those the collection was built with."""
    return np.sort(np.random.default_rng(2).choice(total, count, replace=False))


# --- engines ---


@dataclass(frozen=True)
class Scannable:
    """What a scan needs.

    codes: (G, 8) uint8 of each part.
    offsets: (N+1,) int64 of each part.
    kept: (N,) of each part, False where the photo was removed; None where none was.
    holds: what the arrays live in.
    """

    codes: list[NDArray[np.uint8]]
    offsets: list[NDArray[np.int64]]
    kept: list[NDArray[np.bool_] | None]
    holds: object = None


class Engine:
    """A storage. Every change is one step that is whole or not at all, and asked to be on the disk when it returns."""

    name: str
    module: str = "numpy"
    package: str | None = None

    def append(self, path: Path, added: Photos) -> None:
        """Add photos; makes the collection where there is none."""
        raise NotImplementedError

    def remove(self, path: Path, ids: NDArray[np.int64]) -> None:
        """Remove the photos of (N,) ids."""
        raise NotImplementedError

    def scannable(self, path: Path) -> Scannable:
        """Open the collection as far as a scan needs it."""
        raise NotImplementedError

    def contents(self, path: Path) -> Photos:
        """Read everything."""
        raise NotImplementedError

    def sound(self, path: Path) -> bool | None:
        """What the engine's own check of everything says; None where it has none."""
        return None


class Segments(Engine):
    """Arrays of up to 4,096 photos under names; removing is a list of ids. Subclasses keep named values."""

    def put(self, path: Path, values: Mapping[str, bytes]) -> None:
        """Keep all of these values, in place of those of the same names, or none."""
        raise NotImplementedError

    def get(self, path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], object]:
        """Values whose names end in one of ``wanted``, as arrays or parsed JSON, and what they live in."""
        raise NotImplementedError

    def release(self, holds: Any) -> None:
        """Close what ``get`` returned; its arrays must not be read any more."""

    def append(self, path: Path, added: Photos) -> None:
        number = 1
        if path.exists():
            found, holds = self.get(path, ["ids.npy"])
            number += len(found)
            self.release(holds)
        listed = {
            "names": list(added.names),
            "roots": list(added.roots),
            "sizes": added.sizes.tolist(),
            "digests": [row.tobytes().hex() for row in added.digests],
            "mtimes": added.mtimes.tolist(),
        }
        values = {
            "codes.npy": _npy(added.codes),
            "boxes.npy": _npy(added.boxes),
            "offsets.npy": _npy(added.offsets),
            "ids.npy": _npy(added.ids),
            "images.json": json.dumps(listed, ensure_ascii=False).encode(),
        }
        self.put(path, {f"{number:06d}/{name}": value for name, value in values.items()})

    def remove(self, path: Path, ids: NDArray[np.int64]) -> None:
        found, holds = self.get(path, ["removed.npy"])
        removed = np.union1d(found.get("removed.npy", ids), ids)
        self.release(holds)
        self.put(path, {"removed.npy": _npy(removed)})

    def scannable(self, path: Path) -> Scannable:
        found, holds = self.get(path, ["codes.npy", "offsets.npy", "ids.npy", "removed.npy"])
        parts = Scannable([], [], [], holds)
        for folder, kept in self._kept(found):
            parts.codes.append(found[f"{folder}/codes.npy"])
            parts.offsets.append(found[f"{folder}/offsets.npy"])
            parts.kept.append(kept)
        return parts

    def contents(self, path: Path) -> Photos:
        found, holds = self.get(path, [""])
        try:
            return self._photos(found)
        finally:
            self.release(holds)

    def _photos(self, found: Mapping[str, Any]) -> Photos:
        parts = []
        for folder, kept in self._kept(found):
            listed, offsets = found[f"{folder}/images.json"], found[f"{folder}/offsets.npy"]
            codes, boxes = found[f"{folder}/codes.npy"], found[f"{folder}/boxes.npy"]
            if not (offsets[0] == 0 and offsets[-1] == len(codes) == len(boxes) and (np.diff(offsets) >= 1).all()):
                raise ValueError("files disagree about the number of regions")  # as storage.read_segments does
            part = Photos(
                ids=found[f"{folder}/ids.npy"],
                names=listed["names"],
                roots=listed["roots"],
                sizes=np.array(listed["sizes"]),
                digests=np.frombuffer(bytes.fromhex("".join(listed["digests"])), np.uint8).reshape(-1, 16),
                mtimes=np.array(listed["mtimes"]),
                counts=np.diff(offsets),
                codes=codes,
                boxes=boxes,
            )
            parts.append(part.where(np.ones(len(part), bool) if kept is None else kept))
        return joined(parts)

    @staticmethod
    def _kept(found: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
        removed = found.get("removed.npy")
        for name in sorted(name for name in found if name.endswith("/ids.npy")):
            yield name.split("/")[0], None if removed is None else ~np.isin(found[name], removed)


class Files(Segments):
    """As udq keeps them: a file each, flushed, then a manifest with their checksums replaced in one step."""

    name = "plain segments"

    def put(self, path: Path, values: Mapping[str, bytes]) -> None:
        path.mkdir(exist_ok=True)
        manifest = self._manifest(path) if (path / manifests.MANIFEST).exists() else {"change": 0, "files": {}}
        manifest["change"] += 1
        folders = {path}
        for name, data in values.items():
            # What the manifest names is never written again, so a list that is replaced gets a new number.
            file = path / (name if "/" in name else name.replace(".", f"-{manifest['change']:06d}."))
            if file.parent not in folders:
                file.parent.mkdir(exist_ok=True)
                folders.add(file.parent)
            builder.write_whole(file, data)
            facts = {"bytes": len(data), "sha256": disk_files.checksum(data)}
            manifest["files"][name] = {"file": file.relative_to(path).as_posix(), **facts}
        for folder in folders:
            _flush(folder)
        manifest["sha256"] = manifests.document_sum(manifest)
        builder.write_whole(path / manifests.MANIFEST, json.dumps(manifest, indent=1).encode())
        _flush(path)

    def get(self, path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], object]:
        found: dict[str, Any] = {}
        for name, facts in self._manifest(path)["files"].items():
            if name.endswith(tuple(wanted)):
                file = path / facts["file"]
                if file.stat().st_size != facts["bytes"]:
                    raise ValueError(f"{file}: {facts['bytes']} bytes expected")
                mapped = name.endswith(("codes.npy", "boxes.npy"))
                if name.endswith(".npy"):
                    found[name] = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
                else:
                    found[name] = json.loads(file.read_bytes())
        return found, None

    def sound(self, path: Path) -> bool:
        """What ``udq verify`` does."""
        try:
            files = self._manifest(path)["files"].values()
            return all(disk_files.checksum((path / each["file"]).read_bytes()) == each["sha256"] for each in files)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def _manifest(path: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((path / manifests.MANIFEST).read_bytes())
        if document["sha256"] != manifests.document_sum(document):
            raise ValueError("the manifest is damaged")
        return document


@contextlib.contextmanager
def sqlite(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Open a database in a folder; what is done inside is one transaction that is on the disk when it ends."""
    path.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path / "collection.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.execute(f"CREATE TABLE IF NOT EXISTS {schema}")
            yield database


class Sqlite(Engine):
    """A row a photo, with blobs of its codes and boxes."""

    name, module = "SQLite, a row a photo", "sqlite3"
    schema = (
        "photos (id INTEGER PRIMARY KEY, name TEXT, root TEXT, width INTEGER, height INTEGER, digest BLOB, "
        "mtime INTEGER, codes BLOB, boxes BLOB)"
    )

    def append(self, path: Path, added: Photos) -> None:
        offsets = added.offsets.tolist()
        rows = (
            (int(added.ids[i]), added.names[i], added.roots[i], *added.sizes[i].tolist(), added.digests[i].tobytes(),
             int(added.mtimes[i]), added.codes[begin:end].tobytes(), added.boxes[begin:end].tobytes())
            for i, (begin, end) in enumerate(pairwise(offsets))
        )  # fmt: skip
        with sqlite(path, self.schema) as database:
            database.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def remove(self, path: Path, ids: NDArray[np.int64]) -> None:
        with sqlite(path, self.schema) as database:
            database.executemany("DELETE FROM photos WHERE id = ?", ((each,) for each in ids.tolist()))

    def scannable(self, path: Path) -> Scannable:
        with sqlite(path, self.schema) as database:
            blobs = [row[0] for row in database.execute("SELECT codes FROM photos ORDER BY id")]
        codes = np.frombuffer(b"".join(blobs), np.uint8).reshape(-1, SUBSPACES)
        offsets = np.concatenate([[0], np.cumsum([len(blob) // SUBSPACES for blob in blobs])]).astype(np.int64)
        return Scannable([codes], [offsets], [None])

    def contents(self, path: Path) -> Photos:
        with sqlite(path, self.schema) as database:
            rows = list(zip(*database.execute("SELECT * FROM photos ORDER BY id"), strict=True))
        ids, names, roots, widths, heights, digests, mtimes, codes, boxes = rows
        return _from_blobs(ids, names, roots, np.stack([widths, heights], axis=1), digests, mtimes, codes, boxes)

    def sound(self, path: Path) -> bool:
        return _integrity(path, self.schema)


class SqliteSegments(Segments):
    """The arrays of segments as blobs of a table."""

    name, module = "SQLite, a row an array", "sqlite3"
    schema = "arrays (name TEXT PRIMARY KEY, value BLOB)"

    def put(self, path: Path, values: Mapping[str, bytes]) -> None:
        with sqlite(path, self.schema) as database:
            database.executemany("INSERT OR REPLACE INTO arrays VALUES (?, ?)", values.items())

    def get(self, path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], object]:
        found = {}
        with sqlite(path, self.schema) as database:
            for (name,) in database.execute("SELECT name FROM arrays").fetchall():
                if name.endswith(tuple(wanted)):
                    row = database.execute("SELECT value FROM arrays WHERE name = ?", (name,)).fetchone()
                    found[name] = _parsed(name, row[0])
        return found, None

    def sound(self, path: Path) -> bool:
        return _integrity(path, self.schema)


class Lmdb(Segments):
    """The arrays of segments as values; read where they lie in the mapped file."""

    name, module, package = "LMDB, a value an array", "lmdb", "lmdb"

    def _open(self, path: Path, **options: Any) -> Any:
        import lmdb

        return lmdb.open(str(path), map_size=1 << 34, **options)

    def put(self, path: Path, values: Mapping[str, bytes]) -> None:
        with self._open(path) as environment, environment.begin(write=True) as transaction:
            for name, value in values.items():
                transaction.put(name.encode(), value)

    def get(self, path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], object]:
        environment = self._open(path, readonly=True)
        try:
            transaction = environment.begin(buffers=True)
            found = {
                name: _parsed(name, value)
                for name, value in ((bytes(key).decode(), value) for key, value in transaction.cursor())
                if name.endswith(tuple(wanted))
            }
        except BaseException:
            environment.close()  # or this process could not open it again
            raise
        return found, (environment, transaction)

    def release(self, holds: Any) -> None:
        environment, transaction = holds
        transaction.abort()
        environment.close()


class Lance(Engine):
    """A row a photo, with binary columns of its codes and boxes; an append is a fragment, a removal a mask.

    Lists of fixed-size binaries say more about the content, but took longer to read than these.
    """

    name, module, package = "Lance, a row a photo", "lance", "pylance"

    def append(self, path: Path, added: Photos) -> None:
        import lance
        import pyarrow as pa

        def blobs(rows: NDArray[Any], offsets: NDArray[np.int64]) -> Any:
            ends = (offsets * rows[0].nbytes).astype(np.int64)
            content = pa.py_buffer(np.ascontiguousarray(rows))
            return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(added), [None, pa.py_buffer(ends), content])

        table = pa.table(
            {
                "id": added.ids,
                "name": added.names,
                "root": added.roots,
                "width": added.sizes[:, 0],
                "height": added.sizes[:, 1],
                "digest": pa.array([row.tobytes() for row in added.digests], pa.binary(16)),
                "mtime": added.mtimes,
                "codes": blobs(added.codes, added.offsets),
                "boxes": blobs(added.boxes, added.offsets),
            }
        )
        lance.write_dataset(table, str(path), mode="append" if path.exists() else "create")

    def remove(self, path: Path, ids: NDArray[np.int64]) -> None:
        import lance

        lance.dataset(str(path)).delete(f"id IN ({', '.join(map(str, ids.tolist()))})")

    def scannable(self, path: Path) -> Scannable:
        import lance

        table = lance.dataset(str(path)).to_table(columns=["codes"])
        parts = Scannable([], [], [], table)
        for chunk in table.column("codes").chunks:
            _, ends, content = chunk.buffers()
            ends = np.frombuffer(ends, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            codes = np.frombuffer(content, np.uint8)[ends[0] : ends[-1]]
            parts.codes.append(codes.reshape(-1, SUBSPACES))
            parts.offsets.append((ends - ends[0]) // SUBSPACES)
            parts.kept.append(None)
        return parts

    def contents(self, path: Path) -> Photos:
        import lance

        table = lance.dataset(str(path)).to_table().sort_by("id")
        named = {name: table.column(name).to_pylist() for name in table.column_names}
        sizes = np.stack([named["width"], named["height"]], axis=1)
        rest = (named[name] for name in ("digest", "mtime", "codes", "boxes"))
        return _from_blobs(named["id"], named["name"], named["root"], sizes, *rest)

    def sound(self, path: Path) -> bool:
        import lance

        try:
            lance.dataset(str(path)).validate()
        except Exception:
            return False
        return True


ENGINES: dict[str, Engine] = {each.name: each for each in (Files(), Sqlite(), SqliteSegments(), Lance(), Lmdb())}


def _from_blobs(
    ids: Any, names: Any, roots: Any, sizes: Any, digests: Any, mtimes: Any, codes: Any, boxes: Any
) -> Photos:
    """Photos from a row each."""
    counts = np.array([len(blob) // SUBSPACES for blob in codes])
    if not (counts == [len(blob) // 8 for blob in boxes]).all():
        raise ValueError("codes and boxes disagree about the number of regions")
    return Photos(
        ids=np.array(ids),
        names=names,
        roots=roots,
        sizes=sizes,
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
        mtimes=np.array(mtimes),
        counts=counts,
        codes=np.frombuffer(b"".join(codes), np.uint8).reshape(-1, SUBSPACES),
        boxes=np.frombuffer(b"".join(boxes), np.uint16).reshape(-1, 4),
    )


def _integrity(path: Path, schema: str) -> bool:
    try:
        with sqlite(path, schema) as database:
            return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except (sqlite3.Error, ValueError):
        return False


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _parsed(name: str, value: Any) -> Any:
    """An array over the bytes of an .npy file, without copying them, or the content of a .json file."""
    if name.endswith(".json"):
        return json.loads(bytes(value))
    head = io.BytesIO(bytes(value[:256]))
    np.lib.format.read_magic(head)
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    return np.frombuffer(value, dtype, offset=head.tell()).reshape(shape)


# --- the disk ---


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_all(path: Path) -> None:
    """Make all of a folder reach the disk."""
    for each in (*files(path), *(folder for folder in path.rglob("*") if folder.is_dir()), path):
        _flush(each)


def forget(path: Path) -> None:
    """Make the next reading of a folder come from the disk."""
    flush_all(path)
    for file in files(path):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def unflushed(path: Path) -> int | None:
    """Bytes of new blocks that are in memory only; None where the file system does not say."""
    extents_at_most, head = 512, struct.Struct("=QQIIII")
    extent, delayed, fiemap = struct.Struct("=QQQQQIIII"), 0x4, 0xC020660B
    total = 0
    for file in files(path):
        request = bytearray(
            head.pack(0, (1 << 64) - 1, 0, 0, extents_at_most, 0) + bytes(extents_at_most * extent.size)
        )
        try:
            with file.open("rb") as handle:
                fcntl.ioctl(handle.fileno(), fiemap, request)
        except OSError:
            return None
        for i in range(head.unpack_from(request)[3]):
            found = extent.unpack_from(request, head.size + i * extent.size)
            total += found[2] if found[5] & delayed else 0
    return total


def copied(source: Path, target: Path) -> Path:
    """A fresh copy in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


# --- steps, each in a process of its own ---


def memory() -> dict[str, int]:
    """Memory of this process in KiB: VmHWM is the peak, VmRSS now, RssAnon now without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Vm", "Rss"))}


def measured(work: Callable[[], object]) -> dict[str, Any]:
    """Seconds of some work, how far the peak of memory went above what was there before, and what stays."""
    before = memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    after = memory()
    peak, stays = after["VmHWM"] - before["VmRSS"], after["RssAnon"] - before["RssAnon"]
    del result
    return {"seconds": seconds, "peak_mib": peak / 1024, "stays_mib": stays / 1024}


def build(engine: Engine, path: Path, total: int) -> None:
    for batch in batches(total):
        engine.append(path, batch)


def step_build(engine: Engine, path: Path, total: int) -> dict[str, Any]:
    """The photos are made beforehand, so that time and memory are the engine's."""
    importlib.import_module(engine.module)
    made = list(batches(total))
    facts = measured(lambda: [engine.append(path, batch) for batch in made])
    return {**facts, "unflushed": unflushed(path), "bytes": sum(file.stat().st_blocks * 512 for file in files(path))}


def step_append(engine: Engine, path: Path, first: int, count: int) -> dict[str, Any]:
    importlib.import_module(engine.module)
    added = photos(first, count)
    print("ready", flush=True)  # to be killed from here on
    facts = measured(lambda: engine.append(path, added))
    started = time.perf_counter()
    left = unflushed(path)
    flush_all(path)
    return {**facts, "unflushed": left, "flush_seconds": time.perf_counter() - started}


def step_remove(engine: Engine, path: Path, total: int, count: int) -> dict[str, Any]:
    importlib.import_module(engine.module)
    ids = removed_ids(total, count)
    return {**measured(lambda: engine.remove(path, ids)), "unflushed": unflushed(path)}


def step_scan(engine: Engine, path: Path) -> dict[str, Any]:
    """Open a collection that no cache holds, and scan it twice."""
    from udq.search.scan.exhaustive import best_regions

    importlib.import_module(engine.module)
    lookup = np.random.default_rng(3).random((SUBSPACES, CODEWORDS), dtype=np.float32)
    best_regions(lookup, np.zeros((1, SUBSPACES), np.uint8), np.array([0, 1]), threads=1)  # compiles
    opened: list[Scannable] = []
    best: list[NDArray[np.float32]] = []

    def scan() -> None:
        parts = opened[0]
        found = []
        for codes, offsets, kept in zip(parts.codes, parts.offsets, parts.kept, strict=True):
            distance = best_regions(lookup, codes, offsets, threads=1).distance
            found.append(distance if kept is None else distance[kept])
        best[:] = [np.sort(np.concatenate(found))]

    def first() -> None:
        opened.append(engine.scannable(path))
        times.append(time.perf_counter())
        scan()

    times = [time.perf_counter()]
    facts = measured(first)
    started = time.perf_counter()
    scan()
    again = time.perf_counter() - started
    return {
        "open_seconds": times[1] - times[0],
        "open_and_scan_seconds": facts["seconds"],
        "scan_again_seconds": again,
        "peak_mib": facts["peak_mib"],
        "stays_mib": facts["stays_mib"],
        "photos": len(best[0]),
        "distances": hashlib.sha256(best[0].tobytes()).hexdigest(),
    }


def step_contents(engine: Engine, path: Path) -> dict[str, Any]:
    return {"fingerprint": engine.contents(path).fingerprint()}


def step_flips(engine: Engine, path: Path, first: int) -> dict[str, Any]:
    """Read copies with one byte changed, a line a copy, from the ``first`` one on."""
    whole = engine.contents(path).fingerprint()
    places = list(flips(path))
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        for name, position, change in places[first:]:
            signal.alarm(60)  # what hangs dies, and counts as that
            trial = copied(path, Path(scratch, "trial"))
            with (trial / name).open("r+b") as file:
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ change]))
            try:
                same = engine.contents(trial).fingerprint() == whole
                outcome = "unaffected" if same else "different"
            except BaseException as error:  # Rust's panics are no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = "raised"
            print(json.dumps({"flip": outcome, "sound": engine.sound(trial)}), flush=True)
    return {}


def flips(path: Path) -> Iterator[tuple[str, int, int]]:
    """File, position and change of each byte that is flipped, anywhere in the collection."""
    rng = np.random.default_rng(4)
    listed = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in files(path)]
    ends = np.cumsum([size for _, size in listed])
    for _ in range(FLIPS):
        place = int(rng.integers(ends[-1]))
        which = int(np.searchsorted(ends, place, side="right"))
        yield listed[which][0], place - int(ends[which] - listed[which][1]), int(rng.integers(1, 256))


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "build": step_build, "append": step_append, "remove": step_remove, "scan": step_scan,
    "contents": step_contents, "flips": step_flips,
}  # fmt: skip


def start(step: str, engine: str, path: Path, *numbers: int) -> subprocess.Popen[str]:
    work = json.dumps([step, engine, str(path), *numbers])
    command = [sys.executable, __file__, "--step", work]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(step: str, engine: str, path: Path, *numbers: int) -> dict[str, Any]:
    """Do a step in a new process."""
    out, err = (process := start(step, engine, path, *numbers)).communicate()
    if process.returncode:
        raise RuntimeError(f"{engine}: {step}: {err[-2000:]}")
    facts: dict[str, Any] = json.loads(out.splitlines()[-1])
    return facts


# --- measurements ---


@dataclass
class Row:
    """What one engine did; figures are medians of ``REPEATS`` runs."""

    engine: str
    figures: dict[str, Any] = field(default_factory=dict)

    def medians(self, name: str, runs: Sequence[Mapping[str, Any]], *keys: str) -> None:
        """Note figures of some runs of one step."""
        for key in keys:
            values = [each[key] for each in runs]
            self.figures[f"{name}_{key}"] = None if None in values else round(median(values), 5)
            if key.endswith("seconds"):
                self.figures[f"{name}_{key}_range"] = [round(min(values), 5), round(max(values), 5)]


def measure(names: Sequence[str], total: int, change: int, scratch: Path, wheels: Path | None) -> dict[str, Any]:
    """All figures of each engine. They take turns, so that noise of the machine meets all of them."""
    rows = {name: Row(name) for name in names}
    folders = {name: scratch / str(number) for number, name in enumerate(names)}
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for name, folder in folders.items():
        folder.mkdir()
        rows[name].figures |= {"versions": versions(ENGINES[name]), **weight(ENGINES[name], wheels)}
    for _ in range(REPEATS):
        for name, folder in folders.items():
            shutil.rmtree(folder / "built", ignore_errors=True)
            runs[name, "import"].append(imported(ENGINES[name].module))
            runs[name, "build"].append(run("build", name, folder / "built", total))
            changed = copied(folder / "built", folder / "changed")
            flush_all(changed)
            runs[name, "append"].append(run("append", name, changed, total, change))
            runs[name, "remove"].append(run("remove", name, changed, total, change))
            forget(changed)
            runs[name, "scan"].append(run("scan", name, changed))
    kept = joined([*batches(total), photos(total, change)])
    held = kept.where(~np.isin(kept.ids, removed_ids(total, change))).fingerprint()
    for name, folder in folders.items():
        if run("contents", name, folder / "changed")["fingerprint"] != held:
            raise RuntimeError(f"{name}: does not hold what was put in")
        runs[name, "large_build"].append(run("build", name, folder / "large", LARGER * total))
    for _ in range(REPEATS):
        for name, folder in folders.items():
            forget(folder / "large")
            runs[name, "large_scan"].append(run("scan", name, folder / "large"))
    regions = sum(int(batch.counts.sum()) for batch in batches(total))
    scans = ("open_seconds", "open_and_scan_seconds", "scan_again_seconds", "peak_mib", "stays_mib")
    for name, row in rows.items():
        row.medians("import", runs[name, "import"], "seconds", "mib")
        row.medians("build", runs[name, "build"], "seconds", "peak_mib", "unflushed", "bytes")
        row.medians("append", runs[name, "append"], "seconds", "unflushed", "flush_seconds", "peak_mib")
        row.medians("remove", runs[name, "remove"], "seconds", "unflushed")
        row.medians("scan", runs[name, "scan"], *scans)
        row.medians("large_build", runs[name, "large_build"], "seconds", "peak_mib")
        row.medians("large_scan", runs[name, "large_scan"], *scans)
        row.figures["bytes_per_region"] = round(row.figures["build_bytes"] / regions, 2)
    for step in ("scan", "large_scan"):
        if len({each["distances"] for name in names for each in runs[name, step]}) > 1:
            raise RuntimeError("the engines' scans differ")
    for name, row in rows.items():
        small, count = folders[name] / "small", min(FEWER, total)
        build(ENGINES[name], small, count)
        row.figures["flips"] = flipped(name, small)
        row.figures["kills"] = killed(name, small, count, change)
    return {name: row.figures for name, row in rows.items()}


def imported(module: str) -> dict[str, float]:
    """What importing takes where NumPy is there already."""
    code = f"""
import json, pathlib, re, time
import numpy
def resident(): return int(re.search(r"VmRSS:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before, started = resident(), time.perf_counter()
import {module}
print(json.dumps({{"seconds": time.perf_counter() - started, "mib": (resident() - before) / 1024}}))
"""
    found: dict[str, float] = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )
    return found


def flipped(name: str, path: Path) -> dict[str, int]:
    """Count what reading everything did with one byte changed, and how often the engine's check saw it."""
    found: list[tuple[str, bool | None]] = []
    while len(found) < FLIPS:
        process = start("flips", name, path, len(found))
        out, err = process.communicate()
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"flip"')]
        found += [(each["flip"], each["sound"]) for each in lines]
        if process.returncode > 0 or (not process.returncode and len(found) < FLIPS):
            raise RuntimeError(f"{name}: flips: {err[-2000:]}")
        if process.returncode < 0:  # died of a signal: reading took the whole process with it
            found.append(("crashed", None))
    counts: dict[str, int] = dict.fromkeys(("raised", "crashed", "different", "unaffected"), 0)
    counts |= Counter(outcome for outcome, _ in found)
    checks = ENGINES[name].sound(path) is not None
    counts["checked"] = sum(sound is False for _, sound in found) if checks else 0
    counts["different_and_check_passed"] = sum(each == "different" and sound is not False for each, sound in found)
    return counts


def killed(name: str, path: Path, total: int, change: int) -> dict[str, int]:
    """Kill appends part of the way through, and count what is there afterwards and whether the next append works."""
    trial = path.with_name("killed")
    made = list(batches(total))
    states = {joined(made).fingerprint(): "old", joined([*made, photos(total, change)]).fingerprint(): "new"}
    new = next(key for key, state in states.items() if state == "new")
    usual = median(run("append", name, copied(path, trial), total, change)["seconds"] for _ in range(3))
    counts = {"old": 0, "new": 0, "broken": 0, "goes_on": 0}
    for kill in range(KILLS):
        flush_all(copied(path, trial))
        process = start("append", name, trial, total, change)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(usual * (kill + 0.5) / KILLS)
        process.kill()
        process.communicate()
        try:
            state = states.get(run("contents", name, trial)["fingerprint"], "broken")
        except RuntimeError:
            state = "broken"
        counts[state] += 1
        with contextlib.suppress(RuntimeError):
            if state == "old":
                run("append", name, trial, total, change)
            counts["goes_on"] += run("contents", name, trial)["fingerprint"] == new
    return counts


def needed(package: str) -> set[str]:
    """Names of a package and of all it needs, as far as they are installed."""
    found: set[str] = set()
    todo = [package]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        todo += [re.split(r"[^\w.-]", each)[0] for each in wanted if "extra ==" not in each.replace("'", '"')]
    return found


def weight(engine: Engine, wheels: Path | None) -> dict[str, Any]:
    """What a user must download and keep beyond what udq needs anyway."""
    names = needed(engine.package) - needed("udq") if engine.package else set()
    installed = sum(
        Path(str(file.locate())).stat().st_size
        for name in names
        for file in importlib.metadata.files(name) or ()
        if Path(str(file.locate())).is_file()
    )
    facts: dict[str, Any] = {"packages": sorted(names), "installed_mb": round(installed / 1e6, 1)}
    if wheels or not names:
        found = {
            re.sub(r"[-_.]+", "-", file.name.split("-")[0]).lower(): file for file in (wheels or Path()).glob("*.whl")
        }
        facts["download_mb"] = round(sum(found[name].stat().st_size for name in names) / 1e6, 1)
    return facts


def versions(engine: Engine) -> dict[str, str]:
    if engine.module == "sqlite3":
        return {"sqlite": sqlite3.sqlite_version}
    return {engine.package: importlib.metadata.version(engine.package)} if engine.package else {}


def main() -> None:
    """Print a few lines an engine; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--folder", type=Path, help="where to measure; it should lie on a disk, not in memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, name, path, *numbers = json.loads(arguments.step)
        print(json.dumps(STEPS[step](ENGINES[name], Path(path), *numbers)))
        return
    total = arguments.photos
    change = max(1, total // 10)
    found = []
    for name, engine in ENGINES.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(engine.module)
            found.append(name)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        measured_rows = measure(found, total, change, Path(scratch), arguments.wheels)
    rows = {name: measured_rows.get(name, {"missing": engine.package}) for name, engine in ENGINES.items()}
    line = (
        "{name:24} build {build_seconds:.2f} s  append {append_seconds:.3f} s  remove {remove_seconds:.3f} s  "
        "open and scan {scan_open_and_scan_seconds:.3f} s  {bytes_per_region} bytes a region\n  {flips}\n  {kills}"
    )
    for name, row in rows.items():
        missing = f"{name:24} not installed: pip install {row.get('missing')}"
        print(missing if "missing" in row else line.format(name=name, **row))
    if arguments.json:
        setting = {
            "photos": total,
            "changed": change,
            "large": LARGER * total,
            "damaged_photos": min(FEWER, total),
            "repeats": REPEATS,
        }
        setting |= {"flips": FLIPS, "kills": KILLS}
        facts = {"setting": setting, "rows": rows, "provenance": provenance(seed=0)}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
