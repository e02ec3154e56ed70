"""C++ spellings of types, constants, epilogues and calls: the words in which every process kind says what it is. Text only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic, dsp, storage
from qfx.hardware.design.storage import Memory, Storage
from qfx.hardware.design.streams import Epilogue, IntArray, Operand, Slot, Step, Stream, Table, Tag

_WRAP = 140  # columns of an initializer


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant array: ``static const <type> <name><dims> = {<body>};``, behind a line of ``comment`` if there is one.

    ``loaded``: it is not constant but loaded while the hardware runs, and has no body. ``elements``: of a ROM the rows (rows, elements) of unsigned
    integers of ``bits`` bits, whose ``body`` is only written where it is asked for: millions of numbers are better kept in a file.
    """

    name: str
    type: str
    dims: str
    written: str = ""
    comment: str = ""
    loaded: bool = False
    elements: npt.NDArray[np.uint64] | None = field(default=None, compare=False, repr=False)
    bits: int = 0

    @property
    def body(self) -> str:
        """The initializer, without its braces."""
        if self.elements is None:
            return self.written
        suffix = "ULL" if self.bits > 32 else "U"
        return initializer(["{" + ", ".join(f"0x{element:x}{suffix}" for element in row) + "}" for row in self.elements.tolist()])

    @property
    def data(self) -> bytes:
        """The elements of a ROM as they lie in the memory of a little-endian processor, each in the smallest native integer (qfx/rom.h); none of what
        is no ROM."""
        if self.elements is None:
            return b""
        size = next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)
        return self.elements.astype(f"<u{size}").tobytes()


@dataclass(frozen=True, slots=True)
class Unit:
    """A process as the templates lay it out. ``parameters`` and ``arguments`` are those of its function, in order; ``pragmas`` are lines that stand
    before its ``body``. ``inner`` are functions that it calls, which stand before it."""

    name: str
    constants: tuple[Constant, ...]
    epilogue: str
    parameters: tuple[str, ...]
    arguments: tuple[str, ...]
    pragmas: tuple[str, ...]
    body: tuple[str, ...]
    inner: tuple[Unit, ...] = ()


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
    """The smallest native integer that holds the values; of 64 bits the signed one, which compares with others as it should."""
    held = list(values)
    low, high = min(held), max(held)
    for bits in (8, 16, 32, 64):
        signed = low < 0 or (bits == 64 and high < 1 << 63)
        if not signed and high < 1 << bits:
            return f"uint{bits}_t"
        if signed and -(1 << (bits - 1)) <= low and high < 1 << (bits - 1):
            return f"int{bits}_t"
    raise OverflowError(f"{low}..{high} fits no native integer")


def stream(type_: FixedType, parallel: int) -> str:
    return f"hls::stream<qfx::vec<{raw(type_)}, {parallel}> >"


def queue(name: str, depth: int, width: int, asked: str = "auto") -> str:
    """The binding of the stream ``name`` of words of ``width`` bits."""
    return f"QFX_BIND({name}, FIFO, {storage.fifo(depth, width, asked).value})"


def bound(name: str, memory: Memory, constant: str = "ROM_1P") -> tuple[str, ...]:
    """The binding of an array that the layer's function can see; none for one that is no memory."""
    where = memory.storage
    return () if where is Storage.REGISTERS else (f"  QFX_BIND({name}, {constant if memory.constant else 'RAM_S2P'}, {where.value})",)


def rows(name: str, memory: Memory) -> tuple[str, ...]:
    """What makes the elements of a row of ``name`` be read at once, for the row is one word or each element has a memory, and the binding."""
    kind = "RESHAPE" if memory.constant and memory.count == 1 and memory.storage is not Storage.REGISTERS else "PARTITION"
    return f"#pragma HLS ARRAY_{kind} variable={name} complete dim=2", *bound(name, memory)


def words(name: str, type_: str, parallel: int, memory: Memory) -> tuple[str, ...]:
    """The declaration of the array ``name`` in a layer's function: words of ``parallel`` numbers that come and go together, and the binding. One word
    where the memory has none."""
    declared = f"qfx::memory_word<{type_}, {parallel}>::type {name}[{max(memory.depth, 1)}];"
    return declared, *(line.strip() for line in bound(name, memory))


def lanes(name: str, type_: str, depth: int, count: int, memory: Memory) -> tuple[str, ...]:
    """The declaration of the array ``name`` in a layer's function: ``depth`` words of ``count`` numbers, each with a memory of its own, and the
    binding."""
    pragma = f"#pragma HLS ARRAY_PARTITION variable={name} complete dim=2"
    return f"{type_} {name}[{depth}][{count}];", pragma, *(line.strip() for line in bound(name, memory))


