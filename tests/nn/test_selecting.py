"""Embeddings: rows of a table by their number, in all executors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from ptq_user import qfx_command
from support.bundles import build_bundle
from torch import Tensor, nn

import qfx
from qfx import ptq
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2
from qfx.errors import DataError, UnsupportedError
from qfx.hardware.design.schedule import Schedule
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, quantize_inputs, run_from_raw
from qfx.nn.layers.selecting.embedding import QEmbedding
from qfx.recipe import Override, Recipe, Spec


class Text(nn.Module):
    """Rows, positions and a layer on each place."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(21, 6, padding_idx=3)
        self.positions = nn.Parameter(torch.randn(1, 5, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.emb(x) + self.positions)).mean(1)


class Held(nn.Module):
    """A table that no module of torch holds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x.flip(1), self.table, padding_idx=-1)


class Tied(nn.Module):
    """The table is the last layer's weight, too; the numbers have two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.emb(x.long()).amax(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 4)
        self.second = nn.Embedding(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.emb(x[:, :2]), self.second(x)], 1) * self.emb(x.flip(1)[:, :1])


class Classes(nn.Module):
    """Ones at the numbers' places, beside other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.one_hot(x, 8).float())


class Categories(nn.Module):
    """A table for each of several numbers, as for the columns of a data sheet; the greatest of some results says a further row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Embedding(9, 3), nn.Embedding(12, 2), nn.Embedding(4, 5)
        self.scores, self.head = nn.Linear(14, 4), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat([self.first(x[:, 0]), F.embedding(x[:, 1], self.second.weight), F.one_hot(x[:, 0], 9)], 1)
        return self.head(self.third(self.scores(found).argmax(1)))


MODELS = {
    "text": (Text, (7, 5), 21),
    "held": (Held, (6, 4), 9),
    "tied": (Tied, (6, 2, 3), 7),
    "twice": (Twice, (6, 3), 11),
    "mean of a bag": (lambda: nn.Sequential(nn.EmbeddingBag(12, 5), nn.Linear(5, 3)), (8, 3), 12),
    "sum of a bag": (lambda: nn.EmbeddingBag(12, 5, mode="sum"), (8, 3), 12),
    "maximum of a bag": (lambda: nn.EmbeddingBag(12, 5, mode="max"), (8, 3), 12),
    "classes": (Classes, (6, 4), 8),
    "categories": (Categories, (6, 2), 9),
    "two rows": (lambda: nn.Embedding(2, 3), (5, 4), 2),
    "one row": (lambda: nn.Embedding(1, 3), (5, 4), 1),
}


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[nn.Module, Tensor]]:
    """A quantized network of every form, and an input."""
    torch.manual_seed(0)
    found = {}
    for name, (make, shape, rows) in MODELS.items():
        x = torch.randint(0, rows, shape)
        x.flatten()[:2] = torch.tensor([0, rows - 1])
        found[name] = (qfx.quantize(make().eval(), x).eval(), x)
    return found


def raws(graph: Graph, values: Tensor) -> np.ndarray:
    return np.rint(np.ldexp(values.detach().double().numpy(), graph.infos[graph.output].grids)).astype(np.int64)


@pytest.mark.parametrize("name", MODELS)
def test_torch_the_graph_and_the_file_agree(name: str, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path) -> None:
    q, x = made[name]
    graph = qfx.to_graph(q)
    expected = run_from_raw(graph, quantize_input(graph, x.numpy()))
    assert np.array_equal(raws(graph, q(x)), expected)
    assert np.array_equal(raws(graph, q(x.double())), expected)
    qfx.export_onnx(q, tmp_path / "net.onnx")
    assert qfx.load_graph(tmp_path / "net.onnx").infos == graph.infos
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x.numpy().astype(np.float32)})[0]
    assert np.array_equal(raws(graph, torch.from_numpy(found)), expected)


def test_c_simulation_agrees(fast: bool, made: dict[str, tuple[nn.Module, Tensor]], tmp_path: Path, gxx: str) -> None:
    graphs = [qfx.to_graph(q) for q, _ in made.values()]
    bundle = build_bundle([(graph, Schedule()) for graph in graphs], tmp_path, fast=fast)
    for place, (graph, (_, x)) in enumerate(zip(graphs, made.values(), strict=True)):
        raw = quantize_input(graph, x.numpy())
        assert np.array_equal(bundle.run_from_raw(place, raw), run_from_raw(graph, raw)), graph.name
        beyond = np.broadcast_to(np.array(graph.infos[graph.input.name].type.max_raw), raw.shape).copy()  # maybe behind the table: its last row
        assert np.array_equal(bundle.run_from_raw(place, beyond), run_from_raw(graph, beyond)), graph.name


