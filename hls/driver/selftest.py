"""The stored golden vectors through the accelerator, raw integer by raw integer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .accelerator import Accelerator, Given, Timing
from .description import Description, OutputPort, load_description
from .errors import DataError
from .fixed.array import Int64Array


@dataclass(frozen=True)
class Golden:
    """Of every input, in order, floats (N, *input shape) in ``x`` and the raws of its cast; of every output the raws that the integer interpreter
    gave for them."""

    x: tuple[np.ndarray, ...]
    input_raw: tuple[Int64Array, ...]
    output_raw: tuple[Int64Array, ...]

    @property
    def frames(self) -> int:
        return len(self.output_raw[0])


def load_golden(folder: Path | None = None, description: Description | None = None) -> Golden:
    """The golden vectors in ``folder`` (default: beside this file) for the ports of ``description`` (default: the one there).

    Raises DataError if one is missing or damaged.
    """
    root = Path(__file__).resolve().parent if folder is None else folder
    ports = load_description(root / "accelerator.json") if description is None else description

    def arrays(stem: str, ends: Sequence[OutputPort]) -> tuple[np.ndarray, ...]:
        return tuple(_load(root / f"golden_{stem}{f'_{end.stream}' * ports.several}.npy") for end in ends)

    return Golden(arrays("x", ports.inputs), arrays("input_raw", ports.inputs), arrays("output_raw", ports.outputs))


def _load(path: Path) -> np.ndarray:
    try:
        loaded: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), remedy="copy the driver again") from error
    return loaded


def selftest(accelerator: Accelerator, golden: Golden) -> tuple[str, ...]:
    """What differs, a line each; empty if nothing does.

    The input casts, then the hardware on the golden raws with all frames in one transfer, frame by frame, and in transfers of two. A layer engine
    takes frames one by one in any case.
    """
    inputs, outputs = accelerator.description.inputs, accelerator.description.outputs
    complaints: tuple[str, ...] = ()
    quantized = accelerator.quantize(given(golden.x))
    for source, want, got in zip(inputs, golden.input_raw, quantized.values() if len(inputs) > 1 else [quantized], strict=True):
        complaints += _compare(f"quantized input{_named(source, inputs)}", want, got)
    if not golden.frames:
        return ("there are no golden vectors",)
    engine = accelerator.description.engine is not None
    for batch in sorted({golden.frames} if engine else {1, 2, golden.frames}, reverse=True):
        results = accelerator.run_raw(given(golden.input_raw), batch=batch)
        for end, want, got in zip(outputs, golden.output_raw, results.values() if len(outputs) > 1 else [results], strict=True):
            complaints += _compare(f"output{_named(end, outputs)}" + f", {batch} frames a transfer" * (not engine), want, got)
    return complaints


def bench(accelerator: Accelerator, golden: Golden, frames: int, batch: int | None = None) -> Timing:
    """How long the golden frames take, over and over until they are ``frames``; the first call, which allocates buffers, is left out."""
    repeated = tuple(np.resize(raw, (frames, *raw.shape[1:])) for raw in golden.input_raw)
    for _ in range(2):
        accelerator.run_raw(given(repeated), batch=batch)
    return accelerator.timing


def given(arrays: tuple[np.ndarray, ...]) -> Given:
    """The arrays as the accelerator takes them: the only one by itself."""
    return arrays if len(arrays) > 1 else arrays[0]


def _named(end: OutputPort, ends: Sequence[OutputPort]) -> str:
    return f" {end.name}" if len(ends) > 1 else ""


def _compare(what: str, want: Int64Array, got: Int64Array) -> tuple[str, ...]:
    if want.shape != got.shape:
        return (f"{what}: shape {got.shape} instead of {want.shape}",)
    different = want != got
    if not different.any():
        return ()
    first = tuple(int(i) for i in np.argwhere(different)[0])
    count = int(np.count_nonzero(different))
    return (f"{what}: {count} of {want.size} raws differ, first at {first}: expected {want[first]}, got {got[first]}",)
