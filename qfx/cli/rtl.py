"""``qfx rtl``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from qfx.cli.common import DIFFERENCE, FILE, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.planning import Asked, plan_of, plan_options, summary_of
from qfx.cli.telling import telling

if TYPE_CHECKING:
    from qfx.hardware.rtl.luts import Counted
    from qfx.hardware.rtl.project import Written
    from qfx.hardware.rtl.simulate import Simulated
    from qfx.ir.graph import Graph

_FRAMES = 64
"""Made-up frames, the ends of every range among them, unless there is data."""
_STREAMED = 4
"""The same of a streaming design, whose frames take many cycles each."""
_SEED = 1
"""Of the streams that wait at random."""


@click.command()
@click.argument("model", type=FILE)
@output_option("The folder to write.")
@plan_options
@click.option("--top", default=None, help="The name of the top module  [default: from the model's name].")
@data_option(".npy or .npz with inputs for the bench's golden vectors  [default: some made up].", required=False)
@samples_option()
@click.option("--pipelined", is_flag=True, help="Give the processes of a streaming design pipelines for the clock.")
@click.option("--simulate", "wanted", is_flag=True, help="Run the bench with Verilator; compare raws with the interpreter, cycles with the plan.")
@click.option("--luts", is_flag=True, help="Let Yosys map the design, and print what it takes beside the estimate.")
@json_option("Print report.json, and what was asked for beside it, instead of tables.")
@force_option("Replace Verilog that qfx wrote into the output folder.")
@guard
def rtl(
    model: Path,
    output: Path,
    asked: Asked,
    top: str | None,
    data: Path | None,
    samples: int | None,
    pipelined: bool,
    wanted: bool,
    luts: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Write MODEL, an ONNX file from qfx.export_onnx, as Verilog of qfx's own, with a bench that checks itself. No vendor's tool is needed."""
    from qfx.errors import ProjectError
    from qfx.hardware.design.names import checked_top
    from qfx.hardware.folding.plan import Plan as Folded
    from qfx.hardware.rtl import project, simulate, tools
    from qfx.hardware.rtl.luts import mapped
    from qfx.hardware.unrolled.plan import Plan as Unrolled

    if top is not None:
        checked_top(top)
    if asked.style == "sequential":
        raise ProjectError("the layer engine has no Verilog", where="--style sequential", remedy="use --style streaming or unrolled")
    if asked.weights == "stream":
        raise ProjectError("no port of the Verilog loads constants", where="--weights stream", remedy="leave it out, or use ddr")
    if asked.style != "unrolled":
        tools.clang()
    elif pipelined:
        raise ProjectError("an unrolled design is a pipeline as it is", where="--pipelined", remedy="leave it out")
    project.check_target(output, force=force)
    if wanted:
        tools.verilator()
    if luts:
        tools.yosys()
    simulated: tuple[Simulated, ...] = ()
    cells: dict[str, Counted] = {}
    with telling("reading the model") as progress:
        graph, made = plan_of(asked, model, progress)
        progress("writing the Verilog and its golden vectors", 0, 1)
        x_raw = _raws(graph, data, samples, _FRAMES if isinstance(made, Unrolled) else _STREAMED)
        if isinstance(made, Unrolled):
            written = project.write_unrolled(graph, made, output, x_raw=x_raw, top=top, force=force)
        else:
            assert isinstance(made, Folded)  # no other style is left
            written = project.write_streaming(graph, made, output, x_raw=x_raw, top=top, force=force, pipelined=pipelined, progress=progress)
        if wanted:
            simulate.build(output, progress)
            progress("the bench runs", 0, 1)
            simulated = tuple(simulate.run(output, written.hardware, written.frames, stall=stall) for stall in (0, _SEED))
        if luts:
            progress("Yosys maps the design", 0, 1)
            cells = _by_process(made, mapped(output, written.hardware.top), written.hardware.top)
    differs = any(not one.passed for one in simulated)
    if as_json:
        print_json(summary_of(made).data(made, graph.name) | _as_data(graph, written, simulated, cells))
    else:
        click.echo(summary_of(made).as_text(made, graph.name))
        if simulated:
            _print_simulated(graph, written, simulated)
        if cells:
            _print_cells(made, cells)
    for one in simulated:
        if not one.passed:
            click.echo(one.text.rstrip(), err=True)
    click.echo(f"wrote {output}: `make sim` there runs its bench, `make lut` maps it", err=as_json)
    if differs:
        sys.exit(DIFFERENCE)


