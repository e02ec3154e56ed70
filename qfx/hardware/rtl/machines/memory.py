"""Arrays as memories: where every load and store of a function goes.

An array is cut into as many memories as it has numbers between the places that an index can pick: ``line[SIZE][P]`` with a variable first and a
constant second index becomes P memories of SIZE words, what ``ARRAY_PARTITION`` or ``ARRAY_RESHAPE`` of the second dimension make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from qfx.hardware.rtl.machines.llvm import Function, Inst, Module, RtlError, Typed, array, bits, split, typed


@dataclass(frozen=True, slots=True)
class Place:
    """``offset`` bytes behind the beginning of ``base``, and a number of bytes for each step of each index."""

    base: str
    offset: int
    terms: tuple[tuple[Typed, int], ...] = ()


@dataclass(frozen=True, slots=True)
class OneOf:
    """A pointer that a condition chooses."""

    condition: Typed
    a: Place | OneOf
    b: Place | OneOf


@dataclass(frozen=True, slots=True)
class Bank:
    """``key``: which array, and the byte of a row at which the number lies."""

    key: tuple[str, int]
    depth: int
    width: int
    initial: tuple[int, ...] | None
    constant: bool


class Arrays:
    """All arrays of a function. Raises RtlError for pointers that are no array's element."""

    def __init__(self, module: Module, function: Function) -> None:
        self._module, self._function = module, function
        self._insts: Mapping[str, Inst] = {inst.name: inst for block in function.blocks for inst in block.insts if inst.name}
        self._parameters = {parameter.value for parameter in function.parameters}

    def place(self, pointer: str) -> Place | OneOf:
        if pointer.startswith("getelementptr"):
            kind, *operands = split(pointer[pointer.index("(") + 1 : -1])
            return self._step(kind, tuple(map(typed, operands)))
        if pointer.startswith("@") or pointer in self._parameters:
            return Place(pointer, 0)
        inst = self._insts[pointer]
        if inst.op == "alloca":
            return Place(pointer, 0)
        if inst.op == "select":
            condition, a, b = inst.operands
            return OneOf(condition, self.place(a.value), self.place(b.value))
        if inst.op == "getelementptr":
            return self._step(inst.detail, inst.operands)
        raise RtlError(f"a pointer that is no element of an array: {inst.op} {pointer}")

    def base_type(self, base: str) -> str:
        """What the array is declared as."""
        if base in self._module.globals:
            return self._module.globals[base].type
        if base in self._parameters:
            raise RtlError(f"an array as parameter: {base}")
        return self._insts[base].detail

    def bank(self, place: Place, width: int) -> Bank:
        row = self._rows[place.base]
        bank = self._banks[place.base, place.offset % row]
        if bank.width != width:
            raise RtlError(f"{place.base} is read and written by {bank.width} and by {width} bits")
        return bank

    def row(self, place: Place) -> tuple[int, list[tuple[Typed, int]]]:
        """The row of its bank that a place is: a number, and how often each index counts."""
        size = self._rows[place.base]
        return place.offset // size, [(index, stride // size) for index, stride in place.terms]

    @property
    def banks(self) -> list[Bank]:
        return list(self._banks.values())

    def _step(self, kind: str, operands: tuple[Typed, ...]) -> Place | OneOf:
        base, *indices = operands
        at = self.place(base.value)
        if isinstance(at, OneOf):
            raise RtlError(f"an element of an array that a condition chooses: {base.value}")
        offset, terms = at.offset, list(at.terms)
        for level, index in enumerate(indices):
            if level == 0:
                stride = self._module.size(kind)[0]
            elif kind[0] == "[":
                _, kind = array(kind)
                stride = self._module.size(kind)[0]
            else:
                start, kind = self._module.fields(kind)[int(index.value)]
                offset += start
                continue
            if index.value.lstrip("-").isdigit():
                offset += int(index.value) * stride
            else:
                terms.append((index, stride))
        return Place(at.base, offset, tuple(terms))

    @cached_property
    def _accesses(self) -> list[tuple[Place, int]]:
        found: list[tuple[Place, int]] = []
        for block in self._function.blocks:
            for inst in block.insts:
                if inst.op in ("load", "store"):
                    waiting = [self.place(inst.operands[-1].value)]
                    while waiting:
                        at = waiting.pop()
                        if isinstance(at, OneOf):
                            waiting += [at.a, at.b]
                        else:
                            found.append((at, bits(inst.type)))
        return found

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Bytes of a row of each array: what all steps of indices are multiples of."""
        strides: dict[str, int] = {}
        for place, _ in self._accesses:
            strides[place.base] = gcd(strides.get(place.base, 0), *(stride for _, stride in place.terms))
        return {base: stride or self._module.size(self.base_type(base))[0] for base, stride in strides.items()}

    @cached_property
    def _banks(self) -> dict[tuple[str, int], Bank]:
        found: dict[tuple[str, int], Bank] = {}
        for place, width in self._accesses:
            base, row = place.base, self._rows[place.base]
            key = base, place.offset % row
            if key in found:
                if found[key].width != width:
                    raise RtlError(f"{base} is read and written by {found[key].width} and by {width} bits")
                continue
            kind = self.base_type(base)
            depth = self._module.size(kind)[0] // row
            holder = self._module.globals.get(base)
            initial = None
            if holder is not None:
                values = {offset: value for offset, _, value in self._module.scalars(holder.type, holder.value)}
                initial = tuple(values[key[1] + at * row] % (1 << width) for at in range(depth))
            found[key] = Bank(key, depth, width, initial, holder is not None and holder.constant)
        return found
