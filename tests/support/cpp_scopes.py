"""The blocks of preprocessed C++ and the names that are in scope at each place: as much as the checks of pragmas and of constructs need.

No compiler: statements are recognized by their shape, templates are not instantiated, and a qualified name that depends on a template parameter is
taken to exist. g++ and clang++ judge the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from support.cpp_preprocess import Token, words

Kind = Literal["file", "namespace", "class", "enum", "function", "loop", "branch", "compound"]
Sort = Literal["variable", "constant", "type", "function"]


@dataclass(frozen=True, slots=True)
class Name:
    """A declared name. ``dims`` counts the array bounds of a variable; ``type`` is what stands before the declarator, ``value`` the initializer."""

    name: str
    sort: Sort
    dims: int = 0
    type: tuple[str, ...] = ()
    value: tuple[Token, ...] = ()


@dataclass(slots=True)
class Block:
    """A pair of braces: what kind, its ``header`` (the tokens in front of the brace) and the names declared in it so far."""

    kind: Kind
    name: str
    header: tuple[Token, ...]
    parent: Block | None
    names: dict[str, Name] = field(default_factory=dict)
    parameters: tuple[Name, ...] = ()
    template: bool = False
    spaces: dict[str, dict[str, Name]] = field(default_factory=dict)
    """Of the file's block alone: what each namespace holds, over all the places that reopen it."""

    def outer(self) -> Iterator[Block]:
        """This block and those around it, from the inside out."""
        block: Block | None = self
        while block is not None:
            yield block
            block = block.parent

    def find(self, name: str) -> Name | None:
        return next((block.names[name] for block in self.outer() if name in block.names), None)

    def function(self) -> Block | None:
        return next((block for block in self.outer() if block.kind == "function"), None)

    def qualified(self) -> str:
        return "::".join(reversed([block.name for block in self.outer() if block.kind in ("namespace", "class", "function") and block.name]))


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at a place of the text, in order: a block opens or closes, a statement ends, a pragma stands there.

    ``tokens`` are the statement's (without its semicolon) or the one pragma; ``dangling`` tells of a pragma in the middle of a statement.
    """

    kind: Literal["open", "close", "statement", "pragma", "include"]
    block: Block
    tokens: tuple[Token, ...] = ()
    dangling: bool = False


BUILTIN = words("void bool char short int long signed unsigned float double wchar_t auto size_t")
_SPECIFIERS = words("static const constexpr inline extern typename volatile mutable register struct class explicit virtual friend")
_NO_TYPE = words(
    "return if else for while do switch case default goto break continue delete new throw using typedef operator public private protected "
    "template namespace enum this true false sizeof try catch static_assert __attribute__"
)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_OPEN = {"(": ")", "[": "]", "{": "}"}


def events(tokens: Sequence[Token]) -> Iterator[Event]:
    """The text of one translation unit as events. When an event comes, ``event.block`` knows just the names declared before it."""
    block = Block("file", "", (), None)
    held: list[Token] = []
    depth = 0  # of parentheses and brackets
    braces = 0  # of a braced initializer within a statement
    for token in tokens:
        if token.kind == "pragma":
            yield Event("pragma", block, (token,), dangling=bool(_unlabelled(held)))
            continue
        if token.kind == "include":
            yield Event("include", block, (token,))
            continue
        text = token.text if token.kind == "operator" else ""
        if text in ("(", "["):
            depth += 1
        elif text in (")", "]"):
            depth -= 1
        if text == "{" and (braces or depth or _initializes(held, block)):
            braces += 1
        elif text == "}" and braces:
            braces -= 1
        elif text == "{":
            block = _opened(tuple(_unlabelled(held)), block)
            held = []
            yield Event("open", block)
            continue
        elif text == "}":
            if held:  # the last enumerator, or an expression without a semicolon
                yield from _statement(held, block)
                held = []
            yield Event("close", block)
            if block.parent is not None:
                block = block.parent
            continue
        elif text == ";" and not depth and not braces:
            yield from _statement(held, block)
            held = []
            continue
        held.append(token)


def _statement(held: Sequence[Token], block: Block) -> Iterator[Event]:
    tokens = tuple(_unlabelled(held))
    if not tokens:
        return
    for name in declared(tokens, block):
        block.names[name.name] = name
    yield Event("statement", block, tokens)


def declared(tokens: Sequence[Token], block: Block) -> tuple[Name, ...]:
    """The names that a statement in ``block`` declares; none if it is no declaration."""
    body, parameters = split_template(tokens)
    if not body:
        return ()
    first = body[0].text
    if block.kind == "enum":
        return tuple(Name(part[0].text, "constant") for part in split(body) if part)
    if first == "using":
        return (Name(body[1].text, "type"),) if len(body) > 2 and body[2].text == "=" else ()
    if first == "typedef":
        return tuple(Name(name.name, "type", name.dims) for name in _declarators(body[1:]))
    if first in ("struct", "class", "union", "enum") and len(body) == 2:
        return (Name(body[1].text, "type"),)
    found = _declarators(body)
    if found and (parameters or (block.kind in ("file", "namespace", "class") and _declares_function(body))):
        return (Name(found[0].name, "function"),)
    return found


def _declares_function(body: Sequence[Token]) -> bool:
    """Is ``type name(...)`` outside of functions a function's declaration, rather than a variable with constructor arguments?"""
    at = _after_type(body)[0] + 1
    if at >= len(body) or body[at].text != "(":
        return False
    return all(part[0].kind == "id" for part in split(body[at + 1 : closing(body, at)]) if part)


