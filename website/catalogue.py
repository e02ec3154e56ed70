"""The errors that qfx raises: their kinds, every message with its remedy as the sources have it, and what to do about operations without a form."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from qfx import errors
from qfx.capture.refusals.remedy_texts import TEXTS
from website.house import modules

KINDS = {name: value for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__}


def page() -> str:
    """All of them."""
    parts = [
        "# Errors\n",
        "Every error says what is wrong, where, and what to do about it; several at once are told together. A command ends with 2.\n",
        "```text\nerror: WHERE: WHAT\n  remedy: WHAT TO DO\n```\n",
        "| error | means |",
        "|---|---|",
        *(f"| `{name}` | {cell((inspect.getdoc(kind) or '').split(chr(10) + chr(10))[0].replace('``', '`'))} |" for name, kind in KINDS.items()),
        "\n## Operations without a form\n",
        "By the names of PyTorch and ONNX, without underscores; [layers](layers.md) lists those that have one.\n",
        "| operation | what to do |",
        "|---|---|",
    ]
    by_text: dict[str, list[str]] = defaultdict(list)
    for name, text in TEXTS.items():
        by_text[text].append(name)
    parts += [f"| {', '.join(f'`{name}`' for name in names)} | {cell(text)} |" for text, names in by_text.items()]
    parts += [
        "\n## Every message\n",
        "Read from the sources: search this page for the words of a message. `...` stands for what is only known when it is raised. "
        "Messages that are put together elsewhere are not among them.\n",
    ]
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for kind, what, remedy, module in raised(modules()):
        found[kind].add((what, remedy, module))
    for kind in KINDS:
        if found[kind]:
            parts += [f"### {kind}\n", "| what | what to do | raised in |", "|---|---|---|"]
            parts += [f"| {cell(what)} | {cell(remedy)} | `{module}` |" for what, remedy, module in sorted(found[kind])] + [""]
    return "\n".join(parts) + "\n"


def raised(tree: Mapping[str, ast.Module]) -> Iterator[tuple[str, str, str, str]]:
    """Kind, what, remedy and module of every error that is made with a text of its own."""
    for module, parsed in tree.items():
        for node in ast.walk(parsed):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args):
                continue
            what = words(node.args[0])
            remedies = [words(keyword.value) for keyword in node.keywords if keyword.arg == "remedy"]
            if what.replace("...", "").strip():
                yield node.func.id, what, remedies[0] if remedies else "", module


def words(node: ast.expr) -> str:
    """The text of an expression, with ``...`` for all that is not written there."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "..."
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left) + words(node.right)
    return "..."


def cell(text: str) -> str:
    """Text that a cell of a table takes as it is."""
    plain = re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
    return re.sub(r"(?<!\\)([*_\[\]])", r"\\\1", plain) if "`" not in plain else plain
