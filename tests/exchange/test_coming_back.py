"""What ``qfx convert`` writes of models with AP_RND_CONV comes back by ``qfx import`` with the same raw integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qfx
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.leaving.convert import convert


def net(pool: bool) -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2) if pool else nn.Identity()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36 if pool else 144, 10))


@pytest.mark.parametrize("form", ["qdq", "qonnx"])
@pytest.mark.parametrize(("bits", "pool"), [(8, True), (6, True), (4, False)])
def test_files_come_back(tmp_path: Path, form: str, bits: int, pool: bool) -> None:
    torch.manual_seed(bits)
    x = torch.rand(64, 1, 8, 8)
    even = {role: replace(getattr(qfx.Recipe.uniform(bits), role), q=qfx.QMode.RND_CONV) for role in ("input", "activation", "output")}
    recipe = replace(qfx.Recipe.uniform(bits, batch_norm="fold"), **even)
    graph = qfx.to_graph(qfx.quantize(net(pool).eval(), x, recipe).eval())
    onnx.save(convert(graph, form, batch=None if form == "qdq" else 1), tmp_path / "there.onnx")
    back = qfx.to_graph(qfx.from_onnx(tmp_path / "there.onnx", x))
    wide = torch.cat([x, 4 * torch.randn(64, 1, 8, 8)]).numpy()
    raws = [run_from_raw(one, quantize_input(one, wide)) for one in (graph, back)]
    grids = [one.infos[one.output].grids for one in (graph, back)]
    assert (np.ldexp(raws[0].astype(np.float64), -grids[0]) == np.ldexp(raws[1].astype(np.float64), -grids[1])).all()
