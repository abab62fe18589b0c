"""Figures 3 and 4 of the paper: one panel per column of the data file, with measured lines and the paper's values."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from udq.experiments.paper.cells import Result
from udq.experiments.paper.tables import Experiment
from udq.reports.palette import GRID, INK, QUIET, SERIES

_MEASURED, _PAPER, *_LEVELS = SERIES[:4]
_PANEL_INCHES, _DPI = 4.6, 160  # width of a panel


def figure(experiment: Experiment, results: Sequence[Result]) -> Figure:
    """Draw a figure of the paper.

    Rows without a value on the axis, such as features before training, become horizontal lines.

    Args:
        experiment: a figure with an ``axis``.
        results: of its cells; cells that were not measured are left out.
    """
    columns = experiment.columns
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    picture = Figure((_PANEL_INCHES * across, 3.4 * down + 0.5), dpi=_DPI, layout="constrained", facecolor="white")
    picture.suptitle(experiment.title, color=INK, fontsize=13, fontweight="bold")
    for axes, column in zip(picture.subplots(down, across, squeeze=False).ravel(), columns, strict=False):
        _panel(axes, experiment, [result for result in results if result.cell.column == column])
        axes.set_title(column, loc="left", color=INK, fontsize=11)
    measured = dict.fromkeys((each.facts["dataset"], each.facts["backbone"]) for each in results if each.facts)
    sources = "; ".join(f"{dataset}, {backbone}" for dataset, backbone in measured)
    picture.supxlabel(f"measured on {sources or 'nothing'}", color=QUIET, fontsize=9, parse_math=False)
    return picture


def _panel(axes: Axes, experiment: Experiment, results: Sequence[Result]) -> None:
    if experiment.logarithmic:
        axes.set_xscale("log")
    points = [(each.cell.x, each.measured) for each in results if each.cell.x is not None and each.measured is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=_MEASURED, marker="o", linewidth=2, label="measured")
    published = [
        (each.cell.x, float(each.cell.paper)) for each in results if each.cell.x is not None and each.cell.paper
    ]
    if published:
        axes.plot(*zip(*published, strict=True), color=_PAPER, marker="D", linestyle="", label="paper, tables 2 to 4")
    levels = [each for each in results if each.cell.x is None and each.measured is not None]
    for level, colour in zip(levels, _LEVELS, strict=False):
        assert level.measured is not None
        axes.axhline(level.measured, color=colour, linestyle=(0, (4, 3)), label=f"{level.cell.row}, measured")
    positions = sorted({each.cell.x for each in results if each.cell.x is not None})
    axes.set_xticks(positions)
    if experiment.logarithmic:
        axes.set_xlim(positions[0] / 2, positions[-1] * 2)
    else:
        axes.set_xlim(positions[0] - 0.3, positions[-1] + 0.3)
    axes.set_xlabel(experiment.axis, color=INK)
    axes.set_ylabel("mAP", color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(colors=QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=QUIET)
