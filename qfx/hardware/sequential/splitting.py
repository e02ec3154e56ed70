"""Products with matrices of very many columns: in parts whose inputs fit the memory of a tile, each of which goes on from the sums of the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qfx.fixed.type import QMode
from qfx.hardware.sequential.values import CHANNELS, Epilogue, Kind, Overflow, Step, Value, integers

MOST_NUMBERS = 8192
"""Numbers of a window that one step reads."""


def parts(step: Step) -> Iterator[Step]:
    """A matrix-vector product of a flattened value, or windows of single channels, in parts, where these have more than MOST_NUMBERS numbers."""
    return _parts(step) if step.kind is Kind.MATRIX else _channels(step)


def kept_bits(step: Step) -> int:
    """Bits of the sums that go to memory between the parts of a product with a matrix; 0 of one that has no parts."""
    exact = all(int(factor) > 0 and int(factor) & (int(factor) - 1) == 0 for factor in step.epilogue.factor)
    alone = step.kind is Kind.MATRIX and step.target.pixels == 1 and step.beside is None and step.first is None
    return step.acc_bits if alone and exact and step.source.channels > _each(step) else 0


def _each(step: Step) -> int:
    """The channels of a part."""
    return max(MOST_NUMBERS // (step.window.kernel[0] * step.window.kernel[1]) // CHANNELS, 1) * CHANNELS


def _parts(step: Step) -> Iterator[Step]:
    each = _each(step)
    if not kept_bits(step):
        yield step
        return
    assert step.weight is not None  # a matrix has weights
    before: Value | None = None
    for begin in range(0, step.source.channels, each):
        end = min(begin + each, step.source.channels)
        source = replace(step.source, channels=end - begin, skip=step.source.skip + begin)
        weight = np.ascontiguousarray(step.weight[:, begin:end])
        macs = step.macs * (end - begin) // step.source.channels
        part = replace(step, source=source, weight=weight, macs=macs, beside=before)
        if end < step.source.channels:
            target = Value(f"{step.target.name}#{end}", step.target.channels, 1, 1, step.acc_bits, True)
            yield replace(part, target=target, epilogue=_sums(step))
            before = target
        else:
            up = np.array([int(factor).bit_length() - 1 for factor in step.epilogue.factor], dtype=object)
            yield replace(part, epilogue=replace(step.epilogue, beside_up=up))


def _channels(step: Step) -> Iterator[Step]:
    """Some channels after the other."""
    each, count = _each(step), step.source.channels
    if count <= each or step.beside is not None:
        yield step
        return
    made = step.epilogue
    arrays = ("factor", "added", "beside_up", "down", "least", "greatest", "up")
    for begin in range(0, count, each):
        own = slice(begin, min(begin + each, count))
        size = own.stop - begin
        yield replace(
            step,
            source=replace(step.source, channels=size, skip=step.source.skip + begin),
            target=replace(step.target, channels=size, skip=step.target.skip + begin),
            weight=None if step.weight is None else step.weight[own],
            epilogue=replace(made, **{name: getattr(made, name)[own] for name in arrays}),
            macs=step.macs * size // count,
        )


def _sums(step: Step) -> Epilogue:
    """Sums as they are, and the sums before."""
    count, bits = step.target.channels, step.acc_bits + 1
    zeros, ones = integers(0, count), integers(1, count)
    least, greatest = integers(-(1 << bits - 1), count), integers((1 << bits - 1) - 1, count)
    return Epilogue(ones, zeros, zeros, 0, 1, zeros, QMode.TRN, least, greatest, Overflow.CLAMP, step.acc_bits, True, zeros, bits + 1)
