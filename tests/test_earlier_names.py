"""Names of modules that moved: what was imported by them still is, from where it lies now."""

from __future__ import annotations

from importlib import import_module

import pytest

MOVED = {
    "qfx.ir.ops": ("qfx.operators", ("Conv", "Input", "OPERATORS", "accumulator")),
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
