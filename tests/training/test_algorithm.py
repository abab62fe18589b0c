"""The network of fig. 2 and algorithm 1."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from udq.config import QuantizerConfig, TrainConfig
from udq.quantization import model
from udq.quantization.head import Head, Layer
from udq.search.scan import exhaustive
from udq.training import algorithm
from udq.training.pooled_features import CachedFeatures
from udq.training.sampling import Sample
from udq.training.trainable_head import TrainableHead
from udq.types import Features, Regions

DIMENSIONS, OBJECTS, PHOTOS, REGIONS = 48, 40, 120, 8
QUANTIZER = QuantizerConfig(dimensions=32, subspaces=4, codewords=32, iterations=2)
TRAINING = TrainConfig(iterations=2, stop_early=False, learning_rate=3e-4, batch=128, epochs=4)


def boxes(regions):
    """Regions whose boxes do not matter here."""
    return Regions(np.tile(np.array([[0, 0, 9, 9]], np.float32), (regions, 1)))


def photos_of_objects(seed=0):
    """Pooled features of photos that show two of 40 objects each, with an offset per photo; the object of each."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(0.5, 1.0, (OBJECTS, DIMENSIONS))
    shown = np.concatenate([rng.choice(rng.permutation(OBJECTS)[:2], REGIONS) for _ in range(PHOTOS)])
    light = np.repeat(rng.gamma(0.5, 0.9, (PHOTOS, DIMENSIONS)), REGIONS, axis=0)
    noise = rng.gamma(0.5, 0.5, (len(shown), DIMENSIONS))
    vectors = (centres[shown] + light + noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images, of_view = np.repeat(np.arange(PHOTOS), REGIONS), np.zeros(len(vectors), int)
    return Sample(Features(vectors), boxes(len(vectors)), images, of_view), shown


SAMPLE, SHOWN = photos_of_objects()


def job(sample=SAMPLE, training=TRAINING, seed=0):
    codewords = model.codewords(len(sample.features), QUANTIZER)
    start = model.start(sample.features, QUANTIZER)
    return algorithm.TrainingJob(sample.images, start, training, QUANTIZER, codewords, seed, torch.device("cpu"))


def run(sample=SAMPLE, training=TRAINING, seed=0, **more):
    return algorithm.train(job(sample, training, seed), CachedFeatures(sample.features, torch.device("cpu")), **more)


class MemoryCheckpoint:
    """A checkpoint in memory that starts from a state and records every state written."""

    def __init__(self, state=None):
        self.state, self.written = state, []

    def read(self):
        return self.state

    def write(self, state):
        self.written.append(state)


def found(head, sample=SAMPLE, shown=SHOWN):
    """Share of the first ten regions of other photos, by 8-byte codes, that show the same object."""
    fitted = model.fit(sample.features, head, QUANTIZER, seed=0)
    codes = fitted.encode(sample.features).values
    offsets = np.arange(len(codes) + 1)
    right = []
    for row in range(0, len(codes), 16):
        order = exhaustive.image_order(
            exhaustive.best_regions(fitted.lookup_tables(sample.features.vectors[row]), codes, offsets)
        )
        others = order[sample.images[order] != sample.images[row]][:10]
        right.append((shown[others] == shown[row]).mean())
    return float(np.mean(right))


def test_added_layers_change_nothing_before_training():
    head = model.start(SAMPLE.features, QUANTIZER)
    expected = head.apply(SAMPLE.features).vectors

    assert head.deepened(2).apply(SAMPLE.features).vectors == pytest.approx(expected, abs=1e-5)
    assert TrainableHead(head.deepened(2)).apply_to(SAMPLE.features).vectors == pytest.approx(expected, abs=1e-5)


def test_a_network_returns_the_head_it_was_built_from():
    head = model.start(SAMPLE.features, QUANTIZER).deepened(1)
    back = TrainableHead(head).head()

    assert [layer.weight.tolist() for layer in back.layers] == [layer.weight.tolist() for layer in head.layers]
    assert Head.from_arrays(back.arrays()).dimensions == head.dimensions


def test_a_head_is_its_layers_with_relu_between_in_numpy():
    rng = np.random.default_rng(0)
    one, two = (
        Layer(rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[0]).astype(np.float32))
        for shape in ((7, 5), (4, 7))
    )
    x = rng.standard_normal((3, 5)).astype(np.float32)
    expected = np.maximum(x @ one.weight.T + one.bias, 0) @ two.weight.T + two.bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    assert Head((one, two)).apply(Features(x)).vectors == pytest.approx(expected, abs=1e-5)
    assert TrainableHead(Head((one, two))).apply_to(Features(x)).vectors == pytest.approx(expected, abs=1e-5)


def test_folding_a_rotation_into_the_last_layer_rotates_the_features():
    head = model.start(SAMPLE.features, QUANTIZER).deepened(1)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0].astype(np.float32)
    expected = head.apply(SAMPLE.features).vectors @ rotation

    assert head.rotated(rotation).apply(SAMPLE.features).vectors == pytest.approx(expected, abs=1e-5)


def test_layers_that_do_not_fit_are_refused():
    layer = Layer(np.zeros((4, 5), np.float32), np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="fit each other"):
        Head((layer, layer))


