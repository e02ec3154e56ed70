"""Several generated designs compiled into one executable: seconds once instead of once per design."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qfx.errors import ProjectError
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.board import board
from qfx.hardware.design.design import Design
from qfx.hardware.design.lower import lower
from qfx.hardware.design.names import identifier
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.emit.emit import CSIM_FLAGS, emit_sources, test_bench
from qfx.hardware.emit.emulate import FAST_FLAGS, emit_emulator, numbers
from qfx.hardware.project.compile import compile_cpp
from qfx.hardware.project.execute import counted, execute, put_together, taken_apart
from qfx.hardware.unrolled.emit import sources
from qfx.hardware.unrolled.plan import plan
from qfx.ir.graph import Graph
from qfx.ir.losses import Loss
from qfx.ir.passes.loadable import loadable_types
from qfx.ir.values import RawArray, Shape

_QUICKLY = "-O0"
"""Bundles are compiled to run a few samples: what optimizing takes is more than it gives. Projects are compiled as users compile them."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Designs in one executable. Made by ``build_bundle``."""

    executable: Path
    output_shapes: tuple[tuple[Shape, ...], ...]

    def run_from_raw(self, index: int, x_raw: RawArray) -> RawArray:
        """The output raws of design ``index`` for input raws (N, *input shape)."""
        return execute((str(self.executable), str(index)), x_raw, self._shape(index))

    def run_from_raws(self, index: int, x_raw: Sequence[RawArray]) -> tuple[RawArray, ...]:
        """The raws of the outputs of design ``index`` for those of its inputs, in order."""
        raw = execute((str(self.executable), str(index)), put_together(x_raw), (sum(map(math.prod, self.output_shapes[index])),))
        return taken_apart(raw, self.output_shapes[index])

    def _shape(self, index: int) -> Shape:
        shapes = self.output_shapes[index]
        return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)

    def losses_from_raw(self, index: int, x_raw: RawArray) -> dict[int, Loss]:
        """What the casts of design ``index`` lose, by their node's place in the graph; of a bundle that was compiled with QFX_REPORT defined."""
        return counted((str(self.executable), str(index)), x_raw, self._shape(index))


def build_bundle(
    designs: Sequence[tuple[Graph, Schedule]],
    folder: str | os.PathLike[str],
    *,
    fast: bool = False,
    unrolled: bool = False,
    flags: Sequence[str] = (),
) -> Bundle:
    """Compile the designs into one executable in ``folder`` (each in a namespace of its own); ``flags`` are added to CSIM_FLAGS
    without optimization.

    ``fast``: their emulators, whatever the schedules, with FAST_FLAGS. ``unrolled``: each one pipelined function, whatever the schedules. Raises
    ProjectError as ``csim.build`` does, and for a graph that cannot be lowered.
    """
    root = Path(folder)
    tops = [f"design_{i}_{identifier(graph.name)[:24].strip('_')}" for i, (graph, _) in enumerate(designs)]
    lowered = []
    for top, (graph, schedule) in zip(tops, designs, strict=True):
        if not fast and loadable_types(graph):
            raise ProjectError("its constants are loaded, which a bundle does not", where=graph.name, remedy="write a project, or make them constant")
        if unrolled:
            made = plan(graph, board("zcu102"), clock_ns=5)
            lowered.append(made.design)
            files: Mapping[str, str | bytes] = sources(made.program, made.design, top, made.interval)
        elif fast:
            files = emit_emulator(graph, top)
        else:
            lowered.append(lower(graph, schedule))
            files = emit_sources(lowered[-1], top)
            for master in lowered[-1].weights_in_memory:
                (root / top).mkdir(parents=True, exist_ok=True)
                (root / top / f"{master.port}.bin").write_bytes(master.contents)
        for path, text in files.items():
            place = root / top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    main, executable, hls = root / "bundle.cpp", root / "bundle", hls_root()
    if fast:
        main.write_text(_fast_bundle_main(tops), encoding="utf-8")
        includes: tuple[str, ...] = ("-isystem", str(hls / "sim" / "native"), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}")
    else:
        main.write_text(_bundle_main(tops, lowered, root), encoding="utf-8")
        includes = (*simulation_headers(), "-isystem", str(hls / "sim" / "emulate"), f"-I{hls / 'include'}", f"-I{hls / 'templates'}")
    compile_cpp((main,), includes, executable, (*(FAST_FLAGS if fast else (*CSIM_FLAGS, _QUICKLY)), *flags))
    return Bundle(executable, tuple(tuple(graph.infos[name].shape for name in graph.outputs) for graph, _ in designs))


