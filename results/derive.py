"""Rows and figures that ``tables.md`` shows and that have to be computed from the results files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import correlation
from typing import Any

from udq.evaluation.by_size import SIZES
from udq.indexing.drift import Drift

HERE = Path(__file__).resolve().parent
# Collection -> its folder of results of ``udq reproduce all``.
REPRODUCED = {"the demo": "reproduce-demo", "INSTRE": "reproduce-instre_dev"}
# Name, content, data sets, number of trainings with the default preset and with the paper's.
EXPERIMENTS = (
    ("table2", "M and K, without and with training", "oxford5k", "2", "12"),
    ("table3", "M and K, two networks, distractors", "oxford5k, flickr100k", "4", "48"),
    ("table4", "as table 3, on Paris", "paris6k, flickr100k", "4", "48"),
    ("table5", "refinements: Baseline, PBR, CBR, BFR, without and with post-processing", "all three", "16", "16"),
    ("table6", "UDQ-BFR and real-valued methods", "all three", "4", "4"),
    ("table7", "search time: codes, hashes, real-valued", "oxford5k, paris6k", "2", "2"),
    ("fig3", "iterations of module 2, two networks", "oxford5k, paris6k", "2 of 6 rounds", "4 of 6 rounds"),
    ("fig4", "lambda", "oxford5k, paris6k", "8", "8"),
    ("fig5", "the first photos of five queries", "all three", "4", "4"),
)
PAPER_NAMES = {
    "oxford5k": "Oxford5K", "oxford105k": "Oxford105K", "paris6k": "Paris6K", "paris106k": "Paris106K",
    "vgg16": "VGG16", "resnet101-v1": "ResNet101",
}  # fmt: skip
_ACCURACY = {
    "instre_dev": "INSTRE, 1,500 photos: **default**",
    "instre_dev-untrained": "`--no-train`",
    "instre_dev-untrained-whitened": "`--no-train`, whitened",
    "instre_dev-m4": "`--subspaces 4`",
    "instre_dev-untrained-m4": "`--subspaces 4 --no-train`",
    "instre_dev-fast": "`--preset fast`",
    "demo": "composed demo, 130 photos: **default**",
    "demo-end-to-end": "`--end-to-end`",
    "demo-untrained": "`--no-train`",
    "demo-untrained-whitened": "`--no-train`, whitened",
}
_WAYS = {
    "eager": "eager loop, one photo at a time",
    "maps": "eager loop, feature maps only",
    "extract torch": "`Extractor.extract`, PyTorch",
    "extract openvino": "`Extractor.extract`, OpenVINO",
    "index torch": "`udq index --no-train`, PyTorch",
    "index openvino": "`udq index --no-train`, OpenVINO",
}
_SCANS = {
    "all images": "full ranking, C++ extension",
    "all images, numba": "full ranking, numba",
    "faiss": "faiss, grouped by photo",
    "faiss, k=1": "faiss, nearest region only",
    "numpy, all images": "full ranking, NumPy",
    "read": "memory read",
}
# Titles of names that the results files use; other names are shown unchanged.
_PLAIN = {
    "BFR, trained weights alone, not averaged": "BFR, trained weights without averaging",
    "BFR, neighbours from anywhere": "BFR, neighbours from any photo",
    "BFR, module 1 alone": "BFR, module 1 only",
    "BFR, 2 iterations whatever comes": "BFR, always 2 iterations",
    "BFR, FC_S alone is trained": "BFR, only FC_S trained",
    "2 iterations whatever comes": "always 2 iterations",
    "trained weights alone, not averaged": "trained weights without averaging",
    "query: its crop alone, not its mirror image": "query: crop only, no mirror image",
    "query: three scales and their mirror images": "query: three scales with mirror images",
    "query: the same, averaged after the head": "query: three scales with mirror images, averaged after the head",
    "views: photos flipped, recoloured, smaller": "augmentation: photos flipped, recoloured or downscaled",
    "views: 4 regions a photo cut out": "augmentation: 4 cropped regions per photo",
    "weights: no near neighbours": "region weights: isolated regions count more",
    "weights: near neighbours": "region weights: regions with near neighbours count more",
    "drawn by the proposal network's order": "sampling by proposal score",
    "50 regions a photo": "50 regions per photo",
    "200 regions a photo": "200 regions per photo",
    "alpha-qe, photos, however unsure": "alpha-qe, photos, including unlikely ones",
    "right marks alone": "right marks only",
    "wrong marks alone": "wrong marks only",
    "before": "no marks",
    "SQLite, a row a photo": "SQLite, one row per photo",
    "SQLite, a row an array": "SQLite, one row per array",
    "Lance, a row a photo": "Lance, one row per photo",
    "LMDB, a value an array": "LMDB, one value per array",
    "1 thread, here": "1 thread, local",
    "1 shards": "1 shard",
}
# Assumptions of the plan in docs/scaling.md: regions per photo, cores and bytes of memory per machine, replicas, and
# the share of memory that codes may use.
_REGIONS, _PROCESSORS, _MEMORY, _REPLICAS, _FREE = 95, 16, 64e9, 2, 0.75

Row = Mapping[str, Any]


class Figures(dict[Any, Any]):
    """A JSON object whose keys are also attributes."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"figure {key!r}") from None


