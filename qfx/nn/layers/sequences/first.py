"""First states of recurrent layers that are no zeros: numbers that join the first step of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from qfx import operators as ops
from qfx.capture.traced import called
from qfx.nn.call import Call, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import Steps, Traits
from qfx.nn.layers.concat import QConcat
from qfx.nn.layers.elementwise.constant import WithConstant
from qfx.nn.layers.elementwise.expand import QExpand
from qfx.nn.layers.elementwise.held import Held, held
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.reshape import QReshape
from qfx.nn.layers.slice import QSlice
from qfx.nn.qtensor import QTensor

_REPEATS = ("expand", "repeat", "broadcast_to", "expand_as")


class QGiven(WithConstant):
    """A constant of role ``constant``, cast, whatever the value is that it reads, of the same shape. Gradient: the constant's."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False, casts=True)

    def initialize(self, x: QTensor) -> None:
        self.constant.initialize(None)

    def forward(self, x: QTensor) -> QTensor:
        constant: QTensor = self.constant()
        value = constant.value.reshape(-1, *(1,) * (len(x.shape) - 2))
        return QTensor(value.expand(x.shape), constant.interval)

    def operators(self) -> Steps:
        return [(".none", ops.Affine(ops.Const.of(0.0), None)), ("", ops.Affine(None, self.constant.const(f"{self.name}.constant")))]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        first, square = self.constant.moments()
        return Clipped.normal(first, (square - first.square()).clamp(min=0).sqrt())


class QStarted(QConcat):
    """A sequence and the first states behind it, as further features of every step; exact, the sequence also where it is not cast."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=True)


def started(call: Call, summed: Part, states: Sequence[tuple[str, int]]) -> Part:
    """The sequence with its first states. ``states``: the name and the size of each that is none of zeros."""
    steps, joined = call.in_shape[0], [summed]
    for name, size in states:
        suffix = f"_first_{name}"
        joined.append(_first(call, call.arguments[f"{name}0"], size, steps, suffix))
    return Part(QStarted(), tuple(joined), "_started")


def _first(call: Call, node: fx.Node, size: int, steps: int, suffix: str) -> Part:
    if node in call.traced.shapes:
        part = Part(QReshape((size, 1)), (call.values.index(node),), suffix)
    else:
        first = f"{call.first}{suffix}" if call.first else ""
        beside = Part(QSlice((0, 0), (1, 1), (1, 1)), (0,), f"{suffix}_beside")
        spread = Part(QExpand((1, 1), (size, 1)), (beside,), f"{suffix}_spread")
        part = Part(QGiven(_constant(call, node).shaped((size, 1)), call.recipe, f"{call.path}{suffix}", first), (spread,), suffix)
    return part if steps == 1 else Part(QPad(((0, 0), (0, steps - 1))), (part,), f"{suffix}_padded")


def _constant(call: Call, node: Any) -> Held:
    """The state of the layer and direction, of a constant for all of them, which is the same for every sample."""
    whole = call.traced.fixed[node]
    if not torch.equal(whole, whole[..., :1, :].expand_as(whole)):
        raise call.refuse("a first state that is another for each sample", "let it be the same for all, or compute it from the input")
    while called(node) in _REPEATS and isinstance(node.args[0], fx.Node) and node.args[0] in call.traced.fixed:
        short = call.traced.fixed[node.args[0]]
        if short.dim() > whole.dim() or not torch.equal(short.broadcast_to(whole.shape), whole):
            break
        node = node.args[0]
    found, place = held(call, node), int(call.get("place"))
    if found is None:
        raise call.refuse("a first state of unknown origin", "compute it from the input, or keep it in a parameter")

    def own(state: Tensor) -> Tensor:
        rows = state.reshape((1,) * (3 - state.dim()) + tuple(state.shape))
        return rows[place if len(rows) > 1 else 0, 0]

    return found.mapped(own)
