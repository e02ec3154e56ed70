"""Names of modules that moved: what was imported by them still is, from where it lies now."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

MOVED = {
    "qfx.ir.ops": ("qfx.operators", ("Conv", "Input", "OPERATORS", "accumulator")),
    "qfx.codegen.csim": ("qfx.hardware.project.csim", ("VARIANTS", "build", "layers_of", "losses", "run", "run_raw", "trace_raw")),
    "qfx.codegen.project": ("qfx.hardware.project.project", ("MANIFEST", "Project", "read_project", "write_project")),
    "qfx.codegen.schedule": ("qfx.hardware.design.schedule", ("ARITHMETIC", "Folding", "Request", "Schedule")),
    "qfx.ptq.source": ("qfx.capture.source", ("load_model", "from_factory")),
    "qfx.ptq.checkpoint": ("qfx.capture.checkpoint", ("load_checkpoint", "read_state")),
    "qfx.ptq.from_onnx": ("qfx.capture.from_onnx", ("from_onnx",)),
    "qfx.ptq.from_pt2": ("qfx.capture.from_pt2", ("from_pt2",)),
    "qfx.nn.functional": ("qfx.nn.layers", ("QAdd", "QReLU", "QReshape")),
    "qfx.nn.norm": ("qfx.nn.layers", ("QBatchNorm", "QFoldedBatchNorm")),
}


@pytest.mark.parametrize("earlier", MOVED)
def test_moved_modules(earlier: str) -> None:
    now, names = MOVED[earlier]
    for name in names:
        assert getattr(import_module(earlier), name) is getattr(import_module(now), name)


def test_names_of_the_hardware_need_no_torch() -> None:
    code = "import sys\nfrom qfx.codegen import csim, project, schedule\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
