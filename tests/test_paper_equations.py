"""Each equation of the paper, computed in float64 from its text alone, beside what udq computes (docs/paper.md)."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from udq.config import IndexConfig, QuantizerConfig, TrainConfig, preset
from udq.quantization import model, quantizer
from udq.search.localisation import localise
from udq.search.scan import exhaustive
from udq.training import algorithm, losses, refinement
from udq.types import Codes, Features

RNG = np.random.default_rng(7)
G, D, M, K, S = 400, 16, 4, 8, 5
VECTORS = Features(RNG.standard_normal((G, D)).astype(np.float32)).unit()
IMAGES = np.repeat(np.arange(G // 10), 10)
FITTED = quantizer.fit(VECTORS, subspaces=M, codewords=K, iterations=4, seed=0)
CODES = FITTED.encode(VECTORS)
ROTATED = VECTORS.vectors.astype(np.float64) @ FITTED.rotation.astype(np.float64)
PAPER = preset("paper").training


def parts(vector):
    return np.split(np.asarray(vector, np.float64), M)


def test_equations_1_and_2_a_photo_is_as_near_as_its_nearest_region():
    query = VECTORS.vectors[0].astype(np.float64)
    tables = FITTED.without_residuals().lookup_tables(VECTORS.vectors[0])
    offsets = np.arange(0, G + 1, 10)
    found = exhaustive.best_regions(tables, CODES.values, offsets)
    for photo in range(G // 10):
        similarity = [
            1 / np.linalg.norm(query - FITTED.reconstruct(Codes(CODES.values[[row]], K)).vectors[0].astype(np.float64))
            for row in range(10 * photo, 10 * photo + 10)
        ]
        assert 1 / math.sqrt(found.distance[photo]) == pytest.approx(max(similarity), rel=1e-4)
        assert found.region[photo] == 10 * photo + np.argmax(similarity)


def test_equation_3_a_quantized_feature_is_its_codewords_in_a_row():
    for row, code in zip(FITTED.decode(CODES).vectors[:20], CODES.values, strict=False):
        assert np.array_equal(row, np.concatenate([FITTED.codebooks[m, h] for m, h in enumerate(code)]))


def test_equation_4_a_code_is_the_nearest_codeword_of_each_part():
    for code, vector in zip(CODES.values[:50], ROTATED, strict=False):
        for m, part in enumerate(parts(vector)):
            distances = [np.linalg.norm(codeword.astype(np.float64) - part) for codeword in FITTED.codebooks[m]]
            assert distances[code[m]] == pytest.approx(min(distances), rel=1e-5)


def test_equation_5_the_paper_adds_nothing_to_the_asymmetric_distance():
    settings = dataclasses.replace(preset("paper").quantizer, dimensions=D, subspaces=M, codewords=16, iterations=1)
    start = model.start(VECTORS, settings)
    fitted = model.fit(VECTORS, start, settings, seed=0).quantizer
    features = start.apply(VECTORS)
    codes, tables = fitted.encode(features), fitted.lookup_tables(features.vectors[3])
    by_table = tables[np.arange(M), codes.values].sum(axis=1)
    query = features.vectors[3].astype(np.float64)
    for squared, quantized in zip(by_table, fitted.reconstruct(codes).vectors.astype(np.float64), strict=True):
        assert squared == pytest.approx(((query - quantized) ** 2).sum(), abs=1e-5)
    more = dataclasses.replace(settings, residuals=True)
    assert (model.fit(VECTORS, start, more, seed=0).quantizer.lookup_tables(features.vectors[3]) > tables).all()


def test_equation_6_the_rotation_lowers_the_quantization_error():
    identity = np.eye(D)
    assert FITTED.rotation.astype(np.float64) @ FITTED.rotation.T == pytest.approx(identity, abs=1e-5)
    error = ((ROTATED - FITTED.decode(CODES).vectors) ** 2).sum() / G
    assert FITTED.errors(VECTORS, CODES).mean() == pytest.approx(error, rel=1e-5)
    # Features that vary along two directions across the subspaces: without a rotation, half of the codewords are idle.
    mixed = np.zeros((G, D), np.float32)
    mixed[:, :4] = RNG.standard_normal((G, 4)) * (8, 4, 2, 1)
    one, many = (
        quantizer.fit(Features(mixed), subspaces=M, codewords=K, iterations=rounds, seed=0) for rounds in (0, 12)
    )
    of_one, of_many = (each.errors(Features(mixed), each.encode(Features(mixed))).mean() for each in (one, many))
    assert of_many < of_one


def test_equation_7_is_the_weighted_sum():
    assert losses.joint(torch.tensor(2.0), torch.tensor(30.0), weight=0.01).item() == pytest.approx(2.3)
    assert PAPER.weight == 0.01


def test_equation_8_is_a_softmax_over_codewords_for_each_part():
    weights, biases = RNG.standard_normal((M, D // M, K)), RNG.standard_normal((M, K))
    total = 0.0
    for vector, code in zip(ROTATED, CODES.values, strict=True):
        for m, part in enumerate(parts(vector)):
            scores = weights[m].T @ part + biases[m]
            total -= math.log(math.exp(scores[code[m]]) / sum(math.exp(score) for score in scores))
    features = torch.tensor(ROTATED).view(G, M, D // M)
    logits = torch.einsum("bml,mlk->bmk", features, torch.tensor(weights)) + torch.tensor(biases)
    mean = losses.separability(logits, torch.tensor(CODES.values.astype(np.int64)))
    assert mean.item() * G == pytest.approx(total, rel=1e-9)


def test_equation_9_is_the_squared_distance_to_the_quantized_feature():
    quantized = FITTED.decode(CODES).vectors.astype(np.float64)
    total = sum(
        ((a - b) ** 2).sum()
        for vector, target in zip(ROTATED, quantized, strict=True)
        for a, b in zip(parts(vector), parts(target), strict=True)
    )
    mean = losses.discriminability(torch.tensor(ROTATED), torch.tensor(quantized))
    assert mean.item() * G == pytest.approx(total, rel=1e-9)


def job(training: TrainConfig) -> algorithm.TrainingJob:
    settings = QuantizerConfig(dimensions=D, subspaces=M, codewords=16, iterations=1)
    start = model.start(VECTORS, settings)
    return algorithm.TrainingJob(IMAGES, start, training, settings, K, 0, torch.device("cpu"))


def test_equation_10_and_algorithm_1_initialise_once_and_update_as_often_as_asked():
    training = dataclasses.replace(PAPER, end_to_end=False, refine="none", iterations=2, batch=100)
    trained = algorithm.train(job(training), algorithm_input())
    assert [each.iteration for each in trained.rounds] == [0, 1, 2]
    assert trained.kept == 3
    assert trained.stopped is None
    # The supervision of each round is the codes and codebooks of the features before it.
    supervision = algorithm.supervise(VECTORS, job(training), seed=0)
    assert np.array_equal(
        supervision.quantized.vectors[5],
        np.concatenate([supervision.codebooks[m, h] for m, h in enumerate(supervision.labels.values[5])]),
    )


def algorithm_input():
    from udq.training.pooled_features import CachedFeatures

    return CachedFeatures(VECTORS, torch.device("cpu"))


def refined(vectors, nearest):
    """The mean of each feature and its neighbours, of unit length like all features of the network."""
    means = np.array([(vectors[row] + vectors[list(rows)].sum(axis=0)) / (S + 1) for row, rows in enumerate(nearest)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def nearest_of(vectors, rows, allowed):
    distances = np.linalg.norm(vectors - vectors[rows], axis=1)
    return [other for other in np.argsort(distances, kind="stable") if other != rows and other in allowed][:S]


def test_equation_11_takes_the_nearest_of_all_regions():
    vectors = VECTORS.vectors.astype(np.float64)
    nearest = refinement.neighbours(VECTORS, IMAGES, count=S, elsewhere=PAPER.elsewhere)
    expected = refined(vectors, [nearest_of(vectors, row, range(G)) for row in range(G)])
    assert refinement.brute_force(VECTORS, nearest).vectors == pytest.approx(expected, abs=1e-5)


def test_equation_12_takes_the_nearest_of_the_same_cluster():
    vectors = VECTORS.vectors.astype(np.float64)
    clusters = refinement.cluster(VECTORS, clusters=6, seed=0)
    members = {c: set(np.flatnonzero(clusters.assigned == c).tolist()) for c in range(6)}
    assert min(map(len, members.values())) > S
    expected = refined(vectors, [nearest_of(vectors, row, members[clusters.assigned[row]]) for row in range(G)])
    found = refinement.proposal_based(VECTORS, IMAGES, clusters, count=S, elsewhere=False)
    assert found.vectors == pytest.approx(expected, abs=1e-5)


def test_equation_13_takes_the_centre_of_the_cluster():
    clusters = refinement.cluster(VECTORS, clusters=6, seed=0)
    means = (VECTORS.vectors.astype(np.float64) + clusters.centres[clusters.assigned]) / 2
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    found = refinement.center_based(VECTORS, IMAGES, clusters, elsewhere=False)
    assert found.vectors == pytest.approx(expected, abs=1e-5)


def test_clusters_of_equation_12_are_larger_than_the_neighbours_taken(monkeypatch):
    seen = []
    plain = refinement.cluster
    monkeypatch.setattr(
        refinement,
        "cluster",
        lambda features, *, clusters, seed: (seen.append(clusters), plain(features, clusters=clusters, seed=seed))[1],
    )
    for neighbours in (5, 50):
        training = dataclasses.replace(PAPER, refine="pbr", neighbours=neighbours)
        algorithm.refined_features(VECTORS, IMAGES, training, 0)
    assert seen == [10, 2]


def test_the_position_is_the_best_proposal():
    distance = np.array([[0.5, 0.2, 0.4], [0.1, 0.3, 0.2]], np.float32)
    boxes = np.array([[0, 0, 5, 5], [5, 5, 9, 9], [0, 0, 9, 9]], np.uint16)
    found = localise(distance, boxes, ranked=True, position="best")
    assert found.tolist() == [[5, 5, 9, 9], [0, 0, 5, 5]]


@pytest.mark.parametrize("name", ["paper", "paper-resnet101"])
def test_the_preset_has_the_settings_of_section_4_2(name):
    config = preset(name)
    assert (config.images.shorter, config.images.longer, config.images.smallest) == (600, 1000, 0.0)
    assert (config.features.regions, config.features.pooling) == (200, "roi")
    assert (config.sample.photos, config.sample.regions) == (0, 0)
    assert (config.quantizer.dimensions, config.quantizer.residuals, config.quantizer.whiten) == (300, False, False)
    training = config.training
    assert training.learning_rate == training.convolutions_rate == 0.001
    assert (training.optimiser, training.classifiers, training.iterations) == ("sgd", "random", 2)
    assert (training.end_to_end, training.elsewhere, training.share, training.stop_early) == (True, False, 1.0, False)
    assert (training.verified, training.fine) == (False, False)
    assert (config.search.position, config.keypoints.most) == ("best", 0)
    assert config.features.backbone in ("vgg16", "resnet101-v1")
    assert config == IndexConfig().replace(config.to_dict())


def test_random_classifiers_know_nothing_and_differ_by_seed():
    weights, biases = losses.random_classifiers((M, 256, 40), seed=3)
    assert weights.shape == (M, 40, 256)
    assert not biases.any()
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    again, other = (losses.random_classifiers((M, 256, 40), seed=seed)[0] for seed in (3, 4))
    assert torch.equal(weights, again)
    assert not torch.equal(weights, other)


def test_sgd_moves_weights_as_its_formula_says():
    """v = 0.9 v + (gradient + 0.0005 w), w = w - 0.001 v; the momentum of Faster R-CNN."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = algorithm._optimiser([{"params": [weight]}], PAPER)
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([0.5, 1.0], [-1.0, 2.0], [0.0, 0.0]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        velocity = 0.9 * velocity + np.array(gradient) + 0.0005 * expected
        expected = expected - 0.001 * velocity
    assert weight.detach().numpy() == pytest.approx(expected, rel=1e-12)


def test_the_sample_of_the_paper_is_everything(photos):
    from udq.features.extractor import Extractor
    from udq.photos.source import find
    from udq.training import sampling

    config = IndexConfig().replace({"images": {"shorter": 96, "longer": 128, "smallest": 0.0}})
    extractor = Extractor(config.images, config.features, device="cpu")
    sources = find([photos])[0][:3]
    extracted = list(extractor.extract(sources))
    assert sampling.training_sample(5000, preset("paper").sample) == list(range(5000))
    sample = sampling.draw(iter(extracted), 3, preset("paper").sample)
    assert len(sample.features) == sum(len(photo.regions) for photo in extracted)
    assert np.array_equal(sample.features.vectors, np.concatenate([photo.features.vectors for photo in extracted]))
    assert list(itertools.accumulate(np.bincount(sample.images)))[-1] == len(sample.regions)
