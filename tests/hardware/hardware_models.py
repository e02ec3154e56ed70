"""Graphs and schedules for the tests of code generation: small, each with something that lowering could get wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from cells import WORD, gru, lstm, recurrent, rows
from channel_models import FAR, far_channels, far_products, moved, own_points, per_channel
from model_parts import chain, const, conv, scalar

from qfx.fixed.type import FixedType
from qfx.hardware.design.schedule import Folding, Schedule
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
    Pad,
    PRelu,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Relu,
    Reshape,
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
    """Layers that work on several pixels at once: with windows side by side and whole pixels that leave, a pool of such windows, and with pixels put
    side by side."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    first, second = conv(120, 6, 2, 3, 3, pads=(1, 1)), conv(122, 4, 6, 3, 3, pads=(1, 1), stride=2)
    graph = chain("side_by_side", (2, 4, 16), first, narrow, MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), second, narrow)
    pool = Folding(6, taps=9, pixels=2)
    return graph, Schedule.of({"conv0": Folding(3, 18, "pair", taps=9, pixels=2), "maxpool2": pool, "conv3": Folding(2, 6, pixels=4)})


def whole_pixels() -> tuple[Graph, Schedule]:
    """What moves numbers, joins values and pools frames, in words of several whole pixels; a transposed convolution of several groups a word."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    graph = Graph(
        "whole_pixels",
        (
            Node("x", Input((2, 3, 4), scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))),
            Node("stretched", Stretch((2, 2)), ("x",)),
            Node("transposed", conv(124, 3, 2, 2, 2, pads=(1, 1)), ("stretched",)),
            Node("narrow", narrow, ("transposed",)),
            Node("pad", Pad(((0, 0), (1, 0), (3, 1))), ("narrow",)),
            Node("slice", Slice((1, 0, 2), (3, 7, 10), (1, 2, 1)), ("pad",)),
            Node("up", Upsample((2, 2)), ("slice",)),
            Node("cat", Concat(), ("up", "up")),
            Node("relu", LeakyRelu(-3), ("cat",)),
            Node("square", Mul(), ("relu", "relu")),
            Node("sum", SumPool((8, 16), (1, 1), ((0, 0), (0, 0))), ("square",)),
        ),
        "sum",
    )
    foldings = {"transposed": Folding(12, 2, pixels=2), "pad": Folding(3, pixels=4), "slice": Folding(2, pixels=4), "up": Folding(2, pixels=4)}
    return graph, Schedule.of(foldings | {"cat": Folding(4, pixels=2), "square": Folding(4, pixels=4), "sum": Folding(4, taps=2)})


def sparse(layer: Conv | Linear, n: int, m: int) -> Conv | Linear:
    """The layer with at most n of each m neighbours along the inputs left that are not 0, the greatest; where there are zeros already, fewer."""
    raw = layer.weight.raw
    groups = np.abs(raw).reshape(len(raw), raw.shape[1] // m, m, -1)
    rank = np.argsort(np.argsort(-groups, axis=2, kind="stable"), axis=2)
    return replace(layer, weight=Const(np.where((rank < n).reshape(raw.shape), raw, 0), layer.weight.frac_bits))


def few_of_each() -> tuple[Graph, Schedule]:
    """Layers whose weights are stored without zeros: with windows whole and tap by tap, in two memories, by digits, and packed across pixels."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    layers = (sparse(conv(130, 8, 4, 3, 3, pads=(1, 1)), 2, 4), sparse(conv(132, 8, 8, 3, 3, pads=(1, 1), stride=2), 1, 4))
    last = (sparse(conv(134, 8, 8, 1, 1), 4, 8), sparse(conv(136, 4, 8, 3, 3), 1, 2))
    graph = chain("few_of_each", (4, 8, 8), layers[0], narrow, layers[1], narrow, last[0], narrow, last[1], narrow)
    foldings = {
        "conv0": Folding(4, 36, "pair", taps=9, pixels=2, sparsity="2:4"),
        "conv2": Folding(2, 8, "dsp", sparsity="1:4"),
        "conv4": Folding(3, 8, "lut", weights="bram", sparsity="4:8"),
        "conv6": Folding(2, 4, "shift", sparsity="1:2"),
    }
    return graph, Schedule.of(foldings)


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


def in_batches() -> tuple[Graph, Schedule]:
    """Three frames a call: fully connected layers that read their weights once for them, results that leave as they come and results that wait, a sum
    of branches that goes round one, constants behind the sums, a layer on the chip between, and a convolution with weights in memory in front."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    graph = Graph(
        "in_batches",
        (
            Node("x", Input((2, 4, 3), scalar("ap_ufixed<5,2,AP_RND,AP_SAT>"))),
            Node("conv", conv(230, 2, 2, 3, 3, pads=(1, 1)), ("x",)),
            Node("conv_q", narrow, ("conv",)),
            Node("flat", Reshape((24,)), ("conv_q",)),
            Node("wide", Linear(const(232, 8, 24), const(233, 8)), ("flat",)),
            Node("relu", Relu(), ("wide",)),
            Node("wide_q", narrow, ("relu",)),
            Node("round", Linear(const(234, 8, 8), None), ("wide_q",)),
            Node("sum", Add(), ("round", "wide_q")),
            Node("sum_q", narrow, ("sum",)),
            Node("chip", Linear(const(236, 6, 8), None), ("sum_q",)),
            Node("chip_q", narrow, ("chip",)),
            Node("out", Linear(const(238, 5, 6), const(239, 5)), ("chip_q",)),
        ),
        "out",
    )
    foldings = {
        "conv": Folding(2, 2, "lut", weights="ddr", rows=2),
        "wide": Folding(2, 4, "pair", weights="ddr"),
        "round": Folding(2, 2, weights="ddr"),
        "chip": Folding(3, 2),
        "out": Folding(5, 6, weights="ddr"),
    }
    return graph, Schedule.of(foldings, batch=3)
