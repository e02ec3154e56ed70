"""An engine and its program as the files of a project. Text and bytes only, and deterministic."""

from __future__ import annotations

import json
import zlib
from typing import Any

from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import Board
from qfx.hardware.emit.driver import package
from qfx.hardware.emit.emit import scripts
from qfx.hardware.emit.templates import render
from qfx.hardware.sequential import host
from qfx.hardware.sequential.engine import Engine
from qfx.hardware.sequential.memory import planes
from qfx.hardware.sequential.program import STEP_WORDS, Image, image
from qfx.hardware.sequential.values import Value
from qfx.ir.graph import Graph

HLS_TOOLS = ("vitis_hls", "vitis-run")
"""The vendor's tools that take an engine."""
MEMORY = "tb/memory"
"""The folder of a project with what lies in memory before the first frame."""
_LIBRARY = ("qfx/types.h", "qfx/storage.h", "qfx/axi.h", "qfx/multiply.h", "qfx/sequential/*.h")


def files(graph: Graph, engine: Engine, board: Board, *, clock_ns: float, top: str, uncertainty: str = "27%") -> dict[str, bytes]:
    """Everything but estimates and golden vectors, by relative path. ``uncertainty``: what the HLS tool leaves to routing (default: the tool's)."""
    made = image(engine)
    design = host.block_design(engine, board, clock_ns=clock_ns)
    held = made.files(engine)
    values: dict[str, Any] = {
        "engine": engine,
        "model": graph.name,
        "board": board,
        "clock_ns": f"{clock_ns:g}",
        "top": top,
        "guard": top.upper(),
        "register": {name: f"0x{offset:x}" for name, offset in host.REGISTERS.items()},
        "memories": design.memories,
        "crc": {name: zlib.crc32(data) for name, data in held.items()},
        "weight_vectors": len(made.weights) // (engine.shape.wide * engine.shape.lanes * engine.shape.w_bits // 8),
        "step_words": STEP_WORDS,
        "parameter_words": len(made.parameters) // 8,
        "inputs": [_port(value, engine) for value in engine.layers.inputs],
        "outputs": [_port(value, engine) for value in engine.layers.outputs],
    }
    texts = {
        f"src/{top}.h": render("sequential/top.h.j2", values),
        f"src/{top}.cpp": render("sequential/top.cpp.j2", values),
        "tb/tb.cpp": render("sequential/tb.cpp.j2", values),
        "README.md": render("sequential/README.md.j2", values),
        **scripts(
            design,
            board,
            clock_ns=clock_ns,
            top=top,
            uncertainty=uncertainty,
            data=("golden_input.txt", "golden_output.txt", *(f"memory/{name}.bin" for name in held)),
            masters=True,
            in_memory=True,
            tools=HLS_TOOLS,
        ),
        **package(host.description(graph, engine, made, board, clock_ns=clock_ns, top=top)),
        f"{MEMORY}/map.json": json.dumps(_map(graph, engine, made), indent=2) + "\n",
    }
    for path in ("harness.h", "sequential/memory.h"):
        texts[f"tb/{path.rpartition('/')[2]}"] = (hls_root() / "templates" / path).read_text(encoding="utf-8")
    texts |= {f"include/{path}": text for path, text in read_tree(hls_root() / "include", *_LIBRARY).items()}
    texts |= {f"sim/axi/{path}": text for path, text in read_tree(hls_root() / "sim", "*.h").items()}
    found = {path: text.encode("utf-8") for path, text in texts.items()}
    found |= {f"{MEMORY}/{name}.bin": data for name, data in held.items()}
    return dict(sorted(found.items()))


def _port(value: Value, engine: Engine) -> dict[str, Any]:
    """Where a value lies. Of one that is folded: ``channels`` and ``width`` are those of the frame as it comes, ``columns`` those in memory."""
    fold = engine.layers.fold(value)
    return {
        "at": engine.begin(value),
        "channels": fold.channels,
        "height": value.height,
        "width": fold.columns,
        "columns": value.columns,
        "kernel": fold.kernel,
        "stride": fold.stride,
        "before": fold.before,
        "dilation": fold.dilation,
        "planes": planes(value, engine.shape.x_bits),
        "is_signed": value.signed,
    }


def _map(graph: Graph, engine: Engine, made: Image) -> dict[str, Any]:
    """Where everything lies, for whoever starts the engine: ``at`` counts vectors in the region of values. A run takes ``batch`` frames: of each
    block of channels one frame's rows after the other's."""
    inputs = {node.name: _port(value, engine) for node, value in zip(graph.inputs, engine.layers.inputs, strict=True)}
    outputs = {name: _port(value, engine) for name, value in zip(graph.output_names, engine.layers.outputs, strict=True)}
    return {
        "format": 1,
        "steps": len(engine.steps),
        "batch": engine.layers.batch,
        "lanes": engine.shape.lanes,
        "value_bits": engine.shape.x_bits,
        "weight_bits": engine.shape.w_bits,
        "value_bytes": engine.places.bytes,
        "sha256": made.digest,
        "inputs": inputs,
        "outputs": outputs,
    }
