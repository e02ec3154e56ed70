"""The accelerator as a function of arrays: quantize, compute, values."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .description import Description, InputPort, load_description
from .device import Device, open_board
from .engine import LayerEngine
from .errors import DataError
from .fixed.array import Int64Array, to_float
from .fixed.arraytype import cast_floats
from .memory import default_folder
from .streams import Streams

Given: TypeAlias = "npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | Mapping[str, npt.NDArray[Any]]"
"""The array of the only input; of several the arrays in the inputs' order, or by their names."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """One call of ``run`` or ``run_raw``: frames, transfers (of a layer engine ``what`` says runs), and seconds altogether and in transfers alone
    (what the hardware took)."""

    frames: int
    transfers: int
    seconds: float
    transfer_seconds: float
    what: str = "transfers"

    def __str__(self) -> str:
        rates = [self.frames / t if t > 0 else float("inf") for t in (self.seconds, self.transfer_seconds)]
        return (
            f"{self.frames} frames in {self.transfers} {self.what}: {self.seconds * 1e3:.3f} ms ({rates[0]:.1f} frames/s), "
            f"of which {self.what} {self.transfer_seconds * 1e3:.3f} ms ({rates[1]:.1f} frames/s)"
        )


class Accelerator:
    """The accelerator on an open device. Use it as a context manager, or call ``close``.

    ``bitfile`` is the bitstream (default: the one that ``make deploy`` puts beside this package); ``device`` stands in for the board, as a
    ``SimulatedBoard`` does. ``timeout_s`` bounds each transfer, in seconds; of a layer engine each frame. If its constants are loaded while it runs,
    it gets those in ``weights`` (default: the ``weights.bin`` beside this package's modules). What it reads from memory is put there first, from the
    files in the folder ``memory`` (default: the one beside this package's modules, or the project's tb/memory). Raises DeviceError if it cannot be
    opened or started, DataError for files of weights that are missing, of another length or of another model, and as ``load_weights``.
    """

    def __init__(
        self,
        bitfile: str | Path | None = None,
        *,
        device: Device | None = None,
        description: Description | None = None,
        timeout_s: float = 10.0,
        weights: str | Path | None = None,
        memory: str | Path | None = None,
    ) -> None:
        self.description = load_description() if description is None else description
        own = Path(__file__).resolve().parent
        if device is None:
            default = own.parent / f"{self.description.top}.bit"
            device = open_board(
                default if bitfile is None else Path(bitfile), weights=self.description.weights is not None, dmas=self.description.dmas
            )
        self.timing = Timing(0, 0, 0.0, 0.0)
        """Of the last call."""
        folder = default_folder() if memory is None else Path(memory)
        self._hardware: Streams | LayerEngine
        if self.description.engine is not None:
            if weights is not None:
                raise _no_port(weights)
            self._hardware = LayerEngine(self.description, self.description.engine, device, timeout_s, folder)
            return
        constants = own / "weights.bin" if weights is None and self.description.weights is not None else weights
        self._hardware = Streams(self.description, device, timeout_s, None if constants is None else Path(constants), folder)

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the buffers and stop the accelerator. One with streams still waits for one frame: load the bitstream again before its next use."""
        self._hardware.close()

    def load_weights(self, path: str | Path) -> None:
        """Load the constants in ``path``, as ``qfx weights`` packs them; frames that follow are computed with them.

        Raises DataError for a file of another length, DeviceError if the hardware fails.
        """
        if isinstance(self._hardware, LayerEngine):
            raise _no_port(path)
        self._hardware.load_weights(Path(path))

    def quantize(self, x: Given) -> Any:
        """The raws (N, *input shape) of float32 or float64 numbers, as the model's input cast gives them.

        ``x``: the array of the only input; of several the arrays by the inputs' names, or a sequence in their order; so are the raws, by name.
        Raises DataError for another shape or dtype, NaN and infinity, and for arrays of other inputs.
        """
        raws = {end.name: self._quantized(x, end) for end, x in zip(self.description.inputs, self._arrays(x), strict=True)}
        return raws if len(raws) > 1 else raws.popitem()[1]

    def _quantized(self, x: npt.NDArray[Any], end: InputPort) -> Int64Array:
        where = end.name or self.description.top
        if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(f"expected a float32 or float64 array, got {got}", where=where, remedy="convert the data")
        if x.ndim == 0 or x.shape[1:] != end.port.shape:
            expected = ", ".join(map(str, ("N", *end.port.shape)))
            raise DataError(f"expected the shape ({expected}), got {x.shape}", where=where, remedy="give what the model was made for")
        return cast_floats(x, end.cast)

    def _arrays(self, x: Given) -> tuple[Any, ...]:
        """An array for each input, in the inputs' order."""
        names = [end.name for end in self.description.inputs]
        if isinstance(x, Mapping) and self.description.several:
            if set(x) != set(names):
                got = ", ".join(map(str, x)) or "nothing"
                raise DataError(f"expected the inputs {', '.join(names)}, got {got}", where=self.description.top, remedy="give an array for each")
            return tuple(x[name] for name in names)
        arrays = tuple(x) if isinstance(x, tuple | list) and self.description.several else (x,)
        if len(arrays) != len(names):
            what = f"expected {len(names)} input{'s' * (len(names) > 1)} ({', '.join(names)}), got {len(arrays)}"
            raise DataError(what, where=self.description.top, remedy="give an array for each, in this order or by name")
        return arrays

    def run(self, x: Given, *, batch: int | None = None) -> Any:
        """The values (N, *output shape) for floats (N, *input shape), exact. ``batch``: frames per transfer (default: as many as 8 MiB hold).

        ``x`` as for ``quantize``. Of several outputs the values by the outputs' names, in the model's order.
        Raises DataError as ``quantize`` does and for inputs of different lengths, DeviceError if the hardware fails, ExactnessError for results that
        float64 cannot hold.
        """
        begin = time.perf_counter()
        raws = self._run(self._arrays(self.quantize(x)), batch)
        values = tuple(to_float(raw, end.port.type.frac_bits) for raw, end in zip(raws, self.description.outputs, strict=True))
        self.timing = replace(self.timing, seconds=time.perf_counter() - begin)
        return self._named(values)

    def run_raw(self, x_raw: Given, *, batch: int | None = None) -> Any:
        """The raws of the output for raws of the input (int64), as ``quantize`` gives them; ``batch``, several inputs and outputs as in ``run``."""
        return self._named(self._run(self._arrays(x_raw), batch))

    def _named(self, results: tuple[Result, ...]) -> Result | dict[str, Result]:
        if len(results) == 1:
            return results[0]
        return {end.name: result for end, result in zip(self.description.outputs, results, strict=True)}

    def _run(self, x_raw: tuple[Int64Array, ...], batch: int | None) -> tuple[Int64Array, ...]:
        begin = time.perf_counter()
        raws, transfers, seconds = self._hardware.run(x_raw, batch)
        what = "runs" if self.description.engine else "transfers"
        self.timing = Timing(len(raws[0]), transfers, time.perf_counter() - begin, seconds, what)
        return raws


def _no_port(path: str | Path) -> DataError:
    what = "this accelerator reads its weights from memory, and no port loads any"
    return DataError(what, where=str(path), remedy="name a folder of such files with --memory")
