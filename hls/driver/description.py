"""What the driver must know of the accelerator: ``accelerator.json``, which qfx wrote beside this file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ProjectError
from .fixed.arraytype import ArrayType
from .fixed.packing import Port
from .fixed.type import FixedType

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """``input`` and ``output`` are the stream ports, ``cast`` makes raws of the model's float input. ``weights`` is the port of the constants, if
    they are loaded while the hardware runs.

    ``length_bits`` is the width of the DMA's length registers, ``alignment`` what the addresses of its buffers must be multiples of, in bytes.
    """

    top: str
    model: str
    board: str
    clock_ns: float
    input: Port
    output: Port
    cast: ArrayType
    length_bits: int
    alignment: int
    weights: Port | None = None

    @property
    def max_bytes(self) -> int:
        """The longest transfer."""
        return (1 << self.length_bits) - 1


def load_description(path: Path | None = None) -> Description:
    """The description in ``path`` (default: the one beside this file). Raises ProjectError if it is missing or cannot be read."""
    source = Path(__file__).resolve().parent / "accelerator.json" if path is None else path
    try:
        data: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ProjectError(f"its format is {data['format']}, this driver reads {FORMAT}", where=str(source), remedy="write the project again")
        cast = data["input"]["cast"]
        return Description(
            top=str(data["top"]),
            model=str(data["model"]),
            board=str(data["board"]),
            clock_ns=float(data["clock_ns"]),
            input=_port(data["input"]),
            output=_port(data["output"]),
            cast=ArrayType(FixedType.parse(cast["type"]), tuple(cast["int_bits"]), tuple(cast["int_bits_shape"])),
            length_bits=int(data["length_bits"]),
            alignment=int(data["alignment"]),
            weights=_port(data["weights"]) if "weights" in data else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"cannot be read: {error}", where=str(source), remedy="write the project again") from error


def _port(data: dict[str, Any]) -> Port:
    return Port(FixedType.parse(data["type"]), tuple(data["shape"]), int(data["slot"]), int(data["parallel"]))
