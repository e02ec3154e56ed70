"""What a search for word lengths asks and answers: budgets, points, and the front of those that no other beats; as a drawing too."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from qfx.errors import QfxError, RecipeError
from qfx.hardware.board import board, check_clock
from qfx.hardware.cost.estimate import NAMES
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module
from qfx.pages.notebook import notebook_table
from qfx.ptq.allocation.table import Table
from qfx.recipe import Override, Recipe

AMOUNTS: Mapping[str, str] = {"weight_bits": "weight bits", **NAMES}
"""What a point takes, by name: as people call it."""

Widths = tuple[int, ...]
"""Word lengths in the order of a table's rows."""

Designs = Mapping[Widths, "Point | None"]
"""Designs that were made, by their word lengths; None for those that do not meet the budget."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may take. Either ``weight_bits``, the sum over all weights of their word lengths (those of quantizers without a row in the table
    included), or ``mean_weight_bits``, the same per weight; or hardware: a ``board`` by name, at ``clock_ns`` (default: the board's), that makes
    ``fps`` frames per second (None: one number at a time, the smallest design there is) with at most so many of the board's ``dsp``, ``lut`` and
    ``bram18`` (None: what ``qfx hls`` allows)."""

    weight_bits: int | None = None
    mean_weight_bits: float | None = None
    board: str | None = None
    fps: float | None = None
    dsp: int | None = None
    lut: int | None = None
    bram18: int | None = None
    clock_ns: float | None = None

    def __post_init__(self) -> None:
        hardware = (self.fps, self.dsp, self.lut, self.bram18)
        kinds = (self.weight_bits, self.mean_weight_bits, self.board)
        if sum(kind is not None for kind in kinds) != 1:
            raise RecipeError(
                "give either weight_bits or mean_weight_bits or a board", where="budget", remedy="search for one of them; a board's limits go along"
            )
        if self.board is None and (any(limit is not None for limit in hardware) or self.clock_ns is not None):
            raise RecipeError("hardware without a board", where="budget", remedy="give board='ultra96v2' or another")
        for name in ("weight_bits", "mean_weight_bits", "fps", "dsp", "lut", "bram18", "clock_ns"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise RecipeError(f"{name} is {value!r}", where="budget", remedy="give a number from 0 on")
            if value == 0 and name in ("fps", "clock_ns"):
                raise RecipeError(f"{name} is 0", where="budget", remedy="give a number above 0")

    def check(self, qmodel: nn.Module, names: Collection[str], shortest: int) -> None:
        """Raise what a search would raise in the end, as far as that can be told at once: ProjectError for an unknown board or a clock that it cannot
        have, RecipeError if weights that take at least ``shortest`` bits (of quantizers called ``names``; others stay as they are) are too many."""
        if self.board is not None:
            whole = board(self.board)
            check_clock(whole.clock_ns if self.clock_ns is None else self.clock_ns, whole)
            return
        casts = ((layer.weight.numel(), layer.weight_cast) for layer in _layers(qmodel))
        least = sum(numbers * (min(shortest, cast.word_length) if cast.name in names else cast.word_length) for numbers, cast in casts)
        self.refuse_below(least, weight_count(qmodel))

    def limit(self, count: int) -> int:
        """The weight bits that ``count`` weights may take."""
        assert self.weight_bits is not None or self.mean_weight_bits is not None
        return self.weight_bits if self.weight_bits is not None else math.floor((self.mean_weight_bits or 0.0) * count)

    def refuse_below(self, least: int, count: int) -> None:
        """Raise RecipeError if ``count`` weights may not take ``least`` bits, all in all."""
        if self.limit(count) < least:
            raise RecipeError(
                f"{self.limit(count)} weight bits cannot be met",
                where="budget",
                remedy=f"give at least {least} ({least / count:.2f} per weight), or let the table have shorter words",
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "mean-weight-bits=4" or "board=ultra96v2,fps=1000,lut=30000": the fields by name, separated by commas. Raises RecipeError."""
        kinds: dict[str, Callable[[str], Any]] = {field.name: float for field in dataclasses.fields(cls)}
        kinds.update(board=str, weight_bits=int, dsp=int, lut=int, bram18=int)
        found: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            key = name.replace("-", "_")
            if not equals or key not in kinds:
                names = ", ".join(name.replace("_", "-") for name in kinds)
                raise RecipeError(f"{part.strip()!r} is no part of a budget", where="budget", remedy=f"write NAME=NUMBER,..., with names of {names}")
            if key in found:
                raise RecipeError(f"{name} is given twice", where="budget", remedy="give it once")
            try:
                found[key] = kinds[key](value)
            except ValueError:
                raise RecipeError(f"{name} is {value!r}", where="budget", remedy="give a number") from None
        return cls(**found)


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a front: word lengths in the order of the table's rows, the predicted ``loss`` in its unit, the ``weight_bits``, and, if designs
    were made, the estimated resources by name and the frames per second of this one's."""

    widths: Widths
    loss: float
    weight_bits: int
    resources: tuple[tuple[str, int], ...] = ()
    fps: float = 0.0

    def __str__(self) -> str:
        cost = ", ".join(f"{number} {NAMES[name]}" for name, number in self.resources)
        speed = f", {self.fps:.0f} fps" if self.fps else ""
        return f"loss {self.loss:.4g}, {self.weight_bits} weight bits{', ' if cost else ''}{cost}{speed}"

    def amount(self, resource: str) -> int:
        """How much of "weight_bits", "lut", "ff", "dsp" or "bram18" it takes. Raises QfxError if no design was made that tells."""
        if resource == "weight_bits":
            return self.weight_bits
        amounts = dict(self.resources)
        if resource not in amounts:
            known = ", ".join(("weight_bits", *amounts))
            raise QfxError(f"the points know nothing of {resource!r}", where="plot_pareto", remedy=f"use one of {known}")
        return amounts[resource]


@dataclass(frozen=True, eq=False)
class Found:
    """The result of ``search``: ``recipe`` has an override for every word length that is another than before; ``point`` is what was chosen, checked
    on the model (and design) that the recipe makes; ``front`` the points with the least loss for what they take, cheapest first: of weight bits, or
    of the ``scarcest`` resource of the chosen design, where every point is a design that was made."""

    recipe: Recipe
    names: tuple[str, ...]
    point: Point
    front: tuple[Point, ...]
    scarcest: str = "weight_bits"

    @property
    def widths(self) -> dict[str, int]:
        """The word length of each quantizer that was chosen."""
        return dict(zip(self.names, self.point.widths, strict=True))

    def __str__(self) -> str:
        """The front, a point a line, the chosen one marked."""
        return "\n".join(f"{'>' if point.widths == self.point.widths else ' '} {point}" for point in self.front)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("chosen" if point.widths == self.point.widths else "", str(point)) for point in self.front]
        return notebook_table("what word lengths cost, and bring", ("", "point"), rows)


def as_data(found: Found) -> dict[str, Any]:
    """The result as what JSON can hold."""
    points = [found.point, *found.front]
    return {
        "recipe": found.recipe.to_toml(),
        "names": list(found.names),
        "points": [dataclasses.asdict(point) for point in points],
        "scarcest": found.scarcest,
    }


def point_from(entry: Mapping[str, Any]) -> Point:
    """A point from what ``dataclasses.asdict`` made of it. Raises KeyError, TypeError or ValueError for anything else."""
    resources = tuple((str(name), int(number)) for name, number in entry["resources"])
    return Point(tuple(entry["widths"]), float(entry["loss"]), int(entry["weight_bits"]), resources, float(entry["fps"]))


def found_from(data: Mapping[str, Any]) -> Found:
    """The inverse of ``as_data``. Raises KeyError, TypeError, ValueError or RecipeError for anything else."""
    points = [point_from(entry) for entry in data["points"]]
    return Found(Recipe.from_toml(data["recipe"]), tuple(data["names"]), points[0], tuple(points[1:]), str(data["scarcest"]))


def weight_bits(qmodel: nn.Module) -> int:
    """The word lengths of all weights of a quantized model, added up. QfxError if it did not come from ``qfx.quantize``."""
    return sum(int(layer.weight_cast.word_lengths().expand(layer.cast_weight().shape).sum()) for layer in _layers(qmodel))


def weight_count(qmodel: nn.Module) -> int:
    """How many weights a quantized model has. QfxError if it did not come from ``qfx.quantize``."""
    return sum(layer.weight.numel() for layer in _layers(qmodel))


def _layers(qmodel: nn.Module) -> list[Weighted]:
    return [layer for layer in graph_module(qmodel).modules() if isinstance(layer, Weighted)]


def with_widths(recipe: Recipe, table: Table, widths: Iterable[int]) -> Recipe:
    """``recipe`` with an override for each row of the table whose word length is to be another one than the row has now."""
    pairs = zip(table.rows, widths, strict=True)
    more = [Override(glob.escape(row.name), {"width": width}) for row, width in pairs if width != row.width]
    return replace(recipe, overrides=(*recipe.overrides, *more))


def least_loss(points: Iterable[Point], cost: Callable[[Point], float]) -> tuple[Point, ...]:
    """The points that no other beats in both loss and cost, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (cost(point), point.loss)):
        if not best or point.loss < best[-1].loss:
            best.append(point)
    return tuple(best)


def plot_pareto(found: Found, path: str | Path, *, resource: str | None = None) -> None:
    """Draw the front as PNG, SVG or PDF (by the suffix): loss over ``resource``, "weight_bits" or one of "lut", "ff", "dsp", "bram18" (None: the
    scarcest, over which the points are a front).

    Raises QfxError without matplotlib, or if the points know nothing of the resource.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise QfxError("matplotlib is not installed", where="plot_pareto", remedy="pip install 'qfx[demo]', or print the front instead") from None
    resource = found.scarcest if resource is None else resource
    xs = [point.amount(resource) for point in found.front]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    losses = [point.loss for point in found.front]
    order = np.argsort(xs, kind="stable")
    axes.plot([xs[i] for i in order], [losses[i] for i in order], color="#9db4c8", linewidth=1, zorder=1)
    axes.scatter(xs, losses, s=24, color="#1f5f8b", label="front", zorder=2)
    axes.scatter([found.point.amount(resource)], [found.point.loss], s=110, facecolors="none", edgecolors="#c0392b", label="chosen", zorder=3)
    if min(losses) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(AMOUNTS[resource])
    axes.set_ylabel("predicted loss")
    axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=150)