def read(name: str) -> Figures:
    """Return the figures of ``results/NAME.json``."""
    path = HERE / f"{name}.json"
    if not path.is_file():
        sys.exit(f"results/{name}.json: missing, but a page has a table of it; measure it as results/run.sh does")
    figures: Figures = json.loads(path.read_text(encoding="utf-8"), object_hook=Figures)
    return figures


def plain(name: str) -> str:
    """Return the title of a name in the results files."""
    return _PLAIN.get(name, name)


def accuracy() -> list[tuple[str, Figures]]:
    """Return title and report of each collection that ``results/run.sh`` evaluates."""
    return [(title, read(name)) for name, title in _ACCURACY.items()]


def ways(rows: Row) -> list[tuple[str, Row]]:
    """Return the ways to extract features, in the order of the table."""
    return [(title, rows[name]) for name, title in _WAYS.items()]


def fastest(size: Figures) -> str:
    """Return the time and the name of the fastest kernel."""
    name, row = next(iter(size.rows.items()))
    return f"{row.median_ms:.3g} ms ({name})"


def scans(figures: Figures) -> Iterator[Row]:
    """Yield every method for each number of codes, with the time of a memory read and the ratio to faiss."""
    wanted = f"top {figures.setting.wanted} photos"
    titles = {name: f"`{name}`, {wanted}" for name in figures.setting.kernels} | _SCANS
    for size in figures.sizes:
        for name in (name for name in titles if name in size.rows):
            beside = {"read": size.rows.read.median_ms, "over": size.faiss_over[name]}
            yield {**size.rows[name], **beside, "codes": size.codes, "title": titles[name]}


def limits(figures: Figures) -> Iterator[Row]:
    """Yield each hardware limit with one thread and with several."""
    several, rates = f", {figures.setting.threads} threads", figures.per_second
    for name in (name for name in rates if not name.endswith(several)):
        unit = "10⁹ operations/s" if name.startswith("multiply") else "GB/s"
        yield {"name": name, "one": rates[name], "several": rates.get(name + several), "unit": unit}


def iterations(collections: Row) -> Iterator[Row]:
    """Yield every round of each collection; only its first row has the name."""
    for name, collection in collections.items():
        for number, row in enumerate(collection.rows, start=-1):
            after = {-1: "no training", 0: "module 1"}.get(number, f"iteration {number}")
            yield {**row, "collection": name if number < 0 else "", "after": after}


def gain(rows: Row, name: str) -> str:
    """Return the mAP of codes and of real-valued features: the value for the default, the gain for an option."""
    if name == "default":
        return " / ".join(f"{sum(values) / len(values):.3f}" for values in rows[name].values())
    # Compared seed by seed: an option that lost with the first seed was not run with the others.
    pairs = [[*zip(rows[name][key], rows["default"][key], strict=False)] for key in ("codes", "real_valued")]
    return " / ".join(f"{sum(value - default for value, default in each) / len(each):+.4f}" for each in pairs)