def table(values: Table) -> Constant:
    if values.loaded is not None:
        type_ = f"qfx::loaded<{native((values.loaded.min_raw, values.loaded.max_raw))}>::type"
        return Constant(values.name, type_, f"[{len(values.values)}]", "", loaded=True)
    items = initializer([literal(value) for value in values.values])
    if values.index == "number":
        width = storage.table(values, 1).width
        comment = f"{len(values.values) * width} bits: {len(values.values)} numbers of {width} bits, of which each lane reads one."
        signed = "true" if min(values.values) < 0 else "false"
        return Constant(values.name, f"qfx::rom_number<{signed}, {width}>::type", f"[{len(values.values)}]", items, comment)
    return Constant(values.name, native(values.values), f"[{len(values.values)}]", items)


def initializer(items: list[str]) -> str:
    """Comma-separated items, wrapped."""
    lines, line = [], ""
    for item in items:
        if line and len(line) + len(item) > _WRAP:
            lines.append(line.rstrip())
            line = ""
        line += f"{item}, "
    return "\n    ".join([*lines, line.rstrip(", ")])


def pack_weights(name: str, weights: IntArray, type_: FixedType, *, loaded: bool = False) -> tuple[Constant, str]:
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
    packed = arithmetic.packed_rows(weights, type_)
    return Constant(name, f"qfx::rom<{bits}>::type", f"[{count}][{elements}]", "", comment, elements=packed, bits=bits), reader


def accumulator(epilogue: Epilogue, more: int = 0) -> str:
    """The raw type that comes, of one that reads an accumulator; of one of so many ``more`` bits."""
    (come,) = epilogue.inputs
    own = raw(replace(come, width=come.width + more))
    return own if epilogue.counted is None else f"qfx::wrapping<{own}, {raw(epilogue.counted)} >::raw"


def epilogue_struct(name: str, epilogue: Epilogue) -> str:
    """The struct that a process template calls for every number that leaves."""
    names = ["a", "b"] if len(epilogue.inputs) == 2 else ["x0"]
    indices = {operand.table.index for step in epilogue.steps for operand in step.operands}
    pixel = "pixel" if indices & {"element", "pixel"} else "/*pixel*/"
    channel = "channel" if indices & {"channel", "element"} else "/*channel*/"
    come = [accumulator(epilogue)] if epilogue.counted is not None else [raw(type_) for type_ in epilogue.inputs]
    parameters = [f"const {type_}& {x}" for type_, x in zip(come, names, strict=True)]
    if epilogue.beside is not None:
        parameters.append(f"const {raw(epilogue.beside)}& beside")
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
        numbers = [current] if step.beside < 0 else ["beside", current] if step.beside == 0 else [current, "beside"]
        operands = ", ".join([*numbers, *(_operand(operand, epilogue.channels) for operand in step.operands)])
        lines.append(f"    const {raw(step.out)} x{i} = qfx::{step.function}<{arguments}>({operands});")
        current = f"x{i}"
    return "\n".join([*lines, f"    return {current};", "  }", "};"])


def counted_without(epilogue: str, cropped: tuple[int, ...]) -> str:
    """The struct, which does nothing in simulations that count for the numbers that qfx::cropped of these arguments says are left out."""
    first = "#pragma HLS INLINE\n"
    test = f"    if (qfx::cropped<{', '.join(map(str, cropped))}>(pixel, channel)) return out(0);\n"
    unused = "    static_cast<void>(pixel);\n    static_cast<void>(channel);\n"
    named = epilogue.replace("/*pixel*/", "pixel").replace("/*channel*/", "channel")
    return named.replace(first, f"{first}#ifdef QFX_REPORT\n{test}#else\n{unused}#endif\n", 1)


def _arguments(step: Step) -> Iterable[str]:
    if step.function != "cast":  # whose Dst says the result
        yield raw(step.out)
    for argument in step.arguments:
        if isinstance(argument, Slot):
            yield digit(argument)
        else:
            yield tag(argument.type) if isinstance(argument, Tag) else raw(argument) if isinstance(argument, FixedType) else str(argument)


def _operand(operand: Operand, channels: int) -> str:
    table_ = operand.table
    if table_.index == "scalar":
        text = literal(table_.values[0])
    elif table_.index == "number":
        text = table_.name
    else:
        text = f"{table_.name}[{_place(table_, channels)}]"
    return f"{raw(operand.type)}({text})" if operand.type is not None else text


