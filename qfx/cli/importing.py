"""``qfx import``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qfx.cli.common import FILE, data_option, force_option, guard, inputs, json_option, output_option, print_json, samples_option
from qfx.cli.telling import telling
from qfx.errors import UnsupportedError

_MANY = 3
"""So many scales without a fixed-point type say that a file is of another kind."""


@click.command("import")
@click.argument("model", type=FILE)
@output_option("The ONNX file to write.")
@data_option(".npz (inputs called x) or .npy of real inputs, batch first, to compare on  [default: random numbers].", required=False)
@click.option(
    "--input-type", default=None, metavar="TYPE", help="Of inputs that are not quantized first: 'ap_ufixed<8,0>'. They must lie on its grid."
)
@click.option("--end", default=None, metavar="TENSOR", help="The tensor of the file to end at, in place of its result.")
@click.option("--nearest", is_flag=True, help="Convert what is no fixed-point type to the nearest binary point, and tell the error of each tensor.")
@click.option("--integers", is_flag=True, help="Take the integers of an int8 file as they are, whatever its scales; nothing can be trained on.")
@click.option(
    "--rounding", type=click.Choice(["double", "single", "nearest"]), default=None, help="Of all kernels of a .tflite file  [default: LiteRT's]."
)
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
    integers: bool,
    rounding: str | None,
    force: bool,
    samples: int | None,
    as_json: bool,
) -> None:
    """Make qfx' ONNX file of a quantized model of another tool: QONNX, QDQ or an exported program of PT2E (.pt2) with the same types and the same
    results, TFLite, QOperator and (with --integers) QDQ and PT2E of any scales with the same integers.

    What is not the same to the last bit is refused, with the layer's name, unless --nearest is given.
    """
    from qfx import formats
    from qfx.files import check_target
    from qfx.fixed.type import FixedType

    check_target(output, force=force)
    kind_of_file = formats.kind_of_file(model)
    if kind_of_file is None and input_type is None and end is None and rounding is None and _back(model, output, force=force, as_json=as_json):
        return
    if kind_of_file is formats.EXPORTED and integers:
        if input_type is not None or end is not None or rounding is not None:
            raise click.UsageError("--input-type, --end and --rounding are for other files")
        _integers(model, output, nearest=nearest, rounding=None, force=force, as_json=as_json, data=data, samples=samples)
        return
    if integers and kind_of_file is None and _is_qonnx(model):
        if input_type is not None or rounding is not None:
            raise click.UsageError("--input-type and --rounding are for other files")
        _integers(model, output, nearest=nearest, rounding=None, force=force, as_json=as_json, data=data, samples=samples, end=end)
        return
    if integers or kind_of_file is formats.TFLITE:
        if data is not None or input_type is not None or end is not None:
            raise click.UsageError("--data, --input-type and --end are for QONNX and QDQ files of fixed point: integers need none of them")
        _integers(model, output, nearest=nearest, rounding=rounding, force=force, as_json=as_json)
        return
    if rounding is not None:
        raise click.UsageError("--rounding is for .tflite files")
    kind = None if input_type is None else FixedType.parse(input_type)
    with telling("reading the model"):
        import torch

        from qfx.exchange.conversion import conversion
        from qfx.exchange.onnx_files import from_onnx
        from qfx.export.export import export_onnx

        example = None if data is None else torch.from_numpy(inputs(data, samples))
        try:
            if kind_of_file is formats.EXPORTED:
                from qfx.exchange.torch_ao.door import from_torchao
                from qfx.exchange.torch_ao.source import random_example

                if end is not None:
                    raise click.UsageError("--end is for ONNX files")
                given = random_example(model) if example is None else example
                imported = from_torchao(model, given, strict=not nearest, input_type=kind)
            else:
                imported = from_onnx(model, example, strict=not nearest, input_type=kind, output=end)
        except UnsupportedError as error:
            raise _shorter(error, model) from error
        export_onnx(imported, output, force=force)
    found = conversion(imported)
    if as_json:
        print_json(
            {"output": str(output), "exact": found.exact, "rows": [asdict(row) for row in found.rows], "notes": [asdict(n) for n in found.notes]}
        )
    else:
        click.echo(f"{found}\n{output}: {'the same to the last bit' if found.exact else 'not the same; see the errors above'}")


def _back(model: Path, output: Path, *, force: bool, as_json: bool) -> bool:
    """Of a file that `qfx convert` wrote, the graph that it was made of. False for any other, and for one that was changed since and has another
    reader."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

    from qfx import formats
    from qfx.errors import ModelFileError
    from qfx.export.onnx_file import save
    from qfx.leaving.convert import came_from
    from qfx.leaving.origin import tells

    found = onnx.ModelProto()
    try:
        found.ParseFromString(model.read_bytes())
    except (OSError, DecodeError):  # its reader says what is wrong
        return False
    if not tells(found):
        return False
    try:
        with telling("reading the model"):
            graph = came_from(found)
    except ModelFileError:
        if formats.kind_of_onnx(found) in (formats.QDQ, formats.QONNX):
            return False
        raise
    save(graph, output, force=force)
    if as_json:
        print_json({"output": str(output), "exact": True, "converted by qfx": True})
    else:
        click.echo(f"{model} is what `qfx convert` makes of this model, byte for byte\n{output}: the same to the last bit")
    return True


