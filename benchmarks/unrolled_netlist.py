"""A scalar program as combinational Verilog, and the LUTs that Yosys makes of it: what the estimate of unrolled designs is compared with.

``python -m benchmarks.unrolled_netlist MODEL.onnx ...`` compares; ``$YOSYS`` names another executable.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.calibration.measure import FAMILIES, FLAGS
from qfx.hardware.project.project import prepare
from qfx.hardware.rtl.luts import named, sites
from qfx.hardware.rtl.unrolled import combinational
from qfx.hardware.unrolled.cost import luts_of_all
from qfx.hardware.unrolled.program import Program
from qfx.hardware.unrolled.ternary import ternary
from qfx.hardware.unrolled.unroll import unroll
from qfx.ir.from_onnx import load_graph


def mapped(source: str, family: str = "ultrascale+", yosys: str = "yosys") -> dict[str, Any]:
    """The module ``top`` of Verilog as Yosys' JSON, of ``$lut`` cells and carry chains. ABC maps: ABC9, the default, takes very long for so much
    logic between two registers."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "top.v").write_text(source)
        mapping = "-run begin:map_luts; abc -luts 2:2,3,6:5; clean"
        script = f"read_verilog top.v; synth_xilinx -top top {FLAGS} -flatten -nodsp -family {FAMILIES[family]} {mapping}; write_json top.json"
        subprocess.run([yosys, "-q", "-p", script], check=True, capture_output=True, cwd=folder)
        found: dict[str, Any] = json.loads((Path(folder) / "top.json").read_text())["modules"]["top"]
    return found


def lut_sites(module: dict[str, Any]) -> int:
    """The LUTs of a module from ``mapped``."""
    return sites(named(module["cells"]))


def measured(program: Program, family: str = "ultrascale+", yosys: str = "yosys") -> int:
    """The LUTs that Yosys takes."""
    return lut_sites(mapped(combinational(program), family, yosys))


def main() -> None:
    """Estimated and measured LUTs of the exported models that the command line names."""
    for path in sys.argv[1:]:
        program = unroll(prepare(load_graph(Path(path))))
        estimated = sum(luts_of_all(program, ternary(program)))
        found = measured(program, yosys=os.environ.get("YOSYS", "yosys"))
        print(f"{path}: {estimated} LUTs estimated, {found} measured ({estimated / found:.2f})", flush=True)


if __name__ == "__main__":
    main()
