"""A scalar program as C++: one pipelined top function that calls the layers, which are inlined. Text only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qfx.fixed.packing import Port
from qfx.fixed.type import FixedType
from qfx.hardware.design.design import Design
from qfx.hardware.design.names import Names
from qfx.hardware.emit import spelling
from qfx.hardware.emit.templates import render
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Entry, Extreme, Less, Node, Product, Program, Source, Sum, both, read_by

_MOST = 300
"""Operations of one function: compilers take longer for each the more there are."""


@dataclass(frozen=True, slots=True)
class Part:
    """A function: some operations of one layer. ``declarations`` are those of what it computes, in the top function."""

    name: str
    comment: str
    parameters: str
    arguments: str
    declarations: tuple[str, ...]
    body: tuple[str, ...]


def sources(program: Program, design: Design, top: str, interval: int) -> dict[str, str]:
    """The synthesized sources by relative path; ``design`` has the ports alone."""
    parts = list(_parts(program))
    values = {
        "design": design,
        "top": top,
        "guard": top.upper(),
        "interval": interval,
        "parts": parts,
        "reads": list(_reads(program, design)),
        "writes": list(_writes(program, design)),
        "parameters": _parameters(design, top),
    }
    return {
        f"src/{top}.cpp": render("unrolled_top.cpp.j2", values),
        f"src/{top}.h": render("top.h.j2", values),
        "src/layers.h": render("unrolled_layers.h.j2", values),
    }


def _parameters(design: Design, top: str) -> str:
    names = design.wire_names if design.several else ("input", "output")
    streams = [f"hls::stream<{top}_ports::{kind}::word>& {name}" for kind, name in zip(names, design.wire_names, strict=True)]
    return (",\n" + " " * (len(top) + 6)).join(streams) if design.several else ", ".join(streams)


def _reads(program: Program, design: Design) -> Iterator[str]:
    """The words of all inputs, and the numbers in them."""
    used: dict[int, list[int]] = {}
    for place, node in enumerate(program.nodes):
        if isinstance(node, Source):
            used.setdefault(node.port, []).append(place)
    for number, (name, port) in enumerate(design.sources):
        for word in range(port.words):
            yield f"const qfx::axi_word<{port.word_bits}> {name}_{word} = {name}.read();"
        for place in used.get(number, []):
            node = program.nodes[place]
            assert isinstance(node, Source)
            word, lane = divmod(_travels(port, node.place), port.parallel)
            raw = spelling.raw(program.type(place))
            call = f"qfx::from_word<{raw}, {port.slot}, {lane}, {node.down}>(ap_uint<{port.word_bits}>({name}_{word}.data))"
            yield f"const {raw} v{place} = {call};"


def _writes(program: Program, design: Design) -> Iterator[str]:
    first, source = design.sources[0]
    for results, (name, port) in zip(program.outputs, design.sinks, strict=True):
        for word in range(port.words):
            yield f"ap_uint<{port.word_bits}> {name}_{word} = 0;"
        for place, result in enumerate(results):
            word, lane = divmod(_travels(port, place), port.parallel)
            value = _operand(program, result.node)
            yield f"qfx::into_word<{spelling.raw(port.type)}, {port.slot}, {lane}, {result.up}>({name}_{word}, {value});"
        for word in range(port.words):
            last = f"{first}_{source.words - 1}.last != 0" if word == port.words - 1 else "false"
            yield f"{name}.write(qfx::axi<{port.word_bits}>({name}_{word}, {last}));"


def _travels(port: Port, place: int) -> int:
    """Where a number travels in a frame: pixel by pixel, channels innermost."""
    channel, pixel = divmod(place, port.pixels)
    return pixel * port.channels + channel


def _parts(program: Program) -> Iterator[Part]:
    """The operations in order, cut where the layer changes and after so many."""
    groups: list[list[int]] = []
    for place, node in enumerate(program.nodes):
        if isinstance(node, Source | Constant):
            continue
        if not groups or program.layers[groups[-1][0]] != program.layers[place] or len(groups[-1]) == _MOST:
            groups.append([])
        groups[-1].append(place)
    part_of = {place: number for number, group in enumerate(groups) for place in group}
    leaves = {result.node for port in program.outputs for result in port}
    for number, group in enumerate(groups):
        for source in (source for place in group for source in read_by(program.nodes[place])):
            if part_of.get(source) != number:
                leaves.add(source)
    names = Names()
    for number, group in enumerate(groups):
        reads = {source for place in group for source in read_by(program.nodes[place]) if part_of.get(source) != number}
        into = sorted(place for place in reads if not isinstance(program.nodes[place], Constant))
        out = [place for place in group if place in leaves]
        typed = {place: spelling.raw(program.type(place)) for place in (*into, *group)}
        body = [line for place in group for line in _lines(program, place, typed[place], place in leaves)]
        yield Part(
            names.new(program.layers[group[0]], "part"),
            f"{program.layers[group[0]]}: {len(group)} operations.",
            ", ".join([*(f"const {typed[place]}& v{place}" for place in into), *(f"{typed[place]}& v{place}" for place in out)]),
            ", ".join(f"v{place}" for place in (*into, *out)),
            tuple(f"{typed[place]} v{place};" for place in out),
            tuple(body),
        )


def _lines(program: Program, place: int, raw: str, leaves: bool) -> Iterator[str]:
    node = program.nodes[place]
    if isinstance(node, Entry):
        yield f"static const {spelling.native(node.entries)} t{place}[{len(node.entries)}] = {{{', '.join(map(spelling.literal, node.entries))}}};"
        yield f"QFX_BIND(t{place}, ROM_1P, LUTRAM)"
    yield f"{'' if leaves else f'const {raw} '}v{place} = {_expression(program, place, node, raw)};"


def _operand(program: Program, place: int) -> str:
    node = program.nodes[place]
    if isinstance(node, Constant):
        return f"{spelling.raw(program.type(place))}({spelling.literal(node.raw)})"
    return f"v{place}"


def _expression(program: Program, place: int, node: Node, raw: str) -> str:
    if isinstance(node, Convert):
        come = program.type(node.a)
        source = FixedType(come.width, come.width - node.frac_bits, come.signed)
        return f"qfx::cast<{spelling.tag(source)}, {spelling.tag(node.type)} >({_operand(program, node.a)})"
    if isinstance(node, Entry):
        return f"qfx::lookup<{raw}, {node.first}>({_operand(program, node.a)}, t{place})"
    assert isinstance(node, Sum | Product | Extreme | Less | Choice)
    a, b = _operand(program, node.a), _operand(program, node.b)
    if isinstance(node, Product):
        return f"{spelling.product('lut', program.type(node.a), program.type(node.b))}::times<{raw} >({a}, {b})"
    if isinstance(node, Sum):
        return f"qfx::{'sub' if node.minus else 'add'}<{raw}, {node.up_a}, {node.up_b}>({a}, {b})"
    if isinstance(node, Choice):
        return f"qfx::choose<{raw}, {node.up_a}, {node.up_b}>({_operand(program, node.condition)}, {a}, {b})"
    wide = spelling.raw(both(program, node))
    if isinstance(node, Less):
        return f"qfx::less<{wide}, {node.up_a}, {node.up_b}>({a}, {b})"
    for zero, other, up in ((node.a, b, node.up_b), (node.b, a, node.up_a)):
        if node.greater and program.nodes[zero] == Constant(0):
            return f"qfx::relu<{raw}, {up}>({other})"
    return f"{raw}(qfx::{'greater' if node.greater else 'lesser'}<{wide}, {node.up_a}, {node.up_b}>({a}, {b}))"