def test_the_numbers_are_exact_whatever_the_recipe_says() -> None:
    recipe = Recipe(input=Spec(4), overrides=(Override("input", {"width": 3}),))
    q = qfx.quantize(nn.Embedding(300, 2), torch.arange(300).reshape(-1, 3), recipe)
    graph = qfx.to_graph(q)
    assert (graph.infos["input"].type.width, graph.infos["input"].type.frac_bits, graph.infos["input"].type.signed) == (9, 0, False)
    assert not q.get_parameter("input.cast.frac_bits").requires_grad
    layer = q.get_submodule("layer")
    x = torch.randint(0, 300, (40, 3))
    assert torch.equal(q(x), layer.weight_cast(layer.weight).value[x])


def test_the_gradient_is_that_of_the_rows() -> None:
    torch.manual_seed(1)
    model = nn.Embedding(6, 3, padding_idx=2)
    x = torch.tensor([[0, 1, 1], [2, 5, 1]])
    q = qfx.quantize(model, x).train()
    weight = torch.randn(2, 3, 3)
    (q(x) * weight).sum().backward()
    found = q.get_parameter("layer.weight").grad
    expected = torch.zeros(6, 3)
    for sample, place in np.ndindex(2, 3):
        if int(x[sample, place]) != 2:
            expected[x[sample, place]] += weight[sample, place]
    cast = q.get_submodule("layer").weight_cast
    with torch.no_grad():
        inside = (cast(q.get_parameter("layer.weight")).value - q.get_parameter("layer.weight")).abs() <= 2.0 ** -cast.points() / 2
    assert torch.allclose(found[inside], expected[inside])
    assert not found[2].any()
    assert not found[3].any()
    assert q.get_parameter("layer.weight_cast.frac_bits").grad.isfinite()


def test_a_float_checkpoint_loads() -> None:
    torch.manual_seed(2)
    for make, shape, rows in (MODELS["text"], MODELS["held"], MODELS["tied"]):
        model, other = make().eval(), make().eval()
        x = torch.randint(0, rows, shape)
        q = qfx.quantize(model, x).eval()
        q.load_state_dict(other.state_dict())
        (layer,) = (layer for layer in q.modules() if isinstance(layer, QEmbedding))
        assert torch.equal(layer.weight, next(iter(value for value in other.state_dict().values() if len(value) == rows)))
        again = qfx.quantize(make().eval(), x).eval()
        again.load_state_dict(q.state_dict())
        assert torch.equal(again(x), q(x))


def test_numbers_without_a_row_are_refused_by_torch_and_read_the_last_row_elsewhere() -> None:
    q = qfx.quantize(nn.Embedding(5, 2), torch.tensor([[0, 4]])).eval()
    for numbers in ([[0, 5]], [[-1, 0]], [[0.5, 1.0]]):
        with pytest.raises(DataError, match="for a table of 5 rows"):
            q(torch.tensor(numbers))
    graph = qfx.to_graph(q)
    found = run_from_raw(graph, np.array([[4, 5], [7, 6]]))
    assert (found == found[0, 0]).all()


def test_what_has_no_form_says_so() -> None:
    x = torch.tensor([[0, 4]])
    with pytest.raises(UnsupportedError, match="max_norm"):
        qfx.quantize(nn.Embedding(5, 2, max_norm=1.0), x)

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rows(x + 1)  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedError, match=r"rows: takes rows by numbers of \d+ fractional bits"):
        qfx.quantize(Moved(), x)
    with pytest.raises(UnsupportedError, match="padding_idx"):
        qfx.quantize(nn.EmbeddingBag(5, 2, padding_idx=0), x)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 2, mode="sum")

        def forward(self, x: Tensor) -> Tensor:
            return self.bag(x, None, torch.ones(x.shape))

    with pytest.raises(UnsupportedError, match="with weights"):
        qfx.quantize(Weighted(), x)


