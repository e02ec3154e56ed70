"""hls4ml as a back end: its own compiled C++ gives the interpreter's raw integers, and what it cannot express is refused by name."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from qfx import operators as ops
from qfx.cli import main
from qfx.errors import ProjectError, UnsupportedError
from qfx.export.onnx_file import save
from qfx.fixed.arraytype import ArrayType
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board
from qfx.hardware.design.schedule import Request
from qfx.hardware.peers import project
from qfx.hardware.peers.compare import generators
from qfx.hardware.peers.layers import channels_last, layers_of
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_raw
from qfx.testing import adversarial_inputs

RNG = np.random.default_rng(0)


def const(shape: tuple[int, ...], frac_bits: int = 3, bits: int = 4) -> ops.Const:
    return ops.Const(RNG.integers(-(1 << (bits - 1)), 1 << (bits - 1), size=shape), frac_bits)


def cast(width: int, int_bits: int, q: QMode, o: OMode = OMode.SAT, signed: bool = True) -> ops.Cast:
    return ops.Cast(ArrayType.of(FixedType(width, int_bits, signed, q, o)))


def source(shape: tuple[int, ...], signed: bool = True) -> Node:
    return Node("x", ops.Input(shape, ArrayType.of(FixedType(6, 3, signed, QMode.RND, OMode.SAT))))


def chain(shape: tuple[int, ...], *operators: ops.Operator, signed: bool = True) -> Graph:
    nodes = [source(shape, signed)]
    for i, op in enumerate(operators):
        nodes.append(Node(f"layer.{i}", op, (nodes[-1].name,)))
    return Graph("chain", tuple(nodes), nodes[-1].name)


def network() -> Graph:
    """Convolution, norm, rectifier, depthwise, shortcut, both poolings, flattening, linear; casts that round and overflow in several ways."""
    ones, pads = (1, 1), ((1, 1), (1, 1))
    nodes = (
        source((2, 4, 6)),
        Node("conv", ops.Conv(const((3, 2, 3, 3)), None, ones, pads, ones, 1), ("x",)),
        Node("norm", ops.Affine(const((3,)), const((3,), 5)), ("conv",)),
        Node("relu", ops.Relu(), ("norm",)),
        Node("a", cast(6, 3, QMode.RND_CONV, OMode.SAT, False), ("relu",)),
        Node("depthwise", ops.Conv(const((3, 1, 3, 3)), const((3,), 2), ones, pads, ones, 3), ("a",)),
        Node("b", cast(7, 4, QMode.TRN_ZERO, OMode.WRAP), ("depthwise",)),
        Node("sum", ops.Add(), ("a", "b")),
        Node("c", cast(6, 4, QMode.RND_INF, OMode.SAT_SYM), ("sum",)),
        Node("pool", ops.MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ones), ("c",)),
        Node("mean", ops.SumPool((2, 2), (1, 1), ((0, 0), (0, 0))), ("pool",)),
        Node("flat", ops.Reshape((6,)), ("mean",)),
        Node("dense", ops.Linear(const((3, 6)), const((3,), 6)), ("flat",)),
        Node("y", cast(7, 4, QMode.RND_MIN_INF, OMode.SAT_ZERO), ("dense",)),
    )
    return Graph("network", nodes, "y")


def test_hls4ml_computes_the_same(tmp_path: Path, gxx: str) -> None:
    graph, target = network(), tmp_path / "project"
    save(graph, tmp_path / "network.onnx")
    asked = ["hls", str(tmp_path / "network.onnx"), "--backend", "hls4ml", "--board", "ultra96v2", "-o", str(target)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    told = json.loads((target / project.REPORT).read_text(encoding="utf-8"))
    assert told["samples"] == 64
    assert told["layers"]["b"]["result"] == "ap_fixed<7,4,AP_TRN_ZERO>"
    assert set(told["layers"]["conv"]) == {"name", "weight", "bias", "accum", "result"}
    assert list((target / "firmware").glob("*.so"))
    assert str(tmp_path) not in (target / "build_lib.sh").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx", "project"]
    assert len(np.unique(run_raw(graph, adversarial_inputs(graph, np.random.default_rng(0), 64)))) > 20  # it saw something
    again = CliRunner().invoke(main, asked)
    assert again.exit_code == 2
    assert "--force" in again.output


def test_signals_and_every_way_of_compare(tmp_path: Path, gxx: str, thorough: bool) -> None:
    if not thorough:
        pytest.skip("compiles two generators' C++")
    signal = chain(
        (2, 9), ops.Conv(const((4, 2, 3)), const((4,)), (2,), ((1, 1),), (1,), 1), ops.LeakyRelu(-3), cast(6, 4, QMode.RND),
        ops.MaxPool((2,), (2,), ((1, 0),), (1,)),
        ops.Reshape((12,)), ops.Linear(const((3, 12)), None),
    )  # fmt: skip
    on = board("ultra96v2")
    rows = generators(signal, on, Request(), on.clock_ns, adversarial_inputs(signal, np.random.default_rng(0), 100))
    assert [row["generator"] for row in rows] == ["qfx", "hls4ml"]
    assert all(row["refused"] is None and row["differing_values"] == 0 and row["values"] == 300 for row in rows)
    assert rows[0]["estimate"]["interval_cycles"] > 0
    assert rows[1]["estimate"] is None


def test_the_peers_padding_is_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gxx: str, thorough: bool) -> None:
    """The example of docs/leaving.md, which only hls4ml runs."""
    if not thorough:
        pytest.skip("compiles hls4ml's C++")
    page = (Path(__file__).resolve().parents[3] / "docs" / "leaving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "leaving.md", "exec"), {})


class OneBitOff:
    """What ``build`` gives, wrong in the last bit of one number."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run_raw(self, x: Any) -> Any:
        raw = run_raw(self.graph, x)
        raw.flat[5] ^= 1
        return raw