def _place(table_: Table, channels: int) -> str:
    """Which entry is read."""
    if table_.index != "pixel":
        return "channel" if table_.index == "channel" else f"pixel * {channels} + channel"
    bits = (table_.pixels - 1).bit_length()
    if table_.repeats:
        return f"qfx::line_again<{bits}, {table_.inner}, {len(table_.values)}>(pixel)"
    return "pixel" if table_.inner == 1 else f"qfx::line_of<{bits}, {table_.inner}>(pixel)"


def multiplier(name: str, weights: IntArray, x: FixedType, lanes: int, pixels: int = 1) -> str:
    """The type of multiply.h that builds the arithmetic ``name`` (of schedule.ARITHMETIC) for inputs of type ``x``, of which ``lanes`` are summed,
    for so many ``pixels`` at once."""
    weight = arithmetic.weight_type(weights)
    if dsp.packs(name):
        between, packed, shared = dsp.roles(name, arithmetic.bounds(weights), weight, x, pixels)
        form = dsp.packing(name, between, shared, lanes)
        assert form is not None, "arithmetic.check refuses what cannot be packed"
        below = packed.width - packed.signed
        if form.numbers is not None:
            words = ", ".join(map(str, (*dsp.sides(name), form.chain, form.split, form.known, below, x.width - x.signed)))
            return f"qfx::mul_grid<{words}, {', '.join(map(raw, (form.packed, form.numbers, form.wide)))} >"
        numbers = (form.count, form.chain, form.split, form.known, below)
        return f"qfx::mul_packed<{', '.join(map(str, numbers))}, {raw(form.packed)}, {raw(form.wide)} >"
    if name == "shift":
        return f"qfx::mul_shift<{', '.join([raw(arithmetic.product_type(weights, x)), *map(digit, arithmetic.digit_form(weights).slots)])} >"
    return product(name, weight, x, lanes)


def digit(slot: Slot) -> str:
    """The type of multiply.h that says where a digit of a constant lies."""
    flags = {True: "true", False: "false"}
    return f"qfx::digit<{slot.low}, {slot.span}, {slot.field}, {flags[slot.zero]}, {flags[slot.negative]}>"


def product(name: str, weight: FixedType, x: FixedType, lanes: int = 1) -> str:
    """The type of multiply.h that builds the arithmetic ``name`` ("auto", "dsp" or "lut") for two numbers of these types; ``lanes`` products are
    summed."""
    if name == "auto":
        return "qfx::mul_auto"
    # As wide as the C++ product, so that the multiplication itself is what is bound.
    length = dsp.chain(weight, x, lanes) if name == "dsp" else 1
    return f"qfx::mul_{name}<{raw(FixedType(weight.width + x.width, 0, weight.signed or x.signed))}{f', {length}' if length > 1 else ''} >"


def chains(name: str, lanes: int) -> tuple[str, ...]:
    """The pragmas of a layer's function that keep the tools from making trees of the chains in which DSP blocks sum (multiply.h)."""
    return ("#pragma HLS EXPRESSION_BALANCE off",) if dsp.sums(name) and lanes > 1 else ()


def plain(name: str, streams: dict[str, Stream], call: str, constants: tuple[Constant, ...] = ()) -> Unit:
    parameters = tuple(f"{words_of(stream_)}& {parameter}" for parameter, stream_ in streams.items())
    return Unit(name, constants, "", parameters, tuple(stream_.name for stream_ in streams.values()), (), (call,))


def with_epilogue(name: str, streams: dict[str, Stream], epilogue: Epilogue, call: str, lanes: int = 0) -> Unit:
    """``lanes``: the channels that leave at once, if there are other numbers in a word of ``out``."""
    tables = epilogue.tables
    unit = plain(name, streams, call, tuple(map(table, tables)))
    lanes = lanes or streams["out"].parallel
    # Every lane of a word reads its own entry in the same cycle.
    shared = [table_ for table_ in tables if table_.index not in ("number", "pixel") and lanes > 1]
    pragmas = tuple(f"#pragma HLS ARRAY_PARTITION variable={table_.name} cyclic factor={lanes} dim=1" for table_ in shared)
    # Any number of reads: the tool may not see that each lane keeps to its own bank.
    bindings = [line for table_ in tables for line in bound(table_.name, storage.table(table_, lanes), "ROM_NP")]
    return replace(unit, epilogue=epilogue_struct(f"{name}_epilogue", epilogue), pragmas=(*pragmas, *bindings))


def port(slot: int, stream_: Stream) -> str:
    return axi(slot * stream_.parallel)


def axi(bits: int) -> str:
    """An AXI4-Stream with words of so many bits."""
    return f"hls::stream<qfx::axi_word<{bits}> >"


def words_of(stream_: Stream) -> str:
    return stream(stream_.type, stream_.parallel)