def trained_and_not(rows: Row) -> list[Row]:
    """Return mAP without and with training for each M and K."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows.values():
        key = "trained" if row.changes.get("training", {}).get("enabled", True) else "untrained"
        setting = row.changes.quantizer
        found.setdefault((setting.subspaces, setting.codewords), {})[key] = row.codes
    return [{"M": m, "K": k, **both} for (m, k), both in found.items()]


def listed(counts: Mapping[str, int]) -> str:
    """Return numbers of photos by kind."""
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def drifts(rows: list[Figures]) -> Iterator[Row]:
    """Yield each row with the advice that udq gives for such a collection."""
    for row in rows:
        found = Drift(row.older, row.newer, sum(row.photos.values()), sum(row.added.values()))
        yield {**row, "excess": found.excess, "outgrown": found.outgrown}


def load(figures: Figures) -> Iterator[Row]:
    """Yield the load of one client and of many clients for each kind of box."""
    for boxes, found in figures.load.items():
        yield {**found.alone, "boxes": boxes, "who": "1 client", "of_ideal": None}
        who = f"{figures.clients} clients, {figures.seconds:.0f} s"
        yield {**found.many, "boxes": boxes, "who": who, "of_ideal": found.of_ideal}


def reranked(collections: list[Figures]) -> Iterator[Row]:
    """Yield each combination of stages, then the plain ranking of the queries that the last one was measured on."""
    for study in collections:
        for row in study.rows:
            stages, some = ", ".join(f"`{name}`" for name in row.stages) or "none", f" ({row.queries} queries)"
            few = "none_of_these" in row
            yield {**row, "found": row["all"], "collection": study.collection, "title": stages + some * few}
        if few:
            yield {"collection": study.collection, "title": f"none{some}", "found": row.none_of_these}


def sweeps(collections: list[Figures]) -> Iterator[Row]:
    """Yield every value of the parameters of stages, then database-side augmentation."""
    for study in collections:
        for what, values in study.sweeps.items():
            yield from ({"collection": study.collection, "what": what, "number": n, **values[n]} for n in values)
        for row in study.database_side_augmentation:
            what = f"database-side augmentation, alpha {row.alpha:g}"
            yield {"collection": study.collection, "what": what, "number": row.neighbours, "all": row.mAP}


def thresholds(figures: Figures) -> Iterator[Row]:
    """Yield the confidence thresholds of each collection in descending order, with the default marked."""
    for name, study in figures.collections.items():
        for row in sorted(study.thresholds, key=lambda row: -row.threshold):
            default = row.threshold == figures.default_threshold
            yield {**row, "title": name + f", {study.photos:,} photos" * default, "mark": "**" * default}


def search_speed(search: list[Figures]) -> float:
    """Return the codes per second of one shard."""
    few, many = search
    return float(1000 * (many.codes - few.codes) / (many.median_ms["1 shards"] - few.median_ms["1 shards"]))


def search_seconds(search: list[Figures], codes: float) -> float:
    """Return the modelled seconds of a query on one shard: a fixed cost and the scan of its codes."""
    few, speed = search[0], search_speed(search)
    return float(few.median_ms["1 shards"] / 1000 - few.codes / speed + codes / speed)


def plan(figures: Figures) -> Iterator[Row]:
    """Yield modelled machines, hours, traffic and latency for more photos than were measured."""
    worker = figures.index["1"].workers
    for photos in (10**7, 10**8, 10**9):
        codes = 8 * _REGIONS * photos
        machines = max(1, -(-_REPLICAS * codes // int(_FREE * _MEMORY)))
        rate, shards = worker.rate * machines * _PROCESSORS, machines * _PROCESSORS / _REPLICAS
        query = search_seconds(figures.search, codes / 8 / shards)
        yield {"photos": photos, "codes": codes, "machines": machines, "hours": photos / rate / 3600,
               "sent": worker.bytes * rate, "query": query}  # fmt: skip


def reproduced(table: str) -> list[tuple[str, Figures]]:
    """Return the results of ``udq reproduce`` for a table or figure on each collection."""
    return [(title, read(f"{folder}/{table}")) for title, folder in REPRODUCED.items()]


def columns(table: str) -> list[str]:
    """Return the columns of a table of the paper."""
    return [*dict.fromkeys(cell.column for cell in reproduced(table)[0][1].cells)]


def cells(table: str) -> Mapping[str, Row]:
    """Return the cells of a table of the paper by row and column: the paper's value, then the measured ones."""
    rows: dict[str, dict[str, str]] = {}
    for found in zip(*(figures.cells for _, figures in reproduced(table)), strict=True):
        first = found[0]
        values = [first.paper]
        if first.status != "published":
            places = ".3g" if first.measure.startswith("seconds") else ".3f"
            values = [first.paper or "–", *("–" if c.measured is None else f"{c.measured:{places}}" for c in found)]
        rows.setdefault(first.row, {})[first.column] = " / ".join(values)
    return rows


