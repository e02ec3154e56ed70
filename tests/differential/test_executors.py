"""Random models: torch, ONNX Runtime and the integer interpreter give the same raw integers (C simulation: test_csimulation.py)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from random_models import Program, build, leaves_float64, programs, scatter

import qfx
from qfx.errors import ExactnessError
from qfx.fixed.type import FixedType
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw
from qfx.operators import ArrayType, Input, Mul
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import onnx_runtime, raw_of

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def check(program: Program, folder: Path) -> None:
    """Every executor but C simulation on one random model, in training mode too."""
    network, example = build(program)
    try:
        qmodel = qfx.quantize(network, example, program.recipe)
        scatter(qmodel, program)
        graph = qfx.to_graph(qmodel)
    except ExactnessError:  # refused, as promised: more than 53 bits
        event("refused as too wide")
        return
    x = adversarial_inputs(graph, np.random.default_rng(program.seed), 6)
    batch = torch.from_numpy(x)
    try:
        found = qmodel(batch).detach().numpy()
    except ExactnessError:  # with the binary points that scatter moved
        assert leaves_float64(graph), "refused for no reason"
        event("refused as too wide once scattered")
        return
    expected = run_raw(graph, x, check_ranges=True)
    assert_bit_exact(raw_of(found, graph, "torch"), expected, names=("torch", "interpreter"))
    training = copy.deepcopy(qmodel).train()(batch)
    assert_bit_exact(raw_of(training.detach().numpy(), graph, "torch"), expected, names=("torch in training", "interpreter"))
    path = folder / "model.onnx"
    qfx.export_onnx(qmodel, path)
    assert qfx.load_graph(path).infos == graph.infos
    assert_bit_exact(onnx_runtime(path, graph)(x), expected, names=("ONNX Runtime", "interpreter"))


def test_random_models(tmp_path_factory: pytest.TempPathFactory, slow: bool) -> None:
    @settings(max_examples=220 if slow else 60, suppress_health_check=SLOW)
    @given(program=programs())
    def sweep(program: Program) -> None:
        check(program, tmp_path_factory.getbasetemp())

    sweep()


def test_thousands_of_random_models(tmp_path_factory: pytest.TempPathFactory, thorough: bool) -> None:
    if not thorough:
        pytest.skip("thousands of models run with --thorough")

    @settings(max_examples=4000, suppress_health_check=SLOW)
    @given(program=programs(max_steps=12, any_modes=True))
    def sweep(program: Program) -> None:
        check(program, tmp_path_factory.getbasetemp())

    sweep()


def test_a_wrong_weight_in_the_file_is_seen(tmp_path: Path) -> None:
    """One LSB of one weight, planted between torch and the file, makes the executors differ."""
    torch.manual_seed(0)
    qmodel = qfx.quantize(torch.nn.Linear(4, 3), torch.randn(64, 4))
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = run_raw(qfx.to_graph(qmodel), x)
    with torch.no_grad():
        lsb = 2.0 ** -float(qmodel.get_parameter("layer.weight_cast.frac_bits"))
        qmodel.get_parameter("layer.weight")[1, 2] += lsb
    qfx.export_onnx(qmodel, tmp_path / "model.onnx")
    graph = qfx.load_graph(tmp_path / "model.onnx")
    with pytest.raises(AssertionError, match="ONNX Runtime has"):
        assert_bit_exact(onnx_runtime(tmp_path / "model.onnx", graph)(x), expected, names=("ONNX Runtime", "interpreter"))


def test_a_refusal_without_a_reason_would_be_seen() -> None:
    wide = ArrayType.of(FixedType(30, 15))
    nodes = (Node("x", Input((2,), wide)), Node("square", Mul(), ("x", "x")))
    assert leaves_float64(Graph("wide", nodes, "square"))
    narrow = (Node("x", Input((2,), ArrayType.of(FixedType(20, 15)))), *nodes[1:])
    assert not leaves_float64(Graph("narrow", narrow, "square"))
