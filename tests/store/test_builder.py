"""An interrupted build resumes, and ends with the same collection."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest
from test_manifest import SEGMENTS, change, indexed, read, small_model, write

from udq import Collection
from udq.config import IndexConfig
from udq.errors import DiskError, InputError, UdqError
from udq.indexing import build as index_build
from udq.indexing.verify import verify
from udq.store import builder, layout, segments, transaction
from udq.store import manifest as manifests


def put(made, number):
    codes, counts, names = SEGMENTS[number]
    done = sum(len(SEGMENTS[i][2]) for i in range(number + 1))
    made.put_segment(list(indexed(codes, counts, names)), codewords=codes.codewords, done=done)


def stop_after_one_segment(path, fingerprint="one", error=KeyboardInterrupt):
    def build():
        with builder.CollectionBuilder(path, fingerprint=fingerprint) as made:
            made.put_model(small_model(), training={"stopped": None})
            put(made, 0)
            raise error

    with pytest.raises(error):
        build()


def contents(path):
    """Every file except the lock, and the manifest and its copy, which contain the time."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("collection.json", "collection.copy.json", "lock")
    }


def exact(path):
    """Those of these files that are equal to the last bit."""
    return {name: data for name, data in contents(path).items() if not name.endswith("photos.npy")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, UdqError])
def test_completed_work_is_kept_and_not_repeated(tmp_path, error):
    stop_after_one_segment(tmp_path / "x.udq", error=error)
    assert [entry.name for entry in tmp_path.iterdir()] == [".x.udq.partial"]

    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        assert (made.has_model, made.done) == (True, 2)
        assert made.read_model().to_bytes() == small_model().to_bytes()
        put(made, 1)
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)

    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]
    assert contents(tmp_path / "x.udq") == contents(write(tmp_path / "y.udq"))
    assert len(read(tmp_path / "x.udq")) == 2


