"""The template library, process by process, against numpy: one C++ program with a case per configuration, all raw integers compared."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qfx.fixed.array import cast_raw_array
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.assets import hls_root
from qfx.hardware.design.streams import Stream
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.emit.emulate import FAST_FLAGS
from qfx.hardware.emit.spelling import pack_weights
from qfx.hardware.processes import TakeFrame, WholeWindow
from qfx.hardware.timing.window_turns import window_turns

Ints = npt.NDArray[np.int64]
RNG = np.random.default_rng(2024)


@dataclass(frozen=True)
class Case:
    """``body`` reads `in` (words of ``word_in`` numbers) and writes `out` (of ``word_out``); ``expected`` follows from ``x``."""

    name: str
    body: str
    x: Ints
    expected: Ints
    word_in: int = 1
    word_out: int = 1
    type_in: str = "qfx::sint<9>"
    type_out: str = "qfx::sint<9>"
    globals: str = ""


def numbers(*shape: int, low: int = -128, high: int = 128) -> Ints:
    return RNG.integers(low, high, shape)


def window_case(
    c: int,
    p: int,
    outer: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, ...],
    dilation: tuple[int, int],
) -> Case:
    """``pads``: top, left, bottom, right."""
    frame = numbers(*size, c)
    top, left, bottom, right = pads
    padded = np.pad(frame, ((top, bottom), (left, right), (0, 0)), constant_values=-7)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    oh, ow = ((padded.shape[i] - span[i]) // stride[i] + 1 for i in (0, 1))
    chunks = c // p
    words = []
    for oy in range(oh):
        for ox in range(ow):
            y, x = oy * stride[0], ox * stride[1]
            taken = padded[y : y + span[0] : dilation[0], x : x + span[1] : dilation[1]].reshape(-1, outer, chunks // outer, p)
            words.append(taken.transpose(1, 0, 2, 3))
    shape = (chunks, outer, *size, oh, ow, *kernel, *stride, top, left, *dilation)
    turns = window_turns(shape).turns  # one too many would read an empty stream, one too few leave something in it
    line = f"qfx::memory_word<qfx::sint<9>, {p}>::type line[{span[0] * size[1] * chunks}];"
    body = f"{line} qfx::window<qfx::window_shape<{', '.join(map(str, (*shape, turns)))}> >(in, out, qfx::sint<9>(-7), line);"
    return Case("window", body, frame.reshape(-1), np.concatenate([word.reshape(-1) for word in words]), p, p)


def without_pragmas(body: tuple[str, ...]) -> str:
    return "\n".join(line for line in body if not line.startswith("#"))


def whole_window_case(c: int, p: int, size: tuple[int, int], *rest: tuple[int, ...]) -> Case:
    """The same windows, channels by channels, with all taps in a word."""
    one = window_case(c, p, c // p, size, *rest)
    kernel, stride, pads, dilation = rest
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(size[i] + pads[i] + pads[i + 2] - span[i]) // stride[i] + 1 for i in (0, 1)]
    taps, stream = kernel[0] * kernel[1], Stream("x", FixedType(9, 9), p, size[0] * size[1] * c // p, 2)
    shape = (c // p, *size, *out, *kernel, *stride, *pads[:2], *dilation)
    unit = WholeWindow("x", stream, Stream("y", FixedType(9, 9), p * taps, out[0] * out[1] * c // p, 2), shape, -7)
    assert unit.possible
    body = without_pragmas(unit.unit(("in", "out")).body)
    return Case("whole_window", body, one.x, one.expected, p, p * taps)


EPILOGUE = """struct {name} {{
  typedef qfx::sint<32> out;
  template <class T> static inline out apply(const T& x, const int pixel, const int channel) {{ return out(x * 1000 + pixel * 100 + channel); }}
}};
"""  # shows which pixel and channel the process says it is at


def told(values: Ints) -> Ints:
    """(pixels, channels) through that epilogue."""
    pixels, channels = values.shape
    return (values * 1000 + np.arange(pixels)[:, None] * 100 + np.arange(channels)).reshape(-1)


def matvec_case(pixels: int, groups: int, outputs: int, inputs: int, pe: int, simd: int, bits: int) -> Case:
    weights = numbers(groups, outputs, inputs, low=-(1 << (bits - 1)), high=1 << (bits - 1))
    x = numbers(pixels, groups, inputs)
    rows = weights.reshape(groups, outputs // pe, pe, inputs // simd, simd).transpose(0, 1, 3, 4, 2).reshape(-1, simd * pe)
    name = f"w_{pixels}_{groups}_{outputs}_{inputs}_{pe}_{simd}_{bits}"
    constant, reader = pack_weights(name, rows, FixedType(bits, bits, True))
    shape = f"qfx::matvec_shape<{pixels}, {groups}, {outputs}, {inputs}, {pe}, {simd}, {reader}, qfx::sint<20> >"
    expected = told(np.einsum("goi,pgi->pgo", weights, x).reshape(pixels, -1))
    table = f"static const {constant.type} {name}{constant.dims} = {{{constant.body}}};\n"
    kept = f"qfx::sint<9> kept[{inputs // simd}][{simd}];"
    body = f"typedef {shape} shape; {kept} qfx::matvec<shape, told>(in, out, {name}, kept);"
    return Case("matvec", body, x.reshape(-1), expected, simd, pe, type_out="qfx::sint<32>", globals=table)


def depthwise_case(pixels: int, channels: int, taps: int, pe: int) -> Case:
    weights, x = numbers(channels, taps, low=-8, high=8), numbers(pixels, channels // pe, taps, pe)
    rows = weights.reshape(channels // pe, pe, taps).transpose(0, 2, 1).reshape(-1, pe)
    name = f"d_{pixels}_{channels}_{taps}_{pe}"
    constant, reader = pack_weights(name, rows, FixedType(4, 4, True))
    shape = f"qfx::matvec_shape<{pixels}, {channels}, 1, {taps}, {pe}, 1, {reader}, qfx::sint<18> >"
    expected = told((x * rows.reshape(channels // pe, taps, pe)).sum(axis=2).reshape(pixels, -1))
    table = f"static const {constant.type} {name}{constant.dims} = {{{constant.body}}};\n"
    body = f"typedef {shape} shape; qfx::depthwise<shape, told>(in, out, {name});"
    return Case("depthwise", body, x.reshape(-1), expected, pe, pe, type_out="qfx::sint<32>", globals=table)


def pool_case(join: str, function: Callable[..., Ints], pixels: int, channels: int, taps: int, p: int, together: int = 1) -> Case:
    x = numbers(pixels, channels // p, taps, p)
    expected = told(function(x, axis=2).reshape(pixels, channels))
    body = f"qfx::pool<qfx::pool_{join}, told, qfx::sint<14>, {pixels}, {channels}, {taps}, {together}>(in, out);"
    return Case("pool", body, x.reshape(-1), expected, together * p, p, type_out="qfx::sint<32>")


def whole_case(join: str, function: Callable[..., Ints], pixels: int, channels: int, p: int) -> Case:
    x = numbers(pixels, channels)
    process, many, argument = "pool_few", "", ""
    if channels // p > 16:
        process, many, argument = "pool_many", f"qfx::memory_word<qfx::sint<14>, {p}>::type many[{channels // p}];", ", many"
    body = f"{many} qfx::{process}<qfx::pool_{join}, told, qfx::sint<14>, {pixels}, {channels}>(in, out{argument});"
    return Case(process, body, x.reshape(-1), told(function(x, axis=0)[None]), p, p, type_out="qfx::sint<32>")


def repeated(frame: Ints, rows: int, columns: int) -> Ints:
    return frame.repeat(rows, axis=0).repeat(columns, axis=1).reshape(-1)


def stretched(frame: Ints, rows: int, columns: int) -> Ints:
    height, width, channels = frame.shape
    out = np.zeros(((height - 1) * rows + 1, (width - 1) * columns + 1, channels), dtype=np.int64)
    out[::rows, ::columns] = frame
    return out.reshape(-1)


def taken(frame: Ints, axis: int, order: tuple[int, ...], together: int) -> Case:
    """``order`` of one axis of a frame (H, W, C), in words of ``together`` channels."""
    outer, inner = math.prod(frame.shape[:axis]), math.prod(frame.shape[axis + 1 :])
    words = FixedType(9, 9)
    streams = [
        Stream(name, words, together, outer * count * inner // together, 2) for name, count in (("in", frame.shape[axis]), ("out", len(order)))
    ]
    unit = TakeFrame("take", *streams, (outer, frame.shape[axis], inner), order, together, f"program{axis}").unit(("in", "out"))
    (program,) = unit.constants
    known = f"static const {program.type} {program.name}{program.dims} = {{{program.body}}};\n"
    return Case(
        f"take {axis}", without_pragmas(unit.body), frame.reshape(-1), np.take(frame, order, axis).reshape(-1), together, together, globals=known
    )


def movers() -> list[Case]:
    x = numbers(24)
    frame = numbers(3, 4, 5)  # H, W, C
    row_major = frame.transpose(2, 0, 1)
    padded = np.pad(frame, ((1, 0), (2, 1), (0, 2)))
    broad = numbers(3, 4, 6)
    groups = numbers(2, 3, 3, 2, 6)  # rows and columns of groups, rows and columns in each, channels
    broad_padded = np.pad(broad, ((1, 0), (2, 1), (3, 6)))
    streams = 'hls::stream<qfx::vec<qfx::sint<9>, 2> > a("a"), b("b");'
    spans = "qfx::span<1, 3, 1>, qfx::span<0, 4, 3>, qfx::span<1, 5, 2>"
    words = "qfx::span<0, 2, 1>, qfx::span<1, 4, 2>, qfx::span<1, 2, 1>"
    kept = "qfx::memory_word<qfx::sint<9>, {1}>::type kept[{0}];".format
    forward = "qfx::nest<1, 0, 1, 0, 1, 0, {}, 1>".format
    return [
        Case("widen", "qfx::widen<4, 2, 6>(in, out);", x, x, 2, 6),
        Case("narrow", "qfx::narrow<4, 6, 2>(in, out);", x, x, 6, 2),
        Case("pointwise", "qfx::pointwise<told, 4, 6>(in, out);", x, told(x.reshape(4, 6)), 3, 3, type_out="qfx::sint<32>"),
        Case(
            "fork and concat",
            f"{streams} qfx::fork<12>(in, a, b); qfx::concat<same, qfx::sint<9>, 1, 0, 1, 24, 24>(a, b, out);",
            x // 2,
            np.concatenate([x // 2 * 2, x // 2]),
            2,
            2,
        ),
        Case("pad", "qfx::pad<3, 4, 5, 4, 7, 7, 1, 2, 0>(in, out);", frame.reshape(-1), padded.reshape(-1)),
        Case("pad in words", "qfx::pad<3, 4, 2, 4, 7, 5, 1, 2, 1>(in, out);", broad.reshape(-1), broad_padded.reshape(-1), 3, 3),
        Case("slice", f"qfx::slice<3, 4, 5, {spans} >(in, out);", frame.reshape(-1), frame[1:3, 0:4:3, 1:5:2].reshape(-1)),
        Case("slice in words", f"qfx::slice<3, 4, 2, {words} >(in, out);", broad.reshape(-1), broad[:2, 1:4:2, 3:].reshape(-1), 3, 3),
        Case("repeat", f"{kept(8, 3)} qfx::repeat<3, 4, 2, 2, 3>(in, out, kept);", broad.reshape(-1), repeated(broad, 2, 3), 3, 3),
        Case("repeat rows", f"{kept(24, 1)} qfx::repeat<3, 4, 6, 4, 1>(in, out, kept);", broad.reshape(-1), repeated(broad, 4, 1)),
        Case("repeat columns", f"{kept(4, 6)} qfx::repeat<3, 4, 1, 1, 2>(in, out, kept);", broad.reshape(-1), repeated(broad, 1, 2), 6, 6),
        Case("repeat one pixel", f"{kept(5, 1)} qfx::repeat<1, 1, 5, 3, 2>(in, out, kept);", x[:5], repeated(x[:5].reshape(1, 1, 5), 3, 2)),
        *(taken(broad, axis, order, together) for axis, order, together in ((0, (2, 0, 0), 3), (1, (3, 1, 2, 1, 0), 3), (2, (5, 0, 0, 3), 1))),
        Case(
            "interleave",
            f"{kept(36, 2)} qfx::interleave<2, 3, 3, 2, 3, 1, 4, 1, 4>(in, out, kept);",
            groups.reshape(-1),
            groups.transpose(0, 2, 1, 3, 4).reshape(6, 6, 6)[1:5, 1:5].reshape(-1),
            2,
            2,
        ),
        Case("interleave columns", f"{kept(1, 1)} qfx::interleave<1, 5, 1, 2, 1, 0, 1, 0, 10>(in, out, kept);", x[:10], x[:10]),
        Case("stretch", "qfx::stretch<3, 4, 2, 2, 3>(in, out);", broad.reshape(-1), stretched(broad, 2, 3), 3, 3, type_out="qfx::sint<12>"),
        Case("stretch rows", "qfx::stretch<3, 4, 6, 3, 1>(in, out);", broad.reshape(-1), stretched(broad, 3, 1)),
        Case("stretch columns", "qfx::stretch<3, 4, 3, 1, 2>(in, out);", broad.reshape(-1), stretched(broad, 1, 2), 2, 2),
        Case(
            "permute",
            f"qfx::sint<9> frame[60]; qfx::permute<60, qfx::nest<1, 0, 3, 4, 4, 1, 5, 12>, {forward(60)} >(in, out, frame);",
            frame.reshape(-1),
            row_major.reshape(-1),
        ),
        Case(
            "permute_by_table",
            f"qfx::sint<9> frame[4]; qfx::permute_by_table<4, {forward(4)} >(in, out, order, frame);",
            np.array([5, 6, 7, 8]),
            np.array([6, 8, 5, 7]),
            globals="static const uint8_t order[4] = {2, 0, 3, 1};\n",
        ),
        Case(
            "ports",
            'hls::stream<qfx::axi_word<32> > port("port"); hls::stream<qfx::vec<qfx::uint<1>, 1> > last("last"), again("again");'
            "qfx::vec<qfx::uint<1>, 1> bit; bit[0] = 1; last.write(bit); "
            "qfx::to_port<12, 16>(in, last, port); qfx::from_port<12, 16>(port, out, again); if (again.read()[0] != 1) std::cout << 1;",
            x,
            x,
            2,
            2,
        ),
    ]


def cast_cases() -> list[Case]:
    """Every pair of modes through qfx::cast, from <9,3> into <5,2>: the definition of Cast on all 512 raws."""
    x = np.arange(-256, 256)
    cases = []
    for q in QMode:
        for o in OMode:
            to = FixedType(5, 2, True, q, o)
            name = f"cast_{q.name}_{o.name}"
            call = f"qfx::cast<qfx::fixed<9, 3, true>, qfx::fixed<5, 2, true, {q.value}, {o.value}> >(x)"
            apply = f"static inline out apply(const qfx::sint<9>& x, const int, const int) {{ return {call}; }}"
            struct = f"struct {name} {{ typedef qfx::sint<5> out; {apply} }};\n"
            body = f"qfx::pointwise<{name}, 1, 512>(in, out);"
            cases.append(Case(name, body, x, cast_raw_array(x, 6, to), type_out="qfx::sint<5>", globals=struct))
    return cases


def line_case(bits: int, inner: int, size: int | None) -> Case:
    """Which entry of a table a pixel of so many bits reads: all pixels, or the least, the greatest and those around multiples."""
    most = 1 << bits
    near = [k * inner * (size or 1) + step for k in numbers(500, low=0, high=most // (inner * (size or 1)) + 1).tolist() for step in (-1, 0, 1)]
    x = np.arange(most) if bits < 12 else np.unique(np.clip([0, most - 1, *near], 0, most - 1))
    call = f"qfx::line_of<{bits}, {inner}>" if size is None else f"qfx::line_again<{bits}, {inner}, {size}>"
    body = f"for (int i = 0; i < {x.size}; i++) {{ qfx::vec<qfx::sint<33>, 1> y; y[0] = {call}(int(in.read()[0])); out.write(y); }}"
    expected = x // inner if size is None else x // inner % size
    return Case(f"line_{bits}_{inner}_{size}", body, x, expected, type_in="qfx::sint<33>", type_out="qfx::sint<33>")


def state_case(words: int, lanes: int) -> Case:
    """Three frames of which each leaves with the one before it: zeros first."""
    x = numbers(3, words * lanes)
    body = (
        f"qfx::memory_word<qfx::sint<9>, {lanes}>::type now[{words}], next[{words}]; qfx::forget<{words}, qfx::sint<9>, {lanes}>(now);\n"
        f"for (int step = 0; step < 3; step++) {{ hls::stream<qfx::vec<qfx::sint<12>, {lanes}> > wide;\n"
        f"qfx::hand_over<{words}>(in, wide); qfx::keep<{words}, qfx::sint<9> >(wide, next); qfx::recall<{words}>(now, out);\n"
        f"qfx::advance<{words}>(next, now); qfx::recall<{words}>(now, out); }}"
    )
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    return Case("state", body, x.reshape(-1), np.stack([before, x], 1).reshape(-1), lanes, lanes)


SAME = "struct same { typedef qfx::sint<9> out; static inline out apply(const qfx::sint<9>& x, const int, const int) { return x; } };\n"
CASES = (
    window_case(4, 2, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    window_case(4, 2, 2, (5, 6), (2, 3), (2, 1), (0, 2, 1, 0), (1, 1)),
    window_case(3, 1, 3, (7, 7), (2, 2), (3, 3), (1, 0, 0, 1), (2, 3)),
    window_case(2, 2, 1, (1, 9), (1, 4), (1, 2), (0, 3, 0, 2), (1, 2)),
    window_case(1, 1, 1, (4, 3), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    window_case(2, 1, 1, (2, 2), (2, 2), (1, 1), (3, 3, 3, 3), (1, 1)),
    window_case(3, 3, 1, (6, 5), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    window_case(6, 2, 3, (4, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    window_case(2, 2, 1, (9, 8), (2, 2), (4, 3), (0, 0, 0, 0), (1, 1)),
    window_case(2, 1, 2, (3, 4), (2, 3), (5, 2), (7, 9, 8, 9), (3, 1)),
    window_case(4, 1, 1, (1, 12), (1, 12), (1, 1), (0, 0, 0, 0), (1, 1)),
    matvec_case(3, 1, 4, 6, 1, 1, 5),
    matvec_case(3, 2, 4, 6, 2, 3, 5),
    matvec_case(2, 1, 6, 6, 6, 6, 7),  # 36 lanes of 7 bits: four elements a word
    matvec_case(2, 1, 2, 4, 1, 4, 10),
    depthwise_case(3, 6, 4, 1),
    depthwise_case(2, 6, 9, 3),
    pool_case("max", np.max, 3, 4, 6, 2),
    pool_case("sum", np.sum, 2, 3, 4, 1),
    pool_case("sum", np.sum, 2, 4, 4, 2, together=4),
    pool_case("max", np.max, 3, 2, 9, 1, together=3),
    whole_window_case(4, 2, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    whole_window_case(2, 1, (5, 7), (2, 3), (2, 1), (0, 2, 1, 0), (1, 2)),
    whole_window_case(3, 3, (9, 8), (3, 2), (3, 2), (0, 0, 0, 0), (1, 1)),
    whole_window_case(2, 2, (1, 9), (1, 4), (1, 2), (0, 3, 0, 2), (1, 2)),
    whole_window_case(20, 1, (4, 3), (2, 2), (1, 1), (1, 0, 1, 1), (2, 1)),  # memories of columns
    whole_window_case(1, 1, (9, 8), (9, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    whole_case("sum", np.sum, 9, 4, 2),
    whole_case("max", np.max, 5, 3, 3),
    whole_case("max", np.max, 4, 32, 2),
    whole_case("sum", np.sum, 3, 34, 2),
    state_case(4, 1),
    state_case(3, 2),
    *movers(),
    *cast_cases(),
    *(line_case(bits, inner, size) for bits, inner, size in ((11, 1, 26), (11, 8, 10), (10, 13, 5), (11, 7, None), (11, 16, None), (1, 1, 2))),
    *(line_case(bits, inner, size) for bits, inner, size in ((17, 363, None), (24, 1, 4099), (31, 65537, None), (31, 3, 1_000_003))),
)


def whole(body: str) -> str:
    """A case of the fast emulator's: with the streams of whole frames."""
    return body.replace("hls::stream<", "qfx_native::frames<")


