"""torch.compile and torch.func take a quantized model as one operator, with the same bits; what records models is refused, with what to use."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import qfx
from qfx import DataError, QfxError, Recipe, Spec, UnsupportedError
from qfx.nn.compiled import operators

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda q: q,
    "inside a model": lambda q: nn.Sequential(nn.Identity(), q, nn.LogSoftmax(1)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("style", ["keep", "fold"])
@pytest.mark.parametrize("name", WRAPPINGS)
def test_training_compiled_is_training(backend: str, style: str, name: str) -> None:
    model = WRAPPINGS[name](qfx.quantize(network(), X, Recipe.uniform(4, batch_norm=style)).train())
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other)]
    for step in range(3):
        outputs = [m(X + step) for m in (model, compiled)]
        if name == "itself":  # what the user put around it is compiled, and may round otherwise
            assert torch.equal(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(output, Y).backward()
            optimizer.step()
    if name == "itself":
        assert all(torch.equal(model.state_dict()[key], value) for key, value in other.state_dict().items())
        with torch.no_grad():
            assert torch.equal(model.eval()(X), compiled.eval()(X))


class Several(nn.Module):
    """Inputs and results in a dict, a BatchNorm that is called twice, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dropout, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Linear(144, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.norm(self.norm(self.conv(x))))
        return {"map": x, "head": self.head(self.dropout(torch.flatten(x, 1)))}


RECIPES = {
    "word lengths learned": Recipe(weight=Spec(6, granularity="channel", learn_width=True), activation=Spec(8, o=qfx.OMode.WRAP, learn_width=True)),
    "long constants": Recipe.uniform(8),  # biases, scales and shifts of 16 bits, whose binary points make room
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
def test_all_that_a_forward_moves_moves(recipe: str) -> None:
    torch.manual_seed(0)
    model = qfx.quantize(Several(), X, RECIPES[recipe]).train()
    other = copy.deepcopy(model)

    def step(m: Callable[[Tensor], dict[str, Tensor]], optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
        optimizer.zero_grad()
        result = m(x)
        loss = F.cross_entropy(result["head"], Y) + result["map"].square().mean()
        loss.backward()
        optimizer.step()
        return loss

    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3, momentum=0.9) for m in (model, other)]
    for number in range(4):
        losses = []
        for m, optimizer in zip((model, compiled), optimizers, strict=True):
            torch.manual_seed(number)
            losses.append(step(m, optimizer, X * (number + 1)))
        assert torch.equal(*losses)
        entries = other.state_dict()
        assert not [name for name, value in model.state_dict().items() if not torch.equal(value, entries[name])]


@pytest.mark.filterwarnings("ignore")
def test_a_whole_step_is_one_graph() -> None:
    model = qfx.quantize(network(), X, Recipe.uniform(4)).train()
    other = copy.deepcopy(model)

    def loss(m: nn.Module, x: Tensor) -> Tensor:
        return F.cross_entropy(m(x), Y)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for x in (X, X + 1):
        loss(model, x).backward()
        compiled(other, x).backward()
    assert all(
        torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), other.parameters(), strict=True) if p.grad is not None and q.grad is not None
    )
    entries = other.state_dict()
    assert all(torch.equal(value, entries[name]) for name, value in model.state_dict().items())
    counted = [p.grad is None for p in model.parameters()]
    assert counted == [p.grad is None for p in other.parameters()]


@pytest.mark.filterwarnings("ignore")
def test_moved_binary_points_and_other_batches_compile_nothing_anew() -> None:
    model = qfx.quantize(network(), X, Recipe.uniform(4)).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    torch._dynamo.utils.counters.clear()
    for batch in (16, 12, 7, 5):
        compiled(X[:batch].clone()).sum().backward()
        with torch.no_grad():
            for _, cast in qfx.quantizers(model):
                cast.frac_bits += 0.4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore")
