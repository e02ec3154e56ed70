"""The ``qfx`` command: parses, calls, prints. Every command exits with 0 for success, 1 for a difference found or a goal not met, 2 for a
usage or input error, and ``qfx ptq`` with 130 if it is interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
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
    from qfx.ptq.sensitivity import Measure


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
@click.option("--board", "board_name", required=True, help="The target board; `qfx boards` lists them. Or the path of a TOML file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The project folder to write.")
@click.option("--clock-ns", type=float, default=None, help="The target clock period in nanoseconds  [default: the board's].")
@click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second.")
@click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board.")
@click.option("--folding", type=click.Path(path_type=Path), default=None, help="A folding.toml that fixes the folding of layers.")
@click.option("--weights", type=click.Choice(("rom", "stream")), default="rom", show_default=True, help="In ROM, or loaded while the hardware runs.")
@click.option("--top", default=None, help="The name of the top function  [default: from the model's name].")
@click.option("--golden", type=click.Path(path_type=Path), default=None, help=".npy or .npz with inputs for the test bench's golden vectors.")
@click.option("--force", is_flag=True, help="Replace an existing qfx project in the output folder.")
@_guard
def hls(
    model: Path,
    board_name: str,
    output: Path,
    clock_ns: float | None,
    fps: float | None,
    fit: bool,
    folding: Path | None,
    weights: str,
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
    graph, plan = _plan(model, board_name, clock_ns, fps, fit, folding, weights)
    extra = {"model.onnx": model.read_bytes()}
    board = plan.estimate.board
    write_project(
        graph,
        output,
        board=board,
        clock_ns=plan.clock_ns,
        top=top,
        schedule=plan,
        weights=weights,
        force=force,
        golden_inputs=inputs,
        extra_files=extra,
    )
    click.echo(as_text(plan, graph.name))
    click.echo(f"wrote {output}: `make csim` there compiles and runs its test bench")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--board", "board_name", required=True, help="The target board; `qfx boards` lists them. Or the path of a TOML file.")
@click.option("--clock-ns", type=float, default=None, help="The target clock period in nanoseconds  [default: the board's].")
@click.option("--fps", type=float, default=None, help="Choose the cheapest folding that makes so many frames per second.")
@click.option("--fit", is_flag=True, help="Choose the fastest folding that fits the board.")
@click.option("--folding", type=click.Path(path_type=Path), default=None, help="A folding.toml that fixes the folding of layers.")
@click.option("--weights", type=click.Choice(("rom", "stream")), default="rom", show_default=True, help="In ROM, or loaded while the hardware runs.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the table.")
@_guard
def estimate(
    model: Path, board_name: str, clock_ns: float | None, fps: float | None, fit: bool, folding: Path | None, weights: str, as_json: bool
) -> None:
    """Print what `qfx hls` with the same options would make: folding, cycles and resources of every layer. Writes nothing."""
    from qfx.codegen import summary

    graph, plan = _plan(model, board_name, clock_ns, fps, fit, folding, weights)
    click.echo((summary.as_json if as_json else summary.as_text)(plan, graph.name), nl=False)


def _plan(
    model: Path, board_name: str, clock_ns: float | None, fps: float | None, fit: bool, folding: Path | None, weights: str
) -> tuple[Graph, Plan]:
    """The prepared graph of the model and what the options make of it."""
    from qfx.codegen import folding_file
    from qfx.codegen.board import board, check_clock
    from qfx.codegen.fold import resolve
    from qfx.codegen.project import prepare
    from qfx.codegen.schedule import Request
    from qfx.ir.from_onnx import load_graph

    found = board(board_name)
    clock_ns = found.clock_ns if clock_ns is None else clock_ns
    check_clock(clock_ns, found)
    request = Request(fps=fps, fit=fit) if folding is None else folding_file.read(folding, fps=fps, fit=fit)
    graph = prepare(load_graph(model), weights)
    return graph, resolve(graph, found, request, clock_ns=clock_ns)


@main.command()
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--input", "input_path", required=True, type=click.Path(path_type=Path), help=".npy of float inputs, batch first, PyTorch's layout.")
@click.option("--output", "output_path", default=None, type=click.Path(path_type=Path), help=".npy to write the float results to.")
@click.option("--trace", "trace_path", default=None, type=click.Path(path_type=Path), help=".npz or folder to write the raws of every layer to.")
@click.option("--fast", is_flag=True, help="Run the fast emulator: the same templates over native integers.")
@click.option("--force", is_flag=True, help="Replace existing output.")
@_guard
def csim(project: Path, input_path: Path, output_path: Path | None, trace_path: Path | None, fast: bool, force: bool) -> None:
    """Run the C simulation of PROJECT (the generated C++, compiled with the vendor's headers) on arrays.

    --trace writes every value of the model that travels on a stream, as raw integers named after its node, in the model's layout.
    """
    from qfx.codegen.csim import run, trace_raw
    from qfx.data import load_inputs, save_array, save_arrays
    from qfx.errors import DataError

    targets = [path for path in (output_path, trace_path) if path is not None]
    if not targets:
        raise DataError("nothing to write", where=str(project), remedy="pass --output, --trace or both")
    for path in targets:
        if path.exists() and not force:
            raise DataError("the file exists", where=str(path), remedy="choose another name, or pass --force")
    x = load_inputs(input_path)
    if output_path is not None:
        save_array(output_path, run(project, x, fast=fast), force=force)
        click.echo(f"wrote {output_path}: {x.shape[0]} samples")
    if trace_path is not None:
        traced = trace_raw(project, x, fast=fast)
        save_arrays(trace_path, traced, force=force)
        click.echo(f"wrote {trace_path}: {len(traced)} values of {x.shape[0]} samples")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help=".npz (inputs called x) or .npy, batch first, PyTorch's layout.")
@click.option("--fast", is_flag=True, help="Compare the fast emulator too.")
@click.option("--trace", is_flag=True, help="Compare every layer of the C++ too  [default: only for a sample that differs].")
@_guard
def verify(model: Path, project: Path, data: Path, fast: bool, trace: bool) -> None:
    """Compare ONNX Runtime and the C simulation of PROJECT with the integer interpreter on MODEL, raw integer by raw integer.

    Exits with 1 and names the first differing value, and the layer of the C++ where the difference starts, if anything differs.
    """
    from qfx.codegen.csim import run_raw
    from qfx.data import load_inputs
    from qfx.trace import locate
    from qfx.verify import verify as compare_all

    x = load_inputs(data)
    builds = {"C simulation": False, "fast emulator": True} if fast else {"C simulation": False}
    executors = {name: partial(run_raw, project, fast=which) for name, which in builds.items()}
    comparisons = compare_all(model, x, executors)
    table = Table(title=f"{x.shape[0]} samples against the integer interpreter", title_justify="left")
    for heading in ("executor", "values", "differing values", "differing bits"):
        table.add_column(heading, justify="left" if heading == "executor" else "right")
    for row in comparisons:
        table.add_row(row.executor, str(row.values), str(row.differing_values), str(row.differing_bits))
    Console().print(table)
    differs = False
    for row in comparisons:
        if row.first is not None:
            differs = True
            click.echo(f"{row.executor} differs first at {row.first}", err=True)
        if row.executor in builds and (trace or row.first is not None):
            start = 0 if trace or row.first is None else row.first.sample
            count, found = locate(model, project, x if trace else x[start : start + 1], fast=builds[row.executor])
            if found is None:
                click.echo(f"{row.executor}: all {count} values that travel between layers are equal", err=row.first is not None)
            else:
                differs = True
                click.echo(f"{row.executor} differs first in {replace(found, sample=found.sample + start)}", err=True)
    if differs:
        sys.exit(1)


@main.command()
@click.argument("target", metavar="MODEL_OR_PROJECT", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help=".npz (inputs called x) or .npy, batch first, PyTorch's layout.")
@click.option("--model", type=click.Path(path_type=Path), default=None, help="The model of a project that holds none.")
@click.option("--fast", is_flag=True, help="Let the fast emulator count instead of the C++ with the vendor's headers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@_guard
def report(target: Path, data: Path, model: Path | None, fast: bool, as_json: bool) -> None:
    """Count what every cast loses on the data: overflow (above and below the range) and significant bits (rounded).

    For a project the C++ counts as well, and the command exits with 1 if it counts differently. There a cast may do the work of the ReLU before it:
    those numbers are counted apart.
    """
    from qfx.data import load_inputs
    from qfx.ir.from_onnx import load_graph
    from qfx.report import is_project, report_project
    from qfx.report import report as report_model

    x = load_inputs(data)
    is_folder = is_project(target) or target.is_dir()
    found = report_project(target, x, model=model, fast=fast) if is_folder else report_model(load_graph(target), x)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        table = Table(title=f"what each cast loses on {found.samples} samples", title_justify="left")
        for heading in ("cast", "to", "values", "ReLU", "above", "below", "rounded", "missing bits"):
            table.add_column(heading, justify="left" if heading in ("cast", "to") else "right", overflow="fold")
        for row in found.rows:
            loss = row.loss
            counts = (loss.values, row.by_relu, loss.above, loss.below - row.by_relu, loss.rounded, loss.missing_bits)
            table.add_row(row.node, row.type, *(str(count) for count in counts))
        Console(width=160).print(table)
    for row in found.differing:
        click.echo(f"{row.node}: the interpreter counts {row.loss}, the C++ {row.simulated}", err=True)
    if found.differing:
        sys.exit(1)
    if is_folder and not as_json:
        click.echo("the C++ counts the same")


@main.command()
@click.option("--model", required=True, help="package.module:factory, or a float .onnx or torch.export .pt2 file.")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=None, help="The factory's weights: a state_dict (torch.save) or safetensors.")
@click.option(
    "--calib", type=click.Path(path_type=Path), default=None, help=".npz (inputs called x) or .npy of real inputs, batch first, unlabelled."
)
@click.option("--data-free", default=None, metavar="SHAPE", help="No data: distil inputs of this shape (3x32x32) from BatchNorm statistics.")
@click.option(
    "--input-range", type=float, nargs=2, default=None, metavar="LOW HIGH", help="With --data-free: limits of inputs  [default: mean 0, deviation 1]."
)
@click.option("--recipe", type=click.Path(path_type=Path), default=None, help="recipe.toml  [default: 8 bits, weights per channel].")
@click.option(
    "--eval", "evaluation", type=click.Path(path_type=Path), default=None, help=".npz of inputs x and class numbers y, to count right answers."
)
@click.option("--passes", default=None, help="Comma-separated passes, in order  [default: what suits the word lengths].")
@click.option(
    "--budget", default=None, help="Choose word lengths: mean-weight-bits=4, weight-bits=N, or board=B,fps=N,lut=N,dsp=N,bram18=N,clock-ns=N."
)
@click.option(
    "--measure",
    type=click.Choice(("sqnr", "correlation", "fisher", "hessian", "taylor")),
    default=None,
    help="With --budget: what says how much the model loses by short words  [default: fisher].",
)
@click.option(
    "--max-drop", type=float, default=None, metavar="POINTS", help="Try passes until accuracy on --eval is at most so many points below float's."
)
@click.option("--widest", type=click.IntRange(1, 32), default=None, help="With --max-drop: words may become so long for it.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write.")
@click.option("--report", type=click.Path(path_type=Path), default=None, help="The HTML report to write  [default: the output's name with .html].")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Replace existing files, and what an interrupted run left.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples at a time.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=None, help="Use only the first so many calibration samples; with --data-free: make so many (32)."
)
@_guard
def ptq(
    model: str,
    checkpoint: Path | None,
    calib: Path | None,
    data_free: str | None,
    input_range: tuple[float, float] | None,
    recipe: Path | None,
    evaluation: Path | None,
    passes: str | None,
    budget: str | None,
    measure: Measure | None,
    max_drop: float | None,
    widest: int | None,
    output: Path,
    report: Path | None,
    resume: bool,
    force: bool,
    seed: int,
    batch: int,
    samples: int | None,
) -> None:
    """Make a fixed-point model of a trained float one, from a few hundred unlabelled inputs.

    Writes an ONNX file for `qfx hls`, and a report that says what every pass gained and where the error is. Ctrl-C keeps what is done for --resume.
    With --max-drop the exit code is 1 if the goal is not met.
    """
    from qfx.ptq.command import Request, execute

    request = Request(
        model=model,
        checkpoint=checkpoint,
        calibration=calib,
        data_free=data_free,
        input_range=input_range,
        recipe=recipe,
        evaluation=evaluation,
        passes=passes,
        budget=budget,
        measure=measure,
        max_drop=max_drop,
        widest=widest,
        output=output,
        report=report,
        resume=resume,
        force=force,
        seed=seed,
        batch=batch,
        samples=samples,
    )
    try:
        sys.exit(execute(request))
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was begun, or all is done", err=True)
        sys.exit(130)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("project", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write: the words for the port `weights`.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@_guard
def weights(model: Path, project: Path, output: Path, force: bool) -> None:
    """Pack the constants of MODEL for PROJECT, which `qfx hls --weights stream` made of a model with the same layers and types."""
    from qfx.codegen.reload import words_for
    from qfx.errors import DataError
    from qfx.ir.from_onnx import load_graph

    if output.exists() and not force:
        raise DataError("the file exists", where=str(output), remedy="choose another name, or pass --force")
    words = words_for(load_graph(model), project)
    try:
        output.write_bytes(words)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", where=str(output), remedy="choose another name") from error
    click.echo(f"wrote {output}: {len(words)} bytes")


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
    """List the boards and their resources.

    \b
    Another board is a TOML file, given as --board PATH (docs/board.md says more):
      title = "My board"
      part = "xczu3eg-sbva484-1-i"
      lut = 70560        # of the part, as are
      ff = 141120
      dsp = 360
      bram36 = 216       # block RAMs of 36 kbit
      uram = 0           # UltraRAMs (not used)
    Optional: clock_ns, fastest_mhz, board_part, ps, control_port, memory_port.
    """
    from qfx.codegen.board import boards as known_boards

    table = Table(box=None, pad_edge=False)
    for heading in ("board", "title", "part", "LUT", "FF", "DSP", "BRAM36", "URAM", "clock"):
        table.add_column(heading, justify="left" if heading in ("board", "title", "part") else "right", no_wrap=True)
    for entry in known_boards():
        counts = (entry.lut, entry.ff, entry.dsp, entry.bram36, entry.uram)
        table.add_row(entry.name, entry.title, entry.part, *(str(count) for count in counts), f"{entry.clock_ns:g} ns")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
