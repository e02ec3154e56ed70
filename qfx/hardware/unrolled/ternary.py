"""Ternary adders: two sums one behind the other become one carry chain over three numbers.

A LUT of six inputs with two outputs adds three bits to the carry of its chain and hands their own carry to the next LUT, so that a sum of three
numbers takes one LUT for each bit, as one of two does (Simkins and Young, US patent 7,274,211). Tools make it of a sum that one other sum reads
alone; reports of Vitis HLS call that "grouped into TernaryAdder".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qfx.hardware.unrolled.program import Program, Sum, read_by


@dataclass(frozen=True, slots=True)
class Operand:
    """node << up, or its negative."""

    node: int
    up: int
    negative: bool


def adder_bits(program: Program, place: int, node: Sum) -> int:
    """The bits of the result that an adder has to make: lower ones are those of one operand alone, and a sum of two that do not overlap is none, nor
    is one of which a cast that wraps leaves those lower bits at most."""
    width, a, b = program.type(place).width, program.type(node.a), program.type(node.b)
    if node.up_a:
        if node.minus:
            return width
        return 0 if not b.signed and b.width <= node.up_a else max(width - node.up_a, 0)
    return 0 if not node.minus and not a.signed and a.width <= node.up_b else max(width - node.up_b, 0)


def operands(program: Program, place: int, taken: int) -> tuple[Operand, Operand, Operand]:
    """The three numbers of the sum ``place`` that takes in the sum ``taken``, the lowest first."""
    outer, inner = program.nodes[place], program.nodes[taken]
    assert isinstance(outer, Sum)
    assert isinstance(inner, Sum)
    first = outer.a == taken
    up, negative = (outer.up_a, False) if first else (outer.up_b, outer.minus)
    other = Operand(outer.b, outer.up_b, outer.minus) if first else Operand(outer.a, outer.up_a, False)
    own = (Operand(inner.a, inner.up_a + up, negative), Operand(inner.b, inner.up_b + up, negative != inner.minus))
    low, middle, high = sorted((other, *own), key=lambda operand: (operand.up, operand.negative))
    return low, middle, high


def free_bits(parts: Sequence[Operand]) -> int:
    """The lowest bits of the sum of three that are those of one of them alone."""
    return 0 if parts[0].negative else parts[1].up


def ternary_bits(program: Program, place: int, taken: int) -> int:
    """The bits that the ternary adder has to make; none where a cast that wraps leaves the lowest number alone."""
    return max(program.type(place).width - free_bits(operands(program, place, taken)), 0)


def ternary(program: Program) -> dict[int, int]:
    """Which sum takes in which: so that the fewest bits of adders are left, each at most one that nothing else reads, and none that has taken in
    another itself."""
    readers = Counter(source for node in program.nodes for source in read_by(node))
    readers.update(result.node for port in program.outputs for result in port)
    sums = {place: bits for place, node in enumerate(program.nodes) if isinstance(node, Sum) and (bits := adder_bits(program, place, node))}
    alone: dict[int, int] = {}  # the most bits saved in the tree below a sum that takes in none
    best: dict[int, tuple[int, int | None]] = {}  # the most bits saved, and what it takes in for that
    below: dict[int, list[int]] = {}
    for place, bits in sums.items():
        below[place] = near = [source for source in read_by(program.nodes[place]) if source in sums and readers[source] == 1]
        alone[place] = sum(best[source][0] for source in near)
        best[place] = alone[place], None
        for source in near:
            saved = alone[place] - best[source][0] + alone[source] + bits + sums[source] - ternary_bits(program, place, source)
            if saved > best[place][0]:
                best[place] = saved, source
    found: dict[int, int] = {}
    inner = {source for near in below.values() for source in near}
    waiting = [(place, True) for place in sums if place not in inner]
    while waiting:
        place, may = waiting.pop()
        taken = best[place][1] if may else None
        if taken is not None:
            found[place] = taken
        waiting += [(other, other != taken) for other in below[place]]
    return found
