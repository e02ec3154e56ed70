"""Verification: every executor on the same data, compared raw integer by raw integer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError, QfxError
from qfx.ir.from_onnx import load_graph
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raw
from qfx.progress import Progress, parts, silent

RawArray = npt.NDArray[np.int64]
Executor = Callable[[npt.NDArray[np.float32]], RawArray]
REFERENCE = "integer interpreter"
_FIRST = 8  # samples: then as many as a second takes


@dataclass(frozen=True, slots=True)
class Difference:
    """The first raw integer in which an executor disagrees with the interpreter. ``index`` leaves the sample out."""

    sample: int
    index: tuple[int, ...]
    expected_raw: int
    actual_raw: int
    expected: float
    actual: float

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        return f"sample {self.sample}, output [{at}]: expected raw {self.expected_raw} ({self.expected}), got {self.actual_raw} ({self.actual})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One executor against the interpreter: how many output values and bits were compared and differ, and the first difference."""

    executor: str
    values: int
    differing_values: int
    differing_bits: int
    first: Difference | None


def compare(graph: Graph, expected_raw: RawArray, actual_raw: RawArray, executor: str) -> Comparison:
    """Count the differing raw integers and bits (over the output type's word length); no tolerance.

    Raises DataError if the shapes differ.
    """
    if expected_raw.shape != actual_raw.shape:
        raise DataError(f"gave shape {actual_raw.shape}, expected {expected_raw.shape}", where=executor, remedy="was it made from this model?")
    differs = expected_raw != actual_raw
    info = graph.infos[graph.output]
    mask = (1 << info.type.width) - 1
    pairs = zip(expected_raw[differs].tolist(), actual_raw[differs].tolist(), strict=True)
    bits = sum(max(((a ^ b) & mask).bit_count(), 1) for a, b in pairs)
    first = None
    if differs.any():
        sample, *index = (int(i) for i in np.argwhere(differs)[0])
        a, b = expected_raw[(sample, *index)], actual_raw[(sample, *index)]
        lsb = 2.0**-info.type.frac_bits
        first = Difference(sample, tuple(index), int(a), int(b), int(a) * lsb, int(b) * lsb)
    return Comparison(executor, expected_raw.size, int(differs.sum()), bits, first)


def onnx_runtime(path: str | os.PathLike[str], graph: Graph) -> Executor:
    """ONNX Runtime on the file, its float results read back as raw integers. A result off the output's grid raises QfxError."""
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def execute(x: npt.NDArray[np.float32]) -> RawArray:
        (result,) = session.run(None, {name: x})
        return raw_of(result, graph, "ONNX Runtime")

    return execute


def raw_of(result: npt.NDArray[np.floating], graph: Graph, executor: str) -> RawArray:
    """Float values of the graph's output as raw integers. Raises QfxError for a value that is not a multiple of the output's lsb."""
    scaled = np.ldexp(np.asarray(result, dtype=np.float64), graph.infos[graph.output].type.frac_bits)
    if not np.isfinite(scaled).all() or (np.abs(scaled) >= 2.0**63).any() or (scaled != np.rint(scaled)).any():
        raise QfxError("gave a value off the output's grid", where=executor, remedy="the executor is not exact on this machine; please report it")
    return scaled.astype(np.int64)


def verify(
    model: str | os.PathLike[str], x: npt.NDArray[np.float32], executors: Mapping[str, Executor] | None = None, *, progress: Progress = silent
) -> list[Comparison]:
    """Compare ONNX Runtime and every other executor with the integer interpreter on ``x`` (batch first, the model's input layout).

    ``executors``: more of them, such as C simulation, from inputs to raw outputs; what they tell of their progress is theirs.
    Raises ModelFileError for a bad file, DataError for bad data.
    """
    graph = load_graph(Path(model))
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"expected a float32 array, got {got}", where="inputs", remedy="convert the data with x.astype(numpy.float32)")
    expected = np.concatenate([run_raw(graph, x[part]) for part in parts(len(x), progress, f"running the {REFERENCE}", first=_FIRST)])
    if len(x) == 0:
        raise DataError("holds no samples", where="data", remedy="give at least one: nothing proves nothing")
    runtime = onnx_runtime(model, graph)

    def in_parts(data: npt.NDArray[np.float32]) -> RawArray:
        return np.concatenate([runtime(data[part]) for part in parts(len(data), progress, "running ONNX Runtime", first=_FIRST)])

    everyone: dict[str, Executor] = {"ONNX Runtime": in_parts, **(executors or {})}
    return [compare(graph, expected, execute(x), name) for name, execute in everyone.items()]


__all__ = ["REFERENCE", "Comparison", "Difference", "Executor", "compare", "onnx_runtime", "raw_of", "verify"]
