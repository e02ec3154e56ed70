"""A program of a user's, for type checkers alone: public names have the types that their users rely on. Nothing here is run.

``make lint`` has it checked by basedpyright in strict mode, and by mypy. Were a type unknown, or another, one of the lines would be an error.
"""

from __future__ import annotations

from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import qfx


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def trained(x: Tensor) -> nn.Module:
    recipe = qfx.Recipe(weight=qfx.Spec(4, granularity="channel", learn_width=True), overrides=(qfx.Override("fc", {"width": 8}),))
    assert_type(recipe.weight, qfx.Spec)
    assert_type(recipe.weight.width, int)
    qmodel = qfx.quantize(net(), x, recipe)
    parameters: nn.Module = qmodel
    groups = qfx.parameter_groups(qmodel, lr=1e-3)
    assert_type(torch.optim.Adam(groups), torch.optim.Adam)
    budget, settling, distillation = qfx.Budget(ebops=1000), qfx.Settling(qmodel), qfx.Distillation(net())
    loss = distillation(x, qmodel(x)) + budget.loss(qmodel)
    assert_type(loss, Tensor)
    settling.step()
    names: list[str] = [name for name, _ in qfx.quantizers(qmodel)]
    archive = qfx.Archive("front", name=names[0])
    assert_type(archive.add(qmodel, cost=1.0, score=2.0), bool)
    assert_type(archive.best(within=3.0).score, float)
    assert_type(qfx.cost(qmodel).bit_operations, Tensor)
    qfx.freeze(qmodel)
    return parameters


def exported(qmodel: nn.Module, x: Tensor) -> bool:
    qfx.export_onnx(qmodel, "net.onnx")
    graph = qfx.load_graph("net.onnx")
    assert_type(graph, qfx.Graph)
    assert_type(qfx.to_graph(qmodel), qfx.Graph)
    return bool(np.all(qfx.run(graph, x.numpy()) == 0))


def typed(x: Tensor) -> str:
    type_ = qfx.FixedType.parse("ap_fixed<8,4>")
    assert_type(type_, qfx.FixedType)
    assert_type(type_.frac_bits, int)
    assert_type(type_.q, qfx.QMode)
    assert_type(type_.o, qfx.OMode)
    assert_type(qfx.cast(x, type_), Tensor)
    assert_type(qfx.summary(qfx.quantize(net(), x)).total.weights, int)
    try:
        qfx.check(net(), x)
    except qfx.UnsupportedError as error:
        return str(error)
    except qfx.QfxError as error:
        return str(error)
    return str(qfx.conversion(qfx.from_onnx("net.onnx")).exact)
