"""A trace of the C++ holds the interpreter's raws of every value that travels, and a planted error is found in the layer where it was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hardware_models import DIRECTED, chain, conv, residual, scalar
from test_fast import flip_weight

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import write_project
from qfx.ir.graph import Graph
from qfx.ir.interpret import run, trace
from qfx.ir.passes.pipeline import optimize
from qfx.operators import Cast, Relu, Reshape, Transpose
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.trace import first_divergence, locate


def deep() -> Graph:
    """Three convolutions, each with its cast; a transposition whose order no loop nest of the model's layout has."""
    cast = Cast(scalar("ap_fixed<6,4,AP_RND,AP_SAT>"))
    first, second, third = (conv(seed, 3, 3, 3, 3, pads=(1, 1)) for seed in (0, 2, 4))
    return chain("deep", (3, 4, 5), first, cast, second, Relu(), cast, Transpose((2, 0, 1)), Reshape((3, 4, 5)), third, cast)


def same_as_the_interpreter(graph: Graph, project: Path, *, fast: bool) -> None:
    x = adversarial_inputs(graph, np.random.default_rng(0), 4)
    expected = trace(optimize(graph), x)
    traced = csim.trace_raw(project, x, fast=fast)
    assert traced, graph.name
    for name, raw in traced.items():
        assert_bit_exact(raw, expected[name], names=(f"{name} of {graph.name}", "interpreter"))
    assert csim.trace_raw(project, x[:0], fast=fast)[graph.input.name].shape == (0, *graph.infos[graph.input.name].shape)


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("fast", [False, True])
def test_every_value_that_travels(tmp_path: Path, fast: bool) -> None:
    for make in (deep, residual):
        graph = make()
        project = write_project(graph, tmp_path / graph.name, board="zcu102").path
        same_as_the_interpreter(graph, project, fast=fast)
    names = set(csim.layers_of(tmp_path / "residual", fast=fast))
    assert names == {"x", "sum", "difference", "square", "join"}  # conv is fused with its cast and the sum


@pytest.mark.parametrize("graph", [make() for make in DIRECTED], ids=lambda graph: graph.name)
def test_travels_name_streams_of_their_values(graph: Graph) -> None:
    """Every stream is one of the design, every order a permutation of the value; the input and the output are always there."""
    design = lower(graph, Schedule())
    streams = {stream.name: stream for stream in design.streams}
    for travel in design.travels:
        info, stream = graph.infos[travel.node], streams[travel.stream]
        assert stream.words * stream.parallel == info.size
        assert sorted(travel.order.tolist()) == list(range(info.size))
        assert stream.type.frac_bits == info.type.frac_bits
        assert travel.layer in graph.infos
    assert {graph.input.name, graph.output} <= {travel.node for travel in design.travels}


@pytest.mark.usefixtures("gxx")
@pytest.mark.parametrize("fast", [False, True])
def test_one_lsb_in_a_weights_header_is_found_in_its_layer(tmp_path: Path, fast: bool) -> None:
    graph = deep()
    save(graph, tmp_path / "deep.onnx")
    project = write_project(graph, tmp_path / "project", board="zcu102").path
    x = adversarial_inputs(graph, np.random.default_rng(1), 40)
    count, found = locate(tmp_path / "deep.onnx", project, x, fast=fast)
    assert (count, found) == (len(csim.layers_of(project, fast=fast)), None)
    (header,) = (project / ("sim/fast" if fast else "src") / "weights").glob("conv2*")
    flip_weight(header)
    _, found = locate(tmp_path / "deep.onnx", project, x, fast=fast)
    assert found is not None
    assert found.layer == "conv2"
    assert found.node == "cast4"
    assert found.expected_raw == trace(optimize(graph), x)["cast4"][(found.sample, *found.index)]
    assert f"layer conv2: the value cast4 differs at sample {found.sample}" in str(found)


def test_divergence_is_the_first_in_the_graphs_order() -> None:
    graph = residual()
    expected = trace(graph, adversarial_inputs(graph, np.random.default_rng(2), 3))
    actual = {name: raw.copy() for name, raw in expected.items()}
    assert first_divergence(graph, expected, actual) is None
    actual["join"][0, 0, 0, 0] += 1
    actual["sum"][2, 1, 3, 4] += 1
    found = first_divergence(graph, expected, actual)
    assert found is not None
    assert (found.node, found.sample, found.index, found.actual_raw - found.expected_raw) == ("sum", 2, (1, 3, 4), 1)
    assert "layer sum: its value differs" in str(found)


@pytest.mark.usefixtures("gxx")
def test_another_model_is_refused(tmp_path: Path) -> None:
    save(deep(), tmp_path / "deep.onnx")
    project = write_project(residual(), tmp_path / "project", board="zcu102").path
    x = adversarial_inputs(residual(), np.random.default_rng(3), 2)
    with pytest.raises(ProjectError, match="is no node of"):
        locate(tmp_path / "deep.onnx", project, x)
    (project / "sim" / "values.json").write_text("{")
    with pytest.raises(ProjectError, match=r"values\.json cannot be read"):
        csim.layers_of(project)


@pytest.mark.usefixtures("gxx")
def test_the_commands(tmp_path: Path) -> None:
    """csim writes traces in both forms; verify finds the layer of a planted error by itself, and an error that the output does not show if asked."""

    def qfx(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    graph, model, project, data = deep(), tmp_path / "deep.onnx", tmp_path / "project", tmp_path / "data.npy"
    save(graph, model)
    np.save(data, adversarial_inputs(graph, np.random.default_rng(5), 12))
    assert qfx("hls", model, "--board", "zcu102", "-o", project).exit_code == 0
    done = qfx("csim", project, "--fast", "--input", data, "--output", tmp_path / "y.npy", "--trace", tmp_path / "trace.npz")
    assert done.exit_code == 0, done.output
    assert qfx("csim", project, "--fast", "--input", data, "--trace", tmp_path / "trace").exit_code == 0
    expected = trace(optimize(graph), np.load(data))
    with np.load(tmp_path / "trace.npz") as arrays:
        assert set(arrays.files) == set(csim.layers_of(project, fast=True))
        for name in arrays.files:
            assert_bit_exact(arrays[name], expected[name])
            assert_bit_exact(np.load(tmp_path / "trace" / f"{name}.npy"), expected[name])
    assert np.array_equal(np.load(tmp_path / "y.npy"), run(graph, np.load(data)))
    again = qfx("csim", project, "--fast", "--input", data, "--trace", tmp_path / "trace")
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert qfx("csim", project, "--input", data).exit_code == 2
    right = qfx("verify", model, project, "--data", data, "--fast", "--trace")
    assert right.exit_code == 0, right.output
    assert "fast emulator: all" in right.output
    (header,) = (project / "sim" / "fast" / "weights").glob("conv2*")
    flip_weight(header)
    wrong = qfx("verify", model, project, "--data", data, "--fast")
    assert wrong.exit_code == 1, wrong.output
    assert "fast emulator differs first at sample" in wrong.stderr
    assert "fast emulator differs first in layer conv2" in wrong.stderr
