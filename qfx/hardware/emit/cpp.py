"""C++ spellings of types, constants, epilogues and processes. Text only; what to build was decided in lowering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic, loading, storage
from qfx.hardware.design import design as d
from qfx.hardware.design.storage import Memory, Storage
from qfx.hardware.timing.window_turns import window_turns

_WRAP = 140  # columns of an initializer


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant array: ``static const <type> <name><dims> = {<body>};``, behind a line of ``comment`` if there is one.

    ``loaded``: it is not constant but loaded while the hardware runs, and has no body.
    """

    name: str
    type: str
    dims: str
    body: str
    comment: str = ""
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """A process as the templates lay it out. ``parameters`` and ``arguments`` are those of its function, in order; ``pragmas`` are lines that stand
    before its ``body``."""

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


def queue(name: str, depth: int, width: int) -> str:
    """The binding of the stream ``name`` of words of ``width`` bits."""
    return f"QFX_BIND({name}, FIFO, {storage.fifo(depth, width).value})"


def _bound(name: str, memory: Memory, constant: str = "ROM_1P") -> tuple[str, ...]:
    """The binding of an array that the layer's function can see; none for one that is no memory."""
    where = memory.storage
    return () if where is Storage.REGISTERS else (f"  QFX_BIND({name}, {constant if memory.constant else 'RAM_S2P'}, {where.value})",)


def _tag(memory: Memory) -> str:
    """The type of storage.h that says where a template keeps its buffer."""
    return {Storage.LUTRAM: "qfx::in_lutram", Storage.BRAM: "qfx::in_bram"}.get(memory.storage, "qfx::by_tool")


def table(values: d.Table) -> Constant:
    if values.loaded is not None:
        type_ = f"qfx::loaded<{native((values.loaded.min_raw, values.loaded.max_raw))}>::type"
        return Constant(values.name, type_, f"[{len(values.values)}]", "", loaded=True)
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


def pack_weights(name: str, weights: d.IntArray, type_: FixedType, *, loaded: bool = False) -> tuple[Constant, str]:
    """A ROM of the rows (words, lanes) of raws of ``type_``, and the ``qfx::packed`` type that reads it; a RAM if ``loaded``.

    Lanes share the elements of a word as ``arithmetic.lanes_per_element`` says; none straddles two of them.
    """
    count, lanes = weights.shape
    _, elements, bits = arithmetic.rom_shape(count, lanes, type_.width)
    per_element = bits // type_.width
    comment = f"{count * elements * bits} bits: {count} words of {elements} x {bits}, for {count * lanes} numbers of {type_.width} bits."
    reader = f"qfx::packed<{'true' if type_.signed else 'false'}, {type_.width}, {per_element}>"
    if loaded:
        return Constant(name, f"qfx::loaded<qfx::rom<{bits}>::type>::type", f"[{count}][{elements}]", "", comment, loaded=True), reader
    words, _ = arithmetic.pack_rows(weights, type_)
    suffix = "ULL" if bits > 32 else "U"
    items = ["{" + ", ".join(f"0x{element:x}{suffix}" for element in word) + "}" for word in words]
    return Constant(name, f"qfx::rom<{bits}>::type", f"[{count}][{elements}]", initializer(items), comment), reader


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


def units(design: d.Design, ports: tuple[str, str]) -> list[Unit]:
    """All processes as text, in the order in which they are called; ``ports`` are the names of the top function's streams."""
    made = [unit(process, ports) for process in design.processes]
    loader = design.loader
    if loader is None:
        return made
    by_process = {load.process: load for load in loader.loads}
    loading_ = [_with_load(unit_, by_process[unit_.name], loader.port.slot) if unit_.name in by_process else unit_ for unit_ in made]
    return [_loader(loader, loading.counts(design)), *loading_]


def flags_stream() -> str:
    return "hls::stream<qfx::uint<1> >"


def words_stream(slot: int) -> str:
    return f"hls::stream<qfx::uint<{slot}> >"


