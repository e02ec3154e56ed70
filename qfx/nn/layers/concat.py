"""Values joined along the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import fx

from qfx import operators as ops
from qfx.fixed.arith import channelwise
from qfx.nn.call import Call, Family, Layers, Part
from qfx.nn.clipped import Clipped
from qfx.nn.fixed_layer import FixedLayer, Steps, Traits
from qfx.nn.layers.elementwise.beside import QBeside, constant_beside, is_zero, size_along
from qfx.nn.layers.pad import QPad
from qfx.nn.layers.permute import QPermute
from qfx.nn.layers.reshape import QReshape
from qfx.nn.qtensor import QTensor


class QConcat(FixedLayer):
    """Joined along the channels, on the finest of the grids; exact."""

    traits: ClassVar[Traits] = Traits(moves_only=False, keeps_grid=True, reads_uncast=False)

    def forward(self, *parts: QTensor) -> QTensor:
        values = [part.tensor() for part in parts]
        interval = channelwise(bound for part in parts for bound in part.interval.spread(part.shape[1]))
        dtype = torch.float64 if any(value.dtype is torch.float64 for value in values) else torch.float32
        return QTensor(torch.cat([value.to(dtype) for value in values], 1), interval)

    def operators(self) -> Steps:
        return [("", ops.Concat())]

    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        parts = sources if all(part.channels > 1 for part in sources) else [part.pooled() for part in sources]
        joined = Clipped(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "std", "low", "high")))
        return joined if parts is sources else joined.pooled()

    def scales_channels(self, channels: int) -> bool:
        return False


def _concat(call: Call) -> Layers:
    shape = call.traced.shapes[call.values[0]]
    dim = call.get("dim", call.arguments.get("axis", 0)) % (len(shape) + 1)
    if dim == 0:
        raise call.refuse("concatenation along axis 0", "concatenate along another axis: that is the batch")
    return _joined_all(call, dim - 1, None, ())


def _stack(call: Call) -> Layers:
    shape = call.traced.shapes[call.values[0]]
    dim = call.get("dim", 0) % (len(shape) + 2)
    if dim == 0:
        raise call.refuse("stacking along the batch", "stack along another axis (dim=1)")
    apart = (*shape[: dim - 1], 1, *shape[dim - 1 :])
    return _joined_all(call, dim - 1, apart, ("turned",))


def _joined_all(call: Call, axis: int, apart: tuple[int, ...] | None, words: tuple[str, ...]) -> Layers:
    """What the call reads, joined along ``axis``, each in the shape ``apart`` if that is another. Constants are first put beside a computed value,
    the one before them, or the first."""
    runs: list[tuple[list[fx.Node], list[fx.Node]]] = []  # of each computed value, the constants before it, from there on, and behind it
    before: list[fx.Node] = []
    for node in call.inputs:
        if node in call.traced.shapes:
            runs.append((before[::-1], []))
            before = []
        elif runs:
            runs[-1][1].append(node)
        else:
            before.append(node)
    parts: list[Part] = []
    values: list[int | Part] = []
    alone = len(runs) == 1
    for place, (first, then) in enumerate(runs):
        value: int | Part = place
        shape = call.traced.shapes[call.values[place]]
        if apart is not None:
            value, shape = Part(QReshape(apart), (place,), "" if alone and not first and not then else f"_{place}"), apart
            parts.append(value)
        rest = [*((node, False) for node in first), *((node, True) for node in then)]
        for index, (node, behind) in enumerate(rest):
            suffix = "" if alone and index == len(rest) - 1 else f"_beside_{len(parts)}"
            layer, shape = _beside(call, node, axis, shape, stacked=apart is not None, behind=behind, suffix=suffix)
            value = Part(layer, (value,), suffix)
            parts.append(value)
        values.append(value)
    if alone:
        return parts
    if axis == 0:
        return [*parts, Part(QConcat(), tuple(values))]
    return [*parts, *_joined(values, axis, len(call.out_shape), words)]


def _beside(
    call: Call, node: fx.Node, axis: int, shape: tuple[int, ...], *, stacked: bool, behind: bool, suffix: str
) -> tuple[FixedLayer, tuple[int, ...]]:
    """The layer that puts a constant beside a value of ``shape``, and the shape of its result."""
    rank = len(shape)
    found = constant_beside(call, node, rank - stacked, None if stacked else axis)
    if stacked:
        found = found.shaped((*found.shape[:axis], 1, *found.shape[axis:]))
    size = 1 if stacked else size_along(call, node, axis + 1)
    longer = (*shape[:axis], shape[axis] + size, *shape[axis + 1 :])
    if is_zero(found):
        return QPad(tuple(((0, size) if behind else (size, 0)) if at == axis else (0, 0) for at in range(rank))), longer
    name, also = call.path + suffix, call.first + suffix if call.first else ""
    return QBeside(found, axis, shape, size, behind, call.recipe, name, also), longer


def _joined(sources: Sequence[int | Part], axis: int, rank: int, words: tuple[str, ...]) -> list[Part]:
    """``sources`` joined along ``axis``, which trades places with the channels before and after."""
    order = [*range(rank)]
    order[0], order[axis] = axis, 0
    label = "_".join(("", *words, "in"))
    turned = [Part(QPermute(tuple(order)), (source,), f"{label}_{index}") for index, source in enumerate(sources)]
    joined = Part(QConcat(), tuple(turned), "_joined")
    return [*turned, joined, Part(QPermute(tuple(order)), (joined,))]


FAMILY = Family(
    layers=(QConcat, QReshape, QPermute, QPad, QBeside),
    functions={
        **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), ("tensors dim", _concat)),
        torch.stack: ("tensors dim", _stack),
    },
    takes_constants=True,
)
