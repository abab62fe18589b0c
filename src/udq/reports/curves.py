"""Training curves as a figure: the losses of every epoch, and the results of each round of algorithm 1.

All panels share one horizontal axis, counted in epochs, on which the rounds follow each other. The lines of the losses
break between rounds, because each round computes new labels: losses before and after are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from udq.common import files
from udq.errors import InputError
from udq.reports.palette import BAND, GRID, INK, QUIET, SERIES

FORMATS = (".jpg", ".jpeg", ".pdf", ".png", ".svg")

# One per colour of the palette, so that panels do not depend on colour alone.
_MARKERS = "osD^v"
_WIDTH, _DPI = 9.0, 200  # inches; 1,800 pixels, sharp on screens that show 900 CSS pixels
_PANEL_HEIGHT, _MARGINS = 1.65, 1.25  # inches; the margins hold the title and the axis
# Most points of a panel whose values are printed beside them.
_LABELLED = 16
# Key of a round -> title and unit of its panel.
_TITLES = {
    "mAP": ("Mean average precision of a benchmark after each round", "mAP"),
    "participation_ratio": (
        "Participation ratio of the features after each round; training stops when it rises",
        "directions",
    ),
}
_NOT_PANELS = ("iteration", "quantization_error", "separability", "discriminability")


@dataclass(frozen=True)
class _Panel:
    """One panel; ``lines`` holds x, in epochs, and y of each unbroken line."""

    title: str
    unit: str
    lines: tuple[tuple[Sequence[float], Sequence[float]], ...]


def figure(history: Mapping[str, Any] | None, title: str) -> Figure:
    """Draw the training curves of a collection.

    Args:
        history: the result of ``Trained.history``: ``rounds``, each with ``quantization_error`` and, for each epoch,
            ``separability`` and ``discriminability``; ``kept`` and ``stopped``. Further numeric keys of a round,
            such as ``mAP``, get a panel each. None if the collection was built without training.
        title: name of the collection.

    Returns:
        One panel each for eq. 8, eq. 9, eq. 6 and the further keys, from top to bottom. A value that is not a finite
        number leaves a gap.

    Raises:
        InputError: the collection was built without training, or no round was completed.
    """
    if history is None:
        raise InputError(f"{title}: built without training, so it has no curves; build it again without --no-train")
    rounds: Sequence[Mapping[str, Any]] = history["rounds"]
    if not rounds:
        raise InputError(f"{title}: no curves to draw, because {history['stopped'] or 'no round was trained'}")
    borders = [0]
    for each in rounds:
        borders.append(borders[-1] + len(each["separability"]))
    panels = _panels(rounds, borders)
    size = (_WIDTH, _MARGINS + _PANEL_HEIGHT * len(panels))
    picture = Figure(size, dpi=_DPI, layout="constrained", facecolor="white")
    picture.get_layout_engine().set(h_pad=0.09, w_pad=0.12)  # type: ignore[union-attr, call-arg]
    heading = f"Training of {_shortened(title, 44)}"
    # parse_math=False: a dollar sign in a name does not start a formula.
    picture.suptitle(heading, color=INK, fontsize=15, fontweight="bold", parse_math=False)
    all_axes = picture.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, panel) in enumerate(zip(all_axes, panels, strict=True)):
        _draw(axes, panel, borders, SERIES[i % len(SERIES)], _MARKERS[i % len(_MARKERS)])
    _name_rounds(all_axes[0], rounds, borders)
    last = all_axes[-1]
    last.set_xlim(0, borders[-1])
    last.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    last.set_xlabel("epochs trained", color=INK, fontsize=11)
    picture.align_ylabels()
    if note := _note(history):
        picture.supxlabel(_shortened(note, 110), color=QUIET, fontsize=10, parse_math=False)
    return picture


def _note(history: Mapping[str, Any]) -> str:
    """Return why training ended before its last round; empty if it did not."""
    rounds, kept = history["rounds"], history["kept"]
    ratios = [_number(each.get("participation_ratio")) for each in rounds]
    if kept == len(rounds) or math.isnan(ratios[kept]):
        return f"Stopped early: {history['stopped']}" if history["stopped"] else ""
    before = f", {ratios[kept - 1]:.1f} before" if kept else ""
    spread = f"features spread over {ratios[kept]:.1f} directions{before}"
    return f"Round {kept + 1}, iteration {rounds[kept]['iteration']}, was undone: it did not help ({spread})"


def file_format(path: Path) -> str:
    """Return matplotlib's name for the format of a picture's suffix; raises InputError for an unknown suffix."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: expected a suffix of {', '.join(FORMATS)}, found {path.suffix or 'none'}")
    return suffix[1:]


