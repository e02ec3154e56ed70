"""Random torch models through the generated C++: the same raw integers as torch and the interpreter, several models per compilation."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from random_models import Program, build, leaves_float64, programs, scatter
from support.bundles import Bundle, build_bundle

import qfx
from qfx.errors import ExactnessError
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_from_raw
from qfx.ir.passes.pipeline import optimize
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

MODELS_PER_COMPILATION = 13
COMPILATIONS = 3
"""With --slow; one otherwise. Hypothesis may add one or two of small models."""


def check(found: list[Program], folder: Path) -> int:
    """Compile the models together and compare every one; the number compared."""
    models = []
    for program in found:
        network, example = build(program)
        try:
            qmodel = qfx.quantize(network, example, program.recipe)
            scatter(qmodel, program)
            graph = qfx.to_graph(qmodel)
        except ExactnessError:  # refused, as promised: more than 53 bits
            continue
        try:
            with torch.no_grad():
                qmodel(example)
        except ExactnessError:  # with the binary points that scatter moved
            assert leaves_float64(graph), "refused for no reason"
            continue
        models.append((program, qmodel, graph))
    bundle = build_bundle([(optimize(graph), Schedule()) for _, _, graph in models], folder)
    for number, (program, qmodel, graph) in enumerate(models):
        x = adversarial_inputs(graph, np.random.default_rng(program.seed), 5)
        simulated = bundle.run_from_raw(number, quantize_input(graph, x))
        assert_bit_exact(simulated, run_from_raw(graph, quantize_input(graph, x)), names=("C simulation", "interpreter"))
        with torch.no_grad():
            emulated = raw_of(qmodel(torch.from_numpy(x)).numpy(), graph, "torch")
        assert_bit_exact(simulated, emulated, names=("C simulation", "torch"))
    return len(models)


@pytest.mark.usefixtures("gxx")
def test_random_models(tmp_path_factory: pytest.TempPathFactory, slow: bool, thorough: bool) -> None:
    compared = 0

    # A failure is not shrunk: each try would be a compilation. The failing models are printed whole.
    @settings(max_examples=40 if thorough else COMPILATIONS if slow else 1, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(found=st.lists(programs(any_modes=thorough), min_size=MODELS_PER_COMPILATION, max_size=MODELS_PER_COMPILATION))
    def sweep(found: list[Program]) -> None:
        nonlocal compared
        compared += check(found, tmp_path_factory.mktemp("bundle"))

    sweep()
    assert compared >= (36 if slow else 12)


@pytest.mark.usefixtures("gxx")
def test_one_lsb_in_the_generated_weights_is_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qmodel = qfx.quantize(torch.nn.Linear(6, 4), torch.randn(64, 6))
    graph = qfx.to_graph(qmodel)
    with torch.no_grad():
        lsb = 2.0 ** -float(qmodel.get_parameter("layer.weight_cast.frac_bits"))
        qmodel.get_parameter("layer.weight")[3, 5] += lsb
    wrong: Graph = qfx.to_graph(qmodel)
    bundle: Bundle = build_bundle([(optimize(wrong), Schedule())], tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    expected = run_from_raw(graph, quantize_input(graph, x))
    with pytest.raises(AssertionError, match="C simulation has"):
        assert_bit_exact(bundle.run_from_raw(0, quantize_input(graph, x)), expected, names=("C simulation", "interpreter"))