def _is_qonnx(model: Path) -> bool:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

    from qfx import formats

    found = onnx.ModelProto()
    try:
        found.ParseFromString(model.read_bytes())
    except (OSError, DecodeError):  # its reader says what is wrong
        return False
    return formats.kind_of_onnx(found) is formats.QONNX


def _shorter(error: UnsupportedError, model: Path) -> UnsupportedError:
    """Of a file with float scales all over, that, and not each of them."""
    scales = [blocker for blocker in error.blockers if "no power of two" in blocker.what]
    if len(scales) < _MANY:
        return error
    what = f"{len(scales)} tensors have scales that are no powers of two; {scales[0].where} {scales[0].what.partition(',')[0]}"
    remedy = "--integers takes the integers of the file as they are; --nearest converts it to the nearest binary points, with a table of errors"
    return UnsupportedError(what, where=model.name, remedy=remedy)


def _integers(
    model: Path,
    output: Path,
    *,
    nearest: bool,
    rounding: str | None,
    force: bool,
    as_json: bool,
    data: Path | None = None,
    samples: int | None = None,
    end: str | None = None,
) -> None:
    """A file of integers, whatever its scales."""
    from qfx import formats
    from qfx.export.onnx_file import save

    with telling("reading the model"):
        if formats.kind_of_file(model) is formats.TFLITE:
            from qfx.integers.tflite import read_tflite
            from qfx.integers.tflite.rounding import Rounding

            graph = read_tflite(model, rounding=None if rounding is None else Rounding(rounding))
        elif formats.kind_of_file(model) is formats.EXPORTED:
            import torch

            from qfx.exchange.integers.door import integers_of
            from qfx.exchange.torch_ao.source import random_example

            example = random_example(model) if data is None else torch.from_numpy(inputs(data, samples))
            graph = integers_of(model, example, nearest=nearest)
        elif _is_qonnx(model):
            import torch

            from qfx.exchange.onnx_files import integers_of_qonnx

            given = None if data is None else torch.from_numpy(inputs(data, samples))
            graph = integers_of_qonnx(model, given, output=end, nearest=nearest)
        else:
            from qfx.integers.onnx import read_onnx_integers

            graph = read_onnx_integers(model, nearest=nearest)
        save(graph, output, force=force)
    told = {key: text.splitlines() for key, text in graph.metadata.items()}
    exact = "quantized.differing" not in told
    if as_json:
        print_json({"output": str(output), "exact": exact, "told": told})
        return
    for key, lines in told.items():
        click.echo(f"{key}:\n" + "\n".join(f"  {line}" for line in lines))
    click.echo(f"{output}: {'the same integers' if exact else 'not the same integers; see above'}")
