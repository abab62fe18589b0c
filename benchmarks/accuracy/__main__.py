"""Accuracy of a configuration on all development sets, in one table: python benchmarks/accuracy DATA.

    python benchmarks/accuracy DATA [--preset NAME] [--config FILE] [--rerank NAMES] [--seeds N] [--sets NAME ...]
                               [--baseline FILE] [--cache FOLDER] [--json OUT]

DATA holds instre_dev, landmarks, logos_dev, covers_dev, paintings_dev and packages_dev. Small objects are measured on
collages of 2 x 2 and 4 x 4 photos of instre_dev, and on composites, photos of 12 and 24 megapixels that hold a cut-out
of instre_dev's objects. Both are composed once, and so are the photos of `udq demo`. In landmarks each photo asks for
the others of its folder. A set is built as `udq index` does and measured as `udq evaluate` does, for each seed of
sample, training and k-means.

A collection is searched by its codes alone, and by the default pipeline of `udq search`, which also verifies matches by
local features: the rows 'best'. The table has a column a set, and the mean of the sets last; below each metric the
difference from a baseline, by default from the committed results. A second table has mAP, mean IoU and the number of
positives by the size of the object, its share of the photo's area, for the sets that have true boxes.

Features of photos and queries are kept in the folder --cache: about 0.5 MB per photo, 2.3 GB for all sets but
composites, and the default preset. The first run extracts them; a later one reads them if nothing that they depend on
changed. What is left is training, a minute or two for 1,500 photos, and some seconds of encoding and search. After
end-to-end training, features are extracted without the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, for this package
sys.path.append(str(Path(__file__).resolve().parents[1] / "decisions"))  # for places

from accuracy import sets, table
from accuracy.measure import Setup, measure
from udq.cli.progress_bar import progress
from udq.common.provenance import provenance
from udq.config import IndexConfig, preset
from udq.errors import InputError, UdqError
from udq.search import rerank

COMMITTED = Path(__file__).resolve().parents[2] / "results" / "accuracy.json"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="the folder of development sets")
    parser.add_argument("--preset", default="default", metavar="NAME", help="settings to start from")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML, changes to them")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the backbone")
    parser.add_argument("--rpn", type=Path, metavar="FILE", help="a region proposal network of udq train-rpn")
    parser.add_argument("--rerank", metavar="NAMES", help="stages of 'best', joined by commas, as in udq search")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="0 to N - 1; default: 1")
    parser.add_argument("--sets", nargs="+", default=sets.NAMES, metavar="NAME", help=", ".join(sets.NAMES))
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="of --json; default: results/accuracy.json")
    parser.add_argument(
        "--cache", type=Path, default=Path("udq-accuracy"), metavar="FOLDER", help="default: udq-accuracy"
    )
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, found {given.seeds}")
    return given


def read_baseline(file: Path | None) -> dict[str, Any] | None:
    """Read an earlier run's JSON; the committed one by default, None if there is none."""
    if file is None and not COMMITTED.exists():
        return None
    file = file or COMMITTED
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
        for figures in found["sets"].values():
            _ = figures["means"], figures["photos"], figures["queries"]
    except OSError as error:
        raise InputError(f"--baseline {file}: cannot be read ({error.strerror}); name what --json wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--baseline {file}: expected JSON that --json wrote, found something else") from error
    return found


def differences(measured: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """Say which sets were others when the baseline was measured, a line each."""
    return [
        f"note: {name}: the baseline is of {before['photos']:,} photos and {before['queries']:,} queries, this run of "
        f"{now['photos']:,} and {now['queries']:,}"
        for name, now in measured.items()
        if (before := baseline.get(name)) and any(before[key] != now[key] for key in ("photos", "queries"))
    ]


def write(file: Path, measured: dict[str, Any], setup: Setup, seeds: int) -> None:
    """Write the figures of the sets so far."""
    rows = table.rows(measured, None, seeds=seeds)
    facts = {
        "sets": measured,
        "mean": {title: values[table.MEAN] for title, values in rows if title in table.METRICS},
        "seeds": seeds,
        "rerank": list(rerank.DEFAULT if setup.stages is None else setup.stages),
        "config": setup.config.to_dict(),
        "provenance": provenance(seed=0),
    }
    file.write_text(json.dumps(facts, indent=1) + "\n")


def run(given: argparse.Namespace) -> None:
    """Measure, print the table; write JSON after each set, so that one that is killed leaves what it had."""
    baseline = read_baseline(given.baseline)
    config = preset(given.preset)
    config = IndexConfig.from_toml(given.config, config) if given.config else config
    stages = None if given.rerank is None else rerank.check(given.rerank.split(","))
    setup = Setup(config, stages, given.weights, given.rpn, given.device, given.cache / "features")
    measured: dict[str, Any] = {}
    for found in sets.load(given.data, given.sets, given.cache / "sets"):
        runs = [measure(found, setup, seed=seed, progress=progress) for seed in range(given.seeds)]
        seconds, extracted = sum(run.seconds for run in runs), sum(run.extracted for run in runs)
        counts = {"photos": runs[0].photos, "queries": runs[0].queries, "regions": runs[0].regions}
        means = table.over_seeds([run.figures for run in runs])
        each = [
            {
                "seed": seed,
                **run.figures,
                "by_size": run.by_size,
                "estimate": run.estimate,
                "seconds": run.seconds,
            }
            for seed, run in enumerate(runs)
        ]
        measured[found.name] = {**counts, "network_precision": runs[0].precision, **means, "runs": each}
        print(f"{found.name}: {counts['photos']:,} photos, {counts['queries']:,} queries, "
              f"{extracted:,} extracted, {seconds:.0f} s, mAP {means['means']['mAP']:.4f}",
              file=sys.stderr, flush=True)  # fmt: skip
        if given.json:
            write(given.json, measured, setup, given.seeds)
    rows = table.rows(measured, baseline and baseline["sets"], seeds=given.seeds)
    print(table.render(rows, list(measured)))
    for line in differences(measured, baseline["sets"]) if baseline else ():
        print(line)
    if rows := table.size_rows({name: [run["by_size"] for run in parts["runs"]] for name, parts in measured.items()}):
        print(f"\n{table.render(rows, list(measured))}")


if __name__ == "__main__":
    try:
        run(arguments())
    except UdqError as error:
        sys.exit(f"accuracy: {error}")
