"""Emission: a graph, a schedule and a board -> the text of every file of a project that does not depend on data. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qfx.errors import ProjectError
from qfx.hardware.assets import hls_root, read_tree
from qfx.hardware.board import Board, check_clock
from qfx.hardware.design import loading
from qfx.hardware.design.design import Design
from qfx.hardware.design.lower import lower
from qfx.hardware.design.names import checked_top
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit import cpp
from qfx.hardware.emit.blockdesign import BlockDesign, block_design
from qfx.hardware.emit.driver import driver_files, memory_register
from qfx.hardware.emit.emulate import numbers, offsets, simulation_files
from qfx.hardware.emit.templates import render
from qfx.hardware.processes.memory.from_memory import BURST_BEATS, LATENCY_CYCLES, OUTSTANDING
from qfx.hardware.timing.clock import expected
from qfx.hardware.timing.fifo import size_fifos
from qfx.ir.graph import Graph

CSIM_FLAGS = (
    "-std=c++11",
    "-O2",
    "-DQFX_UNPACKED",
    "-DNDEBUG",  # or the vendor's headers abort on a cast that drops more bits than its source has
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-label",
    "-Wno-uninitialized",  # the vendor's default constructors leave the number as it is on purpose
    "-Wno-maybe-uninitialized",
)
"""How C simulation is compiled."""

HLS_TOOLS = ("vitis_hls", "vitis-run", "vivado_hls")
"""The vendor's tools that take the sources of a project, the first of them that is there."""

_LOAD_HEADER, _UNROLLED_HEADER, _MEMORY_HEADERS = "qfx/load.h", "qfx/unrolled.h", ("qfx/memory/spill.h", "qfx/memory/tiles.h")


def emit(
    graph: Graph,
    schedule: Schedule,
    board: Board,
    *,
    clock_ns: float,
    top: str,
    design: Design | None = None,
    sources: Mapping[str, str] | None = None,
) -> dict[str, str | bytes]:
    """The files of the project by relative path: sources, template library, test bench, scripts, driver, Makefile and README, and large constants of
    the emulator as bytes.

    ``top`` names the top function, ``clock_ns`` is the clock period in nanoseconds. ``design``: what ``graph`` and ``schedule`` were lowered to,
    FIFOs sized (default: that is done here). ``sources``: what is synthesized, where that is another style than one process a layer; ``design`` then
    has the ports alone. Raises ProjectError for what cannot be built.
    """
    checked_top(top)
    check_clock(clock_ns, board)
    design = design or size_fifos(lower(graph, schedule))
    if top.lower() in {process.name for process in design.processes}:  # a module of its own in RTL
        raise ProjectError(f"{top!r} cannot name the top function: a layer's function has that name", remedy="choose another name with --top")
    streaming = sources is None
    uncertainty = f"{100 * expected(design.processes, board).uncertainty(clock_ns):g}%"
    made = block_design(design, board, clock_ns=clock_ns)
    data = [f"golden_{name}.txt" for name in (design.port_names[0] + design.port_names[1] if design.several else ("input", "output"))]
    data += ["weights.bin"] * (design.loader is not None) + [f"memory/{master.port}.bin" for master in design.weights_in_memory]
    files = emit_sources(design, top) if sources is None else dict(sources)
    files |= test_bench(design, top)
    files |= scripts(
        made,
        board,
        clock_ns=clock_ns,
        top=top,
        uncertainty=uncertainty,
        data=data,
        masters=bool(design.masters),
        in_memory=bool(design.weights_in_memory),
    )
    about = {"streaming": streaming, "board": board, "clock_ns": f"{clock_ns:g}", "top": top, "model": graph.name}
    files["README.md"] = render("README.md.j2", {"design": design, "bd": made, **about})
    for header in ("harness.h", "dma.h", *["memory.h"] * bool(design.masters)):
        files[f"tb/{header}"] = (hls_root() / "templates" / header).read_text(encoding="utf-8")
    files.update(driver_files(graph, design, board, clock_ns=clock_ns, top=top))
    return _with_library(files, graph, design, top, streaming)


