"""``qfx.from_torchao``: models of PyTorch's own quantization tools as fixed-point models of the same types, which give the same numbers."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.batch.freeing import for_any_batch
from qfx.capture.batch.joining import rows
from qfx.errors import DataError, ModelFileError, UnsupportedError
from qfx.exchange.affine import Affine
from qfx.exchange.build import Explicit, fixed
from qfx.exchange.conversion import Conversion, compared, in_float, keep, require_same
from qfx.exchange.torch_ao.program import Casting, Constant, Program
from qfx.exchange.torch_ao.source import Source, source_of
from qfx.fixed.type import FixedType
from qfx.nn.layers.given import FakeQuant
from qfx.nn.model import QuantizedModel

Model = nn.Module | torch.export.ExportedProgram | str | os.PathLike[str]


def from_torchao(model: Model, example_input: Tensor, *, strict: bool = True, input_type: FixedType | None = None) -> QuantizedModel:
    """``model`` as a trainable fixed-point model with Casts where it fake-quantizes, of these types, and nowhere else.

    ``model`` is of PT2E (``torchao.quantization.pt2e``): what ``prepare_pt2e`` or ``prepare_qat_pt2e`` gave, after calibration or training, which
    counts as what ``convert_pt2e`` makes of it; what ``convert_pt2e`` gave; the exported program of that, or the path of its file
    (``torch.export.save``). Or of ``torch.ao.quantization``: what ``prepare_qat`` or ``prepare_qat_fx`` gave, with its fake-quantizations as they
    stand, a BatchNorm inside a convolution folded; what ``convert_to_reference_fx`` gave. It is left as it is.
    ``example_input``: a float32 batch, for a model from ``torch.export`` of as many samples as it was exported with; the results are compared on it.

    Scales must be powers of two, of a tensor or of each channel, zero points 0, or at an end or in the middle of the range so that they give or take
    a sign. Weights keep their float values where the model still has them. A bias in float (these tools do not quantize biases) is half a step
    beside the grid of the products where it is not on it: no cast behind tells the two apart, which is shown.

    ``strict``, ``input_type``: as for ``qfx.from_brevitas``. Models with other scales and zero points: ``qfx.integers_of``.

    Raises UnsupportedError, listing all obstacles, for what is not the same to the last bit; ModelFileError for a file that is no such program;
    DataError for an example that the model does not take; QfxError if torchao is needed and not installed.
    """
    example = checked_example(example_input)
    source = source_of(model, example)

    def cast(affine: Affine, label: str) -> nn.Module:
        return FakeQuant(affine.grid(label, nearest=not strict), label)

    module, constants = read(source, example, cast)
    grids = {name: found.affine.grid(name, nearest=not strict, constant=True) for name, found in constants.items()}
    if not grids and not any(isinstance(part, FakeQuant) for part in module.modules()):
        raise UnsupportedError("quantizes nothing", where=str(source.where), remedy="give a float model to qfx.quantize")
    numbers = {name: found.numbers.detach() for name, found in constants.items()}
    casts, computed = in_float(module, numbers, {"x": example})
    theirs = source.results if source.results is not None else next(iter(computed.values()))
    explicit = Explicit(module, grids, {}, numbers)
    result, notes = fixed(explicit, example, strict=strict, input_type=input_type)
    found = compared(result, (example,), casts, numbers, theirs)
    if strict:
        require_same(found, str(source.where))
    keep(result, Conversion(found.rows, notes))
    return result.eval()


def checked_example(example: Any) -> Tensor:
    """A float32 batch on the CPU. Raises DataError for anything else."""
    if not isinstance(example, Tensor) or example.dim() < 2 or not len(example):
        raise DataError(f"is {type(example).__name__}", where="example_input", remedy="give one float32 tensor, a batch with the samples first")
    if example.dtype is not torch.float32:
        raise DataError(f"is of {example.dtype}", where="example_input", remedy="give float32")
    return example.detach().cpu()


def read(source: Source, example: Tensor, casting: Casting) -> tuple[fx.GraphModule, dict[str, Constant]]:
    """The program as a module for any batch, with ``casting``'s modules where it fake-quantizes, and its cast weights and biases."""
    last: list[Program] = []

    def reader(data: Tensor, *, literal: bool = False) -> Program:
        last[:] = [Program(archive, source.where, data, casting, literal=literal)]
        return last[0]

    try:
        with zipfile.ZipFile(source.archive) as archive:
            first = reader(example)
            module = for_any_batch(first, lambda count: reader(rows(example, count), literal=True), first.batch, str(source.where))
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(source.where), remedy="check the path") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        message = str(error).split("\n")[0]
        what = f"cannot be understood: {type(error).__name__}: {message}"
        raise ModelFileError(what, where=str(source.where), remedy="save it again with torch.export.save of a recent PyTorch") from error
    return module, last[0].constants
