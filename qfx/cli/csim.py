"""``qfx csim``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qfx.cli.common import FILE, FOLDER, count, data_option, feed, force_option, guard, json_option, output_option, print_json, samples_option
from qfx.cli.telling import telling


@click.command()
@click.argument("project", type=FOLDER)
@data_option(".npy or .npz (inputs called x) of float inputs, batch first, PyTorch's layout.", "--input")
@output_option(".npy to write the float results to (of several outputs: .npz, or a folder).", required=False)
@click.option("--trace", "trace_path", default=None, type=FILE, help=".npz or folder to write the raws of every layer to.")
@click.option("--fast", is_flag=True, help="Run the fast emulator: the same templates over native integers.")
@samples_option()
@json_option("Print what was written as JSON.")
@force_option("Replace existing output.")
@guard
def csim(
    project: Path, data: Path, output: Path | None, trace_path: Path | None, fast: bool, samples: int | None, as_json: bool, force: bool
) -> None:
    """Run the C simulation of PROJECT (the generated C++, compiled with the vendor's headers) on arrays.

    --trace writes every value of the model that travels on a stream, as raw integers named after its node, in the model's layout.
    """
    from qfx.data import check_arrays_target, save_array, save_arrays
    from qfx.errors import DataError
    from qfx.files import check_target
    from qfx.hardware.project.csim import run, trace_raw
    from qfx.hardware.project.project import read_project

    if output is None and trace_path is None:
        raise DataError("nothing to write", where=str(project), remedy="pass --output, --trace or both")
    names = read_project(project)
    several = len(names.outputs) > 1
    if output is not None:
        (check_arrays_target if several else check_target)(output, force=force)
    if trace_path is not None:
        check_arrays_target(trace_path, force=force)
    x = feed(data, samples, list(names.inputs))
    traced: dict[str, Any] = {}
    with telling("reading the project") as progress:
        if output is not None:
            found = run(project, x, fast=fast, progress=progress)
            if several:
                save_arrays(output, dict(zip(names.outputs, found, strict=True)), force=force)
            else:
                save_array(output, found, force=force)
        if trace_path is not None:
            traced.update(trace_raw(project, x, fast=fast, progress=progress))
            progress(f"writing {trace_path}", 0, 1)
            save_arrays(trace_path, traced, force=force)
    if as_json:
        written = {"output": None if output is None else str(output), "trace": None if trace_path is None else str(trace_path)}
        print_json({**written, "samples": count(x), "values": sorted(traced)})
        return
    if output is not None:
        click.echo(f"wrote {output}: {count(x)} samples")
    if trace_path is not None:
        click.echo(f"wrote {trace_path}: {len(traced)} values of {count(x)} samples")
