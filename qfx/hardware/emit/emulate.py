"""The fast emulator: the same layers over native integers, from the same graph, folded as widely as g++ can vectorize.

Results do not depend on the folding, so the emulator has one of its own. Weights are unpacked when they are first used. There are no ports: a frame
goes straight into the first stream and comes straight out of the last. The sources are written with every project, so that they are there whatever
the project was made from. ROMs of more than a few kilobytes are files of raw bytes, which the compiler takes as they are: of a hundred million
weights initializers would be a gigabyte of text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.design import design as d
from qfx.hardware.design.epilogue import Frame
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import OUT, Folding, Schedule
from qfx.hardware.emit import cpp
from qfx.hardware.emit.templates import render
from qfx.hardware.folding.option import Role
from qfx.ir.graph import Graph, Info, Node
from qfx.ir.passes.loadable import make_constant
from qfx.ir.within import everything
from qfx.operators import Cast, MinifloatCast

FAST_FLAGS = (
    "-std=c++11",
    "-O3",
    "-march=native",
    "-fwrapv",  # sums leave their type on the way and come back
    "-DQFX_NATIVE",
    "-DQFX_UNPACKED",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused-label",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)
"""How the fast emulator is compiled."""

DATA = ".bin"
"""What the name of a header's file of bytes has beside that of the header, which finds it so (weights.h.j2)."""

EXECUTABLES = tuple(f"{build}{variant}{stamp}" for build in ("tb", "fast") for variant in ("", "_trace", "_report") for stamp in ("", ".target"))
"""What simulation leaves in the folder ``build`` of a project."""

_DATA_BYTES = 1 << 16  # of the ROMs of a process: what is not more is readable text
_LANES = 64  # numbers per word: as many as a vector register holds bytes, and any word stays below 4096 bits


def wide_schedule(graph: Graph) -> Schedule:
    """The folding of the emulator: all outputs of a group and all its input channels at once, up to 64 of each; all channels elsewhere."""
    foldings = {node.name: _folding(graph, node) for node in graph.nodes}
    if len(graph.inputs) + len(graph.outputs) > 2:
        ports = {node.name: _divisor(graph.infos[node.name].shape[0]) for node in graph.inputs}
        ports |= {OUT + name: _divisor(graph.infos[name].shape[0]) for name in graph.outputs}
        return Schedule.of(foldings, ports=ports)
    input_, output = (_divisor(graph.infos[name].shape[0]) for name in (graph.input.name, graph.output))
    return Schedule.of(foldings, input_parallel=input_, output_parallel=output)


def emit_emulator(graph: Graph, top: str) -> dict[str, str | bytes]:
    """The emulator's sources by relative path: ``fast.cpp`` (its main function), ``layers.h`` and one header of constants per layer that has some,
    large ROMs beside it as bytes.

    Raises ProjectError for a graph that cannot be lowered.
    """
    graph = make_constant(graph)
    return _sources(lower(graph, wide_schedule(graph), phased=False), top)


def simulation_files(graph: Graph, design: d.Design, top: str) -> dict[str, str | bytes]:
    """What a project carries under ``sim/`` besides the vendor's headers: the emulator's sources, the headers of emulator, traces and reports, and
    ``values.json``: where the values of the graph travel, in ``design`` and in the emulator, and which node each site of a cast is.
    """
    constant = make_constant(graph)  # the emulator has the constants at hand for good
    wide = lower(constant, wide_schedule(constant), phased=False)
    files: dict[str, str | bytes] = {f"sim/fast/{path}": held for path, held in _sources(wide, top).items()}
    files.update({f"sim/{path}": text for path, text in read_tree(hls_root() / "sim", "native/*.h", "emulate/*.h").items()})
    casts = [{"site": site, "node": name} for site, (name, node) in enumerate(everything(graph)) if isinstance(node.op, Cast | MinifloatCast)]
    files["sim/values.json"] = _lines({"casts": casts, "design": _travels(graph, design), "fast": _travels(constant, wide)})
    return files


def _travels(graph: Graph, design: d.Design) -> list[dict[str, Any]]:
    places = {node.name: place for place, node in enumerate(graph.nodes)}
    return [_travel(graph.infos[travel.node], travel) for travel in sorted(design.travels, key=lambda travel: places[travel.node])]


def _travel(info: Info, travel: d.Travel) -> dict[str, Any]:
    order = None if np.array_equal(travel.order, Frame.of(info.shape).order) else travel.order.tolist()
    place = {"node": travel.node, "layer": travel.layer, "stream": travel.stream}
    own = {"frac_bits": info.grids.reshape(-1).tolist()} if info.per_channel else {}  # of each channel, where these have grids of their own
    return {**place, "shape": list(info.shape), "type": str(info.type), **own, "order": order}


def _lines(lists: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with an entry a line."""
    parts = [f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]" for name, entries in lists.items()]
    return "{" + ",\n".join(parts) + "}\n"


def _sources(design: d.Design, top: str) -> dict[str, str | bytes]:
    marks = {mark.name for process in design.processes for mark in process.marks}
    inner = [process for process in design.processes if process.role is not Role.PORT and not _only(process.sources, marks)]
    units = [cpp.unit(process, ("", "")) for process in inner]
    functions = cpp.functions(units)
    entries = [process.targets[0] for process in design.processes if not process.sources]
    exits = [process.sources[0] for process in design.processes if not process.targets]
    values = {
        "native": True,
        "design": design,
        "top": top,
        "units": units,
        "functions": functions,
        "stream": cpp.stream,
        "streams": [stream for stream in design.streams if stream.name not in marks],
        "sources": [(port, offset, stream.name) for port, offset, stream in zip(design.inputs, offsets(design.inputs), entries, strict=True)],
        "results": [(port, offset, stream.name) for port, offset, stream in zip(design.outputs, offsets(design.outputs), exits, strict=True)],
        "in_frame": numbers(design.inputs),
        "out_frame": numbers(design.outputs),
        "guard": f"{top.upper()}_FAST",
    }
    files: dict[str, str | bytes] = {"fast.cpp": render("emulator.cpp.j2", values), "layers.h": render("layers.h.j2", values)}
    for unit in functions:
        if unit.constants:
            data = [(constant.name, constant.data) for constant in unit.constants if constant.elements is not None]
            if sum(len(held) for _, held in data) <= _DATA_BYTES:
                data = []
            begins = {name: (sum(len(held) for _, held in data[:place]), len(data[place][1])) for place, (name, _) in enumerate(data)}
            files[f"weights/{unit.name}.h"] = render("weights.h.j2", {**values, "unit": unit, "data": begins})
            if data:
                files[f"weights/{unit.name}.h{DATA}"] = b"".join(held for _, held in data)
    return files


def numbers(ports: Sequence[d.Port]) -> int:
    """The numbers of a frame of all the ports."""
    return sum(port.pixels * port.channels for port in ports)


def offsets(ports: Sequence[d.Port]) -> list[int]:
    """Where the numbers of each port begin in a frame of them all."""
    return [numbers(ports[:position]) for position in range(len(ports))]


def _only(streams: Sequence[d.Stream], marks: Collection[str]) -> bool:
    return all(stream.name in marks for stream in streams)


def _folding(graph: Graph, node: Node) -> Folding:
    outputs, inputs = node.op.parallel(graph, node)
    return Folding(_divisor(outputs), _divisor(inputs))


def _divisor(number: int) -> int:
    """The greatest divisor up to _LANES."""
    return max(n for n in range(1, min(number, _LANES) + 1) if number % n == 0)
