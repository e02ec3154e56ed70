"""C++ spellings of types, constants, epilogues and processes. Text only; what to build was decided in lowering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qfx.codegen import design as d
from qfx.fixed.type import FixedType

_ELEMENT_BITS = 64
_WRAP = 140  # columns of an initializer


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant array: ``static const <type> <name><dims> = {<body>};``"""

    name: str
    type: str
    dims: str
    body: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A process as the templates lay it out. ``parameters`` and ``arguments`` are those of its function, in order."""

    name: str
    constants: tuple[Constant, ...]
    epilogue: str
    parameters: tuple[str, ...]
    arguments: tuple[str, ...]
    pragmas: tuple[str, ...]
    body: tuple[str, ...]


def raw(type_: FixedType) -> str:
    """The raw type: ``qfx::sint<8>``."""
    return f"qfx::{'s' if type_.signed else 'u'}int<{type_.width}>"


def tag(type_: FixedType) -> str:
    """The type with its modes: ``qfx::fixed<8, 3, true, AP_RND, AP_SAT>``."""
    parts = [str(type_.width), str(type_.int_bits), "true" if type_.signed else "false", type_.q.value, type_.o.value, str(type_.n)]
    return f"qfx::fixed<{', '.join(parts)}>"


def literal(value: int) -> str:
    """An integer literal that keeps its value in C++11, whatever the size of int."""
    if value == -(1 << 63):
        return "(-9223372036854775807LL - 1)"
    return str(value) if -(1 << 31) < value < 1 << 31 else f"{value}LL"


def native(values: Iterable[int]) -> str:
    """The smallest native integer that holds the values."""
    held = list(values)
    low, high = min(held), max(held)
    for bits in (8, 16, 32, 64):
        if low >= 0 and high < 1 << bits:
            return f"uint{bits}_t"
        if low < 0 and -(1 << (bits - 1)) <= low and high < 1 << (bits - 1):
            return f"int{bits}_t"
    raise OverflowError(f"{low}..{high} fits no native integer")


def stream(type_: FixedType, parallel: int) -> str:
    return f"hls::stream<qfx::vec<{raw(type_)}, {parallel}> >"


def table(values: d.Table) -> Constant:
    return Constant(values.name, native(values.values), f"[{len(values.values)}]", initializer([literal(value) for value in values.values]))


def initializer(items: list[str]) -> str:
    """Comma-separated items, wrapped."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) > _WRAP:
            lines.append(line.rstrip())
            line = ""
        line += f"{item}, "
    return "\n    ".join([*lines, line.rstrip(", ")])


