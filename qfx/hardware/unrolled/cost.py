"""What the scalar operations cost, how long they take, and in which cycle of the pipeline each is carried out.

LUTs follow the formulas of ``qfx.hardware.cost.resources``, delays those of ``qfx.hardware.timing.delays``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from qfx.fixed.type import FixedType, QMode
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Resources
from qfx.hardware.timing.clock import WIDE_UNCERTAINTY
from qfx.hardware.timing.delays import Delays
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Entry, Extreme, Less, Product, Program, Source, Sum, both, read_by
from qfx.hardware.unrolled.ternary import adder_bits, operands, ternary, ternary_bits


def source_type(program: Program, node: Convert) -> FixedType:
    """The type of what a cast reads."""
    come = program.type(node.a)
    return FixedType(come.width, come.width - node.frac_bits, come.signed)


def luts(program: Program, place: int) -> int:
    """The LUTs of a node that is built alone."""
    node = program.nodes[place]
    width = program.type(place).width
    if isinstance(node, Sum):
        return adder_bits(program, place, node)
    if isinstance(node, Product):
        return r.multiplier_luts(program.type(node.a).width, program.type(node.b).width)
    if isinstance(node, Convert):
        return r.cast(source_type(program, node), node.type).lut
    if isinstance(node, Entry):
        blocks = ceil(len(node.entries) / 64)
        return width * blocks + r.multiplexer(blocks, width).lut
    if isinstance(node, Choice):
        return r.multiplexer(2, width).lut
    if isinstance(node, Extreme):
        return ceil(width / 2) if _zero(program, node) and node.greater else r.greater(both(program, node).width).lut
    return 0 if not isinstance(node, Less) or _zero(program, node) else r.comparison(both(program, node).width).lut


def luts_of_all(program: Program, joined: Mapping[int, int]) -> list[int]:
    """The LUTs of each node, where sums take in others (see ``ternary``): those that are taken in have none."""
    found = [luts(program, place) for place in range(len(program.nodes))]
    for place, taken in joined.items():
        found[place], found[taken] = ternary_bits(program, place, taken), 0
    return found


def _zero(program: Program, node: Extreme | Less) -> bool:
    """Whether it compares with 0, which a sign bit tells."""
    return Constant(0) in (program.nodes[node.a], program.nodes[node.b])


def delay(program: Program, place: int, on: Delays, period: float) -> float:
    """How long it takes, in ns; a table is read within a cycle of its own, of ``period``."""
    node = program.nodes[place]
    width = program.type(place).width
    if isinstance(node, Sum):
        bits = adder_bits(program, place, node)
        return on.adder + on.bit * bits if bits else 0.0
    if isinstance(node, Product):
        narrow = min(program.type(node.a).width, program.type(node.b).width)
        return (1 + (ceil(narrow / 2) - 1).bit_length()) * (on.adder + on.bit * width)
    if isinstance(node, Entry):
        return period
    if isinstance(node, Choice):
        return on.logic
    if isinstance(node, Extreme):
        return on.logic if _zero(program, node) and node.greater else on.adder + on.bit * both(program, node).width + on.logic
    if isinstance(node, Less):
        return 0.0 if _zero(program, node) else on.adder + on.bit * both(program, node).width
    if isinstance(node, Convert):
        plain = FixedType(node.type.width, node.type.int_bits, node.type.signed, node.type.q)
        total = luts(program, place)
        rounds = node.type.q is not QMode.TRN and r.cast(source_type(program, node), plain).lut > 0
        bounds = total > 0 and (not rounds or node.type != plain)
        return (on.adder + on.bit * width if rounds else 0.0) + (2 * on.logic if bounds else 0.0)
    return 0.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``stages``: the cycle in which each node is there, 0 for those that need none; ``depth``: the last of them; ``registers``: for how many
    cycles each node's bits are kept; ``joined``: which sum takes in which (``ternary``); ``longest_ns``: what the longest sum takes, which is not
    cut."""

    stages: tuple[int, ...]
    depth: int
    registers: tuple[int, ...]
    joined: Mapping[int, int] = field(default_factory=dict)
    longest_ns: float = 0.0


def pipeline(program: Program, on: Delays, clock_ns: float) -> Pipeline:
    """Every operation as soon as what it reads is there, one behind the other in a cycle while the period lasts, as the tools do. A sum of three
    takes a level of LUTs more than one of two. The numbers that come in are there from cycle 1 on, and those that leave are kept to the end."""
    period = clock_ns * (1 - WIDE_UNCERTAINTY)
    joined = ternary(program)
    inner = set(joined.values())
    stages: list[int] = []
    ends: list[float] = []
    longest = 0.0
    reads = [read_by(node) for node in program.nodes]
    for place, node in enumerate(program.nodes):
        if place in inner:  # it is made where it is taken in
            stages.append(0)
            ends.append(0.0)
            continue
        needs = delay(program, place, on, period)
        if place in joined:
            reads[place], reads[joined[place]] = tuple(part.node for part in operands(program, place, joined[place])), ()
            bits = ternary_bits(program, place, joined[place])
            needs = on.adder + on.logic + on.bit * bits if bits else 0.0
        longest = max(longest, needs if isinstance(node, Sum) else 0.0)
        stage = max((stages[source] for source in reads[place]), default=0 if isinstance(node, Constant) else 1)
        start = max((ends[source] for source in reads[place] if stages[source] == stage), default=0.0)
        if isinstance(node, Source):
            start = 0.0
        if needs and start + needs > period + 1e-9:
            stage, start = stage + (start > 0), 0.0
        whole = max(ceil(needs / period - 1e-9), 1) - 1  # a long one takes cycles of its own
        stages.append(stage + whole)
        ends.append(period if whole else start + needs)
    for place, taken in joined.items():
        stages[taken] = stages[place]
    depth = max(stages, default=0)
    last = list(stages)
    for place in range(len(program.nodes)):
        for source in reads[place]:
            last[source] = max(last[source], stages[place])
    for result in (result for port in program.outputs for result in port):
        last[result.node] = depth + 1
    kept = [0 if isinstance(node, Constant) else last[place] - stages[place] for place, node in enumerate(program.nodes)]
    return Pipeline(tuple(stages), depth, tuple(kept), joined, longest)


def resources(program: Program, made: Pipeline) -> dict[str, Resources]:
    """LUTs and flip-flops of every layer, in order."""
    found: dict[str, Resources] = {}
    lut = luts_of_all(program, made.joined)
    for place, layer in enumerate(program.layers):
        if not isinstance(program.nodes[place], Constant):
            ff = program.type(place).width * (made.registers[place] + isinstance(program.nodes[place], Source))
            found[layer] = found.get(layer, Resources()) + Resources(lut=lut[place], ff=ff)
    return found