def save(picture: Figure, path: Path) -> None:
    """Write a figure atomically: an older file of that name stays until the new one is complete.

    Args:
        picture: any matplotlib figure, such as the result of ``figure``.
        path: its suffix selects the format, one of ``FORMATS``.

    Raises:
        InputError: an unknown suffix.
        UdqError: the file cannot be written.
    """
    chosen = file_format(path)
    files.write_with(path, lambda partial: picture.savefig(partial, format=chosen, dpi=_DPI))


def _panels(rounds: Sequence[Mapping[str, Any]], borders: Sequence[int]) -> list[_Panel]:
    middles = [(start + end) / 2 for start, end in pairwise(borders)]

    def per_epoch(key: str) -> tuple[tuple[Sequence[float], Sequence[float]], ...]:
        # The mean over an epoch's steps is drawn at the middle of the epoch.
        return tuple(
            ([start + j + 0.5 for j in range(len(each[key]))], [_number(value) for value in each[key]])
            for start, each in zip(borders, rounds, strict=False)
        )

    def per_round(key: str) -> tuple[tuple[Sequence[float], Sequence[float]], ...]:
        return ((middles, [_number(each.get(key)) for each in rounds]),)

    panels = [
        _Panel("Separability loss (eq. 8), mean of each epoch", "nats per region", per_epoch("separability")),
        _Panel("Discriminability loss (eq. 9), mean of each epoch", "squared distance", per_epoch("discriminability")),
        _Panel(
            "Quantization error (eq. 6) of each round's supervision",
            "squared distance",
            per_round("quantization_error"),
        ),
    ]
    further = dict.fromkeys(key for each in rounds for key in each if key not in _NOT_PANELS)
    for key in further:
        lines = per_round(key)
        if any(math.isfinite(value) for value in lines[0][1]):
            panels.append(_Panel(*_TITLES.get(key, (f"{key} of each round", key)), lines))
    return panels


def _draw(axes: Axes, panel: _Panel, borders: Sequence[int], colour: str, marker: str) -> None:
    """Draw one panel, with a band behind every other round."""
    for start, end in list(pairwise(borders))[1::2]:
        axes.axvspan(start, end, color=BAND, linewidth=0, zorder=0)
    for border in borders[1:-1]:
        axes.axvline(border, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    points = sum(len(x) for x, _ in panel.lines)
    for x, y in panel.lines:
        size = 6.5 if points <= _LABELLED else 4.0 if points <= 60 else 0.0
        axes.plot(x, y, color=colour, marker=marker, markersize=size, markeredgecolor="white", linewidth=2, zorder=3)
        for at, value in zip(x, y, strict=True) if points <= _LABELLED else ():
            if math.isfinite(value):
                label = f"{value:#.3g}".rstrip(".")
                axes.annotate(
                    label, (at, value), (0, 7), textcoords="offset points", ha="center", va="bottom",
                    fontsize=10, color=INK, zorder=4,
                )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if finite := [value for _, y in panel.lines for value in y if math.isfinite(value)]:
        low, high = min(finite), max(finite)
        span = high - low or abs(high) or 1.0
        axes.set_ylim(low - 0.2 * span, high + 0.42 * span)  # room for the label above the highest point
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not a number", transform=axes.transAxes, ha="center", va="center", color=QUIET)
    axes.set_title(panel.title, loc="left", color=INK, fontsize=11.5, parse_math=False)
    axes.set_ylabel(panel.unit, color=INK, fontsize=10.5, parse_math=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=10, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)


def _name_rounds(axes: Axes, rounds: Sequence[Mapping[str, Any]], borders: Sequence[int]) -> None:
    """Label the rounds above the first panel: shorter labels for more rounds, and at most 30 of them."""
    every = math.ceil(len(rounds) / 30)
    for i in range(0, len(rounds), every):
        iteration = rounds[i]["iteration"]
        if len(rounds) > 6:
            name = str(iteration)
        elif iteration == 0:
            name = "module 1"
        else:
            name = f"module 2, iteration {iteration}" if len(rounds) <= 4 else f"iteration {iteration}"
        axes.annotate(
            name, ((borders[i] + borders[i + 1]) / 2, 1.0), (0, 22), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", fontsize=10.5, color=QUIET,
        )  # fmt: skip


def _number(value: object) -> float:
    """Return a finite number as it is, and NaN, which leaves a gap, for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _shortened(text: str, most: int) -> str:
    """Return at most ``most`` characters; a longer text has an ellipsis for its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
