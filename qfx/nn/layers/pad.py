"""Zeros around a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import nn

from qfx import operators as ops
from qfx.fixed.arith import Bounds
from qfx.nn.call import Call, Family, Layers
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.elementwise.beside import QFill
from qfx.nn.layers.elementwise.held import Held
from qfx.nn.layers.moving.take import QTake, border_orders, taken
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.slice import QSlice
from qfx.nn.qtensor import QTensor

Pads = tuple[tuple[int, int], ...]


class QPad(FixedLayer):
    """Zeros around every axis behind the batch, (before, after) each."""

    traits: ClassVar[Traits] = Traits(moves_only=True, keeps_grid=True, reads_uncast=False)

    def __init__(self, pads: Pads) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: QTensor) -> QTensor:
        interval: Bounds = x.interval.hull if any(self.pads[0]) else x.interval
        return QTensor(F.pad(x.tensor(), [side for pair in reversed(self.pads) for side in pair]), interval.with_zero())

    def operators(self) -> Steps:
        return [("", ops.Pad(self.pads))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        x = sources[0]
        if x.channels == 1 or self.pads[0] == (0, 0):
            return x
        return Clipped(*(F.pad(values, self.pads[0]) for values in (x.mean, x.std, x.low, x.high)))

    def scales_channels(self, channels: int) -> bool:
        return self.pads[0] == (0, 0)


def bordered(call: Call, sides: Any, mode: str) -> Layers:
    """Padding by the value's own numbers."""
    flat = (sides,) * (2 * (len(call.in_shape) - 1)) if isinstance(sides, int) else tuple(int(side) for side in sides)
    return taken(call, border_orders(call.in_shape, flat, mode), call.in_shape)


def _pad(call: Call) -> Layers:
    if call.get("mode", "constant") in ("reflect", "replicate", "circular"):
        return bordered(call, call.get("pad"), call.get("mode"))
    number = float(call.get("value", 0.0))
    if call.get("mode", "constant") != "constant" or not math.isfinite(number):
        raise call.refuse(
            f"padding by mode {call.get('mode', 'constant')!r} with {number}", "pad with a number, or by reflect, replicate or circular"
        )
    flat: Any = call.get("pad" if call.module is None else "padding")
    if isinstance(flat, int):
        flat = (flat,) * (2 * (len(call.in_shape) - 1))
    pairs = [(int(flat[i]), int(flat[i + 1])) for i in range(0, len(flat), 2)][::-1]
    if len(pairs) > len(call.in_shape):
        raise call.refuse(f"padding {tuple(flat)}", "pad the axes behind the batch")
    pairs = [*[(0, 0)] * (len(call.in_shape) - len(pairs)), *pairs]
    layers: list[FixedLayer] = []
    if any(side < 0 for pair in pairs for side in pair):  # what is cut off, before what is put on
        if any(size + min(before, 0) + min(after, 0) < 1 for size, (before, after) in zip(call.in_shape, pairs, strict=True)):
            raise call.refuse(f"padding {tuple(flat)}, which cuts off a whole axis", "cut off less")
        starts = tuple(max(-before, 0) for before, _ in pairs)
        stops = tuple(size + min(after, 0) for size, (_, after) in zip(call.in_shape, pairs, strict=True))
        layers.append(QSlice(starts, stops, (1,) * len(pairs)))
    more = tuple((max(before, 0), max(after, 0)) for before, after in pairs)
    if not any(map(any, more)) and layers:
        return layers
    return [*layers, QPad(more) if number == 0.0 else QFill(Held(number), more, call.recipe, call.path + ("_1" if layers else ""), call.first)]


FAMILY = Family(
    layers=(QPad, QFill, QTake, QReshape, QSlice),
    modules=dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), _pad),
    functions={F.pad: ("input pad mode value", _pad)},
)