def _loader(loader: d.Loader, counts: tuple[int, ...]) -> Unit:
    """The process that reads the port of the constants."""
    slot = loader.port.slot
    streams = [(load.flags, flags_stream()) for load in loader.loads] + [(load.words, words_stream(slot)) for load in loader.loads]
    parameters = (f"hls::stream<qfx::axi_word<{slot}> >& port", "const bool load", *(f"{type_}& {name}" for name, type_ in streams))
    flags = [f"{load.flags}.write(qfx::uint<1>(load));" for load in loader.loads]
    passes = [f"  qfx::hand_on<{count}, {slot}>(port, {load.words});" for load, count in zip(loader.loads, counts, strict=True)]
    body = (*flags, "if (load) {", *passes, "}")
    return Unit(loader.name, (), "", parameters, ("weights", "load", *(name for name, _ in streams)), (), body)


def _with_load(unit_: Unit, load: d.Load, slot: int) -> Unit:
    """The process with its constants loaded before a frame, if they come."""
    parameters = (*unit_.parameters, f"{flags_stream()}& flags", f"{words_stream(slot)}& words")
    loads = [f"  qfx::load(words, {constant.name});" for constant in unit_.constants if constant.loaded]
    body = ("if (flags.read() != 0) {", *loads, "}", *unit_.body)
    return replace(unit_, parameters=parameters, arguments=(*unit_.arguments, load.flags, load.words), body=body)


def unit(process: d.Process, ports: tuple[str, str]) -> Unit:
    """The process as text, as if all of its constants were there; ``ports`` are the names of the top function's streams."""
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
        kept = f", {_tag(storage.sums(process))}" if process.whole_frame else ""
        call = f"qfx::{function}<qfx::pool_{process.join}, {name}_epilogue, {raw(process.acc)}{kept}, {numbers}>(in, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    if isinstance(process, d.Pointwise):
        call = f"qfx::pointwise<{name}_epilogue, {process.pixels}, {process.channels}>(in, out);"
        return _with_epilogue(name, streams, process.epilogue, call)
    return _mover(process, streams)


