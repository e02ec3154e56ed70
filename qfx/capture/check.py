"""``check()``: what a float model would become in fixed point, operation by operation, without quantizing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from qfx.capture.refusals.blockers import blockers_by_node, changed_modules, refusal
from qfx.capture.tail import captured
from qfx.capture.traced import KIND, OPENED, Traced
from qfx.errors import UnsupportedError
from qfx.nn.call import parts_of
from qfx.nn.convert import asked, copied
from qfx.nn.layers.tables import Tabled
from qfx.nn.layers.tables.lookup import bound_asked
from qfx.nn.lookup import find, operator_name
from qfx.operators.lookup import MAX_ENTRIES
from qfx.pages.notebook import notebook_table
from qfx.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """One operation of the model. ``form``: the classes of the fixed-point layers that it becomes, in order; none where it only passes its input on.
    ``blocker``: why it has no fixed-point form, or ""; then ``remedy`` says what to do. ``left_out``: that the recipe leaves it out. ``table``: of
    a function by table how far from the function it may be; how large it becomes, and its error, are known when the binary points are."""

    path: str
    operation: str
    form: tuple[str, ...] = ()
    blocker: str = ""
    remedy: str = ""
    left_out: bool = False
    table: str = ""


@dataclass(frozen=True)
class Check:
    """What ``check`` found: the operations in the order of the model, and the blockers that belong to no single one, last."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether ``quantize`` takes every operation."""
        return not self.blocked

    @property
    def blocked(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.blocker)

    def _repr_html_(self) -> str:
        rows = [(row.path, row.operation, _told(row), row.remedy) for row in self.rows]
        return notebook_table("what every operation becomes", ("path", "operation", "fixed point", "remedy"), rows)

    def __str__(self) -> str:
        cells = [("path", "operation", "fixed point"), *((row.path, row.operation, _told(row)) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(2)]
        lines = [f"{path:{widths[0]}}  {operation:{widths[1]}}  {form}".rstrip() for path, operation, form in cells]
        remedies = {row.blocker: row.remedy for row in self.blocked}
        more = [f"{blocker}\n  remedy: {remedy}" for blocker, remedy in remedies.items()]
        if any(row.table for row in self.rows):
            more.insert(0, _TABLES)
        return "\n".join([*lines, *([""] if more else []), *more])

    __repr__ = __str__


def check(model: nn.Module, example_input: Any, recipe: Recipe | None = None) -> Check:
    """What ``quantize(model, example_input, recipe)`` would make of every operation, or why it would refuse it: rules are asked, nothing is built.

    ``model`` is left as it is. Raises DataError for an example that the model does not take, UnsupportedError for what is no float model at all;
    everything else is told in the rows."""
    model, inputs, recipe = asked(model, example_input, recipe)
    with torch.inference_mode(False), torch.no_grad():
        source = copied(model)
        changed = tuple(changed_modules(source))
        traced = captured(source, inputs, recipe)
        found = blockers_by_node(traced, recipe, changed)
        whole = refusal(source, inputs, traced, tuple(error for _, error in found)).blockers if found else ()
        return Check(tuple(_rows(traced, recipe, found, whole[len(found) :])))


_TABLES = f"""tables: up to {MAX_ENTRIES} numbers an entry for each, the function rounded once; beyond, lines that are as near as they say.
print(quantized) shows the size and the error of each, once its binary points are known"""

Found = Sequence[tuple[fx.Node | None, UnsupportedError]]


def _rows(traced: Traced, recipe: Recipe, found: Found, behind: Sequence[UnsupportedError]) -> Iterator[Row]:
    """``behind``: layers that were not reached."""
    blocked = {error.where for _, error in found}
    for node in traced.module.graph.nodes:
        errors = [error for at, error in found if at is node]
        for error in errors:
            path = str(node.meta.get(OPENED) or "")
            operation = str(node.meta[KIND]) if path and path == error.where else "" if node.op == "output" else operator_name(node, traced)
            yield Row(error.where, operation, (), error.what, error.remedy)
        if errors or node not in traced.shapes or not node.op.startswith("call") or {traced.place(node), node.meta.get(OPENED)} & blocked:
            continue
        with contextlib.suppress(UnsupportedError):  # behind a blocker, of which more is not known
            rule, call = find(node, traced.place(node), traced, recipe)
            layers = [part.layer for part in parts_of(rule(call), len(call.values))]
            tables = dict.fromkeys(bound_asked(layer, recipe.table_error) for layer in layers if isinstance(layer, Tabled))
            yield Row(traced.place(node), operator_name(node, traced), tuple(type(layer).__name__ for layer in layers), table="; ".join(tables))
    for told in traced.left_out:
        operation, _, place = told.partition(" at ")
        yield Row(place.strip("'"), operation, left_out=True)
    for error in (*(error for at, error in found if at is None), *behind):
        yield Row(error.where, "", (), error.what, error.remedy)


def _told(row: Row) -> str:
    if row.left_out:
        return 'left out (tail = "drop")'
    if row.blocker:
        return f"- {row.blocker}"
    return (", ".join(row.form) or "its input") + (f" (table, lines within {row.table})" if row.table else "")
