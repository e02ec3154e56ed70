"""A layer engine with every mode and wide numbers, compiled once, that runs the programs of any networks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.board import board
from qfx.hardware.emit.emit import CSIM_FLAGS
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.sequential.emit import files
from qfx.hardware.sequential.engine import Engine, engine, least_shape
from qfx.hardware.sequential.memory import planes
from qfx.hardware.sequential.program import Image, as_vectors, image
from qfx.hardware.sequential.steps import layers
from qfx.hardware.sequential.tiles import PROCESSES, Shape, blocks
from qfx.hardware.sequential.values import Value
from qfx.ir.graph import Graph
from qfx.ir.values import RawArray

DEPTH = 2048
"""Words of each memory: enough for the networks of tests."""


ENGINE = hls_root() / "include" / "qfx" / "sequential" / "engine.h"
DEPTHS = {name: int(depth) for name, depth in re.findall(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)", ENGINE.read_text(encoding="utf-8"))}
"""Of the streams between the processes of a step."""

_STOPPED = 3  # the bench's exit status


class StoppedError(Exception):
    """The processes of a step all wait."""


@dataclass(frozen=True)
class Bench:
    """An executable and the array that it has."""

    executable: Path
    shape: Shape

    def engine(self, graph: Graph, batch: int = 1) -> Engine:
        """The steps of a network on this array."""
        return engine(replace(layers(graph), batch=batch), self.shape, 16.0, 16.0)

    def run(
        self,
        made: Engine,
        inputs: list[RawArray],
        folder: Path,
        held: Image | None = None,
        *,
        stalls: int = 1,
        depths: Mapping[str, int] | None = None,
    ) -> tuple[list[RawArray], dict[str, int]]:
        """The raws (frames, channels, height, width) of every output of a batch, and the turns of each process. ``held``: another image of memory;
        ``stalls``: 0, or the seed of what holds up whoever reads or writes memory; ``depths``: of streams, other than the engine's.

        Raises StoppedError if the processes all wait."""
        held = held or image(made)
        for name, data in held.files(made).items():
            (folder / f"{name}.bin").write_bytes(data)
        size = made.shape.lanes * made.shape.x_bits // 8
        memory = bytearray(np.random.default_rng(0).bytes(made.places.vectors * size))  # what nobody wrote is anything
        for value, raw in zip(made.layers.inputs, inputs, strict=True):
            data, at = as_vectors(raw, value, made), made.begin(value) * size
            memory[at : at + len(data)] = data
        (folder / "in").write_bytes(memory)
        (folder / "depths").write_text("".join(f"{name} {depth}\n" for name, depth in {**DEPTHS, **(depths or {})}.items()), encoding="utf-8")
        places = (folder, *(folder / name for name in ("in", "out", "depths")))
        command = [str(self.executable), str(len(made.steps)), *map(str, places), str(stalls)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == _STOPPED:
            raise StoppedError(done.stdout)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        after = (folder / "out").read_bytes()
        counted = dict(zip(PROCESSES, map(int, (folder / "turns").read_text(encoding="utf-8").split()), strict=True))
        return [read(after, value, made) for value in made.layers.outputs], counted


def read(memory: bytes, value: Value, made: Engine) -> RawArray:
    """A value's raws from an image of memory."""
    lanes, bits = made.shape.lanes, made.shape.x_bits
    count, of = blocks(value.channels, lanes), planes(value, bits)
    begin, batch = made.begin(value) * lanes, made.layers.batch
    numbers = np.frombuffer(memory, dtype=f"<u{bits // 8}")[begin : begin + count * batch * value.pixels * of * lanes].astype(np.int64)
    parts = numbers.reshape(count, batch, value.height, value.columns, of, lanes)
    raw = (parts << (np.arange(of).reshape(-1, 1) * bits)).sum(-2)
    if value.signed and of * bits < 64:
        raw = np.where(raw >> (of * bits - 1) & 1, raw - (1 << of * bits), raw)
    found: npt.NDArray[np.int64] = raw.transpose(1, 0, 4, 2, 3).reshape(batch, -1, value.height, value.columns)[:, : value.channels]
    return found


def build(graph: Graph, folder: Path, lanes: int, vectors: int, pixels: int, lut_pixels: int = 0, bits: int = 16) -> Bench:
    """An array of that shape, with every part that an engine can have; ``graph`` is any that it can run."""
    made = layers(graph)
    small = least_shape(made, lanes, vectors, pixels, DEPTH, 8)
    shape = replace(small, x_bits=bits, w_bits=bits, x_depth=DEPTH, w_depth=DEPTH, y_depth=DEPTH, lut_pixels=lut_pixels)
    every = replace(
        engine(made, shape, 16.0, 16.0),
        acc_bits=48,
        value_bits=72,
        scale_bits=32,
        beside_planes=64 // bits,
        beside_depth=DEPTH,
        rounding=127,
        overflow=7,
        factors=True,
        beside=True,
        leak=True,
        up=True,
        products=True,
        signed=True,
        operand_bits=bits + 1,
        weight_bits=bits,
        slides=True,
        slide_rows=8,
        held_depth=DEPTH,
        slope_bits=32,
        arithmetic="dsp" if bits > 8 else "pair27",
    )
    for path, data in files(graph, every, board("zcu102"), clock_ns=5.0, top="net").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    sources = [Path(__file__).with_name("engine_bench.cpp")]
    flags = ["-O0" if flag == "-O2" else flag for flag in CSIM_FLAGS]
    # The streams that block hide the vendor's.
    own = ["-isystem", str(hls_root() / "sim" / "bounded")]
    includes = [*own, *simulation_headers(), *(f"-I{place}" for place in (hls_root() / "include", hls_root() / "templates", folder / "src"))]
    compile_cpp(sources, includes, folder / "engine", (*flags, "-Werror", "-DQFX_ENGINE_COUNT"))
    return Bench(folder / "engine", shape)