def _mover(process: d.Rewidth | d.Window | d.Permute | d.PadFrame | d.SliceFrame | d.Repeat | d.Stretch, streams: dict[str, d.Stream]) -> Unit:
    name, source, out = process.name, process.input, process.output
    if isinstance(process, d.Rewidth):
        function, words = ("widen", out.words) if out.parallel > source.parallel else ("narrow", source.words)
        return _plain(name, streams, f"qfx::{function}<{words}, {source.parallel}, {out.parallel}>(in, out);")
    if isinstance(process, d.Window):
        shape = f"qfx::window_shape<{', '.join(map(str, (*process.shape, window_turns(process.shape).turns)))}, {_tag(storage.line(process))}>"
        return _plain(name, streams, f"qfx::window<{shape} >(in, out, {raw(source.type)}({literal(process.padding)}));")
    if isinstance(process, d.Permute):
        read, frame = _nest(process.read), _tag(storage.frame(process))
        if isinstance(process.write, d.Table):
            call = f"qfx::permute_by_table<{source.words}, {read}, {frame} >(in, out, {process.write.name});"
            return replace(_plain(name, streams, call, (table(process.write),)), pragmas=_bound(process.write.name, storage.places(process)))
        return _plain(name, streams, f"qfx::permute<{source.words}, {_nest(process.write)}, {read}, {frame} >(in, out);")
    height, width, channels = process.size
    size = f"{height}, {width}, {channels // out.parallel}"
    if isinstance(process, d.PadFrame):
        places = [f"{y}, {x}, {c // out.parallel}" for y, x, c in (process.result, process.before)]
        return _plain(name, streams, f"qfx::pad<{', '.join([size, *places])}>(in, out);")
    if isinstance(process, d.SliceFrame):
        *plane, (start, stop, step) = process.spans
        taken = (*plane, (start // out.parallel, stop // out.parallel, step))
        return _plain(name, streams, f"qfx::slice<{size}, {', '.join(f'qfx::span<{a}, {b}, {c}>' for a, b, c in taken)} >(in, out);")
    factors = f"{process.factors[0]}, {process.factors[1]}"
    if isinstance(process, d.Repeat):
        return _plain(name, streams, f"qfx::repeat<{size}, {factors}, {_tag(storage.row(process))}>(in, out);")
    return _plain(name, streams, f"qfx::stretch<{size}, {factors}>(in, out);")


def _matvec(process: d.MatVec, streams: dict[str, d.Stream]) -> Unit:
    codes, code_type = arithmetic.rom_contents(process)
    weights, reader = pack_weights(f"{process.name}_weights", codes, code_type, loaded=process.loaded)
    numbers = (process.pixels, process.groups, process.outputs, process.inputs, process.pe, process.simd)
    outputs, inputs = (1, 0) if process.depthwise else (process.outputs // process.pe, process.inputs // process.simd)
    kept = storage.kept(inputs, process.input.type.width, process.simd, outputs)
    types = (reader, raw(process.acc), multiplier(process.arithmetic, process.possible, process.input.type), _tag(kept))
    shape = f"qfx::matvec_shape<{', '.join(map(str, (*numbers, *types)))} >"
    call = f"qfx::{'depthwise' if process.depthwise else 'matvec'}<shape, {process.name}_epilogue>(in, out, {weights.name});"
    unit_ = _with_epilogue(process.name, streams, process.epilogue, call)
    rows, lanes = codes.shape
    bound = _bound(weights.name, storage.weights(rows, lanes, code_type.width, loaded=process.loaded))
    body = (f"typedef {shape} shape;", *unit_.body)
    return replace(unit_, constants=(weights, *unit_.constants), pragmas=(*bound, *unit_.pragmas), body=body)


def multiplier(name: str, weights: d.IntArray, x: FixedType) -> str:
    """The type of multiply.h that builds the arithmetic ``name`` (of schedule.ARITHMETIC) for inputs of type ``x``."""
    if name == "pair":
        pair = arithmetic.pair_form(weights, x)
        return f"qfx::mul_pair<{raw(pair.packed)}, {raw(pair.wide)}, {pair.split}>"
    arguments = []
    if name in ("dsp", "lut"):
        # As wide as the C++ product, so that the multiplication itself is what is bound.
        weight = arithmetic.weight_type(weights)
        arguments = [raw(FixedType(weight.width + x.width, 0, weight.signed or x.signed))]
    elif name == "shift":
        slots = arithmetic.digit_form(weights).slots
        flags = {True: "true", False: "false"}
        digits = [f"qfx::digit<{slot.low}, {slot.span}, {slot.field}, {flags[slot.zero]}, {flags[slot.negative]}>" for slot in slots]
        arguments = [raw(arithmetic.product_type(weights, x)), *digits]
    return f"qfx::mul_{name}" + (f"<{', '.join(arguments)} >" if arguments else "")


def _plain(name: str, streams: dict[str, d.Stream], call: str, constants: tuple[Constant, ...] = ()) -> Unit:
    parameters = tuple(f"{_of(stream_)}& {parameter}" for parameter, stream_ in streams.items())
    return Unit(name, constants, "", parameters, tuple(stream_.name for stream_ in streams.values()), (), (call,))


def _with_epilogue(name: str, streams: dict[str, d.Stream], epilogue: d.Epilogue, call: str) -> Unit:
    tables = [operand.table for step in epilogue.steps for operand in step.operands if operand.table.index != "scalar"]
    plain = _plain(name, streams, call, tuple(map(table, tables)))
    lanes = streams["out"].parallel
    # Every lane of a word reads its own entry in the same cycle.
    pragmas = tuple(f"#pragma HLS ARRAY_PARTITION variable={table_.name} cyclic factor={lanes} dim=1" for table_ in tables if lanes > 1)
    # Any number of reads: the tool may not see that each lane keeps to its own bank.
    bound = [line for table_ in tables for line in _bound(table_.name, storage.table(table_, lanes), "ROM_NP")]
    return replace(plain, epilogue=epilogue_struct(f"{name}_epilogue", epilogue), pragmas=(*pragmas, *bound))


def _nest(loops: tuple[tuple[int, int], ...]) -> str:
    padded = ((1, 0),) * (4 - len(loops)) + loops
    return f"qfx::nest<{', '.join(f'{size}, {stride}' for size, stride in padded)}>"


def _port(slot: int, stream_: d.Stream) -> str:
    return f"hls::stream<qfx::axi_word<{slot * stream_.parallel}> >"


def _of(stream_: d.Stream) -> str:
    return stream(stream_.type, stream_.parallel)
