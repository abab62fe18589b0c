"""Write the tables of README.md and docs/ from the figures in this folder: python results/render.py [--check].

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is one of ``TABLES``. ``--check`` changes
nothing and exits 1 where a page is not what the figures say.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from udq.drift import Drift

HERE = Path(__file__).resolve().parent
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")))
_COUNTS = ("50", "100", "200", "500")
# Folders that ``udq reproduce all`` wrote, by the collection it measured on.
REPRODUCED = {"the demo": "reproduce-demo", "INSTRE": "reproduce-instre_dev"}
# Name, what it is, its data sets, trainings with the default preset and with the paper's.
EXPERIMENTS = (
    ("table2", "M and K, without and with training", "oxford5k", "2", "12"),
    ("table3", "M and K, two networks, distractors", "oxford5k, flickr100k", "4", "48"),
    ("table4", "the same on Paris", "paris6k, flickr100k", "4", "48"),
    ("table5", "refinements: Baseline, PBR, CBR, BFR, without and with post-processing", "all three", "16", "16"),
    ("table6", "UDQ-BFR beside real-valued methods", "all three", "4", "4"),
    ("table7", "search time: codes, hashes, real-valued", "oxford5k, paris6k", "2", "2"),
    ("fig3", "iterations of module 2, two networks", "oxford5k, paris6k", "2 of 6 rounds", "4 of 6 rounds"),
    ("fig4", "lambda", "oxford5k, paris6k", "8", "8"),
    ("fig5", "the first photos of five queries", "all three", "4", "4"),
)
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _figures(name: str) -> dict[str, Any]:
    path = HERE / f"{name}.json"
    if not path.is_file():
        sys.exit(f"results/{path.name}: missing, but a page has a table of it; measure it as results/run.sh does")
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def _markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _machine(provenance: dict[str, Any]) -> str:
    return f"{provenance['machine']['cpu']}, {provenance['machine']['cores']} cores, {provenance['date'][:10]}"


def accuracy() -> str:
    """Accuracy with and without training, a row a collection."""
    named = {
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
    rows = []
    for name, title in named.items():
        figures = _figures(name)
        boxes = figures["localisation"]["top_20"]
        rows.append(
            (
                title,
                f"{figures['bytes_per_region']:g}",
                f"{figures['mAP']:.3f}",
                f"{figures['real_valued']['mAP']:.3f}",
                f"{boxes['mean_iou']:.2f}",
                f"{boxes['share_iou_50']:.0%}",
            )
        )
    head = ("collection", "bytes a region", "mAP, codes", "mAP, real-valued", "mean IoU", "IoU at 0.5 or better")
    return _markdown(head, rows)


def speed() -> str:
    """Benchmarks beside their peers."""
    scan, index, memory = _figures("benchmark_scan"), _figures("benchmark_index"), _figures("benchmark_memory")
    small, large = memory["runs"]
    rows = [
        *_scans(scan),
        *_queries(_figures("benchmark_query")),
        *_photos(index),
        (f"peak memory of `udq index`, {large['photos']:,} photos", f"{large['peak_mib']:,.0f} MiB",
         f"{small['photos']:,} photos: {small['peak_mib']:,.0f} MiB", f"{memory['growth']:+.0%}"),
    ]  # fmt: skip
    return _markdown(("what", "udq", "beside it", "ratio"), rows) + f"\n{_machine(index['provenance'])}.\n"


def _photos(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of looking at photos and of whole builds, by each library, beside the loop one would write first."""
    rows, of = figures["rows"], f"{figures['photos']:,} photos, {figures['threads']} threads"
    beside = f"the packages' eager loop to regions and features: {rows['eager']['photos_per_second']:.0f} photos/s"
    titles = {
        "extract openvino": (f"photo to regions and features, {of}", " with `udq[openvino]`"),
        "extract torch": ("", " without"),
        "index openvino": ("the whole of `udq index --no-train`", " with it"),
        "index torch": ("", " without"),
    }
    return [
        (title, f"{rows[name]['photos_per_second']:.0f} photos/s{how}", "" if number else beside,
         f"{rows[name]['times_eager']:.1f}")
        for number, (name, (title, how)) in enumerate(titles.items())
    ]  # fmt: skip


def extraction() -> str:
    """Photos a second of each way to look at them, beside what the cores multiply at best."""
    figures = _figures("benchmark_index")
    titles = {
        "eager": "the packages' eager loop, one photo at a time",
        "maps": "the same to feature maps alone",
        "extract torch": "`Extractor.extract`, torch",
        "extract openvino": "`Extractor.extract`, OpenVINO",
        "index torch": "`udq index --no-train`, torch",
        "index openvino": "`udq index --no-train`, OpenVINO",
    }
    rows = []
    for name, title in titles.items():
        row = figures["rows"][name]
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        rate = f"{row['photos_per_second']:.1f}"
        rows.append((title, row["precision"], rate, f"{row['times_eager']:.2f}", share))
    peak = figures["peak_operations_per_second"]
    each = f"{figures['operations_per_photo'] / 1e9:.2f} billion operations a photo"
    best = ", ".join(f"{value / 1e9:,.0f} billion a second in {kind}" for kind, value in peak.items())
    cosines = ", ".join(
        f"{found['median']:.4f} by {name} (99% of regions at least {found['percentile_1']:.4f})"
        for name, found in figures["cosine_with_eager"].items()
    )
    head = ("way", "number format", "photos a second", "times the eager loop", "share of the peak")
    of = f"{figures['photos']:,} photos, {figures['threads']} threads, {_machine(figures['provenance'])}"
    return _markdown(head, rows) + (
        f"\n{of}. {each}; the cores multiply {best}. "
        f"Cosine of features of the same boxes with those of the eager loop: median {cosines}.\n"
    )


