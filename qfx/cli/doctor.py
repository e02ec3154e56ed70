"""``qfx doctor``: what is there of all that qfx can use."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qfx.cli.common import DIFFERENCE, guard, json_option, print_json

if TYPE_CHECKING:
    from qfx.doctor import Finding


@click.command()
@json_option()
@guard
def doctor(as_json: bool) -> None:
    """Say what is there of all that qfx can use, what is missing, and how to get it.

    Compiles a cast with the vendor's headers, and the native kernel if it is not in the cache. Exits with 1 if something is missing that qfx is not
    whole without; what only some commands need is told alone.
    """
    from qfx.cli.telling import telling
    from qfx.doctor import examine, machine

    with telling("looking for compilers, packages and tools"):
        findings = list(examine())
    if as_json:
        print_json({"machine": machine(), "findings": [{**dataclasses.asdict(one), "is_wrong": one.is_wrong} for one in findings]})
    else:
        _show(machine(), findings)
    if any(one.is_wrong for one in findings):
        sys.exit(DIFFERENCE)


def _show(machine: str, findings: Sequence[Finding]) -> None:
    """A table, and below it what is missing: the required first."""
    console = Console()
    console.print(Text(machine))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found"):
        table.add_column(heading)
    for one in findings:
        mark = Text("missing", "red") if one.is_wrong else Text("-", "yellow") if one.found is None else Text("ok", "green")
        table.add_row(mark, Text(one.name), Text(one.found or one.problem))
    console.print(table)
    for one in sorted((one for one in findings if one.found is None), key=lambda one: not one.required):
        console.print(Text(f"{'needed' if one.required else 'for'}: {one.needed_for}: {one.name} ({one.problem}); {one.remedy}"), soft_wrap=True)
