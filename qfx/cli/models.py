"""``qfx new``, ``qfx weights``, ``qfx inspect`` and ``qfx boards``: small commands about one file, or none."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from qfx.cli.common import FILE, FOLDER, force_option, guard, json_option, output_option, print_json
from qfx.cli.completion import boards as board_names


@click.command()
@click.argument("model", type=FILE)
@click.argument("project", type=FOLDER)
@output_option("The file to write: the words for the port `weights`.")
@json_option("Print what was written as JSON.")
@force_option("Replace an existing file.")
@guard
def weights(model: Path, project: Path, output: Path, as_json: bool, force: bool) -> None:
    """Pack the constants of MODEL for PROJECT, which `qfx hls --weights stream` made of a model with the same layers and types."""
    from qfx.cli.telling import telling
    from qfx.files import check_target, writing
    from qfx.hardware.project.reload import words_for
    from qfx.ir.from_onnx import load_graph

    check_target(output, force=force)
    with telling("packing the constants"):
        words = words_for(load_graph(model), project)
    with writing(output, force=force) as staged:
        staged.write_bytes(words)
    if as_json:
        print_json({"output": str(output), "bytes": len(words)})
    else:
        click.echo(f"wrote {output}: {len(words)} bytes")


@click.command()
@click.argument("model", type=FILE)
@json_option()
@guard
def inspect(model: Path, as_json: bool) -> None:
    """Print MODEL's graph: every type, range and accumulator width."""
    from qfx.cli.telling import telling
    from qfx.ir.from_onnx import load_graph
    from qfx.ir.text import as_data, listing

    with telling("reading the model"):
        graph = load_graph(model)
    if as_json:
        print_json(as_data(graph))
    else:
        click.echo(listing(graph))


@click.command()
@json_option()
@guard
def boards(as_json: bool) -> None:
    """List the boards and their resources.

    \b
    Another board is a TOML file, given as --board PATH (docs/board.md says more):
      title = "My board"
      part = "xczu3eg-sbva484-1-i"
      lut = 70560        # of the part, as are
      ff = 141120
      dsp = 360
      bram36 = 216       # block RAMs of 36 kbit
      uram = 0           # UltraRAMs
    Optional: clock_ns, fastest_mhz, memory_gb_s, board_part, ps, control_port, memory_port.
    """
    from qfx.hardware.board import boards as known_boards

    columns = ("name", "title", "part", "lut", "ff", "dsp", "bram36", "uram", "clock_ns")
    rows = [{column: getattr(entry, column) for column in columns} for entry in known_boards()]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("board", "title", "part", "LUT", "FF", "DSP", "BRAM36", "URAM", "clock"):
        table.add_column(heading, justify="left" if heading in ("board", "title", "part") else "right", no_wrap=True)
    for row in rows:
        *counts, clock_ns = row.values()
        table.add_row(*(str(value) for value in counts), f"{clock_ns:g} ns")
    Console(width=120).print(table)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--board", "board_name", default="ultra96v2", show_default=True, shell_complete=board_names, help="Its name, or the path of a TOML file."
)
@json_option("Print what was written as JSON.")
@force_option("Replace files of the same names in a folder that holds some.")
@guard
def new(folder: Path, board_name: str, as_json: bool, force: bool) -> None:
    """Write a folder to start from: a network, its data and training, a recipe, a board, and a Makefile from training to a proven HLS project."""
    from qfx.starter import new as write

    written = write(folder, board_name, force=force)
    if as_json:
        print_json({"output": str(folder), "files": [str(path) for path in written]})
        return
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: make -C {folder}")
