"""The stages on a real Ray cluster of three nodes on this machine: the same results, even if processes are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from configs import QUICK

from udq import Collection, IndexConfig
from udq.distributed import training as distributed_training
from udq.errors import InputError, UdqError
from udq.features.device import Engine
from udq.features.extractor import Extractor
from udq.photos import remote
from udq.training import fitting, sampling

pytestmark = pytest.mark.ray

FEW = QUICK.replace({"sample": {"photos": 6}})


@pytest.fixture(scope="module")
def library():
    """Set torch as the library of all processes: OpenVINO in each of them would use all processors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDQ_NETWORK", "torch")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        yield


@pytest.fixture(scope="module")
def cluster(library):
    """Three nodes of one processor each; this process is connected to the first. A test that removes one adds one."""
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
    """A folder of 60 photos, one of them broken."""
    folder = tmp_path_factory.mktemp("many")
    files = sorted(photos.rglob("*.png"))
    for i in range(60):
        shutil.copy2(files[i % len(files)], folder / f"{i:03}.png")
    (folder / "007.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def whole(library, many, tmp_path_factory):
    """The collection of these photos that one process builds."""
    return Collection.build(many, tmp_path_factory.mktemp("whole") / "x.udq", config=FEW, device="cpu")


def assert_same(one, other):
    """Compare the segments and models of two collections byte by byte."""
    assert one.broken == other.broken
    for first, second in zip(one.segments, other.segments, strict=True):
        for name in ("codes", "boxes", "offsets", "photos"):
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
        assert first.images == second.images
    assert one.model.to_bytes() == other.model.to_bytes()


def after(count, act):
    """Return a progress that calls a function when ``count`` photos are encoded."""

    @contextmanager
    def progress(stage, total):
        done = 0

        def step():
            nonlocal done
            done += 1
            if stage == "encoding photos" and done == count:
                act()

        yield step

    return progress


def kill_one(actor):
    """Kill the newest process of an actor's class, as a machine that is out of memory would."""
    found = [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"ray::" + actor in file.read_bytes()]
    os.kill(max(int(file.parent.name) for file in found), signal.SIGKILL)


def test_workers_build_the_same_collection(cluster, many, whole, tmp_path):
    assert_same(Collection.build(many, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto"), whole)


def test_relative_paths_are_those_of_the_process_that_builds(cluster, many, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(many.parent)
    built = Collection.build(many.name, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto")

    assert [segment.codes.tobytes() for segment in built.segments] == [whole.segments[0].codes.tobytes()]
    assert built.images == whole.images


def test_a_worker_with_other_arithmetic_is_refused_with_the_reason(cluster, many, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "facts", lambda self: ["another library"])
    with pytest.raises(UdqError, match="by another library: codes would differ") as refused:
        Collection.build(many, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto")
    assert "\n" not in str(refused.value)


def test_a_lost_worker_and_a_lost_node_change_nothing(cluster, many, whole, tmp_path):
    def lose():
        kill_one(b"MapWorker")
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)

    built = Collection.build(many, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto", progress=after(20, lose))

    assert len(cluster.list_all_nodes()) == 2
    cluster.add_node(num_cpus=1)
    assert_same(built, whole)


def test_a_build_whose_driver_is_killed_resumes(cluster, many, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("udq.store.segments.PHOTOS", 16)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Collection.build(many, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto", progress=after(50, stop))
    assert not (tmp_path / "x.udq").exists()
    encoded = []
    built = Collection.build(
        many, tmp_path / "x.udq", config=FEW, device="cpu", ray="auto", progress=after(58, lambda: encoded.append(1))
    )

    assert encoded == [1]
    codes = np.concatenate([segment.codes for segment in built.segments])
    assert codes.tobytes() == whole.segments[0].codes.tobytes()
    assert built.images == whole.images


# --- training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(library, many):
    """Regions to train on."""
    config = IndexConfig()
    sources = remote.find([many])[0]
    extracted = Extractor(config.images, config.features, device="cpu").extract(sources)
    return sampling.draw(extracted, len(sources), config.sample)


class Kept(list):
    """States of training, in memory."""

    def read(self):
        return self[-1] if self else None

    def write(self, state):
        self.append(state)


@pytest.mark.parametrize("killed", [False, True])
def test_several_processes_train_like_one(cluster, sample, killed):
    config = IndexConfig().replace({"training": {"iterations": 1, "stop_early": False}})
    steps, kept = [], Kept()

    @contextmanager
    def progress(stage, total):
        def step():
            steps.append(total)
            if killed and kept and not killing:
                killing.append(kill_one(b"RayTrainWorker"))

        killing = []
        yield step

    alone = fitting.learn(sample, config, torch.device("cpu"))
    together = fitting.learn(
        sample, config, torch.device("cpu"), progress, checkpoint=kept, trainer=distributed_training.train
    )

    assert len(kept) == len(alone.rounds) == len(together.rounds) == 2
    assert len(steps) == steps[0]
    for one, other in zip(alone.rounds, together.rounds, strict=True):
        assert other.separability == pytest.approx(one.separability, rel=0.01)
        assert other.discriminability == pytest.approx(one.discriminability, rel=0.01)
        assert other.participation_ratio == pytest.approx(one.participation_ratio, rel=0.01)
    # Similarities of regions, which determine the search: rotations of the quantizers are arbitrary.
    begun = fitting.learn(sample, config.replace({"training": {"enabled": False}}), torch.device("cpu"))
    rows = np.random.default_rng(0).permutation(len(sample.features))[:1000]
    features = [each.head.apply(sample.features).vectors[rows] for each in (alone, together, begun)]
    one, other, untrained = (each @ each.T for each in features)
    # One process with another number of threads differs as much; training changes similarities twenty times more.
    assert np.abs(other - one).mean() < 0.004
    assert np.abs(untrained - one).mean() > 0.02


def test_a_collection_is_trained_by_the_cluster(cluster, many, tmp_path):
    config = FEW.replace({"training": {"enabled": True, "iterations": 0}, "sample": {"photos": 200}})
    built = Collection.build(many, tmp_path / "x.udq", config=config, device="cpu", ray="auto")

    assert len(built.info()["training"]["rounds"]) == 1
    found = built.search(many / "005.png", k=5, stack=False)  # the photos are copies of twelve
    assert {match.image for match in found.matches} == {f"{i:03}.png" for i in range(5, 60, 12)}


# --- search --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(library, many, tmp_path_factory):
    """A collection of six segments; some of its photos were removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("udq.store.segments.PHOTOS", 10)
        path = tmp_path_factory.mktemp("pieces") / "x.udq"
        built = Collection.build(many, path, config=FEW, device="cpu")
    return built.remove(["01*"])[0]


def answer(result):
    """The result of a search without its duration."""
    return {name: value for name, value in result.to_json().items() if name != "elapsed_ms"}


QUERIES = [("coffee.png", (81, 20, 478, 386)), ("astronaut.png", (100, 10, 300, 250)), ("rocket.png", None)]


@pytest.mark.parametrize("replicas", [1, 2])
def test_shards_return_the_same_results_as_one_process(cluster, pieces, photos, replicas):
    spread = Collection.open(pieces.path, device="cpu", ray="auto", shards=3, replicas=replicas)

    assert len(spread) == len(pieces) == 49
    for name, box in QUERIES:
        for k in (1, 20, 500):
            expected = answer(pieces.search(photos / name, box, k=k))
            assert answer(spread.search(photos / name, box, k=k)) == expected
            assert expected["missing"] == 0
        for stages in (["alpha-qe"], ["diffusion"]):
            expected = answer(pieces.search(photos / name, box, k=20, rerank=stages))
            assert answer(spread.search(photos / name, box, k=20, rerank=stages)) == expected
    asked = [(photos / name, box) for name, box in QUERIES]
    assert list(map(answer, spread.search_many(asked, k=7))) == list(map(answer, pieces.search_many(asked, k=7)))
    assert spread.names == pieces.names
    for name, box in QUERIES:
        lookup = pieces.model.lookup_tables(pieces.extractor.describe(photos / name, box)[1])
        np.testing.assert_array_equal(spread.database.distances(lookup), pieces.database.distances(lookup))


def test_photos_of_a_dead_shard_are_reported_missing_until_it_is_restarted(cluster, pieces, photos):
    spread = Collection.open(pieces.path, device="cpu", ray="auto", shards=3)
    query, box = photos / QUERIES[0][0], QUERIES[0][1]
    expected = answer(pieces.search(query, box, k=20))
    assert answer(spread.search(query, box, k=20)) == expected
    everything = pieces.search(query, box, k=200, stack=False, rerank=[]).matches
    ranks = {match.image: (match.distance, match.box) for match in everything}

    kill_one(b"Shard")
    started, flagged = time.monotonic(), 0
    while time.monotonic() < started + 60:
        # By codes, a photo's distance does not depend on others; the default expands the query by those it finds.
        by_codes = spread.search(query, box, k=20, rerank=[])
        assert all((match.distance, match.box) == ranks[match.image] for match in by_codes.matches)
        result = spread.search(query, box, k=20)
        if result.missing or by_codes.missing:
            flagged += 1
            assert max(result.missing, by_codes.missing) < len(pieces)
        if not result.missing:
            assert answer(result) == expected
            if flagged:
                break
    recovered = time.monotonic() - started

    assert flagged
    assert recovered < 60
    print(f"{flagged} results reported missing photos; all photos were searched again after {recovered:.1f} s")


def test_with_two_replicas_results_stay_the_same_when_one_dies(cluster, pieces, photos):
    spread = Collection.open(pieces.path, device="cpu", ray="auto", shards=2, replicas=2)
    query, box = photos / QUERIES[1][0], QUERIES[1][1]
    expected = answer(pieces.search(query, box, k=20))
    seen, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            seen.append(answer(spread.search(query, box, k=20)))

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        until = time.monotonic() + 60
        while not seen and time.monotonic() < until:  # the first search starts the shards
            time.sleep(0.1)
        before = len(seen)
        kill_one(b"Shard")
        time.sleep(6)
    finally:
        stop.set()
        for client in clients:
            client.join()

    assert len(seen) > before > 0
    assert all(each == expected for each in seen)


def test_ray_serve_deploys_the_page_and_the_api(cluster, pieces):
    from ray import serve

    from udq.web import ray_serve

    with pytest.raises(InputError, match="expected collection=PATH"):
        ray_serve.page({"colection": "x"})
    for wrong, said in (({"token": ""}, "16 or more"), ({"shards": "two"}, "whole numbers")):
        with pytest.raises(InputError, match=said):
            ray_serve.page({"collection": str(pieces.path), **wrong})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(ray_serve.page({"collection": str(pieces.path), "shards": "2"}), name="udq")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/readyz").text == "ready\n"
            assert "<title>" in client.get("/").text
            number = pieces.images[2].id
            body = {"examples": [{"photo": number, "box": [10, 10, 200, 200]}], "k": 5}
            found = client.post("/api/v1/search", json=body).json()
            assert client.get("/api/v1/collection", headers={"host": "elsewhere.example"}).status_code == 421
    finally:
        serve.shutdown()
    expected = pieces.search(pieces.images[2].path, (10, 10, 200, 200), k=5)
    assert [match["image"] for match in found["matches"]] == [match.image for match in expected.matches]
    assert [match["box"] for match in found["matches"]] == [list(match.box) for match in expected.matches]
    assert found["missing"] == 0


def test_a_sharded_collection_cannot_be_changed(cluster, pieces, photos, tmp_path):
    spread = Collection.open(pieces.path, device="cpu", ray="auto", shards=2)
    with pytest.raises(UdqError, match="open it without ray"):
        spread.remove(["000.png"])
    with pytest.raises(InputError, match="shards: expected 1 or more, found 0"):
        Collection.open(pieces.path, ray="auto", shards=0)
