"""What ``qfx convert`` writes comes back by ``qfx import``: as the graph that it was made of; with AP_RND_CONV also by what its nodes compute, for
training."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from leaving.test_forms import graphs
from torch import nn

import qfx
from qfx.cli import main
from qfx.errors import ModelFileError, UnsupportedError
from qfx.export.onnx_file import to_model
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw, run_raws
from qfx.leaving.convert import FORMS, came_from, convert
from qfx.leaving.origin import KEY
from qfx.testing import adversarial_feeds


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


@cache
def quantized(q: qfx.QMode) -> Graph:
    """A network with a BatchNorm that stays, whose casts all round by ``q``."""
    torch.manual_seed(1)
    x = torch.rand(64, 1, 8, 8)
    of_q = {role: replace(getattr(qfx.Recipe.uniform(6), role), q=q) for role in ("input", "activation", "output", "weight")}
    return qfx.to_graph(qfx.quantize(net(pool=True).eval(), x, replace(qfx.Recipe.uniform(6), **of_q)).eval())


def content(graph: Graph) -> bytes:
    made: bytes = to_model(graph).SerializeToString(deterministic=True)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_the_command_takes_every_form_back(tmp_path: Path, form: str) -> None:
    graph = quantized(qfx.QMode.RND)
    onnx.save(convert(graph, form), tmp_path / "there.onnx")
    done = CliRunner().invoke(main, ["import", str(tmp_path / "there.onnx"), "-o", str(tmp_path / "back.onnx")])
    assert done.exit_code == 0, done.output
    back, x = qfx.load_graph(tmp_path / "back.onnx"), adversarial_feeds(graph, np.random.default_rng(0), 40)
    assert (run_raws(graph, x)[0] == run_raws(back, x)[0]).all()
    assert content(back) == content(graph)


@pytest.mark.parametrize("form", FORMS)
def test_every_mode_and_random_graphs_come_back(form: str) -> None:
    tried = [*map(quantized, qfx.QMode), *graphs(form, 12).values()]
    count = 0
    for graph in tried:
        try:
            model = convert(graph, form)
        except UnsupportedError:
            continue
        assert content(came_from(model)) == content(graph)
        count += 1
    assert count > len(tried) / 2


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_file_is_what_it_computes_or_refused(form: str) -> None:
    """One least place of a weight is another model, and comes back as that; of anything else that the graph decides, no model at all."""
    graph = quantized(qfx.QMode.RND)
    x = adversarial_feeds(graph, np.random.default_rng(0), 40)
    model = convert(graph, form)
    weight = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    array = onnx.numpy_helper.to_array(weight).copy()
    step = np.abs(array[array != 0]).min() if array.dtype.kind == "f" else 1
    place = np.unravel_index(np.abs(array.astype(np.float64) - array.astype(np.float64).mean()).argmin(), array.shape)
    array[place] += step
    if weight.raw_data:
        weight.raw_data = array.tobytes()
    else:
        weight.CopyFrom(onnx.helper.make_tensor(weight.name, weight.data_type, array.shape, array.reshape(-1).tolist()))
    back = came_from(model)
    assert content(back) != content(graph)
    assert (run_raws(graph, x)[0] != run_raws(back, x)[0]).any()
    for change in ("node", "constant", "entry"):
        other = convert(graph, form)
        if change == "node":
            other.graph.node[-1].name += "x"
        elif change == "constant":
            small = next(tensor for tensor in other.graph.initializer if tensor.name.endswith(("#ties", "#ties2")))
            small.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(small) * 2, small.name))
        else:
            (entry,) = (entry for entry in other.metadata_props if entry.key == KEY)
            entry.value = entry.value[: len(entry.value) // 2]
        with pytest.raises(ModelFileError):
            came_from(other)
