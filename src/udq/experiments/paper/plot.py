"""Figures 3 and 4 as pictures: a panel a column of the data file, measured lines and what the paper says."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from udq.experiments.paper.cells import Result
from udq.experiments.paper.tables import Experiment

_MEASURED, _PAPER, _LEVELS = "#0072b2", "#d55e00", ("#007a5a", "#a8577e")
_INK, _QUIET, _GRID = "#1b1f24", "#5c6670", "#dfe3e7"
_INCHES, _DPI = 4.6, 160  # of a panel's width


def figure(experiment: Experiment, results: Sequence[Result]) -> Figure:
    """Draw a figure.

    Rows without a place on the axis, such as features before training, are levels across the panel.

    Args:
        experiment: a figure with an ``axis``.
        results: of its cells; those that were not measured are left out.
    """
    columns = experiment.columns
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    drawn = Figure((_INCHES * across, 3.4 * down + 0.5), dpi=_DPI, layout="constrained", facecolor="white")
    drawn.suptitle(experiment.title, color=_INK, fontsize=13, fontweight="bold")
    for axes, column in zip(drawn.subplots(down, across, squeeze=False).ravel(), columns, strict=False):
        _panel(axes, experiment, [result for result in results if result.cell.column == column])
        axes.set_title(column, loc="left", color=_INK, fontsize=11)
    measured = dict.fromkeys((each.facts["dataset"], each.facts["backbone"]) for each in results if each.facts)
    said = "; ".join(f"{dataset}, {backbone}" for dataset, backbone in measured)
    drawn.supxlabel(f"measured on {said or 'nothing'}", color=_QUIET, fontsize=9, parse_math=False)
    return drawn


def _panel(axes: Axes, experiment: Experiment, results: Sequence[Result]) -> None:
    if experiment.logarithmic:
        axes.set_xscale("log")
    points = [(each.cell.x, each.measured) for each in results if each.cell.x is not None and each.measured is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=_MEASURED, marker="o", linewidth=2, label="measured")
    printed = [(each.cell.x, float(each.cell.paper)) for each in results if each.cell.x is not None and each.cell.paper]
    if printed:
        axes.plot(*zip(*printed, strict=True), color=_PAPER, marker="D", linestyle="", label="paper, tables 2 to 4")
    levels = [each for each in results if each.cell.x is None and each.measured is not None]
    for level, colour in zip(levels, _LEVELS, strict=False):
        assert level.measured is not None
        axes.axhline(level.measured, color=colour, linestyle=(0, (4, 3)), label=f"{level.cell.row}, measured")
    places = sorted({each.cell.x for each in results if each.cell.x is not None})
    axes.set_xticks(places)
    if experiment.logarithmic:
        axes.set_xlim(places[0] / 2, places[-1] * 2)
    else:
        axes.set_xlim(places[0] - 0.3, places[-1] + 0.3)
    axes.set_xlabel(experiment.axis, color=_INK)
    axes.set_ylabel("mAP", color=_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.tick_params(colors=_QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=_QUIET)
