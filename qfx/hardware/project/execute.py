"""The protocols of the executables that C simulation builds: raws in and out as files of 64-bit words, traces as one such file a stream, counters as
lines of text. The environment tells an executable where to leave what, and which constants to load."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qfx import process
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.project.blame import DefectError
from qfx.ir.losses import Loss
from qfx.ir.values import RawArray, Shape

_SHOWN = 4000  # characters of a complaint

Travel = Mapping[str, Any]
"""An entry of ``sim/values.json``: a value of the model (``node``, ``shape``), and where and in which ``order`` it travels (``stream``)."""


def execute(command: Sequence[str], x_raw: RawArray, output_shape: Shape, environment: Mapping[str, str] | None = None) -> RawArray:
    """The output raws (N, *output_shape) for input raws (N, ...). Raises DefectError if the executable fails, or says anything at all."""
    with tempfile.TemporaryDirectory(prefix="qfx_csim_") as folder:
        source, result = Path(folder) / "in.bin", Path(folder) / "out.bin"
        source.write_bytes(np.ascontiguousarray(x_raw, dtype="<i8").tobytes())
        env = {**os.environ, **(environment or {})}
        done = process.run([*command, str(source), str(result)], env=env)
        complaint = (done.stdout + done.stderr).strip()  # the vendor's streams warn of reads while empty and of leftover data
        if done.returncode or complaint:
            raise DefectError(f"C simulation failed (status {done.returncode}): {complaint[:_SHOWN]}", command[0])
        raw = np.frombuffer(result.read_bytes(), dtype="<i8").astype(np.int64)
    if raw.size != len(x_raw) * math.prod(output_shape):
        raise DefectError(f"C simulation gave {raw.size} numbers for {len(x_raw)} samples of {math.prod(output_shape)}", command[0])
    return raw.reshape(len(x_raw), *output_shape)


def put_together(raws: Sequence[RawArray]) -> RawArray:
    """The raws (N, numbers) of several ports as an executable takes them: in a sample those of one port after those of the other."""
    return np.concatenate([raw.reshape(len(raw), math.prod(raw.shape[1:])) for raw in raws], axis=1)


def taken_apart(raw: RawArray, shapes: Sequence[Shape]) -> tuple[RawArray, ...]:
    """The raws (N, *shape) of ports of these shapes; the inverse of ``put_together``."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(raw, cuts, axis=1)
    return tuple(np.ascontiguousarray(part).reshape(len(raw), *shape) for part, shape in zip(parts, shapes, strict=True))


def traced(
    command: Sequence[str], x_raw: RawArray, output_shape: Shape, travels: Sequence[Travel], environment: Mapping[str, str]
) -> dict[str, RawArray]:
    """By node, the raws (N, *shape) of the values of ``travels`` that a trace build wrote."""
    with tempfile.TemporaryDirectory(prefix="qfx_trace_") as folder:
        Path(folder, "streams").write_text("".join(f"{name}\n" for name in sorted({entry["stream"] for entry in travels})), encoding="utf-8")
        execute(command, x_raw, output_shape, {"QFX_TRACE_FOLDER": folder, **environment})
        return {entry["node"]: _travelled(Path(folder, entry["stream"]), entry, len(x_raw)) for entry in travels}


def _travelled(file: Path, entry: Travel, samples: int) -> RawArray:
    """The numbers of one stream, in the layout of the model."""
    shape = tuple(entry["shape"])
    order = Frame.of(shape).order if entry["order"] is None else np.array(entry["order"], dtype=np.int64)
    travelled = np.frombuffer(file.read_bytes() if samples else b"", dtype="<i8")
    if travelled.size != samples * order.size:
        raise DefectError(f"{travelled.size} numbers travelled on {entry['stream']} in {samples} samples of {order.size}", str(file))
    travelled = travelled.reshape(samples, order.size)
    raw = np.empty((samples, order.size), dtype=np.int64)
    raw[:, order] = travelled
    return raw.reshape(samples, *shape)


def counted(command: Sequence[str], x_raw: RawArray, output_shape: Shape, environment: Mapping[str, str] | None = None) -> dict[int, Loss]:
    """What each site of a report build counted."""
    with tempfile.TemporaryDirectory(prefix="qfx_report_") as folder:
        path = Path(folder, "counters")
        execute(command, x_raw, output_shape, {"QFX_REPORT": str(path), **(environment or {})})
        lines = [tuple(map(int, line.split())) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {site: Loss(*counts) for site, *counts in lines}
