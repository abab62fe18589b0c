"""Reranking: query expansion, diffusion and verification, by themselves and in a search."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from udq import Collection
from udq.datasets import REGISTRY
from udq.errors import InputError
from udq.evaluation.benchmark import evaluate
from udq.search import confidence
from udq.search.confidence import of_verification
from udq.search.query import encode
from udq.search.ranking import ranking_by_tables
from udq.search.rerank import STAGES, diffusion, query_expansion
from udq.search.rerank.ranked import RankedQuery
from udq.types import Example

BOX = (81, 20, 478, 386)


def units(rng, count, dimensions=16):
    vectors = rng.normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(st.integers(0, 12), st.sampled_from([0.0, 1.0, 3.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_an_expanded_query_is_the_weighted_mean(count, alpha, seed):
    rng = np.random.default_rng(seed)
    query, found = units(rng, 1)[0], units(rng, count)

    total = query.astype(np.float64)
    for each in found.astype(np.float64):
        total = total + max(float(each @ query), 0.0) ** alpha * each
    np.testing.assert_allclose(query_expansion.expanded(query, found, alpha), total / np.linalg.norm(total), atol=1e-5)


def test_diffusion_follows_a_chain_of_views():
    """Each view is only similar to the next; another object is more similar to the query than the last view is."""
    angles = np.deg2rad([20, 40, 60, 80])
    chain = np.stack([np.cos(angles), np.sin(angles), np.zeros(4)], axis=1)
    apart = np.array([[np.cos(np.deg2rad(65)), 0, np.sin(np.deg2rad(65))]])
    found = np.concatenate([chain, apart]).astype(np.float32)
    query = np.array([1, 0, 0], np.float32)
    assert found[4] @ query > found[3] @ query

    reached = diffusion.diffusion_scores(query, found, neighbours=2)

    assert reached[:4].tolist() == sorted(reached[:4].tolist(), reverse=True)
    assert reached[3] > reached[4]


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_diffusion_scores_solve_their_equation(count, neighbours, seed):
    rng = np.random.default_rng(seed)
    query, found = units(rng, 1)[0], units(rng, count)
    found = found[np.argsort(-(found @ query), kind="stable")]

    reached = diffusion.diffusion_scores(query, found, neighbours=neighbours)

    assert reached.shape == (count,)
    assert np.isfinite(reached).all()
    if not count:
        return
    nodes = np.concatenate([query[None], found]).astype(np.float64)
    likeness = np.maximum(nodes @ nodes.T, 0) ** diffusion.GAMMA
    np.fill_diagonal(likeness, 0)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(neighbours, count)]
    near = np.zeros_like(likeness, bool)
    np.put_along_axis(near, nearest, True, axis=1)
    weights = np.where(near & near.T, likeness, 0)
    degree = weights.sum(axis=1)
    scaled = np.divide(weights, np.sqrt(np.outer(degree, degree)), where=weights > 0, out=np.zeros_like(weights))
    start = np.concatenate([[1], np.where(np.arange(count) < diffusion.SOURCES, likeness[0, 1:], 0)])
    flow = start
    for _ in range(600):  # the series of the inverse
        flow = start + diffusion.ALPHA * scaled @ flow
    flow, own = flow[1:], likeness[0, 1:]
    wanted = flow / max(flow.max(), 1e-12) + diffusion.MIX * own / max(own.max(), 1e-12)
    np.testing.assert_allclose(reached, wanted, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ranks_the_same_photos(collection, photos, stage):
    plain = collection.search(photos / "coffee.png", BOX, k=12)
    found = collection.search(photos / "coffee.png", BOX, k=12, rerank=[stage])

    assert found.rerank == (stage,)
    assert sorted(match.image for match in found.matches) == sorted(match.image for match in plain.matches)
    assert [match.rank for match in found.matches] == list(range(1, 13))
    assert found.matches[0].image == "coffee.png"
    assert found.elapsed_ms["rerank"] > 0
    first = collection.search(photos / "coffee.png", BOX, k=3, rerank=[stage])
    assert [match.image for match in first.matches] == [match.image for match in found.matches[:3]]


def test_stages_are_applied_in_turn_and_excluded_photos_stay_out(collection):
    quantizer = collection.model.quantizer
    query = units(np.random.default_rng(0), 1, quantizer.dimensions)[0]
    ranked = RankedQuery.search(collection.database, query, wanted=5, without=(3,))

    both = STAGES["diffusion"].apply(STAGES["alpha-qe"].apply(ranked))

    expanded = query_expansion.expanded(
        query, ranked.best_regions(filter(ranked.is_sure, ranked.stacks(10))), query_expansion.ALPHA
    )
    np.testing.assert_array_equal(both.query, expanded)
    every = ranking_by_tables(collection.database, quantizer.lookup_tables(expanded)).order
    order = [place for place in every.tolist() if place != 3]
    assert sorted(both.ranking.order.tolist()) == sorted(order[:5])
    assert 3 not in both.ranking.order


@pytest.mark.parametrize(
    "stages", list(itertools.permutations(["average-qe", "diffusion", "verify", "verified-qe"])), ids=",".join
)
def test_stages_work_in_any_order_and_only_verification_makes_surer(collection, photos, stages):
    plain = collection.search(photos / "coffee.png", BOX, k=12, rerank=[])
    found = collection.search(photos / "coffee.png", BOX, k=12, rerank=stages)

    assert found.rerank == stages
    assert found.matches[0].image == "coffee.png"
    sure = {match.image: match.confidence for match in plain.matches}
    for match in found.matches:
        verified = 0.0 if match.verified is None else of_verification(match.verified.coverage)
        assert match.confidence == pytest.approx(max(sure[match.image], verified), abs=1e-4)


def test_a_benchmark_scores_reranked_photos(collection, photos, tmp_path):
    (tmp_path / "truth.csv").write_text(
        "query_image,x1,y1,x2,y2,positives\n"
        "views/motorcycle_right.png,47,20,628,451,views/motorcycle_left.png|rocket.png|page.png\n"
    )
    truth = REGISTRY["boxes"](tmp_path / "truth.csv")

    plain = evaluate(collection, truth, stages=[])
    again = evaluate(collection, truth, stages=["verify"])

    assert (plain.report["rerank"], again.report["rerank"]) == ([], ["verify"])
    searched = collection.search(photos / "views" / "motorcycle_right.png", (47, 20, 628, 451), k=12, rerank=["verify"])
    others = [match for match in searched.matches if match.image != "views/motorcycle_right.png"]
    assert [match.image for match in again.outcomes[0].matches] == [match.image for match in others]
    assert [match.score for match in again.outcomes[0].matches] == [match.score for match in others]
    assert again.outcomes[0].matches[0].verified.inliers > 20
    assert plain.outcomes[0].matches[0].verified is None


def test_only_confident_photos_expand_the_query(collection, photos, monkeypatch):
    quantizer = collection.model.quantizer
    query = units(np.random.default_rng(0), 1, quantizer.dimensions)[0]
    ranked = RankedQuery.search(collection.database, query, wanted=None)
    assert max(map(ranked.confidence, ranked.ranking.order.tolist())) < confidence.THRESHOLD  # nothing shows noise

    np.testing.assert_allclose(STAGES["average-qe"].apply(ranked).query, query, atol=1e-6)


@pytest.mark.parametrize(("sure", "neighbours"), [(0, None), (1, None), (2, 6), (5, 15), (7, 20), (12, 20)])
def test_diffusion_joins_as_many_photos_as_the_query_has_sure_matches(collection, monkeypatch, sure, neighbours):
    query = units(np.random.default_rng(2), 1, collection.model.quantizer.dimensions)[0]
    ranked = RankedQuery.search(collection.database, query, wanted=None)
    certain = {stack.places[0] for stack in ranked.stacks(sure)}
    monkeypatch.setattr(RankedQuery, "sureness", lambda _, place: 0.95 if place in certain else 0.94)
    joined = []
    scores = diffusion.diffusion_scores
    monkeypatch.setattr(diffusion, "diffusion_scores", lambda *args, **kw: joined.append(kw) or scores(*args, **kw))

    found = STAGES["diffusion"].apply(ranked)

    assert joined == ([] if neighbours is None else [{"neighbours": neighbours}])
    if neighbours is None:
        assert found.ranking.order.tolist() == ranked.ranking.order.tolist()


def test_the_photo_of_the_query_is_no_sure_match_of_diffusion(collection, photos):
    plain = collection.search(photos / "coffee.png", BOX, k=12, rerank=[])
    assert plain.found == 1  # that photo

    spread = collection.search(photos / "coffee.png", BOX, k=12, rerank=["diffusion"])

    assert [match.image for match in spread.matches] == [match.image for match in plain.matches]


def test_diffusion_moves_only_photos_that_are_not_verified(collection, photos, monkeypatch):
    monkeypatch.setattr(diffusion, "LEAST", 0)
    query = photos / "views" / "motorcycle_left.png", (47, 20, 628, 451)
    before, after = (collection.search(*query, k=12, rerank=stages) for stages in (["verify"], ["verify", "diffusion"]))

    verified = [match for match in before.matches if match.verified]
    assert [match.image for match in verified] == ["views/motorcycle_left.png", "views/motorcycle_right.png"]
    assert [after.matches[match.rank - 1] for match in verified] == verified
    assert [match.image for match in after.matches] != [match.image for match in before.matches]


def test_photos_that_local_features_vote_for_change_no_confidence(collection):
    query = units(np.random.default_rng(3), 1, collection.model.quantizer.dimensions)[0]
    ranked = RankedQuery.search(collection.database, query, wanted=4)
    farthest = RankedQuery.search(collection.database, query, wanted=None).ranking.order[-1:]

    included, count = ranked.including(farthest, 2)  # before the third and the fourth

    assert count == 3
    for place in ranked.ranking.order.tolist():
        assert included.confidence(place) == ranked.confidence(place)


def test_verification_raises_scores_and_reports_matches(collection, photos):
    box = (47, 20, 628, 451)
    plain = collection.search(photos / "views" / "motorcycle_left.png", box, k=12, rerank=[])
    found = collection.search(photos / "views" / "motorcycle_left.png", box, k=12, rerank=["verify"])

    assert all(match.verified is None for match in plain.matches)
    scores = [match.score for match in found.matches]
    assert scores == sorted(scores, reverse=True)
    before = {match.image: match for match in plain.matches}
    for match in found.matches:
        if match.verified is None:
            assert match.score == before[match.image].score
            assert match.box == before[match.image].box
        else:
            assert match.score > before[match.image].score
            assert match.verified.polygon.shape == (4, 2)
            assert len(match.verified.query_points) == len(match.verified.photo_points) == match.verified.inliers
    # The same scene from another viewpoint; in other photos a few points may agree by chance.
    points = {match.image: match.verified.inliers for match in found.matches if match.verified}
    assert [match.image for match in found.matches][:2] == ["views/motorcycle_left.png", "views/motorcycle_right.png"]
    assert points.pop("views/motorcycle_left.png") > 50
    assert points.pop("views/motorcycle_right.png") > 20
    assert max(points.values(), default=0) < 10


def test_near_copies_are_verified_and_the_best_stands_for_them(collection, photos, monkeypatch):
    """Two paintings of a series are one stack; the nearer one is not the one that was asked for."""
    names = collection.names
    left, right, page = map(names.index, ("views/motorcycle_left.png", "views/motorcycle_right.png", "page.png"))

    def numbered(self, stored):
        known = vars(self).setdefault("known", {})
        series = [photo.image.name.replace("views/motorcycle_right", "page") for photo in stored]
        return [known.setdefault(name, len(known)) for name in series]

    monkeypatch.setattr("udq.search.copies.Stacker.add", numbered)
    encoded = encode(collection, [Example(photos / "views" / "motorcycle_left.png", (47, 20, 628, 451))])
    ranked = RankedQuery.search(collection.database, encoded.vector, wanted=None, examples=encoded.examples)
    others = [place for place in ranked.ranking.order.tolist() if place not in (left, right, page)]
    order = np.array([left, page, *others[:4], right, *others[4:]])

    found = STAGES["verify"].apply(replace(ranked, ranking=replace(ranked.ranking, order=order)))

    assert found.stacks(2)[1].places == (right, page)
    assert found.ranking.order[:3].tolist() == [left, right, page]
    assert page not in found.ranking.verified
    assert found.ranking.verified[right].verification.inliers > 20


def test_lines_are_drawn_on_request(collection, photos, tmp_path, udq):
    query = "search", collection.path, photos / "views" / "motorcycle_left.png", "--box", "47,20,628,451", "-k", 3
    code, out, _ = udq(*query, "--rerank", "verify", "--lines", tmp_path / "lines.png")

    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "score", "sure", "points", "x1,y1,x2,y2", "photo"]
    assert out.splitlines()[-1] == f"lines: {tmp_path / 'lines.png'}"
    with Image.open(tmp_path / "lines.png") as picture:
        assert picture.width > 700
        assert picture.height >= 2 * 300
    code, _, err = udq(*query, "--rerank", "none", "--lines", tmp_path / "lines.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "--lines: expected --rerank verify" in err
    code, out, _ = udq("search", collection.path, photos / "brick.png", "--box", "10,10,60,60", "-k", 1,
                       "--rerank", "verify", "--lines", tmp_path / "none.png")  # fmt: skip
    assert code == 0
    assert (tmp_path / "none.png").exists() != ("none drawn" in out)


def test_confidence_of_matches(collection, photos):
    result = collection.search(photos / "coffee.png", BOX, k=12)
    sure = [match.confidence for match in result.matches]

    assert sure[0] == 1.0  # the photo that the box was drawn in
    plain = [match.confidence for match in collection.search(photos / "coffee.png", BOX, k=12, rerank=[]).matches]
    assert plain == sorted(plain, reverse=True)
    assert result.found == sum(each >= result.threshold for each in sure) < 12
    noise = collection.search(photos / "brick.png", (10, 10, 200, 200), k=12, rerank=["diffusion"])
    assert {match.image: match.confidence for match in noise.matches}["brick.png"] == 1.0
    several = collection.search_many([(photos / "coffee.png", BOX)], k=12)[0]
    assert [match.confidence for match in several.matches] == sure


def test_best_regions_are_decoded_from_their_codes(collection):
    quantizer = collection.model.quantizer
    query = units(np.random.default_rng(1), 1, quantizer.dimensions)[0]
    ranked = RankedQuery.search(collection.database, query, wanted=4)

    found = ranked.best_regions(ranked.stacks(4))

    segment = collection.segments[0]
    for place, feature in zip(ranked.ranking.order.tolist(), found, strict=True):
        codes = segment.codes[segment.offsets[place] : segment.offsets[place + 1]].astype(int)
        decoded = quantizer.codebooks[np.arange(quantizer.subspaces), codes].reshape(len(codes), -1)
        far = ((decoded - query @ quantizer.rotation) ** 2).sum(axis=1)
        far += quantizer.residuals[np.arange(quantizer.subspaces), codes].sum(axis=1)
        best = decoded[far.argmin()] @ quantizer.rotation.T
        np.testing.assert_allclose(feature, best / np.linalg.norm(best), atol=1e-5)


def test_an_unknown_stage_is_an_error(collection, photos, udq):
    with pytest.raises(InputError, match=r"some of .*, verify, verify-mirrored, verified-qe, found 'magic'"):
        collection.search(photos / "coffee.png", BOX, rerank=["magic"])
    code, _, err = udq("search", str(collection.path), str(photos / "coffee.png"), "--rerank", "alpha-qe,magic")
    assert code == 2
    assert err.endswith("found 'magic'\n")
    assert err.count("\n") == 1


def test_the_command_reranks_and_takes_several_boxes(collection, photos, udq):
    views = photos / "views"
    words = "search", str(collection.path), str(views / "motorcycle_left.png"), "--box", "100,100,600,400"
    also = "--also", f"{views / 'motorcycle_right.png'}:80,100,580,400"
    code, out, _ = udq(*words, *also, "--rerank", "diffusion", "-k", "3", "--json")

    assert code == 0
    found = json.loads(out)
    assert found["rerank"] == ["diffusion"]
    assert {"encode", "scan", "rerank", "total"} == set(found["elapsed_ms"])
    assert [example["box"] for example in found["query"]["examples"]] == [[100, 100, 600, 400], [80, 100, 580, 400]]
    examples = [
        Example(views / "motorcycle_left.png", (100, 100, 600, 400)),
        Example(views / "motorcycle_right.png", (80, 100, 580, 400)),
    ]
    same = Collection.open(collection.path).search_examples(examples, k=3, rerank=["diffusion"])
    assert [match["image"] for match in found["matches"]] == [match.image for match in same.matches]
    code, out, _ = udq(*words, "--rerank", "diffusion", "-k", "3")
    assert code == 0
    assert ", diffusion " in out.splitlines()[-1]
    code, _, err = udq(*words, "--also", f"{views / 'motorcycle_right.png'}:a,b")
    assert (code, err.count("\n")) == (2, 1)
    assert "--also a,b: expected four numbers" in err
