"""Convolutions and fully connected layers."""

from __future__ import annotations

import math

import numpy as np

from qfx import operators as ops
from qfx.errors import ExactnessError, ModelFileError, UnsupportedError
from qfx.integers.growing import Result, Weighted
from qfx.integers.steps import Ints
from qfx.integers.tflite.file import Op, Tensor
from qfx.integers.tflite.network import Network
from qfx.integers.tflite.rounding import Rounding, Short
from qfx.ir.values import Pads

_SAME, _VALID = 0, 1
_INT32 = 2
"""As a type in TFLite's schema."""


def conv_2d(network: Network, op: Op) -> None:
    weight = _weights(network, op, axis=0)
    _conv(network, op, np.moveaxis(_data(weight), -1, 1), weight, 1)


def depthwise_conv_2d(network: Network, op: Op) -> None:
    weight = _weights(network, op, axis=3)
    _conv(network, op, np.moveaxis(_data(weight), -1, 0), weight, 0)


def transpose_conv(network: Network, op: Op) -> None:
    """As a convolution of the value with zeros between its pixels, by the kernel turned round."""
    weight, y = _weights(network, op, axis=0), op.outputs[0]
    x = op.inputs[2]
    kernel = np.moveaxis(_data(weight), -1, 1)[:, :, ::-1, ::-1]
    source, name, out = network.centered(x), network.name(y), network.shape(y)
    stride, sizes = (op.options["StrideH"], op.options["StrideW"]), network.infos[source].shape[1:]
    padding(op, out[:2], kernel.shape[2:], stride, (1, 1), network)  # whether it is one of TFLite's
    pads = []
    for size, step, taps, wanted in zip(sizes, stride, kernel.shape[2:], out[:2], strict=True):
        whole = (size - 1) * step + taps
        before = taps - 1 - max(whole - wanted, 0) // 2
        pads.append((before, wanted + taps - 1 - ((size - 1) * step + 1) - before))
    if min(map(min, pads)) < 0:
        raise UnsupportedError(f"leaves out pixels ({pads})", where=network.where(op), remedy="use a kernel at least as wide as the padding")
    if max(stride) > 1:
        source = network.emit(f"{name}.stretched", ops.Stretch(stride), source)
    result, of = _product(network, op, kernel, weight, source, Rounding.DOUBLE, x, 3)
    sums = network.emit(f"{name}.sum", ops.Conv(of.weight, of.bias, (1, 1), tuple(pads), (1, 1), 1), source)
    network.hold(y, network.stepped(result, sums, of.functions, of.ranges))


def fully_connected(network: Network, op: Op) -> None:
    x, y = op.inputs[0], op.outputs[0]
    weight = _weights(network, op, axis=0)
    if op.options["WeightsFormat"]:
        raise UnsupportedError("has shuffled weights", where=network.where(op), remedy="convert the model with plain weights")
    rows = _data(weight)
    source = network.centered(x)
    if network.infos[source].shape != (rows.shape[1],):
        source = network.reordered(f"{network.name(y)}.row", source, (math.prod(network.infos[source].shape),))
    if network.infos[source].shape != (rows.shape[1],):
        what = f"multiplies {network.infos[source].shape[0]} numbers by rows of {rows.shape[1]}"
        raise UnsupportedError(what, where=network.where(op), remedy="only one row a sample can be multiplied")
    result, of = _product(network, op, rows, weight, source, Rounding.NEAREST, x, 2)
    sums = network.emit(f"{result.name}.sum", ops.Linear(of.weight, of.bias), source)
    try:
        held = network.stepped(result, sums, of.functions, of.ranges)
    except ExactnessError as error:
        if result.width == 8 or not network.default_rounding:
            raise
        what = "its kernel multiplies by a double, and rounds sums that are too long for a fixed-point line of its steps"
        remedy = "give it fewer inputs or smaller weights, or say by which rounding older kernels scale it (rounding=, --rounding: 15 bits, once)"
        raise ExactnessError(what, where=result.where, remedy=remedy) from error
    network.hold(y, held)


