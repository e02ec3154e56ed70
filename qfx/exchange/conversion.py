"""``Conversion``: what an import changed, tensor by tensor; and the comparison of an imported model with its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from qfx.errors import QfxError, UnsupportedError
from qfx.exchange.build import Note
from qfx.exchange.grid import Grid
from qfx.nn.layers import QInput, Weighted
from qfx.nn.layers.given import FakeQuant, GivenQuantizer
from qfx.nn.model import QuantizedModel, graph_module
from qfx.nn.quantizer import Quantizer
from qfx.pages.notebook import notebook_table

_KEPT = "conversion"
"""What a model's first layer calls its Conversion: so copies and pickles have it too."""


@dataclass(frozen=True)
class Row:
    """Of one tensor: its quantizer's name and type, the source's scale over the one here (of the channel where they differ most; 1 where they are
    equal), and the root of the mean squared difference on the example over that of the source's numbers."""

    name: str
    type: str
    scale_ratio: float
    error: float


@dataclass(frozen=True)
class Casts:
    """What a cast of the source is, and gave, call by call."""

    grid: Grid
    values: list[Tensor]


@dataclass(frozen=True)
class Conversion:
    """What an import made of a source. ``exact``: whether it is the source's to the last bit; then no row has an error. ``notes``: what is not, and
    why. ``str`` gives a table."""

    rows: tuple[Row, ...]
    notes: tuple[Note, ...]

    @property
    def exact(self) -> bool:
        return not self.notes and all(row.error == 0.0 and row.scale_ratio == 1.0 for row in self.rows)

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=4)
        kind = max((len(row.type) for row in self.rows), default=4)
        lines = [f"{'tensor':<{width}}  {'type':<{kind}}  scale ratio  relative error"]
        lines += [f"{row.name:<{width}}  {row.type:<{kind}}  {row.scale_ratio:11.4f}  {row.error:14.2e}" for row in self.rows]
        return "\n".join([*lines, *(f"{note.where}: {note.why}" for note in self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(row.name, row.type, f"{row.scale_ratio:.4f}", f"{row.error:.2e}") for row in self.rows]
        note = "; ".join(f"{note.where}: {note.why}" for note in self.notes)
        return notebook_table("what the import made", ("tensor", "type", "scale ratio", "relative error"), rows, numbers=(2, 3), note=note)


def conversion(qmodel: nn.Module) -> Conversion:
    """What the import of a quantized model changed (``qfx.from_brevitas``). Raises QfxError for a model that was not imported."""
    for layer in graph_module(qmodel).modules():
        found = vars(layer).get(_KEPT) if isinstance(layer, QInput) else None
        if isinstance(found, Conversion):
            return found
    raise QfxError("was not imported from another tool", where=type(qmodel).__name__, remedy="make one with qfx.from_brevitas or qfx.from_onnx")


def keep(model: QuantizedModel, found: Conversion) -> None:
    """Let ``conversion(model)`` be ``found``."""
    setattr(next(layer for layer in model.modules() if isinstance(layer, QInput)), _KEPT, found)


def compared(model: QuantizedModel, inputs: tuple[Any, ...], casts: Mapping[str, Casts], numbers: Mapping[str, Tensor], results: Any) -> Conversion:
    """The model beside its source on an example. ``casts``: what the source's casts gave, call by call, and ``numbers`` its weights and biases, by
    the names of the quantizers; ``results``: what it returned."""
    training = model.training
    model.eval()
    with torch.no_grad(), _watching(model) as seen:
        ours = model(*inputs)
    model.train(training)
    rows = [_row(quantizer, as_cast(numbers[name]), value) for name, (quantizer, value, as_cast) in _constants(model).items() if name in numbers]
    for name, (quantizer, values) in seen.items():
        given = casts.get(name) or next((cast for cast in casts.values() if cast.grid is quantizer.grid), None)
        if given is not None:
            same = len(given.values) == len(values) and all(a.shape == b.shape for a, b in zip(given.values, values, strict=True))
            rows.append(_row(quantizer, *(torch.cat([part.flatten() for part in parts]) for parts in (given.values if same else values, values))))
    for place, (theirs, mine) in enumerate(zip(tree_leaves(results), tree_leaves(ours), strict=True)):
        rows.append(Row(f"result {place}" if place else "result", "", 1.0, _error(theirs, mine)))
    return Conversion(tuple(rows), ())


def require_same(found: Conversion, where: str) -> None:
    """Raise UnsupportedError if a tensor is not the source's."""
    wrong = next((row for row in found.rows if row.error), None)
    if wrong is not None:
        what = f"{wrong.name} differs from the source's on the example (by {wrong.error:.1e} of its size)"
        raise UnsupportedError(what, where=where, remedy="please report this defect, with the quantizers of the model")


def in_float(module: nn.Module, numbers: Mapping[str, Tensor], arguments: Mapping[str, Tensor]) -> tuple[dict[str, Casts], dict[str, Tensor]]:
    """What a network of torch's layers and ``FakeQuant`` makes of the example in float32, with ``numbers`` for weights and biases: each cast, and
    the results."""
    kept: list[tuple[Tensor, Tensor]] = []
    casts: dict[str, Casts] = {}
    handles = []
    for layer in module.modules():
        if isinstance(layer, FakeQuant):
            values = casts.setdefault(layer.label, Casts(layer.grid, [])).values
            handles.append(layer.register_forward_hook(lambda _module, _args, result, values=values: values.append(result)))
    try:
        with torch.no_grad():
            for name, value in numbers.items():
                path, _, role = name.rpartition(".")
                holder: Any = module.get_submodule(path)
                computed = parametrize.is_parametrized(holder, role)
                parameter = holder.parametrizations[role].original if computed else getattr(holder, role)
                kept.append((parameter, parameter.detach().clone()))
                parameter.copy_(value.reshape(parameter.shape))
            result = module(**arguments)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
    return casts, dict(result) if isinstance(result, dict) else {"": result}


def _constants(model: QuantizedModel) -> dict[str, tuple[Quantizer, Tensor, Callable[[Tensor], Tensor]]]:
    """Weights and biases, and how the source's are laid out here."""
    found: dict[str, tuple[Quantizer, Tensor, Callable[[Tensor], Tensor]]] = {}
    for layer in model.modules():
        if isinstance(layer, Weighted):
            with torch.no_grad():
                weight, bias = layer.constants()
            found[layer.weight_cast.name] = layer.weight_cast, weight.value, layer.as_cast
            if bias is not None:
                found[layer.bias_cast.name] = layer.bias_cast, bias.value, lambda theirs: theirs
    return found


def _row(quantizer: Quantizer, theirs: Tensor, ours: Tensor) -> Row:
    ratio = 1.0
    if isinstance(quantizer, GivenQuantizer) and quantizer.grid.scales:
        grid = quantizer.grid
        points = grid.frac_bits * (1 if len(grid.frac_bits) == len(grid.scales) else len(grid.scales))
        ratio = max((scale * 2.0**point for scale, point in zip(grid.scales, points, strict=True)), key=lambda value: abs(math.log2(value)))
    return Row(quantizer.name, str(quantizer.types()[0]), ratio, _error(theirs, ours))


def _error(theirs: Tensor, ours: Tensor) -> float:
    wanted, found = theirs.detach().double().flatten(), ours.detach().double().flatten()
    if wanted.shape != found.shape:
        return math.inf
    if torch.equal(wanted, found):
        return 0.0
    return float((wanted - found).square().mean().sqrt() / wanted.square().mean().sqrt().clamp(min=1e-30))


@contextmanager
def _watching(model: nn.Module) -> Iterator[dict[str, tuple[GivenQuantizer, list[Tensor]]]]:
    """What the casts of activations give, call by call, by their names."""
    seen: dict[str, tuple[GivenQuantizer, list[Tensor]]] = {}
    handles = []
    for layer in model.modules():
        if isinstance(layer, GivenQuantizer) and layer.channel_axis == 1 and not layer.grid.bipolar:
            kept = seen.setdefault(layer.name, (layer, []))[1]
            handles.append(layer.register_forward_hook(lambda _module, _args, result, kept=kept: kept.append(result.value.detach())))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
