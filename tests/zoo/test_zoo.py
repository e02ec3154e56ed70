"""Networks as people write them, unchanged: torch in both modes and after training, ONNX Runtime, interpreter and the C++ of both builds agree."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, make

import qfx
from qfx.errors import UnsupportedError
from qfx.export.onnx_file import save
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import prepare, write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raws
from qfx.recipe import ROLES, Recipe, Spec
from qfx.testing import adversarial_feeds
from qfx.verify import raw_of, verify

WIDE = Recipe(**{role: Spec(16) for role in ROLES})
NOT_YET: dict[str, str] = {}
"""Networks that are refused, each for what it is; strict, so that whoever mends it takes it off the list."""
NAMES = [
    pytest.param(name, marks=pytest.mark.xfail(raises=UnsupportedError, strict=True, reason=NOT_YET[name])) if name in NOT_YET else name
    for name in ZOO
]
LEAST = {"fracbnn": 20.0}
"""Decibels by which the float network's variation exceeds what 16 bits change, where that is not 35: a sign near 0 falls to the other side."""
SAMPLES = 3  # of data, and as many adversarial ones
SIMULATED = ("vit_written", "crnn_lstm", "crnn_gru", "detector", "vae_encoder", "siamese", "fracbnn", "mobilenet_v3", "wavenet")
"""Those that are simulated without ``--thorough`` too: together every operator and every kind of process that one of all has."""
Raws = tuple[npt.NDArray[np.int64], ...]


def outputs(y: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(y, Tensor):
        return [y]
    return [tensor for part in (y.values() if isinstance(y, Mapping) else y) for tensor in outputs(part)]


@dataclass(frozen=True)
class Case:
    """A network in float and in fixed point by the default recipe, and its data."""

    name: str
    model: nn.Module
    qmodel: nn.Module
    data: tuple[Tensor, ...]

    @property
    def graph(self) -> Graph:
        return qfx.to_graph(self.qmodel, self.name)


def quantized(model: nn.Module, data: tuple[Tensor, ...], recipe: Recipe | None = None) -> nn.Module:
    return qfx.quantize(model, data if len(data) > 1 else data[0], *(() if recipe is None else (recipe,))).eval()


@cache
def case(name: str) -> Case:
    model, data = make(name)
    return Case(name, model, quantized(model, data), data)


def inputs(graph: Graph, data: tuple[Tensor, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Some data, then what looks for mistakes."""
    adversarial = adversarial_feeds(graph, np.random.default_rng(0), SAMPLES)
    return {name: np.concatenate([x[:SAMPLES].numpy(), adversarial[name]]) for (name, x) in zip(adversarial, data, strict=True)}


def of_torch(qmodel: nn.Module, graph: Graph, x: Mapping[str, npt.NDArray[np.float32]]) -> Raws:
    with torch.no_grad():
        found = outputs(qmodel(*map(torch.from_numpy, x.values())))
    return tuple(raw_of(value.numpy(), graph, "torch", output) for value, output in zip(found, graph.outputs, strict=True))


def without_dropout(module: nn.Module) -> None:
    """Dropout is meant to change what training computes."""
    if type(module).__name__ == "QDropout":
        module.eval()


def check_software(qmodel: nn.Module, c: Case, folder: Path) -> None:
    """Torch in both modes, the interpreter and ONNX Runtime."""
    graph = qfx.to_graph(qmodel, c.name)
    x = inputs(graph, c.data)
    expected = run_raws(graph, x, check_ranges=True)
    assert all(len(np.unique(raw)) > len(raw) // 2 for raw in expected), "all zero or saturated"
    path = folder / f"{c.name}.onnx"
    save(graph, path, force=True)
    assert qfx.load_graph(path) == graph
    training = copy.deepcopy(qmodel).train().apply(without_dropout)
    rows = verify(path, x, {"torch": lambda _: of_torch(qmodel, graph, x), "torch in training": lambda _: of_torch(training, graph, x)})
    assert {row.executor: row.first for row in rows if row.differing_values} == {}
    assert len(rows) == 3


def trained(c: Case) -> nn.Module:
    """Three steps towards outputs that the network does not give."""
    qmodel = copy.deepcopy(c.qmodel).train()
    optimizer = torch.optim.SGD(qmodel.parameters(), lr=0.01)
    for step in range(3):
        batch = tuple(x[12 * step : 12 * step + 12] for x in c.data)
        loss = torch.stack([(y - 0.5).square().mean() for y in outputs(qmodel(*batch))]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return qmodel.eval()


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_compute_what_the_float_network_computes(name: str) -> None:
    """The noise is that of rounding: a layer converted into something else would show, even if all executors agreed on it."""
    model, data = make(name)
    with torch.no_grad():
        expected, actual = outputs(model(*data)), outputs(quantized(model, data, WIDE)(*data))
    for y, q in zip(expected, actual, strict=True):
        assert y.shape == q.shape
        signal, noise = (y - y.mean(0)).double().square().sum(), (q.double() - y).square().sum()  # without what is the same for every sample
        assert 10 * torch.log10(signal / noise) > LEAST.get(name, 35.0)


@pytest.mark.parametrize("name", NAMES)
def test_executors_agree_before_and_after_training(name: str, tmp_path: Path) -> None:
    c = case(name)
    check_software(c.qmodel, c, tmp_path)
    after = trained(c)
    before = dict(c.qmodel.named_parameters())
    moved = {name for name, value in after.named_parameters() if not torch.equal(value, before[name])}
    trainable = {name for name, value in before.items() if value.requires_grad and name.endswith("weight")}
    assert len(trainable & moved) > len(trainable) // 2, "training moves little"
    check_software(after, c, tmp_path)


def parts(graph: Graph) -> set[str]:
    """Its operators, those of loops too, and the kinds of processes that are built of them."""
    bodies = [body for node in graph.nodes if (body := node.op.inner()) is not None]
    found = {type(node.op).__name__ for part in (graph, *bodies) for node in part.nodes}
    return found | {f"{type(process).__name__} process" for process in lower(prepare(graph), Schedule()).processes}


def test_nothing_is_built_that_is_not_simulated(thorough: bool) -> None:
    if not thorough:
        pytest.skip("all networks are lowered with --thorough")
    seen = set[str]().union(*(parts(case(name).graph) for name in SIMULATED))
    for name in ZOO:
        assert parts(case(name).graph) <= seen, name


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("name", NAMES)
def test_the_project_simulates_bit_exactly(name: str, tmp_path: Path, thorough: bool) -> None:
    """With the vendor's headers; over native integers, which random models try too, with ``--thorough``."""
    if not thorough and name not in SIMULATED:
        pytest.skip("the others are simulated with --thorough")
    c = case(name)
    graph = c.graph
    x = inputs(graph, c.data)
    write_project(graph, tmp_path / "project", board="zcu102", golden_inputs=x)
    expected = run_raws(graph, x)
    for fast in (False, True) if thorough else (False,):
        found = csim.run_raw(tmp_path / "project", x, fast=fast)
        for output, raw, wanted in zip(graph.outputs, found if isinstance(found, tuple) else (found,), expected, strict=True):
            assert np.array_equal(raw, wanted), f"C simulation{' (fast)' * fast} differs in {output}"