def _raws(graph: Graph, data: Path | None, samples: int | None, usual: int) -> Any:
    """The raws of the frames that the bench runs, by input."""
    import numpy as np

    from qfx.ir.feeds import feeds
    from qfx.ir.interpret import quantize_inputs
    from qfx.testing import adversarial_feeds

    if data is None:
        x: Any = adversarial_feeds(graph, np.random.default_rng(0), samples or usual)
    else:
        x = feed(data, samples, [node.name for node in graph.inputs] if zipfile.is_zipfile(data) else ["x"])
    return quantize_inputs(graph, feeds(graph, x))


def _rows(graph: Graph, written: Written, simulated: tuple[Simulated, ...]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from qfx.verify import compare

    found = []
    for one, streams in zip(simulated, ("always ready", "waiting at random"), strict=True):
        row = None if one.raws is None else asdict(compare(graph, written.expected_raw, one.raws, "Verilog"))
        found.append(
            {
                "streams": streams,
                "passed": one.passed,
                "values": None if row is None else row["values"],
                "differing_values": None if row is None else row["differing_values"],
                "differing_bits": None if row is None else row["differing_bits"],
                "first": None if row is None else row["first"],
                "latency_cycles": one.latency,
                "interval_cycles": one.interval,
            }
        )
    return found


def _as_data(graph: Graph, written: Written, simulated: tuple[Simulated, ...], cells: dict[str, Counted]) -> dict[str, Any]:
    """``rtl_simulated`` and ``rtl_cells``, as far as they were asked for."""
    from dataclasses import asdict

    told: dict[str, Any] = {}
    if simulated:
        told["rtl_simulated"] = {"frames": written.frames, "runs": _rows(graph, written, simulated)}
    if cells:
        told["rtl_cells"] = {name: asdict(count) for name, count in cells.items()}
    return told


def _print_simulated(graph: Graph, written: Written, simulated: tuple[Simulated, ...]) -> None:
    hardware = written.hardware
    table = Table(title=f"{written.frames} frames by Verilator against the integer interpreter", title_justify="left")
    for heading in ("streams", "values", "differing values", "differing bits", "latency", "interval"):
        table.add_column(heading, justify="left" if heading == "streams" else "right")
    for row in _rows(graph, written, simulated):
        cells = [row[key] for key in ("streams", "values", "differing_values", "differing_bits", "latency_cycles", "interval_cycles")]
        table.add_row(*("-" if cell is None else str(cell) for cell in cells))
    table.add_row("the plan", "", "", "", *(str(cycles) if cycles else "-" for cycles in (hardware.latency, hardware.interval)))
    Console().print(table)


def _by_process(made: Any, cells: dict[str, Counted], top: str) -> dict[str, Counted]:
    """The cells of an unrolled design, or of each process with the FIFOs that it writes, as the estimate counts them."""
    from qfx.hardware.rtl.luts import joined

    processes = made.design.processes
    found = {
        process.name: joined(cells[name] for name in (f"i_{process.name}", *(f"f_{stream.name}" for stream in process.targets)) if name in cells)
        for process in processes
    }
    counted = {f"{kind}_{name}" for process in processes for kind, name in (("i", process.name), *(("f", stream.name) for stream in process.targets))}
    return {**found, top: joined(count for name, count in cells.items() if name not in counted)}


def _print_cells(made: Any, cells: dict[str, Counted]) -> None:
    """Each beside its estimate; Verilog has no control port."""
    from qfx.hardware.cost.resources import total
    from qfx.hardware.rtl.luts import joined

    estimated = {cost.process: cost.resources for cost in made.estimate.costs if cost.process != "control"}
    table = Table(title="cells by Yosys / estimate", title_justify="left")
    for heading in ("module", "LUT", "FF", "DSP", "BRAM18"):
        table.add_column(heading, justify="left" if heading == "module" else "right")
    rows = [(name, count, estimated.get(name)) for name, count in cells.items()]
    for name, count, guess in [*rows, ("total", joined(cells.values()), total(list(estimated.values())))]:
        both = ((getattr(count, field), getattr(guess, field) if guess else "-") for field in ("lut", "ff", "dsp", "bram18"))
        table.add_row(name, *(f"{found} / {expected}" for found, expected in both))
    Console().print(table)
