"""``qfx.from_onnx``: quantized ONNX files of other tools, QONNX and QDQ, as fixed-point models of the same types, which give the same numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor, nn

from qfx import formats
from qfx.capture.batch.freeing import for_any_batch
from qfx.capture.batch.joining import rows
from qfx.capture.from_onnx import _check_shape, _feeds, argument, outside
from qfx.capture.inputs import Inputs
from qfx.capture.tail import without_tail
from qfx.capture.trace import trace
from qfx.errors import DataError, ModelFileError, UnsupportedError
from qfx.exchange.affine import Affine
from qfx.exchange.build import Explicit, fixed
from qfx.exchange.channels_last import channels_first
from qfx.exchange.conversion import Conversion, compared, in_float, keep, require_same
from qfx.exchange.integers.door import graph_of
from qfx.exchange.onnx_reader import QONNX_DOMAINS, QuantReader, Tables
from qfx.export.opset import DOMAIN
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph
from qfx.nn.layers import QInput
from qfx.nn.model import QuantizedModel

OPSETS = (7, 27)
"""The versions of ONNX' operators that are read, the first and the last."""

QONNX_VERSIONS = (1, 2)

_SAMPLES = 16


def from_onnx(
    path: str | os.PathLike[str],
    example_input: Any = None,
    *,
    strict: bool = True,
    input_type: FixedType | None = None,
    output: str | None = None,
) -> QuantizedModel:
    """The quantized ONNX file at ``path`` as a trainable fixed-point model with Casts where it quantizes, of these types, and nowhere else.

    It reads QONNX (Quant, IntQuant, BipolarQuant, Trunc, and MultiThreshold and XnorPopcountMatMul, which FINN makes; domains
    ``qonnx.custom_op.general`` and ``onnx.brevitas``) and pairs of QuantizeLinear and DequantizeLinear, with a Clip of integers between them or not.
    Scales must be powers of two, zero points 0 (or in the middle of a range without a sign, which gives it one). The rounding modes are those of
    ``qfx.exchange.grid.ROUNDING``.
    ``example_input``: a batch, or several by the names of the file's inputs; None: random numbers in the file's shapes. The file's results are
    compared on it. Results that do not depend on the inputs are left out, and told (``qfx inspect``). ``strict``, ``input_type``: as for
    ``qfx.from_brevitas``. ``output``: the tensor of the file to end at, for those that compute in float behind the last quantizer.

    Raises ModelFileError for a file that is no quantized ONNX model, or of versions that are not known; UnsupportedError, with node and remedy, for
    what ``ap_fixed`` cannot say; DataError for an example of another shape.
    """
    found = _assembled(Path(path), example_input, output, input_type, nearest=not strict)
    module, tables, arguments = found.module, found.tables, found.arguments
    explicit = Explicit(module, tables.grids(), {}, tables.numbers)
    result, notes = fixed(explicit, found.given, strict=strict, input_type=input_type)
    casts, computed = in_float(module, tables.numbers, arguments)
    theirs = _runtime(found.model, found.feeds, found.batch) or computed
    count = len(next(iter(theirs.values())))
    same = compared(result, tuple(data[:count] for data in arguments.values()), casts, tables.numbers, list(theirs.values()))
    if strict:
        require_same(same, str(path))
    keep(result, Conversion(same.rows, notes))
    for layer in result.modules():
        if isinstance(layer, QInput):
            layer.left_out = found.left_out
    return result.eval()


@dataclass(frozen=True, eq=False)
class Assembled:
    """A file as a module of torch's layers and fake-quantizations, for any batch. ``batch``: the file's own; ``left_out``: results that are no
    function of the inputs."""

    model: onnx.ModelProto
    module: nn.Module
    tables: Tables
    feeds: Mapping[str, Tensor]
    batch: int | None
    left_out: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Tensor]:
        return {argument(name): data for name, data in self.feeds.items()}

    @property
    def given(self) -> Any:
        """As ``capture`` takes inputs."""
        arguments = self.arguments
        return arguments if len(arguments) > 1 else next(iter(arguments.values()))


def integers_of_qonnx(path: str | os.PathLike[str], example_input: Any = None, *, output: str | None = None, nearest: bool = False) -> Graph:
    """The QONNX file at ``path``, of any scales and zero points, as a graph of its stored integers: as ``qfx.integers_of`` has them of modules.
    ``example_input`` and ``output``: as for ``from_onnx``. Raises what both raise."""
    found = _assembled(Path(path), example_input, output, None, nearest=False, affine=True)
    traced = without_tail(trace(found.module, Inputs.of(found.module, found.given)))
    constants = {name: (found.tables.numbers[name], made) for name, made in found.tables.constants.items() if isinstance(made, Affine)}
    return graph_of(traced, constants, Path(path).stem, nearest=nearest)


def _assembled(path: Path, example_input: Any, output: str | None, input_type: FixedType | None, *, nearest: bool, affine: bool = False) -> Assembled:
    model = _read(path)
    if output is not None:
        _end_at(model, output, path)
    channels_first(model)
    left_out = _without_constants(model)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if not inputs or not model.graph.output:
        what = f"has {len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise UnsupportedError(what, where=str(path), remedy="give a model with some of each")
    example = _random(inputs, path, input_type) if example_input is None else example_input
    feeds = _feeds(inputs, example, path)
    batch = next((size for size in (_check_shape(value, feeds[value.name], path) for value in inputs) if size is not None), None)
    tables = Tables()
    first = QuantReader(model, {name: data[: batch or 2] for name, data in feeds.items()}, path.stem, tables, nearest=nearest, affine=affine)

    def literal(count: int) -> QuantReader:
        return QuantReader(
            model, {name: rows(data, count) for name, data in feeds.items()}, path.stem, tables, nearest=nearest, literal=True, affine=affine
        )

    try:
        module = for_any_batch(first, literal, batch, path.stem)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError) as error:  # of a file that contradicts itself
        raise ModelFileError(f"contradicts itself: {type(error).__name__}: {error}", where=str(path), remedy="export it again") from error
    return Assembled(model, module, tables, feeds, batch, left_out)


