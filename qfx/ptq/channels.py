"""Structured pruning of a quantized model: channels leave it with their weights, norms, statistics and formats.

A *chain* is as in ``qfx.ptq.floating.prune``, on the graph of the quantized model: a layer whose channels go, each by itself, through casts, norms,
activations, tables and poolings into one other layer. What is sliced with the channels: weights, biases, norms and their statistics, binary points
per channel or element, where these started, learned word lengths, masks of n:m rows. Every other format stays as it is; nothing is calibrated anew.
So what stays has the numbers that it had, but for weights that make up for those that go.

Importance is that of the network in fixed point (the measures: ``qfx.ptq.floating.second_order``). The surgeon meets the cast activations and leaves
out the cast weights; what makes up is added to the float weights, which are cast as before. Apoptosis differentiates the loss twice *through the
casts*: a cast's value is that of its numbers, its derivative the one with which it trains (1 or 0, straight-through), as a constant; a table's
derivatives are those of its function.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import UnsupportedError
from qfx.nn.accumulator import Accumulating
from qfx.nn.casts.sparse import Sparse
from qfx.nn.layers import Norm, QAvgPool, QBatchNorm, QConv, QDropout, QFoldedBatchNorm, QLeakyReLU, QLinear, QMaxPool, QPad, QReLU, QReLU6, QReshape
from qfx.nn.layers.avg_pool import QPartialAvgPool
from qfx.nn.layers.given import GivenQuantizer
from qfx.nn.layers.moving.take import QTake
from qfx.nn.layers.tables.lookup import QInnerLookup, QLookup, Tabled
from qfx.nn.layers.upsample import QUpsample
from qfx.nn.model import QuantizedModel, graph_module
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.floating.second_order import Operated, Parts, by_loss, count_of, narrow, operate, spread

_EACH_ALONE = (QReLU, QReLU6, QLeakyReLU, QMaxPool, QAvgPool, QPartialAvgPool, QDropout, QUpsample, QLookup)
"""Layers that treat channels alike, each by itself, and hold nothing of theirs."""


@dataclass(frozen=True)
class _Between:
    """A module between the two layers; ``width``: its numbers along the channels' axis."""

    path: str
    width: int


@dataclass(frozen=True)
class Chain:
    """The layer whose channels go, what they go through, and the layer that reads ``width`` numbers of them."""

    first: str
    between: tuple[_Between, ...]
    second: str
    channels: int
    width: int


def without_chains(model: nn.Module) -> UnsupportedError:
    told = "no layer's channels are read by one other layer alone"
    return UnsupportedError(told, where=type(model).__name__, remedy="channels that shortcuts add cannot go; prune by word lengths (learn_width)")


def chains(module: QuantizedModel) -> list[Chain]:
    """Every chain of the model, in its order."""
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    found = (_chain(node, module, calls) for node in module.graph.nodes if _sums(node, module, calls))
    return [chain for chain in found if chain is not None]


def _sums(node: fx.Node, module: QuantizedModel, calls: Counter[str]) -> bool:
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    plain = isinstance(layer, QConv | QLinear) and type(layer) in (QConv, QLinear) and layer.groups == 1 and layer.form is None
    return plain and calls[str(node.target)] == 1


def _chain(start: fx.Node, module: QuantizedModel, calls: Counter[str]) -> Chain | None:
    channels = len(module.get_submodule(str(start.target)).weight)  # type: ignore[arg-type]
    between, width, node = [_Between(path, channels) for path in _folded(start, module)], channels, start
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].op != "call_module":
            return None
        reader, path = users[0], str(users[0].target)
        layer = module.get_submodule(path)
        if _sums(reader, module, calls):
            return Chain(str(start.target), tuple(between), path, channels, width) if reader.args[0] is node else None
        if calls[path] > 1 or len(reader.args) != 1:
            return None
        if type(layer) is QReshape:
            if len(layer.shape) > 1 and layer.shape[0] != width:
                return None
            width = layer.shape[0]
        elif not _each_alone(layer):
            return None
        between.append(_Between(path, width))
        node = reader


def _each_alone(layer: nn.Module) -> bool:
    """Whether channels can go from it."""
    if isinstance(layer, QTake | QPad):
        return layer.axis > 0 if isinstance(layer, QTake) else layer.pads[0] == (0, 0)
    return isinstance(layer, (*_EACH_ALONE, QBatchNorm)) or type(layer) in (Quantizer, GivenQuantizer)