def split_template(tokens: Sequence[Token]) -> tuple[Sequence[Token], tuple[Name, ...]]:
    """What follows ``template <...>``, and the parameters as names."""
    if not tokens or tokens[0].text != "template":
        return tokens, ()
    end = closing(tokens, 1)
    names = []
    for part in split(tokens[2:end]):
        head = part[: next((i for i, token in enumerate(part) if token.text == "="), len(part))]
        if head and head[-1].kind == "id" and len(head) > 1:
            names.append(Name(head[-1].text, "type" if head[0].text in ("class", "typename", "template") else "constant"))
    return tokens[end + 1 :], tuple(names) or (Name("", "type"),)


def split(tokens: Sequence[Token], separator: str = ",") -> list[list[Token]]:
    """The parts between separators outside of any brackets, angle brackets included."""
    parts: list[list[Token]] = [[]]
    depth = 0
    ends: list[int] = []
    for i, token in enumerate(tokens):
        text = token.text
        if token.kind == "operator":
            if text in _OPEN or (text == "<" and _opens_arguments(tokens, i)):
                depth += 1
                ends.append(closing(tokens, i))
            elif ends and i == ends[-1]:
                depth -= 1
                ends.pop()
        if text == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts if parts != [[]] else []


def _opens_arguments(tokens: Sequence[Token], at: int) -> bool:
    """Does the ``<`` at ``at`` open template arguments, rather than compare? They close again, and hold no assignment, comparison or semicolon."""
    if at == 0 or tokens[at - 1].kind != "id":
        return False
    end = closing(tokens, at)
    return tokens[end].text == ">" and not any(token.text in (";", "=", "&&", "||", "?", "==", "!=", "<=", ">=", "{") for token in tokens[at:end])


def closing(tokens: Sequence[Token], start: int) -> int:
    """Where the bracket that opens at ``start`` closes; the last index if it does not."""
    depth = 0
    opening = tokens[start].text
    ending = _OPEN.get(opening, ">")
    inner = 0  # other brackets inside angle brackets
    for i in range(start, len(tokens)):
        text = tokens[i].text
        if opening == "<" and text in "()[]" and text:
            inner += 1 if text in "([" else -1
        elif inner:
            continue
        elif text == opening:
            depth += 1
        elif text == ending:
            depth -= 1
            if depth == 0:
                return i
    return len(tokens) - 1


