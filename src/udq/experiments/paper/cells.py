"""One network and one set of photos, and the cells that are measured on them, each kept as a file when it is done.

The file is named by all that a cell's value depends on: settings, photos, ground truth, weights and versions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from udq.common import files
from udq.common.files import write_whole
from udq.common.progress import Progress
from udq.common.provenance import provenance, versions
from udq.config import IndexConfig
from udq.datasets import GroundTruth
from udq.datasets.protocol import notes
from udq.evaluation import scoring
from udq.evaluation.benchmark import protocol_queries
from udq.experiments.paper import timing
from udq.experiments.paper.data import Dataset
from udq.experiments.paper.features import CachedPhotos
from udq.experiments.paper.settings import Settings
from udq.experiments.paper.tables import ACCURACIES, Cell
from udq.experiments.paper.workbench import Fitted, Workbench, describe
from udq.features import proposals
from udq.features.extractor import Extractor
from udq.indexing import build
from udq.photos import source as photo_source
from udq.reports import results
from udq.reports import sheet as sheets

# Queries and photos of each on a sheet of fig. 5.
_QUERIES, _SHOWN = 5, 5


@dataclass(frozen=True)
class Result:
    """A cell, and what became of it.

    Attributes:
        cell: the cell.
        measured: mAP or seconds; None where nothing was measured.
        reason: why nothing was, in a line; empty for values of other people.
        facts: what was measured on what, with provenance, JSON-serialisable.
        sheet: a picture of its first results, or None.
    """

    cell: Cell
    measured: float | None = None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    sheet: Path | None = None


class CellRunner:
    """One network and one set of photos, and the cells that are measured on them."""

    def __init__(self, material: Dataset, look: IndexConfig, settings: Settings, progress: Progress) -> None:
        """Build the network; photos are looked at when the first cell needs them.

        Args:
            material: photos and ground truth.
            look: settings, of which those of photos, network and sample are the same in all cells.
            settings: what the user asked for.
            progress: is told of each step.

        Raises:
            UdqError: weights, photos or what the ground truth names are not there.
        """
        self._material, self._look, self._progress = material, look, progress
        self._output = settings.output
        backbone = look.features.backbone
        weights, rpn = (given.get(backbone, given.get("")) for given in (settings.weights, settings.rpn))
        self._given = {"weights": files.fingerprint(weights), "rpn": files.fingerprint(rpn)}
        self._sources = photo_source.find(material.folders)[0]
        held = {source.name: source.path for source in self._sources}
        self._asked = protocol_queries(material.truth, held)
        self._extractor = Extractor(
            look.images, look.features, weights=weights, rpn=rpn, device=settings.device
        ).proposing()
        # Before any photo is looked at: what one is replaced with meanwhile must not pass for what was measured.
        apart = [
            photo_source.Source(name, path) for name, path in sorted(self._asked.paths.items()) if name not in held
        ]
        seen = IndexConfig(images=look.images, features=look.features, sample=look.sample)
        self._seen = build.fingerprint([*self._sources, *apart], seen, self._extractor, self._given)
        self.scratch = self._output / "scratch" / self._fingerprint(seen, "look")[:16]
        self._looked = CachedPhotos(self._sources, self._extractor, progress, self.scratch)
        self._fitted: tuple[IndexConfig, Fitted] | None = None

    @cached_property
    def _bench(self) -> Workbench:
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Workbench(
            self._extractor,
            self._looked,
            self._asked,
            describe(self._extractor, self._asked),
            self.scratch,
            ranked=self._look.features.proposals in proposals.RANKED,
        )

    def measure(self, cell: Cell, kind: str, config: IndexConfig) -> Result:
        """Return a cell's value, measured now or by an earlier run.

        Args:
            cell: the cell.
            kind: ``accuracy``, ``times``, or ``pictures`` for accuracy with a sheet.
            config: its settings.
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
                "dataset": self._material.name,
                "backbone": config.features.backbone,
                "photos": len(self._sources) - len(self._looked.broken),
                "unreadable": len(self._looked.broken),
                "queries": len(self._asked.truth.queries),
                "notes": self._notes(),
                "learned_on": fitted.model.origin,
                # A cell's own: the first one has the look at the photos in it, and others less of the training.
                "seconds": round(time.perf_counter() - started, 1),
                "seconds_to_fit": round(fitted.seconds, 1),
                "values": values,
                "config": config.to_dict(),
                **{name: given and {**given, "path": Path(given["path"]).name} for name, given in self._given.items()},
                "provenance": provenance(seed=config.sample.seed),
            }
            write_whole(file, (json.dumps(facts, indent=1) + "\n").encode())
        facts = json.loads(file.read_text(encoding="utf-8"))
        return Result(cell, facts["values"][cell.measure], "", facts | {"cell": file.name}, sheet)

    def _fit(self, config: IndexConfig) -> Fitted:
        """Train and fit, unless the cell before had the same settings, as the scans of table 7 have."""
        if self._fitted is None or self._fitted[0] != config:
            self._fitted = None  # frees its memory first
            self._fitted = config, self._bench.fit(config, self._progress)
        return self._fitted[1]

    def _values(self, fitted: Fitted, kind: str, sheet: Path | None) -> dict[str, float]:
        if kind == "times":
            return timing.search_times(fitted.bench, fitted.model)
        if sheet is None:
            return fitted.bench.accuracy(fitted.model)
        outcomes = fitted.bench.outcomes(fitted.model)
        shown = outcomes[:: max(1, len(outcomes) // _QUERIES)][:_QUERIES]
        paths = {source.name: source.path for source in self._sources}
        sheets.save(results.outcomes_sheet(shown, paths, _SHOWN), sheet)
        return {"codes": scoring.summary(outcomes)["mAP"]}

    def _notes(self) -> list[str]:
        """Say what keeps the figures from being those of the published protocol."""
        broken = self._looked.broken
        held = [source.name for source in self._sources if source.name not in broken]
        return notes(self._asked.truth, held, broken, distractors=len(self._material.folders) > 1)

    def _fingerprint(self, config: IndexConfig, kind: str) -> str:
        """Return a checksum of all that a value depends on."""
        measures = ACCURACIES if kind == "accuracy" else kind
        facts = [measures, self._seen, versions(), config.to_dict(), _digest(self._asked.truth)]
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(truth: GroundTruth) -> str:
    facts = [
        [query.image, query.box, sorted(query.positives), sorted(query.junk), sorted(query.boxes.items())]
        for query in truth.queries
    ]
    return sha256(json.dumps([truth.dataset, truth.own_photo, facts]).encode()).hexdigest()
