"""A scalar program as combinational Verilog, and the LUTs that Yosys makes of it: what the estimate of unrolled designs is compared with.

``python -m benchmarks.unrolled_netlist MODEL.onnx ...`` compares; ``$YOSYS`` names another executable. Casts round as AP_TRN or AP_RND, and saturate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.calibration.measure import FAMILIES, FLAGS, sites
from qfx.fixed.type import OMode, QMode
from qfx.hardware.project.project import prepare
from qfx.hardware.unrolled.cost import luts
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Extreme, Less, Product, Program, Source, Sum
from qfx.hardware.unrolled.unroll import unroll
from qfx.ir.from_onnx import load_graph


def verilog(program: Program) -> str:
    """The module ``top``: every number one bit longer than it needs, so that all are signed; tools drop bits that only repeat the sign."""
    ports, lines = [], []
    for place, node in enumerate(program.nodes):
        width = program.type(place).width + (not program.type(place).signed)
        if isinstance(node, Source):
            own = program.type(place)
            ports.append(f"input [{own.width - 1}:0] x{place}")
            sign = f"x{place}[{own.width - 1}]" if own.signed else "1'b0"
            lines.append(f"wire signed [{width}:0] v{place} = {{{{{width + 1 - own.width}{{{sign}}}}}, x{place}}};")
            continue
        lines.append(f"wire signed [{width - 1}:0] v{place}; {' '.join(_body(program, place, width))}")
    for number, port in enumerate(program.outputs):
        for place, result in enumerate(port):
            own = program.type(result.node)
            ports.append(f"output [{own.width - 1}:0] y{number}_{place}")
            lines.append(f"assign y{number}_{place} = v{result.node}[{own.width - 1}:0];")
    return f"module top({', '.join(ports)});\n" + "\n".join(lines) + "\nendmodule\n"


def _body(program: Program, place: int, width: int) -> Iterator[str]:
    node = program.nodes[place]
    if isinstance(node, Constant):
        yield f"assign v{place} = {node.raw};"
    elif isinstance(node, Sum):
        yield f"assign v{place} = (v{node.a} <<< {node.up_a}) {'-' if node.minus else '+'} (v{node.b} <<< {node.up_b});"
    elif isinstance(node, Product):
        yield f"assign v{place} = v{node.a} * v{node.b};"
    elif isinstance(node, Extreme | Less):
        room = width + 2 + max(node.up_a, node.up_b) + max(program.type(node.a).width, program.type(node.b).width)
        yield f"wire signed [{room}:0] a{place} = v{node.a} <<< {node.up_a}; wire signed [{room}:0] b{place} = v{node.b} <<< {node.up_b};"
        if isinstance(node, Less):
            yield f"assign v{place} = a{place} < b{place} ? 1 : 0;"
        else:
            yield f"assign v{place} = a{place} {'<' if node.greater else '>'} b{place} ? b{place} : a{place};"
    elif isinstance(node, Choice):
        yield f"assign v{place} = v{node.condition} != 0 ? (v{node.a} <<< {node.up_a}) : (v{node.b} <<< {node.up_b});"
    else:
        assert isinstance(node, Convert)
        assert node.type.q in (QMode.TRN, QMode.RND)
        assert node.type.o is OMode.SAT
        drop, come = node.frac_bits - node.type.frac_bits, program.type(node.a).width + 2
        half = f" + {1 << (drop - 1)}" if node.type.q is QMode.RND and drop > 0 else ""
        room = come + max(-drop, 0)
        moved = f"(v{node.a}{half}) >>> {drop}" if drop > 0 else f"v{node.a} <<< {-drop}"
        yield f"wire signed [{room}:0] r{place} = {moved};"
        low, high = node.type.min_raw, node.type.max_raw
        yield f"assign v{place} = r{place} < {low} ? {low} : r{place} > {high} ? {high} : r{place};"


def mapped(source: str, family: str = "ultrascale+", yosys: str = "yosys") -> dict[str, Any]:
    """The module ``top`` of Verilog as Yosys' JSON, of ``$lut`` cells and carry chains. ABC maps: ABC9, the default, takes very long for so much
    logic between two registers."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.v").write_text(source)
        mapping = "-run begin:map_luts; abc -luts 2:2,3,6:5; clean; select top"
        script = (
            f"read_verilog top.v; synth_xilinx -top top {FLAGS} -flatten -nodsp -family {FAMILIES[family]} {mapping}; write_json -selected top.json"
        )
        subprocess.run([yosys, "-q", "-p", script], check=True, capture_output=True, cwd=folder)
        found: dict[str, Any] = json.loads((Path(folder) / "top.json").read_text())["modules"]["top"]
    return found


def lut_sites(module: dict[str, Any]) -> int:
    """The LUTs of a module from ``mapped``."""
    cells = {name: dict(cell, connections=dict(cell["connections"])) for name, cell in module["cells"].items()}
    for cell in cells.values():
        if cell["type"] == "$lut":
            pins = cell["connections"]
            cell["type"], pins["O"] = f"LUT{len(pins['A'])}", pins["Y"]
    return sites(cells)


def measured(program: Program, family: str = "ultrascale+", yosys: str = "yosys") -> int:
    """The LUTs that Yosys takes."""
    return lut_sites(mapped(verilog(program), family, yosys))


def main() -> None:
    """Estimated and measured LUTs of the exported models that the command line names."""
    for path in sys.argv[1:]:
        program = unroll(prepare(load_graph(Path(path))))
        estimated = sum(luts(program, place) for place in range(len(program.nodes)))
        found = measured(program, yosys=os.environ.get("YOSYS", "yosys"))
        print(f"{path}: {estimated} LUTs estimated, {found} measured ({estimated / found:.2f})", flush=True)


if __name__ == "__main__":
    main()
