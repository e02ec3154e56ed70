"""LLVM IR as values: what clang writes as text, as far as translating a process needs it.

Types stay text (``i6``, ``[45 x [1 x %struct.ap_bits]]``, ``ptr``), and so do operands: a name with its ``%`` or ``@``, a number, or a constant
expression. Source: the LLVM Language Reference Manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from qfx.errors import QfxError


class RtlError(QfxError):
    """C++ that cannot be translated: what it is, and where."""


@dataclass(frozen=True, slots=True)
class Typed:
    """An operand with its type."""

    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Inst:
    """``name``: of its result, empty if it has none. ``type``: of its result, and of what is stored. ``detail``: the predicate of a comparison, the
    function of a call, the source type of a getelementptr. ``blocks``: the labels of a branch, or where the arms of a phi come from."""

    name: str
    op: str
    type: str
    operands: tuple[Typed, ...] = ()
    detail: str = ""
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    insts: tuple[Inst, ...]

    @property
    def successors(self) -> tuple[str, ...]:
        return self.insts[-1].blocks


@dataclass(frozen=True, slots=True)
class Function:
    """Its blocks in order, the entry first."""

    name: str
    parameters: tuple[Typed, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Global:
    type: str
    constant: bool
    value: str


@dataclass(frozen=True)
class Module:
    types: Mapping[str, str]
    globals: Mapping[str, Global]
    functions: Mapping[str, Function]

    def size(self, type_: str) -> tuple[int, int]:
        """Bytes that a value takes in an array, and its alignment: the data layout of x86-64."""
        if type_ == "ptr":
            return 8, 8
        if type_[0] == "i":
            size = (bits(type_) + 7) // 8
            align = min(1 << (size - 1).bit_length(), 8)
            return -(-size // align) * align, align
        if type_[0] == "[":
            count, item = array(type_)
            size, align = self.size(item)
            return count * size, align
        end, align = 0, 1
        for offset, field in self.fields(type_):
            size, own = self.size(field)
            end, align = offset + size, max(align, own)
        return -(-end // align) * align, align

    def fields(self, type_: str) -> list[tuple[int, str]]:
        """The fields of a structure with their offsets."""
        body = self.types.get(type_, type_)
        if body[0] != "{":
            raise RtlError(f"type {type_}")
        found, end = [], 0
        for field in split(body[1:-1]):
            size, align = self.size(field)
            start = -(-end // align) * align
            found.append((start, field))
            end = start + size
        return found

    def scalars(self, type_: str, value: str, offset: int = 0) -> Iterator[tuple[int, int, int]]:
        """The numbers of an initializer: (offset in bytes, bits, number)."""
        blank = value in ("zeroinitializer", "undef", "poison")
        if type_[0] == "i":
            yield offset, bits(type_), 0 if blank else number(value)
        elif type_[0] == "[":
            count, item = array(type_)
            size, _ = self.size(item)
            if value.startswith('c"'):
                for place, byte in enumerate(_bytes(value)):
                    yield offset + place * size, 8, byte
                return
            items = [value] * count if blank else [text.removeprefix(item).strip() for text in split(value[1:-1])]
            for place, text in enumerate(items):
                yield from self.scalars(item, text, offset + place * size)
        else:
            fields = self.fields(type_)
            items = (
                [value] * len(fields)
                if blank
                else [text.removeprefix(field).strip() for text, (_, field) in zip(split(value[1:-1]), fields, strict=True)]
            )
            for text, (start, field) in zip(items, fields, strict=True):
                yield from self.scalars(field, text, offset + start)


def bits(type_: str) -> int:
    """The width of an integer type. RtlError for any other."""
    if not re.fullmatch(r"i[0-9]+", type_):
        raise RtlError(f"a number of type {type_}")
    return int(type_[1:])


def array(type_: str) -> tuple[int, str]:
    count, item = type_[1:-1].split(" x ", 1)
    return int(count), item


def number(text: str) -> int:
    named = {"true": 1, "false": 0, "undef": 0, "poison": 0, "zeroinitializer": 0}
    return named[text] if text in named else int(text)


def split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth, start = [], 0, 0
    quoted = False
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif letter in "([{<":
            depth += 1
        elif letter in ")]}>":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def typed(text: str) -> Typed:
    """A type, attributes, and an operand."""
    kind, rest = _leading(text.strip())
    return Typed(kind, _ATTRIBUTE.sub("", rest).strip())


def parse(text: str) -> Module:
    """Raises RtlError for what it does not know."""
    return _Parser(text).module


_ATTRIBUTE = re.compile(
    r"\b(noundef|nonnull|nocapture|readonly|readnone|noalias|signext|zeroext|inbounds|align \d+|dereferenceable(_or_null)?\(\d+\))(?=[ ,(]|$)"
)
_FLAGS = re.compile(r"\b(nuw|nsw|exact|disjoint|nneg|samesign|tail|musttail|notail|inbounds|volatile)\b ")
_NAME = r'[%@](?:"[^"]*"|[\w.$-]+)'
_BINARY = ("add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "udiv", "urem", "sdiv", "srem")
_CASTS = ("zext", "sext", "trunc")


def _leading(text: str) -> tuple[str, str]:
    """A type and what follows."""
    if text[0] in "[{":
        depth = 0
        for place, letter in enumerate(text):
            depth += (letter in "[{") - (letter in "]}")
            if depth == 0:
                return text[: place + 1], text[place + 1 :].strip()
    kind, _, rest = text.partition(" ")
    return kind, rest.strip()


def _bytes(text: str) -> Iterator[int]:
    place, end = 2, text.rindex('"')
    while place < end:
        if text[place] == "\\":
            yield int(text[place + 1 : place + 3], 16)
            place += 3
        else:
            yield ord(text[place])
            place += 1


class _Parser:
    def __init__(self, text: str) -> None:
        # Packed structures: what clang makes of arrays that end in zeros. Their fields are of one type, so that none would lie elsewhere.
        self._lines = text.replace("<{", "{").replace("}>", "}").splitlines()

    @cached_property
    def module(self) -> Module:
        types: dict[str, str] = {}
        globals_: dict[str, Global] = {}
        functions: dict[str, Function] = {}
        place = 0
        while place < len(self._lines):
            line = self._lines[place]
            place += 1
            if found := re.match(rf"({_NAME}) = type (.*)", line):
                types[found[1]] = found[2]
            elif found := re.match(rf"({_NAME}) = (.*?)\b(constant|global) (.*)", line):
                kind, value = _leading(split(found[4])[0])
                globals_[found[1]] = Global(kind, found[3] == "constant", value)
            elif line.startswith("define "):
                end = self._lines.index("}", place)
                made = _function(line, self._lines[place:end])
                functions[made.name] = made
                place = end + 1
        return Module(types, globals_, functions)


def _function(head: str, body: list[str]) -> Function:
    found = re.match(rf"define .*?({_NAME})\(", head)
    if found is None:
        raise RtlError(f"function {head}")
    depth, start = 1, found.end()
    end = start
    while depth:
        depth += (head[end] == "(") - (head[end] == ")")
        end += 1
    parameters = tuple(typed(text) for text in split(head[start : end - 1]))
    blocks: list[Block] = []
    label, insts = "entry", list[Inst]()
    lines = iter(body)
    for line in lines:
        if found := re.match(r'("[^"]*"|[\w.$-]+):', line):
            if insts:
                blocks.append(Block(label, tuple(insts)))
            label, insts = "%" + found[1], []
            continue
        text = line.strip()
        if text.startswith("switch"):
            while not text.endswith("]"):
                text += " " + next(lines).strip()
        if text and not text.startswith(";"):
            insts.append(_inst(_plain(text)))
    blocks.append(Block(label, tuple(insts)))
    if blocks[0].name == "entry":
        blocks[0] = Block("%entry", blocks[0].insts)
    return Function(found_name(head), parameters, tuple(blocks))


def found_name(head: str) -> str:
    found = re.search(rf"({_NAME})\(", head)
    assert found is not None
    return found[1][1:].strip('"')


def _plain(text: str) -> str:
    """Without metadata, attribute groups and alignment."""
    text = re.sub(r"(, ![\w.]+ ![\w.]+)+$", "", text)
    text = re.sub(r"( #\d+)+$", "", text)
    return re.sub(r", align \d+$", "", text)


def _inst(text: str) -> Inst:
    name = ""
    if found := re.match(rf"({_NAME}) = ", text):
        name, text = found[1], text[found.end() :]
    text = _FLAGS.sub("", text) if not text.startswith("call") else text
    op, _, rest = text.partition(" ")
    if op in _BINARY:
        kind, rest = _leading(rest)
        return Inst(name, op, kind, tuple(Typed(kind, value) for value in split(rest)))
    if op == "icmp":
        predicate, _, rest = rest.partition(" ")
        kind, rest = _leading(rest)
        return Inst(name, op, "i1", tuple(Typed(kind, value) for value in split(rest)), predicate)
    if op in _CASTS:
        value, _, kind = rest.rpartition(" to ")
        return Inst(name, op, kind, (typed(value),))
    if op == "freeze":
        return Inst(name, op, typed(rest).type, (typed(rest),))
    if op == "select":
        operands = tuple(map(typed, split(rest)))
        return Inst(name, op, operands[1].type, operands)
    if op == "phi":
        kind, rest = _leading(rest)
        arms = [split(arm.strip()[1:-1]) for arm in split(rest)]
        return Inst(name, op, kind, tuple(Typed(kind, value) for value, _ in arms), blocks=tuple(block for _, block in arms))
    if op == "load":
        kind, pointer = split(rest)[:2]
        return Inst(name, op, kind, (typed(pointer),))
    if op == "store":
        value, pointer = split(rest)[:2]
        return Inst("", op, typed(value).type, (typed(value), typed(pointer)))
    if op == "getelementptr":
        kind, *places = split(rest)
        return Inst(name, op, "ptr", tuple(map(typed, places)), kind)
    if op == "alloca":
        return Inst(name, op, "ptr", detail=split(rest)[0])
    if op == "br":
        parts = split(rest)
        labels = tuple(part.removeprefix("label ") for part in parts if part.startswith("label "))
        return Inst("", op, "", tuple(typed(part) for part in parts if not part.startswith("label ")), blocks=labels)
    if op == "switch":
        head, _, table = rest.partition("[")
        value, default = split(head)
        cases = re.findall(rf"(i\d+) (-?\w+), label ({_NAME})", table)
        labels = (default.removeprefix("label "), *(label for _, _, label in cases))
        return Inst("", op, "", (typed(value), *(Typed(kind, case) for kind, case, _ in cases)), blocks=labels)
    if op == "call" or text.startswith(("tail call ", "call ")):
        return _call(name, text)
    if op in ("ret", "unreachable"):
        return Inst("", op, "")
    raise RtlError(f"instruction {text}")


def _call(name: str, text: str) -> Inst:
    found = re.match(rf"(?:tail )?call (.*?)({_NAME})\(", text)
    if found is None:
        raise RtlError(f"call {text}")
    kind = _ATTRIBUTE.sub("", found[1]).split()[-1]
    given = [operand for operand in split(text[found.end() : text.rindex(")")]) if not operand.startswith("metadata")]
    return Inst(name, "call", kind, tuple(map(typed, given)), found[2][1:].strip('"'))