def _read(path: Path) -> onnx.ModelProto:
    formats.refuse(formats.kind_of_file(path), str(path))
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path") from error
    except DecodeError as error:
        raise ModelFileError("is not an ONNX model, nor another that qfx reads", where=str(path), remedy="export it again") from error
    except onnx.checker.ValidationError as error:
        raise outside(path, error) from error
    if not model.graph.node:
        raise ModelFileError("has no operators: it is empty, cut off, or no ONNX model", where=str(path), remedy="export it again")
    if model.ir_version > onnx.IR_VERSION:
        what = f"is of version {model.ir_version} of ONNX' file format, newer than {onnx.IR_VERSION}"
        raise ModelFileError(what, where=str(path), remedy=f"export it with one up to {onnx.IR_VERSION}, or take a newer onnx")
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        raise ModelFileError("is one of qfx' own already", where=str(path), remedy="give it to qfx hls, qfx verify and the others as it is")
    try:
        kind = formats.kind_of_onnx(model)
    except TypeError as error:  # names that are no text
        raise ModelFileError(f"is damaged: {error}", where=str(path), remedy="export it again") from error
    if kind is None:
        raise ModelFileError("has no quantizers", where=str(path), remedy="give a float model to `qfx ptq`")
    if kind not in (formats.QONNX, formats.QDQ):
        formats.refuse(kind, str(path))
    for entry in model.opset_import:
        _check_version(entry.domain, entry.version, path)
    for tensor in model.graph.initializer:
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            what = f"the constant {tensor.name!r} is not what the file says: {error}"
            raise ModelFileError(what, where=str(path), remedy="export it again") from error
    return model


def _check_version(domain: str, version: int, path: Path) -> None:
    known = OPSETS if domain in ("", "ai.onnx") else QONNX_VERSIONS if domain in QONNX_DOMAINS else None
    if known is not None and not known[0] <= version <= known[1]:
        remedy = f"export it with version {known[0]} to {known[1]}"
        raise ModelFileError(f"is written in version {version} of {domain or 'ai.onnx'}", where=str(path), remedy=remedy)


def _end_at(model: onnx.ModelProto, name: str, path: Path) -> None:
    """Let the tensor ``name`` be the model's only result."""
    makers = {output: node for node in model.graph.node for output in node.output}
    if name not in makers:
        near = ", ".join(list(makers)[-6:])
        raise ModelFileError(f"has no tensor {name!r}", where=str(path), remedy=f"the last ones are {near}")
    needed, waiting = set[int](), [name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting += list(node.input)
    kept = [node for node in model.graph.node if id(node) in needed]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))


def _without_constants(model: onnx.ModelProto) -> tuple[str, ...]:
    """Leave out results that do not depend on the inputs, as scales and bit widths that are exported beside a value, and tell them."""
    depends = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if any(name in depends for name in node.input):
            depends.update(node.output)
    constant = [value.name for value in model.graph.output if value.name not in depends]
    if not constant or len(constant) == len(model.graph.output):
        return ()
    kept = [value for value in model.graph.output if value.name in depends]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return tuple(f"the constant result {name!r}" for name in constant)


def _random(inputs: list[onnx.ValueInfoProto], path: Path, kind: FixedType | None) -> Any:
    """Numbers in the shapes of the file's inputs, of ``kind`` if it is given, the same in every run."""
    random = np.random.default_rng(0)
    found: dict[str, Tensor] = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in dims]
        if len(sizes) < 2 or any(size < 1 for size in sizes[1:]):
            told = " x ".join(str(size or "?") for size in sizes) or "none"
            what = f"its input {value.name!r} has the shape {told}"
            raise DataError(what, where=str(path), remedy="give an example: --data, or example_input")
        shape = (max(sizes[0], _SAMPLES), *sizes[1:])
        if kind is not None:
            array: npt.NDArray[Any] = random.integers(kind.min_raw, kind.max_raw + 1, shape) * 2.0**-kind.frac_bits
        else:
            array = random.standard_normal(shape) * 2.0 ** random.integers(-2, 4, (shape[0], *(1,) * len(sizes[1:])))
        found[value.name] = torch.from_numpy(array.astype(np.float32))
    return found


def _runtime(model: onnx.ModelProto, feeds: Mapping[str, Tensor], batch: int | None) -> dict[str, Tensor]:
    """What ONNX Runtime gives, node by node as the file stands; nothing of QONNX, whose operators it does not have."""
    if formats.kind_of_onnx(model) is not formats.QDQ:
        return {}
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told by the error that is raised
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [value.name for value in model.graph.output]
    count = len(next(iter(feeds.values())))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        starts = range(0, count // (batch or count) * (batch or count), batch or count)
        runs = [session.run(None, {name: data[at : at + (batch or count)].numpy() for name, data in feeds.items()}) for at in starts]
    except Exception as error:  # onnxruntime's own kinds
        message = str(error).split("\n")[0]
        raise ModelFileError(f"does not run under ONNX Runtime: {message}", where="the file", remedy="export it again") from error
    return {name: torch.from_numpy(np.concatenate([run[place] for run in runs])) for place, name in enumerate(names)}
