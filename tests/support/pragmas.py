"""Every ``#pragma HLS`` of the emitted C++ against the grammar of the tool that will read it, in the place and the scope where it stands.

The tools warn of a pragma that they cannot use and go on without it: a design that is slow, large or wrong instead of an error. Here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qfx.errors import ProjectError
from support.cpp_preprocess import Finding, Token, evaluate, preprocess, synthesized, tokenize, translation_units, words
from support.cpp_scopes import BUILTIN, Block, Event, Name, events, not_constant
from support.pragma_grammar import CORES, INTERFACE_OPTIONS, PRAGMAS, STORAGE, Option, Place, Pragma, Tool, Value

_ONCE = frozenset({"pipeline", "unroll", "dataflow", "inline", "loop_flatten", "loop_tripcount"})
_OF_VARIABLES = words(
    "array_partition array_reshape array_map resource bind_storage bind_op data_pack aggregate disaggregate dependence stream stable reset"
)
_OTHERS = frozenset({"once", "GCC", "clang", "STDC"})
_OPERATORS = words("+ - * / % & | ^ << < > <= >= == != && || ? :")


def check(files: Mapping[str, str], tool: Tool, *, top: str | None = None) -> tuple[Finding, ...]:
    """What ``tool`` would reject, ignore or misread of the pragmas in the synthesized files of a project (paths to texts), in order of place.

    ``top`` names the top function, the only one that may have interfaces (None: any function outside of namespaces may). Pragmas in macros count
    where the macro is used; code that ``tool`` does not see (``#ifndef __SYNTHESIS__``) is not checked. Raises ProjectError for text that is no C++.
    """
    sources = synthesized(files)
    found: dict[tuple[str, int, str], Finding] = {}
    for unit in translation_units(sources):
        for finding in _Checker(tool, top).run(preprocess(sources, unit, tool.macros)):
            found.setdefault((finding.path, finding.line, finding.what), finding)
    return tuple(found[key] for key in sorted(found))


@dataclass(frozen=True, slots=True)
class _Given:
    """An option as written: ``tokens`` are its value's."""

    option: Option
    tokens: tuple[Token, ...]

    @property
    def word(self) -> str:
        return self.tokens[0].text.strip('"').lower() if self.tokens else ""


class _ComplaintError(Exception):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class _Checker:
    """One translation unit."""

    def __init__(self, tool: Tool, top: str | None) -> None:
        self._tool = tool
        self._top = top
        self._seen: dict[int, set[str]] = {}  # by block: what may stand there once
        self._inlined = set[int]()  # functions

    def run(self, tokens: Sequence[Token]) -> Iterator[Finding]:
        for event in events(tokens):
            if event.kind == "open":
                self._seen[id(event.block)] = set()
            elif event.kind == "pragma":
                token = event.tokens[0]
                for complaint in self._pragma(event):
                    yield Finding(token.path, token.line, f"#pragma {_shown(token.text)}: {complaint.what}", complaint.remedy)

    def _pragma(self, event: Event) -> Iterator[_ComplaintError]:
        token = event.tokens[0]
        try:
            tokens = tokenize(token.text, token.path, token.line)
        except ProjectError as error:
            yield _ComplaintError(error.what, error.remedy)
            return
        family = tokens[0].text if tokens else ""
        if family != "HLS":
            if family not in _OTHERS:
                yield _ComplaintError(f"{family or 'nothing'} is no family of pragmas that the tools know", "write HLS, in capitals")
            return
        pragma = PRAGMAS.get(tokens[1].text.lower()) if len(tokens) > 1 else None
        if pragma is None:
            yield _ComplaintError("there is no such pragma", f"use one of {', '.join(sorted(PRAGMAS)).upper()}")
            return
        if self._tool not in pragma.tools:
            yield _ComplaintError(f"{self._tool.value} does not take it", f"use {pragma.instead}" if pragma.instead else "leave it out for this tool")
            return
        try:
            given = _parse(pragma, tokens[2:], self._tool)
        except _ComplaintError as complaint:
            yield complaint
            return
        yield from self._place(pragma, event)
        unfit = tuple(_options(pragma, given))
        yield from unfit
        for each in given.values():
            yield from self._value(each, event.block)
        if not unfit:
            yield from self._rules(pragma, given, event.block)

    def _place(self, pragma: Pragma, event: Event) -> Iterator[_ComplaintError]:
        block, place = event.block, pragma.place
        if event.dangling:
            yield _ComplaintError("it stands inside a statement", "put it behind the opening brace or after a semicolon")
        fits = {
            Place.FUNCTION: block.kind == "function",
            Place.LOOP: block.kind == "loop",
            Place.FUNCTION_OR_LOOP: block.kind in ("function", "loop"),
            Place.WITHIN_FUNCTION: block.function() is not None,
            Place.TOP: self._is_top(block),
        }[place]
        if not fits:
            yield _ComplaintError(f"it must stand in {place.value}, not in {_described(block)}", "move it")
        seen = self._seen.setdefault(id(block), set())
        if pragma.name in _ONCE:
            if pragma.name in seen:
                yield _ComplaintError("this block has one already", "keep one of them")
            if {"pipeline", "dataflow"} <= seen | {pragma.name}:
                yield _ComplaintError("PIPELINE and DATAFLOW exclude each other", "keep one of them")
            seen.add(pragma.name)

    def _is_top(self, block: Block) -> bool:
        outside = block.kind == "function" and not block.template and block.qualified() == block.name
        return outside and (self._top is None or block.name == self._top)

    def _value(self, given: _Given, block: Block) -> Iterator[_ComplaintError]:
        option, tokens = given.option, given.tokens
        if option.value is Value.INTEGER:
            complaint = not_constant(tokens, block)
            if complaint:
                yield _ComplaintError(
                    f"{option.name} is no constant expression: {complaint}", "use literals, template parameters and static constants"
                )
            value = evaluate([token.text for token in tokens])
            if value is not None and not (option.low is None or option.low <= value) & (option.high is None or value <= option.high):
                bounds = f"{option.low} or more" if option.high is None else f"{option.low} to {option.high}"
                yield _ComplaintError(f"{option.name}={value} is out of range", f"use {bounds}")
        elif option.value is Value.WORD and option.words and given.word not in option.words:
            yield _ComplaintError(f"{option.name}={given.word} is unknown", f"use one of {', '.join(sorted(option.words))}")
        elif option.value is Value.VARIABLE:
            yield from _variables(option, tokens, block)
        elif option.value is Value.PORT:
            function = block.function()
            names = {each.name for each in function.parameters} if function else set()
            for token in tokens:
                if token.text not in (",", "return") and token.text not in names:
                    yield _ComplaintError(f"{token.text} is no parameter of the function", "name a parameter, or return")

    def _rules(self, pragma: Pragma, given: Mapping[str, _Given], block: Block) -> Iterator[_ComplaintError]:
        """What holds between options, or between an option and the code around."""
        if pragma.name == "inline" and "off" not in given:
            self._inlined.add(id(block))
        if pragma.name in _OF_VARIABLES and "variable" in given:
            yield from self._own(given["variable"].tokens, block)
        if pragma.name == "array_reshape":
            for name in _named(given["variable"].tokens, block):
                if "const" not in name.type:  # UG1399 does not say that stores of the numbers of a word are merged into one
                    yield _ComplaintError(f"{name.name} is written, number by number", "use words: qfx::memory_word")
        if pragma.name == "pipeline":
            style = given["style"].word if "style" in given else ""
            if "off" in given and len(given) > 1:
                yield _ComplaintError("off goes with no other option", "leave the others out")
            if "rewind" in given and style not in ("", "stp", "flp"):  # UG1448, 207-5512; AMD's hls_fft.h has loops with both rewind and flp
                yield _ComplaintError(f"rewind and style={style} exclude each other", "leave one out")
            if "rewind" in given and block.kind == "function":
                yield _ComplaintError("rewind is for loops", "leave it out")
            if "enable_flush" in given and block.kind == "loop":
                yield _ComplaintError(
                    f"{self._tool.value} flushes pipelined functions only, not loops", "leave enable_flush out, and give FIFOs room"
                )
        elif pragma.name in ("array_partition", "array_reshape"):
            yield from _partition(given, block)
        elif pragma.name == "interface":
            yield from self._interface(given, block)
        elif pragma.name == "resource" and given["core"].word not in CORES:
            yield _ComplaintError(f"there is no core {given['core'].word}", f"use one of {', '.join(sorted(CORES))}")
        elif pragma.name == "bind_storage" and "impl" in given and given["impl"].word not in STORAGE.get(given["type"].word, {given["impl"].word}):
            yield _ComplaintError(
                f"{given['type'].word} cannot be {given['impl'].word}", f"use one of {', '.join(sorted(STORAGE[given['type'].word]))}"
            )
        elif pragma.name == "latency" and not given:
            yield _ComplaintError("min and max are both missing", "give one")
        elif pragma.name == "stream":
            for name in _named(given["variable"].tokens, block):
                if not name.dims and set(name.type) <= BUILTIN | {"const", "static"}:
                    yield _ComplaintError(f"{name.name} is neither a stream nor an array", "name a stream")
        elif pragma.name == "function_instantiate":
            function = block.function()
            for name in _named(given["variable"].tokens, block):
                if function is not None and name not in function.parameters:
                    yield _ComplaintError(f"{name.name} is no parameter", "name a parameter")

    def _own(self, tokens: Sequence[Token], block: Block) -> Iterator[_ComplaintError]:
        """What an inlined function says of its parameters is ignored (UG1399, "pragma HLS inline"). INLINE stands in front of the rest."""
        function = block.function()
        if function is not None and id(function) in self._inlined:
            for part in _parts(tokens):
                if block.find(part[0].text) in function.parameters:
                    yield _ComplaintError(f"{part[0].text} is a parameter of a function that is inlined", "say it where the variable is declared")

    def _interface(self, given: Mapping[str, _Given], block: Block) -> Iterator[_ComplaintError]:
        mode = given["mode"].word if "mode" in given else next((name for name in given if name in INTERFACE_OPTIONS), "")
        if mode not in INTERFACE_OPTIONS:
            return
        for name in given:
            if name not in (mode, "mode", "port") and name not in INTERFACE_OPTIONS[mode]:
                yield _ComplaintError(f"{mode} takes no {name}", "leave it out")
        ports = [token.text for token in given["port"].tokens if token.text != ","]
        control = mode.startswith("ap_ctrl_")
        if control and ports != ["return"]:
            yield _ComplaintError(f"{mode} is for the block: port=return", "name return")
        if "return" in ports and not control and mode != "s_axilite":
            yield _ComplaintError(f"the block's own interface cannot be {mode}", "use s_axilite or an ap_ctrl mode")
        if "offset" in given:
            tokens = given["offset"].tokens
            if mode == "m_axi" and given["offset"].word not in ("off", "slave", "direct"):
                yield _ComplaintError(f"offset={given['offset'].word} is unknown", "use off, slave or direct")
            if mode == "s_axilite" and not_constant(tokens, block):
                yield _ComplaintError(f"offset is no constant: {not_constant(tokens, block)}", "give an address")
        seen = self._seen.setdefault(id(block), set())
        for port in ports:
            key = f"{port} as {mode}"
            if key in seen:
                yield _ComplaintError(f"{key} stands twice", "keep one of them")
            seen.add(key)


def _parse(pragma: Pragma, tokens: Sequence[Token], tool: Tool) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    at = 0
    while at < len(tokens):
        token = tokens[at]
        option = pragma.option(token.text)
        if option is None:
            known = ", ".join(each.name for each in pragma.options if tool in each.tools)
            raise _ComplaintError(f"{token.text} is no option of it", f"its options are {known}" if known else "it has none")
        if tool not in option.tools:
            raise _ComplaintError(f"{tool.value} does not take {option.name} here", "leave it out for this tool")
        if option.name in given:
            raise _ComplaintError(f"{option.name} stands twice", "keep one of them")
        at += 1
        end = at
        has_value = at < len(tokens) and tokens[at].text == "="
        if option.value is Value.NONE:
            if has_value:
                raise _ComplaintError(f"{option.name} takes no value", "write the word alone")
        else:
            if not has_value:
                raise _ComplaintError(f"{option.name} needs a value", f"write {option.name} {option.value.value}")
            at += 1
            end = _value_end(tokens, at, option.value)
            if end == at:
                raise _ComplaintError(f"{option.name} needs a value", f"write {option.name} {option.value.value}")
        given[option.name] = _Given(option, tuple(tokens[at:end]))
        at = end
    return given


def _value_end(tokens: Sequence[Token], at: int, value: Value) -> int:
    if value is Value.INTEGER:
        return _expression_end(tokens, at)
    if value in (Value.VARIABLE, Value.PORT):
        end = _reference_end(tokens, at)
        while end < len(tokens) and tokens[end].text == ",":
            end = _reference_end(tokens, end + 1)
        return end
    if value is Value.NAME and at < len(tokens) and tokens[at].kind != "string":
        return _expression_end(tokens, at)
    return at + 1 if at < len(tokens) and tokens[at].kind in ("id", "string") else at


def _expression_end(tokens: Sequence[Token], at: int) -> int:
    """Where the expression at ``at`` ends: operands joined by operators."""
    while at < len(tokens) and tokens[at].text in ("-", "+", "~", "!"):
        at += 1
    at = _bracketed_end(tokens, at) if at < len(tokens) and tokens[at].text == "(" else _reference_end(tokens, at)
    if at + 1 < len(tokens) and tokens[at].text in _OPERATORS:
        return _expression_end(tokens, at + 1)
    return at


def _reference_end(tokens: Sequence[Token], at: int) -> int:
    """Where the number or the name (qualified, indexed, with members) at ``at`` ends."""
    if at < len(tokens) and tokens[at].text in ("&", "*"):
        at += 1
    if at >= len(tokens) or tokens[at].kind not in ("id", "number"):
        return at
    at += 1
    while at + 1 < len(tokens) and tokens[at].text in ("::", ".", "->", "["):
        at = _bracketed_end(tokens, at) if tokens[at].text == "[" else at + 2
    return at


def _bracketed_end(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for i in range(at, len(tokens)):
        depth += (tokens[i].text in ("(", "[")) - (tokens[i].text in (")", "]"))
        if depth == 0:
            return i + 1
    return len(tokens)


def _options(pragma: Pragma, given: Mapping[str, _Given]) -> Iterator[_ComplaintError]:
    groups: dict[str, str] = {}
    for name, each in given.items():
        group = each.option.group
        if group and group in groups:
            yield _ComplaintError(f"{groups[group]} and {name} exclude each other", "keep one of them")
        groups.setdefault(group, name)
    missing = [option.name for option in pragma.options if option.required and option.name not in given]
    if missing:
        yield _ComplaintError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", "give it")
    if pragma.one_of and pragma.one_of not in groups:
        words = [option.name for option in pragma.options if option.group == pragma.one_of and option.value is Value.NONE]
        yield _ComplaintError(f"its {pragma.one_of} is missing", f"give one of {', '.join(words)}")


def _variables(option: Option, tokens: Sequence[Token], block: Block) -> Iterator[_ComplaintError]:
    if not option.required and not tokens:
        return
    for part in _parts(tokens):
        if part[0].text in ("&", "*"):
            yield _ComplaintError(f"{part[0].text} in front of a variable", "leave it out")
            part = part[1:]
        if part[0].text in ("return", "this"):
            continue
        name = block.find(part[0].text)
        if name is None:
            yield _ComplaintError(
                f"there is no variable {part[0].text} in scope here", "name one that is declared above, in this function or around it"
            )
        elif name.sort not in ("variable", "constant"):
            yield _ComplaintError(f"{name.name} is a {name.sort}, not a variable", "name a variable")


def _named(tokens: Sequence[Token], block: Block) -> Iterator[Name]:
    """The variables that stand there without members or indices."""
    for part in _parts(tokens):
        name = block.find(part[0].text) if len(part) == 1 else None
        if name is not None and name.sort in ("variable", "constant"):
            yield name


def _parts(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _partition(given: Mapping[str, _Given], block: Block) -> Iterator[_ComplaintError]:
    kind = given["type"].word if "type" in given else next((name for name in ("cyclic", "block") if name in given), "complete")
    if kind == "complete" and "factor" in given:
        yield _ComplaintError("factor means nothing to a complete partition", "leave it out")
    if kind in ("cyclic", "block") and "factor" not in given:
        yield _ComplaintError(f"a {kind} partition needs a factor", "give factor")
    dim = evaluate([token.text for token in given["dim"].tokens]) if "dim" in given else 1
    for name in _named(given["variable"].tokens, block) if "variable" in given else ():
        if name.sort == "variable" and not name.dims:
            yield _ComplaintError(f"{name.name} is no array", "name an array")
        elif dim is not None and dim > name.dims:
            yield _ComplaintError(f"{name.name} has {name.dims} dimension{'s' * (name.dims != 1)}, not {dim}", f"use 0 (all) to {name.dims}")


def _described(block: Block) -> str:
    if block.kind in ("function", "class", "namespace"):
        return f"the {block.kind} {block.qualified()}"
    return {"loop": "a loop", "file": "the file itself", "enum": "an enum", "branch": "a branch"}.get(block.kind, "a bare block")


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
