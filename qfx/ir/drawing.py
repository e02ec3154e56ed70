"""Drawing random operators, for random graphs: see ``qfx.testing.random_graph``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qfx.errors import ModelFileError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.ir.graph import Graph
from qfx.ir.values import ArrayType, Const, Info, Pads, Shape


def random_type(rng: np.random.Generator, *, int_bits: int | None = None, max_width: int = 10) -> FixedType:
    """A fixed-point type of any mode with 1 <= width <= max_width; binary points inside, left and right of the word."""
    width = int(rng.integers(1, max_width, endpoint=True))
    signed = bool(rng.random() < 0.7)
    o = OMode(rng.choice([mode.value for mode in OMode if signed or mode is not OMode.WRAP_SM]))
    n = int(rng.integers(1, width, endpoint=True)) if o in (OMode.WRAP, OMode.WRAP_SM) and rng.random() < 0.15 else 0
    bits = int(rng.integers(-2, width + 2, endpoint=True)) if int_bits is None else int_bits
    return FixedType(width, bits, signed, QMode(rng.choice([mode.value for mode in QMode])), o, n)


def random_cast(rng: np.random.Generator, shape: Shape, x: Info | None = None) -> ArrayType:
    """A cast that mostly keeps something of what it meets, with a binary point per tensor, channel or element."""
    int_bits = None if x is None else x.interval.hull.width - x.interval.hull.frac_bits + int(rng.integers(-3, 2))
    element = random_type(rng, int_bits=int_bits)
    kind = rng.random()
    if kind < 0.6:
        return ArrayType.of(element)
    over = (shape[0], *(1,) * (len(shape) - 1)) if kind < 0.85 else shape
    drops = rng.integers(0, 3, size=math.prod(over), endpoint=True)
    drops[int(rng.integers(len(drops)))] = 0
    return ArrayType(element, tuple(element.int_bits - int(drop) for drop in drops), over)


@dataclass(frozen=True)
class Drawing:
    """What an operator is drawn for: a node that reads ``source`` of ``graph`` (and maybe others of it)."""

    rng: np.random.Generator
    graph: Graph
    source: str

    @property
    def info(self) -> Info:
        """What is known of ``source``."""
        return self.graph.infos[self.source]

    @property
    def shape(self) -> Shape:
        return self.info.shape

    def const(self, shape: Shape, *, bits: int = 5) -> Const:
        """Small numbers; with a grid for each index of axis 0, now and then far from the others."""
        rng = self.rng
        bound = 1 << int(rng.integers(0, bits, endpoint=True))
        raw = rng.integers(-bound, bound, size=shape, endpoint=True)
        grid = int(rng.integers(-2, 6, endpoint=True))
        own = shape and rng.random() < 0.3
        grids = tuple(grid + int(rng.integers(0, 4)) * int(rng.choice([1, 1, 1, 12])) for _ in range(shape[0])) if own else grid
        return Const(raw * (rng.random(shape) < 0.85), grids)

    def maybe(self, const: Const) -> Const | None:
        return const if self.rng.random() < 0.6 else None

    def like(self, shape: Shape, axis: int = 0) -> list[str]:
        """The nodes whose values have the same shape, from ``axis`` on."""
        return [node.name for node in self.graph.nodes if self.graph.infos[node.name].shape[axis:] == shape[axis:]]

    def pair(self) -> tuple[str, str]:
        """``source`` and another value of its shape (or itself), in any order."""
        like = self.like(self.shape)
        pair = (self.source, like[int(self.rng.integers(len(like)))])
        return pair if self.rng.random() < 0.5 else pair[::-1]

    def window(self) -> tuple[Shape, Shape, Pads, Shape]:
        """Kernel, stride, pads and dilation that often fit ``source``."""
        if len(self.shape) > 3:
            raise ModelFileError("windows over three axes", where=self.source, remedy="draw another operator: these have no form in hardware")
        rng = self.rng
        kernel = tuple(int(rng.integers(1, min(size + 1, 3), endpoint=True)) for size in self.shape[1:])
        stride, dilation = (tuple(int(step) for step in rng.choice([1, 1, 1, 2, 3], size=len(kernel))) for _ in range(2))
        pads = tuple((int(rng.integers(0, size)), int(rng.integers(0, size))) if rng.random() < 0.6 else (0, 0) for size in kernel)
        return kernel, stride, pads, dilation

    def factors(self) -> Shape:
        """One small factor per axis behind the channels."""
        return tuple(int(factor) for factor in self.rng.integers(1, 3, size=len(self.shape) - 1, endpoint=True))