def _conv(network: Network, op: Op, kernel: Ints, weight: Tensor, groups: int) -> None:
    """``kernel``: (outputs, inputs a group, height, width). ``groups`` 0: one for each channel."""
    x, y = op.inputs[0], op.outputs[0]
    source = network.centered(x)
    shape = network.infos[source].shape
    if len(shape) != 3:
        raise UnsupportedError(f"reads a value of shape {shape}", where=network.where(op), remedy="give (height, width, channels)")
    stride = (op.options["StrideH"], op.options["StrideW"])
    dilation = (op.options["DilationHFactor"], op.options["DilationWFactor"])
    pads = padding(op, shape[1:], kernel.shape[2:], stride, dilation, network)
    result, of = _product(network, op, kernel, weight, source, Rounding.DOUBLE, x, 2)
    sums = network.emit(f"{result.name}.sum", ops.Conv(of.weight, of.bias, stride, pads, dilation, groups or shape[0]), source)
    network.hold(y, network.stepped(result, sums, of.functions, of.ranges))


def padding(op: Op, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], network: Network) -> Pads:
    """SAME pads so that ceil(size / stride) windows fit, the odd one behind; VALID pads nothing."""
    if min(*stride, *dilation, *kernel) < 1:
        raise ModelFileError(f"stride {stride}, dilation {dilation}", where=network.where(op), remedy="the file is damaged; convert it again")
    if op.options["Padding"] == _VALID:
        return ((0, 0),) * len(sizes)
    if op.options["Padding"] != _SAME:
        raise UnsupportedError(f"has padding {op.options['Padding']}", where=network.where(op), remedy="use SAME or VALID")
    found = []
    for size, taps, step, spread in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((math.ceil(size / step) - 1) * step + (taps - 1) * spread + 1 - size, 0)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def _weights(network: Network, op: Op, axis: int) -> Tensor:
    """The constant weights: int8, symmetric, with one scale or one for each output."""
    weight = network.constant(op.inputs[1], "weight", op)
    if weight.dtype != "INT8":
        raise UnsupportedError(f"its weights are {weight.dtype}", where=network.where(op), remedy="quantize them to int8")
    if weight.zeros.any():
        raise UnsupportedError("its weights have zero points", where=network.where(op), remedy="quantize them symmetrically, as TFLite's int8 does")
    if weight.scales.size not in (1, weight.shape[axis]) or (weight.scales.size > 1 and weight.axis != axis):
        what = f"{weight.scales.size} scales along axis {weight.axis} of weights {weight.shape}"
        raise UnsupportedError(what, where=network.where(op), remedy="give one, or one for each output")
    return weight


def _data(tensor: Tensor) -> Ints:
    assert tensor.data is not None
    return tensor.data.astype(np.int64)


def _product(network: Network, op: Op, kernel: Ints, weight: Tensor, source: str, default: Rounding, x: int, bias: int) -> tuple[Result, Weighted]:
    """The result, and the sums of products that it is made of. ``x``: the tensor that is multiplied, which ``source`` holds; ``bias``: which input is
    that."""
    y = op.outputs[0]
    result = network.result(y, op, op.options["FusedActivationFunction"])
    given = None if len(op.inputs) <= bias or op.inputs[bias] < 0 else _bias(network, op, op.inputs[bias], kernel.shape[0], x)
    (scale, _), (out, _) = network.quantized(x), network.quantized(y)
    factors = [scale * float(one) / out for one in weight.scales]
    once = default is Rounding.NEAREST and network.default_rounding
    if network.width(x) == 16 and not _short_sums(op) and not once:
        functions = [Short.of(factor).function for factor in factors]
    else:
        functions = [scaling.function for scaling in network.functions(factors, default)]
    return result, Weighted.of(kernel, given, network.infos[source].interval.hull, functions, result.centered)


def _short_sums(op: Op) -> bool:
    """Whether an operator of 16-bit numbers has sums of 32 bits, and biases of such, instead of 64."""
    return op.options.get("QuantizedBiasType") == _INT32


def _bias(network: Network, op: Op, index: int, outputs: int, x: int) -> Ints:
    """In units of the scales of input and weights (TFLite does not look at its own)."""
    bias = network.constant(index, "bias", op)
    kind = "INT32" if network.width(x) == 8 or _short_sums(op) else "INT64"
    if bias.dtype != kind or bias.shape != (outputs,):
        what = f"its bias is {bias.dtype} of shape {bias.shape}"
        also = ", or INT32 where quantized_bias_type says so" if kind == "INT64" else ""
        raise UnsupportedError(what, where=network.where(op), remedy=f"give {kind} of shape ({outputs},){also}")
    if (np.abs(_data(bias).astype(np.float64)) >= 1 << 47).any():
        raise ExactnessError("its bias leaves int48", where=network.where(op), remedy="the kernel would wrap its sums; give a smaller one")
    return _data(bias)
