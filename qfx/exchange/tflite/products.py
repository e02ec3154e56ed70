"""Convolutions and fully connected layers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qfx import operators as ops
from qfx.errors import ModelFileError, UnsupportedError
from qfx.exchange.tflite.file import Op, Tensor
from qfx.exchange.tflite.network import Network
from qfx.exchange.tflite.rounding import Rounding
from qfx.ir.values import Const, Info, Pads

_SAME, _VALID = 0, 1


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
    sums = _Sums(network, op, kernel, weight, network.infos[source], Rounding.DOUBLE, x=x, bias=3)
    conv = ops.Conv(sums.weight, sums.bias, (1, 1), tuple(pads), (1, 1), 1)
    sums.scaled(network.emit(f"{name}.sum", conv, source))


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
    sums = _Sums(network, op, rows, weight, network.infos[source], Rounding.NEAREST)
    sums.scaled(network.emit(f"{network.name(y)}.sum", ops.Linear(sums.weight, sums.bias), source))


def _conv(network: Network, op: Op, kernel: npt.NDArray[np.int64], weight: Tensor, groups: int) -> None:
    """``kernel``: (outputs, inputs a group, height, width). ``groups`` 0: one for each channel."""
    x, y = op.inputs[0], op.outputs[0]
    source = network.centered(x)
    shape = network.infos[source].shape
    if len(shape) != 3:
        raise UnsupportedError(f"reads a value of shape {shape}", where=network.where(op), remedy="give (height, width, channels)")
    stride = (op.options["StrideH"], op.options["StrideW"])
    dilation = (op.options["DilationHFactor"], op.options["DilationWFactor"])
    pads = padding(op, shape[1:], kernel.shape[2:], stride, dilation, network)
    sums = _Sums(network, op, kernel, weight, network.infos[source], Rounding.DOUBLE)
    conv = ops.Conv(sums.weight, sums.bias, stride, pads, dilation, groups or shape[0])
    sums.scaled(network.emit(f"{network.name(y)}.sum", conv, source))


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


def _data(tensor: Tensor) -> npt.NDArray[np.int64]:
    assert tensor.data is not None
    return tensor.data.astype(np.int64)


class _Sums:
    """Sums of products, and how they are scaled. ``weight`` and ``bias`` are 0 where a result is the same for every input, so that a channel without
    weights of note, whose bias can be as large as 2**30, asks for no wide sums."""

    def __init__(
        self,
        network: Network,
        op: Op,
        kernel: npt.NDArray[np.int64],
        weight: Tensor,
        info: Info,
        rounding: Rounding,
        *,
        x: int | None = None,
        bias: int = 2,
    ) -> None:
        """``info``: of the value that is multiplied; ``x``: its tensor, the first input if left out; ``bias``: which input is that."""
        self._network, self._op = network, op
        outputs, held = kernel.shape[0], info.interval.hull.with_zero()
        offsets = np.zeros(outputs, dtype=np.int64) if len(op.inputs) <= bias or op.inputs[bias] < 0 else self._given(op.inputs[bias], outputs)
        rows = kernel.reshape(outputs, -1)
        above, below = np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1)
        least, greatest = above * held.lo + below * held.hi + offsets, above * held.hi + below * held.lo + offsets
        (scale, _), (out, zero) = network.quantized(op.inputs[0] if x is None else x), network.quantized(op.outputs[0])
        self._ends = network.clamp(op.outputs[0], op.options["FusedActivationFunction"], op)
        scalings = network.scalings([scale * float(one) / out for one in weight.scales], rounding)
        self._scalings = scalings * outputs if len(scalings) == 1 else scalings
        self._ranges = list(zip(least.tolist(), greatest.tolist(), strict=True))
        results = np.array([scaling(np.array(range_)) for scaling, range_ in zip(self._scalings, self._ranges, strict=True)])
        same = np.ptp(np.clip(results + zero, *self._ends), axis=1) == 0
        if not same.all():
            kernel, offsets = np.where(same.reshape(-1, *(1,) * (kernel.ndim - 1)), 0, kernel), np.where(same, 0, offsets)
        self.weight = Const(kernel, 0)
        self.bias = Const(offsets, 0) if offsets.any() else None

    def _given(self, index: int, outputs: int) -> npt.NDArray[np.int64]:
        """The bias, in units of the scales of input and weights (TFLite does not look at its own)."""
        bias = self._network.constant(index, "bias", self._op)
        if bias.dtype != "INT32" or bias.shape != (outputs,):
            what = f"its bias is {bias.dtype} of shape {bias.shape}"
            raise UnsupportedError(what, where=self._network.where(self._op), remedy=f"give INT32 of shape ({outputs},)")
        return _data(bias)

    def scaled(self, sums: str) -> None:
        """The result holds ``sums``, scaled."""
        self._network.stepped(self._op.outputs[0], self._op, sums, self._scalings, self._ends, self._ranges)
