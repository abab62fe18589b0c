"""Official ground truths: what is read, what is refused, and the real files if they are available."""

from __future__ import annotations

import pickle
import struct
import zlib
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import scipy.io

from udq.datasets import Answers, GroundTruth, Query, load, matching, matfile, oxford_paris
from udq.errors import InputError
from udq.evaluation import metrics, scoring
from udq.search.ranking import Ranking

# --- miniature ground truths -------------------------------------------------------------------------------------


def write_landmark(folder, name, query, *, good=(), ok=(), junk=()):
    """Write the four files of one query in the layout of Oxford and Paris."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_query.txt").write_text(f"{query}\n")
    for kind, photos in (("good", good), ("ok", ok), ("junk", junk)):
        (folder / f"{name}_{kind}.txt").write_text("".join(f"{photo}\n" for photo in photos))
    return folder


def cells(names):
    """Return a cell array of texts."""
    array = np.empty((1, len(names)), object)
    array[0] = names
    return array


def write_mat(file, database, queries, records):
    """Write a ground truth like MATLAB: records of index arrays, each array in its own cell."""
    kinds = [(name, object) for name in records[0]]
    gnd = np.empty((len(records), 1), kinds)
    for i, record in enumerate(records):
        for name, values in record.items():
            gnd[i, 0][name] = np.array(values, ndmin=2)
    scipy.io.savemat(file, {"imlist": cells(database), "qimlist": cells(queries), "gnd": gnd})
    return file


BOX = [1.0, 2.0, 30.0, 40.0]
OXFORD = [f"oxford_{i:06}" for i in range(6)]


def revisited(file, *, database=OXFORD, queries=("all_souls_000013",), **changes):
    record = {"easy": [1, 2], "hard": [3], "junk": [4], "bbx": BOX} | changes
    return write_mat(file, list(database), list(queries), [record])


# --- Oxford and Paris ----------------------------------------------------------------------------------------------


def test_positives_are_good_and_ok_and_the_query_stays(tmp_path):
    write_landmark(
        tmp_path / "gt", "all_souls_1", "oxc1_all_souls_000013 136.5 34.1 648.5 955.7",
        good=["all_souls_000013", "all_souls_000026"], ok=["oxford_002985"], junk=["oxford_000001"],
    )  # fmt: skip
    truth = load("oxford5k", tmp_path / "gt")

    positives = frozenset({"all_souls_000013", "all_souls_000026", "oxford_002985"})
    assert truth.queries == (
        Query("all_souls_000013", (136.5, 34.1, 648.5, 955.7), positives, frozenset({"oxford_000001"}),
              label="all_souls_1"),
    )  # fmt: skip
    assert (truth.own_photo, truth.official) == ("kept", (55, 5063))


def test_photos_broken_in_the_official_archives_are_neither_positive_nor_junk(tmp_path):
    good = ["paris_louvre_000135", "paris_louvre_000136"]
    write_landmark(tmp_path / "gt", "louvre_1", "paris_louvre_000135 1 2 3 4", good=good, junk=["paris_louvre_000146"])
    (query,) = load("paris6k", tmp_path / "gt").queries

    assert query.positives == {"paris_louvre_000135"}
    assert query.junk == set()
    assert len(oxford_paris.PARIS_BROKEN) == 20


@pytest.mark.parametrize(
    ("name", "query", "dataset", "says"),
    [
        ("all_souls_1", "oxc1_a", "oxford5k", "expected a photo and its box x1 y1 x2 y2, found 'oxc1_a'"),
        ("all_souls_1", "", "oxford5k", "expected a photo and its box"),
        ("all_souls_1", "oxc1_a 1 2 3 four", "oxford5k", "expected a photo and its box"),
        ("all_souls_1", "oxc1_a 3 2 1 4", "oxford5k", "expected a box with x1 < x2"),
        ("louvre_1", "paris_louvre_000135 1 2 3 4", "oxford5k", "this is the ground truth of paris6k"),
        ("all_souls_1", "oxc1_a 1 2 3 4", "paris6k", "this is the ground truth of oxford5k"),
        ("home_1", "a 1 2 3 4", "paris6k", "expected the landmarks of paris6k, such as defense, found home"),
    ],
)
def test_a_folder_of_another_ground_truth_is_refused(tmp_path, name, query, dataset, says):
    write_landmark(tmp_path / "gt", name, query, good=["a"])

    with pytest.raises(InputError) as refused:
        load(dataset, tmp_path / "gt")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_its_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no folder"):
        load("oxford5k", tmp_path / "nothing")
    with pytest.raises(InputError, match=r"files such as all_souls_1_query\.txt, found none"):
        load("oxford5k", tmp_path)
    write_landmark(tmp_path / "gt", "keble_1", "oxc1_a 1 2 3 4")
    with pytest.raises(InputError, match=r"_good\.txt or _ok\.txt, found none"):
        load("oxford5k", tmp_path / "gt")
    (tmp_path / "gt" / "keble_1_junk.txt").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load("oxford5k", tmp_path / "gt")


# --- revisited and INSTRE ----------------------------------------------------------------------------------------


def test_each_difficulty_has_its_answers(tmp_path):
    truth = load("roxford5k", revisited(tmp_path / "gnd_roxford5k.mat"))
    (query,) = truth.queries
    names = {name: (answers.positives, answers.junk) for name, answers in query.difficulties.items()}

    assert truth.own_photo == "outside"
    assert query.box == (1, 2, 30, 40)
    assert names == {
        "easy": ({OXFORD[0], OXFORD[1]}, {OXFORD[2], OXFORD[3]}),
        "medium": ({OXFORD[0], OXFORD[1], OXFORD[2]}, {OXFORD[3]}),
        "hard": ({OXFORD[2]}, {OXFORD[0], OXFORD[1], OXFORD[3]}),
    }
    assert (query.positives, query.junk) == names["medium"]
    assert load("roxford5k", tmp_path) == truth  # the folder of the file


def test_empty_lists_are_allowed(tmp_path):
    (query,) = load("roxford5k", revisited(tmp_path / "x.mat", hard=[], junk=[])).queries

    assert query.difficulties["hard"].positives == set()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"easy": [0, 1]}, "expected indices that begin at 1, found 0 to 4"),
        ({"easy": [1, 7]}, "expected indices from 1 to 6"),
        ({"easy": [1, 1.5]}, "expected indices of photos, found other numbers"),
        ({"easy": [1, np.nan]}, "expected indices of photos, found other numbers"),
        ({"bbx": []}, "query all_souls_000013: expected a box x1 y1 x2 y2, found none"),
        ({"bbx": [5, 5, 1, 9]}, "expected a box x1 y1 x2 y2, found 5 5 1 9"),
        ({"easy": [], "hard": []}, "expected photos under easy or hard, found none"),
        ({"easy": [], "hard": [], "junk": []}, "found none at all"),
        ({"database": ["paris_a_000000"] * 6}, "is it the ground truth of rparis6k?"),
        ({"queries": ["all_souls_000013", "b"]}, "one record per query, found 1 for 2 queries"),
    ],
)
def test_a_file_of_another_ground_truth_is_refused(tmp_path, changes, says):
    with pytest.raises(InputError) as refused:
        load("roxford5k", revisited(tmp_path / "gnd.mat", **changes))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_files_of_two_layouts_are_told_apart(tmp_path):
    instre = write_mat(tmp_path / "instre.mat", ["INSTRE-M/01/1.jpg"], ["INSTRE-M/01/2.jpg"], [{"ok": [1], "bbx": BOX}])
    with pytest.raises(InputError, match=r"missing: gnd\.easy, gnd\.hard, gnd\.junk; is it of another data set"):
        load("roxford5k", instre)
    with pytest.raises(InputError, match=r"missing: gnd\.ok"):
        load("instre", revisited(tmp_path / "gnd_roxford5k.mat"))
    with pytest.raises(InputError, match="dataset 'oxford': expected one of boxes, oxford5k"):
        load("oxford", instre)


def test_a_full_list_counted_from_0_is_noticed_without_a_0(tmp_path):
    database = [f"oxford_{i:06}" for i in range(4993)]
    with pytest.raises(InputError, match="they begin at 0"):
        load("roxford5k", revisited(tmp_path / "x.mat", database=database, hard=[4992]))
    assert load("roxford5k", revisited(tmp_path / "x.mat", database=database, hard=[4993]))


def plain(value):
    """Return what SciPy reads as lists, texts and dicts."""
    if value.dtype.names:
        return [{name: plain(row[name]) for name in value.dtype.names} for row in value.ravel(order="F")]
    if value.dtype == object:
        return [plain(each) for each in value.ravel(order="F")]
    if value.dtype.kind == "U":
        return str(value[0]) if value.size else ""
    return value.ravel(order="F").tolist()


def lists(value):
    if isinstance(value, list):
        return [lists(each) for each in value]
    if isinstance(value, dict):
        return {name: lists(each) for name, each in value.items()}
    return value if isinstance(value, str) else value.tolist()


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path, compressed):
    cell = np.empty((2, 2), object)
    cell[:] = [["é", "text"], [np.arange(6).reshape(2, 3), np.zeros((0, 0))]]
    inner = np.array([([[1, 2]], "a"), ([[3.5]], "bc")], [("numbers", object), ("name", object)])
    content = {"cell": cell, "gnd": inner.reshape(1, 2), "small": np.uint8([[200]]), "one": 1.5, "none": ""}
    scipy.io.savemat(tmp_path / "x.mat", content, do_compression=compressed)
    found = matfile.loads((tmp_path / "x.mat").read_bytes())

    assert lists(found) == {name: plain(scipy.io.loadmat(tmp_path / "x.mat")[name]) for name in content}


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind, shape, body, name=b"x"):
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, head + element(1, name) + body)


def variables(*contents):
    packed = [zlib.compress(each) for each in contents]
    return b"MATLAB 5.0".ljust(124) + b"\0\x01IM" + b"".join(struct.pack("<II", 15, len(x)) + x for x in packed)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ([array(1, [1, 2_000_000], element(14, b"") * 2_000_000)], "more arrays"),
        (
            [array(1, [1, 400_000], element(14, b"") * 400_000)] * 3,
            "more arrays",
        ),  # the limit is per file, not per variable
        ([array(2, [1, 0], element(5, struct.pack("<i", 1)) + element(1, b"a" * 2_000_000))], "more arrays"),
        ([array(9, [70_000_000, 1], element(2, bytes(70_000_000)))], "larger than any ground truth"),
        ([array(9, [30_000_000, 1], element(2, bytes(30_000_000)))] * 3, "larger than any ground truth"),
        ([array(9, [1] * 1000, element(2, b"1"))], "without kind or size"),
    ],
    ids=["cells", "cells of three", "fields", "bytes", "bytes of three", "dimensions"],
)
def test_a_small_file_cannot_fill_the_memory(contents, says):
    content = variables(*contents)
    assert len(content) < 350_000
    with pytest.raises(ValueError, match=says):
        matfile.loads(content)


@pytest.mark.shared_data
def test_official_files_are_read_as_scipy_reads_them(shared_data):
    files = sorted((shared_data / "groundtruth").rglob("gnd_*.mat"))
    assert len(files) == 8
    for file in files:
        expected = {name: plain(value) for name, value in scipy.io.loadmat(file).items() if not name.startswith("__")}
        assert lists(matfile.loads(file.read_bytes())) == expected, file.name


class Trap:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_never_read(tmp_path):
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "renamed.mat").write_bytes(pickle.dumps(Trap()))

    with pytest.raises(InputError, match=r"use gnd_roxford5k\.mat"):
        load("roxford5k", tmp_path / "gnd_roxford5k.pkl")
    with pytest.raises(InputError, match="expected the MATLAB file"):
        load("roxford5k", tmp_path / "renamed.mat")
    with pytest.raises(InputError, match="cannot be read"):
        load("roxford5k", tmp_path / "nothing.mat")


def test_a_damaged_file_is_one_line(tmp_path):
    whole = revisited(tmp_path / "gnd.mat").read_bytes()
    random = np.random.default_rng(0)
    for length in (0, 10, 128, 200, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut.mat").write_bytes(whole[:length])
        with pytest.raises(InputError):
            load("roxford5k", tmp_path / "cut.mat")
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[int(random.integers(len(whole)))] ^= 255
        (tmp_path / "flipped.mat").write_bytes(damaged)
        with suppress(InputError):  # and nothing else
            load("roxford5k", tmp_path / "flipped.mat")


def test_boxes_of_single_objects_are_read_beside_the_photos(tmp_path):
    names = ["INSTRE-S1/01a/001.jpg", "INSTRE-S1/01a/002.jpg", "INSTRE-M/01/003.jpg"]
    (tmp_path / "INSTRE-S1" / "01a").mkdir(parents=True)
    (tmp_path / "INSTRE-M" / "01").mkdir(parents=True)
    (tmp_path / "INSTRE-S1" / "01a" / "001.txt").write_text("10 20 30 40\n")  # x, y, width, height
    (tmp_path / "INSTRE-M" / "01" / "003.txt").write_text("1 2 3 4\n5 6 7 8\n")  # two objects: ambiguous
    record = {"ok": [1, 2, 3], "bbx": BOX}
    truth = load("instre", write_mat(tmp_path / "gnd_instre.mat", names, ["INSTRE-S1/01a/009.jpg"], [record]))

    (query,) = truth.queries
    assert query.positives == set(names)
    assert query.boxes == {"INSTRE-S1/01a/001.jpg": (10, 20, 40, 60)}
    assert query.label == "01a"
    assert truth.official == (1250, 27293)


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_name_matches_the_photo_whose_path_ends_with_it():
    photos = ["paris/defense/paris_defense_000000.jpg", "x/INSTRE-M/01/102.jpg", "x/INSTRE-M/02/102.jpg", "y/102.png"]

    assert matching.match(["paris_defense_000000"], photos) == {"paris_defense_000000": photos[0]}
    assert matching.match(["INSTRE-M/01/102.jpg"], photos) == {"INSTRE-M/01/102.jpg": photos[1]}
    assert matching.match(["102.png"], photos) == {"102.png": photos[3]}
    assert matching.match(["STRE-M/01/102.jpg", "defense_000000", "INSTRE-M/01/102.png", "gone"], photos) == {}


def test_a_name_that_matches_two_photos_is_an_error():
    with pytest.raises(InputError, match=r"could be 'a/x\.jpg' or 'b/x\.png'"):
        matching.match(["x"], ["b/x.png", "a/x.jpg"])


def test_photos_of_the_csv_format_are_named_exactly(tmp_path):
    truth = GroundTruth("boxes", (Query("q", None, frozenset({"p"})),))

    assert matching.resolve(truth, ["q.jpg", "p.jpg"]) is truth


@pytest.mark.parametrize("exact", [True, False])
def test_names_of_another_unicode_form_match_if_no_name_is_the_very_one(exact):
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    truth = GroundTruth("boxes", (Query(composed, None, frozenset({composed, "p.jpg"})),), exact_names=exact)
    [query] = matching.resolve(truth, [decomposed, "p.jpg"]).queries
    assert (query.image, query.positives) == (decomposed, {decomposed, "p.jpg"})
    [query] = matching.resolve(truth, [composed, decomposed, "p.jpg"]).queries
    assert query.image == composed
    assert matching.match(["caf\u00e9"], [f"below/{decomposed}"]) == {"caf\u00e9": f"below/{decomposed}"}


# --- scores --------------------------------------------------------------------------------------------------------


def scored(query, names):
    ranking = Ranking(np.arange(len(names)), np.arange(len(names), dtype=np.float32), lambda i: np.zeros(4, np.float32))
    return scoring.score(query, None, ranking, names, {name: i for i, name in enumerate(names)}, keep_query=True)


def test_scores_equal_those_of_the_whole_list():
    """Only the places of positives and junk are computed; measures of the whole list are the reference."""
    random = np.random.default_rng(0)
    for _ in range(300):
        names = [f"photo-{i}" for i in range(int(random.integers(1, 40)))]
        kinds = random.choice(["positive", "junk", "both", "other"], size=len(names), p=[0.3, 0.2, 0.1, 0.4])
        positives, junk = (
            {name for name, kind in zip(names, kinds, strict=True) if kind in (wanted, "both")}
            for wanted in ("positive", "junk")
        )
        positives |= {"absent"}
        order = random.permutation(len(names))
        ranking = Ranking(order, np.zeros(len(names), np.float32), lambda i: np.zeros(4, np.float32))
        own = names[0] if random.random() < 0.5 else "elsewhere"
        query = Query(own, None, frozenset(positives), frozenset(junk))
        ids = {name: i for i, name in enumerate(names)}
        found = scoring.score(query, None, ranking, names, ids, keep_query=False).score

        ranked = [names[i] for i in order if names[i] != own]
        assert found.ap == pytest.approx(metrics.average_precision(ranked, positives - {own}, junk))
        assert found.precision == metrics.precision_at((1, 5, 10), metrics.places(ranked, positives - {own}, junk))


def test_failures_equal_those_of_the_whole_list():
    """The reference reads the whole list, photo by photo."""
    random = np.random.default_rng(1)
    for _ in range(300):
        names = [f"photo-{i:02}" for i in range(int(random.integers(1, 40)))]
        kinds = random.choice(["positive", "junk", "other"], size=len(names), p=[0.3, 0.2, 0.5])
        positives, junk = (
            {name for name, kind in zip(names, kinds, strict=True) if kind == wanted} for wanted in ("positive", "junk")
        )
        positives |= {"absent"}
        # Each reported box is 10 wide; the true box is its left part of the width in ``widths``.
        widths = {name: float(random.integers(1, 11)) for name in sorted(positives)}
        true = {name: (0.0, 0.0, width, 1.0) for name, width in widths.items()}
        order = random.permutation(len(names))
        whole = np.array([0, 0, 10, 1], np.float32)
        ranking = Ranking(order, np.ones(len(names), np.float32), lambda i, whole=whole: whole)
        own = names[0] if random.random() < 0.5 else "elsewhere"
        query = Query(own, None, frozenset(positives), frozenset(junk), true)
        ids = {name: i for i, name in enumerate(names)}
        found = scoring.score(query, None, ranking, names, ids, keep_query=False).failures

        ranked = [names[i] for i in order if names[i] != own]
        ranks = [rank for rank, name in enumerate(ranked, start=1) if name in positives]
        wrong = [rank for rank, name in enumerate(ranked, start=1) if name not in positives | junk]
        ahead = [rank for rank in wrong if rank < max(ranks, default=0)]
        late = [rank for rank in ranks if ahead and rank > ahead[0]][::-1]
        bad = sorted((widths[ranked[rank - 1]] / 10, rank) for rank in ranks if rank <= 20)
        bad = [(overlap, rank) for overlap, rank in bad if overlap < 0.5]
        assert (found.ranks, found.unranked) == (tuple(ranks), ("absent",))
        assert [match.rank for match in found.false_positives.shown] == ahead[:6]
        assert [match.rank for match in found.misses.shown] == late[:6]
        assert [(overlap, match.rank) for match, overlap in found.misplaced.shown] == bad[:6]
        assert (found.false_positives.total, found.misses.total, found.misplaced.total) == (
            len(ahead), len(late), len(bad)
        )  # fmt: skip
        for match in (*found.false_positives.shown, *found.misses.shown):
            assert ranked[match.rank - 1] == match.image


def test_a_query_without_positives_has_no_failures():
    query = Query("a", None, frozenset("a"))
    ranking = Ranking(np.arange(2), np.ones(2, np.float32), lambda i: np.zeros(4, np.float32))

    assert scoring.score(query, None, ranking, ["a", "b"], {"a": 0, "b": 1}, keep_query=False).failures is None


def test_each_difficulty_is_scored_by_its_own_answers():
    grades = {
        "easy": Answers(frozenset("e"), frozenset("jh")),
        "medium": Answers(frozenset("eh"), frozenset("j")),
        "hard": Answers(frozenset("h"), frozenset("je")),
    }
    hardly = grades | {"easy": Answers(frozenset(), frozenset("jeh"))}
    outcomes = [
        scored(Query("q", None, frozenset("eh"), frozenset("j"), difficulties=grades), list("xejh")),
        scored(Query("p", None, frozenset("eh"), frozenset("j"), difficulties=hardly), list("ehxj")),
    ]
    means = scoring.summary(outcomes)

    # First query. Easy and hard: x, then one positive. Medium: x, e, h.
    medium = (0 + 1 / 2) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2
    assert outcomes[0].difficulties["easy"] == scoring.Score(0.25, {1: 0, 5: 1 / 2, 10: 1 / 2})
    assert outcomes[0].difficulties["hard"] == scoring.Score(0.25, {1: 0, 5: 1 / 2, 10: 1 / 2})
    assert outcomes[0].difficulties["medium"].ap == pytest.approx(medium)
    assert outcomes[0].difficulties["medium"].precision == {1: 0, 5: 2 / 3, 10: 2 / 3}
    # The second has no easy positives, and is left out of only that mean.
    assert outcomes[1].difficulties["easy"] is None
    assert means["difficulties"]["easy"] == {"queries": 1, "mAP": 0.25, "mP@1": 0, "mP@5": 0.5, "mP@10": 0.5}
    assert means["difficulties"]["medium"]["mAP"] == means["mAP"] == pytest.approx((medium + 1) / 2, abs=1e-6)
    assert means["difficulties"]["hard"]["mP@1"] == 0.5


# --- the official files --------------------------------------------------------------------------------------------


def perfect(query, database, difficulty=None):
    """Score a perfect ranking of a whole database: positives, then all other photos shuffled."""
    answers = query.difficulties[difficulty] if difficulty else query
    rest = sorted(set(database) - answers.positives)
    np.random.default_rng(0).shuffle(rest)
    names = [*sorted(answers.positives), *rest]
    order = np.arange(len(names))
    ranking = Ranking(order, order.astype(np.float32), lambda i: np.zeros(4, np.float32))
    outcome = scoring.score(query, None, ranking, names, {name: i for i, name in enumerate(names)}, keep_query=True)
    return outcome.difficulties[difficulty] if difficulty else outcome.score


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("dataset", "folder", "listed"),
    [
        ("oxford5k", "oxford5k_gt_files_170407", "oxford5k_imlist.txt"),
        ("paris6k", "paris6k_gt_from_mat", "paris6k_imlist.txt"),
    ],
)
def test_a_perfect_ranking_of_every_building_is_1(shared_data, dataset, folder, listed):
    truth = load(dataset, shared_data / "groundtruth" / folder)
    database = (shared_data / "groundtruth" / listed).read_text().split()

    assert (len(truth.queries), len(database)) == truth.official
    assert set(Counter(query.label.rpartition("_")[0] for query in truth.queries).values()) == {5}
    for query in truth.queries:
        assert query.image in query.positives
        assert query.positives <= set(database)
        assert not query.positives & query.junk
        found = perfect(query, database)
        assert found.ap == pytest.approx(1)
        assert set(found.precision.values()) == {1}


@pytest.mark.shared_data
@pytest.mark.parametrize("dataset", ["roxford5k", "rparis6k"])
def test_a_perfect_ranking_of_every_revisited_query_is_1(shared_data, dataset):
    file = shared_data / "groundtruth" / "mat" / f"gnd_{dataset}.mat"
    truth = load(dataset, file)
    database = [str(cell[0]) for cell in scipy.io.loadmat(file)["imlist"].ravel()]

    assert (len(truth.queries), len(database)) == truth.official
    assert not {query.image for query in truth.queries} & set(database)
    dropped = Counter()
    for query in truth.queries:
        for difficulty in ("easy", "medium", "hard"):
            found = perfect(query, database, difficulty)
            if found is None:
                dropped[difficulty] += 1
                continue
            assert found.ap == pytest.approx(1)
            assert set(found.precision.values()) == {1}
    assert dropped == ({"easy": 2} if dataset == "roxford5k" else {})


@pytest.mark.shared_data
def test_the_official_files_of_instre_are_read(shared_data):
    truth = load("instre", shared_data / "groundtruth" / "instre")
    database = set().union(*(query.positives for query in truth.queries))

    assert len(truth.queries) == 1250
    assert not {query.image for query in truth.queries} & database
    # The first query is of the first object of the first part: indices off by one would name another object.
    first = truth.queries[0]
    assert "INSTRE-S1/01a_canada_book/001.jpg" in first.positives
    assert {name.split("/")[1] for name in first.positives if name.startswith("INSTRE-S1")} == {"01a_canada_book"}
    assert perfect(first, database).ap == pytest.approx(1)


@pytest.mark.shared_data
@pytest.mark.parametrize(("dataset", "other"), [("roxford5k", "rparis6k"), ("rparis6k", "roxford5k"),
                                                ("roxford5k", "oxford5k")])  # fmt: skip
def test_official_files_of_another_data_set_are_refused(shared_data, dataset, other):
    with pytest.raises(InputError, match=r"of another data set|is it the ground truth of"):
        load(dataset, shared_data / "groundtruth" / "mat" / f"gnd_{other}.mat")


@pytest.mark.shared_data
def test_official_files_counted_from_0_are_refused(shared_data, tmp_path):
    graded = ("easy", "hard", "junk")
    for dataset, folder, fields in (("roxford5k", "mat", graded), ("rparis6k", "mat", graded),
                                    ("instre", "instre", ("ok",))):  # fmt: skip
        content = scipy.io.loadmat(shared_data / "groundtruth" / folder / f"gnd_{dataset}.mat")
        for row in content["gnd"].ravel():
            for field in fields:
                row[field] = row[field].astype(np.int32) - 1
        kept = {name: content[name] for name in ("imlist", "qimlist", "gnd")}
        scipy.io.savemat(tmp_path / "x.mat", kept)
        with pytest.raises(InputError, match="they begin at 0"):
            load(dataset, tmp_path / "x.mat")
