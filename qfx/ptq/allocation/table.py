"""The table of sensitivities: what a model loses if one quantizer alone works at a word length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qfx.errors import QfxError
from qfx.pages.notebook import notebook_table

Measure = Literal["sqnr", "correlation", "fisher", "hessian", "taylor"]
Role = Literal["weight", "activation", "input"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found at a site: how many ``numbers`` it casts, and the loss at each word length."""

    numbers: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One quantizer. ``losses[i]``: what the model loses with it alone at ``widths[i]`` bits, at least 0. ``numbers``: how many numbers it casts, all
    weights of a layer or one sample's activations. ``width``: the word length that the model has there now."""

    name: str
    role: Role
    numbers: int
    width: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Losses of quantizers, in the order of the network, in the unit of ``measure`` (see ``sensitivity``)."""

    measure: Measure
    widths: tuple[int, ...]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of one quantizer. Raises QfxError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise QfxError("has no row", where=name, remedy=f"the rows are: {', '.join(row.name for row in self.rows[:12])}")

    def loss(self, name: str, width: int) -> float:
        """What the model loses with the quantizer ``name`` alone at ``width`` bits. Raises QfxError if that was not measured."""
        if width not in self.widths:
            raise QfxError(f"was not measured at {width} bits", where=name, remedy=f"the word lengths are: {', '.join(map(str, self.widths))}")
        return self.row(name).losses[self.widths.index(width)]

    def counted(self, role: Role, factor: float) -> Table:
        """The same with the losses of ``role`` times ``factor``. A network that will be trained with the words that ``search`` chooses takes back
        most of what casts of weights lose, and little of what casts of activations do: ``counted("weight", 0.1)`` says so. Raises QfxError for a
        factor below 0."""
        if not 0 <= factor < math.inf:
            raise QfxError(f"counts {factor} times", where=role, remedy="give a factor from 0 on")
        rows = (replace(row, losses=tuple(factor * loss for loss in row.losses)) if row.role == role else row for row in self.rows)
        return replace(self, rows=tuple(rows))

    def decibels(self, name: str, width: int) -> float:
        """-10 log10 of the loss: for "sqnr" the ratio of signal and noise at the output; infinite without a loss."""
        loss = self.loss(name, width)
        return -10 * math.log10(loss) if loss > 0 else math.inf

    def __str__(self) -> str:
        """A table for people, in decibels, the most sensitive quantizers (at the shortest word length) first."""
        order = sorted(self.rows, key=lambda row: -row.losses[0])
        longest = max((len(row.name) for row in order), default=0)
        head = f"{'quantizer':{longest}}  {'numbers':>9}" + "".join(f"{width:>6} bit" for width in self.widths)
        lines = [f"{self.measure}, in dB", head]
        for row in order:
            lines.append(f"{row.name:{longest}}  {row.numbers:>9}" + "".join(f"{self.decibels(row.name, width):>10.1f}" for width in self.widths))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        order = sorted(self.rows, key=lambda row: -row.losses[0])
        rows = [(row.name, f"{row.numbers:,}", *(f"{self.decibels(row.name, width):.1f}" for width in self.widths)) for row in order]
        head = ("quantizer", "numbers", *(f"{width} bit" for width in self.widths))
        return notebook_table(f"{self.measure}, in dB", head, rows, numbers=range(1, len(head)))


def table_from(data: Mapping[str, Any]) -> Table:
    """A table from what ``dataclasses.asdict`` made of it. Raises KeyError, TypeError or ValueError for anything else."""
    rows = (Row(row["name"], row["role"], row["numbers"], row["width"], tuple(row["losses"])) for row in data["rows"])
    return Table(data["measure"], tuple(data["widths"]), tuple(rows))