def notes(table: str) -> str:
    """Return the notes of ``udq reproduce`` on a table: collection, settings and machine of each measurement."""
    texts = []
    for title, folder in REPRODUCED.items():
        lines = (HERE / folder / f"{table}.md").read_text(encoding="utf-8").splitlines()
        texts.append("\n".join([f"{title}:\n", *(line for line in lines if line.startswith("- "))]))
    return "\n\n".join(texts)


def measured_on(cells: list[Figures]) -> list[int]:
    """Return the numbers of photos and of queries of a reproduction."""
    first = next(cell for cell in cells if "on" in cell)
    return [first.on.photos, first.on.queries]


def experiments() -> Iterator[Row]:
    """Yield every table and figure of the paper, with its needs and the time that its distinct cells took here."""
    for name, what, data, trainings, papers in EXPERIMENTS:
        found = [figures.cells for _, figures in reproduced(name)]
        each = [{cell.on.cell: cell.on.seconds_to_fit for cell in cells if "on" in cell}.values() for cells in found]
        yield {"name": name, "what": what, "data": data, "trainings": trainings, "papers": papers,
               "cells": sum(cell.status != "published" for cell in found[0]),
               "took": " / ".join(f"{sum(seconds):,.0f}" for seconds in each)}  # fmt: skip


