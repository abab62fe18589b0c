"""Training curves as a picture: losses of every epoch, and what each round of algorithm 1 found.

Rounds follow each other from left to right on one axis that all panels share, counted in epochs. Lines of the losses
break at the border of two rounds, where supervision is made anew: a loss before it and one after it are of
different labels.
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

FORMATS = (".jpg", ".jpeg", ".pdf", ".png", ".svg")

_INK, _QUIET, _GRID, _BAND = "#1b1f24", "#5c6670", "#dfe3e7", "#f3f5f7"
# After Okabe and Ito, which colour-blind eyes keep apart; each panel has a marker of its own besides.
_COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a8577e", "#7a6a00")
_MARKERS = "osD^v"
_INCHES, _DPI = 9.0, 200  # 1,800 pixels wide: sharp where 900 are shown
_PANEL, _AROUND = 1.65, 1.25  # inches: height of a panel, of title and axis together
# Values are written beside their points as long as there is room for them.
_WRITTEN = 16
_KNOWN = {
    "mAP": ("Mean average precision of a benchmark after each round", "mAP"),
    "participation_ratio": ("Directions that features spread over after each round: stop when it rises", "directions"),
}
_NO_SCALARS = ("iteration", "quantization_error", "separability", "discriminability")


@dataclass(frozen=True)
class _Panel:
    """One panel: ``lines`` are the points of each unbroken line, x in epochs."""

    title: str
    unit: str
    lines: tuple[tuple[Sequence[float], Sequence[float]], ...]


def figure(history: Mapping[str, Any] | None, title: str) -> Figure:
    """Draw how a collection was trained.

    Args:
        history: what ``Trained.history`` returned: ``rounds``, each with ``quantization_error`` and, for each epoch,
            ``separability`` and ``discriminability``, and ``stopped``. Further keys of a round whose values are
            numbers, such as ``mAP``, get a panel each. None where there was no training.
        title: the collection's name.

    Returns:
        A panel above the other: eq. 8, eq. 9, eq. 6, then further keys. A value that is no number leaves a gap.

    Raises:
        InputError: there was no training, or not one whole round of it.
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
    drawn = Figure((_INCHES, _AROUND + _PANEL * len(panels)), dpi=_DPI, layout="constrained", facecolor="white")
    drawn.get_layout_engine().set(h_pad=0.09, w_pad=0.12)  # type: ignore[union-attr, call-arg]
    # A name is shown as it is: a dollar sign begins no formula.
    drawn.suptitle(f"Training of {_shortened(title, 44)}", color=_INK, fontsize=15, fontweight="bold", parse_math=False)
    all_axes = drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, panel) in enumerate(zip(all_axes, panels, strict=True)):
        _draw(axes, panel, borders, _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
    _name_rounds(all_axes[0], rounds, borders)
    last = all_axes[-1]
    last.set_xlim(0, borders[-1])
    last.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    last.set_xlabel("epochs trained", color=_INK, fontsize=11)
    drawn.align_ylabels()
    if history["stopped"]:
        note = _shortened(f"Stopped early: {history['stopped']}", 110)
        drawn.supxlabel(note, color=_QUIET, fontsize=10, parse_math=False)
    return drawn


def file_format(path: Path) -> str:
    """Return matplotlib's name of the format that a picture's suffix asks for; raises InputError for any other."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path}: expected a suffix of {', '.join(FORMATS)}, found {path.suffix or 'none'}")
    return suffix[1:]


def save(drawn: Figure, path: Path) -> None:
    """Write a figure whole or not at all.

    Args:
        drawn: what ``figure`` returned.
        path: its suffix says the format, one of ``FORMATS``.

    Raises:
        InputError: another suffix.
        UdqError: the file cannot be written.
    """
    chosen = file_format(path)
    files.write_with(path, lambda partial: drawn.savefig(partial, format=chosen, dpi=_DPI))


def _panels(rounds: Sequence[Mapping[str, Any]], borders: Sequence[int]) -> list[_Panel]:
    middles = [(start + end) / 2 for start, end in pairwise(borders)]

    def epochs(key: str) -> tuple[tuple[Sequence[float], Sequence[float]], ...]:
        # The mean over an epoch's steps stands in the middle of that epoch.
        return tuple(
            ([start + j + 0.5 for j in range(len(each[key]))], [_number(value) for value in each[key]])
            for start, each in zip(borders, rounds, strict=False)
        )

    def once(key: str) -> tuple[tuple[Sequence[float], Sequence[float]], ...]:
        return ((middles, [_number(each.get(key)) for each in rounds]),)

    panels = [
        _Panel("Separability loss (eq. 8), mean of each epoch", "nats a region", epochs("separability")),
        _Panel("Discriminability loss (eq. 9), mean of each epoch", "squared distance", epochs("discriminability")),
        _Panel(
            "Quantization error (eq. 6) of each round's supervision", "squared distance", once("quantization_error")
        ),
    ]
    further = dict.fromkeys(key for each in rounds for key in each if key not in _NO_SCALARS)
    for key in further:
        lines = once(key)
        if any(math.isfinite(value) for value in lines[0][1]):
            panels.append(_Panel(*_KNOWN.get(key, (f"{key} of each round", key)), lines))
    return panels


def _draw(axes: Axes, panel: _Panel, borders: Sequence[int], colour: str, marker: str) -> None:
    """Draw one panel over alternating bands of rounds."""
    for start, end in list(pairwise(borders))[1::2]:
        axes.axvspan(start, end, color=_BAND, linewidth=0, zorder=0)
    for border in borders[1:-1]:
        axes.axvline(border, color=_QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    points = sum(len(x) for x, _ in panel.lines)
    for x, y in panel.lines:
        size = 6.5 if points <= _WRITTEN else 4.0 if points <= 60 else 0.0
        axes.plot(x, y, color=colour, marker=marker, markersize=size, markeredgecolor="white", linewidth=2, zorder=3)
        for at, value in zip(x, y, strict=True) if points <= _WRITTEN else ():
            if math.isfinite(value):
                written = f"{value:#.3g}".rstrip(".")
                axes.annotate(
                    written, (at, value), (0, 7), textcoords="offset points", ha="center", va="bottom",
                    fontsize=10, color=_INK, zorder=4,
                )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if finite := [value for _, y in panel.lines for value in y if math.isfinite(value)]:
        low, high = min(finite), max(finite)
        span = high - low or abs(high) or 1.0
        axes.set_ylim(low - 0.2 * span, high + 0.42 * span)  # room for the value over the highest point
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not a number", transform=axes.transAxes, ha="center", va="center", color=_QUIET)
    axes.set_title(panel.title, loc="left", color=_INK, fontsize=11.5, parse_math=False)
    axes.set_ylabel(panel.unit, color=_INK, fontsize=10.5, parse_math=False)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=10, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET)


def _name_rounds(axes: Axes, rounds: Sequence[Mapping[str, Any]], borders: Sequence[int]) -> None:
    """Name each round over the first panel, shorter the more there are, and not all where there are very many."""
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
            textcoords="offset points", ha="center", va="bottom", fontsize=10.5, color=_QUIET,
        )  # fmt: skip


def _number(value: object) -> float:
    """Return a number; NaN, which is drawn as a gap, for what is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _shortened(text: str, most: int) -> str:
    """Return a text of ``most`` characters at most, its middle left out."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
