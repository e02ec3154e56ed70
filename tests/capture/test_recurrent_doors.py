"""Recurrent networks from exported programs and ONNX files are those of the module."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from nn_models import Calls
from onnx import helper, numpy_helper
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2

X = torch.randn(8, 6, 5, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes")
"""Of torch.export, about torch.nn.LSTM."""

FORMS: dict[str, nn.Module] = {
    "lstm": nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
    "gru": nn.GRU(5, 4, 2, batch_first=True),
    "tanh": nn.RNN(5, 4, batch_first=True, bidirectional=True),
    "relu": nn.RNN(5, 4, batch_first=True, nonlinearity="relu", bias=False),
}


def model(form: str) -> nn.Module:
    rnn = FORMS[form]
    return Calls(lambda m, x: m.fc(m.rnn(x)[0][:, -1]), rnn=rnn, fc=nn.Linear(4 * (1 + rnn.bidirectional), 3)).eval()


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_program(form: str, tmp_path: Path) -> None:
    m, path = model(form), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(m, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    q, expected = qfx.quantize(from_pt2(path, X), X), qfx.quantize(m, X)
    assert torch.equal(q(X), expected(X))
    assert [name for name, _ in qfx.quantizers(q)] == [name for name, _ in qfx.quantizers(expected)]
    q.load_state_dict(m.state_dict(), strict=True)


def test_a_projection_in_an_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oneDNN has no projections
        m = Calls(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(5, 6, batch_first=True, proj_size=4)).eval()
        torch.export.save(torch.export.export(m, (X,)), path)
        assert torch.equal(qfx.quantize(from_pt2(path, X), X)(X), qfx.quantize(m, X)(X))


class Started(nn.Module):
    """A recurrent network with first states: ``ones``, a ``parameter`` for all samples, or ``computed`` of the first step, the last of them."""

    def __init__(self, rnn: nn.RNNBase, states: str) -> None:
        super().__init__()
        self.rnn, self.states = rnn, states
        self.count = rnn.num_layers * (1 + rnn.bidirectional)
        self.sizes = [rnn.proj_size or 4, 4] if isinstance(rnn, nn.LSTM) else [4]
        self.kept = nn.ParameterList([nn.Parameter(torch.randn(self.count, 1, size)) for size in self.sizes])
        self.first = nn.Linear(5, self.count * self.sizes[-1])
        self.fc = nn.Linear(self.sizes[0] * (1 + rnn.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        if self.states == "ones":
            states = [torch.ones(self.count, batch, size) for size in self.sizes]
        else:
            states = [kept.expand(-1, batch, -1) for kept in self.kept]
        if self.states == "computed":
            states[-1] = torch.tanh(self.first(x[:, 0])).reshape(batch, self.count, self.sizes[-1]).transpose(0, 1).contiguous()
        given: Any = tuple(states) if len(states) > 1 else states[0]
        if self.rnn.batch_first:
            return self.fc(self.rnn(x, given)[0][:, -1])  # type: ignore[no-any-return]
        return self.fc(self.rnn(x.transpose(0, 1), given)[0][-1])  # type: ignore[no-any-return]


STARTED: dict[str, nn.RNNBase] = {
    "lstm": nn.LSTM(5, 4, 2, bidirectional=True),
    "gru": nn.GRU(5, 4, 2, batch_first=True),
    "tanh": nn.RNN(5, 4, batch_first=True, bidirectional=True),
    "relu": nn.RNN(5, 4, nonlinearity="relu", bias=False),
}


@pytest.mark.parametrize("states", ["ones", "parameter", "computed"])
@pytest.mark.parametrize("form", STARTED)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed batch", "any batch"])
def test_first_states_in_an_exported_program(form: str, states: str, fixed: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    m, path = Started(STARTED[form], states).eval(), tmp_path / "m.pt2"
    sizes: Any = {} if fixed else {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
    torch.export.save(torch.export.export(m, (X,), **sizes), path)
    assert torch.equal(qfx.quantize(from_pt2(path, X), X)(X), qfx.quantize(m, X)(X))


def test_zeros_that_a_checkpoint_has_are_a_first_state(tmp_path: Path) -> None:
    m, path = Started(nn.GRU(5, 4, batch_first=True), "parameter").eval(), tmp_path / "m.pt2"
    nn.init.zeros_(m.kept[0])
    torch.export.save(torch.export.export(m, (X,)), path)
    q, expected = qfx.quantize(from_pt2(path, X), X), qfx.quantize(m, X)
    assert torch.equal(q(X), expected(X))
    assert len(list(qfx.quantizers(q))) == len(list(qfx.quantizers(expected)))


def test_a_first_state_that_is_another_for_each_sample_is_refused(tmp_path: Path) -> None:
    m, path = Calls(lambda m, x: m.rnn(x, torch.arange(32.0).reshape(1, 8, 4))[0], rnn=nn.GRU(5, 4, batch_first=True)).eval(), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(m, (X,)), path)
    with pytest.raises(UnsupportedError, match="a first state that is another for each sample"):
        from_pt2(path, X)


@pytest.mark.parametrize("states", ["ones", "parameter", "computed"])
@pytest.mark.parametrize("form", STARTED)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed batch", "any batch"])
def test_first_states_in_an_onnx_file(form: str, states: str, fixed: bool, tmp_path: Path) -> None:
    torch.manual_seed(4)
    m, path = Started(STARTED[form], states).eval(), tmp_path / "m.onnx"
    sizes: Any = {} if fixed else {"dynamic_axes": {"x": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of states and of itself
        torch.onnx.export(m, (X,), path, dynamo=False, input_names=["x"], **sizes)
    assert {node.op_type for node in onnx.load(path).graph.node} & {"LSTM", "GRU", "RNN"}
    assert torch.equal(qfx.quantize(from_onnx(path, X), X)(X), qfx.quantize(m, X)(X))


CELLS: dict[str, nn.Module] = {
    "lstm": nn.LSTMCell(5, 4),
    "gru": nn.GRUCell(5, 4),
    "tanh": nn.RNNCell(5, 4, bias=False),
    "relu": nn.RNNCell(5, 4, nonlinearity="relu"),
}


def by_hand(m: Any, x: Tensor) -> Tensor:
    state = None
    for step in range(x.shape[1]):
        state = m.cell(x[:, step], state)
    found: Tensor = m.fc(state[0] if isinstance(state, tuple) else state)
    return found


@pytest.mark.parametrize("form", CELLS)
def test_cells_in_an_exported_program(form: str, tmp_path: Path) -> None:
    """A loop of Python over a cell, from zeros for as many samples as there are; its weights are there once."""
    m, path = Calls(by_hand, cell=CELLS[form], fc=nn.Linear(4, 3)).eval(), tmp_path / "m.pt2"
    torch.export.save(torch.export.export(m, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    q = qfx.quantize(from_pt2(path, X), X)
    assert torch.equal(q(X), qfx.quantize(m, X)(X))
    assert sum(p.numel() for name, p in q.named_parameters() if "frac_bits" not in name) == sum(p.numel() for p in m.parameters())


ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "tanh": (0,), "relu": (0,)}
"""ONNX's gates among torch's: i, o, f, c of i, f, c, o; z, r, h of r, z, h."""


def onnx_file(rnn: Any, form: str, path: Path) -> None:
    """A file with the operator of ONNX for the first layer of ``rnn``; its result is Y_h of every direction, one after the other."""

    def weights(name: str) -> Tensor:
        parts = []
        for suffix in ("", "_reverse")[: 1 + rnn.bidirectional]:
            gates = getattr(rnn, f"{name}_l0{suffix}").detach().chunk(len(ORDER[form]))
            parts.append(torch.cat([gates[place] for place in ORDER[form]]))
        return torch.stack(parts)

    held = {"w": weights("weight_ih"), "r": weights("weight_hh")}
    if rnn.bias:
        held["b"] = torch.cat([weights("bias_ih"), weights("bias_hh")], 1)
    ways = 1 + rnn.bidirectional
    attributes: dict[str, Any] = {"hidden_size": 4, "direction": "bidirectional" if rnn.bidirectional else "forward"}
    attributes |= {"linear_before_reset": 1} if form == "gru" else {"activations": ["Relu"] * ways} if form == "relu" else {}
    kind = {"lstm": "LSTM", "gru": "GRU"}.get(form, "RNN")
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(kind, ["t", *held], ["", "h"], name="rnn", **attributes),
        helper.make_node("Transpose", ["h"], ["n"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["n", "shape"], ["y"]),
    ]
    constants = [numpy_helper.from_array(value.numpy(), name) for name, value in held.items()]
    constants.append(numpy_helper.from_array(torch.tensor([0, -1]).numpy(), "shape"))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 6, 5])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4 * ways])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def ends(m: Any, x: Tensor) -> Tensor:
    """h at the end of each direction."""
    states = m.rnn(x)[0]
    parts = states.chunk(1 + m.rnn.bidirectional, 2)
    return torch.cat([part[:, place] for part, place in zip(parts, (-1, 0), strict=False)], 1) if len(parts) > 1 else states[:, -1]


@pytest.mark.parametrize("form", FORMS)
def test_an_onnx_file(form: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    old = FORMS[form]
    more = {"nonlinearity": form} if isinstance(old, nn.RNN) else {}
    rnn = type(old)(5, 4, batch_first=True, bias=old.bias, bidirectional=old.bidirectional, **more)
    onnx_file(rnn, form, tmp_path / "m.onnx")
    m = Calls(ends, rnn=rnn).eval()
    q = qfx.quantize(from_onnx(tmp_path / "m.onnx", X), X)
    assert torch.equal(q(X), qfx.quantize(m, X)(X))
    assert [name for name, _ in qfx.quantizers(q)] == [name for name, _ in qfx.quantizers(qfx.quantize(m, X))]