def _folded(node: fx.Node, module: QuantizedModel) -> Iterator[str]:
    """The BatchNorm that is folded into a layer."""
    for partner in node.args[1:]:
        if isinstance(partner, fx.Node) and isinstance(module.get_submodule(str(partner.target)), QFoldedBatchNorm):
            yield str(partner.target)


def prune_quantized(
    model: nn.Module, example_input: Tensor, keep: float, loss: Callable[[nn.Module], Tensor] | None, *, make_up: bool
) -> QuantizedModel:
    """``prune_channels`` of a quantized model; by apoptosis where there is a loss."""
    result = copy.deepcopy(graph_module(model)).eval()
    with torch.no_grad():
        result(example_input)  # tables and constants are those of the weights as they are
    found = chains(result)
    if not found:
        raise without_chains(model)
    for chain in found:
        _check(result, chain)
    chosen = None if loss is None else _by_loss(result, found, loss, keep)
    for place, chain in enumerate(found):  # in order, so that each sees what the pruned layers before it give
        operated = _operated(result, chain, example_input, keep, None if chosen is None else chosen[place], make_up=make_up)
        _remove(result, chain, operated.kept)
    return result


def _check(module: QuantizedModel, chain: Chain) -> None:
    """Refuse, by name, what cannot be sliced."""
    first, second = module.get_submodule(chain.first), module.get_submodule(chain.second)
    for path, layer in ((chain.first, first), (chain.second, second)):
        weight = layer._parameters.get("weight")
        if weight is None:
            raise UnsupportedError("has a weight that is computed of others", where=path, remedy="make it a plain one before: qfx.float_state")
        if sum(other is weight for each in module.modules() for other in each._parameters.values()) > 1:
            raise UnsupportedError("shares its weight with another layer", where=path, remedy="give each layer a weight of its own")
    for path, layer in ((chain.first, first), *((each.path, module.get_submodule(each.path)) for each in chain.between), (chain.second, second)):
        for cast in (part for part in layer.modules() if isinstance(part, Quantizer)):
            _check_cast(cast, path, reads=layer is second)


def _check_cast(cast: Quantizer, path: str, *, reads: bool) -> None:
    where = cast.name or path
    if cast.behind:
        remedy = "take them off before: inject(qmodel, None), gradients.close()"
        raise UnsupportedError("has faults or gradients of few bits behind its cast", where=where, remedy=remedy)
    if isinstance(cast, Accumulating):
        remedy = "prune before weights are kept within an accumulator: quantize without Spec.accumulator, prune, train on"
        raise UnsupportedError("keeps each output's weights within an accumulator", where=where, remedy=remedy)
    if reads and isinstance(cast, Sparse):
        remedy = f"leave it dense, Override({where!r}, {{'sparsity': '1:1'}}), or prune first: qfx.float_state, then sparsity"
        raise UnsupportedError(
            f"keeps {cast.n} of each {cast.m} neighbouring inputs, which would be others without a channel", where=where, remedy=remedy
        )


