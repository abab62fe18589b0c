"""Measure cells that share a network and a set of photos; each result is cached in a file.

The name of the file is a checksum of everything that the value depends on: settings, photos, ground truth, weights,
versions and the code of the packages that compute it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from udq.common import files
from udq.common.files import MAX_JSON, read_regular, reason, write_whole
from udq.common.progress import Progress
from udq.common.provenance import code, provenance, versions
from udq.config import IndexConfig, TrainConfig
from udq.datasets import GroundTruth
from udq.datasets.protocol import notes
from udq.errors import UdqError
from udq.evaluation import scoring
from udq.evaluation.benchmark import protocol_queries
from udq.experiments.paper import timing
from udq.experiments.paper.data import Dataset
from udq.experiments.paper.features import CachedPhotos
from udq.experiments.paper.settings import Settings
from udq.experiments.paper.tables import ACCURACIES, Cell
from udq.experiments.paper.tuning import tuned
from udq.experiments.paper.workbench import Fitted, Workbench, describe
from udq.features import proposals
from udq.features.extractor import Extractor
from udq.features.feature_store import CODE
from udq.indexing import build
from udq.photos.source import Source, find
from udq.reports import results
from udq.reports import sheet as sheets

# Packages whose code decides the value of a cell, and those that decide features after fine-tuning, besides those that
# pretrained features depend on.
_CODE = "config.py", "types.py", "common", "evaluation", "indexing", "quantization", "reports", "search", "store"
_TUNING = "datasets", "experiments", "training"
# Folder of features and training states, with a folder for each network and set of photos. The first half of its name
# is a checksum of the code, which older versions did not put there.
_SCRATCH, _SCRATCH_NAME = "scratch", re.compile(r"([0-9a-f]{16}-)?[0-9a-f]{16}")
# Number of queries on a sheet of fig. 5, and of photos per query.
_QUERIES, _SHOWN = 5, 5


@dataclass(frozen=True)
class Result:
    """A cell and its measured value.

    Attributes:
        cell: the cell.
        measured: mAP or seconds; None if it was not measured.
        reason: why it was not measured, in one line; empty for published values of other methods.
        facts: data, settings and provenance of the value, JSON-serialisable.
        sheet: a picture of the first results, or None.
    """

    cell: Cell
    measured: float | None = None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    sheet: Path | None = None


class CellRunner:
    """Measures the cells of one network and one set of photos."""

    def __init__(self, dataset: Dataset, config: IndexConfig, settings: Settings, progress: Progress) -> None:
        """Build the network; features are extracted when the first cell needs them.

        Args:
            dataset: photos and ground truth.
            config: the configuration of any of the cells: images, features, keypoints and sample are the same in all.
            settings: the settings of the run.
            progress: called for each step.

        Raises:
            UdqError: weights, photos, or photos named by the ground truth are missing.
        """
        self._dataset, self._config, self._progress = dataset, config, progress
        self._output = settings.output
        backbone = config.features.backbone
        weights, rpn = (given.get(backbone, given.get("")) for given in (settings.weights, settings.rpn))
        self._given = {"weights": files.fingerprint(weights), "rpn": files.fingerprint(rpn)}
        self._sources = find(dataset.folders)[0]
        paths = {source.name: source.path for source in self._sources}
        self._queries = protocol_queries(dataset.truth, paths)
        self._extractor = Extractor(
            config.images,
            config.features,
            config.keypoints,
            weights=weights,
            rpn=rpn,
            device=settings.device,
            threads=settings.threads,
        ).proposing()
        # Taken before any photo is read, so that a photo replaced during the run changes the fingerprint of the next.
        outside = [Source(name, path) for name, path in sorted(self._queries.paths.items()) if name not in paths]
        tuning = TrainConfig(
            query_steps=config.training.query_steps, convolutions_rate=config.training.convolutions_rate
        )
        shared = IndexConfig(config.images, config.features, config.keypoints, config.sample, training=tuning)
        self._data = build.fingerprint([*self._sources, *outside], shared, self._extractor, self._given)
        self.scratch = self._output / _SCRATCH / f"{_scratch_code()}-{self._fingerprint(shared, 'features')[:16]}"
        self._photos = CachedPhotos(self._sources, self._extractor, progress, self.scratch)
        self._fitted: tuple[IndexConfig, Fitted] | None = None
        self._failed: UdqError | None = None

    @cached_property
    def _workbench(self) -> Workbench:
        if self._failed is not None:  # the same for every cell
            raise self._failed
        self.scratch.mkdir(parents=True, exist_ok=True)
        file = self.scratch / "query-tuning.npz"
        try:
            convolutions = tuned(
                self._extractor, self._queries, self._config, file, self._progress, photos=len(self._sources)
            )
        except UdqError as error:
            self._failed = error
            raise
        self._extractor.load(convolutions)
        return Workbench(
            self._extractor,
            self._photos,
            self._queries,
            describe(self._extractor, self._queries),
            self.scratch,
            ranked=self._config.features.proposals in proposals.RANKED,
            position=self._config.search.position,
            convolutions=convolutions,
        )

    def measure(self, cell: Cell, kind: str, config: IndexConfig) -> Result:
        """Return a cell's value, measured now or by an earlier run.

        Args:
            cell: the cell.
            kind: ``accuracy``, ``times``, or ``pictures`` for accuracy with a sheet.
            config: the cell's configuration.
        """
        name = self._fingerprint(config, kind)
        file = self._output / "cells" / f"{name}.json"
        sheet = file.with_suffix(".jpg") if kind == "pictures" else None
        if not file.exists() or not (sheet is None or sheet.exists()):
            file.parent.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            fitted = self._fit(config)
            values = self._values(fitted, kind, sheet)
            facts = {
                "dataset": self._dataset.name,
                "backbone": config.features.backbone,
                "photos": len(self._sources) - len(self._photos.broken),
                "unreadable": len(self._photos.broken),
                "queries": len(self._queries.truth.queries),
                "notes": self._notes(),
                "learned_on": fitted.model.origin,
                # The first cell includes the extraction of features; later ones reuse rounds of training.
                "seconds": round(time.perf_counter() - started, 1),
                "seconds_to_fit": round(fitted.seconds, 1),
                "values": values,
                "config": config.to_dict(),
                **{name: given and {**given, "path": Path(given["path"]).name} for name, given in self._given.items()},
                "provenance": provenance(seed=config.sample.seed),
            }
            write_whole(file, (json.dumps(facts, indent=1) + "\n").encode())
        try:
            facts = json.loads(read_regular(file, limit=MAX_JSON))
            return Result(cell, facts["values"][cell.measure], "", facts | {"cell": file.name}, sheet)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UdqError(
                f"{file}: expected the result of a cell, found something else ({reason(error)}); delete it, and the "
                "cell is measured again"
            ) from error

    def _fit(self, config: IndexConfig) -> Fitted:
        """Train and fit, unless the previous cell had the same configuration, like the scans of table 7."""
        if self._fitted is None or self._fitted[0] != config:
            self._fitted = None  # frees its memory first
            self._fitted = config, self._workbench.fit(config, self._progress)
        return self._fitted[1]

    def _values(self, fitted: Fitted, kind: str, sheet: Path | None) -> dict[str, float]:
        if kind == "times":
            return timing.search_times(fitted.workbench, fitted.model)
        if sheet is None:
            return fitted.workbench.accuracy(fitted.model)
        outcomes = fitted.workbench.outcomes(fitted.model)
        shown = outcomes[:: max(1, len(outcomes) // _QUERIES)][:_QUERIES]
        paths = {source.name: source.path for source in self._sources}
        sheets.save(results.outcomes_sheet(shown, paths, _SHOWN), sheet)
        return {"codes": scoring.summary(outcomes)["mAP"]}

    def _notes(self) -> list[str]:
        """Return the reasons why values are not comparable with published ones."""
        broken = self._photos.broken
        readable = [source.name for source in self._sources if source.name not in broken]
        return notes(self._queries.truth, readable, broken, distractors=len(self._dataset.folders) > 1)

    def _fingerprint(self, config: IndexConfig, kind: str) -> str:
        """Return a checksum of everything that a value depends on."""
        measures = ACCURACIES if kind == "accuracy" else kind
        packages = (*CODE, *_TUNING) if kind == "features" else (*CODE, *_TUNING, *_CODE)
        facts = [measures, self._data, versions(), config.to_dict(), _digest(self._queries.truth), code(*packages)]
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def remove_outdated(output: Path) -> None:
    """Delete features and training states that other code made: many gigabytes that no run will read again.

    Args:
        output: the folder of results, which must be locked. Files and folders of other names stay.
    """
    present = f"{_scratch_code()}-"
    for folder in (output / _SCRATCH).glob("*"):
        is_ours = _SCRATCH_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        if is_ours and not folder.name.startswith(present):
            shutil.rmtree(folder, ignore_errors=True)


def _scratch_code() -> str:
    """Return a checksum of the code and the packages that features depend on."""
    return sha256(json.dumps([code(*CODE, *_TUNING), versions()]).encode()).hexdigest()[:16]


def _digest(truth: GroundTruth) -> str:
    facts = [
        [query.image, query.box, query.label, sorted(query.positives), sorted(query.junk), sorted(query.boxes.items())]
        for query in truth.queries
    ]
    return sha256(json.dumps([truth.dataset, truth.own_photo, facts]).encode()).hexdigest()
