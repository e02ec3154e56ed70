"""Fully unrolled designs: the scalar program, its adder graphs and its C++ against the interpreter, raw integer by raw integer."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support import pragmas, synthesizable
from support.bundles import build_bundle
from support.pragma_grammar import Tool

from qfx.cli import main
from qfx.errors import ExactnessError, ProjectError, UnsupportedError
from qfx.export.onnx_file import save
from qfx.fixed.digits import csd
from qfx.fixed.type import FixedType, QMode
from qfx.hardware.assets import hls_root
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.project import csim
from qfx.hardware.project.project import read_project, write_project
from qfx.hardware.rtl.unrolled import combinational
from qfx.hardware.timing.delays import delays
from qfx.hardware.unrolled import unroll as unrolling
from qfx.hardware.unrolled.adders import Adder, AdderGraph, Row, Solver, Term, plain_graph
from qfx.hardware.unrolled.cost import luts, luts_of_all, pipeline
from qfx.hardware.unrolled.evaluate import evaluate
from qfx.hardware.unrolled.plan import plan
from qfx.hardware.unrolled.program import Program, Sum, read_by, type_of
from qfx.hardware.unrolled.rounding import absorb_rounding
from qfx.hardware.unrolled.sharing import shared_graph
from qfx.hardware.unrolled.ternary import adder_bits, ternary, ternary_bits
from qfx.hardware.unrolled.unroll import unroll
from qfx.hardware.unrolled.with_da4ml import da4ml_graph
from qfx.ir.feeds import feeds
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs, run_from_raws
from qfx.ir.operator import Operator
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, Const
from qfx.operators import OPERATORS, Add, Affine, Cast, Compare, Conv, Input, Linear, Lookup, Max, MaxPool, Mul, PRelu, Relu
from qfx.testing import adversarial_feeds, random_graph

UNROLLED = tuple(operator for operator in OPERATORS if operator.unroll is not Operator.unroll)
ZCU = board("zcu102")
STRICT = ("-O0", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion")


def scalar(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def mlp(sizes: tuple[int, ...] = (6, 8, 5), bits: int = 4, seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    nodes = [Node("x", Input((sizes[0],), scalar("ap_fixed<6,2,AP_RND,AP_SAT>")))]
    for place, (ins, outs) in enumerate(pairwise(sizes)):
        half = 1 << (bits - 1)
        weight = Const(rng.integers(-half, half, (outs, ins)), bits - 1)
        linear = Node(f"fc{place}", Linear(weight, Const(rng.integers(-20, 20, (outs,)), 6)), (nodes[-1].name,))
        relu = Node(f"relu{place}", Relu(), (linear.name,))
        nodes += [linear, relu, Node(f"cast{place}", Cast(scalar("ap_ufixed<5,2,AP_RND,AP_SAT>")), (relu.name,))]
    return Graph("mlp", tuple(nodes), nodes[-1].name)


def cnn() -> Graph:
    rng = np.random.default_rng(1)
    nodes = (
        Node("x", Input((2, 5, 5), scalar("ap_fixed<5,2>"))),
        Node("conv", Conv(Const(rng.integers(-4, 4, (3, 2, 3, 3)), 3), None, (1, 1), ((1, 1), (0, 1)), (1, 1), 1), ("x",)),
        Node("relu", Relu(), ("conv",)),
        Node("cast", Cast(scalar("ap_ufixed<4,2,AP_RND_CONV,AP_SAT>")), ("relu",)),
        Node("pool", MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), ("cast",)),
    )
    return Graph("cnn", nodes, "pool")


def selects() -> Graph:
    nodes = (
        Node("x", Input((4,), scalar("ap_fixed<5,2>"))),
        Node("prelu", PRelu(Const(np.array(3), 3)), ("x",)),
        Node("above", Compare(">", Const(np.array(1), 1)), ("x",)),
        Node("table", Lookup(Const(np.arange(32) ** 2 % 37, 2), -16, 3), ("x",)),
        Node("max", Max(), ("prelu", "table")),
        Node("sum", Add(), ("max", "above")),
        Node("product", Mul(), ("sum", "x")),
    )
    return Graph("selects", nodes, "product")


def nothing() -> Graph:
    """An input that leaves as it came, one that all weights drop, and an output that is always the same."""
    nodes = (
        Node("x", Input((3,), scalar("ap_fixed<5,2>"))),
        Node("y", Input((2, 2), scalar("ap_fixed<3,3>"))),
        Node("zero", Affine(Const(np.array(0), 0), Const(np.array([0, -5]), 1)), ("y",)),
    )
    return Graph("nothing", nodes, ("x", "zero"))


def compared(graph: Graph, solver: Solver = shared_graph, count: int = 12) -> None:
    """The scalar program gives the interpreter's integers, and no node leaves its bounds."""
    x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), count)))
    program = unroll(graph, solver=solver)
    shapes = [graph.infos[name].shape for name in graph.outputs]
    got = evaluate(program, list(x_raw.values()), shapes, check_ranges=True)
    for want, found in zip(run_from_raws(graph, x_raw), got, strict=True):
        np.testing.assert_array_equal(found, want)