def _operated(module: QuantizedModel, chain: Chain, x: Tensor, keep: float, chosen: Tensor | None, *, make_up: bool) -> Operated:
    """Which channels stay; the second layer's float weight and bias make up for the others."""
    second: Any = module.get_submodule(chain.second)
    seen: list[tuple[Any, ...]] = []
    handle = second.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        module(x)
        handle.remove()
        ((value, *partner),) = seen
        (norm,) = partner or (None,)
        weight = second.constants(norm)[0].value.double()
        (rows,) = second.input_rows(value.tensor())
    told: dict[str, Any] = {"chosen": chosen, "has_bias": second.bias is not None, "make_up": make_up}
    operated = operate(weight, rows, rows.shape[1] // chain.channels, count_of(keep, chain.channels), **told)
    if make_up:
        scale = torch.ones(len(weight), dtype=torch.float64) if norm is None else norm.scale.detach().double()
        inverse = torch.where(scale == 0, 0.0, 1 / scale)[:, None]
        moved = (operated.weight - weight.flatten(1)) * inverse
        with torch.no_grad():
            second.weight.add_(moved.reshape(second.weight.shape).to(second.weight.dtype))
            if second.bias is not None:
                second.bias.add_((operated.bias * inverse[:, 0]).to(second.bias.dtype))
    return operated


# ---- removal ----


def _remove(module: QuantizedModel, chain: Chain, kept: Tensor) -> None:
    first: Any = module.get_submodule(chain.first)
    second: Any = module.get_submodule(chain.second)
    share = len(kept) / chain.channels
    narrow(first, ("weight", "bias"), kept, 0)
    first._known = None
    for cast in (first.weight_cast, first.bias_cast):
        _narrow_cast(cast, 0, chain.channels, kept, share)
    if isinstance(first, QLinear):
        first.out_features = len(kept)
    for between in chain.between:
        layer: Any = module.get_submodule(between.path)
        places = spread(kept, between.width // chain.channels)
        if isinstance(layer, Norm):
            narrow(layer, ("weight", "bias", "running_mean", "running_var"), places, 0)
        elif isinstance(layer, QReshape):
            layer.shape = (len(places), *layer.shape[1:])
        if isinstance(layer, Quantizer):
            _narrow_cast(layer, 1, between.width, places, share)
        elif isinstance(layer, QBatchNorm):
            for cast in (layer.scale_cast, layer.shift_cast):
                _narrow_cast(cast, 0, between.width, places, share)
    columns = spread(kept, chain.width // chain.channels)
    narrow(second, ("weight",), columns, 1)
    second._known = None
    _narrow_cast(second.weight_cast, 1, chain.width, columns, share)
    if isinstance(second, QLinear):
        second.in_features = len(columns)


def _narrow_cast(cast: Quantizer, axis: int, width: int, places: Tensor, share: float) -> None:
    """Keep the binary points of those places of ``width`` along ``axis``, where they have their own; else each serves ``share`` of the
    numbers now."""
    if not cast.is_initialized:
        return
    if cast.frac_bits.dim() > axis and cast.frac_bits.shape[axis] == width:
        narrow(cast, tuple(name for name in ("frac_bits", "frac_start", "int_bits") if getattr(cast, name, None) is not None), places, axis)
    elif not cast.spec.learn_width:
        cast.frac_grad_scale *= share**-0.5
    if isinstance(cast, Sparse):
        narrow(cast, ("mask",), places, axis)
    cast._known = None


# ---- second derivatives ----


class _Smooth(nn.Module):
    """Stands where a Quantizer stood: the same numbers, and a derivative that can be differentiated again."""

    def __init__(self, cast: Quantizer) -> None:
        super().__init__()
        self.cast = cast
        self.name, self.frac_bits = cast.name, cast.frac_bits

    def interval(self) -> Any:
        return self.cast.interval()

    def forward(self, x: QTensor | Tensor) -> QTensor:
        number = x.tensor() if isinstance(x, QTensor) else x
        with torch.enable_grad():
            own = number.detach().requires_grad_()
            found = self.cast(QTensor(own, x.interval) if isinstance(x, QTensor) else own)
            (slope,) = torch.autograd.grad(found.tensor().sum(), own)
        value = found.tensor().detach()
        return QTensor(value + (slope * (number - number.detach())).to(value.dtype), found.interval)

    def with_another(self, x: Tensor, other: _Smooth, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)


class _SmoothTable(nn.Module):
    """Stands where a table stood: its numbers, with the derivatives of its function."""

    output_cast: Any

    def __init__(self, table: Tabled) -> None:
        super().__init__()
        self.table, self.casts = table, isinstance(table, QInnerLookup)

    def forward(self, x: QTensor) -> QTensor:
        with torch.no_grad():
            found = self.table.values(x)
        function = self.table.function(x.tensor()).to(found.value.dtype)
        result = QTensor(found.value + (function - function.detach()), found.interval)
        return self.output_cast(result) if self.casts else result


def smoothed(module: QuantizedModel) -> QuantizedModel:
    """A copy that gives the same numbers and can be differentiated twice. UnsupportedError for what keeps weights within an accumulator."""
    result = copy.deepcopy(module)
    for path, layer in list(result.named_modules()):  # a table before its cast, which is put where the graph calls it
        if isinstance(layer, Accumulating):
            raise UnsupportedError("keeps weights within an accumulator", where=layer.name or path, remedy='use method="surgeon"')
        if isinstance(layer, Quantizer | Tabled):
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, _Smooth(layer) if isinstance(layer, Quantizer) else _SmoothTable(layer))
    return result


def _by_loss(module: QuantizedModel, found: list[Chain], loss: Callable[[nn.Module], Tensor], keep: float) -> list[Tensor]:
    smooth = smoothed(module)
    return by_loss(smooth, [parts(smooth, chain) for chain in found], loss, keep)


def parts(module: nn.Module, chain: Chain) -> Parts:
    """The parameters of the channels of a chain."""
    norms = [layer for layer in (module.get_submodule(between.path) for between in chain.between) if isinstance(layer, Norm)]
    held = [layer._parameters.get(name) for layer in (module.get_submodule(chain.first), *norms) for name in ("weight", "bias")]
    second = module.get_submodule(chain.second).get_parameter("weight")
    return [*((part, 0) for part in held if part is not None), (second, 1)]
