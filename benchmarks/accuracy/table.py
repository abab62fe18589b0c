"""Figures of runs -> means and spreads over seeds and sets; a table with a baseline, and one by size of the object."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from udq.evaluation.by_size import SIZES
from udq.evaluation.scoring import TOP

PLAIN = ("mAP", "mP@1", "mP@5", "mean IoU")
"""``mean IoU`` is of the reported boxes of right photos among the first 20, where the true box is known."""
BEST = "best "
METRICS = (*PLAIN, *(BEST + name for name in PLAIN))
"""Of the ranking by codes alone, and of the default pipeline of ``udq search``."""

Figures = Mapping[str, float | None]
MEAN = "mean"
_UNKNOWN: Mapping[str, Figures] = {"means": {}}


def over_seeds(runs: Sequence[Figures]) -> dict[str, dict[str, float | None]]:
    """Return mean and spread (largest less smallest) of each metric; None if the set does not have it."""
    means: dict[str, float | None] = {}
    spreads: dict[str, float | None] = {}
    for metric in (name for name in METRICS if any(name in run for run in runs)):
        values = [value for run in runs if (value := run.get(metric)) is not None]
        means[metric] = round(statistics.fmean(values), 6) if values else None
        spreads[metric] = round(max(values) - min(values), 6) if values else None
    return {"means": means, "spread": spreads}


def rows(
    measured: Mapping[str, Mapping[str, Figures]], baseline: Mapping[str, Mapping[str, Figures]] | None, *, seeds: int
) -> list[tuple[str, dict[str, float | None]]]:
    """Return title and values by column of each row.

    Means of the baseline and of the differences are over the sets that both runs have. If the baseline lacks some, the
    mean difference is therefore not the difference of the means above it.

    Args:
        measured: by set, ``means`` and ``spread`` as ``over_seeds`` returns them.
        baseline: the same of another run, or None.
        seeds: of each set; a spread is shown if there are several.
    """
    found: list[tuple[str, dict[str, float | None]]] = []
    for metric in METRICS:
        own = {name: parts["means"].get(metric) for name, parts in measured.items()}
        if all(value is None for value in own.values()):
            continue
        found.append((metric, own | {MEAN: _mean(own.values())}))
        if seeds > 1:
            found.append(("  spread", {name: parts["spread"].get(metric) for name, parts in measured.items()}))
        if baseline is not None:
            both = {
                name: value
                for name in measured
                if own[name] is not None and (value := baseline.get(name, _UNKNOWN)["means"].get(metric)) is not None
            }
            gains = {name: own[name] - value for name, value in both.items()}
            found.append(("  baseline", both | {MEAN: _mean(both.values())}))
            found.append(("  difference", gains | {MEAN: _mean(gains.values())}))
    return found


def size_rows(measured: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> list[tuple[str, dict[str, float | None]]]:
    """Return title and values by column of each row of the table by size of the object.

    Args:
        measured: by set, ``by_size`` of each seed as in the report of ``udq evaluate``.

    Returns:
        Three rows for each class that has positives in a set: mAP, the mean IoU of ``METRICS``, and the number of
        positives; mAP and IoU are means over seeds. None if the set has no positives of the size.
    """
    known = {name: [run for run in runs if run is not None] for name, runs in measured.items()}
    found: list[tuple[str, dict[str, float | None]]] = []
    for size in SIZES:
        of_class = {name: [run[size.key] for run in runs] for name, runs in known.items()}
        positives = {name: runs[0]["positives"] if runs else 0 for name, runs in of_class.items()}
        if not any(positives.values()):
            continue
        precision = {name: _mean(run["mAP"] for run in runs) for name, runs in of_class.items()}
        fit = {
            name: _mean(run["localisation"][f"top_{TOP}"]["mean_iou"] for run in runs)
            for name, runs in of_class.items()
        }
        found.append((f"mAP, {size.title}", precision | {MEAN: _mean(precision.values())}))
        found.append(("  mean IoU", fit | {MEAN: _mean(fit.values())}))
        found.append(("  positives", {name: count or None for name, count in positives.items()}))
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def render(found: Sequence[tuple[str, Mapping[str, float | None]]], names: Sequence[str]) -> str:
    """Return the table as text: a column a set, the mean last."""
    columns = [*names, MEAN]
    widths = [max(len(name), 7) for name in columns]
    first = max(len(title) for title, _ in found)
    lines = ["  ".join([" " * first, *(name.rjust(width) for name, width in zip(columns, widths, strict=True))])]
    for title, values in found:
        sign = "+" if title.strip() == "difference" else ""
        cells = [_cell(values.get(name), sign) for name in columns]
        lines.append(
            "  ".join([title.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: float | None, sign: str) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:{sign}.4f}"
