"""What C++ the synthesized files may hold: no floating point, dynamic memory, recursion, virtual calls, exceptions or unbounded loops.

UG902 ("Unsupported C Constructs", "C++ Classes and Templates") and UG1399 ("Unsupported C/C++ Constructs") name what the tools refuse. That every
loop has constant bounds and braces, and that nothing but constants outlives a call, are this project's own rules: the cycle model counts on them.
So are that states have the bits that they need, and that arrays which travel are assigned number by number (docs/hls.md).
What outlives a call on purpose, the memories of constants that are loaded, has a type ``qfx::loaded<...>::type`` and stands in a namespace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from support.cpp_preprocess import Finding, Token, preprocess, synthesized, translation_units, words
from support.cpp_scopes import Block, Event, closing, declared, events, not_constant, split, split_template
from support.pragma_grammar import Tool

HEADERS = frozenset({"ap_axi_sdata.h", "ap_fixed.h", "ap_int.h", "hls_stream.h", "stddef.h", "stdint.h"})
"""The system headers that synthesized files may include."""

_FORBIDDEN: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("float", "double"), ("floating point", "compute on raw integers")),
    **dict.fromkeys(("new", "delete", "malloc", "calloc", "realloc", "free", "alloca"), ("dynamic memory", "use an array of constant size")),
    **dict.fromkeys(("virtual", "dynamic_cast", "typeid"), ("run-time polymorphism", "use a template parameter")),
    **dict.fromkeys(("try", "catch", "throw"), ("an exception", "leave it out")),
    **dict.fromkeys(("goto", "asm", "setjmp", "longjmp"), ("a jump that the tools cannot schedule", "use structured control flow")),
    "thread_local": ("a thread", "leave it out"),
    "reinterpret_cast": ("a cast between pointers", "use range() on the number"),
    "std": ("the standard library", "use the vendor's types, or #ifndef __SYNTHESIS__ around code for simulation"),
}
_FOLLOWED = {"std": "::", **dict.fromkeys(("malloc", "calloc", "realloc", "free", "alloca", "setjmp", "longjmp"), "(")}
"""Names that mean something else unless this follows."""

_NO_CALL = words("if for while switch return sizeof alignof decltype static_assert template typename operator catch noexcept const_cast static_cast")


def check(files: Mapping[str, str], tool: Tool) -> tuple[Finding, ...]:
    """The constructs in the synthesized files of a project (paths to texts) that ``tool`` refuses or that break this project's rules, by place.

    Code that ``tool`` does not see (``#ifndef __SYNTHESIS__``) is not checked. Raises ProjectError for text that is no C++.
    """
    sources = synthesized(files)
    found: dict[tuple[str, int, str], Finding] = {}
    for unit in translation_units(sources):
        tokens = preprocess(sources, unit, tool.macros)
        calls = _Calls()
        for finding in (*_words(tokens), *_constructs(tokens, calls), *calls.recursions()):
            found.setdefault((finding.path, finding.line, finding.what), finding)
    return tuple(found[key] for key in sorted(found))


def _finding(token: Token, what: str, remedy: str) -> Finding:
    return Finding(token.path, token.line, what, remedy)


def _words(tokens: Sequence[Token]) -> Iterator[Finding]:
    for i, token in enumerate(tokens):
        if token.kind == "id" and token.text in _FORBIDDEN:
            what, remedy = _FORBIDDEN[token.text]
            follows = _FOLLOWED.get(token.text)
            if follows is None or (i + 1 < len(tokens) and tokens[i + 1].text == follows):
                yield _finding(token, f"{token.text} is {what}", remedy)
        elif token.kind == "number" and _is_floating(token.text):
            yield _finding(token, f"{token.text} is floating point", "write an integer")
        elif token.kind == "include" and token.text not in HEADERS:
            yield _finding(token, f"<{token.text}> is no header for synthesis", f"use {', '.join(sorted(HEADERS))}")
        elif token.text == "[" and _is_lambda(tokens, i):
            yield _finding(token, "a lambda", "write a function or a struct with a static member")


def _is_floating(text: str) -> bool:
    return not text.startswith(("0x", "0X")) and re.search(r"[.eE]", text) is not None


def _is_lambda(tokens: Sequence[Token], at: int) -> bool:
    before = tokens[at - 1] if at else None
    indexes = before is not None and (before.kind in ("id", "string") or before.text in (")", "]"))
    starts = not indexes or (before is not None and before.text == "return")
    return starts and tokens[min(closing(tokens, at) + 1, len(tokens) - 1)].text in ("(", "{")


def _constructs(tokens: Sequence[Token], calls: _Calls) -> Iterator[Finding]:
    assigned = set[int]()  # the classes that have an operator=
    for event in events(tokens):
        if event.kind == "open":
            calls.opened(event.block)
            yield from _opening(event.block)
            if event.block.parent is not None and _is_assignment(event.block.header):
                assigned.add(id(event.block.parent))
        elif event.kind == "close" and event.block.kind == "class" and id(event.block) not in assigned:
            for name in event.block.names.values():
                if name.sort == "variable" and name.dims:
                    what = f"the array {name.name} of {event.block.name} is assigned as a whole"
                    yield _finding(event.block.header[0], what, "write an operator= with an unrolled loop over its numbers")
        elif event.kind == "statement":
            calls.statement(event)
            yield from _statement(event)


def _opening(block: Block) -> Iterator[Finding]:
    header = block.header
    if block.kind == "function":
        for parameter in block.parameters:
            if "(*)" in parameter.type:
                yield _finding(header[0], f"{parameter.name} is a pointer to a function", "use a template parameter")
    if not header or header[0].text not in ("for", "while", "do"):
        return
    if block.kind != "loop" or (header[0].text == "for" and closing(header, 1) != len(header) - 1):
        yield _finding(header[0], "a loop without braces", "add braces: a pragma in its body would belong to the block outside")
    elif header[0].text != "for":
        yield _finding(header[0], f"a {header[0].text} loop has no constant bound", "use a for loop over a constant range")
    else:
        complaint = _unbounded(header, block)
        if complaint:
            yield _finding(header[0], f"the loop's bounds are not constant: {complaint}", "write for (int i = constant; i < constant; i++)")


def _unbounded(header: Sequence[Token], block: Block) -> str:
    """Why ``for (...)`` is not a loop over a constant range."""
    parts = split(header[2:-1], ";")
    names = declared(parts[0], block) if len(parts) == 3 else ()
    if len(names) != 1 or len(parts[1]) < 3:
        return "it does not count one variable of its own"
    counter = names[0]
    start = not_constant(counter.value, block)
    if start:
        return f"it starts at no constant: {start}"
    if parts[1][0].text != counter.name or parts[1][1].text not in ("<", "<=", ">", ">=", "!="):
        return f"its condition does not compare {counter.name} with a constant"
    end = not_constant(parts[1][2:], block)
    if end:
        return end
    texts = [token.text for token in parts[2]]
    if texts in ([counter.name, "++"], ["++", counter.name], [counter.name, "--"], ["--", counter.name]):
        return ""
    step = not_constant(parts[2][2:], block) if len(texts) > 2 and texts[0] == counter.name and texts[1] in ("+=", "-=") else "no ++ or += constant"
    return f"its step is no constant: {step}" if step else ""


def _statement(event: Event) -> Iterator[Finding]:
    tokens, block = event.tokens, event.block
    first = tokens[0]
    if first.text in ("for", "while"):
        trailing = first.text == "while" and closing(tokens, 1) == len(tokens) - 1
        yield _finding(first, "a loop without braces" if not trailing else "a while loop has no constant bound", "write a for loop with braces")
        return
    names = declared(tokens, block)
    for name in names:
        if "(*)" in name.type:
            yield _finding(first, f"{name.name} is a pointer to a function", "use a template parameter")
    if not names or first.text in ("typedef", "using", "template", "extern", "friend"):
        return
    type_ = names[0].type
    if type_ == ("int",) and block.kind not in ("file", "namespace", "enum"):
        yield _finding(first, f"the state {names[0].name} has 32 bits", "use upto<N> or within<N>")
    if block.function() is not None and "static" in type_ and not {"const", "constexpr"} & set(type_):
        yield _finding(first, f"the static variable {names[0].name} outlives the call", "make it const, or pass the state through a stream")
    if block.kind in ("file", "namespace") and names[0].sort == "variable" and not {"const", "constexpr"} & set(type_) and not _is_loaded(type_):
        yield _finding(first, f"the global variable {names[0].name} outlives the call", "make it const, or pass it as an argument")


def _is_assignment(header: Sequence[Token]) -> bool:
    return any(first.text == "operator" and second.text == "=" for first, second in pairwise(header))


def _is_loaded(type_: Sequence[str]) -> bool:
    return tuple(type_[:5]) == ("static", "qfx", "::", "loaded", "<")


@dataclass(frozen=True)
class _Function:
    qualified: str
    name: str
    owner: str
    arity: int


@dataclass(frozen=True)
class _Call:
    name: str
    qualifier: str
    """The last name before ``::``; "::" alone for a global function, "." for a member of some object."""
    arity: int
    token: Token
    template: str = ""
    """The last qualifier again, if it has template arguments."""


class _Calls:
    """Who calls whom, by name, qualifier and number of arguments."""

    def __init__(self) -> None:
        self._calls: dict[_Function, list[_Call]] = {}
        self._specialized: set[str] = set()

    def opened(self, block: Block) -> None:
        if block.kind == "class":
            body = split_template(block.header)[0]
            if len(body) > 2 and body[2].text == "<":
                self._specialized.add(block.name)
        function = self._function(block)
        if function is not None:
            calls = self._calls.setdefault(function, [])
            calls.extend(_called(block.header, block) if block.kind != "function" else ())

    def statement(self, event: Event) -> None:
        function = self._function(event.block)
        if function is not None:
            self._calls.setdefault(function, []).extend(_called(event.tokens, event.block))

    def recursions(self) -> Iterator[Finding]:
        """A finding for every function that is on a circle of calls, at the call that closes it."""
        edges = {function: [(call, target) for call in calls for target in self._targets(function, call)] for function, calls in self._calls.items()}
        for function, calls in edges.items():
            for call, target in calls:
                if function == target or _reaches(edges, target, function):
                    yield _finding(call.token, f"{function.qualified} calls itself through {call.name}", "write a loop over a constant range")

    def _targets(self, caller: _Function, call: _Call) -> Iterable[_Function]:
        if call.template in self._specialized:
            return  # a template that ends in a specialization: unfolded by the compiler (UG902, "Using Templates to Implement Recursion")
        for function in self._calls:
            if function.name != call.name or function.arity != call.arity:
                continue
            if call.qualifier == "::":
                if not function.owner:
                    yield function
            elif call.qualifier == ".":
                if function != caller and function.owner:
                    yield function
            elif call.qualifier == "":
                if function.owner in ("", caller.owner):
                    yield function
            elif function.owner:  # of that class, or of any class if the qualifier is a template parameter
                if function.owner == call.qualifier or all(each.owner != call.qualifier for each in self._calls):
                    yield function
            elif call.qualifier in function.qualified.split("::"):
                yield function

    @staticmethod
    def _function(block: Block) -> _Function | None:
        function = block.function()
        if function is None:
            return None
        owner = function.parent.name if function.parent is not None and function.parent.kind == "class" else ""
        return _Function(function.qualified(), function.name, owner, len(function.parameters))


def _called(tokens: Sequence[Token], block: Block) -> Iterator[_Call]:
    for i, token in enumerate(tokens):
        if token.kind != "id" or token.text in _NO_CALL or i + 1 >= len(tokens):
            continue
        at = i + 1
        if tokens[at].text == "<":
            at = closing(tokens, at) + 1
        if at >= len(tokens) or tokens[at].text != "(":
            continue
        qualifier, template = _qualifier(tokens, i)
        known = block.find(token.text)
        if not qualifier and known is not None and known.sort != "function":
            continue  # a conversion, or the constructor of a variable
        arguments = split(tokens[at + 1 : closing(tokens, at)])
        yield _Call(token.text, qualifier, len(arguments), token, template)


def _qualifier(tokens: Sequence[Token], at: int) -> tuple[str, str]:
    """What stands before the called name, as _Call tells it, and that again if it has template arguments."""
    if at and tokens[at - 1].text == "template":
        at -= 1
    if at == 0 or tokens[at - 1].text not in ("::", ".", "->"):
        return "", ""
    if tokens[at - 1].text != "::":
        return ".", ""
    before = at - 2
    if before >= 0 and tokens[before].text == ">":
        depth = 0
        while before >= 0:
            depth += (tokens[before].text == ">") - (tokens[before].text == "<")
            before -= 1
            if depth == 0:
                break
        return (tokens[before].text, tokens[before].text) if before >= 0 else ("", "")
    named = before >= 0 and tokens[before].kind == "id" and tokens[before].text not in _NO_CALL
    return (tokens[before].text if named else "::"), ""


def _reaches(edges: Mapping[_Function, Sequence[tuple[_Call, _Function]]], start: _Function, goal: _Function) -> bool:
    seen: set[_Function] = set()
    waiting = [start]
    while waiting:
        function = waiting.pop()
        if function == goal:
            return True
        if function not in seen:
            seen.add(function)
            waiting.extend(target for _, target in edges.get(function, ()))
    return False
