"""Recurrent cells in loops of Python, quantized: the recurrent layers that they are, in every executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from executors import same_in_cpp
from loop_models import FEATURES, FORMS, HIDDEN, KINDS, NONE, TWO, Network, data, decoder
from nn_models import Calls, check_exact
from torch import Tensor, nn

import qfx
from qfx import operators as ops
from qfx.capture.from_pt2 import from_pt2
from qfx.export.onnx_file import to_model
from qfx.ir.from_onnx import from_model
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raw
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

X = data()
WIDE = qfx.Recipe.uniform(16, input=qfx.Spec(16), bias=qfx.Spec(24), output=qfx.Spec(24))
ALL = {**FORMS, **TWO, **NONE}


def scans(graph: Graph) -> int:
    return sum(isinstance(node.op, ops.Scan) for node in graph.nodes)


def exact_everywhere(q: nn.Module) -> Graph:
    """Torch, interpreter and ONNX Runtime, raw for raw; and the file is read as the graph that it was written from."""
    graph = check_exact(q)
    file = to_model(graph)
    assert from_model(file) == graph
    session = ort.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    x = adversarial_inputs(graph, np.random.default_rng(2), 12)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    assert_bit_exact(raw_of(y, graph, "ONNX Runtime"), run_raw(graph, x), names=("ONNX Runtime", "interpreter"))
    return graph


def near(q: nn.Module, m: nn.Module, share: float) -> bool:
    expected = m(X).detach()
    return float((q(X).detach() - expected).square().mean()) <= share * float(expected.var())


@pytest.mark.parametrize("form", ["stacked", "the last cell", "from parameters", "from computed", "heads", "two layers", "both ways", "a decoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_wide_words_give_what_torch_gives(kind: str, form: str) -> None:
    m = Network(kind, ALL[form])
    assert near(qfx.quantize(m, X, WIDE), m, 1e-5)
    assert near(qfx.quantize(m, X), m, 2e-2)


EXACT = (
    "stacked in front",
    "some",
    "backwards and turned",
    "from parameters",
    "from ones",
    "heads",
    "beside the same",
    "rows of pictures",
    "two layers",
    *NONE,
)


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_the_same_raws_everywhere(kind: str, form: str) -> None:
    q = qfx.quantize(Network(kind, ALL[form]), X, qfx.Recipe.uniform(5, internal=qfx.Spec(9)))
    assert scans(exact_everywhere(q)) == (2 if form in TWO else 1 if form in FORMS else 0)


LAYERS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN}


@pytest.mark.parametrize("form", ["stacked", "unbound", "heads"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_loop_over_a_cell_is_the_layer(kind: str, form: str) -> None:
    m = Network(kind, FORMS[form])
    inputs: Any = {"heads": lambda m, x: torch.relu(m.enter(x))}.get(form, lambda m, x: x)
    after: Any = {"unbound": lambda m, h: m.fc(h.mean(1))}.get(form, lambda m, h: m.fc(h))
    rnn = LAYERS[kind](FEATURES, HIDDEN, batch_first=True)
    rnn.load_state_dict({f"{name}_l0": tensor for name, tensor in m.cell.state_dict().items()})
    layer = Calls(lambda m, x: after(m, m.rnn(inputs(m, x))[0]), rnn=rnn, fc=m.fc, enter=m.enter).eval()
    q, expected = qfx.quantize(m, X), qfx.quantize(layer, X)
    assert torch.equal(q(X), expected(X))
    names = [name.replace("cell.loop", "rnn.l0") for name, _ in qfx.quantizers(q)]
    assert names == [name for name, _ in qfx.quantizers(expected)]


# Training


@pytest.mark.parametrize("form", ["heads", "from parameters", "two layers"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_trained_as_the_users_module_is(kind: str, form: str) -> None:
    m = Network(kind, ALL[form])
    wanted = torch.zeros_like(m(X))
    (m(X) - wanted).square().mean().backward()
    expected = {name for name, p in m.named_parameters() if p.grad is not None}
    m.zero_grad(set_to_none=True)
    q = qfx.quantize(m, X).train()
    own = {p.detach().numpy().tobytes(): name for name, p in m.named_parameters()}
    named = {id(p): own.get(p.detach().numpy().tobytes(), "") for p in q.parameters()}
    optimizer = torch.optim.SGD(q.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = (q(X) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert {named[id(p)] for p in q.parameters() if p.grad is not None} - {""} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_float_checkpoint_loads(kind: str) -> None:
    def net() -> nn.Module:
        return Calls(FORMS["stacked"], cell=KINDS[kind](FEATURES, HIDDEN), fc=nn.Linear(HIDDEN, 3)).eval()

    q, other = qfx.quantize(net(), X), net()
    q.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(q.cell.loop.hidden.weight, other.cell.weight_hh)
    assert torch.equal(q.cell.loop_input.bias, other.cell.bias_ih)


def test_casts_and_weights_have_names_that_recipes_match() -> None:
    q = qfx.quantize(Network("lstm", FORMS["stacked"]), X)
    names = {name for name, _ in qfx.quantizers(q)}
    inner = ("gates", "sigmoid", "tanh", "cell", "tanh_cell", "state", "hidden.weight", "hidden.bias")
    assert {f"cell.loop.{name}" for name in inner} | {"cell.loop_input.weight", "cell.loop_input.bias"} <= names


# Where it stays unrolled


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_a_cell_have_one_cast(kind: str) -> None:
    q = qfx.quantize(Network(kind, decoder), X)
    weights = [name for name, _ in qfx.quantizers(q) if name.endswith(".weight")]
    assert sorted(weights) == ["cell.linear.weight", "cell.linear_1.weight", "enter.weight", "narrow.weight"]
    q.train()
    q(X).square().mean().backward()
    assert all(p.grad is not None for p in (q.cell.linear.weight, q.cell.linear_1.weight))


# Exported programs


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("form", ["stacked", "backwards", "from zeros", "from parameters", "two layers", "a decoder"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_an_exported_program(kind: str, form: str, tmp_path: Path) -> None:
    m, path = Network(kind, ALL[form]), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(m, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    q, expected = qfx.quantize(from_pt2(path, X), X), qfx.quantize(m, X)
    assert torch.equal(q(X), expected(X))
    assert scans(qfx.to_graph(q)) == scans(qfx.to_graph(expected)) == (0 if form in NONE else 2 if form in TWO else 1)


# Hardware


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "vendor"])
def test_the_same_raws_in_cpp(fast: bool, tmp_path: Path) -> None:
    forms = {"lstm": ("heads", "from parameters"), "gru": ("two layers", "a decoder"), "tanh": ("backwards and turned", "one step from ones")}
    recipe = qfx.Recipe.uniform(5, internal=qfx.Spec(9))
    models: list[tuple[nn.Module, Tensor]] = [(qfx.quantize(Network(kind, ALL[form]), X, recipe), X) for kind in forms for form in forms[kind]]
    same_in_cpp(models, tmp_path, fast=fast)
