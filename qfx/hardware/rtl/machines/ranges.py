"""Ranges of a machine's values, proven by induction over its turns.

A range is an interval on the circle of the numbers of ``width`` bits: it begins at ``first`` and has ``steps`` more numbers, so that what counts up
from -1 and what counts down to it are short alike. A register's range is guessed from what one turn after the other puts there (widened to the next
constant that it is compared with: Cousot and Cousot, Abstract Interpretation, 1977) and counts once a further turn adds nothing to any of them.
A condition narrows what it lets pass: a counter that is put back at N never gets there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qfx.hardware.rtl.machines.netlist import Machine, Node

_PATIENCE = 3
"""Turns in which a range may grow by itself before it goes on to a constant."""
_RESTLESS = 16
"""Turns in which it grew after which it may be anything."""
_ROUNDS = 200
_DEPTH = 6
"""How far behind a value conditions are looked at."""
_ARMS = 8
"""Of so many alternatives at the most each is looked at."""


@dataclass(frozen=True, slots=True)
class Range:
    """``first``: 0 <= first < 2**width; ``steps`` < 2**width."""

    width: int
    first: int
    steps: int

    @classmethod
    def of(cls, low: int, high: int, width: int) -> Range:
        size = 1 << width
        return cls(width, 0, size - 1) if high - low >= size - 1 else cls(width, low % size, high - low)

    @classmethod
    def all(cls, width: int) -> Range:
        return cls(width, 0, (1 << width) - 1)

    @property
    def single(self) -> int | None:
        return None if self.steps else self.first

    @property
    def unsigned(self) -> tuple[int, int]:
        last = self.first + self.steps
        return (self.first, last) if last < 1 << self.width else (0, (1 << self.width) - 1)

    @property
    def signed(self) -> tuple[int, int]:
        half, size = 1 << (self.width - 1), 1 << self.width
        last = self.first + self.steps
        if last < half:
            return self.first, last
        return (self.first - size, last - size) if self.first >= half and last < size + half else (-half, half - 1)

    def holds(self, other: Range) -> bool:
        return (other.first - self.first) % (1 << self.width) + other.steps <= self.steps or self.steps == (1 << self.width) - 1

    def joined(self, other: Range) -> Range:
        """The shorter way round both."""
        if self.holds(other) or other.holds(self):
            return self if self.holds(other) else other
        size = 1 << self.width
        ways = [(a.first, max(a.steps, (b.first - a.first) % size + b.steps)) for a, b in ((self, other), (other, self))]
        first, steps = min(ways, key=lambda way: (way[1], way[0]))
        return Range.of(first, first + steps, self.width)

    def shared(self, other: Range) -> Range | None:
        """What lies in both, or a little more; None if nothing does."""
        pieces = [
            Range.of(max(low, other_low), min(high, other_high), self.width)
            for low, high in self._pieces()
            for other_low, other_high in other._pieces()
            if max(low, other_low) <= min(high, other_high)
        ]
        return _hull(pieces)

    def _pieces(self) -> list[tuple[int, int]]:
        size, last = 1 << self.width, self.first + self.steps
        return [(self.first, last)] if last < size else [(self.first, size - 1), (0, last - size)]


def _hull(ranges: Sequence[Range | None]) -> Range | None:
    found: Range | None = None
    for one in ranges:
        found = one if found is None else found if one is None else found.joined(one)
    return found


def ranges(machine: Machine) -> tuple[Range | None, ...]:
    """Of each node; None of one that is never worked out."""
    return _Analysis(machine).found()


Known = Mapping[int, Range]
"""What a condition says of nodes."""


class _Analysis:
    def __init__(self, machine: Machine) -> None:
        self._machine, self._nodes = machine, machine.nodes
        self._held: dict[str, Range | None] = {register.name: None for register in machine.registers}
        self._width = {register.name: register.width for register in machine.registers}
        self._found: list[Range | None] = [None] * len(machine.nodes)
        self._stops = self._compared()
        self._words = {
            memory.name: _hull([Range(memory.width, value, 0) for value in memory.initial])
            for memory in machine.memories
            if memory.initial is not None and not memory.updates
        }

    def _compared(self) -> Mapping[str, list[int]]:
        """Of each register the constants that it is compared with, and their neighbours; signed ones too; and the ends of its type."""
        found = {name: {0, (1 << width - 1) - 1, -(1 << width - 1), (1 << width) - 1} for name, width in self._width.items()}
        for node in self._nodes:
            if node.op != "icmp":
                continue
            for place, other in (node.args, node.args[::-1]):
                if (limit := self._known(other)) is not None:
                    for name, step in self._registers(place, _DEPTH):
                        width = self._nodes[place].width
                        for value in (limit, limit - step, limit - (1 << width), limit - step - (1 << width)):
                            found[name] |= {value - 1, value, value + 1}
        return {name: sorted(stops) for name, stops in found.items()}

    def _registers(self, place: int, depth: int) -> Iterator[tuple[str, int]]:
        """The registers that a value is, give or take a constant: which is added to it."""
        node = self._nodes[place]
        if node.op == "reg":
            yield node.name, 0
        elif depth and node.op == "add" and (step := self._known(node.args[1])) is not None:
            signed = step - (1 << node.width) if step >> (node.width - 1) else step
            yield from ((name, more + signed) for name, more in self._registers(node.args[0], depth - 1))
        elif depth and node.op in ("zext", "sext", "slice"):
            yield from self._registers(node.args[0], depth - 1)
        elif depth and node.op == "choose":
            for arm in (*node.args[1::2], node.args[-1]):
                yield from self._registers(arm, depth - 1)

    def found(self) -> tuple[Range | None, ...]:
        self._carry(None)
        grown = dict.fromkeys(self._held, 0)
        settled = False
        for _ in range(_ROUNDS):
            changed = set[str]()
            for name, new in self._turn().items():
                old = self._held[name]
                if new is None or (old is not None and old.holds(new)):
                    continue
                grown[name] += 1
                joined = new if old is None else old.joined(new)
                if grown[name] > _RESTLESS:
                    joined = Range.all(joined.width)
                elif old is not None and grown[name] > _PATIENCE:
                    joined = self._widened(old, joined, self._stops[name])
                self._held[name] = joined
                changed.add(name)
            if settled and not changed:
                self._tighten()
                return tuple(self._found)
            settled = not changed
            self._carry(changed or None)  # what conditions say of a node is followed no further than its neighbours, but in the end
        self._held = {name: Range.all(self._width[name]) for name in self._held}
        self._carry(None)
        return tuple(self._found)

    def _widened(self, old: Range, new: Range, stops: Sequence[int]) -> Range:
        """On to the next stop on each side that grew."""
        width, size = old.width, 1 << old.width
        start = old.first - (size if old.first >= size >> 1 and old.first + old.steps >= size else 0)
        low = start - (old.first - new.first) % size if new.first != old.first else start
        high, end = low + new.steps, start + old.steps
        if high > end:
            place = bisect_left(stops, high)
            high = stops[place] if place < len(stops) else low + size
        if low < start:
            place = bisect_left(stops, low + 1) - 1
            low = stops[place] if place >= 0 else high - size
        return Range.of(low, high, width)

    def _tighten(self) -> None:
        """What a further turn gives may be less; it counts if it holds by itself."""
        for _ in range(3):
            before, found = dict(self._held), list(self._found)
            self._held |= {name: new for name, new in self._turn().items() if new is not None}
            if self._held == before:
                return
            self._carry(None)
            if not all(new is None or ((held := self._held[name]) is not None and held.holds(new)) for name, new in self._turn().items()):
                self._held, self._found = before, found
                return

    def _turn(self) -> dict[str, Range | None]:
        """What the registers take in any turn."""
        made: dict[str, Range | None] = {}
        for register in self._machine.registers:
            made[register.name] = _hull([self._under(update.enable, update.value) for update in register.updates])
        return made

    def _under(self, condition: int, value: int) -> Range | None:
        """What ``value`` can be where ``condition`` holds."""
        return _hull([self._value(value, known, _DEPTH) for known in self._cases(condition, True, {}, _DEPTH)])

    # What a condition says.

    def _cases(self, place: int, holds: bool, known: Known, depth: int) -> list[Known]:
        """The ways in which a condition can hold (or not), each with what is known then: together all of them."""
        node, found = self._nodes[place], self._found[place]
        found = known.get(place, found)
        if found is None or found.single == 1 - holds:
            return []
        if place in known:
            return [known]
        if node.op == "not":
            return self._cases(node.args[0], not holds, known, depth)
        if depth and node.op in ("and", "or") and node.width == 1:
            if (node.op == "and") == holds:
                cases = [known]
                for arg in node.args:
                    more = [other for case in cases for other in self._cases(arg, holds, case, depth - 1)]
                    cases = more if len(more) <= _ARMS else cases
                return cases
            parts = [self._cases(arg, holds, known, depth - 1) for arg in node.args]
            cases = [case for part in parts for case in part]
            return cases if len(cases) <= _ARMS else [known]
        if node.op == "icmp":
            return self._compare(node, holds, known)
        return [{**known, place: Range(1, int(holds), 0)}]

    def _compare(self, node: Node, holds: bool, known: Known) -> list[Known]:
        name = node.name if holds else _OPPOSITE[node.name]
        a, b = (known.get(place, self._found[place]) for place in node.args)
        if a is None or b is None:
            return []
        narrowed = dict(known)
        for place, own, other, sense in ((node.args[0], a, b, name), (node.args[1], b, a, _TURNED[name])):
            if self._nodes[place].op == "const":
                continue
            found = passing(own, other, sense)
            if found is None:
                return []
            self._learn(place, found, narrowed)
        return [narrowed]

    def _learn(self, place: int, found: Range, known: dict[int, Range]) -> None:
        """That a node lies in ``found``, and what follows for those that it is made of."""
        for _ in range(_DEPTH):
            known[place] = found
            node = self._nodes[place]
            if node.op in ("zext", "sext"):
                width = self._nodes[node.args[0]].width
                low, high = found.unsigned if node.op == "zext" else found.signed
                found = Range.of(low, high, width)
            elif node.op == "add" and (step := self._known(node.args[1])) is not None:
                found = Range.of(found.first - step, found.first - step + found.steps, node.width)
            else:
                return
            place = node.args[0]
            own = known.get(place, self._found[place])
            shared = found if own is None else own.shared(found)
            if shared is None:
                return
            found = shared

    def _known(self, place: int) -> int | None:
        node = self._nodes[place]
        return node.value if node.op == "const" else None

    # Values.

    def _carry(self, changed: set[str] | None) -> None:
        """The ranges of the nodes that follow from the registers that changed; None: of all nodes."""
        moved = bytearray(len(self._nodes))
        for place, node in enumerate(self._nodes):
            if changed is None or (node.op == "reg" and node.name in changed) or any(moved[arg] for arg in node.args):
                found = self._value(place, {}, 3)
                if found != self._found[place]:
                    self._found[place], moved[place] = found, 1

    def _value(self, place: int, known: Known, depth: int) -> Range | None:
        """What a node can be, where ``known`` holds; looked at ``depth`` nodes deep."""
        if place in known:
            return known[place]
        node = self._nodes[place]
        if depth == 0 or (known and not node.args):
            return self._found[place]
        if node.op == "choose":
            return self._chosen(node, known, depth)
        if not known:
            return self._evaluated(node, [self._found[arg] for arg in node.args])
        if depth == 1 or node.op in ("icmp", "load") or len(node.args) > 2:
            return self._found[place]
        found = self._evaluated(node, [self._value(arg, known, depth - 1) for arg in node.args])
        own = self._found[place]
        return found if own is None or found is None else own.shared(found)

    def _chosen(self, node: Node, known: Known, depth: int) -> Range | None:
        arms: list[Range | None] = []
        rest: list[Known] = [known]
        for condition, value in zip(node.args[:-1:2], node.args[1::2], strict=True):
            for case in rest:
                arms += [self._value(value, narrowed, depth - 1) for narrowed in self._cases(condition, True, case, depth)]
            left = [narrowed for case in rest for narrowed in self._cases(condition, False, case, depth)]
            rest = left if len(left) <= _ARMS else rest
        return _hull(arms + [self._value(node.args[-1], case, depth - 1) for case in rest])

    def _evaluated(self, node: Node, args: list[Range | None]) -> Range | None:
        if node.op == "const":
            return Range(node.width, node.value, 0)
        if node.op == "reg":
            return self._held[node.name]
        if node.op == "load":
            return self._words.get(node.name, Range.all(node.width))
        given = [arg for arg in args if arg is not None]
        if len(given) < len(args):
            return _decided(node, given)
        return result(node, given) if given else Range.all(node.width)


def _decided(node: Node, given: list[Range]) -> Range | None:
    """What a node can be, one of whose operands was never worked out: a 0 decides an "and", ones decide an "or", whatever the other operand is."""
    if node.op not in ("and", "or", "mul"):
        return None
    ends = (1 << node.width) - 1 if node.op == "or" else 0
    sure = any(own.single == ends for own in given)
    return Range(node.width, ends, 0) if sure or (node.width == 1 and any(own.holds(Range(1, ends, 0)) for own in given)) else None


_OPPOSITE = {"eq": "ne", "ne": "eq"} | {f"{s}{a}": f"{s}{b}" for s in "us" for a, b in (("lt", "ge"), ("ge", "lt"), ("gt", "le"), ("le", "gt"))}
_TURNED = {"eq": "eq", "ne": "ne"} | {f"{s}{a}": f"{s}{b}" for s in "us" for a, b in (("lt", "gt"), ("gt", "lt"), ("ge", "le"), ("le", "ge"))}


def passing(own: Range, other: Range, sense: str) -> Range | None:
    """Which of ``own`` can stand in this sense to a number of ``other``."""
    if sense == "eq":
        return own.shared(other)
    if sense == "ne":
        if other.single is None:
            return own
        if own.single == other.single:
            return None
        first, steps = own.first, own.steps
        if steps == (1 << own.width) - 1:
            return Range.of(other.first + 1, other.first + steps, own.width)
        if first == other.first:
            return Range.of(first + 1, first + steps, own.width)
        return Range.of(first, first + steps - 1, own.width) if (first + steps) % (1 << own.width) == other.first else own
    low, high = other.signed if sense[0] == "s" else other.unsigned
    least = -(1 << (own.width - 1)) if sense[0] == "s" else 0
    most = least + (1 << own.width) - 1
    bound = {"lt": (least, high - 1), "le": (least, high), "gt": (low + 1, most), "ge": (low, most)}[sense[1:]]
    return own.shared(Range.of(*bound, own.width)) if bound[0] <= bound[1] else None


def result(node: Node, args: list[Range]) -> Range:
    """What an operation makes of what its operands can be."""
    width, a = node.width, args[0]
    if node.op == "icmp":
        return _compared(node.name, a, args[1])
    if node.op in ("zext", "sext"):
        return Range.of(*(a.unsigned if node.op == "zext" else a.signed), width)
    if node.op == "slice":
        if node.value == 0:
            return Range.of(a.first, a.first + a.steps, width)
        return _each(a.unsigned, lambda bound: bound >> node.value, width)
    if node.op == "not":
        return Range.of(-1 - a.first - a.steps, -1 - a.first, width)
    if node.op in ("and", "or"):
        highs, lows = [arg.unsigned[1] for arg in args], [arg.unsigned[0] for arg in args]
        if node.op == "or":
            return Range.of(max(lows), (1 << max(highs).bit_length()) - 1, width)
        for one, mask in ((args[0], args[-1].single), (args[-1], args[0].single)):
            if len(args) == 2 and mask is not None and mask & (mask + 1) == 0 and one.unsigned[1] <= mask:
                return one
        return Range.of(0, min(highs), width)
    b = args[1]
    by = b.single or 0
    if node.op == "add":
        return Range.of(a.first + b.first, a.first + b.first + a.steps + b.steps, width)
    if node.op == "sub":
        return Range.of(a.first - b.first - b.steps, a.first + a.steps - b.first, width)
    if node.op == "mul":
        ways = []
        for (low, high), (other_low, other_high) in ((a.unsigned, b.unsigned), (a.signed, b.signed)):
            corners = [x * y for x in (low, high) for y in (other_low, other_high)]
            ways.append(Range.of(min(corners), max(corners), width))
        return min(ways, key=lambda way: way.steps)
    if node.op == "lshr":
        return Range.of(0, a.unsigned[1], width) if b.single is None else _each(a.unsigned, lambda bound: bound >> by, width)
    if node.op == "ashr" and b.single is not None:
        return _each(a.signed, lambda bound: bound >> by, width)
    if node.op == "shl" and b.single is not None:
        return Range.of(a.first << b.single, (a.first + a.steps) << b.single, width)
    if node.op == "udiv" and b.single:
        return _each(a.unsigned, lambda bound: bound // by, width)
    if node.op == "urem" and b.single:
        return a if a.unsigned[1] < b.single else Range.of(0, b.single - 1, width)
    return Range.all(width)


def _each(bounds: tuple[int, int], change: Callable[[int], int], width: int) -> Range:
    return Range.of(change(bounds[0]), change(bounds[1]), width)


def _compared(name: str, a: Range, b: Range) -> Range:
    if passing(a, b, name) is None:
        return Range(1, 0, 0)
    return Range(1, 1, 0) if passing(a, b, _OPPOSITE[name]) is None else Range(1, 0, 1)
