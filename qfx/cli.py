"""The ``qfx`` command: parses, calls, prints. Every command exits with 0 for success, 1 for a difference found, 2 for a usage or input error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from qfx import __version__
from qfx.errors import QfxError

if TYPE_CHECKING:
    from qfx.codegen.fold import Plan
    from qfx.ir.graph import Graph


def _guard(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show a QfxError as one clear message instead of a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except QfxError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="qfx")
def main() -> None:
    """Take a quantized network to an AMD/Xilinx FPGA, bit-exact."""


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--board", "board_name", required=True, help="The target board; `qfx boards` lists them.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The project folder to write.")
@click.option("--clock-ns", default=5.0, show_default=True, help="The target clock period in nanoseconds.")
@click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second.")
@click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board.")
@click.option("--folding", type=click.Path(path_type=Path), default=None, help="A folding.toml that fixes the folding of layers.")
@click.option("--top", default=None, help="The name of the top function  [default: from the model's name].")
@click.option("--golden", type=click.Path(path_type=Path), default=None, help=".npy or .npz with inputs for the test bench's golden vectors.")
@click.option("--force", is_flag=True, help="Replace an existing qfx project in the output folder.")
@_guard
def hls(
    model: Path,
    board_name: str,
    output: Path,
    clock_ns: float,
    fps: float | None,
    fit: bool,
    folding: Path | None,
    top: str | None,
    golden: Path | None,
    force: bool,
) -> None:
    """Write a Vivado/Vitis HLS project for MODEL, an ONNX file from qfx.export_onnx.

    Without --fps, --fit and --folding every layer works on one number at a time.
    """
    from qfx.codegen.names import checked_top
    from qfx.codegen.project import check_target, write_project
    from qfx.codegen.summary import as_text
    from qfx.data import load_inputs

    check_target(output, force=force)
    if top is not None:
        checked_top(top)
    inputs = None if golden is None else load_inputs(golden)
    graph, plan = _plan(model, board_name, clock_ns, fps, fit, folding)
    extra = {"model.onnx": model.read_bytes()}
    board = plan.estimate.board
    write_project(graph, output, board=board, clock_ns=clock_ns, top=top, schedule=plan, force=force, golden_inputs=inputs, extra_files=extra)
    click.echo(as_text(plan, graph.name))
    click.echo(f"wrote {output}: `make csim` there compiles and runs its test bench")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--board", "board_name", required=True, help="The target board; `qfx boards` lists them.")
@click.option("--clock-ns", default=5.0, show_default=True, help="The target clock period in nanoseconds.")
@click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second.")
@click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board.")
@click.option("--folding", type=click.Path(path_type=Path), default=None, help="A folding.toml that fixes the folding of layers.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the table.")
@_guard
def estimate(model: Path, board_name: str, clock_ns: float, fps: float | None, fit: bool, folding: Path | None, as_json: bool) -> None:
    """Print what `qfx hls` with the same options would make: folding, cycles and resources of every layer. Writes nothing."""
    from qfx.codegen import summary

    graph, plan = _plan(model, board_name, clock_ns, fps, fit, folding)
    click.echo((summary.as_json if as_json else summary.as_text)(plan, graph.name), nl=False)


def _plan(model: Path, board_name: str, clock_ns: float, fps: float | None, fit: bool, folding: Path | None) -> tuple[Graph, Plan]:
    """The optimized graph of the model and what the options make of it."""
    from qfx.codegen import folding_file
    from qfx.codegen.board import board
    from qfx.codegen.fold import resolve
    from qfx.codegen.schedule import Request, check_clock
    from qfx.ir.from_onnx import load_graph
    from qfx.ir.passes.pipeline import optimize

    found = board(board_name)
    check_clock(clock_ns)
    request = Request(fps=fps, fit=fit) if folding is None else folding_file.read(folding, fps=fps, fit=fit)
    graph = optimize(load_graph(model))
    return graph, resolve(graph, found, request, clock_ns=clock_ns)


@main.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--input", "input_path", required=True, type=click.Path(path_type=Path), help=".npy of float inputs, batch first, PyTorch's layout.")
@click.option("--output", "output_path", required=True, type=click.Path(path_type=Path), help=".npy to write the float results to.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@_guard
def csim(project: Path, input_path: Path, output_path: Path, force: bool) -> None:
    """Run the C simulation of PROJECT (the generated C++, compiled with the vendor's headers) on arrays."""
    from qfx.codegen.csim import run
    from qfx.data import load_inputs, save_array
    from qfx.errors import DataError

    if output_path.exists() and not force:
        raise DataError("the file exists", where=str(output_path), remedy="choose another name, or pass --force")
    result = run(project, load_inputs(input_path))
    save_array(output_path, result, force=force)
    click.echo(f"wrote {output_path}: {result.shape[0]} samples")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help=".npz (inputs called x) or .npy, batch first, PyTorch's layout.")
@_guard
def verify(model: Path, project: Path, data: Path) -> None:
    """Compare ONNX Runtime and the C simulation of PROJECT with the integer interpreter on MODEL, raw integer by raw integer.

    Exits with 1 and names the first differing value if anything differs.
    """
    from qfx.codegen.csim import run_raw
    from qfx.data import load_inputs
    from qfx.verify import verify as compare_all

    x = load_inputs(data)
    comparisons = compare_all(model, x, {"C simulation": lambda batch: run_raw(project, batch)})
    table = Table(title=f"{x.shape[0]} samples against the integer interpreter", title_justify="left")
    for heading in ("executor", "values", "differing values", "differing bits"):
        table.add_column(heading, justify="left" if heading == "executor" else "right")
    for row in comparisons:
        table.add_row(row.executor, str(row.values), str(row.differing_values), str(row.differing_bits))
    Console().print(table)
    different = [row for row in comparisons if row.first is not None]
    for row in different:
        click.echo(f"{row.executor} differs first at {row.first}", err=True)
    if different:
        sys.exit(1)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@_guard
def inspect(model: Path) -> None:
    """Print MODEL's graph: every type, range and accumulator width."""
    from qfx.ir.from_onnx import load_graph
    from qfx.ir.text import listing

    click.echo(listing(load_graph(model)))


@main.command()
@_guard
def boards() -> None:
    """List the boards and their resources."""
    from qfx.codegen.board import boards as known_boards

    table = Table(box=None, pad_edge=False)
    for heading in ("board", "title", "part", "LUT", "FF", "DSP", "BRAM36", "URAM"):
        table.add_column(heading, justify="left" if heading in ("board", "title", "part") else "right", no_wrap=True)
    for entry in known_boards():
        counts = (entry.lut, entry.ff, entry.dsp, entry.bram36, entry.uram)
        table.add_row(entry.name, entry.title, entry.part, *(str(count) for count in counts))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
