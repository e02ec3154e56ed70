"""The nodes of a scalar program as Verilog expressions (IEEE 1364-2001). Text only.

A node's wire has exactly the bits of ``Program.type``. Where it is read it is signed, an unsigned one with a 0 in front, so that Verilog carries out
every operation at the width of its result, with the sign of each operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qfx.errors import UnsupportedError
from qfx.hardware.rtl import casts
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Entry, Extreme, Less, Node, Product, Program, Source, Sum, both, type_of
from qfx.hardware.unrolled.ternary import Operand, free_bits, operands

Where = Callable[[int], str]
"""What the wire of a node is called where it is read."""


def check(program: Program) -> None:
    """Raises UnsupportedError, naming the layer, for a node that has no Verilog here."""
    for node, layer in zip(program.nodes, program.layers, strict=True):
        if not isinstance(node, Source | Constant | Sum | Product | Extreme | Less | Choice | Convert | Entry):
            raise UnsupportedError(f"{type(node).__name__} has no Verilog", where=layer, remedy="use qfx hls")


def declared(program: Program, place: int, name: str, kind: str = "wire") -> str:
    """The declaration of a wire or a register that holds the node, without what it is."""
    own = program.type(place)
    sign = " signed" if own.signed else ""
    return f"{kind}{sign} [{own.width - 1}:0] {name}"


def lines(program: Program, place: int, where: Where, taken: int | None = None) -> Iterator[str]:
    """The wire ``v<place>`` of a node that computes something, and what it needs; ``taken``: the sum that it takes in."""
    node, name = program.nodes[place], f"v{place}"

    def operand(source: int, up: int = 0) -> str:
        text = _operand(program, source, where)
        return f"({text} <<< {up})" if up else text

    if taken is not None:
        yield from _ternary(program, place, operands(program, place, taken), where)
    elif isinstance(node, Entry):
        yield from _table(program, place, node, where(node.a))
    elif isinstance(node, Convert):
        yield from _convert(program, place, node, operand(node.a))
    elif isinstance(node, Extreme | Less) and not _with_zero(program, node):
        wide = both(program, node)
        room = wide.width + (not wide.signed)
        sides = (operand(node.a, node.up_a), operand(node.b, node.up_b))
        yield from (f"wire signed [{room - 1}:0] {name}_{side} = {text};" for side, text in zip("ab", sides, strict=True))
        sign = "<" if isinstance(node, Less) or not node.greater else ">"
        compared = f"{name}_a {sign} {name}_b"
        yield f"{declared(program, place, name)} = {compared if isinstance(node, Less) else f'{compared} ? {name}_a : {name}_b'};"
    else:
        yield f"{declared(program, place, name)} = {_expression(program, node, operand)};"


def _expression(program: Program, node: Node, operand: Callable[..., str]) -> str:
    if isinstance(node, Product):
        return f"{operand(node.a)} * {operand(node.b)}"
    if isinstance(node, Choice):
        return f"{operand(node.condition)} != 0 ? {operand(node.a, node.up_a)} : {operand(node.b, node.up_b)}"
    assert isinstance(node, Sum | Extreme | Less)
    a, b = operand(node.a, node.up_a), operand(node.b, node.up_b)
    if isinstance(node, Sum):
        return f"{a} {'-' if node.minus else '+'} {b}"
    second = program.nodes[node.a] == Constant(0)  # with 0: a sign tells, whatever the shift
    plain, value = (operand(node.b), b) if second else (operand(node.a), a)
    if isinstance(node, Less):
        return f"{plain} {'>' if second else '<'} 0"
    return f"{plain} {'<' if node.greater else '>'} 0 ? 0 : {value}"


def _ternary(program: Program, place: int, parts: tuple[Operand, Operand, Operand], where: Where) -> Iterator[str]:
    """A sum of three in the form that maps to one LUT a bit: what three bits leave and what they carry, in one carry chain. -x is ~x and a one more,
    which comes in at the low end, where nothing is carried to; a second one as the carry of a bit below it."""
    name, low, width = f"v{place}", free_bits(parts), program.type(place).width
    room = width - low
    if room <= 0:
        yield f"{declared(program, place, name)} = {_operand(program, parts[0].node, where)};"
        return
    for side, part in zip("abc", parts, strict=True):
        text, up = _operand(program, part.node, where), part.up - low
        moved = f"({text} {'<<<' if up > 0 else '>>>'} {abs(up)})" if up else text
        yield f"wire signed [{room - 1}:0] {name}_{side} = {'~' if part.negative else ''}{moved};"
    a, b, c = (f"{name}_{side}" for side in "abc")
    ones = sum(part.negative for part in parts)
    yield f"wire [{room - 1}:0] {name}_x = {a} ^ {b} ^ {c};"
    yield f"wire [{room}:0] {name}_m = {{({a} & {b}) | ({a} & {c}) | ({b} & {c}), 1'b{min(ones, 1)}}};"
    if ones < 2:
        yield f"wire [{room - 1}:0] {name}_y = {name}_x + {name}_m[{room - 1}:0];"
        total = f"{name}_y"
    else:
        yield f"wire [{room}:0] {name}_y = {{{name}_x, 1'b1}} + {{{name}_m[{room - 1}:0], 1'b1}};"
        total = f"{name}_y[{room}:1]"
    if low:
        yield f"wire signed [{width - 1}:0] {name}_l = {_operand(program, parts[0].node, where)};"
        total = f"{{{total}, {name}_l[{low - 1}:0]}}"
    yield f"{declared(program, place, name)} = {total};"


def _with_zero(program: Program, node: Extreme | Less) -> bool:
    return Constant(0) in (program.nodes[node.a], program.nodes[node.b])


def _operand(program: Program, source: int, where: Where) -> str:
    node = program.nodes[source]
    if isinstance(node, Constant):
        width = type_of((node.raw, node.raw)).width + 1
        return f"{'-' if node.raw < 0 else ''}{width}'sd{abs(node.raw)}"
    return where(source) if program.type(source).signed else f"$signed({{1'b0, {where(source)}}})"


def _convert(program: Program, place: int, node: Convert, operand: str) -> Iterator[str]:
    come = program.type(node.a)
    known = program.needs[node.a] is None or come == type_of(program.bounds[node.a])
    bounds = program.bounds[node.a] if known else None
    yield from casts.lines(f"v{place}", operand, come.width + (not come.signed), node.frac_bits - node.type.frac_bits, bounds, node.type)
    yield f"{declared(program, place, f'v{place}')} = v{place}_y;"


def _table(program: Program, place: int, node: Entry, index: str) -> Iterator[str]:
    """Entries that no index comes to are left out."""
    come, own = program.type(node.a), program.type(place)
    low, high = program.bounds[node.a]
    yield f'(* rom_style = "distributed" *) {declared(program, place, f"v{place}", "reg")};'
    yield f"always @* case ({index})"
    for at in range(max(low, node.first), min(high, node.first + len(node.entries) - 1) + 1):
        raw = node.entries[at - node.first] % (1 << own.width)
        yield f"  {come.width}'d{at % (1 << come.width)}: v{place} = {own.width}'d{raw};"
    yield f"  default: v{place} = {own.width}'d0;"
    yield "endcase"