def dry_run(figures: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what each part of the paper's experiments takes, for its two networks."""
    networks = figures["rpn"]
    rpn, units = [figures["rpn"][name] for name in networks], [figures["units"][name] for name in networks]

    def peak(command: str) -> list[str]:
        return [f"{figures['commands'][f'{command} {name}']['memory_bytes'] / 1e9:.1f} GB" for name in networks]

    def seconds(found: list[Mapping[str, float]], name: str) -> list[str]:
        return [f"{each[name]:.3g} s" for each in found]

    yield {
        "what": "region proposal network: a view through the convolutions",
        "values": seconds(rpn, "seconds_per_view"),
    }
    yield {"what": "a view in an epoch", "values": seconds(rpn, "seconds_per_view_and_epoch")}
    yield {"what": "peak memory", "values": peak("rpn")}
    yield {"what": f"passes for VOC2007: {rpn[0]['views']:,} views, those beyond 10 GB on disk in each epoch",
           "values": [f"{each['views_computed']:,}" for each in rpn]}  # fmt: skip
    yield {"what": "hours for VOC2007, extrapolated; with both cores to itself, at best",
           "values": [f"{each['hours']:.0f}; {each['hours_alone']:.0f}" for each in rpn]}  # fmt: skip
    yield {"what": "`udq reproduce`: a step of fine-tuning", "values": seconds(units, "seconds_per_step")}
    yield {"what": "features of a photo", "values": seconds(units, "seconds_per_photo_extracted")}
    yield {"what": "a photo in a training: 6 passes forward and backward, 4 forward",
           "values": seconds(units, "seconds_per_photo_and_training")}  # fmt: skip
    yield {"what": "peak memory", "values": peak("full")}


def dry_run_whole(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what each data set and network takes, in the paper's order."""
    order = list(PAPER_NAMES)
    return sorted(figures["whole"], key=lambda row: (order.index(row["backbone"]), order.index(row["dataset"])))


def share_of_cores(figures: Mapping[str, Any]) -> float:
    """Return the share of its threads' time that the commands of the dry run were given."""
    commands = figures["commands"].values()
    given = sum(each["seconds"] for each in commands) * figures["threads"]
    return sum(each["cpu_seconds"] for each in commands) / given


def recalls(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each proposer on each set, with the number of objects of each size."""
    for name, found in figures["sets"].items():
        objects = " / ".join(str(found["objects"].get(size.key, 0)) for size in SIZES)
        for proposer, row in found["proposers"].items():
            yield {"set": name, "proposer": proposer, "objects": objects, **row}


def pairs(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each shrinkage on each set."""
    for name, found in figures["sets"].items():
        for shrinkage, row in found["shrinkage"].items():
            yield {**found, "set": name, "shrinkage": shrinkage, **row}


def training_gains() -> Iterator[dict[str, Any]]:
    """Yield mAP of each set without and with training, and what trained collections say of themselves."""
    untrained, trained = read("accuracy_untrained"), read("accuracy")
    for name, found in trained.sets.items():
        before = untrained.sets[name]
        said = [run.estimate for run in found.runs]
        estimate = {key: sum(each[key] for each in said) / len(said) for key in ("before", "after", "error")}
        spread = max(before.spread.mAP, found.spread.mAP)
        gain = found.means.mAP - before.means.mAP
        yield {"name": name, "untrained": before.means, "trained": found.means, "spread": spread, "gain": gain,
               "estimate": estimate}  # fmt: skip


def gain_over_sets() -> Figures:
    """Return the means over all sets, the correlation of the gain with its estimate, and their mean difference."""
    rows = list(training_gains())
    gains = [row["gain"] for row in rows]
    said = [row["estimate"]["after"] - row["estimate"]["before"] for row in rows]
    return Figures(
        gain=sum(gains) / len(gains),
        correlation=correlation(gains, said),
        off=sum(abs(one - other) for one, other in zip(gains, said, strict=True)) / len(rows),
        sets=len(rows),
    )


def positives(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each number of right photos on each set."""
    for name, found in figures["sets"].items():
        for count, row in found["positives"].items():
            yield {"set": name, "count": count, "row": row, **row}


def marks(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield mAP on each set and on the mean, of queries with a wrong photo on the first page, by marks and gamma."""
    for rows in zip(*(found.rows for found in figures.sets.values()), strict=True):
        values = [row.mAP_of_the_rest_where_some_are_wrong for row in rows]
        yield {"marks": rows[0].marks, "gamma": rows[0].gamma, "values": values, "mean": sum(values) / len(values)}


def crowds(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each number of cells on each set, for queries with few verified photos and for crowds."""
    for name, found in figures["sets"].items():
        for crowd, by_cells in found["verified"].items():
            for cells, row in by_cells.items():
                yield {"set": name, "crowd": "a crowd" if crowd == "crowd" else "few", "cells": cells, **row}


def rules(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield rules that choose a state of training for each set: mAP on the mean, and against no training at worst."""
    found = {name: {state: each["mAP"] for state, each in measured.states.items()} for name, measured in
             figures.sets.items()}  # fmt: skip
    names = list(next(iter(found.values())))

    def best_of_others(name: str) -> str:
        others = [each for other, each in found.items() if other != name]
        return max(names, key=lambda state: sum(each[state] for each in others))

    def least_error(name: str) -> str:
        return min(names, key=lambda state: figures.sets[name].states[state]["error"])

    chosen = {state: dict.fromkeys(found, state) for state in names}
    chosen["early stopping by the participation ratio: **default**"] = {name: kept(figures, name) for name in found}
    chosen["the best on the mean of the other sets"] = {name: best_of_others(name) for name in found}
    chosen["the smallest quantization error"] = {name: least_error(name) for name in found}
    chosen["the best of each set, by its labels"] = {name: max(each, key=each.__getitem__) for name, each in
                                                     found.items()}  # fmt: skip
    for rule, states in chosen.items():
        gains = {name: found[name][state] - found[name]["untrained"] for name, state in states.items()}
        worst = min(gains, key=gains.__getitem__)
        mean = sum(found[name][state] for name, state in states.items()) / len(found)
        yield {"rule": rule, "mean": mean, "gain": gains[worst], "worst": worst}


def kept(figures: Figures, name: str) -> str:
    """Return the state of a set that early stopping keeps."""
    rounds = figures.sets[name].kept
    return f"round {rounds}, share 0.5" if rounds else "verified pairs alone"


def cell_gains(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield M x K with the gain of training on each set, and on the mean."""
    for cell in next(iter(figures.sets.values())).cells:
        each = [measured.cells[cell] for measured in figures.sets.values()]
        gains = [one["trained"] - one["untrained"] for one in each]
        subspaces, codewords = map(int, cell.split(" x "))
        yield {
            "cell": cell,
            "bytes": subspaces * (codewords - 1).bit_length() / 8,
            "untrained": sum(one["untrained"] for one in each) / len(each),
            "trained": sum(one["trained"] for one in each) / len(each),
            "gains": gains,
        }
