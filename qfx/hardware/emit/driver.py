"""The driver in a project: the package of ``hls/driver``, copies of the modules that it shares with qfx, its description and its golden vectors."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qfx.fixed.packing import Port
from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import Board
from qfx.hardware.design.design import Design
from qfx.hardware.emit.blockdesign import ALIGNMENT, LENGTH_BITS, cells
from qfx.hardware.processes.memory.from_memory import FromMemory
from qfx.hardware.processes.memory.spill import Spill
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import FloatArray
from qfx.ir.values import RawArray
from qfx.operators import Input

FORMAT = 1

SHARED = ("errors.py", "fixed/type.py", "fixed/array.py", "fixed/arraytype.py", "fixed/packing.py", "fixed/vectors.py")
"""The modules of qfx, relative to the package, that the driver carries byte by byte. They run alone on Python 3.10 with numpy 1.21 (PYNQ 3.0)."""


def driver_files(graph: Graph, design: Design, board: Board, *, clock_ns: float, top: str) -> dict[str, str]:
    """The texts of the folder ``driver/`` by relative path, for the design that ``graph`` was lowered to."""
    return package(
        {
            **about(graph, board, clock_ns=clock_ns, top=top),
            "length_bits": LENGTH_BITS,
            "alignment": ALIGNMENT,
            **_ports(graph, design),
            **({"batch": design.batch} if design.batch > 1 else {}),
            **({} if design.loader is None else {"weights": _port(design.loader.port)}),
            **({"memories": [_master(place, master) for place, master in enumerate(design.masters)]} if design.masters else {}),
        }
    )


def about(graph: Graph, board: Board, *, clock_ns: float, top: str) -> dict[str, object]:
    """What a description of any accelerator begins with."""
    return {"format": FORMAT, "top": top, "model": graph.name, "board": board.name, "clock_ns": clock_ns}


def package(description: Mapping[str, object]) -> dict[str, str]:
    """The texts of the folder ``driver/`` for the accelerator of that description, by relative path."""
    source = Path(__file__).resolve().parents[2]
    files = {f"driver/{path}": text for path, text in read_tree(hls_root() / "driver", "**/*.py").items()}
    files.update({f"driver/{path}": (source / path).read_text(encoding="utf-8") for path in SHARED})
    files["driver/accelerator.json"] = json.dumps(description, indent=2) + "\n"
    return files


def golden_files(
    names: tuple[Sequence[str], Sequence[str]], several: bool, x: Sequence[FloatArray], x_raw: Sequence[RawArray], y_raw: Sequence[RawArray]
) -> dict[str, bytes]:
    """The golden vectors of the driver's self-test: floats of each input, the raws of its cast, and the raws of each output; batch first. Where there
    are several, the files are called after the streams, whose ``names`` are those of inputs and of outputs."""
    found = {}
    for stem, arrays, ends in (("x", x, names[0]), ("input_raw", x_raw, names[0]), ("output_raw", y_raw, names[1])):
        for name, array in zip(ends, arrays, strict=True):
            found[f"driver/golden_{stem}{f'_{name}' * several}.npy"] = _npy(array)
    return found


def _ports(graph: Graph, design: Design) -> dict[str, object]:
    """The ports as the description has them: of several the names in the model, the streams' and those of their DMAs beside the words;
    ``merged``: the bits of the stream that carries all inputs, and of that of all outputs."""
    if not design.several:
        return {"input": {**_port(design.input), "cast": cast_of(graph.input)}, "output": _port(design.output)}
    into, out = design.wires
    sends, receives = cells(len(into), len(out))
    if design.merged[0]:
        sends *= len(design.inputs)
    if design.merged[1]:
        receives *= len(design.outputs)
    sources = zip(graph.inputs, design.sources, sends, strict=True)
    sinks = zip(graph.output_names, design.sinks, receives, strict=True)
    return {
        "inputs": [{"name": node.name, "stream": name, "dma": dma, **_port(port), "cast": cast_of(node)} for node, (name, port), dma in sources],
        "outputs": [{"name": own, "stream": name, "dma": dma, **_port(port)} for own, (name, port), dma in sinks],
        **({"merged": {"input": design.merged[0], "output": design.merged[1]}} if any(design.merged) else {}),
    }


def memory_register(place: int) -> int:
    """The offset of the register that holds the address of what master number ``place`` reads; its upper half follows it."""
    return 0x20 + 16 * place


def _master(place: int, master: FromMemory | Spill) -> Mapping[str, object]:
    """Without the sum of a file where the accelerator has that memory to itself."""
    if isinstance(master, FromMemory):
        return memory(master.port, memory_register(place), master.contents, master.frame_bytes)
    size = master.beats * master.bits // 8
    return {"name": master.port, "register": memory_register(place), "bytes": size, "frame_bytes": master.frame_bytes}


def memory(name: str, register: int, contents: bytes, frame_bytes: int) -> Mapping[str, object]:
    """What the description says of the file ``name``.bin, whose address goes into the ``register``; ``frame_bytes`` of it are read in a frame."""
    digest = hashlib.sha256(contents).hexdigest()
    return {"name": name, "register": register, "bytes": len(contents), "sha256": digest, "frame_bytes": frame_bytes}


def cast_of(node: Node) -> Mapping[str, object]:
    op = node.op
    assert isinstance(op, Input)  # nothing else reads nothing
    return {"type": str(op.cast.element), "int_bits": list(op.cast.int_bits), "int_bits_shape": list(op.cast.shape)}


def _port(port: Port) -> Mapping[str, object]:
    return {"type": str(port.type), "shape": list(port.shape), "slot": port.slot, "parallel": port.parallel}


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
