"""Emitted C++ as tokens, as one tool's preprocessor leaves them: conditions decided, macros expanded, includes followed, pragmas kept.

Enough of C++11's translation phases (ISO/IEC 14882:2011, 2.2 and 16) for code that qfx writes itself; the vendor's headers are not read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from qfx.errors import ProjectError


class Token(NamedTuple):
    """``kind``: id, number, string, initializer (a braced list of numbers), operator, include (of a system header) or pragma (its text)."""

    kind: str
    text: str
    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a tool would reject or misread: where, what, and what to do."""

    path: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what} ({self.remedy})"


class _Raw(NamedTuple):
    kind: str
    text: str
    line: int


class _Piece(NamedTuple):
    """A directive (``name`` and its text), or text between directives (``name`` empty) as tokens."""

    name: str
    text: str
    line: int
    tokens: tuple[_Raw, ...]


@dataclass(frozen=True, slots=True)
class _Macro:
    parameters: tuple[str, ...] | None
    body: tuple[_Raw, ...]


_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t\r\f\v]|\\\n)+)
    |(?P<newline>\n)
    |(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
    |(?P<initializer>\{\s*[-0-9{][-\s0-9a-fA-FxXuUlL,{}]*\})
    |(?P<id>[A-Za-z_]\w*)
    |(?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<operator>\.\.\.|::|->|<<=|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|<<|\#\#|[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"^[ \t]*\#[ \t]*(\w*)((?:\\\n|[^\n])*)", re.MULTILINE)
_COMMENT = re.compile(r"//(?:\\\n|[^\n])*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)[uUlL]*")


def words(text: str) -> frozenset[str]:
    """A set of words, written as text."""
    return frozenset(text.split())


def synthesized(files: Mapping[str, str]) -> dict[str, str]:
    """The C++ files of a project that the tool synthesizes: all but the test bench's and the simulation's."""
    return {path: text for path, text in files.items() if path.endswith((".h", ".cpp")) and path.split("/")[0] not in ("tb", "sim")}


def tokenize(text: str, path: str, line: int) -> tuple[Token, ...]:
    """The tokens of a piece of text that starts on ``line``; nothing is expanded."""
    return tuple(Token(kind, found, path, at) for kind, found, at in _tokens(text, line))


def translation_units(files: Mapping[str, str]) -> tuple[str, ...]:
    """Where to start so that every C++ file is read: the ``.cpp`` files, then the headers that none of them includes."""
    sources = sorted(path for path in files if path.endswith(".cpp"))
    reached = {path for source in sources for path in _closure(files, source)}
    return (*sources, *(path for path in sorted(files) if path.endswith(".h") and path not in reached))


def preprocess(files: Mapping[str, str], start: str, defined: Mapping[str, str]) -> tuple[Token, ...]:
    """The tokens of ``start`` and of what it includes from ``files``, with the macros ``defined`` beforehand.

    Includes in angle brackets become tokens. Raises ProjectError for a quoted include that is not in ``files``, and for conditions that cannot
    be decided.
    """
    return tuple(_Preprocessor(files, {name: _Macro(None, tuple(_tokens(text, 0))) for name, text in defined.items()}).run(start))


def evaluate(texts: Sequence[str]) -> int | None:
    """The value of an expression of integer literals, as the preprocessor would compute it; None if it holds anything else."""
    try:
        value, rest = _binary(list(texts), 0)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return value if not rest else None


class _Preprocessor:
    def __init__(self, files: Mapping[str, str], macros: dict[str, _Macro]) -> None:
        self._files = files
        self._macros = macros

    def run(self, path: str) -> Iterator[Token]:
        active: list[tuple[bool, bool]] = []  # of every open condition: is its present branch taken, was one taken before
        for piece in _pieces(self._files[path]):
            taken = all(now for now, _ in active)
            if piece.name in ("if", "ifdef", "ifndef"):
                holds = taken and self._condition(piece, path)
                active.append((holds, holds))
            elif piece.name in ("elif", "else", "endif"):
                if not active:
                    raise ProjectError(f"#{piece.name} without #if", where=f"{path}:{piece.line}", remedy="close what is open")
                before = active.pop()[1]
                if piece.name != "endif":
                    outer = all(now for now, _ in active)
                    holds = outer and not before and (piece.name == "else" or self._condition(piece, path))
                    active.append((holds, before or holds))
            elif taken:
                yield from self._piece(piece, path)
        if active:
            raise ProjectError("a condition is never closed", where=path, remedy="add #endif")

    def _piece(self, piece: _Piece, path: str) -> Iterator[Token]:
        if not piece.name:
            yield from self._text(piece.tokens, path)
        elif piece.name == "define":
            name, macro = _definition(piece)
            self._macros[name] = macro
        elif piece.name == "undef":
            self._macros.pop(piece.text.strip(), None)
        elif piece.name == "include":
            target = piece.text.strip()
            if target.startswith("<"):
                yield Token("include", target[1:-1], path, piece.line)
            else:
                yield from self.run(_resolve(self._files, path, target[1:-1], piece.line))
        elif piece.name == "pragma":
            yield Token("pragma", piece.text.strip(), path, piece.line)

    def _text(self, tokens: Sequence[_Raw], path: str) -> Iterator[Token]:
        expanded = tokens if self._macros.keys().isdisjoint(token.text for token in tokens) else self._expand(tokens, frozenset())
        i = 0
        while i < len(expanded):
            kind, text, line = expanded[i]
            if text == "_Pragma" and i + 3 < len(expanded) and expanded[i + 2].kind == "string":
                quoted = expanded[i + 2].text
                yield Token("pragma", re.sub(r"\\(.)", r"\1", quoted[1:-1]), path, line)
                i += 4
                continue
            yield Token(kind, text, path, line)
            i += 1

    def _expand(self, tokens: Sequence[_Raw], hidden: frozenset[str]) -> list[_Raw]:
        done: list[_Raw] = []
        i = 0
        while i < len(tokens):
            token = tokens[i]
            i += 1
            macro = self._macros.get(token.text) if token.kind == "id" and token.text not in hidden else None
            if macro is None:
                done.append(token)
                continue
            body: Sequence[_Raw] = macro.body
            if macro.parameters is not None:
                if i >= len(tokens) or tokens[i].text != "(":
                    done.append(token)
                    continue
                arguments, i = _arguments(tokens, i)
                body = self._substitute(macro, arguments, hidden)
            moved = [_Raw(each.kind, each.text, token.line) for each in body]
            done.extend(self._expand(moved, hidden | {token.text}))
        return done

    def _substitute(self, macro: _Macro, arguments: list[list[_Raw]], hidden: frozenset[str]) -> list[_Raw]:
        assert macro.parameters is not None
        values = dict(zip(macro.parameters, arguments, strict=False))
        if "__VA_ARGS__" in macro.parameters:
            values["__VA_ARGS__"] = _joined(arguments[len(macro.parameters) - 1 :])
        done: list[_Raw] = []
        for i, token in enumerate(macro.body):
            if token.text == "#":
                continue
            if token.text not in values:
                done.append(token)
            elif i and macro.body[i - 1].text == "#":
                text = " ".join(each.text for each in values[token.text]).replace("\\", "\\\\").replace('"', '\\"')
                done.append(_Raw("string", f'"{text}"', token.line))
            elif any(0 <= at < len(macro.body) and macro.body[at].text == "##" for at in (i - 1, i + 1)):
                done.extend(values[token.text])
            else:
                done.extend(self._expand(values[token.text], hidden))
        return _pasted(done)

    def _condition(self, piece: _Piece, path: str) -> bool:
        if piece.name in ("ifdef", "ifndef"):
            return (piece.text.strip() in self._macros) == (piece.name == "ifdef")
        words = [token for token in _tokens(piece.text, piece.line) if token.kind != "comment"]
        known = re.sub(r"defined\s*(?:\(\s*(\w+)\s*\)|(\w+))", lambda match: str(int((match[1] or match[2]) in self._macros)), _spaced(words))
        expanded = self._expand(_tokens(known, piece.line), frozenset())
        value = evaluate(["0" if token.kind == "id" else token.text for token in expanded])
        if value is None:
            raise ProjectError(
                f"the condition #{piece.name} {piece.text.strip()!r} cannot be decided", where=f"{path}:{piece.line}", remedy="simplify it"
            )
        return value != 0


@lru_cache(maxsize=512)
def _pieces(text: str) -> tuple[_Piece, ...]:
    pieces, at, line = [], 0, 1
    for match in _DIRECTIVE.finditer(text):
        if match.start() < at:
            continue
        between = text[at : match.start()]
        if between:
            pieces.append(_Piece("", "", line, tuple(_tokens(between, line))))
        line += between.count("\n")
        content = _COMMENT.sub(" ", match[2].replace("\\\n", " ")) if match[1] != "include" else match[2]
        pieces.append(_Piece(match[1], content, line, ()))
        line += match[0].count("\n")
        at = match.end()
    if text[at:]:
        pieces.append(_Piece("", "", line, tuple(_tokens(text[at:], line))))
    return tuple(pieces)


def _tokens(text: str, line: int) -> list[_Raw]:
    done, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ProjectError(f"cannot read {text[at : at + 20]!r}", where=f"line {line}", remedy="write plain C++11")
        kind, found = str(match.lastgroup), match[0]
        if kind == "initializer":
            found = _balanced(found)
        at += len(found)
        if kind not in ("blank", "newline", "comment"):
            done.append(_Raw(kind, found, line))
        line += found.count("\n")
    return done


def _balanced(text: str) -> str:
    """The braced list at the front of ``text``."""
    if text.count("{") == text.count("}"):
        return text
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[: i + 1]
    return "{"  # an unclosed list: take the brace alone


def _definition(piece: _Piece) -> tuple[str, _Macro]:
    match = re.match(r"\s*(\w+)(\(([^)]*)\))?", piece.text)
    if match is None:
        raise ProjectError(f"#define {piece.text}", where=f"line {piece.line}", remedy="name the macro")
    parameters = None
    if match[2] is not None:
        parameters = tuple(name.strip().replace("...", "__VA_ARGS__") for name in match[3].split(",") if name.strip())
    return match[1], _Macro(parameters, tuple(_tokens(piece.text[match.end() :], piece.line)))


def _arguments(tokens: Sequence[_Raw], start: int) -> tuple[list[list[_Raw]], int]:
    """The arguments of the macro call whose parenthesis opens at ``start``, and where it ends."""
    arguments: list[list[_Raw]] = [[]]
    depth = 0
    for i in range(start, len(tokens)):
        text = tokens[i].text
        depth += (text in "([{") - (text in ")]}") if len(text) == 1 else 0
        if depth == 0:
            return arguments, i + 1
        if text == "," and depth == 1:
            arguments.append([])
        elif i > start:
            arguments[-1].append(tokens[i])
    raise ProjectError("a macro call is never closed", where=f"line {tokens[start].line}", remedy="close its parenthesis")


def _pasted(tokens: list[_Raw]) -> list[_Raw]:
    """With the tokens to the left and right of every ## as one."""
    done: list[_Raw] = []
    for i, token in enumerate(tokens):
        if i and tokens[i - 1].text == "##" and done:
            done[-1] = _Raw(done[-1].kind, done[-1].text + token.text, done[-1].line)
        elif token.text != "##":
            done.append(token)
    return done


def _joined(arguments: list[list[_Raw]]) -> list[_Raw]:
    done: list[_Raw] = []
    for i, argument in enumerate(arguments):
        done.extend([_Raw("operator", ",", argument[0].line if argument else 0)] if i else [])
        done.extend(argument)
    return done


def _spaced(tokens: Sequence[_Raw]) -> str:
    return " ".join(token.text for token in tokens)


def _resolve(files: Mapping[str, str], includer: str, target: str, line: int) -> str:
    """Beside the file that includes it, at the root, or in an ``include`` folder, as the projects' compilers search."""
    for folder in (posixpath.dirname(includer), "", "include"):
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in files:
            return path
    raise ProjectError(f'#include "{target}" is not among the files', where=f"{includer}:{line}", remedy="emit the header")


def _closure(files: Mapping[str, str], start: str) -> set[str]:
    """``start`` and what it includes, under whatever condition."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting.extend(
            _resolve(files, path, piece.text.strip()[1:-1], piece.line)
            for piece in _pieces(files[path])
            if piece.name == "include" and piece.text.strip().startswith('"')
        )
    return reached


_LEVELS = ("||", "&&", "|", "^", "&", "== !=", "< > <= >=", "<<", "+ -", "* / %")  # from the loosest
_PRECEDENCE = {operator: level for level, operators in enumerate(_LEVELS, start=1) for operator in operators.split()}


def _binary(texts: list[str], level: int) -> tuple[int, list[str]]:
    """The value of the expression at the front whose operators bind tighter than ``level``, and what follows it."""
    left, texts = _unary(texts)
    while texts and texts[0] != ")":
        operator = texts[0]
        bound = _PRECEDENCE.get(operator)
        if bound is None:
            raise ValueError(operator)
        if bound <= level:
            return left, texts
        right, texts = _binary(texts[1:], bound)
        left = _apply(operator, left, right)
    return left, texts


def _unary(texts: list[str]) -> tuple[int, list[str]]:
    first, rest = texts[0], texts[1:]
    if first == "(":
        value, rest = _binary(rest, 0)
        if rest[0] != ")":
            raise ValueError(rest[0])
        return value, rest[1:]
    if first in ("!", "-", "+", "~"):
        value, rest = _unary(rest)
        return {"!": int(not value), "-": -value, "+": value, "~": ~value}[first], rest
    match = _NUMBER.fullmatch(first)
    if match is None:
        raise ValueError(first)
    digits = match[1]
    return int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") and digits != "0" else 10), rest


def _apply(operator: str, a: int, b: int) -> int:
    if operator in ("/", "%"):
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if operator == "/" else a - quotient * b
    values = {
        "||": int(bool(a or b)),
        "&&": int(bool(a and b)),
        "|": a | b,
        "^": a ^ b,
        "&": a & b,
        "==": int(a == b),
        "!=": int(a != b),
        "<": int(a < b),
        ">": int(a > b),
        "<=": int(a <= b),
        ">=": int(a >= b),
        "<<": a << b if 0 <= b < 64 else 0,
        "+": a + b,
        "-": a - b,
        "*": a * b,
    }
    return values[operator]
