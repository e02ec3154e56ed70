"""Widths that are proven: ranges of operations by brute force, of machines turn by turn, and what becomes of counters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from hardware_models import DIRECTED
from rtl_models import arithmetics
from schedule_models import BRANCHED
from support.rtl import evaluate
from support.rtl.machines import machines
from test_rtl_streaming import network

from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.machine import as_written
from qfx.hardware.rtl.machines.narrow import narrow
from qfx.hardware.rtl.machines.netlist import Builder, Machine, Node, Piece, Port, Register, Update
from qfx.hardware.rtl.machines.ranges import Range, passing, ranges, result
from qfx.ir.graph import Graph

WIDTH = 4
PREDICATES = ("eq", "ne", *(f"{sign}{sense}" for sign in "us" for sense in ("lt", "le", "gt", "ge")))


def members(found: Range | None) -> set[int]:
    return set() if found is None else {(found.first + step) % (1 << found.width) for step in range(found.steps + 1)}


def carried_out(op: str, width: int, args: tuple[int, ...], *, value: int = 0, name: str = "") -> int | None:
    given = [Node("const", WIDTH, (), arg) for arg in args]
    found = evaluate.value(Node(op, width, (), value, name), given, list(args))
    return None if found is None else found % (1 << width)


def pairs(count: int) -> Iterator[tuple[Range, Range]]:
    drawn = random.Random(0)
    every = [Range.of(first, first + steps, WIDTH) for first in range(16) for steps in range(16)]
    return ((drawn.choice(every), drawn.choice(every)) for _ in range(count))


def test_ranges_hold_what_operations_give() -> None:
    for a, b in pairs(60):
        own, other = members(a), members(b)
        assert own | other <= members(a.joined(b))
        assert own & other <= members(a.shared(b))
        assert a.holds(b) == (other <= own)
        for op in ("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "udiv", "urem"):
            got = members(result(Node(op, WIDTH, (0, 1)), [a, b]))
            assert {carried_out(op, WIDTH, (x, y)) for x in own for y in other} - {None} <= got, (op, a, b)
        for op, width, value in (("zext", 6, 0), ("sext", 6, 0), ("slice", 3, 0), ("slice", 2, 1), ("not", 4, 0)):
            got = members(result(Node(op, width, (0,), value), [a]))
            assert {carried_out(op, width, (x,), value=value) for x in own} <= got, (op, a)
        for name in PREDICATES:
            holding = {x for x in own if any(carried_out("icmp", 1, (x, y), name=name) for y in other)}
            assert holding <= members(passing(a, b, name)), (name, a, b)
            assert {carried_out("icmp", 1, (x, y), name=name) for x in own for y in other} <= members(
                result(Node("icmp", 1, (0, 1), 0, name), [a, b])
            )


def outside(machine: Machine, found: tuple[Range | None, ...], count: int) -> list[int]:
    """The nodes that are ever out of their range."""
    drawn = random.Random(1)
    wrong = set()
    for values in islice(evaluate.turns(machine, lambda _: drawn.getrandbits(4096)), count):
        for place, value in enumerate(values):
            own = found[place]
            if value is not None and (own is None or (value - own.first) % (1 << own.width) > own.steps):
                wrong.add(place)
    return sorted(wrong)


def sent(machine: Machine, count: int) -> list[object]:
    """What a machine does in each turn: words that come, words that go, the end of the frame."""
    drawn = random.Random(1)
    seen: list[object] = []
    for values in islice(evaluate.turns(machine, lambda _: drawn.getrandbits(4096)), count):
        read = [bool(values[port.enable]) for port in machine.inputs]
        written = [(piece.low, values[piece.value]) for port in machine.outputs for piece in port.pieces if values[piece.enable]]
        seen.append((read, written, bool(values[machine.done])))
    return seen


@pytest.mark.parametrize("make", [network, *BRANCHED, *DIRECTED, arithmetics], ids=lambda make: make.__name__)
def test_machines_stay_in_their_ranges_and_narrow_ones_do_the_same(make: Callable[[], Graph], tmp_path: Path, thorough: bool) -> None:
    if make is not network and not thorough:
        pytest.skip("all designs with --thorough")
    for machine in machines(make(), tmp_path):
        if any(memory.depth == 1024 for memory in machine.memories):
            continue  # a loop over steps: its queues take numbers that Python need not carry
        count = max(20, min(800, (100_000 if thorough else 40_000) // len(machine.nodes)))
        assert outside(machine, ranges(machine), count) == [], machine.name
        assert sent(machine, count) == sent(narrow(machine), count), machine.name


def test_a_range_that_is_one_short_is_found(tmp_path: Path) -> None:
    machine = next(one for one in machines(network(), tmp_path) if one.name.endswith("_pool"))
    found = list(ranges(machine))
    counters = [place for place, own in enumerate(found) if machine.nodes[place].op == "reg" and own is not None and machine.nodes[place].width == 32]
    assert counters
    for place in counters:
        own = found[place]
        assert own is not None
        short = [*found[:place], replace(own, steps=own.steps - 1), *found[place + 1 :]]
        assert place in outside(machine, tuple(short), 200)


def hand_made(build: Callable[[Builder], tuple[list[Register], int]]) -> Machine:
    """A machine of one state that gives a number in each turn, of registers and that number's place."""
    b = Builder()
    registers, shown = build(b)
    never_done = b.const(0, 1)
    out = Port("out", b.nodes[shown].width, b.yes, (Piece(b.yes, 0, b.nodes[shown].width, shown),))
    return Machine("hand_made", tuple(b.nodes), ("first", "turn"), tuple(registers), (), (), (out,), {}, ((b.yes, 1),), never_done, (), ("out",))