def scripts(
    made: BlockDesign,
    board: Board,
    *,
    clock_ns: float,
    top: str,
    uncertainty: str,
    data: Sequence[str],
    masters: bool,
    in_memory: bool,
    tools: Sequence[str] = HLS_TOOLS,
) -> dict[str, str]:
    """What builds a project: ``Makefile``, ``script.tcl`` from the sources to the IP, and ``vivado.tcl`` from there to the bitstream of ``made``.

    ``data``: the files in ``tb/`` that the test bench reads; ``masters``: whether the design has AXI masters, ``in_memory``:
    whether ``tb/memory/`` has files that go to the board;
    ``uncertainty``: what the tool leaves to routing; ``tools``: those of HLS that take the sources.
    """
    values = {
        "bd": made,
        "board": board,
        "clock_ns": f"{clock_ns:g}",
        "top": top,
        "uncertainty": uncertainty,
        "data": data,
        "masters": masters,
        "in_memory": in_memory,
        "tools": tools,
        "csim_flags": " ".join(CSIM_FLAGS),
    }
    return {path: render(f"{path}.j2", values) for path in ("Makefile", "script.tcl", "vivado.tcl")}


def test_bench(design: Design, top: str) -> dict[str, str]:
    """The test bench, by relative path; of several ports with how a frame goes through them."""
    memories = "".join(f", &{master.port}[0]" for master in design.masters)
    if not design.several:
        batch = f", {design.batch}" if design.batch > 1 else ""
        return {"tb/tb.cpp": render("tb.cpp.j2", {"design": design, "top": top, "memories": memories, "batch": batch})}
    values = {"design": design, "top": top, "memories": memories, "in_frame": numbers(design.inputs), "out_frame": numbers(design.outputs)}
    values["offsets"] = {
        name: at
        for names, ports in zip(design.port_names, (design.inputs, design.outputs), strict=True)
        for name, at in zip(names, offsets(ports), strict=True)
    }
    return {"tb/tb.cpp": render("tb_ports.cpp.j2", values), "tb/frame.h": render("frame.h.j2", values)}


def _with_library(sources: Mapping[str, str], graph: Graph, design: Design, top: str, streaming: bool) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = dict(sources)
    library = read_tree(hls_root() / "include", "qfx/*.h", "qfx/memory/*.h")
    uses = ((_LOAD_HEADER, design.loader is not None), (_UNROLLED_HEADER, not streaming), *((path, bool(design.masters)) for path in _MEMORY_HEADERS))
    unused = {path for path, used in uses if not used}
    files.update({f"include/{path}": text for path, text in library.items() if path not in unused})
    files.update({f"sim/axi/{path}": text for path, text in read_tree(hls_root() / "sim", "*.h").items()})
    files.update(simulation_files(graph, design, top))
    return dict(sorted(files.items()))


def emit_sources(design: Design, top: str) -> dict[str, str]:
    """The synthesized sources alone: ``src/<top>.cpp``, its header, the layers, and one header of constants per layer that has some."""
    units = cpp.units(design, ("in", "out"))
    functions = cpp.functions(units)
    values = {
        "native": False,
        "data": {},
        "design": design,
        "top": top,
        "units": units,
        "functions": functions,
        "stream": cpp.stream,
        "raw": cpp.raw,
        "guard": top.upper(),
        "queue": cpp.queue,
        "burst": BURST_BEATS,
        "outstanding": OUTSTANDING,
        "latency": LATENCY_CYCLES,
        "register": memory_register,
    }
    if design.several:
        named = (*design.wire_names, *["weights"] * (design.loader is not None))
        streams = [f"hls::stream<{top}_ports::{name}::word>& {name}" for name in named]
        streams += ["const bool load"] * (design.loader is not None)
        streams += [f"{'' if master.scratch else 'const '}qfx::uint<{master.bits}>* {master.port}" for master in design.masters]
        values["parameters"] = (",\n" + " " * (len(top) + 6)).join(streams)
    if design.loader is not None:
        values |= {"flags": cpp.flags_stream(), "words": cpp.words_stream(design.loader.port.slot)}
        values |= {"flags_depth": loading.FLAGS_DEPTH, "words_depth": loading.WORDS_DEPTH}
    files = {
        f"src/{top}.cpp": render("top.cpp.j2", values),
        f"src/{top}.h": render("top.h.j2", values),
        "src/layers.h": render("layers.h.j2", values),
    }
    for unit in functions:
        if unit.constants:
            files[f"src/weights/{unit.name}.h"] = render("weights.h.j2", {**values, "unit": unit})
    return files
