"""Reference pages that are made from the definitions: commands, operators, boards."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator

import click

from qfx.cli import main
from qfx.hardware.board import boards
from qfx.ir.operator import Operator
from qfx.operators import OPERATORS
from website import keys


def commands() -> str:
    """Every command with its options."""
    parts = [
        "# Command reference\n",
        "What all commands have in common stands in [the commands](commands.md); [every option](#every-option) is listed at the end.\n",
    ]
    for name, command in main.commands.items():
        context = click.Context(command, info_name=name, parent=click.Context(main, info_name="qfx"))
        usage = " ".join(["qfx", name, *(word for word in command.collect_usage_pieces(context) if word != "[OPTIONS]"), "[OPTIONS]"])
        told = inspect.cleandoc(command.help or "").replace("\b\n", "\n")
        parts += [f"## qfx {name}\n", f"```text\n{usage}\n```\n", _indented(told), ""]
        rows = [found for option in command.params if isinstance(option, click.Option) and (found := option.get_help_record(context)) is not None]
        if rows:
            parts += ["| option | means |", "|---|---|", *(f"| `{_cell(names)}` | {_cell(text)} |" for names, text in rows), ""]
    return "\n".join([*parts, *_every_option()])


def _every_option() -> Iterator[str]:
    """Each option once, and the commands that have it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                found[", ".join(f"`{word}`" for word in option.opts)].append(f"`{name}`")
    yield from ("## Every option\n", "Names that stand beside the first are other names of the same.\n", "| option | in |", "|---|---|")
    yield from (f"| {names} | {', '.join(commands)} |" for names, commands in sorted(found.items(), key=lambda row: row[0].lstrip("`-")))
    yield ""


def _indented(text: str) -> str:
    """Indented lines as code."""
    return re.sub(r"((?:^  .*\n?)+)", lambda match: f"\n```text\n{match.group(1).rstrip()}\n```\n", text, flags=re.MULTILINE)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def operators() -> str:
    """Every operator: what it computes, its forms in the file, and what hardware it is."""
    parts = [
        "# Operators\n",
        "What a [graph](architecture.md) is made of: the operators of `qfx.operators`, as their definitions say. Every one is exact; only "
        "`Cast`, `Input` and `MinifloatCast` lose bits. "
        "What of PyTorch becomes them stands in [layers](layers.md). In hardware an operator is a step of the process before it, or a "
        "process of its own (none where nothing has to move).\n",
        "| operator | is | ONNX | in hardware |",
        "|---|---|---|---|",
    ]
    for operator in OPERATORS:
        forms = ", ".join(f"`{form}`" for form in operator.forms) or "the file's input"
        parts.append(f"| `{operator.__name__}` | {_first(operator)} | {forms} | {_hardware(operator)} |")
    return "\n".join(parts) + "\n"


def _first(operator: type[Operator]) -> str:
    paragraph = " ".join((inspect.getdoc(operator) or "").split("\n\n")[0].split())
    return _cell(paragraph.replace("``", "`"))


def _hardware(operator: type[Operator]) -> str:
    return "step" if operator.pointwise else "process"


def board_table() -> str:
    """The boards that qfx knows."""
    parts = ["# Boards\n", "`qfx boards` lists them; another board is a TOML file ([from a project to a board](board.md)).\n"]
    parts += ["| name | board | part | LUT | FF | DSP | BRAM36 | URAM | clock |", "|---|---|---|---:|---:|---:|---:|---:|---:|"]
    for one in boards():
        counts = " | ".join(f"{count:,}" for count in (one.lut, one.ff, one.dsp, one.bram36, one.uram))
        parts.append(f"| `{one.name}` | {one.title} | `{one.part}` | {counts} | {one.clock_ns:g} ns |")
    parts += ["\n## Keys of a board's file\n", "Made from the definitions that `--board FILE` is checked by.\n", keys.board_keys()]
    return "\n".join(parts)