def test_integers_of_every_kind_are_taken() -> None:
    torch.manual_seed(4)
    model, x = MODELS["text"][0]().eval(), torch.randint(0, 21, (7, 5))
    y = qfx.quantize(model, x).eval()(x)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(qfx.quantize(model, x.to(dtype)).eval()(x.to(dtype)), y)
    with pytest.raises(DataError, match=r"(?s)scalar types.*example\.long\(\)"):
        qfx.quantize(model, x.float())
    with pytest.raises(DataError, match=r"(?s)index out of range.*numbers of rows that the table has"):
        qfx.quantize(model, x + 21)
    with pytest.raises(DataError, match=r"(?s)no axis behind the batch.*x\.unsqueeze\(1\)"):
        qfx.quantize(nn.Embedding(21, 3), x[:, 0])


class Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(21, 6)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        return self.head(torch.cat([self.emb(tokens).mean(1), features], 1))


def test_numbers_beside_features(tmp_path: Path, gxx: str) -> None:
    torch.manual_seed(5)
    tokens, features = torch.randint(0, 21, (7, 5)), torch.randn(7, 2)
    q = qfx.quantize(Beside(), (tokens, features)).eval()
    graph = qfx.to_graph(q)
    expected = qfx.run(graph, {"tokens": tokens.numpy(), "features": features.numpy()})
    assert np.array_equal(q(tokens, features).detach().numpy(), expected)
    bundle = build_bundle([(graph, Schedule())], tmp_path)
    feeds = quantize_inputs(graph, {"tokens": tokens.numpy(), "features": features.numpy()})
    assert np.array_equal(bundle.run_from_raws(0, [*feeds.values()])[0], raws(graph, q(tokens, features)))


def test_the_other_doors(tmp_path: Path) -> None:
    torch.manual_seed(6)
    model, x = nn.Sequential(nn.Embedding(21, 6, padding_idx=3), nn.Linear(6, 4)).eval(), torch.randint(0, 21, (7, 5))
    y = qfx.quantize(model, x).eval()(x)
    batch: Any = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False), tmp_path / "model.pt2")
    program = from_pt2(tmp_path / "model.pt2", x)
    assert {name for name, _ in program.named_parameters()} == {"0.weight", "1.weight", "1.bias"}
    assert torch.equal(qfx.quantize(program, x).eval()(x), y)
    tensors = [
        numpy_helper.from_array(value.numpy(), name) for name, value in (("rows", model[0].weight.data), ("w", model[1].weight.data.T.contiguous()))
    ]
    nodes = [helper.make_node("Gather", ["rows", "x"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])]
    ends = [
        helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["N", 5]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 5, 4]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx")
    read = qfx.quantize(from_onnx(tmp_path / "model.onnx", x), x).eval()
    model[1].bias.data.zero_()
    assert torch.equal(read(x), qfx.quantize(model, x).eval()(x))


@pytest.mark.parametrize("name", ["calibrate", "correct_bias", "adaround", "gptq", "comq", "adaround_blocks", "tune"])
def test_the_passes_after_training_go_past_the_table(name: str) -> None:
    torch.manual_seed(7)
    model, x = MODELS["text"][0]().eval(), torch.randint(0, 21, (16, 5))
    q = qfx.quantize(model, x).eval()
    getattr(ptq, name)(q, x)
    assert np.array_equal(q(x).detach().numpy(), qfx.run(qfx.to_graph(q), x.numpy()))


def test_word_lengths_are_searched_for_the_rows_and_not_for_their_numbers() -> None:
    torch.manual_seed(8)
    model, x = MODELS["text"][0]().eval(), torch.randint(0, 21, (16, 5))
    table = ptq.sensitivity(model, x)
    assert "emb.weight" in str(table)
    assert "input" not in {row.name for row in table.rows}
    with pytest.raises(qfx.QfxError, match="row numbers"):
        ptq.distill(model, x)


def test_the_command_line_takes_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gxx: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    lines = (
        "import torch",
        "from torch import nn",
        "torch.manual_seed(0)",
        "net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))",
    )
    Path("rows_net.py").write_text("\n".join(lines), encoding="utf-8")
    x = np.random.default_rng(0).integers(0, 9, (32, 3))
    np.savez("data.npz", x=x, y=x.sum(1) % 3)
    done = qfx_command("ptq", "--model", "rows_net:net", "--data", "data.npz", "--eval", "data.npz", "-o", "model.onnx")
    assert done.exit_code == 0, done.output
    assert qfx_command("check", "--model", "rows_net:net", "--data", "data.npz").exit_code == 0
    assert qfx_command("hls", "model.onnx", "--board", "ultra96v2", "-o", "project").exit_code == 0
    done = qfx_command("verify", "model.onnx", "project", "--data", "data.npz", "--fast")
    assert done.exit_code == 0, done.output
