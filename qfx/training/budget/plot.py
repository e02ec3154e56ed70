"""Fronts of accuracy against cost, drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from qfx.errors import DataError
from qfx.files import writing


def plot_fronts(
    fronts: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    cost: str = "cost",
    score: str = "score",
    force: bool = False,
) -> Path:
    """Draw fronts of (cost, score) points, each under its name, as steps on a logarithmic axis of cost. Returns the path.

    Raises DataError without matplotlib, for a front without points, and if ``path`` exists and ``force`` is not set.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("plots need matplotlib", where="plot", remedy="pip install matplotlib") from None
    if not all(fronts.values()) or not fronts:
        raise DataError("a front has no points", where="plot", remedy="add checkpoints first")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in fronts.items():
        ordered = sorted(points)
        line = axes.step([p[0] for p in ordered], [p[1] for p in ordered], where="post", linewidth=1, alpha=0.6)[0]
        axes.plot([p[0] for p in ordered], [p[1] for p in ordered], "o", markersize=4, color=line.get_color(), label=name)
    if min(point[0] for points in fronts.values() for point in points) > 0:
        axes.set_xscale("log")
    axes.set_xlabel(cost)
    axes.set_ylabel(score)
    axes.grid(True, which="both", linewidth=0.3)
    if len(fronts) > 1:
        axes.legend(frameon=False)
    with writing(path, force=force) as staged:
        figure.savefig(staged, dpi=150)
    return Path(path)