def test_compiled_with_activation_checkpointing() -> None:
    model = qfx.quantize(network(), X, Recipe.uniform(4)).train()
    other = copy.deepcopy(model)
    compiled = torch.compile(lambda x: checkpoint(other, x, use_reentrant=False), backend="aot_eager", fullgraph=True)
    for x in (X, X + 1):
        model(x).square().sum().backward()
        compiled(x).square().sum().backward()
    entries = other.state_dict()
    assert all(torch.equal(value, entries[name]) for name, value in model.state_dict().items())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)


@pytest.mark.filterwarnings("ignore")
def test_a_forward_that_nobody_differentiates_is_forgotten() -> None:
    model = qfx.quantize(network(), X).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gc.collect()
    before = len(operators._waiting)
    result = compiled(X)
    assert len(operators._waiting) == before + 1
    del result
    gc.collect()
    assert len(operators._waiting) == before
    loss = compiled(X).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(QfxError, match="is forgotten"):
        loss.backward()


@pytest.mark.filterwarnings("ignore")
def test_bad_data_is_refused_by_what_is_compiled() -> None:
    compiled = torch.compile(qfx.quantize(network(), X).eval(), backend="eager")  # with fullgraph=True torch reports an error of its own on top
    compiled(X)
    with pytest.raises(DataError, match="NaN"):
        compiled(X * torch.nan)


@pytest.mark.parametrize("training", [False, True])
def test_torch_func_differentiates(training: bool) -> None:
    model = qfx.quantize(network(), X, Recipe.uniform(4)).train(training)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    F.cross_entropy(model(X), Y).backward()
    other = qfx.quantize(network(), X, Recipe.uniform(4)).train(training)
    before = copy.deepcopy(other.state_dict())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(other, values, (X,)), Y)

    found, value = torch.func.grad_and_value(loss)({name: p.detach() for name, p in other.named_parameters() if name in parameters})
    for name, p in parameters.items():
        assert torch.equal(found[name], torch.zeros_like(p) if p.grad is None else p.grad), name
    assert torch.equal(value, F.cross_entropy(other(X), Y))
    if not training:
        assert all(torch.equal(before[name], kept) for name, kept in other.state_dict().items())


def through_trace(q: nn.Module) -> object:
    return torch.jit.trace(q, X)


def through_script(q: nn.Module) -> object:
    return torch.jit.script(q)


def through_onnx(q: nn.Module) -> object:
    return torch.onnx.export(q, (X,), io.BytesIO(), dynamo=False)


def through_export(q: nn.Module) -> object:
    return torch.export.export(q, (X,), strict=False)


RECORDERS = {
    "torch.jit.trace": through_trace,
    "torch.jit.script": through_script,
    "torch.onnx.export": through_onnx,
    "torch.export": through_export,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECORDERS)
@pytest.mark.parametrize("around", WRAPPINGS)
@pytest.mark.parametrize("training", [False, True])
def test_recording_says_what_to_use(name: str, around: str, training: bool) -> None:
    if name == "torch.export" and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("this version of torch does not tell")
    q = WRAPPINGS[around](qfx.quantize(network(), X)).train(training)
    before = copy.deepcopy(q.state_dict())
    with pytest.raises(UnsupportedError) as caught:
        RECORDERS[name](q)
    assert caught.value.what.startswith(name)
    assert "qfx.export_onnx" in caught.value.remedy
    assert all(torch.equal(before[key], value) for key, value in q.state_dict().items())
    q(X)


@pytest.mark.filterwarnings("ignore")
def test_a_strict_export_shows_the_remedy() -> None:
    q = qfx.quantize(network(), X).eval()
    with pytest.raises(Exception, match=r"qfx\.export_onnx"):  # torch wraps it in an error of its own
        torch.export.export(q, (X,), strict=True)


@pytest.mark.filterwarnings("ignore")
def test_copies_are_guarded_too() -> None:
    q = qfx.quantize(network(), X).eval()
    stream = io.BytesIO()
    torch.save(q, stream)
    stream.seek(0)
    for model in (copy.deepcopy(q), torch.load(stream, weights_only=False)):
        with pytest.raises(UnsupportedError):
            through_trace(model)
        expected: Tensor = q(X)
        assert torch.equal(model(X), expected)
