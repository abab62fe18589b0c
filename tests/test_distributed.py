"""The same stages on a real Ray cluster of three nodes, on this machine: same answers, whatever is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from udq import Collection, IndexConfig

pytestmark = pytest.mark.ray

QUICK = IndexConfig().replace(
    {
        "quantizer": {"dimensions": 64, "iterations": 1},
        "training": {"enabled": False},
        "sample": {"photos": 6},
    }
)


@pytest.fixture(scope="module")
def library():
    """All processes by torch: OpenVINO in each would take the processors from the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDQ_NETWORK", "torch")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        yield


@pytest.fixture
def cluster(library):
    """Three nodes of one processor each; this process is connected to the first."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        ray.init(address=started.address, log_to_driver=False)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    """A folder of 120 photos, one of them broken."""
    folder = tmp_path_factory.mktemp("many")
    files = sorted(photos.rglob("*.png"))
    for i in range(120):
        shutil.copy2(files[i % len(files)], folder / f"{i:03}.png")
    (folder / "007.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def whole(library, many, tmp_path_factory):
    """What one process makes of it."""
    return Collection.build(many, tmp_path_factory.mktemp("whole") / "x.udq", config=QUICK, device="cpu")


def assert_same(one, other):
    """Compare all that two collections hold of their photos, byte by byte."""
    assert one.broken == other.broken
    for first, second in zip(one.segments, other.segments, strict=True):
        for name in ("codes", "boxes", "offsets", "photos"):
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
        assert first.images == second.images
    assert one.model.to_bytes() == other.model.to_bytes()


def after(wanted, act):
    """Return a progress that does something once so many photos are encoded."""

    @contextmanager
    def progress(stage, total):
        done = 0

        def step():
            nonlocal done
            done += 1
            if stage == "encoding photos" and done == wanted:
                act()

        yield step

    return progress


def kill_a_worker():
    """Kill one of the processes that look at photos."""
    processes = [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"ray::MapWorker" in file.read_bytes()]
    os.kill(int(processes[0].parent.name), signal.SIGKILL)


def test_workers_make_the_same_collection(cluster, many, whole, tmp_path):
    assert_same(Collection.build(many, tmp_path / "x.udq", config=QUICK, device="cpu", ray="auto"), whole)


def test_a_lost_worker_and_a_lost_node_cost_nothing(cluster, many, whole, tmp_path):
    def lose():
        kill_a_worker()
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    built = Collection.build(many, tmp_path / "x.udq", config=QUICK, device="cpu", ray="auto", progress=after(20, lose))

    assert len(cluster.list_all_nodes()) == 2
    assert_same(built, whole)


def test_what_a_kill_of_the_driver_leaves_goes_on(cluster, many, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("udq.segments.PHOTOS", 32)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Collection.build(many, tmp_path / "x.udq", config=QUICK, device="cpu", ray="auto", progress=after(100, stop))
    assert not (tmp_path / "x.udq").exists()
    encoded = []
    built = Collection.build(
        many, tmp_path / "x.udq", config=QUICK, device="cpu", ray="auto", progress=after(110, lambda: encoded.append(1))
    )

    assert encoded == [1]
    codes = np.concatenate([segment.codes for segment in built.segments])
    assert codes.tobytes() == whole.segments[0].codes.tobytes()
    assert built.images == whole.images


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "auto"])
def test_no_cluster_is_one_line(udq, address, photos, tmp_path):
    code, _, err = udq("index", photos, "-o", tmp_path / "x.udq", "--ray", address)

    assert code == 2
    assert f"ray {address}" in err.replace("'", "")
    assert "HOST:PORT" in err
    assert len(err.strip().splitlines()) == 1
