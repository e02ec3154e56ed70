"""The stored golden vectors through the accelerator, raw integer by raw integer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .accelerator import Accelerator
from .errors import DataError
from .fixed.array import Int64Array


@dataclass(frozen=True)
class Golden:
    """``x`` are floats (N, *input shape); the raws are what the integer interpreter gave for them."""

    x: np.ndarray
    input_raw: Int64Array
    output_raw: Int64Array


def load_golden(folder: Path | None = None) -> Golden:
    """The golden vectors in ``folder`` (default: beside this file). Raises DataError if one is missing or damaged."""
    root = Path(__file__).resolve().parent if folder is None else folder
    arrays = []
    for name in ("golden_x.npy", "golden_input_raw.npy", "golden_output_raw.npy"):
        try:
            arrays.append(np.load(root / name, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"cannot be read: {error}", where=str(root / name), remedy="copy the driver again") from error
    return Golden(*arrays)


def selftest(accelerator: Accelerator, golden: Golden) -> tuple[str, ...]:
    """What differs, a line each; empty if nothing does.

    The input cast, then the hardware on the golden raws with all frames in one transfer, frame by frame, and in transfers of two.
    """
    complaints = _compare("quantized input", golden.input_raw, accelerator.quantize(golden.x))
    if not len(golden.output_raw):
        return ("there are no golden vectors",)
    for batch in sorted({1, 2, len(golden.output_raw)}, reverse=True):
        got = accelerator.run_raw(golden.input_raw, batch=batch)
        complaints += _compare(f"output, {batch} frames a transfer", golden.output_raw, got)
    return complaints


def _compare(what: str, want: Int64Array, got: Int64Array) -> tuple[str, ...]:
    if want.shape != got.shape:
        return (f"{what}: shape {got.shape} instead of {want.shape}",)
    different = want != got
    if not different.any():
        return ()
    first = tuple(int(i) for i in np.argwhere(different)[0])
    count = int(np.count_nonzero(different))
    return (f"{what}: {count} of {want.size} raws differ, first at {first}: expected {want[first]}, got {got[first]}",)