def _bundle_main(tops: Sequence[str], designs: Sequence[Design], root: Path) -> str:
    calls = [f", {design.batch}" if design.batch > 1 else "" for design in designs]
    runs = [f"qfx_tb::run<{top}_ports::input, {top}_ports::output>({top}, in, out{call})" for top, call in zip(tops, calls, strict=True)]
    frames = []
    for i, (top, design) in enumerate(zip(tops, designs, strict=True)):
        if design.several:
            runs[i] = f"qfx_tb::run({top}_frame, {numbers(design.inputs)}, {numbers(design.outputs)}, in, out)"
            frames.append("\n" + test_bench(design, top)["tb/frame.h"])
        elif design.masters:
            frames.append(_with_memory(design, top, root / top))
            runs[i] = f"{top}_load() && {runs[i].replace(f'({top},', f'({top}_call,')}"
    includes = "\n".join(f'#include "{top}/src/{top}.cpp"' for top in tops)
    cases = "\n".join(f'  if (which == "{i}") ran = {runs[i]};' for i in range(len(tops)))
    includes += "".join(frames)
    return (
        f'#include "harness.h"\n#include "memory.h"\n\n{includes}\n\n'
        "int main(int argc, char** argv) {\n  if (argc != 4) return 2;\n  const std::string which = argv[1];\n"
        "  qfx_tb::numbers in, out;\n  bool ran = false;\n  if (!qfx_tb::load(argv[2], in)) return 2;\n"
        f"{cases}\n  return ran && qfx_tb::save(argv[3], out, 1) ? 0 : 2;\n}}\n"
    )


def _with_memory(design: Design, top: str, folder: Path) -> str:
    """What calls a top function that reads memory."""
    held = "".join(f"static std::vector<qfx::uint<{master.bits}> > {top}_{master.port};\n" for master in design.masters)
    room = "".join(f"  {top}_{master.port}.resize({master.beats});\n" for master in design.masters if master.scratch)
    weights = design.weights_in_memory
    loads = " && ".join(
        ["true", *(f'qfx_tb::load_memory("{master.port}", {master.beats}, {master.crc}u, false, {top}_{master.port})' for master in weights)]
    )
    given = "".join(f", &{top}_{master.port}[0]" for master in design.masters)
    ports = f"hls::stream<{top}_ports::input::word>& in, hls::stream<{top}_ports::output::word>& out"
    return (
        f"\n{held}static bool {top}_load() {{\n"
        f'  setenv("QFX_MEMORY", "{folder}", 1);\n{room}  return {loads};\n}}\nstatic void {top}_call({ports}) {{ {top}(in, out{given}); }}\n'
    )


def _fast_bundle_main(tops: Sequence[str]) -> str:
    includes = "\n".join(f'#include "{top}/fast.cpp"' for top in tops)
    cases = "\n".join(f'  if (which == "{i}") return {top}_main(argc - 1, argv + 1);' for i, top in enumerate(tops))
    return (
        f"#define QFX_BUNDLE\n#include <string>\n\n{includes}\n\n"
        f'int main(int argc, char** argv) {{\n  const std::string which = argc > 1 ? argv[1] : "";\n{cases}\n  return 2;\n}}\n'
    )
