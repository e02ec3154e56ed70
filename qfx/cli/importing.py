"""``qfx import``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qfx.cli.common import FILE, data_option, force_option, guard, inputs, json_option, output_option, print_json, samples_option
from qfx.cli.telling import telling


@click.command("import")
@click.argument("model", type=FILE)
@output_option("The ONNX file to write.")
@data_option(".npz (inputs called x) or .npy of real inputs, batch first, to compare on  [default: random numbers].", required=False)
@click.option(
    "--input-type", default=None, metavar="TYPE", help="Of inputs that are not quantized first: 'ap_ufixed<8,0>'. They must lie on its grid."
)
@click.option("--end", default=None, metavar="TENSOR", help="The tensor of the file to end at, in place of its result.")
@click.option("--nearest", is_flag=True, help="Convert what is no fixed-point type to the nearest binary point, and tell the error of each tensor.")
@force_option()
@samples_option()
@json_option()
@guard
def import_(
    model: Path,
    output: Path,
    data: Path | None,
    input_type: str | None,
    end: str | None,
    nearest: bool,
    force: bool,
    samples: int | None,
    as_json: bool,
) -> None:
    """Make qfx' ONNX file of a quantized one of another tool, QONNX or QDQ, with the same types and the same results.

    What is not the same to the last bit is refused, with the layer's name, unless --nearest is given.
    """
    from qfx.files import check_target
    from qfx.fixed.type import FixedType

    check_target(output, force=force)
    kind = None if input_type is None else FixedType.parse(input_type)
    with telling("reading the model"):
        import torch

        from qfx.exchange.conversion import conversion
        from qfx.exchange.onnx_files import from_onnx
        from qfx.export.export import export_onnx

        example = None if data is None else torch.from_numpy(inputs(data, samples))
        imported = from_onnx(model, example, strict=not nearest, input_type=kind, output=end)
        export_onnx(imported, output, force=force)
    found = conversion(imported)
    if as_json:
        print_json(
            {"output": str(output), "exact": found.exact, "rows": [asdict(row) for row in found.rows], "notes": [asdict(n) for n in found.notes]}
        )
    else:
        click.echo(f"{found}\n{output}: {'the same to the last bit' if found.exact else 'not the same; see the errors above'}")
