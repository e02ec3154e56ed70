"""Torch -> Graph: each fixed-point layer as the exact operators that it is made of, with the constants that the emulator uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx, nn

from qfx import operators as ops
from qfx.errors import DataError, UnsupportedError
from qfx.ir.graph import Graph, Node, graph_name
from qfx.nn import functional as qf
from qfx.nn.layers import QConv, QConvTranspose, QLinear, Weighted
from qfx.nn.model import graph_module, recipe_of
from qfx.nn.norm import FoldedNorm, QBatchNorm, QFoldedBatchNorm
from qfx.nn.quantizer import Quantizer
from qfx.operators import ArrayType, Const, Operator


def to_graph(qmodel: nn.Module, name: str = "model") -> Graph:
    """The hardware-side graph of a quantized model as it is now (binary points rounded, BatchNorm statistics as they stand, dropout gone).

    ``name`` names the graph. Its metadata carries the recipe as TOML. Raises QfxError if ``qmodel`` did not come from ``qfx.quantize``,
    DataError for NaN or infinity in a parameter, UnsupportedError for a module that was put in by hand and has no operator.
    """
    module = graph_module(qmodel)
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not bool(torch.isfinite(tensor).all()):
            raise DataError("NaN or infinity", where=path, remedy="load an earlier checkpoint; a lower learning rate may help")
    lowering = _Lowering(module)
    with torch.no_grad():
        for node in module.graph.nodes:
            lowering.visit(node)
    return Graph(name, tuple(lowering.nodes), lowering.output, {"recipe": recipe_of(module).to_toml()})


@dataclass
class _Lowering:
    module: fx.GraphModule
    nodes: list[Node] = field(default_factory=list)
    values: dict[fx.Node, str] = field(default_factory=dict)
    norms: dict[fx.Node, FoldedNorm] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    output: str = ""

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            return
        if node.op == "call_method" and node.target == "tensor":
            (source,) = node.args
            self.output = self.values[source]  # type: ignore[index]
            return
        if node.op == "output":
            return
        layer = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, QFoldedBatchNorm):
            self.norms[node] = FoldedNorm(*layer.affine(), None)
            return
        rule = _RULES.get(type(layer)) if layer is not None else None
        if rule is None or layer is None:
            raise UnsupportedError(
                f"{type(layer).__name__} has no operator", where=str(node.target), remedy="change the float model, then quantize it"
            )
        inputs = tuple(self.values[source] for source in node.args if source in self.values)  # type: ignore[index]
        norm = next((self.norms[source] for source in node.args if source in self.norms), None)  # type: ignore[index]
        label = layer.name if isinstance(layer, Quantizer) else str(node.target)
        steps = _weighted(layer, norm) if isinstance(layer, Weighted) else rule(layer)
        for suffix, op in steps:
            value = self._free(label + suffix)
            self.nodes.append(Node(value, op, inputs))
            inputs = (value,)
        self.values[node] = inputs[0]

    def _free(self, name: str) -> str:
        """The name as a graph can hold it, or one beside it for a layer that is called again."""
        name = graph_name(name)
        candidate, count = name, 1
        while candidate in self.names:
            candidate, count = f"{name}_{count}", count + 1
        self.names.add(candidate)
        return candidate


Steps = list[tuple[str, Operator]]
"""The operators of one layer in order, each reading the one before: (suffix of the node's name, operator)."""


def _constant(values: Tensor, where: str, cast: Quantizer | None = None) -> Const:
    """The constant; on a grid for each index of axis 0 where ``cast`` has binary points for them."""
    grids: tuple[int, ...] | None = None
    if cast is not None and cast.frac_bits.dim():
        grids = tuple(int(bits) for bits in cast.points().reshape(len(values), -1).amax(1).tolist())
    try:
        return Const.of(values.detach().cpu().numpy(), grids)
    except DataError as error:
        raise DataError(error.what, where=where, remedy=error.remedy) from None


def array_type(quantizer: Quantizer) -> ArrayType:
    """The cast of an activation quantizer; the batch axis is left out of its shape."""
    element, int_bits, shape = quantizer.types()
    return ArrayType(element, int_bits, shape[1:])


def _weighted(layer: Weighted, norm: FoldedNorm | None) -> Steps:
    weight, bias = layer.constants(norm)
    constants = (
        _constant(weight.value, f"{layer.name}.weight", layer.weight_cast),
        None if bias is None else _constant(bias.value, f"{layer.name}.bias", layer.bias_cast),
    )
    if isinstance(layer, QConv):
        return [("", ops.Conv(*constants, layer.stride, layer.pads, layer.dilation, layer.groups))]
    if isinstance(layer, QConvTranspose):
        return _transposed(layer, *constants)
    return [("", ops.Linear(*constants))]


def _transposed(layer: QConvTranspose, weight: Const, bias: Const | None) -> Steps:
    """Output pixel o of a transposed convolution is the sum of weight[k] * x[i] over all i * stride + k * dilation - padding = o. With zeros between
    the pixels of x, i * stride counts pixels, so that this is a convolution by the flipped weight: kernel position k' = K - 1 - k meets pixel
    o - (dilation * (K - 1) - padding) + k' * dilation.
    """
    flipped = Const(np.flip(weight.raw, tuple(range(2, weight.raw.ndim))), weight.frac_bits)
    stretched = tuple((n - 1) * s + 1 for n, s in zip(layer.size, layer.stride, strict=True))
    steps: Steps = [] if stretched == layer.size else [(".stretch", ops.Stretch(layer.stride))]
    pads = layer.pads
    if any(side < 0 for pair in pads for side in pair):
        around = tuple((max(before, 0), max(after, 0)) for before, after in pads)
        if any(map(any, around)):
            steps.append((".pad", ops.Pad(((0, 0), *around))))
        starts = tuple(max(-before, 0) for before, _ in pads)
        stops = tuple(n + before + after for n, (before, _), (_, after) in zip(stretched, around, pads, strict=True))
        channels = weight.shape[1] * layer.groups
        steps.append((".crop", ops.Slice((0, *starts), (channels, *stops), (1,) * (len(starts) + 1))))
        pads = ((0, 0),) * len(pads)
    ones = (1,) * len(pads)
    return [*steps, ("", ops.Conv(flipped, bias, ones, pads, layer.dilation, layer.groups))]


def _batch_norm(layer: QBatchNorm) -> Steps:
    scale, shift = layer.constants()
    return [
        (
            "",
            ops.Affine(
                _constant(scale.value, f"{layer.name}.scale", layer.scale_cast), _constant(shift.value, f"{layer.name}.shift", layer.shift_cast)
            ),
        )
    ]


def _avg_pool(layer: qf.QAvgPool) -> Steps:
    total = ops.SumPool(layer.kernel, layer.stride, tuple((p, p) for p in layer.padding))
    return [(".sum", total), ("", ops.Affine(_constant(layer.reciprocal().value, "reciprocal"), None))]


def _max_pool(layer: qf.QMaxPool) -> Steps:
    return [("", ops.MaxPool(layer.kernel, layer.stride, tuple((p, p) for p in layer.padding), layer.dilation))]


def _scalar(number: int) -> Const:
    return Const.of(float(number))


_RULES: dict[type[nn.Module], Callable[..., Steps]] = {
    qf.QInput: lambda layer: [("", ops.Input(layer.shape, array_type(layer.cast)))],
    Quantizer: lambda layer: [("", ops.Cast(array_type(layer)))],
    QConv: _weighted,
    QConvTranspose: _weighted,
    QLinear: _weighted,
    QBatchNorm: _batch_norm,
    qf.QAdd: lambda layer: [("", ops.Add())],
    qf.QSub: lambda layer: [("", ops.Sub())],
    qf.QMul: lambda layer: [("", ops.Mul())],
    qf.QReLU: lambda layer: [("", ops.Relu())],
    qf.QLeakyReLU: lambda layer: [("", ops.LeakyRelu(layer.log2_slope))],
    qf.QReLU6: lambda layer: [("", ops.Clip(_scalar(0), _scalar(6)))],
    qf.QMaxPool: _max_pool,
    qf.QAvgPool: _avg_pool,
    qf.QConcat: lambda layer: [("", ops.Concat())],
    qf.QReshape: lambda layer: [("", ops.Reshape(layer.shape))],
    qf.QPermute: lambda layer: [("", ops.Transpose(layer.perm))],
    qf.QPad: lambda layer: [("", ops.Pad(layer.pads))],
    qf.QSlice: lambda layer: [("", ops.Slice(layer.starts, layer.stops, layer.steps))],
    qf.QUpsample: lambda layer: [("", ops.Upsample(layer.factors))],
    qf.QDropout: lambda layer: [],
}