def program(fast: bool) -> str:
    functions, calls = [EPILOGUE.format(name="told"), SAME], []
    for i, case in enumerate(CASES):
        if fast and case.name == "ports":  # of which the emulator has none
            continue
        functions.append(
            f"{case.globals}static void case{i}(hls::stream<qfx::vec<{case.type_in}, {case.word_in}> >& in, "
            f"hls::stream<qfx::vec<{case.type_out}, {case.word_out}> >& out) {{ {case.body} }}\n"
        )
        calls.append(f'  if (which == "{i}") drive<{case.type_in}, {case.word_in}, {case.type_out}, {case.word_out}>(case{i}, x, y);\n')
    includes = "".join(f'#include "qfx/{path.name}"\n' for path in sorted((hls_root() / "include" / "qfx").glob("*.h")))
    includes += "#include <qfx_layers.h>\n" if fast else ""
    text = f"""#include "harness.h"
{includes}
{"".join(functions)}
template <class A, int P, class B, int R>
static void drive(void (*run)(hls::stream<qfx::vec<A, P> >&, hls::stream<qfx::vec<B, R> >&), const qfx_tb::numbers& x, qfx_tb::numbers& y) {{
  hls::stream<qfx::vec<A, P> > in("in");
  hls::stream<qfx::vec<B, R> > out("out");
  for (size_t i = 0; i < x.size(); i += P) {{
    qfx::vec<A, P> word;
    for (int p = 0; p < P; p++) word[p] = A(x[i + static_cast<size_t>(p)]);
    in.write(word);
  }}
  run(in, out);
  while (!out.empty()) {{
    const qfx::vec<B, R> word = out.read();
    for (int p = 0; p < R; p++) y.push_back(static_cast<int64_t>(word[p]));
  }}
}}
int main(int, char** argv) {{
  qfx_tb::numbers x, y;
  const std::string which = argv[1];
  if (!qfx_tb::load(argv[2], x)) return 2;
{"".join(calls)}
  return qfx_tb::save(argv[3], y, 1) ? 0 : 2;
}}
"""
    return whole(text) if fast else text


