"""Graphs and schedules for the tests of code generation: small, each with something that lowering could get wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import gcd

import numpy as np
from cells import WORD, gru, lstm, recurrent, rows

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import BUFFER_STORAGE, Folding, Schedule
from qfx.ir.graph import Graph, Node
from qfx.operators import (
    Add,
    Affine,
    ArrayType,
    Cast,
    Clip,
    Compare,
    Concat,
    Const,
    Conv,
    Embedding,
    Expand,
    Input,
    LeakyRelu,
    Linear,
    Lookup,
    LookupLinear,
    MatMul,
    Max,
    MaxPool,
    Min,
    Mul,
    Operator,
    Pad,
    PRelu,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Relu,
    Reshape,
    Scan,
    Slice,
    Stretch,
    Sub,
    SumPool,
    Take,
    TopPlaces,
    TopValues,
    Transpose,
    Upsample,
)


def scalar(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def const(seed: int, *shape: int, bits: int = 4, frac_bits: int = 3) -> Const:
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    return Const(np.random.default_rng(seed).integers(low, high, shape), frac_bits)


def chain(name: str, shape: tuple[int, ...], *ops: Operator, cast: str = "ap_fixed<6,3,AP_RND,AP_SAT>") -> Graph:
    """Input, then one operator after the other."""
    nodes = [Node("x", Input(shape, scalar(cast)))]
    for i, op in enumerate(ops):
        nodes.append(Node(f"{type(op).__name__.lower()}{i}", op, (nodes[-1].name,)))
    return Graph(name, tuple(nodes), nodes[-1].name)


def conv(
    seed: int, out: int, per_group: int, *kernel: int, stride: int = 1, pads: tuple[int, int] = (0, 0), dilation: int = 1, groups: int = 1
) -> Conv:
    axes = len(kernel)
    return Conv(const(seed, out, per_group, *kernel), const(seed + 1, out, frac_bits=7), (stride,) * axes, (pads,) * axes, (dilation,) * axes, groups)


def classifier() -> Graph:
    """Convolution, ReLU, cast, flatten, linear, cast."""
    return chain(
        "classifier",
        (3, 6, 5),
        conv(0, 4, 3, 3, 3, pads=(1, 1)),
        Relu(),
        Cast(scalar("ap_ufixed<8,4,AP_RND_CONV,AP_SAT>")),
        Reshape((120,)),
        Linear(const(2, 10, 120), None),
        Cast(scalar("ap_fixed<16,8>")),
    )


def residual() -> Graph:
    """x -> conv -> cast -> + x, and the sum read twice by a product with itself; two forks."""
    cast = scalar("ap_fixed<7,4,AP_RND,AP_SAT>")
    return Graph(
        "residual",
        (
            Node("x", Input((4, 5, 5), cast)),
            Node("conv", conv(3, 4, 4, 3, 3, pads=(1, 1)), ("x",)),
            Node("narrow", Cast(cast), ("conv",)),
            Node("sum", Add(), ("narrow", "x")),
            Node("difference", Sub(), ("sum", "x")),
            Node("square", Mul(), ("difference", "difference")),
            Node("join", Concat(), ("square", "sum", "x")),
        ),
        "join",
    )


def joined() -> Graph:
    """Every operator on two values in the process of a convolution, depthwise convolution or linear layer: as its first and its second number, with
    other words and binary points, of a value at hand and of one that comes later, and of two convolutions."""
    narrow, wide = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>")), Cast(scalar("ap_fixed<9,4,AP_RND_CONV,AP_SAT>"))
    return Graph(
        "joined",
        (
            Node("x", Input((4, 5, 4), scalar("ap_ufixed<5,2,AP_RND,AP_SAT>"))),
            Node("conv", conv(100, 4, 4, 3, 3, pads=(1, 1)), ("x",)),
            Node("conv_q", narrow, ("conv",)),
            Node("sum", Add(), ("conv_q", "x")),
            Node("relu", Relu(), ("sum",)),
            Node("sum_q", wide, ("relu",)),
            Node("depthwise", conv(102, 4, 1, 3, 3, groups=4, pads=(1, 1), stride=2), ("sum_q",)),
            Node("short", conv(104, 4, 4, 1, 1, stride=2), ("sum_q",)),
            Node("difference", Sub(), ("short", "depthwise")),
            Node("difference_q", narrow, ("difference",)),
            Node("apart", conv(106, 4, 1, 3, 3, groups=4, pads=(1, 1)), ("difference_q",)),
            Node("least", Sub(), ("difference_q", "apart")),
            Node("least_q", narrow, ("least",)),
            Node("one", conv(108, 6, 4, 1, 1), ("least_q",)),
            Node("three", conv(110, 6, 2, 3, 3, groups=2, pads=(1, 1)), ("least_q",)),
            Node("three_q", wide, ("three",)),
            Node("both", Add(), ("one", "three_q")),
            Node("both_q", narrow, ("both",)),
            Node("again", conv(112, 6, 6, 1, 1), ("both_q",)),
            Node("most", Max(), ("again", "both_q")),
            Node("most_q", narrow, ("most",)),
            Node("flat", Reshape((36,)), ("most_q",)),
            Node("left", Linear(const(114, 6, 36), const(115, 6)), ("flat",)),
            Node("right", Linear(const(116, 6, 36), None), ("flat",)),
            Node("product", Mul(), ("left", "right")),
            Node("out", Cast(scalar("ap_fixed<12,9,AP_RND,AP_SAT>")), ("product",)),
        ),
        "out",
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


def products() -> Graph:
    """Matrices times matrices: of one value and its transpose, of channels on grids of their own, and of two heads; in orders that need a permutation
    and in those that do not."""
    points = ArrayType(FixedType.parse("ap_fixed<5,3,AP_RND,AP_SAT>"), (3, -1, 2, 0), (4, 1))
    narrow = Cast(scalar("ap_fixed<7,6,AP_RND,AP_SAT>"))
    return Graph(
        "products",
        (
            Node("x", Input((4, 6), points)),
            Node("turned", Transpose((1, 0)), ("x",)),
            Node("scores", MatMul(), ("x", "turned")),
            Node("bias", Affine(const(80, 4), const(81, 4, frac_bits=4)), ("scores",)),
            Node("positive", Relu(), ("bias",)),
            Node("weights", narrow, ("positive",)),
            Node("mixed", MatMul(), ("weights", "x")),
            Node("narrow", Cast(scalar("ap_fixed<6,9,AP_TRN,AP_SAT>")), ("mixed",)),
            Node("heads", Reshape((2, 2, 6)), ("narrow",)),
            Node("columns", Transpose((0, 2, 1)), ("heads",)),
            Node("outer", MatMul(), ("columns", "heads")),
        ),
        "outer",
    )


def extremes() -> Graph:
    """The greater and the lesser of two values: of words that the result's does not hold, and of channels on grids of their own; slopes."""
    wide, narrow = scalar("ap_ufixed<8,8,AP_RND,AP_SAT>"), scalar("ap_fixed<4,3,AP_RND,AP_SAT>")
    points = ArrayType(FixedType.parse("ap_fixed<5,3,AP_RND,AP_SAT>"), (3, -1, 2, 0), (4, 1, 1))
    return Graph(
        "extremes",
        (
            Node("x", Input((4, 3, 4), wide)),
            Node("small", Cast(narrow), ("x",)),
            Node("least", Min(), ("x", "small")),
            Node("most", Max(), ("least", "small")),
            Node("own", Cast(points), ("x",)),
            Node("far", Affine(Const(np.array([3, 5, -7, 2]), FAR), None), ("own",)),
            Node("least_own", Min(), ("own", "far")),
            Node("most_own", Max(), ("least_own", "far")),
            Node("bent_few", PRelu(Const(np.array([3, 5, -7, 2]), (2, 9, 0, 5))), ("most_own",)),  # two digits each
            Node("bent_far", PRelu(Const(np.array([171, 5, -7, 2]), (2, 9, 0, 5))), ("bent_few",)),
            Node("narrow_far", Cast(narrow), ("bent_far",)),
            Node("bent_little", PRelu(const(91, 4)), ("most",)),
            Node("bent", PRelu(Const(np.array([171, 5, -85, 3]), 3)), ("bent_little",)),
            Node("above", Compare(">", Const(np.array(3), 1)), ("bent",)),
            Node("below", Compare("<", Const(np.array(3), 1)), ("small",)),
            Node("sum", Add(), ("above", "below")),
            Node("all", Add(), ("sum", "narrow_far")),
            Node("pixels", ReduceMin((1, 2)), ("all",)),
            Node("spread", Expand((4, 3, 4)), ("pixels",)),
            Node("with", Add(), ("spread", "all")),
            Node("channels", ReduceMax((0,)), ("with",)),
            Node("rows", ReduceSum((1,)), ("channels",)),
        ),
        "rows",
    )