def test_what_is_never_written_decides_nothing_beside_a_0() -> None:
    """A register that no turn ever writes, behind an "and" with a condition that never holds: what stands beside it still counts."""

    def build(b: Builder) -> tuple[list[Register], int]:
        first, turn = b.make("state", 1, value=0), b.make("state", 1, value=1)
        k, r, never = (b.make("reg", width, name=name) for width, name in ((8, "k"), (8, "r"), (4, "never")))
        eight = b.const(1, 8)
        last = b.make("icmp", 1, k, b.const(4, 8), name="eq")
        dead = b.make("icmp", 1, k, b.const(9, 8), name="eq")
        guarded = b.make("and", 1, dead, b.make("icmp", 1, never, b.const(3, 4), name="eq"))
        moves = b.make("and", 1, b.make("or", 1, b.make("icmp", 1, k, b.const(2, 8), name="eq"), guarded), turn)
        registers = [
            Register("k", 8, (Update(first, b.const(0, 8)), Update(turn, b.select(last, b.const(0, 8), b.make("add", 8, k, eight))))),
            Register("r", 8, (Update(first, b.const(0, 8)), Update(moves, b.make("add", 8, r, eight)))),
            Register("never", 4, (Update(b.make("and", 1, dead, turn), b.const(3, 4)),)),
        ]
        return registers, r

    machine = hand_made(build)
    assert outside(machine, ranges(machine), 600) == []
    assert sent(machine, 600) == sent(narrow(machine), 600)


def test_a_counter_that_nobody_looks_at_leaves_no_trace() -> None:
    def build(b: Builder) -> tuple[list[Register], int]:
        first, turn = b.make("state", 1, value=0), b.make("state", 1, value=1)
        idle, seen = b.make("reg", 8, name="idle"), b.make("reg", 8, name="seen")
        registers = [
            Register(name, 8, (Update(first, b.const(0, 8)), Update(turn, b.make("add", 8, own, b.const(1, 8)))))
            for name, own in (("idle", idle), ("seen", seen))
        ]
        return registers, seen

    machine = narrow(hand_made(build))
    assert [register.name for register in machine.registers] == ["seen"]
    assert not any(node.name == "idle" for node in machine.nodes)
    assert sent(machine, 300) == sent(hand_made(build), 300)


HEAD = '#include <hls_stream.h>\nextern "C" void process(hls::stream<ap_int<16> >& in, hls::stream<ap_int<16> >& out) {'