def test_a_planted_bit_is_found_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain((3,), ops.Linear(const((2, 3)), None))
    save(graph, tmp_path / "net.onnx")
    monkeypatch.setattr(project, "build", lambda graph, folder, **_: OneBitOff(graph))
    asked = ["hls", str(tmp_path / "net.onnx"), "--backend", "hls4ml", "--board", "ultra96v2", "-o", str(tmp_path / "project")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 1
    assert "sample 2, output [1]" in done.output
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("where", "what", "graph"),
    [
        ("layer.0", "Pad has no layer", chain((3,), ops.Pad(((1, 0),)))),
        ("layer.0", "its table is not", chain((3,), ops.Lookup(const((64,)), -32, 3))),
        ("layer.0", "dilated", chain((1, 9), ops.Conv(const((1, 1, 3)), None, (1,), ((0, 0),), (2,), 1))),
        ("layer.0", "groups", chain((4, 9), ops.Conv(const((4, 2, 3)), None, (1,), ((0, 0),), (1,), 2))),
        ("layer.0", "padding of unsigned", chain((1, 9), ops.MaxPool((3,), (2,), ((1, 0),), (1,)), signed=False)),
        ("layer.0", "several binary points", chain((2, 3), ops.Cast(ArrayType(FixedType(5, 4), (4, 2), (2, 1))))),
        ("layer.0", "AP_WRAP_SM", chain((2,), cast(4, 2, QMode.TRN, OMode.WRAP_SM))),
        ("layer.1", "another order", chain((6,), ops.Reshape((2, 3)), ops.Conv(const((2, 2, 1)), None, (1,), ((0, 0),), (1,), 1))),
    ],
)
def test_refusals_name_the_layer(where: str, what: str, graph: Graph) -> None:
    with pytest.raises(UnsupportedError, match=what) as caught:
        layers_of(graph)
    assert caught.value.where == where


def test_orders_are_followed() -> None:
    """A linear layer behind a flattened image gets its columns in hls4ml's order."""
    weight = const((2, 12))
    made = layers_of(chain((2, 2, 3), ops.Reshape((12,)), ops.Linear(weight, None)))
    assert (made.layers["layer.1"].settings["weight_data"] == weight.values[:, channels_last((2, 2, 3))].T).all()
    assert channels_last((2, 1, 3)).tolist() == [0, 3, 1, 4, 2, 5]


def test_the_command_refuses_what_is_qfx_own_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(chain((3,), ops.Linear(const((2, 3)), None)), tmp_path / "net.onnx")
    asked = ["hls", str(tmp_path / "net.onnx"), "--backend", "hls4ml", "--board", "ultra96v2", "-o", str(tmp_path / "out")]
    for option in (["--fit"], ["--style", "unrolled"], ["--clock-ns", "auto"], ["--ports", "merged"]):
        done = CliRunner().invoke(main, [*asked, *option])
        assert done.exit_code == 2
        assert f"{option[0]}" in done.output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    done = CliRunner().invoke(main, [*asked[:-1], str(tmp_path / "mine"), "--force"])
    assert done.exit_code == 2
    assert (tmp_path / "mine" / "file").read_text() == "mine"
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2
    assert "pip install hls4ml" in done.output
    with pytest.raises(ProjectError, match="hls4ml is not installed"):
        project.build(chain((3,), ops.Relu()), tmp_path / "never", part="x", clock_ns=5.0)
    assert not (tmp_path / "out").exists()