# The scalar program


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_random_graphs_unroll_to_the_interpreters_integers(seed: int, several: bool, shared: bool) -> None:
    graph = optimize(random_graph(np.random.default_rng(seed), operators=UNROLLED, several=several, max_nodes=7))
    with suppress(UnsupportedError):  # a table of too many entries
        compared(graph, shared_graph if shared else plain_graph)


def test_every_operator_that_moves_or_adds_has_a_form() -> None:
    without = {operator.__name__ for operator in OPERATORS} - {operator.__name__ for operator in UNROLLED} - {"Input"}
    assert without == {"Scan", "Embedding", "TopPlaces", "TopValues"}


def test_an_operator_without_a_form_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relu, "unroll", Operator.unroll)
    with pytest.raises(UnsupportedError, match="relu0: Relu has no unrolled form"):
        unroll(mlp())


def test_products_of_values_take_luts_alone() -> None:
    nodes = (Node("x", Input((3,), scalar("ap_fixed<4,2>"))), Node("square", Mul(), ("x", "x")))
    graph = Graph("net", nodes, "square")
    compared(graph)
    program = unroll(graph)
    assert [program.type(result.node) for result in program.outputs[0]] == [FixedType(7, 7, False)] * 3
    assert plan(graph, ZCU, clock_ns=5).estimate.total.dsp == 0


def test_zeros_and_dead_nodes_vanish() -> None:
    weight = np.zeros((4, 6), dtype=np.int64)
    weight[0, 0], weight[1, 2] = 4, 1
    nodes = (Node("x", Input((6,), scalar("ap_fixed<4,2>"))), Node("fc", Linear(Const(weight, 2), None), ("x",)))
    program = unroll(Graph("net", nodes, "fc"))
    assert program.operations == 0  # shifts alone
    assert len(program.nodes) == 3  # two numbers of the input, and 0


def test_each_adder_is_as_wide_as_its_own_numbers() -> None:
    graph = mlp()
    program = unroll(graph)
    types = [program.type(place).width for place, node in enumerate(program.nodes) if isinstance(node, Sum)]
    assert min(types) < max(types) <= max(info.type.width for info in graph.infos.values()) + 4


def test_a_sum_that_wraps_keeps_only_what_is_left_of_it() -> None:
    nodes = list(mlp((6, 4), bits=6).nodes)
    nodes[-1] = replace(nodes[-1], op=Cast(scalar("ap_fixed<4,1,AP_RND,AP_WRAP>")), inputs=("fc0",))
    wraps = Graph("wraps", (nodes[0], nodes[1], nodes[3]), "cast0")
    program = unroll(wraps)
    sums = [place for place, node in enumerate(program.nodes) if isinstance(node, Sum)]
    assert max(program.type(place).width for place in sums) < max(type_of(program.bounds[place]).width for place in sums)
    compared(wraps)


@pytest.mark.parametrize(("most", "what"), [(80, "mlp: unrolls to .* scalar operations"), (30, "relu0: brings it to"), (20, "fc0: adds .* shifted")])
def test_too_many_operations_are_refused(monkeypatch: pytest.MonkeyPatch, most: int, what: str) -> None:
    monkeypatch.setattr(unrolling, "MAX_OPERATIONS", most)
    with pytest.raises(ProjectError, match=f"{what}.*; from {most} operations on") as caught:
        unroll(mlp())
    assert "--style streaming" in caught.value.remedy


# Adder graphs

matrices = st.integers(1, 6).flatmap(
    lambda columns: st.lists(st.lists(st.integers(-300, 300), min_size=columns, max_size=columns), min_size=1, max_size=8)
)


def rows_of(matrix: list[list[int]]) -> tuple[Row, ...]:
    return tuple(tuple(Term(column, up, sign < 0) for column, weight in enumerate(row) for sign, up in csd(weight)) for row in matrix)