def test_classifiers_start_at_the_labels_of_the_quantizer():
    features = model.start(SAMPLE.features, QUANTIZER).apply(SAMPLE.features)
    plain = dataclasses.replace(TRAINING, refine="none")
    supervision = algorithm.supervise(features, job(training=plain), seed=0)
    network = TrainableHead(model.start(SAMPLE.features, QUANTIZER).rotated(supervision.rotation))
    network.classify(supervision.codebooks, dataclasses.replace(plain, sharpness=5.0), seed=0)
    with torch.no_grad():
        logits = network.logits(network(torch.tensor(SAMPLE.features.vectors)))

    assert logits.shape == (len(SHOWN), 4, 32)
    assert (logits.argmax(dim=2).numpy() == supervision.labels.values).mean() > 0.999


@pytest.mark.parametrize("refine", ["none", "bfr", "pbr", "cbr"])
def test_every_refinement_trains_and_finds_more(refine):
    before = found(model.start(SAMPLE.features, QUANTIZER))
    trained = run(training=dataclasses.replace(TRAINING, refine=refine))

    assert [each.iteration for each in trained.rounds] == [0, 1, 2]
    assert trained.stopped is None
    for each in trained.rounds:
        assert each.separability[-1] < each.separability[0]
    assert found(trained.head) > before + (0.03 if refine == "bfr" else -0.02)


def test_supervision_is_consistent():
    features = model.start(SAMPLE.features, QUANTIZER).apply(SAMPLE.features)
    supervision = algorithm.supervise(features, job(), seed=0)
    refined = algorithm.refined_features(features, SAMPLE.images, TRAINING, 0)
    rotated = refined.vectors @ supervision.rotation
    codewords = np.concatenate([supervision.codebooks[m, supervision.labels.values[:, m]] for m in range(4)], axis=1)

    assert supervision.quantized.vectors == pytest.approx(codewords)
    assert supervision.error == pytest.approx(((rotated - codewords) ** 2).sum(axis=1).mean(), rel=1e-4)


def test_the_same_seed_gives_the_same_head():
    one, two, other = run(), run(), run(seed=1)

    assert (one.head.layers[-1].weight == two.head.layers[-1].weight).all()
    assert one.rounds == two.rounds
    assert not (one.head.layers[-1].weight == other.head.layers[-1].weight).all()


def test_training_resumed_from_a_state_ends_with_the_same_head():
    kept = MemoryCheckpoint()
    whole = run(checkpoint=kept)
    again = [
        run(checkpoint=MemoryCheckpoint(algorithm.TrainingState.from_bytes(state.to_bytes()))) for state in kept.written
    ]

    assert [len(state.rounds) for state in kept.written] == [1, 2, 3]
    for trained in again:
        assert trained.rounds == whole.rounds
        assert all((trained.head.arrays()[name] == array).all() for name, array in whole.head.arrays().items())


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_finite_state():
    trained = run(training=dataclasses.replace(TRAINING, learning_rate=1e30))

    assert "no longer a number" in (trained.stopped or "")
    assert all(np.isfinite(layer.weight).all() for layer in trained.head.layers)
    assert np.isfinite(trained.head.apply(SAMPLE.features).vectors).all()


def test_a_last_step_that_diverges_stops_training_too():
    trained = run(training=dataclasses.replace(TRAINING, learning_rate=1e30, iterations=0, epochs=1, batch=10**6))

    assert "no longer a number" in (trained.stopped or "")
    assert np.isfinite(trained.head.apply(SAMPLE.features).vectors).all()


@pytest.mark.parametrize("regions", [1, 2, 9])
def test_a_sample_of_few_regions_can_be_trained(regions):
    vectors = SAMPLE.features.vectors[:regions].copy()
    few = Sample(Features(vectors), boxes(regions), SAMPLE.images[:regions], SAMPLE.of_view[:regions])
    trained = run(sample=few)

    assert np.isfinite(trained.head.apply(few.features).vectors).all()


def test_the_participation_ratio_counts_directions():
    rng = np.random.default_rng(0)
    even = rng.standard_normal((4000, 16)).astype(np.float32)
    turned = even[:, :5] @ rng.standard_normal((5, 16)).astype(np.float32)
    spread = np.linalg.eigvalsh(np.cov(turned.T))

    assert algorithm.participation_ratio(Features(even)) == pytest.approx(16, rel=0.02)
    assert algorithm.participation_ratio(Features(turned)) == pytest.approx(
        spread.sum() ** 2 / (spread**2).sum(), rel=1e-3
    )
    assert algorithm.participation_ratio(Features(even[:1])) == 0


def test_a_round_that_spreads_the_features_again_is_discarded(monkeypatch):
    ratios = itertools.chain([30.0, 20.0, 20.1, 22.0], itertools.repeat(1.0))
    monkeypatch.setattr(algorithm, "participation_ratio", lambda features: next(ratios))
    stopped = run(training=dataclasses.replace(TRAINING, iterations=5, stop_early=True))
    shorter = run(training=dataclasses.replace(TRAINING, iterations=1))

    assert [each.participation_ratio for each in stopped.rounds] == [20.0, 20.1, 22.0]
    assert stopped.kept == 2
    assert stopped.stopped == "took back iteration 2: features spread over 22.0 directions, 20.1 before it"
    assert all((stopped.head.arrays()[name] == array).all() for name, array in shorter.head.arrays().items())
