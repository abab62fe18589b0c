"""End-to-end training: gradients reach the convolutions, and the collection keeps the trained ones."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from udq import Collection, IndexConfig, UdqError
from udq.common import threads
from udq.config import preset
from udq.datasets import GroundTruth, Query
from udq.errors import ImageError
from udq.evaluation.benchmark import evaluate
from udq.features.extractor import Extractor
from udq.features.trunk import Trunk
from udq.photos.source import Source, find
from udq.quantization import model
from udq.store import manifest
from udq.training import algorithm, fitting, sampling
from udq.training.end_to_end import EndToEnd
from udq.types import Features, Regions

SMALL = IndexConfig().replace(
    {
        "images": {"shorter": 96, "longer": 128, "smallest": 70.0},
        "quantizer": {"dimensions": 64, "iterations": 1},
        "training": {
            "end_to_end": True,
            "stop_early": False,
            "iterations": 1,
            "epochs": 1,
            "batch": 200,
            "convolutions_rate": 1e-4,
        },
    }
)


@pytest.fixture(scope="module")
def photos(photos, tmp_path_factory):
    """Some of the photos: each costs seconds in every pass."""
    folder = tmp_path_factory.mktemp("some")
    for name in ("astronaut", "brick", "china", "coffee", "coins", "page", "rocket"):
        shutil.copy(photos / f"{name}.png", folder)
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return Collection.build(photos, tmp_path_factory.mktemp("end-to-end") / "x.udq", config=SMALL, device="cpu")


@pytest.fixture(scope="module")
def prepared(photos):
    """A sample of the photos, and pooled features with trainable convolutions."""
    config = SMALL
    extractor = Extractor(config.images, config.features, device="cpu")
    sources = find([photos])[0]
    sample = sampling.draw(extractor.extract(sources), len(sources), config.sample)
    pooled = EndToEnd(Trunk(config.features), sources, sample, config.images)
    return sample, pooled


def test_pooled_features_are_those_of_the_extractor(prepared):
    sample, pooled = prepared

    difference = np.abs(pooled.all().vectors - sample.features.vectors)  # bfloat16 may be at work there

    assert (difference > 0.03).mean() < 1e-3
    assert difference.mean() < 1e-3
    assert len(set(sample.of_view.tolist())) > 1


def test_every_pass_over_the_photos_is_in_the_progress(prepared):
    sample, pooled = prepared
    totals, steps = [], []

    @contextmanager
    def progress(stage, total):
        totals.append((stage, total))
        yield lambda: steps.append(stage)

    fitting.learn(sample, SMALL, torch.device("cpu"), progress, pooled=pooled)
    photos = len(np.unique(sample.images))

    # Module 1 and one iteration of module 2, an epoch each; features before the first round and after each.
    assert ("training", 2 * photos + 3 * photos) in totals
    assert steps.count("training") == 5 * photos


def test_an_epoch_has_every_region_once_in_batches_of_whole_photos(prepared):
    sample, pooled = prepared
    steps = pooled.steps(200, torch.Generator().manual_seed(0))
    rows = np.concatenate([part.numpy() for parts in steps for part in parts])

    assert sorted(rows) == list(range(len(sample.features)))
    for parts in steps[:-1]:
        assert sum(map(len, parts)) >= 200
    for part in (part for parts in steps for part in parts):
        assert len(set(sample.images[part.numpy()])) == 1


def test_a_gradient_reaches_the_convolutions_but_for_the_first_groups(prepared):
    _, pooled = prepared
    part = pooled.steps(1, torch.Generator().manual_seed(0))[0][0]
    next(pooled.ahead([part], threads.ALONE))().sum().backward()

    assert all(parameter.grad is not None for parameter in pooled.parameters())
    frozen = [parameter for parameter in pooled._trunk.parameters() if not parameter.requires_grad]
    assert frozen
    assert all(parameter.grad is None for parameter in frozen)


@pytest.fixture
def decoded(monkeypatch):
    """The photos that were decoded, by the numbers of their first regions, in any order."""
    rows, views = [], EndToEnd._views

    def recorded(self, of_photo):
        rows.append(int(of_photo[0]))
        return views(self, of_photo)

    monkeypatch.setattr(EndToEnd, "_views", recorded)
    return rows


def job(sample, threads):
    head = model.start(sample.features, SMALL.quantizer)
    settings = replace(SMALL.training, iterations=0), SMALL.quantizer
    codewords = model.codewords(len(sample.features), SMALL.quantizer)
    return algorithm.TrainingJob(sample.images, head, *settings, codewords, 0, torch.device("cpu"), threads)


def first(sample, photos):
    """The part of a sample that is of its first photos."""
    rows = sample.images < photos
    features, regions = Features(sample.features.vectors[rows]), Regions(sample.regions.boxes[rows])
    return sampling.Sample(features, regions, sample.images[rows], sample.of_view[rows], sample.photos[:photos])


def test_the_next_photos_are_decoded_ahead_in_order_and_at_most_two_a_thread(prepared, decoded):
    _, pooled = prepared
    parts = pooled._parts
    with threads.pool(2) as workers:
        ahead = pooled.ahead(parts, workers)
        for number in range(len(parts)):
            next(ahead)
            assert len(decoded) <= number + 1 + 4
            if number == 2:
                deadline = time.monotonic() + 60
                while len(decoded) < 3 + 4 and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert len(decoded) == 3 + 4  # without waiting for the caller
        assert next(ahead, None) is None
    assert sorted(decoded) == [int(part[0]) for part in parts]


def test_training_is_the_same_bit_for_bit_with_and_without_decoding_ahead(prepared, monkeypatch):
    sample, ahead, found = first(prepared[0], 4), EndToEnd.ahead, []
    for without in (False, True):
        if without:
            monkeypatch.setattr(EndToEnd, "ahead", lambda self, parts, workers: ahead(self, parts, threads.ALONE))
        fresh = EndToEnd(Trunk(SMALL.features), prepared[1]._sources, sample, SMALL.images)
        trained = algorithm.train(job(sample, 2), fresh)
        found.append({**trained.head.arrays(), **trained.convolutions, "rounds": trained.history()["rounds"]})

    assert len(found[0]) > 80
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_a_photo_that_is_gone_is_the_same_error_at_its_turn(prepared, photos, tmp_path):
    sample, pooled = prepared
    folder = shutil.copytree(photos, tmp_path / "photos")
    sources = find([folder])[0]
    assert [source.name for source in sources] == [source.name for source in pooled._sources]
    broken = EndToEnd(pooled._trunk, sources, sample, SMALL.images)
    (folder / Path(sources[3].name).name).unlink()
    said = []
    for count in (1, 2):
        with threads.pool(count) as workers:
            ahead = broken.ahead(broken._parts, workers)
            for _ in range(3):
                next(ahead)
            with pytest.raises(ImageError) as error:
                next(ahead)
        said.append(str(error.value))

    assert said[0] == said[1]
    assert sources[3].name in said[0]
    assert "\n" not in said[0]


def test_a_stop_drops_the_photos_that_wait_to_be_decoded(prepared, decoded):
    sample = first(prepared[0], 10)
    pooled = EndToEnd(prepared[1]._trunk, prepared[1]._sources, sample, SMALL.images)
    features = len(pooled._parts)  # steps that compute all features, before the first of training

    @contextmanager
    def progress(stage, total):
        def step():
            decoded.append("step")
            if decoded.count("step") > features:
                raise KeyboardInterrupt

        yield step

    with pytest.raises(KeyboardInterrupt):
        algorithm.train(job(sample, 2), pooled, progress=progress)
    photos = len(decoded) - decoded.count("step")

    assert decoded.count("step") == features + 1
    assert features < photos <= features + 1 + 4  # all features, the photo of the first step and those ahead of it
    assert not any(thread.name.startswith("udq-pool") for thread in threading.enumerate())


def test_the_collection_keeps_the_trained_convolutions_and_encodes_with_them(trained, photos):
    usual = Trunk(SMALL.features).state()
    kept = manifest.read_backbone(trained.path, manifest.read_manifest(trained.path))
    moved = {name: float(np.abs(kept[name] - usual[name]).max()) for name in usual}
    query = photos / "coffee.png"
    reopened = Collection.open(trained.path, device="cpu")
    photo = next(reopened.extractor.extract([Source("coffee.png", query)]))
    row = reopened.names.index("coffee.png")
    (segment,) = reopened.segments

    assert set(kept) == set(usual)
    assert sum(change > 0 for change in moved.values()) > 0.9 * len(moved)
    assert max(moved.values()) < 0.1
    assert (
        segment.codes[segment.offsets[row] : segment.offsets[row + 1]] == reopened.model.encode(photo.features).values
    ).mean() > 0.99
    assert reopened.search(query).matches[0].image == "coffee.png"
    assert reopened.verify() == []
    assert reopened.info()["training"]["kept"] >= 1


def test_the_same_seed_gives_the_same_collection_after_a_stop_between_rounds(trained, photos, tmp_path, monkeypatch):
    write = fitting.FileCheckpoint.write

    def stop(self, state):
        write(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.FileCheckpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        Collection.build(photos, tmp_path / "x.udq", config=SMALL, device="cpu")
    monkeypatch.undo()
    again = Collection.build(photos, tmp_path / "x.udq", config=SMALL, device="cpu")

    assert again.model.to_bytes() == trained.model.to_bytes()
    assert (again.segments[0].codes == trained.segments[0].codes).all()
    assert again.info()["training"] == trained.info()["training"]


def test_too_little_gpu_memory_names_the_setting_to_lower(photos, tmp_path, monkeypatch):
    def full(self, *what):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(EndToEnd, "pooled", full)
    with pytest.raises(UdqError, match=r"out of GPU memory; lower longer in \[images\], now 128, in a --config file"):
        Collection.build(photos, tmp_path / "x.udq", config=SMALL, device="cpu")
    monkeypatch.setattr(Extractor, "_extract", full)
    with pytest.raises(UdqError, match=r"out of GPU memory; lower longer in \[images\], now 128, in a --config file"):
        Collection.build(photos, tmp_path / "y.udq", config=SMALL, device="cpu")


def test_the_map_measured_after_a_round_is_that_of_the_collection(photos, tmp_path):
    # Answers that nothing would rank first, so that precision says how the others are ranked.
    wrong = {"coffee.png": "brick.png", "astronaut.png": "page.png", "china.png": "coins.png"}
    truth = GroundTruth("boxes", tuple(Query(name, None, frozenset({other})) for name, other in wrong.items()))
    made = Collection.build(photos, tmp_path / "x.udq", config=SMALL, device="cpu", truth=truth)
    rounds = made.info()["training"]["rounds"]

    assert 0 < rounds[-1]["mAP"] < 0.9
    assert rounds[-1]["mAP"] == pytest.approx(evaluate(made, truth).report["mAP"], abs=1e-6)


def test_the_papers_preset_trains_vgg16_end_to_end(photos, random_weights, tmp_path):
    """Section 4.2 but for what needs a ground truth, at a small scale: the first groups stay, fc6 and fc7 move."""
    small = {
        "images": {"shorter": 64, "longer": 96},
        "features": {"proposals": "grid"},
        "quantizer": {"iterations": 1, "codewords": 16},
        "training": {"iterations": 1, "epochs": 1},
    }
    config = preset("paper").replace(small)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee.png", "rocket.png"):
        shutil.copy(photos / name, folder)
    weights = random_weights("vgg16")
    made = Collection.build(folder, tmp_path / "x.udq", config=config, weights=weights, device="cpu")
    before = Trunk(config.features, weights=weights).state()
    after = manifest.read_backbone(made.path, manifest.read_manifest(made.path))
    untouched = torch.load(weights, weights_only=True)

    assert made.info()["training"]["kept"] == 2
    assert {"top.fc6.weight", "top.fc7.weight", "convolutions.28.weight"} <= set(after)
    assert not any(name.startswith(("convolutions.0.", "convolutions.7.")) for name in after)
    assert all(np.isfinite(array).all() for array in after.values())
    for name in ("top.fc7.weight", "convolutions.28.weight"):
        assert 0 < np.abs(after[name] - before[name]).max() < 0.1
    assert torch.equal(
        dict(made.extractor.trunk.named_parameters())["convolutions.0.weight"], untouched["features.0.weight"]
    )
    assert not made.model.quantizer.residuals.any()
    assert len(made.segments[0].codes) == made.regions
    found = made.search(folder / "coffee.png").matches[0]
    assert found.image == "coffee.png"
    assert list(found.box) in made.database.photos([0])[0].boxes.tolist()  # that of one region