@pytest.mark.parametrize(
    ("body", "widths"),
    [
        ("for (int i = 0; i < 100; i++) { QFX_TURN(); out.write(in.read()); }", [7]),
        ("for (int i = 99; i >= 0; i--) { QFX_TURN(); out.write(ap_int<16>(in.read() + i)); }", [7]),
        ("for (int i = -5; i < 20; i += 3) { QFX_TURN(); out.write(ap_int<16>(in.read() + i)); }", [6]),
        ("for (int y = 0; y < 6; y++) for (int x = 0; x < 33; x++) { QFX_TURN(); out.write(ap_int<16>(in.read() + x + y)); }", [3, 6]),
        ("int k = 0; for (int i = 0; i < 40; i++) { QFX_TURN(); out.write(ap_int<16>(in.read() + k)); k = k == 4 ? 0 : k + 1; }", [3, 6]),
        # Whatever comes: what the data add up to stays as wide as it was written.
        ("int k = 0; for (int i = 0; i < 40; i++) { QFX_TURN(); k += int(in.read()); out.write(ap_int<16>(k >> 16)); }", [6, 32]),
        # Only the low bits leave.
        ("int k = 0; for (int i = 0; i < 40; i++) { QFX_TURN(); k += int(in.read()); out.write(ap_int<16>(k & 255)); }", [6, 8]),
    ],
)
def test_counters_have_the_bits_that_they_need(body: str, widths: list[int], tmp_path: Path) -> None:
    module = sources.ir(f"{HEAD}{body}}}\n", tmp_path)
    wide = as_written(module, module.functions["process"], "process")
    made = narrow(wide)
    assert sorted(register.width for register in made.registers) == widths
    assert max(register.width for register in wide.registers) == 32
    assert sent(made, 250) == sent(wide, 250)


def drawn(b: Builder, rng: random.Random) -> tuple[list[Register], int]:
    """Registers of any widths, each set in the first state and moved in the other one where some condition of registers and data holds."""
    first, turn = b.make("state", 1, value=0), b.make("state", 1, value=1)
    widths = {f"r{place}": rng.choice((3, 5, 8)) for place in range(rng.randint(2, 4))}
    held = {name: b.make("reg", width, name=name) for name, width in widths.items()}

    def number(width: int, depth: int) -> int:
        kind = rng.choice(("reg", "const", *(("add", "sub", "and", "or", "xor", "mul", "choose", "shl", "lshr") if depth else ())))
        if kind == "const":
            return b.const(rng.choice((0, 1, 1, 2, 3, (1 << width) - 1, rng.getrandbits(width))), width)
        if kind == "reg":
            return b.resize(rng.choice(list(held.values())), width, signed=rng.random() < 0.3)
        if kind == "choose":
            return b.select(condition(depth - 1), number(width, depth - 1), number(width, depth - 1))
        other = b.const(rng.randint(0, width - 1), width) if kind in ("shl", "lshr") else number(width, depth - 1)
        return b.make(kind, width, number(width, depth - 1), other)

    def condition(depth: int) -> int:
        if depth and rng.random() < 0.5:
            two = condition(depth - 1), condition(depth - 1)
            return b.no(two[0]) if rng.random() < 0.2 else b.make(rng.choice(("and", "or")), 1, *two)
        width = rng.choice((3, 5, 8))
        return b.make("icmp", 1, number(width, 1), number(width, 0), name=rng.choice(PREDICATES))

    registers = []
    for name, width in widths.items():
        begins = Update(first, b.const(rng.choice((0, 1, rng.getrandbits(width))), width))
        moves = b.make("and", 1, turn, condition(2)) if rng.random() < 0.8 else turn
        registers.append(Register(name, width, (begins, Update(moves, number(width, 2)))))
    return registers, number(8, 2)


def test_random_machines(thorough: bool) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # shown by pytest if the test fails
    for which in range(3000 if thorough else 40):
        machine = hand_made(partial(drawn, rng=random.Random(seed + which)))
        assert outside(machine, ranges(machine), 120) == [], seed + which
        wide, small = sent(machine, 120), sent(narrow(machine), 120)
        assert wide[1:] == small[1:], seed + which  # in the first turn nothing is set yet