def _scans(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the nearest images, by the fastest kernel and without vectors, and of all, for each number of codes."""
    rows = []
    for size in figures["sizes"]:
        took, over = size["rows"], size["faiss_over"]
        kernel = next(iter(took))
        images = size["codes"] // figures["setting"]["regions_per_image"]

        def ms(name: str, took: dict[str, Any] = took) -> str:
            return f"{took[name]['median_ms']:.3g} ms"

        beside = f"faiss IndexPQ, k = {figures['setting']['faiss_k']:,}, grouped: {ms('faiss')}"
        first = f"{size['codes']:,} codes, the {figures['setting']['wanted']} nearest of {images:,} photos, one thread"
        rows.append((first, f"{ms(kernel)} ({kernel})", beside, f"{over[kernel]:.1f}"))
        if "portable" in took:
            rows.append(("", f"{ms('portable')} (portable)", "", f"{over['portable']:.1f}"))
        rows.append(("all of them ranked", ms("all images"), "", f"{over['all images']:.1f}"))
    return rows


def _queries(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of a whole query in a warm process, with all threads, and as a command."""
    warm, setting, floor = figures["warm"][-1], figures["setting"], figures["cold"]["import torch"]["median_s"]
    took = warm["median_ms"]
    name, cold = next((name, row) for name, row in reversed(figures["cold"].items()) if name != "import torch")
    return [
        (f"query of {setting['megapixels']:.0f} megapixel, {setting['codes']:,} codes, {warm['threads']} threads",
         f"{took['ours']:.0f} ms", f"eager float32 torch and faiss: {took['eager']:.0f} ms", f"{warm['ratio']:.1f}"),
        (f"`udq search` as a command, {name}", f"{cold['median_s']:.2f} s", f"`import torch` alone: {floor:.2f} s",
         f"{floor / cold['median_s']:.1f}"),
    ]  # fmt: skip


def scans() -> str:
    """Every contender of the scan's benchmark, for each number of codes."""
    figures = _figures("benchmark_scan")
    wanted = f"the {figures['setting']['wanted']} nearest photos"
    titles = {
        **{name: f"`{name}`, {wanted}" for name in figures["setting"]["kernels"]},
        "all images": "all photos ranked, extension",
        "all images, numba": "all photos ranked, numba",
        "faiss": "faiss, grouped into photos",
        "faiss, k=1": "faiss, the nearest region alone",
        "numpy, all images": "all photos ranked, NumPy",
        "read": "read",
    }
    rows = []
    for size in figures["sizes"]:
        for name, title in titles.items():
            if row := size["rows"].get(name):
                each = (f"{row['median_ms']:.3g} ms", f"{row['codes_per_second'] / 1e9:.2f}")
                bytes_read = f"{row['gigabytes_per_second']:.1f} GB/s"
                reached = f"{size['rows']['read']['median_ms'] / row['median_ms']:.0%}"
                rows.append(
                    (f"{size['codes']:,}", title, *each, bytes_read, reached, f"{size['faiss_over'][name]:.1f}")
                )
    head = ("codes", "", "median", "10⁹ codes a second", "bytes", "of reading alone", "faiss / this")
    return _markdown(head, rows) + f"\n{_machine(figures)}.\n"


def growth() -> str:
    """Milliseconds a query by the number of codes: every code looked at, a share of a batch, the inverted index."""
    figures = _figures("benchmark_growth")
    batch = figures["setting"]["batch"]
    ways = [f"{name}, {threads}" for name in ("scan", f"{batch} queries", "index") for threads in (1, 2)]
    rows = []
    for size in figures["sizes"]:
        took, index, peer = size["median_ms"], size["index"], size.get("faiss", {}).get("median_ms", {})
        rows.append((
            f"{size['codes']:,}",
            *(f"{took[way]:.3g} ms" for way in ways),
            f"{index['looked_at']:.0%}",
            f"{took['exact index, 2']:.3g} ms",
            *(f"{peer[name]:.3g} ms" if peer else "" for name in ("faiss IndexPQ", "faiss IndexIVFPQ")),
        ))  # fmt: skip
    head = (
        "codes", "scan, 1 thread", "2", f"a query of {batch}, 1 thread", "2", "index, 1 thread", "2",
        "codes it looks at", "exact index, 2 threads", "faiss IndexPQ", "IndexIVFPQ",
    )  # fmt: skip
    last = figures["sizes"][-1]["index"]
    return _markdown(head, rows) + (
        f"\n{_machine(figures)}; kernel {figures['setting']['kernel']}. The index of the last row took "
        f"{last['seconds_to_build']:.0f} s to sort and takes {last['bytes'] / 1e9:.1f} GB of memory.\n"
    )


def limits() -> str:
    """What the machine could do at best."""
    figures = _figures("benchmark_limits")
    rates, threads = figures["per_second"], figures["setting"]["threads"]
    rows = []
    for name in (name for name in rates if "threads" not in name):
        unit = "10⁹ operations/s" if name.startswith("multiply") else "GB/s"
        all_threads = rates.get(f"{name}, {threads} threads")
        rows.append((name, f"{rates[name] / 1e9:.3g} {unit}", f"{all_threads / 1e9:.3g} {unit}" if all_threads else ""))
    return _markdown(("", "one thread", f"{threads} threads"), rows) + f"\n{_machine(figures)}.\n"


def query() -> str:
    """The stages of a warm query by the number of threads, and what they could take at least."""
    figures, per_second = _figures("benchmark_query"), _figures("benchmark_limits")["per_second"]
    setting, columns = figures["setting"], figures["warm"]
    last = columns[-1]
    several = f", {last['threads']} threads" if last["threads"] > 1 else ""
    least = {
        "network": last["network_operations"] / per_second[f"multiply {last['precision']}{several}"],
        "scan": 8 * setting["codes"] / per_second["read"],  # one thread, as so few codes are not worth more
    }
    titles = {
        "decode": "decode, cut out, scale",
        "network": f"network ({last['network']}, {last['precision']}), the crop and its mirror image; pooling",
        "tables": "fully connected layers, tables of the codebooks",
        "scan": f"scan of {setting['codes']:,} codes ({setting['kernel']})",
        "localise": f"the boxes in {setting['wanted']} photos",
        "ours": "**all of it**",
        "eager": "eager: float32 torch, faiss",
    }
    rows = [
        (
            title,
            *(f"{column['median_ms'][name]:.1f} ms" for column in columns),
            f"{1e3 * least[name]:.2g} ms" if name in least else "",
        )
        for name, title in titles.items()
    ]
    rows.append(("eager / all of it", *(f"{column['ratio']:.1f}" for column in columns), ""))
    head = ("", *(f"{column['threads']} thread{'s' * (column['threads'] > 1)}" for column in columns), "at the limit")
    return _markdown(head, rows) + f"\n{_machine(figures)}.\n"


def cold() -> str:
    """What `udq search` takes as a command."""
    figures = _figures("benchmark_query")
    rows = [
        (
            "`python -c 'import torch'`" if name == "import torch" else f"`udq search`, {name}",
            f"{row['median_s']:.2f} s",
            f"{row['fastest_s']:.2f} s",
            f"{row['processor_s']:.2f} s",
        )
        for name, row in figures["cold"].items()
    ]
    return _markdown(("process", "median", "fastest", "of processors"), rows) + f"\n{_machine(figures)}.\n"


def memory() -> str:
    """Peak memory of building collections."""
    figures = _figures("benchmark_memory")
    rows = [
        (
            f"{run['photos']:,}",
            f"{run['peak_mib']:,.0f} MiB",
            f"{run['regions']:,}",
            f"{run['bytes_on_disk'] / 1e6:.1f} MB",
        )
        for run in figures["runs"]
    ]
    return _markdown(("photos", "peak memory", "regions", "on disk"), rows) + f"\n{_machine(figures['provenance'])}.\n"


def proposals() -> str:
    """Recall of the benchmark's objects and milliseconds a photo, a row a proposer."""
    figures = _figures("benchmark_proposals")["recall"]
    rows = []
    for name, row in figures["proposers"].items():
        half, more = row["recall"]["0.5"], row["recall"]["0.7"]
        each = [f"{100 * half[count]:.0f} / {100 * more[count]:.0f}" for count in _COUNTS]
        rows.append((f"`{name}`", f"{row['regions']:.0f}", *each, f"{row['ms']:.1f}"))
    rows.append(("the backbone before them", "", *[""] * len(_COUNTS), f"{figures['backbone_ms']:.1f}"))
    head = ("proposer", "regions", *(f"first {count}" for count in _COUNTS), "ms a photo")
    return _markdown(head, rows)


def regions() -> str:
    """What a search makes of each proposer's regions."""
    rows = []
    for name, seeds in _figures("benchmark_proposals")["retrieval"].items():
        mean = {
            key: sum(value(row) for row in seeds) / len(seeds)
            for key, value in {
                "mAP": lambda row: row["mAP"],
                "iou": lambda row: row["localisation"]["top_20"]["mean_iou"],
                "share": lambda row: row["localisation"]["top_20"]["share_iou_50"],
                "regions": lambda row: row["regions"],
            }.items()
        }
        sizes = [row["mAP"] for row in seeds[0]["mAP_by_size"].values()]
        by_size = " / ".join("–" if size is None else f"{size:.2f}" for size in sizes)
        rows.append(
            (name, f"{mean['regions']:,.0f}", f"{mean['mAP']:.3f}", by_size, f"{mean['iou']:.2f}",
             f"{mean['share']:.0%}")
        )  # fmt: skip
    head = ("proposer", "regions", "mAP", "of objects < 5 % / 5–20 % / > 20 %", "mean IoU", "IoU at 0.5 or better")
    return _markdown(head, rows)


def training(name: str = "benchmark_training") -> str:
    """Refinements, mean over seeds."""
    rows = [
        (variant, f"{row['codes']:.3f}", f"{row['codes_by_eq5']:.3f}", f"{row['real_valued']:.3f}",
         f"{row['seconds']:.0f}")
        for variant, row in _figures(name)["rows"].items()
    ]  # fmt: skip
    return _markdown(("", "mAP, codes", "by eq. 5 alone", "mAP, real-valued", "seconds"), rows)


def ablations() -> str:
    """The default with one choice changed at a time, one seed."""
    return training("benchmark_ablations")


def table2() -> str:
    """Table 2 of the paper: subspaces and codewords, with and without training."""
    found: dict[tuple[int, int], dict[bool, float]] = {}
    for row in _figures("benchmark_table2")["rows"].values():
        setting = row["changes"]["quantizer"]
        trained = row["changes"].get("training", {}).get("enabled", True)
        found.setdefault((setting["subspaces"], setting["codewords"]), {})[trained] = row["codes"]
    rows = [
        (m, k, f"{m * (k - 1).bit_length() / 8:g}", f"{both[False]:.3f}", f"{both[True]:.3f}",
         f"{both[True] - both[False]:+.3f}")
        for (m, k), both in found.items()
    ]  # fmt: skip
    return _markdown(("M", "K", "bytes a region", "mAP, no training", "mAP, trained", "gain"), rows)


def sweep(name: str) -> str:
    """One setting swept, mean over seeds and how far they lie apart."""
    rows = []
    for variant, row in _figures(name)["rows"].items():
        each = row["codes_of_each_seed"]
        rows.append(
            (variant, f"{row['codes']:.3f}", f"{min(each):.3f} to {max(each):.3f}", f"{row['real_valued']:.3f}",
             f"{row['seconds']:.0f}")
        )  # fmt: skip
    return _markdown(("", "mAP, codes", "its seeds", "mAP, real-valued", "seconds"), rows)


def weights() -> str:
    """Fig. 4 of the paper: lambda."""
    return sweep("benchmark_lambda")


def iterations() -> str:
    """Fig. 3 of the paper: iterations of module 2, and the signs of when to stop."""
    rows = []
    for name, collection in _figures("benchmark_stopping")["collections"].items():
        for iteration, row in enumerate(collection["rows"], start=-1):
            when = "no training" if iteration < 0 else "module 1" if iteration == 0 else f"iteration {iteration}"
            rows.append(
                (name if iteration < 0 else "", when, f"{row['participation_ratio']:.1f}", f"{row['agreement']:.3f}",
                 f"{row['codes']:.3f}", f"{row['real_valued']:.3f}")
            )  # fmt: skip
    return _markdown(("", "after", "participation ratio", "agreement", "mAP, codes", "mAP, real-valued"), rows)


def options() -> str:
    """What was tried beyond the paper: the default's mAP, and what each option adds to it."""
    collections = _figures("benchmark_options")["collections"]
    names = next(iter(collections.values()))["rows"]

    def cell(rows: dict[str, Any], name: str) -> str:
        found = []
        for key in ("codes", "real_valued"):
            values, default = rows[name][key], rows["default"][key]
            # Pairs of one seed: a row that lost with the first one has no others.
            gains = [value - other for value, other in zip(values, default, strict=False)]
            mean = sum(values if name == "default" else gains) / len(values)
            found.append(f"{mean:.3f}" if name == "default" else f"{mean:+.4f}")
        return " / ".join(found)

    rows = [
        (name, len(row["codes"]), *(cell(each["rows"], name) for each in collections.values()))
        for name, row in names.items()
    ]
    return _markdown(("mAP of codes / real-valued", "seeds", *collections), rows)


def neighbours() -> str:
    """What the neighbours of a refinement cost."""
    figures = _figures("benchmark_refine")
    rows = []
    for row in figures["rows"]:
        if "seconds" in row:
            seconds = f"{row['seconds']:,.0f}"
        else:
            seconds = f"about {row['seconds_scaled']:,.0f}, scaled up from {row['queries_timed']:,} regions"
        recall = f"{row['recall_at_10']:.3f}" if "recall_at_10" in row else ""
        rows.append((f"{row['regions']:,}", row["what"], seconds, recall, f"{row['peak_mib']:,.0f} MiB"))
    head = ("regions", "", "seconds", "of the exact neighbours found", "peak memory")
    return _markdown(head, rows) + f"\n{_machine(figures['provenance'])}, threads: {figures['threads']}.\n"


def places() -> str:
    """Small collections of places with and without training, a row a size."""
    rows = _figures("benchmark_places")["rows"]
    names = list(rows[0]["mAP"])
    return _markdown(("photos", *names), ((row["photos"], *(f"{row['mAP'][n]:.3f}" for n in names)) for row in rows))


def choices() -> str:
    """One default changed at a time."""
    rows = [
        (name, f"{row['mAP']:.3f}", f"{row['mean_iou']:.2f}", f"{row['regions']:,}")
        for name, row in _figures("benchmark_choices")["rows"].items()
    ]
    return _markdown(("", "mAP", "mean IoU", "regions"), rows)


def small_collections() -> str:
    """Codes fitted to a small collection itself beside a model fitted to other photos."""
    rows = [
        (row["photos"], f"{row['own']:.3f}", f"{row['generic']:.3f}")
        for row in _figures("benchmark_small_collections")["rows"]
    ]
    return _markdown(("photos", "fitted to themselves", "fitted to other photos"), rows)


def drift() -> str:
    """What training anew is worth after photos were added, beside what udq goes by, and what it says."""
    rows = []
    for row in _figures("benchmark_drift")["rows"]:
        photos, added = (", ".join(f"{n:,} {kind}" for kind, n in row[of].items()) for of in ("photos", "added"))
        counts = (sum(row[of].values()) for of in ("photos", "added"))
        found = Drift(row["older"], row["newer"], *counts)
        gains = row["gain_of_each_seed"]
        spread = f" ({min(gains):+.3f} to {max(gains):+.3f})" if len(gains) > 1 else ""
        rows.append(
            (
                row["model"],
                photos,
                added,
                *(f"{each:.3f}" for each in (found.older, row["held_out"], found.newer, found.excess)),
                f"{row['mAP']:.3f} → {row['mAP_anew']:.3f}",
                f"{sum(gains) / len(gains):+.3f}{spread}",
                "retrain" if found.outgrown else "–",
            )
        )
    head = ("model", "photos", "added", "error when fitted", "held out", "of added", "excess",
            "mAP → fitted anew", "gain", "udq says")  # fmt: skip
    return _markdown(head, rows)


def _reproductions(name: str) -> dict[str, dict[str, Any]]:
    """Return what each folder of ``udq reproduce`` has of a table or figure; a folder that is not there has nothing."""
    folders = {title: HERE / folder for title, folder in REPRODUCED.items() if (HERE / folder).is_dir()}
    return {title: _figures(f"{folder.name}/{name}") for title, folder in folders.items()}


def robustness() -> str:
    """What was done to collections, what must come of it, and what came."""
    figures = _figures("benchmark_robustness")
    rows: list[tuple[str, str, str]] = []
    if killed := figures.get("kills"):
        found = killed["by_operation"]
        outcomes = {
            name: sum(row.get(name, 0) for row in found.values()) for name in ("before", "some batches", "after")
        }
        each = ", ".join(f"{name} {row['kills']}" for name, row in found.items())
        left = ", ".join(f"{count} {name}" for name, count in outcomes.items())
        rows.append(
            (f"kill -9 at random moments ({each})", "answers of a committed state, verified, nothing lost",
             f"{killed['kills'] - len({str(failure['trigger']) for failure in killed['failures']})} of "
             f"{killed['kills']} (state: {left})")
        )  # fmt: skip
    if flipped := figures.get("flips"):
        n = flipped["flips"]
        rows += [
            ("single bytes changed, in any file", "all found by `udq verify`", f"{flipped['detected']:,} of {n:,}"),
            ("the same collections searched", "no wrong answer, no traceback",
             f"{flipped['refused']:,} refused in a line, {flipped['same_answers']:,} with the same answers, "
             f"{flipped['wrong_answers']} wrong, {flipped['tracebacks']} tracebacks"),
        ]  # fmt: skip
        repaired = flipped["repairs"]
        bad = sum(row.get("failed", 0) for row in repaired["by_kind"].values())
        rows.append(
            ("`udq verify --repair` after one of them",
             "whole again; every photo there, listed, or counted where its name is lost",
             f"{repaired['repairs'] - bad} of {repaired['repairs']}")
        )  # fmt: skip
    if cost := figures.get("add_cost"):
        photos, held = cost["photos"], cost["held"]
        rows += [
            (f"add {photos:,} photos to {held:,}", "1.1 of the time to extract them",
             f"{cost['ratio']:.2f} ({cost['add_s']['median']:.0f} s)"),
            (f"remove {photos:,} of {held + photos:,}", "under 1 s",
             f"{cost['remove_s']['median']:.2f} s, the whole command {cost['remove_command_s']:.2f} s"),
        ]  # fmt: skip
    if read := figures.get("readers"):
        rows.append(
            (f"{read['readers']} readers and a writer, {read['minutes']:g} minutes", "0 errors",
             f"{len(read['failures'])} in {read['reads']:,} reads of {read['states_seen']:,} states")
        )  # fmt: skip
    for name, what, target in (
        ("full_disk", "changes on a full disk", "one clear line, state intact, goes on with room"),
        ("read_only", "a disk that cannot be written", "reads work, changes say one clear line"),
    ):
        if media := figures.get(name):
            rows.append((f"{what} ({media['how']})", target, f"{len(media['cases'])} commands, "
                         f"{len(media['failures'])} failures"))  # fmt: skip
    mutated = _figures("benchmark_mutated_photos")
    rows.append(
        (f"{mutated['files']:,} photos truncated, flipped, swollen, misnamed", "none crashes a build, all are listed",
         f"{mutated['decoded']:,} decoded, {mutated['listed as broken']:,} listed as broken, {mutated['lost']} lost, "
         f"{mutated['crashed their decoder (listed)']} crashes")
    )  # fmt: skip
    machine = _machine(next(iter(figures.values()))["provenance"])
    return _markdown(("what", "target", "measured"), rows) + f"\n{machine}.\n"


def reproduced(name: str) -> str:
    """A table of the paper as ``udq reproduce`` measured it: the paper's value, then that of each folder."""
    found = _reproductions(name)
    columns = list(dict.fromkeys(cell["column"] for cell in next(iter(found.values()))["cells"]))
    rows: dict[str, list[str]] = {}
    for cells in zip(*(figures["cells"] for figures in found.values()), strict=True):
        paper = cells[0]["paper"]
        ours = [] if cells[0]["status"] == "published" else [paper or "–", *map(_measured, cells)]
        rows.setdefault(cells[0]["row"], []).append(" / ".join(ours) or paper)
    said = f"Each cell: the paper's value / measured on {' / '.join(found)}.\n\n"
    table = _markdown(("", *columns), ((row, *values) for row, values in rows.items()))
    return said + table + "".join(f"\n{title}:\n{_notes(name, title)}" for title in found)


def reproductions() -> str:
    """The collections that ``udq reproduce all`` measured on."""
    rows = []
    for title, figures in _reproductions("table2").items():
        on = next(cell["on"] for cell in figures["cells"] if "on" in cell)
        rows.append((title, on["photos"], on["queries"], f"`{figures['provenance']['command']}`"))
    return _markdown(("", "photos", "queries", "command"), rows)


def _measured(cell: dict[str, Any]) -> str:
    value = cell["measured"]
    if value is None:
        return "–"
    return f"{value:.3g}" if cell["measure"].startswith("seconds") else f"{value:.3f}"


def _notes(name: str, title: str) -> str:
    """What ``udq reproduce`` itself says below its table: on what it measured, with what, on which machine."""
    lines = (HERE / REPRODUCED[title] / f"{name}.md").read_text(encoding="utf-8").splitlines(keepends=True)
    return "\n" + "".join(line for line in lines if line.startswith("- "))


def experiments() -> str:
    """Every table and figure of the paper: its command, what it needs, and how long it took here."""
    rows = []
    for name, what, data, trainings, papers in EXPERIMENTS:
        found = _reproductions(name)
        cells = sum(cell["status"] != "published" for cell in next(iter(found.values()))["cells"])
        took = " / ".join(f"{_seconds(figures):,.0f}" for figures in found.values())
        rows.append((f"`udq reproduce {name} --data DATA`", what, data, cells, trainings, f"{took} s", papers))
    took = f"CPU: training and fitting on {' / '.join(_reproductions(EXPERIMENTS[0][0]))}"
    return _markdown(("command", "what", "data", "cells", "trainings", took, "`--preset paper`, GPU: trainings"), rows)


def _seconds(figures: dict[str, Any]) -> float:
    """Return the seconds that sampling, training and fitting of a table's different cells took."""
    return sum({cell["on"]["cell"]: cell["on"]["seconds_to_fit"] for cell in figures["cells"] if "on" in cell}.values())


def serving() -> str:
    """Searches of one client and of many, for boxes that are new and for boxes that were asked before."""
    figures = _figures("benchmark_serve")
    rows = []
    for boxes, found in figures["load"].items():
        for who, of in (("1 client", "alone"), (f"{figures['clients']} clients, {figures['seconds']:.0f} s", "many")):
            row = found[of]
            share = f"{found['of_ideal']:.0%}" if of == "many" else ""
            took = (f"{row[of]:,.0f} ms" for of in ("p50_ms", "p99_ms"))
            rows.append((boxes, who, f"{row['requests']:,}", row["errors"], *took, f"{row['per_second']:,.1f}", share))
    head = ("boxes", "clients", "searches", "errors", "p50", "p99", "a second", "of the ideal")
    told = (
        f"{figures['codes']:,} codes of {figures['photos']:,} photos; ready after {figures['ready_s']:.1f} s. "
        f"{_machine(figures['provenance'])}."
    )
    return _markdown(head, rows) + f"\n{told}\n"


def hostile() -> str:
    """What was answered to hostile uploads, and what they cost in memory."""
    found = _figures("benchmark_serve")["hostile"]
    answers = [
        (name, ", ".join(f"{count} times {status}" for status, count in told.items()))
        for name, told in found["answered"].items()
    ]
    memory = found["memory_mib"]
    rows = [
        *answers,
        ("a body of 500 MiB", f"cut off, {found['endless_mib_taken']:.0f} MiB taken at most"),
        *(
            (f"memory of {who}", ", ".join(f"{memory[when][of]:,.0f} MiB" for when in ("before", "most", "after")))
            for who, of in (("the server: before, at most, after", "server"), ("its decoders", "decoders"))
        ),
    ]
    return _markdown(("what is sent", "what comes of it"), rows)


def marks() -> str:
    """What marks of right and wrong results are worth, by gamma."""
    figures = _figures("benchmark_refine_query")
    rows = [
        (row["marks"], f"{row['gamma']:g}" if "wrong" in row["marks"] else "", f"{row['mAP_of_the_rest']:.3f}",
         f"{row['mAP_of_the_rest_where_some_are_wrong']:.3f}")
        for row in figures["rows"]
    ]  # fmt: skip
    some = figures["queries_where_some_are_wrong"]
    head = ("marks", "gamma", f"mAP, {figures['queries']} queries", f"the {some} with a wrong photo on the first page")
    return _markdown(head, rows)


def _stages(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def reranked() -> str:
    """What each stage of post-processing is worth, and what it costs."""
    figures = _figures("benchmark_rerank")
    few, fewer = (str(figures["setting"][name]) for name in ("few", "fewer"))
    rows = []
    for study in figures["collections"]:
        for row in study["rows"]:
            every = row["all"]
            rows.append((
                study["collection"],
                _stages(row["stages"]) + (f" ({row['queries']} queries)" if "none_of_these" in row else ""),
                *(f"{every[name]:.3f}" for name in ("mAP", "mP@5", "mP@10")),
                f"{every['iou_of_the_first_20']:.2f}",
                *(f"{row[case]['mAP']:.3f}" if case in row else "" for case in (few, fewer)),
                f"{row['ms']:.3g} ms",
            ))  # fmt: skip
            if "none_of_these" in row and row["stages"] == study["rows"][-1]["stages"]:
                plain = row["none_of_these"]
                rows.append((
                    study["collection"],
                    f"none ({row['queries']} queries)",
                    *(f"{plain[name]:.3f}" for name in ("mAP", "mP@5", "mP@10")),
                    f"{plain['iou_of_the_first_20']:.2f}", "", "", "",
                ))  # fmt: skip
    head = ("collection", "stages", "mAP", "mP@5", "mP@10", "mean IoU", f"mAP, {few}", f"mAP, {fewer}", "time")
    return _markdown(head, rows) + f"\n{_machine(figures)}.\n"


def rerank_choices() -> str:
    """How stages depend on their constants."""
    figures = _figures("benchmark_rerank")
    few, fewer = (str(figures["setting"][name]) for name in ("few", "fewer"))
    rows = []
    for study in figures["collections"]:
        for what, values in study["sweeps"].items():
            for value, found in values.items():
                rows.append((study["collection"], what, value, *(f"{found[case]:.3f}" for case in ("all", few, fewer))))
        for row in study["database_side_augmentation"]:
            what = f"database-side augmentation, alpha {row['alpha']:g}"
            rows.append((study["collection"], what, row["neighbours"], f"{row['mAP']:.3f}", "", ""))
    return _markdown(("collection", "what", "number", "mAP", few, fewer), rows)


def absent() -> str:
    """False alarms and what is lost at some thresholds of confidence."""
    figures = _figures("benchmark_absent")
    rows = []
    for name, study in figures["collections"].items():
        for row in sorted(study["thresholds"], key=lambda row: -row["threshold"]):
            default = row["threshold"] == figures["default_threshold"]
            rows.append((
                f"{name}, {study['photos']:,} photos" if default else name,
                f"**{row['threshold']:g}**" if default else f"{row['threshold']:g}",
                f"{row['false_alarms']:.1%}",
                f"{row['positives_lost']:.0%}",
                f"{row['queries_with_positives_that_find_nothing']:.0%}",
                f"{row['right_share_of_found_mean_over_queries']:.1%}",
            ))  # fmt: skip
    head = ("collection", "threshold", "false alarms, object absent", "right photos lost",
            "queries that find nothing though it is there", "right of what is found")  # fmt: skip
    return _markdown(head, rows)


# On paper: regions a photo, processors and gigabytes of a machine, replicas, part of the memory that codes may have.
_REGIONS, _PROCESSORS, _MEMORY, _REPLICAS, _FREE = 95, 16, 64, 2, 0.75


def scaling_index() -> str:
    """Looking at photos by threads of one process and by workers of a cluster."""
    figures = _figures("benchmark_scaling")
    rows = []
    for count, row in figures["index"].items():
        here, workers = row["threads"], row["workers"]
        rows.append((
            count, f"{here['rate']:.1f}", f"{workers['rate']:.1f}", f"{row['overhead']:+.1%}",
            f"{here['start']:.1f} s", f"{workers['start']:.1f} s",
        ))  # fmt: skip
    head = ("processors", "photos a second, one process", "workers", "slower by", "first photo after", "by workers")
    return _markdown(head, rows) + f"\n{_machine(figures['provenance'])}.\n"


def scaling_search() -> str:
    """A query by who holds the codes."""
    figures = _figures("benchmark_scaling")
    names = list(figures["search"][0]["median_ms"])
    rows = [
        (f"{size['codes']:,}", f"{size['photos']:,}", *(f"{size['median_ms'][name]:.1f} ms" for name in names))
        for size in figures["search"]
    ]
    dead = figures["dead"]
    said = (
        f"An actor that is killed: all photos are searched again after {dead['seconds']:.1f} s; meanwhile "
        f"{dead['flagged']} of {dead['asked']} answers were flagged.\n"
    )
    return _markdown(("codes", "photos", *names), rows) + f"\n{said}"


def scaling_model() -> str:
    """What the model says of two processors, from figures of one."""
    figures = _figures("benchmark_scaling")
    one, two = (figures["index"][count]["workers"]["rate"] for count in ("1", "2"))
    small, large = figures["search"][0], figures["search"][-1]
    cost, speed = _cost_of_a_search(figures)
    wanted = cost + large["codes"] / 2 / speed
    rows = [
        ("photos a second by 2 workers", f"{2 * one:.1f}", f"{two:.1f}"),
        (
            f"{large['codes']:,} codes in 2 shards",
            f"{1e3 * wanted:.1f} ms",
            f"{large['median_ms']['2 shards']:.1f} ms",
        ),
    ]
    given = (
        f"From one worker and one shard: {one:.1f} photos a second; {speed / 1e9:.2f} billion codes a second and "
        f"{1e3 * cost:.1f} ms a query besides, of {small['codes']:,} and {large['codes']:,} codes; "
        f"{figures['index']['1']['workers']['bytes']:,.0f} bytes a photo that workers send.\n"
    )
    return _markdown(("", "by the model", "measured"), rows) + f"\n{given}"


def scaling_plan() -> str:
    """Machines, hours, memory and latency for more photos than were ever tried, by the model."""
    figures = _figures("benchmark_scaling")
    rate = figures["index"]["1"]["workers"]["rate"]
    cost, speed = _cost_of_a_search(figures)
    rows = []
    for photos in (10**7, 10**8, 10**9):
        codes = 8 * _REGIONS * photos
        machines = max(1, -(-_REPLICAS * codes // int(_FREE * _MEMORY * 1e9)))
        hours = photos / (rate * machines * _PROCESSORS) / 3600
        shards = machines * _PROCESSORS / _REPLICAS
        sent = figures["index"]["1"]["workers"]["bytes"] * rate * machines * _PROCESSORS
        rows.append((
            f"{photos:,}", f"{codes / 1e9:,.0f} GB", f"{machines:,}", f"{hours:,.1f}", f"{sent / 1e6:,.1f} MB/s",
            f"{1e3 * (cost + codes / 8 / shards / speed):,.0f} ms",
        ))  # fmt: skip
    head = ("photos", "codes", "machines that hold them twice", "hours for them to build it",
            "what workers send", "a query, but for encoding it")  # fmt: skip
    return _markdown(head, rows)


def _cost_of_a_search(figures: dict[str, Any]) -> tuple[float, float]:
    """Return seconds that a query takes whatever it scans, and codes a second and processor."""
    few, many = ((size["codes"], size["median_ms"]["1 shards"] / 1e3) for size in figures["search"])
    speed = (many[0] - few[0]) / (many[1] - few[1])
    return few[1] - few[0] / speed, speed


TABLES: dict[str, Callable[[], str]] = {
    "scaling_index": scaling_index,
    "scaling_search": scaling_search,
    "scaling_model": scaling_model,
    "scaling_plan": scaling_plan,
    "accuracy": accuracy,
    "speed": speed,
    "scan": scans,
    "growth": growth,
    "limits": limits,
    "query": query,
    "cold": cold,
    "memory": memory,
    "extraction": extraction,
    "training": training,
    "ablations": ablations,
    "table2": table2,
    "lambda": weights,
    "iterations": iterations,
    "options": options,
    "neighbours": neighbours,
    "places": places,
    "choices": choices,
    "small_collections": small_collections,
    "robustness": robustness,
    "drift": drift,
    "proposals": proposals,
    "regions": regions,
    "experiments": experiments,
    "reproductions": reproductions,
    "serve": serving,
    "hostile": hostile,
    "marks": marks,
    "rerank": reranked,
    "rerank_choices": rerank_choices,
    "absent": absent,
    **{f"reproduced_{name}": partial(reproduced, name) for name, *_ in EXPERIMENTS},
}


def render(page: str) -> str:
    """Return a page with every table written anew."""
    return _TABLE.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", page)


def main() -> None:
    """Render or check every page."""
    stale = []
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(str(path.relative_to(HERE.parent)))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8", newline="\n")
    if stale and "--check" in sys.argv:
        sys.exit(f"not what results/ says: {', '.join(stale)}; run: python results/render.py")


if __name__ == "__main__":
    main()