def pack_weights(name: str, weights: d.IntArray, type_: FixedType) -> tuple[Constant, int]:
    """The rows as packed words, and how many lanes an element of a word holds: as many as fit 64 bits, none straddling two elements."""
    rows, lanes = weights.shape
    per_element = min(_ELEMENT_BITS // type_.width, lanes)
    mask = (1 << type_.width) - 1
    words = []
    for row in weights.tolist():
        elements = [row[start : start + per_element] for start in range(0, lanes, per_element)]
        words.append([sum((value & mask) << (i * type_.width) for i, value in enumerate(element)) for element in elements])
    count = len(words[0])
    kind = native([0, (1 << (per_element * type_.width)) - 1])
    suffix = "ULL" if kind == "uint64_t" else ""
    items = ["{" + ", ".join(f"0x{element:x}{suffix}" for element in word) + "}" for word in words]
    return Constant(name, kind, f"[{rows}][{count}]", initializer(items)), per_element


def epilogue_struct(name: str, epilogue: d.Epilogue) -> str:
    """The struct that a process template calls for every number that leaves."""
    names = ["a", "b"] if len(epilogue.inputs) == 2 else ["x0"]
    indices = {operand.table.index for step in epilogue.steps for operand in step.operands}
    pixel = "pixel" if "element" in indices else "/*pixel*/"
    channel = "channel" if indices & {"channel", "element"} else "/*channel*/"
    parameters = [f"const {raw(type_)}& {x}" for type_, x in zip(epilogue.inputs, names, strict=True)]
    lines = [
        f"struct {name} {{",
        f"  typedef {raw(epilogue.out)} out;",
        f"  static inline out apply({', '.join([*parameters, f'const int {pixel}', f'const int {channel}'])}) {{",
        "#pragma HLS INLINE",
    ]
    current = ", ".join(names)
    for i, step in enumerate(epilogue.steps, start=1):
        arguments = ", ".join(_arguments(step))
        arguments += " " if arguments.endswith(">") else ""
        operands = ", ".join([current, *(_operand(operand, epilogue.channels) for operand in step.operands)])
        lines.append(f"    const {raw(step.out)} x{i} = qfx::{step.function}<{arguments}>({operands});")
        current = f"x{i}"
    return "\n".join([*lines, f"    return {current};", "  }", "};"])


def _arguments(step: d.Step) -> Iterable[str]:
    if step.function != "cast":  # whose Dst says the result
        yield raw(step.out)
    for argument in step.arguments:
        yield tag(argument.type) if isinstance(argument, d.Tag) else raw(argument) if isinstance(argument, FixedType) else str(argument)


def _operand(operand: d.Operand, channels: int) -> str:
    table_ = operand.table
    if table_.index == "scalar":
        text = literal(table_.values[0])
    else:
        text = f"{table_.name}[{'channel' if table_.index == 'channel' else f'pixel * {channels} + channel'}]"
    return f"{raw(operand.type)}({text})" if operand.type is not None else text


def unit(process: d.Process, ports: tuple[str, str]) -> Unit:
    """The process as text; ``ports`` are the names of the top function's streams."""
    name = process.name
    if isinstance(process, d.FromPort):
        out, last = process.output, process.last
        call = f"qfx::from_port<{out.words}, {process.slot}>(in, out, last);"
        parameters = (f"{_port(process.slot, out)}& in", f"{_of(out)}& out", f"{_of(last)}& last")
        return Unit(name, (), "", parameters, (ports[0], out.name, last.name), (), (call,))
    if isinstance(process, d.ToPort):
        source, last = process.input, process.last
        call = f"qfx::to_port<{source.words}, {process.slot}>(in, last, out);"
        parameters = (f"{_of(source)}& in", f"{_of(last)}& last", f"{_port(process.slot, source)}& out")
        return Unit(name, (), "", parameters, (source.name, last.name, ports[1]), (), (call,))
    if isinstance(process, d.Fork):
        streams = {"in": process.input, "out0": process.outputs[0], "out1": process.outputs[1]}
        return _plain(name, streams, f"qfx::fork<{process.input.words}>(in, out0, out1);")
    if isinstance(process, d.Binary):
        streams = {"a": process.inputs[0], "b": process.inputs[1], "out": process.output}
        call = f"qfx::binary<{name}_epilogue, {process.pixels}, {process.channels}>(a, b, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    if isinstance(process, d.Concat):
        streams = {"a": process.inputs[0], "b": process.inputs[1], "out": process.output}
        numbers = ", ".join(map(str, (*process.shifts, process.pixels, *process.channels)))
        call = f"qfx::concat<{name}_epilogue, {raw(process.joined)}, {numbers}>(a, b, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    streams = {"in": process.input, "out": process.output}
    if isinstance(process, d.MatVec):
        return _matvec(process, streams)
    if isinstance(process, d.Pool):
        numbers = f"{process.pixels}, {process.channels}" + ("" if process.whole_frame else f", {process.taps}")
        function = "pool_global" if process.whole_frame else "pool"
        call = f"qfx::{function}<qfx::pool_{process.join}, {name}_epilogue, {raw(process.acc)}, {numbers}>(in, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    if isinstance(process, d.Pointwise):
        call = f"qfx::pointwise<{name}_epilogue, {process.pixels}, {process.channels}>(in, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    return _mover(process, streams)


def _mover(process: d.Rewidth | d.Window | d.Permute | d.PadFrame | d.SliceFrame, streams: dict[str, d.Stream]) -> Unit:
    name, source, out = process.name, process.input, process.output
    if isinstance(process, d.Rewidth):
        function, words = ("widen", out.words) if out.parallel > source.parallel else ("narrow", source.words)
        return _plain(name, streams, f"qfx::{function}<{words}, {source.parallel}, {out.parallel}>(in, out);")
    if isinstance(process, d.Window):
        shape = f"qfx::window_shape<{', '.join(map(str, process.shape))}>"
        return _plain(name, streams, f"qfx::window<{shape} >(in, out, {raw(source.type)}({literal(process.padding)}));")
    if isinstance(process, d.Permute):
        read = _nest(process.read)
        if isinstance(process.write, d.Table):
            call = f"qfx::permute_by_table<{source.words}, {read} >(in, out, {process.write.name});"
            return _plain(name, streams, call, (table(process.write),))
        return _plain(name, streams, f"qfx::permute<{source.words}, {_nest(process.write)}, {read} >(in, out);")
    if isinstance(process, d.PadFrame):
        numbers = ", ".join(map(str, (*process.size, *process.result, *process.before)))
        return _plain(name, streams, f"qfx::pad<{numbers}>(in, out);")
    spans = ", ".join(f"qfx::span<{start}, {stop}, {step}>" for start, stop, step in process.spans)
    return _plain(name, streams, f"qfx::slice<{', '.join(map(str, process.size))}, {spans} >(in, out);")


def _matvec(process: d.MatVec, streams: dict[str, d.Stream]) -> Unit:
    weights, per_element = pack_weights(f"{process.name}_weights", process.weights, process.weight_type)
    numbers = (process.pixels, process.groups, process.outputs, process.inputs, process.pe, process.simd)
    types = (raw(process.weight_type), str(process.weight_type.width), str(per_element), raw(process.acc))
    shape = f"qfx::matvec_shape<{', '.join(map(str, numbers))}, {', '.join(types)} >"
    call = f"qfx::{'depthwise' if process.depthwise else 'matvec'}<shape, {process.name}_epilogue>(in, out, {weights.name});"
    unit_ = _with_epilogue(process.name, streams, process.epilogue, call)
    body = (f"typedef {shape} shape;", *unit_.body)
    return Unit(unit_.name, (weights, *unit_.constants), unit_.epilogue, unit_.parameters, unit_.arguments, unit_.pragmas, body)


def _plain(name: str, streams: dict[str, d.Stream], call: str, constants: tuple[Constant, ...] = ()) -> Unit:
    parameters = tuple(f"{_of(stream_)}& {parameter}" for parameter, stream_ in streams.items())
    return Unit(name, constants, "", parameters, tuple(stream_.name for stream_ in streams.values()), (), (call,))


def _with_epilogue(name: str, streams: dict[str, d.Stream], epilogue: d.Epilogue, call: str) -> Unit:
    tables = [operand.table for step in epilogue.steps for operand in step.operands if operand.table.index != "scalar"]
    plain = _plain(name, streams, call, tuple(map(table, tables)))
    lanes = streams["out"].parallel
    # Every lane of a word reads its own entry in the same cycle.
    pragmas = tuple(f"#pragma HLS ARRAY_PARTITION variable={table_.name} cyclic factor={lanes} dim=1" for table_ in tables if lanes > 1)
    return Unit(name, plain.constants, epilogue_struct(f"{name}_epilogue", epilogue), plain.parameters, plain.arguments, pragmas, plain.body)


def _nest(loops: tuple[tuple[int, int], ...]) -> str:
    padded = ((1, 0),) * (4 - len(loops)) + loops
    return f"qfx::nest<{', '.join(f'{size}, {stride}' for size, stride in padded)}>"


def _port(slot: int, stream_: d.Stream) -> str:
    return f"hls::stream<qfx::axi_word<{slot * stream_.parallel}> >"


def _of(stream_: d.Stream) -> str:
    return stream(stream_.type, stream_.parallel)
