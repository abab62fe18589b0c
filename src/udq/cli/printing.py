"""What commands print: lines for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, TextIO

from udq.common.text import counted, shown
from udq.photos.listing import PassedOver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from udq.collection import Collection
    from udq.datasets.catalogue import Dataset
    from udq.datasets.check import Findings
    from udq.store.manifest import UnreadablePhoto
    from udq.types import SearchResult

_ROOTS = 5  # folders of photos that "udq info" prints
_LISTED = 20  # entries of a long list that are printed, before "and N more"


def say(line: str, *, to: TextIO | None = None) -> None:
    """Print a line that may contain file names, on stdout by default; control characters are escaped."""
    print(shown(line), file=to, flush=True)


def print_json(facts: dict[str, Any]) -> None:
    """Print JSON in ASCII, with escapes that preserve any file name exactly."""
    print(json.dumps(facts, indent=2, allow_nan=False))


def print_recall(card: dict[str, Any]) -> None:
    """Print the recall of a region proposal network on the photos that were held out of its training."""
    for reason in card["unreadable"]:
        say(f"left out: {reason}")
    photos = counted(card["held_out_photos"], "held-out photo")
    say(f"recall of the objects of {photos}, by number of proposals:")
    counts = next(iter(card["recall"].values()))
    say(f"{'proposals':<10}" + "".join(f"{count:>7}" for count in counts))
    for overlap, found in card["recall"].items():
        say(f"{'IoU ' + overlap:<10}" + "".join(f"{share:>7.3f}" for share in found.values()))


def print_info(facts: dict[str, Any]) -> None:
    """Print the facts of a collection, one per line."""
    features, images = facts["config"]["features"], facts["config"]["images"]
    left_out = [f"{len(facts['broken'])} could not be read"] if facts["broken"] else []
    broken = f" ({', '.join(left_out)})" if left_out else ""
    code = f"{facts['bytes_per_region']:g} bytes per code (M = {facts['subspaces']}, K = {facts['codewords']})"
    size = f"{facts['bytes_on_disk'] / 1e6:.1f} MB"
    if facts["removed"]:
        size += f" with {counted(facts['removed'], 'removed photo')} (udq compact)"
    rows = {
        "collection": facts["path"],
        "photos": f"{facts['images']:,}{broken}",
        **({"passed over": str(passed_over)} if str(passed_over := PassedOver.of(facts)) else {}),
        "regions": f"{facts['regions']:,}, {code}",
        "finds": "objects of {percent:g} % of a photo's shorter side and {pixels} px or more".format(
            **facts["smallest_object"]
        ),
        "model": facts["model"],
        "training": _training(facts["training"]),
        **({"photo pairs": found} if (found := _photo_pairs(facts["training"])) else {}),
        "features": f"{features['backbone']}, {features['proposals']}, at {images['shorter']}/{images['longer']} px",
        "keypoints": _keypoints(facts),
        "on disk": f"{size}, format {facts['format_version']}, made by udq {facts['udq']}",
    }
    if drift := facts["drift"]:
        advice = f": udq retrain {facts['path']}" if drift["outgrown"] else ""
        rows["drift"] = (
            f"{counted(drift['newer_photos'], 'newer photo')}; "
            f"quantization error {drift['newer']:.2f}, of the others {drift['older']:.2f}{advice}"
        )
    if "elapsed_s" in facts:
        rows["built in"] = f"{facts['elapsed_s']:.1f} s"
    else:
        roots = [f"{root} ({count:,})" for root, count in facts["folders"].items()]
        rows["folders"] = ", ".join(roots[:_ROOTS]) + (f" and {len(roots) - _ROOTS:,} more" * (len(roots) > _ROOTS))
        rows["network"] = facts["network"]
        rows["scan"] = facts["scan"]
    for name, value in rows.items():
        say(f"{name:<12}  {value}")


def print_built(collection: Collection, elapsed: float, *, as_json: bool) -> None:
    """Print what was built and in how many seconds; unreadable photos go to stderr."""
    facts = collection.info() | {"elapsed_s": elapsed}
    if as_json:
        print_json(facts)
    else:
        print_info(facts)
    _warn_broken(collection.broken)


def _keypoints(facts: dict[str, Any]) -> str:
    """Return how many local features verify matches, such as ``49,120, 378 per photo``."""
    if not facts["points"]:
        return "none: matches are not verified"
    return f"{facts['points']:,}, {facts['points'] / max(1, facts['images']):.0f} per photo"


def _training(training: dict[str, Any] | None) -> str:
    """Return how training went: ``1 of 2 rounds kept; the second did not help; 31 photo pairs verified``."""
    if training is None:
        return "none"
    kept, run = training["kept"], len(training["rounds"])
    pairs = training.get("verified_pairs")
    verified = "" if pairs is None else f"; {counted(pairs, 'photo pair') if pairs else 'no photo pair'} verified"
    if kept < run:  # the last one was undone
        last = {2: "second", 3: "third"}.get(run, "last")
        return f"{kept} of {run} rounds kept; the {last} did not help{verified}"
    rounds = counted(kept, "round")
    return (f"{rounds}; {training['stopped']}" if training["stopped"] else rounds) + verified


def _photo_pairs(training: dict[str, Any] | None) -> str:
    """Return what training brought to verified pairs: ``found with mAP 0.69 before training, 0.95 after (± 0.02)``."""
    estimate = (training or {}).get("estimate")
    if not estimate:
        return ""
    return "found with mAP {before:.2f} before training, {after:.2f} after (± {error:.2f})".format(**estimate)


def print_evaluation(report: dict[str, Any], *, as_json: bool) -> None:
    """Print a line per query, best first, then the means, also by object size; with JSON, notes go to stderr too."""
    if as_json:
        print_json(report)
        for note in report["notes"]:
            say(f"note: {note}", to=sys.stderr)
        return
    say(f"{'AP':>6}  {'positives':>9}  query")
    for row in sorted(report["per_query"], key=lambda row: (-(row["ap"] or 0), row["query"])):
        label = f" ({row['object']})" if row["object"] else ""
        say(f"{_share(row['ap']):>6}  {row['positives']:>9}  {row['query']}{label}")
    say("")
    codes = ", ".join([f"{report['bytes_per_region']:g}-byte codes", *report["rerank"]])
    for name, part in ((codes, report), ("real-valued", report.get("real_valued"))):
        if part is None:
            continue
        first_page = part["localisation"]["top_20"]
        where = "no known boxes" if not first_page["boxes"] else (
            f"mean IoU of true matches in the top 20: {first_page['mean_iou']:.3f}, "
            f"{first_page['share_iou_50']:.0%} at 0.5 or better"
        )  # fmt: skip
        say(f"{name + ':':<14} mAP {part['mAP']:.4f} of {counted(report['queries'], 'query', 'queries')}, {where}")
        levels = part.get("difficulties", {"": {key: part[key] for key in part if key.startswith("mP@")}})
        for difficulty, means in levels.items():
            figures = "  ".join(f"{figure} {_share(value)}" for figure, value in means.items() if figure != "queries")
            of = f"  of {counted(means['queries'], 'query', 'queries')}" if "queries" in means else ""
            say(f"  {difficulty:<12} {figures}{of}")
    _print_by_size(report)
    for note in report["notes"]:
        say(f"note: {note}")


def _print_by_size(report: dict[str, Any]) -> None:
    """Print a line per class of object size that has positives; nothing if no true box is known."""
    from udq.evaluation.by_size import with_positives

    rows = with_positives(report["by_size"])
    if not rows:
        return
    real_valued = report["real_valued"]["by_size"] if "real_valued" in report else None
    title = f"  {'real-valued':>11}" if real_valued else ""
    say("")
    say(
        f"{'share of the photo':<18}  {'mAP':>6}{title}  {'queries':>7}  {'positives':>9}  {'mean IoU':>8}  "
        f"{'IoU >= 0.5':>10}"
    )
    for size, figures in rows:
        first_page = figures["localisation"]["top_20"]
        known = "-" if first_page["share_iou_50"] is None else f"{first_page['share_iou_50']:.0%}"
        exact = f"  {real_valued[size.key]['mAP']:>11.4f}" if real_valued else ""
        say(
            f"{size.title:<18}  {figures['mAP']:.4f}{exact}  {figures['queries']:>7,}  {figures['positives']:>9,}  "
            f"{_share(first_page['mean_iou']):>8}  {known:>10}"
        )


def _share(value: float | None) -> str:
    """Return a figure of 0..1; a dash if no query has positives."""
    return "-" if value is None else f"{value:.3f}"


def print_datasets(datasets: Sequence[Dataset], *, as_json: bool) -> None:
    """Print one line per data set."""
    if as_json:
        facts = [
            {
                "name": each.name,
                "what": each.what,
                "photos": each.photos,
                "queries": each.queries,
                "queries_apart": each.queries_apart,
                "size": each.size or None,
                "address": each.page,
                "files": [file.url for file in each.files],
            }
            for each in datasets
        ]
        print_json({"datasets": facts})
        return
    say(f"{'name':<10}  {'photos':>7}  {'queries':>7}  {'download':>8}  what, address")
    for each in datasets:
        queries = f"{each.queries:,}" if each.queries else "-"
        say(f"{each.name:<10}  {each.photos:>7,}  {queries:>7}  {each.size or '-':>8}  {each.what}")
        say(f"{'':<40}  {each.page}")


def print_findings(findings: Findings, *, as_json: bool) -> None:
    """Print what is missing from a copy of a data set, or damaged."""
    if as_json:
        print_json(findings.to_json())
        return
    say(f"{findings.folder}: {findings.dataset}, {findings.found:,} of {findings.expected:,} files")
    lists = {"missing": findings.missing, "unreadable": findings.unreadable, "wrong": findings.faults,
             "broken in the official archives too": findings.known}  # fmt: skip
    for what, lines in lists.items():
        for line in lines[:_LISTED]:
            say(f"{what}: {line}")
        if len(lines) > _LISTED:
            say(f"{what}: and {len(lines) - _LISTED:,} more; --json lists them all")
    if findings.others:
        others = "1 other photo, which does" if findings.others == 1 else f"{findings.others:,} other photos, which do"
        say(f"{others} not belong to it")
    if findings.whole:
        say("whole: every file is there, and every photo can be read")


def print_matches(result: SearchResult, *, photos: int) -> None:
    """Print a line per match, best first, and how long the search took."""
    points = f"{'points':>6}  " if "verify" in result.rerank else ""
    print(f"{'rank':>4}  {'score':>7}  {'sure':>5}  {points}{'x1,y1,x2,y2':<21}  photo")
    for match in result.matches:
        box = ",".join(f"{side:.0f}" for side in match.box)
        inliers = f"{match.verified.inliers if match.verified else '-':>6}  " if points else ""
        sure = math.floor(100 * (match.confidence or 0))  # 100 % is the query's own photo
        copies = f"  +{counted(len(match.copies), 'copy', 'copies')}" if match.copies else ""
        say(f"{match.rank:>4}  {match.score:>7.4f}  {sure:>3} %  {inliers}{box:<21}  {match.image}{copies}")
    if not result.found:
        print(f"not found for sure: no match is {result.threshold:.0%} sure, so the object may be absent")
    took = result.elapsed_ms
    reranked = f", {', '.join(result.rerank)} {took['rerank']:.0f}" if result.rerank else ""
    print(f"{photos:,} photos ranked in {took['total']:.0f} ms "
          f"(encoding the query {took['encode']:.0f}, scan {took['scan']:.1f}{reranked})")  # fmt: skip


def _warn_broken(broken: list[UnreadablePhoto]) -> None:
    if not broken:
        return
    which = "photo could not be read and is" if len(broken) == 1 else "photos could not be read and are"
    say(f"udq: {len(broken):,} {which} not in the collection:", to=sys.stderr)
    for entry in broken[:20]:
        say(f"  {entry['reason']}", to=sys.stderr)
    if len(broken) > 20:
        say(f"  and {len(broken) - 20} more: udq info lists them", to=sys.stderr)
