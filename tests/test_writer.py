"""A build that stops half-way goes on from there, and ends with the same collection."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from test_storage import SEGMENTS, read, small_model, write

from udq import Collection, index, storage, writer
from udq.config import IndexConfig
from udq.errors import ImageError, InputError, UdqError
from udq.types import Regions


def put(made, number):
    codes, counts, names = SEGMENTS[number]
    boxes = np.tile(np.array([[0.0, 0.4, 99.6, 80.0]], np.float32), (len(codes), 1))
    found = [storage.Image(name, "/photos/", 100, 80) for name in names]
    made.put_segment(codes, Regions(boxes), counts, found, done=sum(len(SEGMENTS[i][2]) for i in range(number + 1)))


def stop_after_one_segment(path, fingerprint="one", error=KeyboardInterrupt):
    def build():
        with writer.Writer(path, fingerprint=fingerprint) as made:
            made.put_model(small_model(), training={"stopped": None})
            put(made, 0)
            raise error

    with pytest.raises(error):
        build()


def contents(path):
    """Every file but the manifest, which holds the time."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "collection.json"
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, UdqError])
def test_what_is_done_is_kept_and_not_done_again(tmp_path, error):
    stop_after_one_segment(tmp_path / "x.udq", error=error)
    assert [entry.name for entry in tmp_path.iterdir()] == [".x.udq.partial"]

    with writer.Writer(tmp_path / "x.udq", fingerprint="one") as made:
        assert (made.has_model, made.done) == (True, 2)
        assert made.read_model().to_bytes() == small_model().to_bytes()
        put(made, 1)
        made.commit(IndexConfig(), weights=None, broken=[])

    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]
    assert contents(tmp_path / "x.udq") == contents(write(tmp_path / "y.udq"))
    assert len(read(tmp_path / "x.udq")) == 2


def test_another_build_of_the_same_name_starts_anew(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    with writer.Writer(tmp_path / "x.udq", fingerprint="two") as made:
        assert (made.has_model, made.done) == (False, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_rest_is_not_gone_on_from(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    (tmp_path / ".x.udq.partial" / "segments" / "000001" / "codes.npy").write_bytes(b"short")
    with writer.Writer(tmp_path / "x.udq", fingerprint="one") as made:
        assert made.done == 0


@pytest.mark.parametrize("error", [InputError, ImageError])
def test_an_error_that_would_come_again_leaves_nothing(tmp_path, error):
    stop_after_one_segment(tmp_path / "x.udq", error=error)
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_name_do_not_meet(tmp_path):
    with writer.Writer(tmp_path / "x.udq", fingerprint="one"):
        other = filelock.FileLock(tmp_path / ".x.udq.partial" / "lock")
        with pytest.raises(filelock.Timeout):
            other.acquire(timeout=0)
        with pytest.raises(InputError, match="another udq is building it"):
            writer.Writer(tmp_path / "x.udq", fingerprint="one")


def test_what_replaces_a_collection_appears_at_once_and_the_old_files_go(tmp_path):
    path = write(tmp_path / "x.udq")
    old = storage.read_manifest(path)
    opened = read(path)
    with writer.Writer(path, fingerprint="three", replaces=old) as made:
        made.put_model(small_model(), backbone={"weight": np.ones(3, np.float32)})
        put(made, 1)
        assert storage.damaged(path, storage.read_manifest(path)) == []
        made.commit(IndexConfig(), weights=None, broken=[])
    new = storage.read_manifest(path)

    assert sorted(contents(path)) == sorted(storage.files_of(new))
    assert not set(contents(path)) & set(storage.files_of(old))
    assert storage.damaged(path, new) == []
    assert new.images == 1
    assert storage.read_backbone(path, new)["weight"].tolist() == [1, 1, 1]
    assert (opened[0].codes == SEGMENTS[0][0].values).all()  # whoever had it open goes on
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for copy in range(6):
        shutil.copytree(photos, folder / str(copy))
    return folder


def command(folder, output):
    return [
        sys.executable,
        "-c",
        "from udq import index; from udq.cli import main; index._SPOOL_PHOTOS = 16; index._SEGMENT_PHOTOS = 16; main()",
        "index",
        str(folder),
        "-o",
        str(output),
    ]


def test_a_build_that_is_killed_goes_on_and_ends_with_the_same_codes(many, tmp_path, monkeypatch):
    output, partial = tmp_path / "x.udq", tmp_path / ".x.udq.partial"
    for landmark in ("scratch/photos-000002.npz", "scratch/training.npz", "segments/000002/images.json"):
        process = subprocess.Popen(command(many, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 90
        while not (partial / landmark).exists() and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (partial / landmark).exists()
        assert not output.exists()
    monkeypatch.setattr(index, "_SEGMENT_PHOTOS", 16)
    passed = []
    build = index.Extractor.extract

    def extract(self, sources):
        for photo in build(self, sources):
            passed.append(photo.source.name)
            yield photo

    monkeypatch.setattr(index.Extractor, "extract", extract)
    resumed = Collection.build(many, output, device="cpu")
    assert passed == []  # all photos were looked at by the earlier tries
    whole = Collection.build(many, tmp_path / "whole.udq", device="cpu")

    assert len(passed) == 72
    assert contents(resumed.path) == contents(whole.path)
    assert resumed.info()["training"] == whole.info()["training"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["whole.udq", "x.udq"]
