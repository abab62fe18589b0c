"""Fitting: the same results for any number of threads, and no thread that is not udq's own computes or spins."""

from __future__ import annotations

import time
from dataclasses import replace

import faiss
import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from udq import Collection, IndexConfig
from udq.common.progress import silent
from udq.config import QuantizerConfig, TrainConfig
from udq.quantization import model, pca, quantizer
from udq.training import algorithm, refinement
from udq.training.pooled_features import CachedFeatures
from udq.types import Features

REGIONS, CHANNELS = 4500, 128
SETTINGS = QuantizerConfig(dimensions=64, subspaces=4, codewords=64, iterations=3)
PHOTO = np.repeat(np.arange(REGIONS // 50), 50)


def features():
    """Unit features of 300 objects, (4500, 128)."""
    rng = np.random.default_rng(0)
    vectors = rng.gamma(0.5, 1.0, (300, CHANNELS))[rng.integers(300, size=REGIONS)]
    vectors = (vectors + rng.gamma(0.5, 0.5, vectors.shape)).astype(np.float32)
    return Features(vectors).unit()


SAMPLE = features()
HEAD = model.start(SAMPLE, SETTINGS)
JOB = algorithm.TrainingJob(
    PHOTO,
    HEAD,
    training=TrainConfig(iterations=0, epochs=1, batch=512, stop_early=False),
    quantizer=SETTINGS,
    codewords=64,
    seed=0,
    device=torch.device("cpu"),
)


def projection(threads):
    """The arrays of the principal components."""
    found = pca.fit(SAMPLE, dimensions=64, whiten=False, multiple_of=4, threads=threads)
    return list(found.arrays().values())


def codebooks(threads):
    """The arrays of a quantizer."""
    found = quantizer.fit(SAMPLE, subspaces=4, codewords=64, iterations=3, seed=0, threads=threads)
    return [found.rotation, found.codebooks, found.residuals]


def trained(threads):
    """The arrays of a trained head."""
    found = algorithm.train(replace(JOB, threads=threads), CachedFeatures(SAMPLE, JOB.device))
    assert found.kept == 1
    return list(found.head.arrays().values())


def neighbours(threads):
    """Neighbours by all pairs, and by an inverted file."""
    options = {"count": 10, "elsewhere": True, "threads": threads}
    return [refinement.neighbours(SAMPLE, PHOTO, exhaustive=each, **options) for each in (True, False)]


def clusters(threads):
    """Features refined by their clusters."""
    found = refinement.cluster(SAMPLE, clusters=150, seed=0)
    refined = refinement.proposal_based(SAMPLE, PHOTO, found, count=5, elsewhere=True, threads=threads)
    return [found.centres, refined.vectors]


FITS = pytest.mark.parametrize("fit", [projection, codebooks, neighbours, trained, clusters])


@pytest.fixture
def three():
    """Set every library to three threads, as a user's process may."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with ThreadpoolController().limit(limits=3):
        yield
    torch.set_num_threads(before)


@FITS
def test_results_do_not_depend_on_the_number_of_threads(three, fit):
    one, *others = [fit(threads) for threads in (1, 2, 3)]
    for other in others:
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    with ThreadpoolController().limit(limits=1):  # nor on what the libraries are set to
        assert all(np.array_equal(*pair) for pair in zip(one, fit(2), strict=True))


@FITS
def test_with_one_thread_no_other_thread_takes_cpu_time(three, fit):
    fit(1)  # imports and warms up
    every, own = time.process_time(), time.thread_time()
    fit(1)
    every, own = time.process_time() - every, time.thread_time() - own

    assert every - own < 0.05 + 0.05 * own


def test_the_quantizer_is_as_good_as_that_of_faiss():
    vectors = HEAD.apply(SAMPLE).vectors
    opq = faiss.OPQMatrix(64, 4)
    opq.niter, opq.niter_pq_0 = 8, 10
    opq.pq = pq = faiss.ProductQuantizer(64, 4, 6)
    pq.cp.seed = 0
    opq.train(vectors)
    rotated = opq.apply(vectors)
    pq.train(rotated)
    theirs = np.square(pq.decode(pq.compute_codes(rotated)) - rotated).sum(axis=1).mean()

    fitted = quantizer.fit(Features(vectors), subspaces=4, codewords=64, iterations=8, seed=0)
    ours = fitted.errors(Features(vectors), fitted.encode(Features(vectors))).mean()

    assert ours == pytest.approx(theirs, rel=0.002)
    assert fitted.rotation.T @ fitted.rotation == pytest.approx(np.eye(64), abs=1e-5)


def test_fitting_a_quantizer_reports_its_steps():
    steps = []
    quantizer.fit(SAMPLE, subspaces=4, codewords=16, iterations=3, seed=0, step=lambda: steps.append(1))

    assert len(steps) == 4


def test_a_collection_does_not_depend_on_the_number_of_threads(photos, tmp_path):
    quick = IndexConfig().replace(
        {
            "images": {"shorter": 96, "longer": 128, "smallest": 0.0},
            "quantizer": {"dimensions": 64, "iterations": 1},
            "training": {"iterations": 0, "epochs": 1, "refine_from": 0},
        }
    )
    stages = {}

    def progress(stage, total):
        stages[stage] = total
        return silent(stage, total)

    made = []
    for threads in (1, 3):
        path = tmp_path / f"{threads}.udq"
        Collection.build(photos, path, config=quick, device="cpu", threads=threads, progress=progress)
        made.append({file.relative_to(path): file.read_bytes() for file in path.rglob("*.np[yz]")})

    assert made[0].keys() == made[1].keys()
    assert len(made[0]) >= 5
    assert all(made[0][name] == made[1][name] for name in made[0])
    assert stages["fitting codes"] == 2