def test_the_table_of_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qfx.hardware.peers import compare

    save(chain((3,), ops.Linear(const((2, 3)), None)), tmp_path / "net.onnx")
    qfx_row = {"generator": "qfx", "refused": None, "values": 8, "differing_values": 0, "compile_s": 1.0, "samples_per_second": 2.0, "estimate": None}
    refused = {"generator": "hls4ml", "refused": "layer.0: cannot"}
    monkeypatch.setattr(compare, "generators", lambda *_: [qfx_row, refused])
    asked = ["compare", "--peers", str(tmp_path / "net.onnx"), "--board", "ultra96v2"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[1].split()[:6] == ["net", "qfx", "ultra96v2", "0", "of", "8"]
    assert lines[-2:] == ["-: qfx has no figures of a design before the vendor's synthesis", "net, hls4ml: layer.0: cannot"]
    monkeypatch.setattr(compare, "generators", lambda *_: [qfx_row | {"differing_values": 1}])
    assert CliRunner().invoke(main, [*asked, "--json"]).exit_code == 1
    assert CliRunner().invoke(main, [*asked, "--plot", str(tmp_path / "p.png")]).exit_code == 2


def table(frac_bits: int, bits: int, result: int, function: Any) -> ops.Lookup:
    """Of all signed numbers of so many bits, rounded to ``result`` fractional ones."""
    x = np.ldexp(np.arange(-(1 << (bits - 1)), 1 << (bits - 1)), -frac_bits)
    return ops.Lookup(ops.Const(np.floor(np.ldexp(function(x), result) + 0.5).astype(np.int64), result), -(1 << (bits - 1)), frac_bits)


def joined() -> Graph:
    """Limits of every kind, joins of two and of three values, and hls4ml's two functions by table."""
    limits = ops.Const(np.array(-5), 2), ops.Const(np.array(6), 0)
    nodes = (
        source((2, 3, 4)),
        Node("clip", ops.Clip(*limits), ("x",)),
        Node("above", ops.Clip(ops.Const(np.array(-1), 0), None), ("x",)),
        Node("cat", ops.Concat(), ("x", "clip", "above")),
        Node("a", cast(6, 3, QMode.RND), ("cat",)),
        Node("low", ops.Clip(ops.Const(np.array(0), 0), ops.Const(np.array(3), 1)), ("a",)),
        Node("sigmoid", table(3, 6, 7, lambda x: 1 / (1 + np.exp(-x))), ("a",)),
        Node("tanh", table(3, 6, 6, np.tanh), ("a",)),
        Node("sum", ops.Add(), ("sigmoid", "tanh")),
        Node("more", ops.Add(), ("sum", "low")),
        Node("flat", ops.Reshape((72,)), ("more",)),
        Node("dense", ops.Linear(const((3, 72)), None), ("flat",)),
        Node("d", cast(9, 6, QMode.RND), ("dense",)),
        Node("y", ops.Concat(), ("d", "dense")),
    )
    return Graph("joined", nodes, "y")


def test_limits_joins_and_tables(tmp_path: Path, gxx: str) -> None:
    graph = joined()
    peer = project.build(graph, tmp_path / "project", part=board("ultra96v2").part, clock_ns=5.0)
    x = adversarial_inputs(graph, np.random.default_rng(0), 64)
    expected = run_raw(graph, x)
    assert (peer.run_raw(x) == expected).all()
    assert len(np.unique(expected)) > 20
    wrong = list(graph.nodes)
    entries = wrong[6].op.entries.raw.copy()  # type: ignore[attr-defined]
    entries[20] += 1
    wrong[6] = Node("sigmoid", ops.Lookup(ops.Const(entries, 7), -32, 3), ("a",))
    with pytest.raises(UnsupportedError, match="sigmoid"):  # a table with one other entry is none of hls4ml's
        layers_of(graph.with_nodes(tuple(wrong)))
