"""Graphs whose channels have binary points of their own, some far apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from model_parts import chain, const, conv, scalar

from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.operators import (
    Add,
    Affine,
    ArrayType,
    Cast,
    Clip,
    Concat,
    Const,
    Conv,
    Input,
    LeakyRelu,
    Linear,
    MaxPool,
    Mul,
    Pad,
    Relu,
    Reshape,
    Slice,
    Stretch,
    Sub,
    SumPool,
    Transpose,
    Upsample,
)


def per_channel() -> Graph:
    """A binary point for every channel, then one for every element, in front of and behind a permutation."""
    rng = np.random.default_rng(5)
    element = FixedType.parse("ap_fixed<5,3,AP_RND_CONV,AP_SAT_SYM>")
    channels = ArrayType(element, (3, -1, 2, 0), (4, 1, 1))
    elements = tuple(int(bits) for bits in rng.integers(-2, 3, 48))
    return Graph(
        "per_channel",
        (
            Node("x", Input((4, 3, 4), channels)),
            Node("scale", Affine(const(6, 4), const(7, 4, frac_bits=9)), ("x",)),
            Node("again", Cast(channels), ("scale",)),
            Node("flat", Reshape((48,)), ("again",)),
            Node("each", Cast(ArrayType(FixedType(4, max(elements), True), elements, (48,))), ("flat",)),
            Node("slopes", Affine(const(8, 48), None), ("each",)),
        ),
        "slopes",
    )


def moved(weight: Const, *up: int) -> Const:
    """The weight with the binary point of each output so many places to the left of the finest."""
    return Const(weight.raw << np.array(up).reshape(-1, *(1,) * (weight.raw.ndim - 1)), weight.frac_bits + max(up))


def own_points() -> Graph:
    """Weights with a binary point for every output: grouped, depthwise and linear, with and without bias, and one output without weights."""
    grouped = replace(conv(40, 4, 2, 3, 3, groups=2, pads=(1, 1)), weight=moved(const(40, 4, 2, 3, 3), 0, 5, 2, 5))
    depthwise = replace(conv(41, 4, 1, 2, 2, groups=4), weight=moved(const(41, 4, 1, 2, 2), 3, 0, 0, 7), bias=None)
    rows = const(42, 6, 4 * 3 * 4).raw * np.array([1, 1, 0, 1, 1, 1]).reshape(-1, 1)
    narrow = Cast(scalar("ap_fixed<7,5,AP_RND,AP_SAT>"))
    return chain(
        "own_points", (4, 4, 5), grouped, narrow, depthwise, narrow, Reshape((48,)), Linear(moved(Const(rows, 3), 1, 0, 6, 2, 9, 1), const(43, 6))
    )


FAR = (2, 40, 21, -9)
"""Grids so far apart that no word of 64 bits holds sums on the finest of them."""


def far_channels() -> Graph:
    """Channels on grids of their own from the convolution to the cast, by every operator that may meet them, and two that mix them again."""

    def own(seed: int, *shape: int, grids: tuple[int, ...] = FAR, bits: int = 4) -> Const:
        return Const(const(seed, *shape, bits=bits).raw, grids)

    points = ArrayType(FixedType.parse("ap_fixed<6,4,AP_RND,AP_SAT>"), tuple(6 - bits for bits in (3, 19, 12, 2)), (4, 1, 1))
    points = replace(points, element=replace(points.element, int_bits=max(points.int_bits)))
    return Graph(
        "far_channels",
        (
            Node("x", Input((4, 4, 3), points)),
            Node("first", Affine(own(60, 4), own(61, 4, bits=6, grids=(9, 60, 30, -4))), ("x",)),
            Node("conv", Conv(own(62, 4, 4, 2, 2), own(63, 4, bits=6, grids=(30, 62, 40, 20)), (1, 1), ((1, 0), (0, 1)), (1, 1), 1), ("x",)),
            Node("norm", Affine(own(64, 4, grids=(0, 1, -2, 3)), own(65, 4, grids=(24, 55, 35, 16))), ("conv",)),
            Node("sum", Add(), ("norm", "first")),
            Node("difference", Sub(), ("sum", "x")),
            Node("leaky", LeakyRelu(-2), ("difference",)),
            Node("clip", Clip(Const(np.array(-3), 40), Const(np.array(200), 42)), ("leaky",)),
            Node("relu", Relu(), ("norm",)),
            Node("pool", MaxPool((2, 2), (1, 1), ((0, 1), (1, 0)), (1, 1)), ("relu",)),
            Node("pads", Pad(((2, 0), (0, 0), (0, 0))), ("clip",)),
            Node("slice", Slice((1, 0, 0), (6, 4, 3), (1, 1, 1)), ("pads",)),
            Node("join", Concat(), ("slice", "pool", "x")),
            Node("narrow", Cast(scalar("ap_fixed<9,6,AP_RND_CONV,AP_SAT>")), ("join",)),
        ),
        "narrow",
    )


def far_products() -> Graph:
    """Products of channels on grids of their own, a sum over windows, and a cast with a binary point for each channel."""
    grids = (1, 9, 4)
    wide = Affine(Const(const(70, 3).raw, grids), Const(const(71, 3).raw, (2, 14, 3)))
    casts = ArrayType(FixedType(7, 5, True), (5, -6, 1), (3, 1))
    return Graph(
        "far_products",
        (
            Node("x", Input((3, 6), ArrayType(FixedType.parse("ap_fixed<5,3>"), (3, -8, 0), (3, 1)))),
            Node("wide", wide, ("x",)),
            Node("square", Mul(), ("wide", "x")),
            Node("pool", SumPool((2,), (2,), ((0, 0),)), ("square",)),
            Node("twice", Upsample((2,)), ("pool",)),
            Node("stretch", Stretch((2,)), ("twice",)),
            Node("cast", Cast(casts), ("stretch",)),
            Node("flat", Reshape((33,)), ("stretch",)),
            Node("linear", Linear(const(72, 3, 33), None), ("flat",)),
            Node("column", Reshape((3, 1)), ("linear",)),
            Node("same", Transpose((0, 1)), ("cast",)),
            Node("part", Slice((0, 0), (3, 1), (1, 1)), ("same",)),
            Node("sum", Add(), ("part", "column")),
        ),
        "sum",
    )