@settings(deadline=None, max_examples=200)
@given(matrices, st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 4))
def test_sharing_never_changes_a_value(matrix: list[list[int]], depths: list[int], slack: int) -> None:
    rows, columns = rows_of(matrix), len(matrix[0])
    given_depths, widths = tuple(depths[:columns]), (5,) * columns
    graph = shared_graph(rows, given_depths, widths, slack=slack)
    graph.check(rows)
    for row, output in zip(matrix, graph.outputs, strict=True):
        form = {} if output is None else graph.coefficients[output.node]
        sign = -1 if output is not None and output.negative else 1
        assert {c: w for c, w in enumerate(row) if w} == {c: sign * f << (output.shift if output else 0) for c, f in form.items()}
    assert len(graph.adders) <= sum(len(row) - 1 for row in rows if row)  # a tree for each row


def test_sharing_finds_what_rows_have_in_common() -> None:
    rows = rows_of([[5, 5, 0], [10, 10, 3], [-5, -5, 1], [45, 0, 45]])
    assert len(shared_graph(rows, (0,) * 3, (4,) * 3).adders) < len(plain_graph(rows, (0,) * 3, (4,) * 3).adders)


def test_a_wrong_adder_graph_is_found() -> None:
    rows = rows_of([[3, 1]])
    good = plain_graph(rows, (0, 0), (4, 4))
    first = good.adders[0]
    broken = AdderGraph(2, (Adder(first.a, first.b, first.up_a, first.up_b, not first.minus), *good.adders[1:]), good.outputs)
    with pytest.raises(ExactnessError, match="computes another output"):
        broken.check(rows)


def test_da4ml_computes_the_same() -> None:
    pytest.importorskip("da4ml")
    rows = rows_of([[5, 5, 0], [10, 10, 3], [-5, -5, 1], [0, 0, 0], [45, 0, -64]])
    da4ml_graph(rows, (0, 1, 0), (4, 4, 7)).check(rows)
    for graph in (mlp(), cnn()):
        compared(graph, da4ml_graph)


def test_da4ml_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "da4ml.cmvm", None)
    with pytest.raises(ProjectError, match="da4ml is not installed"):
        da4ml_graph(rows_of([[3]]), (0,), (4,))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_rounding_that_biases_absorb_changes_no_output(seed: int) -> None:
    operators = (Linear, Conv, Affine, Relu, MaxPool, Cast)
    graph = optimize(random_graph(np.random.default_rng(seed), operators=operators, max_nodes=6))
    x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 12)))
    for want, got in zip(run_from_raws(graph, x_raw), run_from_raws(absorb_rounding(graph), x_raw), strict=True):
        np.testing.assert_array_equal(got, want)


def test_rounding_moves_into_the_bias() -> None:
    casts = [node.op for node in absorb_rounding(mlp()).nodes if isinstance(node.op, Cast)]
    assert len(casts) == 2
    assert {op.cast.element.q for op in casts} == {QMode.TRN}


# C++