def recurrent_behind_conv() -> Graph:
    """A convolution gives the sequence, channels first; an LSTM reads it step by step; its results and what it read meet again."""
    nodes = (
        Node("x", Input((2, 9), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
        Node("conv", conv(30, 4, 2, 3, stride=2, pads=(1, 1)), ("x",)),
        Node("narrow", Cast(ArrayType.of(WORD)), ("conv",)),
        Node("steps", Transpose((1, 0)), ("narrow",)),
        Node("rnn", lstm(4, 4), ("steps",)),
        Node("back", Transpose((1, 0)), ("rnn",)),
        Node("sum", Add(), ("back", "narrow")),
        Node("y", Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>")), ("sum",)),
    )
    return Graph("recurrent_behind_conv", nodes, "y")


DIRECTED: tuple[Callable[[], Graph], ...] = (
    own_points,
    far_channels,
    far_products,
    products,
    extremes,
    classifier,
    residual,
    joined,
    per_channel,
    lambda: chain("strided", (2, 7, 9), conv(10, 3, 2, 3, 2, stride=2, pads=(2, 1))),
    lambda: chain("skipping", (2, 9, 9), conv(11, 4, 2, 2, 2, stride=4, pads=(1, 0))),
    lambda: chain("dilated", (3, 9, 8), conv(12, 2, 3, 3, 3, dilation=2, pads=(0, 3))),
    lambda: chain("grouped", (6, 5, 5), conv(13, 4, 3, 3, 3, groups=2, pads=(1, 1))),
    lambda: chain("depthwise", (6, 6, 5), conv(14, 6, 1, 3, 3, groups=6, pads=(1, 1))),
    lambda: chain("multiplier", (3, 5, 5), conv(15, 6, 1, 2, 2, groups=3)),
    lambda: chain("pointwise_groups", (4, 3, 3), conv(16, 4, 1, 1, 1, groups=4)),
    lambda: chain("sparse", (4, 5, 5), conv(17, 3, 4, 1, 1, stride=2)),
    lambda: chain("one_dimension", (3, 11), conv(18, 4, 3, 4, stride=3, pads=(2, 0)), MaxPool((2,), (1,), ((1, 1),), (1,))),
    lambda: chain("far_pads", (2, 3, 3), conv(19, 2, 2, 2, 2, pads=(3, 4))),
    lambda: chain("overlapping_pools", (4, 7, 7), MaxPool((3, 3), (2, 1), ((1, 1), (0, 1)), (1, 2)), SumPool((2, 2), (1, 1), ((1, 0), (0, 1)))),
    lambda: chain("unsigned_pool", (2, 5, 5), MaxPool((2, 2), (2, 2), ((1, 1), (1, 1)), (1, 1)), cast="ap_ufixed<5,2>"),
    lambda: chain(
        "global_pools", (4, 3, 5), SumPool((3, 5), (1, 1), ((0, 0), (0, 0))), Affine(Const(np.array(17), 8), None), Cast(scalar("ap_fixed<9,4>"))
    ),
    lambda: chain("global_max", (3, 4, 4), MaxPool((4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1))),
    lambda: chain("odd_reshape", (2, 3, 5), Transpose((2, 0, 1)), Reshape((3, 10)), Transpose((1, 0)), Reshape((6, 5)), Relu()),
    lambda: chain(
        "transposed_linear",
        (4, 3, 2),
        Transpose((1, 2, 0)),
        Reshape((24,)),
        Clip(Const(np.array(-3), 1), Const(np.array(5), 2)),
        Linear(const(20, 6, 24), const(21, 6)),
    ),
    lambda: chain("padded", (2, 3, 4), Pad(((1, 2), (0, 1), (2, 0))), Slice((1, 0, 1), (4, 4, 6), (2, 1, 3)), LeakyRelu(-3)),
    lambda: chain("padded_words", (4, 3, 4), Pad(((2, 4), (0, 1), (2, 0))), Slice((2, 0, 1), (6, 4, 6), (1, 1, 3)), LeakyRelu(-3)),
    lambda: chain("taken", (4, 3, 5), Take(1, (2, 0, 0, 1)), Take(2, (4, 3, 1, 0)), Relu(), Take(0, (2, 3, 0, 1, 2, 3)), LeakyRelu(-3)),
    lambda: chain("taken_features", (6,), Take(0, (5, 4, 3, 2, 1, 0, 0)), Relu()),
    lambda: chain("upsampled", (4, 3, 4), Upsample((2, 3)), Relu(), Upsample((1, 2)), Upsample((3, 1))),
    lambda: chain("transposed_convolution", (4, 3, 2), Stretch((2, 3)), Pad(((0, 0), (2, 2), (1, 1))), conv(25, 3, 4, 3, 3)),
    lambda: chain("phases", (4, 3, 4), Stretch((2, 2)), conv(27, 4, 4, 4, 4, pads=(2, 2)), Relu(), Cast(scalar("ap_ufixed<6,3,AP_RND,AP_SAT>"))),
    lambda: chain("stretched_signal", (2, 7), Upsample((3,)), Stretch((2,)), cast="ap_ufixed<5,2>"),
    lambda: chain("features", (9,), Pad(((1, 2),)), Slice((0,), (11,), (2,)), Affine(const(22, 6), const(23, frac_bits=0))),
    lambda: chain(
        "wide", (5,), Linear(const(24, 4, 5, bits=24), None), Cast(scalar("ap_fixed<30,2,AP_RND_INF,AP_WRAP>")), Relu(), cast="ap_fixed<25,3>"
    ),
    lambda: chain(
        "tables",
        (4, 3, 2),
        Lookup(const(26, 256, bits=8), -128, 5),
        Cast(scalar("ap_ufixed<6,3,AP_RND,AP_SAT>")),
        conv(27, 4, 4, 1, 1),
        Cast(scalar("ap_fixed<14,6,AP_RND,AP_SAT>")),
        LookupLinear(const(28, 260, bits=9), const(29, 260, frac_bits=6), -8200, 8, 6),
        Cast(scalar("ap_fixed<10,8>")),
        cast="ap_fixed<8,3>",
    ),
    lambda: chain("one_entry", (3,), Lookup(Const(np.array([-5, -5]), 1), 0, -1), Lookup(const(30, 12), -10, 1), cast="ap_ufixed<1,2>"),
    lambda: chain("greatest", (4, 3, 5), TopValues(2, 3), Affine(const(36, 4, 3, 3), None), TopValues(0, 2, False), TopValues(1, 1)),
    lambda: chain("places", (7, 3), TopPlaces(0, 1), Embedding(const(37, 7, 4)), TopPlaces(2, 3, False), Relu()),
    lambda: chain("ranked", (6,), Slice((0,), (6,), (1,)), TopPlaces(0, 6), cast="ap_fixed<2,2>"),
    lambda: chain("rows", (3, 2), Embedding(const(31, 6, 4)), Affine(const(32, 3, 2, 4), None), Cast(scalar("ap_fixed<5,3>")), cast="ap_fixed<4,4>"),
    lambda: chain("many_rows", (5,), Embedding(const(33, 300, 6, bits=9)), Transpose((1, 0)), conv(34, 4, 6, 1), cast="ap_ufixed<9,9>"),
    lambda: chain("coarse_numbers", (2, 3), Embedding(const(35, 7, 3)), Relu(), cast="ap_fixed<3,4>"),
    lambda: chain("one_bit", (8,), Linear(Const(np.zeros((3, 8), dtype=np.int64), 0), None), cast="ap_ufixed<1,1>"),
    lambda: recurrent(gru(), 5, last=True),
    recurrent_behind_conv,
    lambda: rows(4),
)


def memories() -> tuple[Graph, Schedule]:
    """Weights in LUTs, in block RAM and, with more rows than a block has words, in both; a line buffer in UltraRAM."""
    cast = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    graph = chain("memories", (4, 4, 3), conv(0, 16, 4, 3, 3, pads=(1, 1)), cast, conv(2, 64, 16, 1, 1), cast, conv(4, 72, 64, 1, 1), cast)
    first, second = Folding(2, 12, "dsp", weights="bram", buffer="uram"), Folding(8, 4, "lut", weights="lut")
    return graph, Schedule.of({"conv0": first, "conv2": second, "conv4": Folding(2, 4, "pair", weights="mixed")})


def odd_sizes() -> tuple[Graph, Schedule]:
    """Foldings that do not divide, of layers behind each other, so that words that are not filled meet on both sides."""
    narrow = Cast(scalar("ap_fixed<4,3,AP_RND,AP_SAT>"))
    graph = chain(
        "odd_sizes",
        (3, 4, 9),
        conv(20, 7, 3, 3, 3, pads=(1, 1)),
        narrow,
        conv(22, 5, 7, 1, 1),
        narrow,
        conv(24, 5, 1, 3, 3, groups=5),
        narrow,
        Reshape((70,)),
        Linear(moved(const(26, 11, 70), *range(11)), const(27, 11)),
        narrow,
        Linear(const(28, 10, 11), None),
        cast="ap_fixed<4,2>",
    )
    foldings = {
        "conv0": Folding(4, 14, "pair", taps=9),
        "conv2": Folding(2, 4, "lut"),
        "conv4": Folding(5, 5, "dsp", taps=9),
        "linear7": Folding(3, 24, "triple", weights="bram"),
        "linear9": Folding(4, 3, "shift"),
    }
    return graph, Schedule.of(foldings)


def side_by_side() -> tuple[Graph, Schedule]:
    """Two layers that work on several pixels at once: with windows side by side and whole pixels that leave, and with pixels put side by side."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    first, second = conv(120, 6, 2, 3, 3, pads=(1, 1)), conv(122, 4, 6, 3, 3, pads=(1, 1), stride=2)
    graph = chain("side_by_side", (2, 4, 16), first, narrow, second, narrow)
    return graph, Schedule.of({"conv0": Folding(3, 18, "pair", taps=9, pixels=2), "conv2": Folding(2, 6, pixels=4)})


def spilled() -> tuple[Graph, Schedule]:
    """FIFOs in memory: the input of a layer that works in tiles, beside a shortcut; words wider and narrower than those of memory; one that
    nothing goes round."""
    narrow, wide = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>")), Cast(scalar("ap_ufixed<7,3,AP_RND_CONV,AP_SAT>"))
    graph = Graph(
        "spilled",
        (
            Node("x", Input((4, 18, 13), scalar("ap_ufixed<5,2,AP_RND,AP_SAT>"))),
            Node("first", conv(150, 8, 4, 3, 3, pads=(1, 1)), ("x",)),
            Node("relu", Relu(), ("first",)),
            Node("relu_q", wide, ("relu",)),
            Node("tiled", conv(152, 8, 8, 3, 3, pads=(1, 1)), ("relu_q",)),
            Node("sum", Add(), ("tiled", "relu_q")),
            Node("sum_q", narrow, ("sum",)),
            Node("second", conv(154, 8, 8, 3, 3, pads=(1, 1)), ("sum_q",)),
            Node("third", conv(156, 8, 8, 1, 1), ("sum_q",)),
            Node("joined", Add(), ("second", "third")),
            Node("joined_q", narrow, ("joined",)),
            Node("strided", conv(158, 4, 8, 3, 3, stride=3), ("joined_q",)),
            Node("out", Relu(), ("strided",)),
        ),
        "out",
    )
    foldings = {
        "first": Folding(2, 4, "lut"),
        "tiled": Folding(4, 2, "pair", weights="ddr", rows=6),
        "second": Folding(8, 8),
        "third": Folding(8, 2),
        "strided": Folding(2, 8, "dsp"),
    }
    spills = ("relu_q_2_s", "second_2_s", "joined_q_s", "out_s")
    return graph, Schedule.of(foldings, input_parallel=4, output_parallel=2, fifo_storage=dict.fromkeys(spills, "ddr"))


def from_ddr() -> tuple[Graph, Schedule]:
    """Layers whose weights come from memory: tiles and whole frames, strides that leave rows over, few and many pixels, results that leave as
    they come and results that wait, sums of branches, and linear layers."""
    narrow, wide = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>")), Cast(scalar("ap_ufixed<7,3,AP_RND_CONV,AP_SAT>"))
    graph = Graph(
        "from_ddr",
        (
            Node("x", Input((4, 8, 7), scalar("ap_ufixed<5,2,AP_RND,AP_SAT>"))),
            Node("whole", conv(130, 8, 4, 3, 3, pads=(1, 1)), ("x",)),
            Node("relu", Relu(), ("whole",)),
            Node("relu_q", wide, ("relu",)),
            Node("tiled", conv(132, 8, 4, 3, 3, pads=(1, 1), groups=2), ("relu_q",)),
            Node("sum", Add(), ("tiled", "relu_q")),
            Node("sum_q", narrow, ("sum",)),
            Node("strided", conv(134, 4, 8, 2, 3, pads=(0, 1), stride=3), ("sum_q",)),
            Node("strided_q", narrow, ("strided",)),
            Node("one", conv(136, 4, 4, 1, 1), ("strided_q",)),
            Node("joined", Add(), ("one", "strided_q")),
            Node("joined_q", wide, ("joined",)),
            Node("flat", Reshape((24,)), ("joined_q",)),
            Node("line", Linear(const(138, 6, 24), const(139, 6)), ("flat",)),
            Node("line_q", narrow, ("line",)),
            Node("out", Linear(const(140, 5, 6), None), ("line_q",)),
        ),
        "out",
    )
    foldings = {
        "whole": Folding(2, 4, "lut", weights="ddr"),
        "tiled": Folding(4, 2, "pair", weights="ddr", rows=2),
        "strided": Folding(2, 8, "dsp", weights="ddr", rows=1),
        "one": Folding(4, 1, "auto", weights="ddr"),
        "line": Folding(3, 4, "triple27", weights="ddr"),
        "out": Folding(1, 6, weights="ddr"),
    }
    return graph, Schedule.of(foldings)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def useful(number: int) -> list[int]:
    """The numbers a word with which a row of so many takes as few words as with no fewer."""
    return [n for n in range(1, number + 1) if n == 1 or -(-number // n) < -(-number // (n - 1))]


def random_schedule(graph: Graph, rng: np.random.Generator) -> Schedule:
    """Any legal folding of every node, its memories anywhere, and any number of channels per word at the ports."""

    def pick(choices: list[int]) -> int:
        return int(rng.choice(choices))

    def together(kernel: Sequence[int]) -> int:
        """The taps of a window that come in a word: one or all."""
        return pick([1, int(np.prod(kernel))])

    foldings: dict[str, Folding] = {}
    for node in graph.nodes:
        op, channels = node.op, graph.infos[node.name].shape[0]
        if isinstance(op, Conv):
            outputs, per_group, *kernel = op.weight.shape
            if op.groups > 1 and per_group == 1 and outputs == op.groups:
                taps = together(kernel)
                foldings[node.name] = Folding(pick(divisors(outputs)), pick(useful(taps)), taps=taps)
            else:
                taps = together(kernel)
                row = int(np.prod(kernel)) * per_group
                simd = [n for n in useful(row) if taps > 1 or row % n or per_group % n == 0 or n % per_group == 0]
                foldings[node.name] = Folding(pick(useful(outputs // op.groups)), pick(simd), taps=taps)
        elif isinstance(op, Linear):
            foldings[node.name] = Folding(pick(useful(channels)), pick(useful(op.weight.shape[1])))
        elif isinstance(op, Scan):
            foldings[node.name] = Folding(*(pick(divisors(number)) for number in op.parallel(graph, node)))
        elif isinstance(op, MatMul):
            terms, columns = graph.infos[node.inputs[1]].shape[-2:]
            foldings[node.name] = Folding(pick(divisors(columns)), pick(divisors(terms)), str(rng.choice(["auto", "dsp", "lut"])))
        elif isinstance(op, Concat):
            common = int(np.gcd.reduce([graph.infos[name].shape[0] for name in node.inputs]))
            foldings[node.name] = Folding(pick(divisors(common)))
        elif isinstance(op, Pad):
            foldings[node.name] = Folding(pick(divisors(gcd(graph.infos[node.inputs[0]].shape[0], *op.pads[0]))))
        elif isinstance(op, Slice):
            whole = gcd(graph.infos[node.inputs[0]].shape[0], op.starts[0], op.stops[0]) if op.steps[0] == 1 else 1
            foldings[node.name] = Folding(pick(divisors(whole)))
        elif isinstance(op, Take | Embedding):
            foldings[node.name] = Folding(pick(divisors(op.parallel(graph, node)[0])))
        elif isinstance(op, MaxPool | SumPool):
            foldings[node.name] = Folding(pick(divisors(channels)), taps=together(op.kernel))
        elif isinstance(op, Add | Sub | Mul | Upsample | Stretch):
            foldings[node.name] = Folding(pick(divisors(channels)))
    for node in graph.nodes:
        if isinstance(node.op, Conv | Linear):
            foldings[node.name] = replace(foldings[node.name], weights=str(rng.choice(["auto", "lut", "bram"])))
        if isinstance(node.op, Conv | MaxPool | SumPool):
            foldings[node.name] = replace(foldings[node.name], buffer=str(rng.choice(BUFFER_STORAGE)))
    frames = [graph.infos[name] for name in (graph.input.name, graph.output)]  # words of a pixel, or of several
    ports = [pick(divisors(pick([info.shape[0], info.size]))) for info in frames]
    ports = [min(parallel, 64) if info.size % min(parallel, 64) == 0 else 1 for parallel, info in zip(ports, frames, strict=True)]
    for node in graph.nodes:
        info = graph.infos[node.name]
        if isinstance(node.op, Conv) and rng.integers(2):
            pixels = info.size // info.shape[0]
            foldings[node.name] = replace(foldings[node.name], pixels=pick([n for n in divisors(pixels) if n <= 4]))
    made = Schedule.of(foldings, input_parallel=ports[0], output_parallel=ports[1])
    while True:
        try:
            lower(graph, made)
        except ProjectError as error:
            if error.what.startswith(("taps=", "pixels=")):  # no unit of whole windows makes those, or constants differ from pixel to pixel
                kept = {name: folding if name != error.where else Folding(folding.pe, buffer=folding.buffer) for name, folding in made.foldings}
                made = Schedule.of(kept, input_parallel=ports[0], output_parallel=ports[1])
                continue
            if not error.what.startswith("a word of"):
                raise
            return Schedule()  # so many numbers of so many bits side by side that no tool takes the word
        return made
