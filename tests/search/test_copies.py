"""Copies: one match a content, with the same confidences and the same reranking as without copies."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from udq import Collection, IndexConfig
from udq.search import query as searches
from udq.search.copies import Likenesses, Stacker, distinct
from udq.search.ranking import ranking_by_tables
from udq.search.rerank import STAGES
from udq.search.rerank.ranked import RankedQuery
from udq.types import Example

BOX = (47, 20, 628, 451)  # the motorcycle
CUP = (81, 20, 478, 386)
STAGE_LISTS = [(), ("average-qe",), ("alpha-qe",), ("diffusion",), ("verify",)]


def near_copy(picture, rng):
    """A shot of a burst: slightly moved, brighter or darker, and encoded again."""
    width, height = picture.size
    left, top, right, bottom = (rng.uniform(0, 0.01) for _ in range(4))
    cut = picture.crop((left * width, top * height, width * (1 - right), height * (1 - bottom)))
    return ImageEnhance.Brightness(cut).enhance(rng.uniform(0.95, 1.05))


@pytest.fixture(scope="module")
def copied(photos, tmp_path_factory):
    """Collections of 20 photos, and of these and 30 exact and 20 near copies of one of them."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(photos, folder / "photos")
    for name in ("astronaut", "chelsea", "china", "coffee", "coins", "flower", "motorcycle_right", "rocket"):
        with Image.open(next(photos.rglob(f"{name}.png"))) as picture:
            width, height = picture.size
            picture.crop((0, height // 2, width // 2, height)).save(folder / "photos" / f"part-of-{name}.png")
    settings = {"images": {"shorter": 224, "longer": 320}, "training": {"enabled": False}}
    settings["quantizer"] = {"dimensions": 128, "iterations": 2}
    config = IndexConfig().replace(settings)
    plain = Collection.build(folder / "photos", folder / "plain.udq", config=config, device="cpu")
    rng = random.Random(0)
    (folder / "copies").mkdir()
    with Image.open(photos / "views" / "motorcycle_right.png") as picture:
        for number in range(30):
            shutil.copy(photos / "views" / "motorcycle_right.png", folder / "copies" / f"exact-{number:02}.png")
        for number in range(20):
            near_copy(picture, rng).save(folder / "copies" / f"near-{number:02}.jpg", quality=92)
    shutil.copytree(folder / "plain.udq", folder / "copied.udq")
    full, _ = Collection.open(folder / "copied.udq", device="cpu").add(folder / "copies")
    assert (len(plain), len(full)) == (20, 70)
    return plain, full


def names(result):
    """Of each match, the names of the photos that it stands for."""
    return [{match.image, *(copy.image for copy in match.copies)} for match in result.matches]


def path_of(collection, name):
    return next(image.path for image in collection.images if image.name == name)


@pytest.mark.parametrize("stages", STAGE_LISTS)
@pytest.mark.parametrize(("photo", "box"), [("views/motorcycle_left.png", BOX), ("coffee.png", CUP)])
def test_copies_are_one_match_and_change_no_other(copied, photos, stages, photo, box):
    plain, full = (each.search(photos / photo, box, k=20, rerank=stages) for each in copied)
    original = "views/motorcycle_right.png"
    contents = [({original} if original in each else each) for each in names(full)]
    confidence = dict(zip(map(frozenset, contents), (match.confidence for match in full.matches), strict=True))

    assert [len(match.copies) for match in full.matches if match.copies] == [50]
    assert sorted(map(sorted, contents)) == sorted(map(sorted, names(plain)))
    # A stage may expand the query by another copy than the original, so that photos close to each other swap ranks.
    first, expected = contents[:3], names(plain)[:3]
    assert sorted(map(sorted, first)) == sorted(map(sorted, expected)) if stages else first == expected
    assert [match.rank for match in full.matches] == list(range(1, 21))
    assert full.found == plain.found >= 2
    for match in plain.matches:
        # Far below the threshold, a confidence moves much with the median of the sample, which copies shift a little.
        found = confidence[frozenset([match.image])]
        assert found == pytest.approx(match.confidence, abs=0.05) or max(found, match.confidence) < 0.3


def test_the_matches_of_a_photo_list_its_copies(copied):
    _, full = copied
    own = path_of(full, "views/motorcycle_right.png")
    result = full.search(own, BOX, k=5)
    first = result.matches[0]

    assert first.image == "views/motorcycle_right.png"  # the query's own photo stands for its copies
    assert first.confidence == 1
    assert sorted(copy.image for copy in first.copies if copy.exact) == [f"exact-{i:02}.png" for i in range(30)]
    assert {copy.image[:5] for copy in first.copies if not copy.exact} == {"near-"}
    ids = dict(zip(full.names, (image.id for image in full.images), strict=True))
    assert all(copy.id == ids[copy.image] for copy in first.copies)
    # The same scene from another viewpoint is no copy.
    assert "views/motorcycle_left.png" in [match.image for match in result.matches]
    (several,) = full.search_many([(own, BOX)], k=5)
    assert several.matches == result.matches


def test_pages_and_short_lists_are_parts_of_the_long_one(copied, photos, monkeypatch):
    _, full = copied
    query = [Example(photos / "views" / "motorcycle_left.png", BOX)]
    every = searches.search(full, query, k=20).matches
    # So few photos are ranked at first that the copies fill the ranking.
    monkeypatch.setattr(searches, "DEPTH", 1)
    for offset, k in ((0, 1), (0, 2), (1, 3), (2, 4), (10, 10)):
        assert searches.search(full, query, k=k, offset=offset).matches == every[offset : offset + k]
    assert searches.search_many(full, [query], k=2)[0].matches == every[:2]


def test_copies_can_be_matches_of_their_own(copied, photos):
    _, full = copied
    result = full.search(photos / "views" / "motorcycle_left.png", BOX, k=100, stack=False)
    assert len(result.matches) == 70
    assert not any(match.copies for match in result.matches)
    (several,) = full.search_many([(photos / "views" / "motorcycle_left.png", BOX)], k=100, stack=False)
    assert several.matches == result.matches


@pytest.mark.parametrize("stage", [None, *STAGES])
def test_a_benchmark_ranks_every_copy(copied, photos, stage):
    _, full = copied
    example = Example(photos / "views" / "motorcycle_left.png", BOX)
    vector = searches.encode(full, [example]).vector
    ranked = RankedQuery.search(full.database, vector, wanted=None, examples=(example,))
    order = (STAGES[stage].apply(ranked) if stage else ranked).ranking.order

    assert sorted(order.tolist()) == list(range(70))
    if stage is None:
        lookup = full.model.quantizer.lookup_tables(vector)
        np.testing.assert_array_equal(order, ranking_by_tables(full.database, lookup).order)


@pytest.mark.parametrize("stage", ["average-qe", "alpha-qe"])
def test_a_copied_photo_expands_a_query_once(copied, photos, stage):
    vectors = []
    for each in copied:
        example = Example(photos / "views" / "motorcycle_left.png", BOX)
        ranked = RankedQuery.search(each.database, searches.encode(each, [example]).vector, wanted=None)
        vectors.append(STAGES[stage].apply(ranked).query)

    assert vectors[0] @ vectors[1] > 0.995


def test_copies_are_printed_and_drawn(copied, udq, tmp_path):
    _, full = copied
    query = "search", full.path, path_of(full, "views/motorcycle_right.png"), "--box", "47,20,628,451", "-k", 3
    code, out, _ = udq(*query, "--picture", tmp_path / "found.png")
    assert code == 0
    assert out.splitlines()[1].endswith("views/motorcycle_right.png  +50 copies")
    assert "copies" not in out.splitlines()[2]
    code, out, _ = udq(*query, "--json")
    matches = json.loads(out)["matches"]
    assert [len(match["copies"]) for match in matches] == [50, 0, 0]
    assert set(matches[0]["copies"][0]) == {"id", "image", "exact"}


def test_only_equal_bytes_of_known_files_are_exact_copies(copied):
    _, full = copied
    photos = full.database.photos(range(70))
    by_bytes = Stacker(Likenesses(None)).add(photos)
    assert len(set(by_bytes)) == 40
    unknown = [replace(photo, content=None) for photo in photos]
    assert Stacker(Likenesses(None)).add(unknown) == list(range(70))
    assert len(distinct(unknown, full.model.quantizer)) == 20


def test_the_first_photos_of_a_ranking_do_not_depend_on_later_ones(copied):
    _, full = copied
    photos = full.database.photos(np.random.default_rng(0).permutation(70).tolist())
    every = Stacker(Likenesses(full.model.quantizer)).add(photos)
    for size in (1, 7, 33):
        stacker = Stacker(Likenesses(full.model.quantizer))
        parts = [stacker.add(photos[start : start + size]) for start in range(0, 70, size)]
        assert list(chain.from_iterable(parts)) == every


def test_work_of_more_than_a_moment_is_reported(copied, photos, monkeypatch):
    plain, _ = copied
    seen = []

    @contextmanager
    def progress(stage, total):
        steps = []
        yield lambda: steps.append(1)
        seen.append((stage, total, len(steps)))

    plain.search(photos / "coffee.png", CUP, rerank=["verify"], progress=progress)
    assert seen == []  # from stored local features, it takes a fraction of a second
    monkeypatch.setattr(type(plain.database), "has_points", False)
    plain.search(photos / "coffee.png", CUP, rerank=["verify"], progress=progress)
    assert seen == [("verifying", 20, 20)]
