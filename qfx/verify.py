"""Verification: every executor on the same data, compared raw integer by raw integer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, QfxError
from qfx.ir.feeds import Feed, Feeds, named, part, samples
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raws
from qfx.progress import Progress, parts, silent

RawArray = npt.NDArray[np.int64]
Executor = Callable[[Any], RawArray | tuple[RawArray, ...]]
"""From inputs (the array of the only one, or arrays by name) to the raws of the output, or of several in order."""
REFERENCE = "integer interpreter"
_FLOAT32_INTEGERS = 1 << 24
_FIRST = 8  # samples: then as many as a second takes


@dataclass(frozen=True, slots=True)
class Difference:
    """The first raw integer in which an executor disagrees with the interpreter. ``index`` leaves the sample out; ``output`` names the
    output where there are several."""

    sample: int
    index: tuple[int, ...]
    expected_raw: int
    actual_raw: int
    expected: float
    actual: float
    output: str = ""

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        output = f"output {self.output}" if self.output else "output"
        return f"sample {self.sample}, {output} [{at}]: expected raw {self.expected_raw} ({self.expected}), got {self.actual_raw} ({self.actual})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One executor against the interpreter: how many output values and bits were compared and differ, and the first difference."""

    executor: str
    values: int
    differing_values: int
    differing_bits: int
    first: Difference | None


def compare(graph: Graph, expected_raw: RawArray | tuple[RawArray, ...], actual_raw: RawArray | tuple[RawArray, ...], executor: str) -> Comparison:
    """Count the differing raw integers and bits (over the output type's word length) of all outputs; no tolerance.

    Raises DataError if the shapes, or the numbers of outputs, differ.
    """
    wanted, found = ((raw,) if isinstance(raw, np.ndarray) else tuple(raw) for raw in (expected_raw, actual_raw))
    if not len(wanted) == len(found) == len(graph.outputs):
        what = f"gave {len(found)} outputs, expected {len(graph.outputs)}"
        raise DataError(what, where=executor, remedy="was it made from this model?")
    rows = [_compare(graph, position, *pair, executor) for position, pair in enumerate(zip(wanted, found, strict=True))]
    first = next((row.first for row in rows if row.first is not None), None)
    return Comparison(
        executor, sum(row.values for row in rows), sum(row.differing_values for row in rows), sum(row.differing_bits for row in rows), first
    )


def _compare(graph: Graph, position: int, expected_raw: RawArray, actual_raw: RawArray, executor: str) -> Comparison:
    """One of the outputs."""
    if expected_raw.shape != actual_raw.shape:
        raise DataError(f"gave shape {actual_raw.shape}, expected {expected_raw.shape}", where=executor, remedy="was it made from this model?")
    differs = expected_raw != actual_raw
    info, name = graph.infos[graph.outputs[position]], graph.output_names[position] if len(graph.outputs) > 1 else ""
    mask = (1 << info.type.width) - 1
    pairs = zip(expected_raw[differs].tolist(), actual_raw[differs].tolist(), strict=True)
    bits = sum(max(((a ^ b) & mask).bit_count(), 1) for a, b in pairs)
    first = None
    if differs.any():
        sample, *index = (int(i) for i in np.argwhere(differs)[0])
        a, b = expected_raw[(sample, *index)], actual_raw[(sample, *index)]
        lsb = 2.0**-info.type.frac_bits
        first = Difference(sample, tuple(index), int(a), int(b), int(a) * lsb, int(b) * lsb, name)
    return Comparison(executor, expected_raw.size, int(differs.sum()), bits, first)


def onnx_runtime(path: str | os.PathLike[str], graph: Graph) -> Executor:
    """ONNX Runtime on the file, its float results read back as raw integers. A result off the output's grid raises QfxError."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in graph.inputs]

    def execute(x: Any) -> RawArray | tuple[RawArray, ...]:
        given = {f"{name}#float": array for name, array in (x if isinstance(x, Mapping) else dict(zip(names, (x,), strict=True))).items()}
        results = session.run(list(graph.outputs), given)
        raws = tuple(raw_of(result, graph, "ONNX Runtime", output) for result, output in zip(results, graph.outputs, strict=True))
        return raws[0] if len(raws) == 1 else raws

    return execute


def raw_of(result: npt.NDArray[np.floating], graph: Graph, executor: str, output: str | None = None) -> RawArray:
    """Float values of an output of the graph (default: the only one) as raw integers.

    Raises QfxError for a value that is not a multiple of the output's lsb.
    """
    scaled = np.ldexp(np.asarray(result, dtype=np.float64), graph.infos[graph.output if output is None else output].type.frac_bits)
    if not np.isfinite(scaled).all() or (np.abs(scaled) >= 2.0**63).any() or (scaled != np.rint(scaled)).any():
        raise QfxError("gave a value off the output's grid", where=executor, remedy="the executor is not exact on this machine; please report it")
    return scaled.astype(np.int64)


def verify(
    model: str | os.PathLike[str], x: Feed, executors: Mapping[str, Executor] | None = None, *, progress: Progress = silent
) -> list[Comparison]:
    """Compare ONNX Runtime and every other executor with the integer interpreter on ``x`` (batch first, the model's input layout; several inputs as
    ``qfx.run`` takes them), float32 or integers that float32 holds.

    ``executors``: more of them, such as C simulation, from inputs to raw outputs; what they tell of their progress is theirs.
    Raises ModelFileError for a bad file, DataError for bad data.
    """
    graph = load_graph(Path(model))
    data = _float32(graph, x)
    count = samples(data)
    pieces = parts(count, progress, f"running the {REFERENCE}", first=_FIRST)
    expected = _joined([run_raws(graph, part(data, piece)) for piece in pieces])
    if count == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one: nothing proves nothing")
    runtime = onnx_runtime(model, graph)

    def in_parts(_: Any) -> tuple[RawArray, ...]:
        return _joined([runtime(part(data, piece)) for piece in parts(count, progress, "running ONNX Runtime", first=_FIRST)])

    given = next(iter(data.values())) if len(data) == 1 else data
    everyone: dict[str, Executor] = {"ONNX Runtime": in_parts, **(executors or {})}
    return [compare(graph, expected, execute(given), name) for name, execute in everyone.items()]


def _joined(pieces: Sequence[RawArray | tuple[RawArray, ...]]) -> tuple[RawArray, ...]:
    """The raws of each output from those of parts of the data."""
    return tuple(np.concatenate(raws) for raws in zip(*(piece if isinstance(piece, tuple) else (piece,) for piece in pieces), strict=True))


def _float32(graph: Graph, x: Feed) -> Feeds:
    """The inputs in the dtype that a model's file takes."""
    for array in x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple | list) else (x,):
        if not isinstance(array, np.ndarray) or not (array.dtype == np.float32 or array.dtype.kind in "iu"):
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"expected a float32 array, got {got}", where="inputs", remedy="convert the data with x.astype(numpy.float32)")
    given = named({node.name: graph.infos[node.name].shape for node in graph.inputs}, x, graph.name)
    for name, array in given.items():
        if array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), abs(int(array.max()))) > _FLOAT32_INTEGERS:
            raise DataError("holds an integer beyond 2**24, which the file's float32 rounds", where=name, remedy="scale the data")
    return {name: array.astype(np.float32, copy=False) for name, array in given.items()}


__all__ = ["REFERENCE", "Comparison", "Difference", "Executor", "compare", "onnx_runtime", "raw_of", "verify"]
