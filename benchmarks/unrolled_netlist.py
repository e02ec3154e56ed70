"""A scalar program as combinational Verilog, and the LUTs that Yosys makes of it: what the estimate of unrolled designs is compared with."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.calibration.measure import FAMILIES, FLAGS, sites
from qfx.fixed.type import OMode, QMode
from qfx.hardware.unrolled.program import Choice, Constant, Convert, Extreme, Less, Program, Source, Sum


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


def measured(program: Program, family: str = "ultrascale+", yosys: str = "yosys") -> int:
    """The LUTs that Yosys takes."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "top.v", Path(folder) / "netlist.json"
        source.write_text(verilog(program))
        script = f"read_verilog {source}; synth_xilinx -top top {FLAGS} -flatten -nodsp -family {FAMILIES[family]}; write_json {result}"
        subprocess.run([yosys, "-q", "-p", script], check=True, capture_output=True)
        return sites(json.loads(result.read_text())["modules"]["top"]["cells"])
