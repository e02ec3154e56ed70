"""Recurrent networks: what they compute, how they are trained, and what they refuse."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx import operators as ops
from qfx.export.onnx_file import to_model
from qfx.ir.from_onnx import from_model
from qfx.ir.graph import Graph
from qfx.ir.interpret import run_raw
from qfx.nn.layers.sequences.loop import QScan
from qfx.nn.qtensor import QTensor
from qfx.testing import adversarial_inputs, assert_bit_exact
from qfx.verify import raw_of

STEPS, FEATURES, HIDDEN = 7, 5, 6
KINDS: dict[str, Callable[..., nn.Module]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
WIDE = qfx.Recipe.uniform(16, input=qfx.Spec(16), bias=qfx.Spec(24), output=qfx.Spec(24))


def data(count: int = 24, steps: int = STEPS) -> Tensor:
    return torch.randn(count, steps, FEATURES, generator=torch.Generator().manual_seed(0))


def model(kind: str, forward: Callable[[Any, Tensor], Any] = lambda m, x: m.fc(m.rnn(x)[0][:, -1]), **options: Any) -> nn.Module:
    torch.manual_seed(1)
    size = (options.get("proj_size") or HIDDEN) * (2 if options.get("bidirectional") else 1)
    return Calls(forward, rnn=KINDS[kind](FEATURES, HIDDEN, **{"batch_first": True, **options}), fc=nn.Linear(size, 3)).eval()


def near(q: nn.Module, m: nn.Module, x: Tensor, share: float) -> bool:
    expected = m(x)
    return float((q(x) - expected).detach().square().mean()) <= share * float(expected.detach().var())


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


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "both ways": {"bidirectional": True},
    "three layers": {"num_layers": 3, "dropout": 0.2},
    "two layers both ways": {"num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_wide_words_give_what_torch_gives(kind: str, form: str) -> None:
    m, x = model(kind, **FORMS[form]), data()
    assert near(qfx.quantize(m, x, WIDE), m, x, 1e-5)
    assert near(qfx.quantize(m, x), m, x, 1e-2)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection() -> None:
    m, x = model("lstm", proj_size=4, bidirectional=True), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    assert q.rnn.l0.unprojected.name == "rnn.l0.unprojected"


OUTPUTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "the whole sequence": lambda m, x: m.rnn(x)[0],
    "a head at every step": lambda m, x: m.fc(m.rnn(x)[0]),
    "the last step": lambda m, x: m.rnn(x)[0][:, -1, :],
    "its mean": lambda m, x: m.fc(m.rnn(x)[0].mean(1)),
    "its maximum": lambda m, x: m.fc(m.rnn(x)[0].amax(1)),
    "behind a convolution": lambda m, x: m.fc(m.rnn(F.relu(x - 0.25))[0][:, 2]),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_of_the_sequence(kind: str, output: str) -> None:
    m, x = model(kind, OUTPUTS[output]), data()
    assert near(qfx.quantize(m, x, WIDE), m, x, 1e-5)


def h_n(m: Any, x: Tensor) -> Tensor:
    found = m.rnn(x)[1]
    return found[0] if isinstance(found, tuple) else found


ENDS: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, Any]]] = {
    "of the last layer": (lambda m, x: m.fc(h_n(m, x)[-1]), {"num_layers": 2}),
    "of the only layer": (lambda m, x: m.fc(h_n(m, x).squeeze(0)), {}),
    "of both directions": (lambda m, x: m.fc(torch.cat([m.rnn(x)[1][0][-2], m.rnn(x)[1][0][-1]], 1)), {"bidirectional": True}),
    "of all": (lambda m, x: m.fc(h_n(m, x).permute(1, 0, 2).flatten(1)), {"bidirectional": True}),
    "alone": (lambda m, x: h_n(m, x)[0], {"num_layers": 2}),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_what_is_made_of_the_last_state(kind: str, end: str) -> None:
    forward, options = ENDS[end]
    if kind == "gru" and end == "of both directions":
        forward = ENDS["of all"][0]
    m, x = model(kind, forward, **options), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    exact_everywhere(q)


CELLS: dict[str, Callable[[Any, Tensor], Any]] = {
    "the cell": lambda m, x: m.rnn(x)[1][1][-1],
    "both": lambda m, x: (lambda found: torch.cat([found[1][0][-1], found[1][1][-1]], 1))(m.rnn(x)),
    "the sequence and the cell": lambda m, x: (lambda found: m.fc(found[0].mean(1) + found[1][1].squeeze(0)))(m.rnn(x)),
}


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_cell(cell: str) -> None:
    m, x = model("lstm", CELLS[cell]), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    graph = exact_everywhere(q)
    (scan,) = (node for node in graph.nodes if isinstance(node.op, ops.Scan))
    assert graph.infos[scan.name].shape == (STEPS, 2 * HIDDEN)


STEPS_FIRST: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, Any]]] = {
    "the last step": (lambda m, x: m.fc(m.rnn(x.transpose(0, 1))[0][-1]), {}),
    "there and back": (lambda m, x: m.fc(m.rnn(x.permute(1, 0, 2))[0].permute(1, 0, 2)[:, -1]), {"bidirectional": True, "num_layers": 2}),
    "the last state": (lambda m, x: m.fc(h_n(m, x.transpose(0, 1))[-1]), {}),
    "a head at every step": (lambda m, x: m.fc(m.rnn(x.transpose(0, 1))[0]).transpose(0, 1), {}),
}


@pytest.mark.parametrize("form", STEPS_FIRST)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_steps_before_samples(kind: str, form: str) -> None:
    forward, options = STEPS_FIRST[form]
    m, x = model(kind, forward, batch_first=False, **options), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    exact_everywhere(q)


ZEROS: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": lambda x: torch.zeros(1, x.shape[0], HIDDEN),
    "of a type": lambda x: torch.zeros(1, x.size(0), HIDDEN).to(x.device).type_as(x),
    "new_zeros": lambda x: x.new_zeros(1, x.shape[0], HIDDEN),
    "zeros_like": lambda x: torch.zeros_like(x[:, 0, :1]).expand(-1, HIDDEN).unsqueeze(0),
    "that wants a gradient": lambda x: torch.zeros(1, x.size(0), HIDDEN).requires_grad_().detach(),
}


@pytest.mark.parametrize("zeros", ZEROS)
def test_a_first_state_of_zeros_is_none(zeros: str) -> None:
    x, make = data(), ZEROS[zeros]
    given = model("lstm", lambda m, x: m.fc(m.rnn(x, (make(x), make(x)))[0][:, -1]))
    assert torch.equal(qfx.quantize(given, x)(x), qfx.quantize(model("lstm"), x)(x))


def _pair(m: Any, h: Tensor, c: Tensor) -> Any:
    return (h, c) if isinstance(m.rnn, nn.LSTM) else h


FIRST: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, Any]]] = {
    "computed": (lambda m, x: _pair(m, m.enc(x[:, 0]).unsqueeze(0), x[:, 0, :1].expand(-1, HIDDEN).unsqueeze(0)), {}),
    "an encoder's": (lambda m, x: m.encoder(x)[1], {}),
    "an encoder's of two layers": (lambda m, x: m.encoder(x)[1], {"num_layers": 2}),
    "parameters": (lambda m, x: _pair(m, m.h.expand(-1, len(x), -1), m.c.repeat(1, len(x), 1)), {}),
    "parameters both ways": (lambda m, x: _pair(m, m.hs.expand(-1, len(x), -1), m.hs.flip(0).expand(-1, len(x), -1)), {"bidirectional": True}),
    "ones": (lambda m, x: _pair(m, torch.ones(1, len(x), HIDDEN), x.new_zeros(1, len(x), HIDDEN)), {}),
}


def begun(kind: str, form: str) -> nn.Module:
    states, options = FIRST[form]
    m = model(kind, lambda m, x: m.fc(m.rnn(x, states(m, x))[0][:, -1]), **options)
    m.enc, m.encoder = nn.Linear(FEATURES, HIDDEN), KINDS[kind](FEATURES, HIDDEN, batch_first=True, **options)
    m.h, m.c, m.hs = (nn.Parameter(torch.randn(count, 1, HIDDEN)) for count in (1, 1, 2))
    return m.eval()


@pytest.mark.parametrize("form", FIRST)
@pytest.mark.parametrize("kind", KINDS)
def test_first_states(kind: str, form: str) -> None:
    m, x = begun(kind, form), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-4)
    exact_everywhere(q)


@pytest.mark.parametrize("form", ["parameters", "parameters both ways", "computed"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_first_states_are_trained(kind: str, form: str) -> None:
    m, x = begun(kind, form), data()
    q = qfx.quantize(copy.deepcopy(m), x, WIDE)
    for network in (m, q):
        network(x).square().sum().backward()
    own, found = dict(m.named_parameters()), dict(q.named_parameters())
    names = [name for name in ("h", "c", "hs") if own[name].grad is not None]
    assert len(names) == {"computed": 0, "parameters both ways": 1, "parameters": 1 + (kind == "lstm")}[form]
    for mine, theirs in [(own[name], found[name]) for name in names]:
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=2e-2, atol=2e-3)
    for mine, theirs in [(m.enc.weight, found["enc.weight"])] if form == "computed" else []:
        torch.testing.assert_close(theirs.grad, mine.grad, rtol=2e-2, atol=2e-3)


def test_a_kept_state_of_zeros_may_become_another() -> None:
    m, x = begun("gru", "parameters"), data()
    with torch.no_grad():
        m.h.zero_()
    q = qfx.quantize(m, x, WIDE)
    with torch.no_grad():
        m.h.fill_(0.5)
    q.load_state_dict(m.state_dict(), strict=False)  # what nothing reads is not there
    assert near(q, m, x, 1e-4)
    exact_everywhere(q)


def test_a_first_state_is_cast_to_the_type_of_the_state() -> None:
    m, x = begun("gru", "parameters"), data()
    q = qfx.quantize(m, x, qfx.Recipe(overrides=(qfx.Override("rnn.l0.state", {"width": 4}),)))
    graph = exact_everywhere(q)
    (scan,) = (node.op for node in graph.nodes if isinstance(node.op, ops.Scan))
    assert {scan.body.infos[name].type.width for name in ("h", "begun_h", "state")} == {4}


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "another for each sample": (
        lambda m, x: m.rnn(x, torch.cat([torch.ones(1, 1, HIDDEN), torch.zeros(1, len(x) - 1, HIDDEN)], 1))[0],
        "another for each sample",
    ),
    "no batch": (lambda m, x: m.rnn(x[:, 0])[0], "keep the batch as the first axis"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused(form: str) -> None:
    forward, message = REFUSED[form]
    with pytest.raises(UnsupportedError, match=f"(?s){message}"):
        qfx.quantize(model("gru", forward), data())


def test_packed_sequences_are_refused_once() -> None:
    def packs(m: Any, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((x.shape[0],), STEPS), batch_first=True)
        found: Tensor = nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0]
        return found

    with pytest.raises(UnsupportedError, match="whole sequences of one length") as caught:
        qfx.quantize(model("lstm", packs), data())
    assert [blocker.where for blocker in caught.value.blockers] == ["_pack_padded_sequence", "_pad_packed_sequence"]


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lambda *sizes: nn.RNNCell(*sizes, nonlinearity="relu", bias=False)])
def test_cells_in_a_loop_of_python(cell: Callable[..., nn.Module]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = m.cell(x[:, step], state)
        found: Tensor = m.fc(state[0] if isinstance(state, tuple) else state)
        return found

    m, x = Calls(forward, cell=cell(FEATURES, HIDDEN), fc=nn.Linear(HIDDEN, 3)).eval(), data(steps=4)
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    q.load_state_dict(m.state_dict())
    weights = {name: p for name, p in q.named_parameters() if name.endswith(".weight")}
    assert len({id(p) for p in weights.values()}) == 3  # of the cell two, for all steps


# Names


def test_casts_and_weights_have_names_that_recipes_match() -> None:
    x, m = data(), model("lstm", num_layers=2, bidirectional=True)
    q = qfx.quantize(m, x)
    names = dict(qfx.quantizers(q))
    for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
        inner = ("gates", "sigmoid", "tanh", "cell", "tanh_cell", "state", "hidden.weight", "hidden.bias")
        assert {f"rnn.{place}.{name}" for name in inner} | {f"rnn.{place}_input.weight", f"rnn.{place}_input.bias"} <= set(names)
    changes = (("rnn.l0.cell", 11), ("*.state", 7), ("rnn.weight_hh_l0", 5), ("rnn.l1.*", 9))
    recipe = qfx.Recipe(overrides=tuple(qfx.Override(pattern, {"width": width}) for pattern, width in changes[:2]))
    found = dict(qfx.quantizers(qfx.quantize(m, x, recipe)))
    assert found["rnn.l0.cell"].word_length == 11
    assert [found[f"rnn.{place}.state"].word_length for place in ("l0", "l1_reverse")] == [7, 7]
    assert (found["rnn.l0.gates"].word_length, found["rnn.l0.sigmoid"].word_length) == (8, 16)  # of the roles activation and internal


def test_words_without_a_sign_where_nothing_is_negative() -> None:
    x = data()
    assert dict(qfx.quantizers(qfx.quantize(model("lstm"), x)))["rnn.l0.sigmoid"].mode.signed is False
    assert dict(qfx.quantizers(qfx.quantize(model("relu"), x)))["rnn.l0.state"].mode.signed is False
    assert dict(qfx.quantizers(qfx.quantize(model("gru"), x)))["rnn.l0.gates"].mode.signed is True


def test_a_float_checkpoint_loads() -> None:
    x, m = data(), model("lstm", num_layers=2, bidirectional=True)
    q, other = qfx.quantize(m, x), model("lstm", num_layers=2, bidirectional=True)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    q.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(q.rnn.l1_reverse.hidden.weight, other.rnn.weight_hh_l1_reverse)
    assert torch.equal(q.rnn.l0_input.bias, other.rnn.bias_ih_l0)


def test_check_tells_the_form() -> None:
    rows = qfx.check(model("lstm", bidirectional=True), data()).rows
    assert [(row.path, row.operation, row.form) for row in rows if "QScan" in row.form] == [
        (f"rnn.{place}", "LSTM", ("QPermute", "QLinear", "QScan")) for place in ("l0", "l0_reverse")
    ]
    assert not any(row.blocker for row in rows)


def test_a_network_that_runs_twice_shares_its_weights() -> None:
    m, x = model("lstm", lambda m, x: m.fc(m.rnn(x)[0][:, -1] - m.rnn(x.flip(2))[0][:, -1])), data()
    q = qfx.quantize(m, x, WIDE)
    assert near(q, m, x, 1e-5)
    assert q.rnn.l0.hidden.weight is q.rnn.l0_1.hidden.weight
    exact_everywhere(q)
    q.load_state_dict(m.state_dict(), strict=True)
    narrow = qfx.quantize(m, x, qfx.Recipe(overrides=(qfx.Override("rnn.*.state", {"width": 5}),)))
    assert [narrow.get_submodule(f"rnn.{place}.state").word_length for place in ("l0", "l0_1")] == [5, 5]


# Training


def loop_of(q: nn.Module) -> QScan:
    return next(layer for layer in q.modules() if isinstance(layer, QScan))


def unrolled_lstm(loop: Any, x: QTensor) -> Tensor:
    """The same casts and tables, written out."""
    weight, bias = loop.hidden.weight_cast(loop.hidden.weight).tensor().double(), loop.hidden.bias_cast(loop.hidden.bias).tensor().double()
    values, table, results = x.tensor().double(), lambda layer, a, t: layer.output_cast(layer.values(QTensor(t, a))).tensor().double(), []
    h = c = torch.zeros(len(values), HIDDEN, dtype=torch.float64)
    cells = loop.cell.interval()
    for step in range(values.shape[2]):
        gates = loop.gates(values[:, :, step] + h @ weight.T + bias)
        a_i, a_f, a_g, a_o = gates.tensor().double().chunk(4, 1)
        i, f, o = (table(loop.sigmoid, gates.interval, a) for a in (a_i, a_f, a_o))
        c = loop.cell(f * c + i * table(loop.tanh, gates.interval, a_g)).tensor().double()
        h = loop.state(o * table(loop.tanh_cell, cells, c)).tensor().double()
        results.append(h)
    return torch.stack(results, 1)


def test_values_and_gradients_are_those_of_the_steps_written_out() -> None:
    x = data()
    q = qfx.quantize(model("lstm"), x)
    loop, product = q.rnn.l0, q.rnn.l0_input(q.rnn.l0_turned(q.input(x)))
    source = QTensor(product.tensor().detach().clone().requires_grad_(), product.interval)
    twin = QTensor(source.value.detach().clone().requires_grad_(), product.interval)
    weights = torch.randn(len(x), STEPS, HIDDEN, generator=torch.Generator().manual_seed(3))
    found = loop(source)
    parameters = [*loop.parameters()]
    ours = torch.autograd.grad((found.tensor() * weights).sum(), [source.value, *parameters], retain_graph=True)
    expected = unrolled_lstm(loop, twin)
    theirs = torch.autograd.grad((expected * weights.double()).sum(), [twin.value, *parameters])
    assert torch.equal(found.tensor().double(), expected)
    for (name, _), a, b in zip([("input", None), *loop.named_parameters()], ours, theirs, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-3 * float(b.abs().max())), name  # sums of float32 in another order
        assert bool(a.any()), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_points_where_that_of_float_does(kind: str) -> None:
    x, m = data(64), model(kind, num_layers=2)
    q = qfx.quantize(m, x, WIDE)
    target = torch.randn(64, 3, generator=torch.Generator().manual_seed(4))
    pairs = (("rnn.l0_input.weight", "rnn.weight_ih_l0"), ("rnn.l0.hidden.weight", "rnn.weight_hh_l0"), ("rnn.l1.hidden.bias", "rnn.bias_hh_l1"))
    F.mse_loss(q(x), target).backward()
    F.mse_loss(m(x), target).backward()
    for ours, theirs in pairs:
        a, b = q.get_parameter(ours).grad, m.get_parameter(theirs).grad
        assert F.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.99, ours


def test_training_and_evaluation_compute_the_same() -> None:
    x = data()
    q = qfx.quantize(model("gru", num_layers=2), x)
    with torch.no_grad():
        assert torch.equal(q.train()(x), q.eval()(x))


def test_dropout_between_the_layers_works_in_training_alone() -> None:
    x = data()
    q = qfx.quantize(model("lstm", num_layers=2, dropout=0.5), x)
    assert torch.equal(q.eval()(x), q(x))
    assert not torch.equal(q.train()(x), q.eval()(x))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_toy_task_is_learned_at_8_bits(kind: str) -> None:
    """Which sign the first number of a sequence has, and which the last."""
    torch.manual_seed(0)
    x = torch.randn(256, 6, FEATURES)
    labels = (x[:, 0, 0] > 0).long() + (x[:, -1, 1] > 0).long()
    q = qfx.quantize(model(kind).train(), x)
    optimizer = torch.optim.Adam(q.parameters(), 1e-2)
    for _ in range(220):
        optimizer.zero_grad()
        F.cross_entropy(q(x), labels).backward()
        optimizer.step()
    assert float((q(x).argmax(1) == labels).float().mean()) > 0.9


def test_copies_and_checkpoints() -> None:
    x = data()
    q = qfx.quantize(model("lstm"), x)
    expected = q(x)
    again = copy.deepcopy(q)
    fresh = qfx.quantize(model("lstm"), data(8) * 3)
    fresh.load_state_dict(q.state_dict())
    buffer = io.BytesIO()
    torch.save(q, buffer)
    buffer.seek(0)
    for other in (again, fresh, torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_one_time_step_and_few_bits(kind: str, bits: int) -> None:
    x = data(steps=1)
    q = qfx.quantize(model(kind), x, qfx.Recipe.uniform(bits, internal=qfx.Spec(bits)))
    assert q(x).shape == (24, 3)


# The executors


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_interpreter_and_onnx_runtime_give_the_same_raws(kind: str, form: str) -> None:
    q = qfx.quantize(model(kind, **FORMS[form]), data())
    graph = exact_everywhere(q.eval())
    scans = [node for node in graph.nodes if isinstance(node.op, ops.Scan)]
    assert len(scans) == len([layer for layer in q.modules() if isinstance(layer, QScan)])


def test_the_body_holds_the_casts_under_the_names_of_the_cell() -> None:
    q = qfx.quantize(model("lstm"), data())
    scan = next(node.op for node in qfx.to_graph(q).nodes if isinstance(node.op, ops.Scan))
    assert scan.states == (("h", "state"), ("c", "cell"))
    assert scan.body.node("gates").op.cast == q.rnn.l0.gates.array_type()
    assert scan.result == "state"


@pytest.mark.parametrize("kind", KINDS)
def test_trained_and_random_models_too(kind: str) -> None:
    """Binary points where training might bring them, words of other lengths, binary points per channel."""
    generator = torch.Generator().manual_seed(5)
    recipes = (
        qfx.Recipe(weight=qfx.Spec(8, granularity="channel"), bias=qfx.Spec(12, granularity="channel"), input=qfx.Spec(8, granularity="channel")),
        qfx.Recipe.uniform(4, internal=qfx.Spec(6)),
        qfx.Recipe.uniform(8, internal=qfx.Spec(16), activation=qfx.Spec(8, q="AP_TRN", o="AP_WRAP")),
    )
    for recipe in recipes:
        q = qfx.quantize(model(kind), data(), recipe)
        with torch.no_grad():
            for name, parameter in q.named_parameters():
                if name.endswith("frac_bits"):
                    parameter.add_(torch.randint(-1, 2, parameter.shape, generator=generator))
                else:
                    parameter.mul_(3.0)
        exact_everywhere(q.eval())
