"""The driver in a project: the package of ``hls/driver``, copies of the modules that it shares with qfx, its description and its golden vectors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.fixed.arraytype import ArrayType
from qfx.fixed.packing import Port
from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import Board
from qfx.hardware.design.design import Design
from qfx.hardware.emit.blockdesign import ALIGNMENT, LENGTH_BITS
from qfx.ir.values import RawArray

FORMAT = 1

SHARED = ("errors.py", "fixed/type.py", "fixed/array.py", "fixed/arraytype.py", "fixed/packing.py")
"""The modules of qfx, relative to the package, that the driver carries byte by byte. They run alone on Python 3.10 with numpy 1.21 (PYNQ 3.0)."""


def driver_files(design: Design, cast: ArrayType, board: Board, *, model: str, clock_ns: float, top: str) -> dict[str, str]:
    """The texts of the folder ``driver/`` by relative path; ``cast`` makes raws of the model's float input."""
    package = Path(__file__).resolve().parents[2]
    files = {f"driver/{path}": text for path, text in read_tree(hls_root() / "driver", "**/*.py").items()}
    files.update({f"driver/{path}": (package / path).read_text(encoding="utf-8") for path in SHARED})
    description = {
        "format": FORMAT,
        "top": top,
        "model": model,
        "board": board.name,
        "clock_ns": clock_ns,
        "length_bits": LENGTH_BITS,
        "alignment": ALIGNMENT,
        "input": {
            **_port(design.input),
            "cast": {"type": str(cast.element), "int_bits": list(cast.int_bits), "int_bits_shape": list(cast.shape)},
        },
        "output": _port(design.output),
        **({} if design.loader is None else {"weights": _port(design.loader.port)}),
    }
    files["driver/accelerator.json"] = json.dumps(description, indent=2) + "\n"
    return files


def golden_files(x: npt.NDArray[np.floating], x_raw: RawArray, y_raw: RawArray) -> dict[str, bytes]:
    """The golden vectors of the driver's self-test: floats, the raws of their input cast, and the raws of the results; batch first."""
    return {"driver/golden_x.npy": _npy(x), "driver/golden_input_raw.npy": _npy(x_raw), "driver/golden_output_raw.npy": _npy(y_raw)}


def _port(port: Port) -> Mapping[str, object]:
    return {"type": str(port.type), "shape": list(port.shape), "slot": port.slot, "parallel": port.parallel}


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
