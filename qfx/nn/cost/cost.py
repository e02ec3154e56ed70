"""``qfx.cost`` and ``qfx.summary``: what a quantized model costs, as differentiable numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qfx.hardware.board import Board
from qfx.hardware.cost.estimate import NAMES
from qfx.hardware.cost.resources import FIELDS
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.folding.plan import Plan
from qfx.hardware.unrolled import plan as unrolled
from qfx.ir.graph import graph_name
from qfx.nn.cost.hardware import HardwareCost, Style
from qfx.nn.cost.multiplications import Multiplications
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module, quantizers
from qfx.nn.quantizer import Quantizer
from qfx.pages.notebook import notebook_table


@dataclass(frozen=True, eq=False)
class Cost:
    """What a model costs. Tensors are scalars of float64, differentiable by learned word lengths.

    ``bit_operations`` of a sample (see ``Multiplications``), of each layer that multiplies by name (``by_layer``), and in all. ``multiplications`` of
    a sample. ``weight_bits``: the word lengths of all weights, summed; ``weights``: their number. On a board: ``lut``, ``ff``, ``dsp``, ``bram18``
    and ``uram`` by the estimator, ``cycles`` from frame to frame, frames a second, and the ``plan`` that says all of it.
    """

    by_layer: Mapping[str, Tensor]
    multiplications: int
    weight_bits: Tensor
    weights: int
    resources: Mapping[str, Tensor]
    plan: Plan | unrolled.Plan | None

    def __repr__(self) -> str:
        board = "".join(f", {name} {float(share.detach()):,.0f}" for name, share in self.resources.items())
        pace = "" if self.fps is None else f", {self.fps:,.0f} frames a second"
        bits = f"{float(self.bit_operations.detach()):,.0f} bit operations, {self.multiplications:,} multiplications"
        return f"Cost({bits}, {self.weights:,} weights of {float(self.weight_bits.detach()):,.0f} bits{board}{pace})"

    def _repr_html_(self) -> str:
        """Bit operations by layer, for notebooks."""
        rows = [(name, f"{float(count.detach()):,.0f}") for name, count in self.by_layer.items()]
        return notebook_table(repr(self), ("layer", "bit operations"), rows, numbers=(1,))

    @property
    def bit_operations(self) -> Tensor:
        return torch.stack(list(self.by_layer.values())).sum() if self.by_layer else torch.zeros((), dtype=torch.float64)

    @property
    def cycles(self) -> int | None:
        return None if self.plan is None else self.plan.interval

    @property
    def fps(self) -> float | None:
        return None if self.plan is None else self.plan.fps

    def __getattr__(self, name: str) -> Tensor:
        if name in FIELDS and name in self.resources:
            return self.resources[name]
        raise AttributeError(f"a cost without a board has no {name!r}" if name in FIELDS else f"a cost has no {name!r}")


def cost(
    qmodel: nn.Module,
    board: str | Board | None = None,
    *,
    fps: float | None = None,
    clock_ns: float | None = None,
    schedule: Schedule | None = None,
    style: Style = "streaming",
) -> Cost:
    """What the model costs as it is now.

    ``board``: also what it takes on that board: the cheapest design that makes ``fps`` frames a second at ``clock_ns`` (default: the board's), or
    that of ``schedule`` (default: one number at a time), or, of ``style`` "unrolled", the whole network as one pipelined function. The values of the
    resources are what ``qfx hls`` would report, before it looks whether they fit; their gradients the differences that a bit more or less makes.
    Raises ProjectError where no design can be made.
    """
    module = graph_module(qmodel)
    multiplications = Multiplications(module)
    total, weights = weight_bits(module)
    resources: dict[str, Tensor] = {}
    plan: Plan | unrolled.Plan | None = None
    if board is not None:
        measured = HardwareCost(module, board, fps=fps, clock_ns=clock_ns, schedule=schedule, style=style).measure()
        now, plan = measured.now(), measured.plan
        resources = {field: now[index] for index, field in enumerate(FIELDS)}
    return Cost(multiplications.bit_operations(), sum(multiplications.counts().values()), total, weights, resources, plan)


def weight_bits(qmodel: nn.Module) -> tuple[Tensor, int]:
    """(the word lengths of the weights of all layers that multiply by them, summed; how many weights these are). Differentiable."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for layer in graph_module(qmodel).modules():
        if isinstance(layer, Weighted):
            shape = layer.cast_weight().shape
            total = total + layer.weight_cast.bits().expand(shape).sum(dtype=torch.float64).cpu()
            count += shape.numel()
    return total, count


@dataclass(frozen=True, slots=True)
class Row:
    """A layer: its name and kind, how many weights it has and what part of them is zero, the types of weights and of its result, the mean word length
    of the weights, multiplications and bit operations of a sample, and what it takes on the board (in the order of FIELDS)."""

    name: str
    kind: str
    weights: int
    zeros: float
    weight_type: str
    weight_bits: float
    result_type: str
    multiplications: int
    bit_operations: float
    resources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """The layers in the order of the network, and all of them together; ``str`` is a table."""

    rows: tuple[Row, ...]
    total: Row
    board: str = ""
    fps: float = 0.0

    def _repr_html_(self) -> str:
        on = f"on {self.board}, {self.fps:,.0f} frames a second; what belongs to no layer is in the last line alone" if self.board else ""
        head, *rows = self._lines()
        return notebook_table("layers", head, rows, numbers=[place for place in range(len(head)) if place not in (0, 1, 4, 6)], note=on)

    def _lines(self) -> list[list[str]]:
        head = ["layer", "kind", "weights", "zero", "type", "bits", "result", "products", "bit operations"]
        head += [NAMES[field] for field in FIELDS] if self.board else []
        return [head, *(_cells(row) for row in (*self.rows, self.total))]

    def __str__(self) -> str:
        lines = self._lines()
        head = lines[0]
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        left = {0, 1, 4, 6}
        table = [
            "  ".join(cell.ljust(width) if place in left else cell.rjust(width) for place, (cell, width) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        table.insert(1, "  ".join("-" * width for width in widths))
        table.insert(len(table) - 1, table[1])
        if self.board:
            table.append(f"on {self.board}, {self.fps:,.0f} frames a second; what belongs to no layer is in the last line alone")
        return "\n".join(line.rstrip() for line in table) + "\n"

    __repr__ = __str__


def summary(
    qmodel: nn.Module, board: str | Board | None = None, *, fps: float | None = None, clock_ns: float | None = None, style: Style = "streaming"
) -> Summary:
    """Every layer of the model with its formats, bits, multiplications and cost; ``board``, ``fps``, ``clock_ns`` and ``style`` as for ``cost``."""
    module = graph_module(qmodel)
    with torch.no_grad():
        found = cost(module, board, fps=fps, clock_ns=clock_ns, style=style)
        counts = Multiplications(module).counts()
    on_board = {} if found.plan is None else {layer.node: layer.resources for layer in found.plan.estimate.layers}
    results = {name.rpartition(".")[0]: quantizer for name, quantizer in quantizers(module) if name.endswith(".output")}
    rows: list[Row] = []
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if layer is None or isinstance(layer, Quantizer):
            continue
        name = getattr(layer, "name", "") or str(node.target)
        if any(row.name == name for row in rows):
            continue
        resources = on_board.get(graph_name(name))
        operations = float(found.by_layer[name]) if name in found.by_layer else 0.0
        taken = () if found.plan is None else tuple(0 if resources is None else getattr(resources, field) for field in FIELDS)
        rows.append(_row(name, layer, results.get(name), counts.get(name, 0), operations, taken))
    weights = sum(row.weights for row in rows)
    zeros = sum(row.zeros * row.weights for row in rows) / max(weights, 1)
    mean = float(found.weight_bits) / max(found.weights, 1)
    total_taken = () if found.plan is None else tuple(int(found.resources[field]) for field in FIELDS)
    total = Row("total", "", weights, zeros, "", mean, "", found.multiplications, float(found.bit_operations), total_taken)
    return Summary(tuple(rows), total, "" if found.plan is None else found.plan.estimate.board.title, found.fps or 0.0)


def _row(name: str, layer: nn.Module, result: Quantizer | None, products: int, operations: float, taken: tuple[int, ...]) -> Row:
    kind, told = type(layer).__name__.removeprefix("Q"), "" if result is None else _type(result)
    if not isinstance(layer, Weighted):
        return Row(name, kind, 0, 0.0, "", 0.0, told, products, operations, taken)
    with torch.no_grad():
        weight = layer.constants()[0].value
        bits = float(layer.weight_cast.bits().expand(weight.shape).mean())
    return Row(name, kind, weight.numel(), float((weight == 0).float().mean()), _type(layer.weight_cast), bits, told, products, operations, taken)


def _type(quantizer: Quantizer) -> str:
    """The type, or how many there are and between which word lengths."""
    element, int_bits, shape = quantizer.types()
    if not shape:
        return str(element)
    bits = quantizer.bits().detach()
    least, most = int(bits.min()), int(bits.max())
    return f"{len(int_bits)} x {least if least == most else f'{least}..{most}'} bits"


def _cells(row: Row) -> list[str]:
    weights = [f"{row.weights:,}", f"{100 * row.zeros:.0f} %", row.weight_type, f"{row.weight_bits:.2f}"] if row.weights else ["", "", "", ""]
    products = [f"{row.multiplications:,}", f"{row.bit_operations:,.0f}"] if row.multiplications else ["", ""]
    return [row.name, row.kind, *weights, row.result_type, *products, *(f"{number:,}" for number in row.resources)]