def test_the_cpp_gives_the_interpreters_integers(tmp_path: Path) -> None:
    """Random graphs and directed ones, by the vendor's headers, with every warning an error."""
    graphs = [mlp(), cnn(), selects(), nothing()]
    for seed in range(400):
        graph = optimize(random_graph(np.random.default_rng(seed), operators=UNROLLED, several=seed % 3 == 0, max_nodes=6))
        try:
            if unroll(graph).operations < 250:
                graphs.append(graph)
                plan(graph, ZCU, clock_ns=5)
        except (UnsupportedError, ProjectError):
            graphs = [known for known in graphs if known is not graph]
        if len(graphs) == 16:
            break
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path, unrolled=True, flags=STRICT)
    emitted = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*/src/*"))
    assert set(re.findall(r"^inline [\w<>]+ (\w+)\(", (hls_root() / "include/qfx/unrolled.h").read_text(), re.MULTILINE)) <= set(
        re.findall(r"qfx::(\w+)<", emitted)
    )
    for index, graph in enumerate(graphs):
        x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(5), 12)))
        for want, got in zip(run_from_raws(graph, x_raw), bundle.run_from_raws(index, list(x_raw.values())), strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_project_simulates_by_both_builds_and_finds_a_planted_fault(tmp_path: Path) -> None:
    graph, folder = mlp(), tmp_path / "project"
    write_project(graph, folder, board="zcu102", style="unrolled")
    assert read_project(folder).style == "unrolled"
    x = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    want = run_from_raws(graph, quantize_inputs(graph, {"x": x}))[0]
    np.testing.assert_array_equal(csim.run_raw(folder, x), want)
    np.testing.assert_array_equal(csim.run_raw(folder, x, fast=True), want)
    for refused in (csim.trace_raw, csim.losses):
        with pytest.raises(ProjectError, match="no layers"):
            refused(folder, x)
    text = (folder / "src" / "layers.h").read_text()
    line = next(line for line in text.splitlines() if "qfx::add<" in line)
    (folder / "src" / "layers.h").write_text(text.replace(line, line.replace(");", ") + 1;", 1), 1))
    assert (csim.run_raw(folder, x) != want).any()


def test_sources_keep_to_the_tools_rules(tmp_path: Path) -> None:
    for which, graph in enumerate((mlp(), cnn())):
        folder = tmp_path / str(which)
        write_project(graph, folder, board="zcu102", style="unrolled", top="top")
        files = {path: (folder / path).read_text() for path in read_project(folder).files if path.startswith(("src/", "include/"))}
        for tool in Tool:
            assert synthesizable.check(files, tool) == ()
            assert pragmas.check(files, tool) == ()


def test_what_only_a_folded_design_has_is_refused(tmp_path: Path) -> None:
    for more in ({"weights": "stream"}, {"schedule": Schedule.of({"fc0": Folding(2, 2)})}):
        with pytest.raises(ProjectError, match="unrolled"):
            write_project(mlp(), tmp_path / "project", board="zcu102", style="unrolled", **more)  # type: ignore[arg-type]
    with pytest.raises(ProjectError, match="style"):
        write_project(mlp(), tmp_path / "project", board="zcu102", style="flat")


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    save(mlp(), path)
    return path


def qfx(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_a_project_and_says_what_it_costs(model: Path, tmp_path: Path) -> None:
    done = qfx("hls", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "project", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "project" / "report.json").read_text())
    assert json.loads(done.stdout) == told
    assert (told["style"], told["interval_cycles"], told["resources"]["dsp"]) == ("unrolled", 1, 0)
    assert told["latency_ns"] == 5 * told["latency_cycles"]
    assert told["adders"] == sum(layer["adders"] for layer in told["layers"]) > 0
    assert not (tmp_path / "project" / "folding.toml").exists()
    assert json.loads(qfx("estimate", model, "--board", "zcu102", "--style", "unrolled", "--json").stdout) == told
    text = qfx("hls", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "again")
    assert "latency" in text.stdout
    assert (tmp_path / "again" / "src" / "mlp.cpp").read_text() == (tmp_path / "project" / "src" / "mlp.cpp").read_text()


@pytest.mark.parametrize("options", [["--fps", "1000"], ["--fit"], ["--folding", "f.toml"], ["--weights", "stream"], ["--ports", "merged"]])
def test_the_command_refuses_what_means_nothing(model: Path, tmp_path: Path, options: list[str]) -> None:
    done = qfx("hls", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "project", *options)
    assert done.exit_code == 2
    assert options[0] in done.output
    assert "use --style streaming" in done.output
    assert not (tmp_path / "project").exists()


def test_adders_are_those_of_unrolled_designs(model: Path, tmp_path: Path) -> None:
    done = qfx("hls", model, "--board", "zcu102", "--adders", "da4ml", "-o", tmp_path / "project")
    assert done.exit_code == 2
    assert "--style unrolled" in done.output


# Estimates


def fewest(program: Program, free: dict[int, list[int]], roots: list[int], may: bool = True) -> int:
    """The fewest bits of adders of some trees of sums, by trying every choice; ``may``: whether the roots may take in another sum."""
    total = 0
    for place in roots:
        node = program.nodes[place]
        assert isinstance(node, Sum)
        choices = [adder_bits(program, place, node) + fewest(program, free, free[place])]
        for taken in free[place] if may else ():
            others = [other for other in free[place] if other != taken]
            rest = fewest(program, free, others) + fewest(program, free, [taken], may=False)
            inner = program.nodes[taken]
            assert isinstance(inner, Sum)
            choices.append(ternary_bits(program, place, taken) + rest - adder_bits(program, taken, inner))
        total += min(choices)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_sums_of_three_leave_the_fewest_bits(seed: int) -> None:
    graph = mlp((5, 4, 3), bits=3 + seed % 2, seed=seed)
    program = unroll(graph, solver=plain_graph if seed % 3 else shared_graph)
    joined = ternary(program)
    assert joined
    assert not set(joined) & set(joined.values())
    assert len(set(joined.values())) == len(joined)
    readers = Counter(source for node in program.nodes for source in read_by(node))
    assert all(taken in read_by(program.nodes[place]) and readers[taken] == 1 for place, taken in joined.items())
    sums = [place for place, node in enumerate(program.nodes) if isinstance(node, Sum) and adder_bits(program, place, node)]
    free = {place: [source for source in read_by(program.nodes[place]) if source in sums and readers[source] == 1] for place in sums}
    roots = [place for place in sums if not any(place in inner for inner in free.values())]
    found = luts_of_all(program, joined)
    assert sum(found[place] for place in sums) == fewest(program, free, roots)
    assert sum(found) < sum(luts(program, place) for place in range(len(program.nodes)))


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        ((1, 1, 1), 6),  # 0 to 45
        ((1, -1, 1), 6),  # -15 to 30
        ((-1, 1, -1), 6),  # -30 to 15
        ((1, 4, 4), 6),  # the two lowest bits of 0 to 135 are those of one number
        ((-1, 4, 4), 8),  # -15 to 120: of a negative one they are not
    ],
)
def test_a_sum_of_three_takes_a_lut_for_each_bit_that_is_added(weights: tuple[int, ...], bits: int) -> None:
    nodes = (
        Node("x", Input((3,), scalar("ap_ufixed<4,4>"))),
        Node("fc", Linear(Const(np.array([weights]), 0), None), ("x",)),
    )
    program = unroll(Graph("three", nodes, "fc"))
    (place,) = ternary(program)
    assert sum(luts_of_all(program, ternary(program))) == bits
    made = pipeline(program, delays(ZCU.part), 5.0)
    assert made.stages[place] == made.stages[made.joined[place]] == made.depth == 1


@pytest.mark.parametrize(
    ("weights", "source", "bits"),
    [([[1, 32, 33]], "ap_fixed<3,3>", 4), ([[24, 5, -40], [-96, -16, -8]], "ap_ufixed<3,3>", 3), ([[1, -32, -64]], "ap_ufixed<4,4>", 4)],
)
def test_what_a_cast_that_wraps_leaves_no_bit_of_costs_nothing(weights: list[list[int]], source: str, bits: int) -> None:
    nodes = (
        Node("x", Input((3,), scalar(source))),
        Node("fc", Linear(Const(np.array(weights), 0), None), ("x",)),
        Node("wrapped", Cast(scalar(f"ap_fixed<{bits},{bits},AP_TRN,AP_WRAP>")), ("fc",)),
    )
    graph = Graph("wrapped", nodes, "wrapped")
    program = unroll(graph)
    for place, node in enumerate(program.nodes):
        assert not isinstance(node, Sum) or adder_bits(program, place, node) >= 0
    joined = ternary(program)
    assert all(own >= 0 for own in luts_of_all(program, joined))
    assert all(own >= 0 for own in pipeline(program, delays(ZCU.part), 5.0).stages)
    assert "[-" not in combinational(program)


def test_the_mlp_of_the_trigger_takes_a_frame_every_cycle() -> None:
    graph = mlp((16, 64, 32, 32, 5))
    made = plan(graph, ZCU, clock_ns=5)
    assert made.interval == 1
    assert made.latency <= 20
    assert made.estimate.total.dsp == made.estimate.total.bram18 == 0
    assert made.estimate.total.lut < 60_000


def test_a_port_takes_a_frame_in_a_word_while_converters_do() -> None:
    made = plan(cnn(), ZCU, clock_ns=5)
    assert [(port.words, port.word_bits) for port in (made.design.input, made.design.output)] == [(1, 400), (1, 96)]
    nodes = (Node("x", Input((600,), scalar("ap_fixed<8,2>"))), Node("fc", Linear(Const(np.ones((1, 600), dtype=np.int64), 0), None), ("x",)))
    wide = plan(Graph("wide", nodes, "fc"), ZCU, clock_ns=5)
    assert wide.interval == wide.design.input.words == 2


def test_a_longer_clock_takes_fewer_cycles() -> None:
    slow, fast = (plan(mlp(), ZCU, clock_ns=clock) for clock in (10.0, 2.5))
    assert slow.latency < fast.latency
    assert slow.estimate.total.ff < fast.estimate.total.ff


def test_what_does_not_fit_is_refused() -> None:
    tiny = replace(ZCU, lut=100)
    with pytest.raises(ProjectError, match="does not fit"):
        plan(mlp(), tiny, clock_ns=5)