def not_constant(tokens: Sequence[Token], block: Block) -> str:
    """Why the tokens are no integer constant expression at the end of ``block`` as it stands, or the empty string."""
    if not tokens:
        return "it is empty"
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "number":
            if "." in token.text or (not token.text.startswith(("0x", "0X")) and re.search(r"[eEfF]", token.text)):
                return f"{token.text} is no integer"
        elif token.kind == "id":
            if token.text not in ("true", "false", "sizeof"):
                complaint, i = _not_constant_name(tokens, i, block)
                if complaint:
                    return complaint
                continue
        elif token.kind != "operator" or token.text in ("=", "{", "}", "[", "]", ";", "#", "++", "--", "."):
            return f"{token.text} does not belong there"
        i += 1
    return ""


def _not_constant_name(tokens: Sequence[Token], at: int, block: Block) -> tuple[str, int]:
    """The complaint about the name (qualified perhaps) at ``at``, and where it ends."""
    head, end = tokens[at].text, at + 1
    name = block.find(head)
    while end < len(tokens) and tokens[end].text in ("<", "::"):
        if tokens[end].text == "<":
            if name is None or name.sort not in ("type", "function"):
                break
            end = closing(tokens, end) + 1
        else:
            end += 2
            if name is not None and name.sort not in ("type", "function"):
                return f"{head} is no type", end
            if name is None and all(each.name != head for each in block.outer()):
                return f"{head} is not in scope", end
            if end >= len(tokens) or tokens[end].text not in ("::", "<"):
                return "", end
    if name is None:
        return f"{head} is not in scope", end
    if name.sort != "constant":
        return f"{head} is a {name.sort}, not a constant", end
    if name.value and name.value != tuple(tokens) and not_constant(name.value, block):
        return f"{head} is const, but known only at run time", end
    return "", end


