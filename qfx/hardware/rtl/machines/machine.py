"""LLVM IR of a process -> a Machine: a turn is what runs from one QFX_TURN() to the next, whatever loops lie around it.

Between two turns the code has no loops, so that what runs there is one graph of blocks: each block's condition is worked out, values that meet are
chosen by the conditions of the paths they come by, and a value that is made in one turn and used in another becomes a register.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qfx.hardware.rtl.machines.llvm import Block, Function, Inst, Module, RtlError, Typed, bits, number
from qfx.hardware.rtl.machines.memory import Arrays, Bank, OneOf, Place
from qfx.hardware.rtl.machines.narrow import narrow
from qfx.hardware.rtl.machines.netlist import Builder, Machine, Memory, Piece, Port, Register, Update

TURN, READ, WRITE = "qfx_rtl_turn", "qfx_rtl_read", "qfx_rtl_write"
QUEUE = 1024
"""Words that a stream inside a process can hold."""
_IGNORED = ("llvm.lifetime", "llvm.assume", "llvm.experimental.noalias")


def translate(module: Module, function: Function, name: str, *, serial: bool = False) -> Machine:
    """``serial``: a stream that is read or written again begins a turn of its own (unrolled designs, which are one function without loops); else
    that is an error. Values are as wide as they can get. Raises RtlError for what has no such hardware."""
    return narrow(as_written(module, function, name, serial=serial))


def as_written(module: Module, function: Function, name: str, *, serial: bool = False) -> Machine:
    """The same with the widths that the C++ gives its numbers."""
    return _Translation(module, _cut(function, serial), name).machine()


def _cut(function: Function, serial: bool) -> Function:
    """Every turn at the end of a block of its own: an instruction ``turn`` with the block that follows."""
    blocks: list[Block] = []
    last: dict[str, str] = {}
    for block in function.blocks:
        label, insts = block.name, list[Inst]()
        seen: set[tuple[str, str, str]] = set()
        for inst in block.insts:
            key = (inst.detail, *(operand.value for operand in inst.operands[:2])) if inst.detail in (READ, WRITE) else None
            if inst.detail == TURN or (serial and key in seen):
                following = f"{block.name}.turn{len(blocks)}"
                blocks.append(Block(label, (*insts, Inst("", "turn", "", blocks=(following,)))))
                label, insts = following, []
                seen.clear()
            if inst.detail != TURN:
                insts.append(inst)
            if key is not None:
                seen.add(key)  # type: ignore[arg-type]
        blocks.append(Block(label, tuple(insts)))
        last[block.name] = label

    def renamed(inst: Inst) -> Inst:
        return replace(inst, blocks=tuple(last[block] for block in inst.blocks)) if inst.op == "phi" else inst

    return replace(function, blocks=tuple(Block(block.name, tuple(map(renamed, block.insts))) for block in blocks))


@dataclass(slots=True)
class _Region:
    """What runs in one turn: its blocks in order. ``paths[b]``: whether block b runs; ``values``: what has been worked out, by name."""

    state: int
    start: str
    order: list[str]
    position: dict[str, int]
    before: dict[str, list[str]]
    dominators: dict[str, list[str]]
    values: dict[str, int] = field(default_factory=dict)
    edges: dict[tuple[str, str], int] = field(default_factory=dict)
    relative: dict[tuple[str, str], int] = field(default_factory=dict)
    stores: list[tuple[Bank, str, int, int]] = field(default_factory=list)
    calls: list[tuple[str, str, int, str]] = field(default_factory=list)
    loads: dict[tuple[str, int], list[tuple[str, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class _Stream:
    width: int = 0
    enables: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


class _Translation:
    def __init__(self, module: Module, function: Function, name: str) -> None:
        self._module, self._function, self._name = module, function, name
        self._blocks: Mapping[str, Block] = {block.name: block for block in function.blocks}
        self._insts = {inst.name: inst for block in function.blocks for inst in block.insts if inst.name}
        self._home = {inst.name: block.name for block in function.blocks for inst in block.insts if inst.name}
        self._arrays = Arrays(module, function)
        self._b = Builder()
        self._numbers = {parameter.value: bits(parameter.type) for parameter in function.parameters if parameter.type != "ptr"}
        self._home |= dict.fromkeys(self._numbers, function.blocks[0].name)
        turns = [block.insts[-1].blocks[0] for block in function.blocks if block.insts[-1].op == "turn"]
        self._states = [function.blocks[0].name, *turns]
        self._live: dict[str, int] = {}
        self._inputs: dict[str, _Stream] = {}
        self._outputs: dict[str, _Stream] = {}
        self._queues: dict[str, tuple[_Stream, _Stream]] = {}
        self._updates: dict[tuple[str, int], list[Update]] = {}
        self._loads: dict[tuple[str, int], dict[tuple[int, int], None]] = {}
        self._jumps: list[tuple[int, int]] = []
        self._done: list[int] = []
        self._notes: dict[str, None] = {}

    def machine(self) -> Machine:
        regions = [self._region(state, start) for state, start in enumerate(self._states)]
        for region in regions:
            self._run(region)
        registers = [self._register(name, width, regions) for name, width in self._live.items()]
        memories = [self._memory(bank, regions) for bank in self._arrays.banks]
        for stream, (taken, put) in self._queues.items():
            registers += [self._pointer(f"{stream}.taken", taken), self._pointer(f"{stream}.put", put)]
            memories += self._queue(stream, put)
        inputs, outputs = (
            tuple(Port(name[1:], stream.width, self._b.any(stream.enables), tuple(stream.pieces)) for name, stream in streams.items())
            for streams in (self._inputs, self._outputs)
        )
        done = self._b.any(self._done)
        return Machine(
            self._name,
            tuple(self._b.nodes),
            tuple(self._states),
            tuple(registers),
            tuple(memories),
            inputs,
            outputs,
            {name[1:]: width for name, width in self._numbers.items()},
            tuple(self._jumps),
            done,
            tuple(self._notes),
            tuple(parameter.value[1:] for parameter in self._function.parameters),
        )

    # Regions.

    def _next(self, block: str) -> tuple[str, ...]:
        """The blocks that can follow in the same turn."""
        end = self._blocks[block].insts[-1]
        return () if end.op == "turn" else tuple(dict.fromkeys(end.blocks))

    def _region(self, state: int, start: str) -> _Region:
        order: list[str] = []
        status = {start: 1}
        stack = [(start, iter(self._next(start)))]
        while stack:
            block, rest = stack[-1]
            for following in rest:
                if status.get(following) == 1:
                    raise RtlError(f"{self._name}: a loop without QFX_TURN() at {following}")
                if following not in status:
                    status[following] = 1
                    stack.append((following, iter(self._next(following))))
                    break
            else:
                status[block] = 2
                order.append(block)
                stack.pop()
        order.reverse()
        position = {block: place for place, block in enumerate(order)}
        before: dict[str, list[str]] = {block: [] for block in order}
        for block in order:
            for following in self._next(block):
                before[following].append(block)
        dominators = {start: [start]}
        for block in order[1:]:
            common = set.intersection(*(set(dominators[other]) for other in before[block]))
            dominators[block] = [*sorted(common, key=lambda b: position[b]), block]
        return _Region(state, start, order, position, before, dominators)

    def _dominator(self, region: _Region, block: str) -> str:
        return region.dominators[block][-2]

    def _always(self, block: str, behind: str) -> bool:
        """Whether every path from ``behind`` goes through ``block``."""
        waiting, seen = [behind], {behind}
        while waiting:
            following = self._next(waiting.pop())
            if not following:
                return False
            for other in following:
                if other != block and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return True

    def _path(self, region: _Region, block: str, above: str) -> int:
        """Whether ``block`` runs if ``above``, which dominates it, does."""
        if block == above:
            return self._b.yes
        key = block, above
        if key not in region.relative:
            nearest = self._dominator(region, block)
            if self._always(block, nearest):
                found = self._path(region, nearest, above)
            else:
                found = self._b.any([self._edge(region, other, block, above) for other in region.before[block]])
            region.relative[key] = found
        return region.relative[key]

    def _edge(self, region: _Region, a: str, b: str, above: str) -> int:
        return self._b.both(self._path(region, a, above), region.edges[a, b])

    def _reaches(self, region: _Region, a: str, b: str) -> bool:
        if a == b:
            return True
        waiting, seen = [b], {b}
        while waiting:
            for other in region.before[waiting.pop()]:
                if other == a:
                    return True
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return False

    # Values.

    def _value(self, region: _Region, operand: Typed, block: str) -> int:
        """An operand as ``block`` sees it."""
        name, width = operand.value, bits(operand.type)
        if not name.startswith("%"):
            return self._b.const(number(name), width)
        home = self._home[name]
        if home in region.position and name in region.values:
            if home in region.dominators[block]:
                return region.values[name]
            if self._reaches(region, home, block):
                kept = self._kept(name, width)
                return self._b.select(self._path(region, home, region.start), region.values[name], kept)
        return self._kept(name, width)

    def _kept(self, name: str, width: int) -> int:
        self._live[name] = width
        return self._b.make("reg", width, name=name)

    def _register(self, name: str, width: int, regions: list[_Region]) -> Register:
        updates = [
            Update(self._active(region, self._home[name]), region.values[name])
            for region in regions
            if name in region.values and self._home[name] in region.position
        ]
        return Register(name, width, tuple(updates))

    def _active(self, region: _Region, block: str) -> int:
        state = self._b.make("state", 1, value=region.state)
        return self._b.both(state, self._path(region, block, region.start))

    # Blocks.

    def _run(self, region: _Region) -> None:
        if region.state == 0:
            region.values |= {name: self._b.make("arg", width, name=name[1:]) for name, width in self._numbers.items()}
        for block in region.order:
            for inst in self._blocks[block].insts:
                if inst.blocks and inst.op != "phi":
                    self._leave(region, block, inst)
                elif inst.op == "ret":
                    self._done.append(self._active(region, block))
                elif inst.type == "ptr" or inst.op == "unreachable":
                    continue
                else:
                    found = self._inst(region, block, inst)
                    if inst.name and found is not None:
                        region.values[inst.name] = found

    def _leave(self, region: _Region, block: str, inst: Inst) -> None:
        if inst.op == "turn":
            self._jumps.append((self._active(region, block), self._states.index(inst.blocks[0])))
            return
        b = self._b
        if len(inst.blocks) == 1:
            arms = [(inst.blocks[0], b.yes)]
        elif inst.op == "br":
            condition = self._value(region, inst.operands[0], block)
            arms = list(zip(inst.blocks, (condition, b.no(condition)), strict=True))
        else:
            value = self._value(region, inst.operands[0], block)
            equal = [b.make("icmp", 1, value, b.const(number(case.value), bits(case.type)), name="eq") for case in inst.operands[1:]]
            arms = [(inst.blocks[0], b.no(b.any(equal))), *zip(inst.blocks[1:], equal, strict=True)]
        for following in dict.fromkeys(inst.blocks):
            region.edges[block, following] = b.any([condition for other, condition in arms if other == following])

    def _phi(self, region: _Region, block: str, inst: Inst) -> int:
        above = self._dominator(region, block)
        groups: dict[int, list[str]] = {}
        for operand, source in zip(inst.operands, inst.blocks, strict=True):
            if source in region.before[block]:
                groups.setdefault(self._value(region, operand, source), []).append(source)
        default = max(groups, key=lambda value: len(groups[value]))
        arms = [
            (self._b.any([self._edge(region, source, block, above) for source in sources]), value)
            for value, sources in groups.items()
            if value != default
        ]
        return self._b.choose(arms, default)

    def _inst(self, region: _Region, block: str, inst: Inst) -> int | None:
        b = self._b
        if inst.op == "phi":
            return self._phi(region, block, inst)
        if inst.op == "load":
            return self._load(region, block, self._arrays.place(inst.operands[0].value), bits(inst.type), b.yes)
        if inst.op == "store":
            self._store(region, block, inst)
            return None
        if inst.op == "call":
            return self._call(region, block, inst)
        args = [self._value(region, operand, block) for operand in inst.operands]
        width = bits(inst.type)
        if inst.op in ("zext", "sext", "trunc"):
            return b.resize(args[0], width, signed=inst.op == "sext")
        if inst.op == "freeze":
            return args[0]
        if inst.op == "select":
            return b.select(*args)
        if width == 1 and inst.op == "xor" and b.known(args[1]) == 1:
            return b.no(args[0])
        if width == 1 and inst.op == "and":
            return b.both(*args)
        if width == 1 and inst.op == "or":
            return b.any(args)
        return b.make(inst.op, width, *args, name=inst.detail)

    def _call(self, region: _Region, block: str, inst: Inst) -> int | None:
        b = self._b
        if inst.detail in (READ, WRITE):
            return self._transfer(region, block, inst)
        if inst.detail.startswith(_IGNORED):
            return None
        name = inst.detail.split(".")
        if name[0] != "llvm":
            raise RtlError(f"{self._name}: a call of {inst.detail}")
        if name[1] in ("umin", "umax", "smin", "smax"):
            x, y = (self._value(region, operand, block) for operand in inst.operands)
            less = b.make("icmp", 1, x, y, name=f"{name[1][0]}lt")
            return b.select(less, x, y) if name[1].endswith("min") else b.select(less, y, x)
        if name[1] == "abs":
            x = self._value(region, inst.operands[0], block)
            zero = b.const(0, bits(inst.type))
            return b.select(b.make("icmp", 1, x, zero, name="slt"), b.make("sub", bits(inst.type), zero, x), x)
        if name[1] in ("usub", "uadd", "ssub", "sadd") and name[2] == "sat":
            x, y = (self._value(region, operand, block) for operand in inst.operands)
            return self._saturating(x, y, name[1])
        raise RtlError(f"{self._name}: a call of {inst.detail}")

    def _saturating(self, x: int, y: int, op: str) -> int:
        b, width, signed = self._b, self._b.nodes[x].width, op[0] == "s"
        exact = b.make(op[1:], width + 2, b.resize(x, width + 2, signed=signed), b.resize(y, width + 2, signed=signed))
        high = b.const((1 << (width - 1 if signed else width)) - 1, width + 2)
        low = b.const(-(1 << (width - 1)) if signed else 0, width + 2)
        over, under = b.make("icmp", 1, high, exact, name="slt"), b.make("icmp", 1, exact, low, name="slt")
        return b.resize(b.choose([(over, high), (under, low)], exact), width)

    # Streams.

    def _transfer(self, region: _Region, block: str, inst: Inst) -> int | None:
        base = self._arrays.place(inst.operands[0].value)
        if isinstance(base, OneOf) or base.offset or base.terms:
            raise RtlError(f"{self._name}: a stream that is chosen while it runs")
        low, width = (int(operand.value) for operand in inst.operands[1:3])
        reads, stream = inst.detail == READ, base.base
        for kind, other, at, earlier in region.calls:
            if (kind, other, at) == (inst.detail, stream, low) and self._reaches(region, earlier, block):
                raise RtlError(f"{self._name}: {stream} is {'read' if reads else 'written'} twice in a turn")
        region.calls.append((inst.detail, stream, low, block))
        outside = stream in {parameter.value for parameter in self._function.parameters}
        if outside:
            held = (self._inputs if reads else self._outputs).setdefault(stream, _Stream())
        else:
            held = self._queues.setdefault(stream, (_Stream(), _Stream()))[0 if reads else 1]
        held.width = max(held.width, low + width)
        enable = self._active(region, block)
        held.enables.append(enable)
        if not reads:
            held.pieces.append(Piece(enable, low, width, self._b.resize(self._value(region, inst.operands[3], block), width)))
            return None
        if outside:
            word = self._b.make("input", width, value=low, name=stream[1:])
        else:
            pointer = self._b.make("reg", QUEUE.bit_length() - 1, name=f"{stream}.taken")
            word = self._b.make("load", width, pointer, name=f"{stream}.{low}")
        return self._b.resize(word, 64)

    def _pointer(self, name: str, stream: _Stream) -> Register:
        width = QUEUE.bit_length() - 1
        enable = self._b.any(stream.enables)
        old = self._b.make("reg", width, name=name)
        begun = self._b.make("state", 1, value=0)
        more = self._b.make("add", width, old, self._b.const(1, width))
        return Register(name, width, (Update(begun, self._b.const(0, width)), Update(self._b.both(enable, self._b.no(begun)), more)))

    def _queue(self, stream: str, put: _Stream) -> list[Memory]:
        pointer = self._b.make("reg", QUEUE.bit_length() - 1, name=f"{stream}.put")
        rows: dict[tuple[int, int], list[Update]] = {}
        for piece in put.pieces:
            rows.setdefault((piece.low, piece.width), []).append(Update(piece.enable, piece.value, pointer))
        return [Memory(f"{stream}.{low}", stream, QUEUE, width, None, tuple(updates), (), (1, 1)) for (low, width), updates in rows.items()]

    # Arrays.

    def _load(self, region: _Region, block: str, place: Place | OneOf, width: int, condition: int) -> int:
        b = self._b
        if isinstance(place, OneOf):
            self._notes[f"a condition chooses between {self._array(place.a)} and {self._array(place.b)} as an lvalue"] = None
            chosen = self._value(region, place.condition, block)
            a = self._load(region, block, place.a, width, b.both(condition, chosen))
            return b.select(chosen, a, self._load(region, block, place.b, width, b.both(condition, b.no(chosen))))
        bank = self._arrays.bank(place, width)
        address = self._address(region, block, place, bank)
        word = b.make("load", width, address, name=_named(bank))
        region.loads.setdefault(bank.key, []).append((block, address))
        self._loads.setdefault(bank.key, {})[b.both(self._active(region, block), condition), address] = None
        for stored_in, home, where, value in region.stores:
            if stored_in.key == bank.key and self._reaches(region, home, block):
                same = b.yes if where == address else b.make("icmp", 1, where, address, name="eq")
                if b.known(where) is not None and b.known(address) is not None and where != address:
                    continue
                if b.known(where) is None:
                    self._notes[f"{bank.key[0]} is read behind a store in the same turn"] = None
                stored = b.yes if home in region.dominators[block] else self._path(region, home, region.start)
                word = b.select(b.both(stored, same), value, word)
        return word

    def _array(self, place: Place | OneOf) -> str:
        return place.base if isinstance(place, Place) else f"{self._array(place.a)} or {self._array(place.b)}"

    def _store(self, region: _Region, block: str, inst: Inst) -> None:
        place = self._arrays.place(inst.operands[1].value)
        if isinstance(place, OneOf):
            raise RtlError(f"{self._name}: a store to a place that a condition chooses")
        bank = self._arrays.bank(place, bits(inst.type))
        address, value = self._address(region, block, place, bank), self._value(region, inst.operands[0], block)
        region.stores.append((bank, block, address, value))
        self._updates.setdefault(bank.key, []).append(Update(self._active(region, block), value, address))

    def _address(self, region: _Region, block: str, place: Place, bank: Bank) -> int:
        b = self._b
        width = max(1, (bank.depth - 1).bit_length())
        row, terms = self._arrays.row(place)
        found = b.const(row, width)
        for index, count in terms:
            step = b.resize(self._value(region, index, block), width, signed=True)
            if count != 1:
                step = b.make("mul", width, step, b.const(count, width))
            found = step if b.known(found) == 0 else b.make("add", width, step, found)
        return found

    def _memory(self, bank: Bank, regions: list[_Region]) -> Memory:
        updates = tuple(self._updates.get(bank.key, ()))
        reads = max(self._most(region, region.loads.get(bank.key, [])) for region in regions)
        writes = max(self._most(region, [(home, where) for other, home, where, _ in region.stores if other.key == bank.key]) for region in regions)
        return Memory(_named(bank), bank.key[0], bank.depth, bank.width, bank.initial, updates, tuple(self._loads.get(bank.key, ())), (reads, writes))

    def _most(self, region: _Region, accesses: list[tuple[str, int]]) -> int:
        """Of how many addresses one turn can make such an access: those in blocks that exclude each other count once."""
        found: list[tuple[str, int, int]] = []
        for block, address in sorted(dict.fromkeys(accesses), key=lambda access: region.position[access[0]]):
            ahead = [most for home, other, most in found if self._reaches(region, home, block) and other != address]
            same = [most for home, other, most in found if self._reaches(region, home, block) and other == address]
            found.append((block, address, max([most + 1 for most in ahead] + same, default=1)))
        return max((most for _, _, most in found), default=0)


def _named(bank: Bank) -> str:
    return f"{bank.key[0]}.{bank.key[1]}"
