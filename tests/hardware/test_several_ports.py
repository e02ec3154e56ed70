"""Several inputs and outputs in hardware: ports, test bench, both C simulations, FIFO depths, cycles."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import bounded
from support.bundles import build_bundle

from qfx.cli import main
from qfx.errors import ProjectError
from qfx.export.onnx_file import save
from qfx.fixed.type import FixedType
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import OUT, Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.execute import put_together
from qfx.hardware.project.project import read_project, write_project
from qfx.hardware.timing.fifo import plan
from qfx.ir.graph import OUTPUTS_KEY, Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws, run_raws
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, Const
from qfx.operators import Add, Cast, Concat, Conv, Input, Linear, Mul, Relu, Reshape
from qfx.testing import adversarial_feeds, assert_bit_exact, random_graph
from qfx.trace import locate
from qfx.verify import verify

S6 = ArrayType.of(FixedType(6, 3))
U4 = ArrayType.of(FixedType(4, 4, signed=False))


def weight(*shape: int) -> Const:
    return Const(np.random.default_rng(len(shape)).integers(-4, 5, size=shape), 2)


def sums() -> Graph:
    """Two inputs, their sum (which is read inside too) and its product with one of them."""
    nodes = (
        Node("left", Input((4, 3, 2), S6)),
        Node("right", Input((4, 3, 2), U4)),
        Node("sum", Add(), ("left", "right")),
        Node("product", Mul(), ("sum", "left")),
    )
    return Graph("sums", nodes, ("sum", "product"))


def siamese() -> Graph:
    """One convolution on two inputs, and what is made of both; one of the branches needs the whole frame before its first number."""
    shared = Conv(weight(4, 2, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    nodes = [Node("a", Input((2, 5, 5), S6)), Node("b", Input((2, 5, 5), S6))]
    for side in "ab":
        nodes += [
            Node(f"{side}_conv", shared, (side,)),
            Node(f"{side}_relu", Relu(), (f"{side}_conv",)),
            Node(f"{side}_cast", Cast(S6), (f"{side}_relu",)),
        ]
    nodes += [
        Node("flat", Reshape((100,)), ("a_cast",)),
        Node("near", Add(), ("a_cast", "b_cast")),
        Node("score", Linear(weight(3, 100), None), ("flat",)),
    ]
    return Graph("siamese", tuple(nodes), ("score", "near"), {OUTPUTS_KEY: "class\nmap 1"})


def detector() -> Graph:
    """One input, three outputs: the input at once, what is read inside too, and the end of a chain."""
    nodes = (
        Node("image", Input((2, 4, 4), U4)),
        Node("conv", Conv(weight(4, 2, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), ("image",)),
        Node("coarse", Conv(weight(2, 4, 3, 3), None, (2, 2), ((1, 1), (1, 1)), (1, 1), 1), ("conv",)),
    )
    return Graph("detector", nodes, ("image", "conv", "coarse"))


def crossed() -> Graph:
    """Two inputs that meet twice: once number by number, once the second behind the whole first."""
    nodes = (
        Node("x", Input((2, 6), S6)),
        Node("y", Input((2, 6), S6)),
        Node("sum", Add(), ("x", "y")),
        Node("xs", Reshape((1, 12)), ("x",)),
        Node("ys", Reshape((1, 12)), ("y",)),
        Node("xr", Reshape((12, 1)), ("xs",)),
        Node("yr", Reshape((12, 1)), ("ys",)),
        Node("both", Concat(), ("xr", "yr")),
    )
    return Graph("crossed", nodes, ("sum", "both"))


def apart() -> Graph:
    """Two networks that never meet."""
    nodes = (Node("x", Input((2, 6), S6)), Node("y", Input((3,), S6)), Node("r", Relu(), ("x",)), Node("s", Relu(), ("y",)))
    return Graph("apart", nodes, ("s", "r"))


GRAPHS = (sums, siamese, detector, crossed, apart)


def data(graph: Graph, n: int = 4) -> dict[str, np.ndarray]:
    return dict(adversarial_feeds(graph, np.random.default_rng(1), n))


@pytest.mark.parametrize("fast", [False, True])
def test_the_simulations_are_bit_exact(tmp_path: Path, fast: bool) -> None:
    graphs = [make() for make in GRAPHS]
    folded = Schedule.of({}, ports={"left": 4, "right": 2, OUT + "product": 2})
    bundle = build_bundle([*((graph, Schedule()) for graph in graphs), (graphs[0], folded)], tmp_path, fast=fast)
    for index, graph in enumerate([*graphs, graphs[0]]):
        x = quantize_inputs(graph, data(graph))
        for name, found, expected in zip(graph.outputs, bundle.run_from_raws(index, list(x.values())), run_from_raws(graph, x), strict=True):
            assert_bit_exact(found, expected, names=("C simulation", f"interpreter, {graph.name}, {name}"))


@pytest.mark.parametrize("make", GRAPHS)
def test_fifos_are_sized_and_the_slowest_sets_the_pace(make: object) -> None:
    design = lower(make(), Schedule())  # type: ignore[operator]
    made = plan(design)
    assert made.timing is not None
    assert made.timing.interval >= max(process.busy for process in made.timing.processes)
    assert len(design.inputs) + len(design.outputs) > 2


def test_ports_are_named_after_the_graph() -> None:
    design = lower(siamese(), Schedule())
    assert design.port_names == (("a_in", "b_in"), ("n_class_out", "map_1_out"))


def test_an_input_that_nothing_reads_is_refused() -> None:
    graph = Graph("g", (Node("x", Input((2,), S6)), Node("y", Input((2,), S6))), "x")
    with pytest.raises(ProjectError, match="no output depends on"):
        lower(graph, Schedule())


def test_a_project_from_file_to_test_bench(tmp_path: Path) -> None:
    graph = siamese()
    save(graph, tmp_path / "net.onnx")
    project = write_project(graph, tmp_path / "p", board="zcu104")
    assert list(project.inputs) == ["a", "b"]
    assert list(project.outputs) == ["class", "map 1"]
    x = data(graph)
    rows = verify(tmp_path / "net.onnx", x, {"csim": lambda given: csim.run_raw(tmp_path / "p", given)})
    assert [row.differing_bits for row in rows] == [0, 0]
    values, expected = csim.run(tmp_path / "p", (x["a"], x["b"])), run_raws(graph, x)
    assert values[1].shape == expected[1].shape
    assert locate(tmp_path / "net.onnx", tmp_path / "p", x)[1] is None
    bench = csim.build(tmp_path / "p")
    good = subprocess.run([str(bench)], cwd=tmp_path / "p", capture_output=True, text=True, check=False)
    assert (good.returncode, "0 of" in good.stdout) == (0, True), good.stdout + good.stderr
    golden = tmp_path / "p" / "tb" / "golden_map_1_out.txt"
    numbers = golden.read_text().split("\n")
    first = numbers[1].split(" ")
    first[7] = str(int(first[7]) ^ 1)
    numbers[1] = " ".join(first)
    golden.write_text("\n".join(numbers))
    bad = subprocess.run([str(bench)], cwd=tmp_path / "p", capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "first mismatch of map_1_out: sample 1, index 7: expected" in bad.stdout
    assert json.loads((tmp_path / "p" / "qfx_project.json").read_text())["outputs"]["class"]["shape"] == [3]
    assert read_project(tmp_path / "p") == project


def test_the_commands_take_and_give_arrays_by_name(tmp_path: Path) -> None:
    graph = siamese()
    save(graph, tmp_path / "net.onnx")
    x, runner = data(graph), CliRunner()
    np.savez(tmp_path / "x.npz", **x)
    np.savez(tmp_path / "numbered.npz", x0=x["a"], x1=x["b"])
    np.savez(tmp_path / "one.npz", a=x["a"])
    model, project = str(tmp_path / "net.onnx"), str(tmp_path / "p")
    made = runner.invoke(main, ["hls", model, "--board", "zcu104", "--output", project, "--golden", str(tmp_path / "x.npz"), "--fit"])
    assert made.exit_code == 0, made.output
    verified = runner.invoke(main, ["verify", model, project, "--data", str(tmp_path / "numbered.npz"), "--fast"])
    assert verified.exit_code == 0, verified.output
    ran = runner.invoke(main, ["csim", project, "--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")])
    assert ran.exit_code == 0, ran.output
    with np.load(tmp_path / "y.npz") as y:
        assert list(y.files) == ["class", "map 1"]
    assert runner.invoke(main, ["report", project, "--data", str(tmp_path / "x.npz")]).exit_code == 0
    refused = runner.invoke(main, ["verify", model, project, "--data", str(tmp_path / "one.npz")])
    assert (refused.exit_code, "the model has the inputs a, b" in refused.output) == (2, True)


def test_bounded_fifos_pass_frames_of_inputs_that_wait_for_nothing(tmp_path: Path) -> None:
    """With the depths chosen nothing deadlocks, and every process takes the turns that its program says."""
    graphs = [make() for make in GRAPHS]
    designs = [plan(lower(graph, Schedule())).design for graph in graphs]
    compiled = bounded.build(designs, tmp_path)
    for index, graph in enumerate(graphs):
        x = quantize_inputs(graph, data(graph, 6))
        found = compiled.run(index, put_together(list(x.values())))
        for raw, expected in zip(found.outputs, run_from_raws(graph, x), strict=True):
            assert_bit_exact(raw, expected, names=("bounded simulation", f"interpreter, {graph.name}"))
        assert bounded.differences(designs[index], found) == []


@pytest.mark.parametrize("fast", [False, True])
def test_random_models_of_two_inputs_and_outputs(tmp_path: Path, fast: bool) -> None:
    graphs = [optimize(random_graph(np.random.default_rng(seed), several=True)) for seed in range(10)]
    assert sum(len(graph.inputs) == 2 for graph in graphs) >= 3
    assert sum(len(graph.outputs) == 2 for graph in graphs) >= 8
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path, fast=fast)
    for index, graph in enumerate(graphs):
        x = data(graph)
        model = tmp_path / f"{index}.onnx"
        save(graph, model)
        assert [row.differing_values for row in verify(model, x)] == [0]
        raws = quantize_inputs(graph, x)
        for found, expected in zip(bundle.run_from_raws(index, list(raws.values())), run_from_raws(graph, raws), strict=True):
            assert_bit_exact(found, expected, names=("C simulation", f"interpreter, graph {index}"))