def test_another_build_of_the_same_name_starts_from_the_beginning(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="two") as made:
        assert (made.has_model, made.done) == (False, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_partial_build_is_not_resumed(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq")
    (tmp_path / ".x.udq.partial" / "segments" / "000001" / "codes.npy").write_bytes(b"short")
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        assert made.done == 0


def test_a_build_that_completed_nothing_leaves_nothing(tmp_path):
    with pytest.raises(InputError), builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one"):
        raise InputError
    assert list(tmp_path.iterdir()) == []


def test_an_input_error_does_not_discard_completed_work(tmp_path):
    stop_after_one_segment(tmp_path / "x.udq", error=InputError)
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        assert made.done == 2


def test_a_folder_that_appears_at_the_destination_during_a_build_is_not_overwritten(tmp_path):
    def build():
        with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
            made.put_model(small_model())
            put(made, 0)
            put(made, 1)
            (tmp_path / "x.udq").mkdir()
            (tmp_path / "x.udq" / "mine.txt").touch()
            made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)

    with pytest.raises(UdqError, match=r"cannot move the collection into place .* run the same command again"):
        build()
    assert [entry.name for entry in (tmp_path / "x.udq").iterdir()] == ["mine.txt"]
    shutil.rmtree(tmp_path / "x.udq")
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one") as made:
        assert made.done == 3
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
    assert contents(tmp_path / "x.udq") == contents(write(tmp_path / "y.udq"))


def whole(path, manifest):
    """Whether all files of a manifest are intact."""
    for name, facts in manifests.facts_of(manifest.document).items():
        layout.check(path / name, facts)
    return True


def replacing(path, fingerprint="three"):
    return builder.CollectionBuilder(path, fingerprint=fingerprint, replaces=manifests.read_manifest(path))


def test_a_collection_that_another_process_changed_is_not_replaced(tmp_path):
    path = write(tmp_path / "x.udq")
    old = manifests.read_manifest(path)
    shutil.rmtree(path)
    write(path)
    change(path, created="another time")
    with pytest.raises(InputError, match="was changed by another process; run the same command again"):
        builder.CollectionBuilder(path, fingerprint="three", replaces=old)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


def test_a_replacement_that_stops_while_it_moves_files_resumes(tmp_path, monkeypatch):
    path = write(tmp_path / "x.udq")
    before = contents(path)
    moved = []
    replace = type(path).replace

    def stop(self, target):
        if self.name.endswith(".npy") and ".partial" in str(self):
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        return replace(self, target)

    def build():
        with replacing(path) as made:
            made.put_model(small_model())
            put(made, 1)
            made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)

    monkeypatch.setattr(type(path), "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.undo()
    assert verify(path) == []
    assert before.items() <= contents(path).items()
    with replacing(path) as made:
        assert (made.has_model, made.done) == (True, 3)
        assert made.read_model().to_bytes() == small_model().to_bytes()
        made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
    assert verify(path) == []
    assert manifests.read_manifest(path).images == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


def test_two_builds_of_one_name_exclude_each_other(tmp_path):
    with builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one"):
        other = filelock.FileLock(tmp_path / ".x.udq.partial" / "lock")
        with pytest.raises(filelock.Timeout):
            other.acquire(timeout=0)
        with pytest.raises(InputError, match=r"another udq \(process \d+ on .* is changing it; wait"):
            builder.CollectionBuilder(tmp_path / "x.udq", fingerprint="one")


def test_a_collection_is_replaced_in_one_step_and_only_its_own_files_are_deleted(tmp_path):
    path = write(tmp_path / "x.udq")
    old = manifests.read_manifest(path)
    (path / "pictures").mkdir()
    (path / "pictures" / "found.jpg").touch()
    for generation in (2, 3):
        before = manifests.read_manifest(path)
        with replacing(path) as made:
            made.put_model(small_model(), backbone={"weight": np.full(3, generation, np.float32)})
            put(made, 1)
            assert whole(path, before)
            made.commit(IndexConfig(), given={"weights": None, "rpn": None}, broken=[], next_id=3)
        new = manifests.read_manifest(path)

        assert whole(path, new)
        assert whole(path, before)  # for readers that have it open
        assert not set(manifests.files_of(new)) & set(manifests.files_of(before))
        assert manifests.read_backbone(path, new)["weight"].tolist() == [generation] * 3
    assert not any((path / name).exists() for name in manifests.files_of(old))
    assert (path / "pictures" / "found.jpg").exists()
    assert set(contents(path)) == {"pictures/found.jpg", *manifests.files_of(new), *manifests.files_of(before)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.udq"]


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for copy in range(3):
        shutil.copytree(photos, folder / str(copy))
    (folder / "2" / "broken.png").write_bytes(b"no photo")
    return folder


SETTINGS = (
    "[images]\nshorter = 160\nlonger = 224\nsmallest = 0\n[features]\nregions = 40\n[sample]\nphotos = 20\n"
    "[quantizer]\ndimensions = 64\niterations = 1\n[training]\nepochs = 1\niterations = 1\nstop_early = false\n"
)


def command(words, settings):
    small = "from udq.features import cache; from udq.store import segments; cache._PHOTOS = segments.PHOTOS = 8"
    return [sys.executable, "-c", f"{small}; from udq.cli.main import main; main()", *words, "--config", str(settings)]


@pytest.mark.parametrize("again", [False, True], ids=["index", "retrain"])
def test_a_killed_build_resumes_and_ends_with_the_same_codes(many, tmp_path, monkeypatch, again):
    """20 of 37 photos are in the sample, one is unreadable; the build is killed once in each of its three phases."""
    output, partial, settings = tmp_path / "x.udq", tmp_path / ".x.udq.partial", tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    config = IndexConfig.from_toml(settings, IndexConfig())
    if again:
        untrained = config.replace({"training": {"enabled": False}})
        Collection.build(many, output, config=untrained, device="cpu")
        shutil.copytree(output, tmp_path / "whole.udq")
    words = ["retrain", str(output)] if again else ["index", str(many), "-o", str(output)]
    segment = "segments/000003" if again else "segments/000002"
    for landmark in ("scratch/photos/000002.npz", "scratch/training.npz", f"{segment}/images.json"):
        process = subprocess.Popen(command(words, settings), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 90
        while not (partial / landmark).exists() and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (partial / landmark).exists()
        assert output.exists() == again
    monkeypatch.setattr(segments, "PHOTOS", 8)
    passed = []
    extract = index_build.Extractor.extract

    def noted(self, *given):
        for photo in extract(self, *given):
            passed.append(photo.source.name)
            yield photo

    monkeypatch.setattr(index_build.Extractor, "extract", noted)
    if again:
        resumed = Collection.retrain(output, config=config, device="cpu")
        extracted = len(passed)
        whole = Collection.retrain(tmp_path / "whole.udq", config=config, device="cpu")
    else:
        resumed = Collection.build(many, output, config=config, device="cpu")
        extracted = len(passed)
        whole = Collection.build(many, tmp_path / "whole.udq", config=config, device="cpu")

    assert extracted < 17  # no photo of the sample, and not all of the other photos
    assert len(passed) - extracted >= 36
    assert resumed.names == whole.names
    assert [entry["image"] for entry in resumed.broken] == ["2/broken.png"]
    assert exact(resumed.path) == exact(whole.path)
    for one, other in zip(resumed.segments, whole.segments, strict=True):
        assert one.photos[["id", "size", "modified", "digest"]].tolist() == (
            other.photos[["id", "size", "modified", "digest"]].tolist()
        )
        # BLAS computes these sums, whose rounding depends on its number of threads at the time.
        assert one.photos["error"] == pytest.approx(other.photos["error"], rel=1e-4)
    assert resumed.info()["training"] == whole.info()["training"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["settings.toml", "whole.udq", "x.udq"]


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files cannot be limited there")
def test_a_full_disk_is_an_error_of_one_line_and_the_same_command_resumes(udq, photos, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text(
        "images = { shorter = 96, longer = 128, smallest = 0 }\n"
        "training = { enabled = false }\nquantizer = { dimensions = 64 }\n"
    )
    words = ["index", str(photos), "-o", str(tmp_path / "x.udq"), "--config", str(settings)]
    # The system refuses to write more than 100 kB to a file, as it does on a full disk.
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))"
    script = f"{limited}; from udq.cli.main import main; main()"
    full = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)

    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("udq: ")
    assert full.stderr.endswith("; make room, and run the same command again to go on\n")
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "x.udq").exists()
    assert udq(*words)[0] == 0
    assert Collection.open(tmp_path / "x.udq", device="cpu").verify() == []


def fail_to_retrain(path, error):
    def retrain():
        with replacing(path) as made:
            (made.scratch / "photos").mkdir()  # features were extracted, and no model was fitted
            raise error

    with pytest.raises(type(error)):
        retrain()
    return path.with_name(f".{path.name}.partial")


def test_a_retraining_that_failed_blocks_no_change_and_resumes_until_there_is_one(tmp_path):
    path = write(tmp_path / "x.udq")
    partial = fail_to_retrain(path, OverflowError("out of range"))
    with replacing(path) as made:
        assert (made.scratch / "photos").is_dir()
        (made.scratch / "photos").rmdir()
    fail_to_retrain(path, OverflowError("out of range"))
    with transaction.Transaction(path):
        assert not partial.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("full"), DiskError("full"), MemoryError()])
def test_a_retraining_that_was_interrupted_is_kept_even_after_a_failed_one(tmp_path, error):
    path = write(tmp_path / "x.udq")
    partial = fail_to_retrain(path, OverflowError("out of range"))
    (partial / "scratch" / "photos").rmdir()
    fail_to_retrain(path, error)
    with pytest.raises(InputError, match="an interrupted 'udq retrain' can be resumed"):
        transaction.Transaction(path)
    assert partial.is_dir()
