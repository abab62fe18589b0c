"""Draw docs/detail.svg from benchmark_detail.json: python results/draw.py [FILE].

What small objects cost: mAP on sets of small objects against photos a second and bytes a photo, a point for each
value of ``--smallest``, those with names of presets are larger. The suffix of FILE is the format.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import derive
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

FILE = derive.HERE.parent / "docs" / "detail.svg"
# Set -> how it is called, its colour and marker.
_SETS = {
    "instre_dev-2x2": ("collages of 2 x 2 photos", "#1b6ca8", "o"),
    "instre_dev-4x4": ("collages of 4 x 4 photos", "#c2570c", "s"),
    "composites": ("composites of 12 and 24 megapixels", "#3d7a37", "^"),
}
_LABELLED = "instre_dev-4x4"
"""The set whose points have labels; the other sets have the same values of ``--smallest``."""
_SIZE = "12 MP"
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_GREY = "#444444"
_NEAR = 1.6  # a point that the next one is closer to than by this factor has its label lower

Row = dict[str, Any]


def title(row: Row) -> str:
    """Return the label of a value of ``--smallest``."""
    percent = f"{row['smallest']:g} %" if row["smallest"] else "one view"
    return f"{percent}, {row['preset']}" if row["preset"] else percent


def panel(axes: Axes, rows: Sequence[Row], across: Callable[[Row], float], below: str, *, left: bool) -> None:
    """Draw mAP of the sets against a cost, with labels below the points, to their left or right."""
    for name, (called, colour, marker) in _SETS.items():
        x, y = [across(row) for row in rows], [row["sets"][name]["mAP"] for row in rows]
        axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.5, label=called)
        for number, (row, *point) in enumerate(zip(rows, x, y, strict=True)):
            if row["preset"]:
                axes.plot(*point, color=colour, marker=marker, markersize=9, linestyle="none")
            if name == _LABELLED:
                near = number + 1 < len(x) and 1 / _NEAR < x[number + 1] / x[number] < _NEAR
                axes.annotate(
                    title(row), point, xytext=(-6 if left else 6, -18 if near else -5), textcoords="offset points",
                    fontsize=8, color=_GREY, va="top", ha="right" if left else "left",
                    fontweight="bold" if row["preset"] == "default" else "normal",
                )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(below)
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    least, most = min(map(across, rows)), max(map(across, rows))
    axes.set_xlim(least / 1.8, most * 1.8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(figures: dict[str, Any], file: Path) -> None:
    """Write the picture."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "udq", "svg.fonttype": "none"})
    picture, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    rows = figures["rows"]
    rate = f"photos of {_SIZE} a second, {figures['setting']['threads']} threads"
    panel(left, rows, lambda row: row[_SIZE]["photos_per_second"], rate, left=True)
    size = f"kB of codes and boxes of a photo of {_SIZE}"
    panel(right, rows, lambda row: row[_SIZE]["bytes"] / 1000, size, left=False)
    left.set_ylabel("mAP")
    left.set_ylim(0, 1)
    left.legend(loc="center left", frameon=False)
    picture.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    draw(derive.read("benchmark_detail"), Path(sys.argv[1]) if sys.argv[1:] else FILE)