def _unlabelled(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without labels and access specifiers in front (``name :``)."""
    while len(tokens) >= 2 and tokens[0].kind == "id" and tokens[1].text == ":" and tokens[0].text not in ("case", "default"):
        tokens = tokens[2:]
    return tokens


def _initializes(held: Sequence[Token], block: Block) -> bool:
    """Does the brace that follows open an initializer, not a block?"""
    body, _ = split_template(_unlabelled(held))
    if not body or body[0].text in ("struct", "class", "union", "enum", "namespace", "extern", "do", "else", "try"):
        return False
    if any(token.text == "=" and before.text != "operator" for before, token in pairwise([body[0], *_outside_parentheses(body)])):
        return body[0].text not in ("for", "if", "while", "switch", "else")
    return body[-1].kind == "id" and body[-1].text not in ("const", "noexcept", "override", "final") and block.kind not in ("file", "namespace")


def _outside_parentheses(tokens: Sequence[Token]) -> list[Token]:
    """The tokens outside of parentheses."""
    outside, depth = [], 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            outside.append(token)
    return outside


def _opened(header: tuple[Token, ...], parent: Block) -> Block:
    body, templated = split_template(header)
    while body and body[0].text == "template":
        body, more = split_template(body)
        templated += more
    texts = [token.text for token in body]
    first = texts[0] if texts else ""
    names = {name.name: name for name in templated if name.name}
    if first in ("namespace", "extern"):
        block = Block("namespace", texts[1] if first == "namespace" and len(texts) > 1 else "", header, parent)
        block.names = _root(parent).spaces.setdefault(block.qualified(), {})
        parent.names.setdefault(block.name, Name(block.name, "type"))
        return block
    if first in ("struct", "class", "union", "enum") and "(" not in texts:
        name = next((text for text in texts[1:] if _IDENTIFIER.fullmatch(text) and text not in ("class", "struct")), "")
        parent.names[name] = Name(name, "type")
        return Block("enum" if first == "enum" else "class", name, header, parent, names, template=bool(templated))
    if parent.kind in ("file", "namespace", "class"):
        return _function(header, body, parent, names, bool(templated))
    if first in ("for", "while", "do"):
        block = Block("loop", first, header, parent)
        if first == "for" and "(" in texts:
            initial = split(body[2 : closing(body, 1)], ";")
            for declaration in declared(initial[0], block) if initial else ():
                block.names[declaration.name] = declaration
        return block
    return Block("branch" if first in ("if", "else", "switch", "case") else "compound", first, header, parent)


def _function(header: tuple[Token, ...], body: Sequence[Token], parent: Block, names: dict[str, Name], template: bool) -> Block:
    depth = 0
    at = len(body)
    for i, token in enumerate(body):
        depth += (token.text == "<") - (token.text == ">")
        if token.text == "(" and depth == 0:
            at = i
            break
    name = body[at - 1].text if at else ""
    if any(token.text == "operator" for token in body[:at]):
        name = "operator"
    parameters = tuple(found[0] for part in split(body[at + 1 : closing(body, at)]) if (found := _declarators(part))) if at < len(body) else ()
    parent.names.setdefault(name, Name(name, "function"))
    return Block("function", name, header, parent, {**names, **{each.name: each for each in parameters}}, parameters, template)


def _root(block: Block) -> Block:
    return list(block.outer())[-1]


def _declarators(tokens: Sequence[Token]) -> tuple[Name, ...]:
    """The variables of ``type a[2], b = 3``; empty if the tokens have another shape."""
    at, constant = _after_type(tokens)
    if at == 0 or at >= len(tokens):
        return ()
    type_ = tuple(token.text for token in tokens[:at])
    found: list[Name] = []
    for part in split(tokens[at:]):
        name = _declarator(part, type_, constant)
        if name is None:
            return tuple(found)
        found.append(name)
    return tuple(found)


def _after_type(tokens: Sequence[Token]) -> tuple[int, bool]:
    """Where the type at the front ends (0: there is none), and whether it says const or constexpr."""
    at, constant, named = 0, False, False
    while at < len(tokens):
        token = tokens[at]
        text = token.text
        if text in _SPECIFIERS:
            constant = constant or text in ("const", "constexpr")
            at += 1
        elif text in BUILTIN:
            named = True
            at += 1
        elif token.kind == "id" and not named and text not in _NO_TYPE:
            named = True
            at += 1
            while at < len(tokens) and tokens[at].text in ("<", "::"):
                at = closing(tokens, at) + 1 if tokens[at].text == "<" else at + 2
                if at < len(tokens) and tokens[at - 1].text == "template":
                    at += 1
        elif text in ("*", "&", "&&") and named:
            constant = False  # a reference or a pointer to const is no constant
            at += 1
        else:
            break
    return (at if named else 0), constant


def _declarator(part: Sequence[Token], type_: tuple[str, ...], constant: bool) -> Name | None:
    while part and part[0].text in ("*", "&", "&&", "const"):
        part = part[1:]
    if len(part) > 3 and part[0].text == "(" and part[1].text in ("*", "&") and part[3].text == ")":
        if len(part) > 4 and part[4].text == "(":
            return Name(part[2].text, "variable", 0, (*type_, "(*)"))
        part, constant = [part[2], *part[4:]], False
    if not part or part[0].kind != "id" or part[0].text in _NO_TYPE:
        return None
    name, dims, at = part[0].text, 0, 1
    while at < len(part) and part[at].text == "[":
        dims += 1
        at = closing(part, at) + 1
    if at < len(part) and not (part[at].text in ("=", "(", ":", "{") or part[at].kind == "initializer"):
        return None
    value = tuple(part[at + 1 :]) if at < len(part) and part[at].text == "=" else ()
    return Name(name, "constant" if constant and value and not dims else "variable", dims, type_, value)