@pytest.fixture(scope="module", params=["vendor", "exact", "fast"])
def executable(request: pytest.FixtureRequest, gxx: str, vendor_include: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases with the vendor's headers, with the memories of the hardware, and as the fast emulator runs them: a frame at a time."""
    folder, sim = tmp_path_factory.mktemp("templates"), hls_root() / "sim"
    fast = request.param == "fast"
    (folder / "cases.cpp").write_text(program(fast))
    headers = (sim / "native", sim / "emulate") if fast else (vendor_include, sim)
    includes = [f"-I{hls_root() / 'include'}", f"-I{hls_root() / 'templates'}", *(part for header in headers for part in ("-isystem", str(header)))]
    exact = ("-UQFX_UNPACKED", "-DQFX_EXACT_ROM") if request.param == "exact" else ()
    flags = [flag for flag in FAST_FLAGS if flag != "-O3"] if fast else [*CSIM_FLAGS, *exact]
    command = [gxx, *flags, "-Werror", "-O1", *includes, str(folder / "cases.cpp"), "-o", str(folder / "cases")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "cases"


def simulate(executable: Path, index: int) -> Ints:
    source, result = executable.with_name(f"{index}.in.bin"), executable.with_name(f"{index}.out.bin")
    source.write_bytes(CASES[index].x.astype("<i8").tobytes())
    done = subprocess.run([str(executable), str(index), str(source), str(result)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # the vendor's streams complain on stdout
    return np.frombuffer(result.read_bytes(), dtype="<i8")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name for case in CASES])
def test_against_numpy(executable: Path, index: int) -> None:
    if CASES[index].name == "ports" and "qfx_native" in executable.with_suffix(".cpp").read_text():
        pytest.skip("the emulator has no ports")
    np.testing.assert_array_equal(simulate(executable, index), CASES[index].expected)


def test_whole_frames_are_preferred(executable: Path) -> None:
    """A process whose parameters are no longer those of its form in sim/native would go word by word, and be slow without a word."""
    texts = [(hls_root() / "sim" / "native" / name).read_text() for name in ("qfx_layers.h", "qfx_products.h")]
    forms = re.findall(r"^void (\w+)\(qfx_native::frames", "".join(texts), re.MULTILINE)
    assert {"window", "matvec", "depthwise", "binary", "pool"} <= set(forms)
    symbols = subprocess.run(["nm", "-C", str(executable)], capture_output=True, text=True, check=True).stdout
    word_by_word = {name for name in forms if re.search(rf"void qfx::{name}<.*>\(hls::stream<", symbols)}
    if "qfx_native" in symbols:
        assert word_by_word == set()
    else:
        assert {"window_tap", "pool"} <= word_by_word  # the vendor's build; what it only calls by another name may be inlined


def test_the_comparison_sees_one_lsb(executable: Path) -> None:
    planted = CASES[0].expected.copy()
    planted[5] += 1
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(simulate(executable, 0), planted)
