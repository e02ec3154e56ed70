"""Tracing: Python may decide by sizes, but by neither data nor the length of the batch."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx.ir.interpret import run_raw
from qfx.verify import raw_of


class SamePadding(nn.Module):
    """Pads as TensorFlow does: how much follows from the input's size."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(reversed(x.size()[2:]), reversed(self.conv.kernel_size), reversed(self.conv.stride), strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return self.conv(F.pad(x, pads) if any(pads) else x)


class Sized(nn.Module):
    """Uses sizes in every way that Python knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = SamePadding(nn.Conv2d(2, 4, 3, 2)), SamePadding(nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *_ = x.shape
        if x.dim() != 4 or x.ndim != 4 or channels != 2:
            raise ValueError(x.shape)
        x = F.relu(self.b(F.relu(self.a(x))))
        if x.shape[-1] > 2:
            x = F.max_pool2d(x, 2)
        return self.head(F.avg_pool2d(x, x.size(2)).view(batch, -1))


def test_sizes_are_known() -> None:
    torch.manual_seed(0)
    model, x = Sized().eval(), torch.randn(5, 2, 9, 8)
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(16, input=qfx.Spec(16)))
    graph = qfx.to_graph(qmodel)
    for batch in (x, x[:1], torch.randn(7, 2, 9, 8)):
        with torch.no_grad():
            raw = raw_of(qmodel(batch).numpy(), graph, "torch")
            error = (qmodel(batch) - model(batch)).abs().max()
        assert (raw == run_raw(graph, batch.numpy())).all()
        assert error < 1e-2  # the float network; 16 bits keep it within this


class Decides(nn.Module):
    def __init__(self, decision: str) -> None:
        super().__init__()
        self.decision = decision

    def forward(self, x: Tensor) -> Tensor:
        by_data, by_batch = x.sum() > 0 if self.decision == "data" else False, x.shape[0] > 2 if self.decision == "batch" else False
        return F.relu(x) if by_data or by_batch else x


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ("data", r"^1\.0: cannot be traced: it decides by data \(test_trace\.py, line \d+: return .*\n  remedy: let no Python decision"),
        ("batch", r"^1\.0\.relu: does something else in another run, with another number of samples\n  remedy: take the whole batch at once"),
    ],
)
def test_other_decisions_are_refused_where_they_are_made(decision: str, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Decides(decision)))
    with pytest.raises(qfx.UnsupportedError, match=message) as caught:
        qfx.quantize(model, torch.randn(6, 4))
    assert len(caught.value.blockers) == 1


def test_tracing_leaves_torch_as_it_was() -> None:
    before = nn.Module.__call__, nn.Module.__getattr__
    qfx.quantize(Sized().eval(), torch.randn(2, 2, 9, 8))
    with pytest.raises(qfx.UnsupportedError):
        qfx.quantize(Decides("data"), torch.randn(6, 4))
    assert (nn.Module.__call__, nn.Module.__getattr__) == before


def test_a_model_whose_result_is_not_finite_is_refused_for_its_operation() -> None:
    with pytest.raises(UnsupportedError, match="of a base that is not positive, has no fixed-point form"):
        qfx.quantize(Calls(lambda m, x: (-0.5) ** x), torch.tensor([[-1.0, 0.5, 2.0]]))


X = torch.randn(6, 8)


def assigns(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    x[:, 0] = 0.0
    return x


def fills(m: nn.Module, x: Tensor) -> Tensor:
    filled = torch.zeros(x.shape[0], 16)
    filled[:, :8] = m.a(x)
    return filled


def changes_what_a_view_shows(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    left = x[:, :4]
    x.add_(1.0)
    return torch.cat([left, x], 1)


def changes_a_view(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    x.view(-1, 2, 4).relu_()
    return x


def changes_the_input(m: nn.Module, x: Tensor) -> Tensor:
    kept = x.view(-1, 8)
    x += 1.0
    return m.a(kept) + x


def counts(m: nn.Module, x: Tensor) -> Tensor:
    m.seen.add_(1.0)
    return m.a(x) * m.seen


def hidden(m: nn.Module, x: Tensor) -> Tensor:
    return torch.jit.script(_hidden)(m.a(x))


def _hidden(x: Tensor) -> Tensor:
    return x * torch.tanh(x)


def packs(m: nn.Module, x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x.unflatten(1, (4, 2)), torch.full((x.shape[0],), 4), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(m.lstm(packed)[0], batch_first=True)[0]


def unpools(m: nn.Module, x: Tensor) -> Tensor:
    return m.unpool(*m.pool(x.unsqueeze(1)))


REFUSED: dict[str, tuple[Callable[[nn.Module, Tensor], object], list[str], str]] = {
    "if": (lambda m, x: x if m.a(x).abs().max() > 0 else -x, ["Calls"], r"decides by data \(test_trace\.py, line .*torch\.where"),
    "while": (lambda m, x: next(x for _ in iter(lambda: bool((x > 1e9).any()), False)), ["Calls"], "decides by data"),
    "item": (lambda m, x: x * x.mean().item(), ["Calls"], r"makes a Python number of data .*remedy: .*keepdim=True"),
    "float": (lambda m, x: x * float(x.mean()), ["Calls"], r"makes a Python number of data .*remedy: .*keepdim=True"),
    "index": (lambda m, x: x[:, int(x.argmax()) % 8 :], ["Calls"], "makes a Python number of data"),
    "tolist": (lambda m, x: torch.tensor(m.a(x).tolist()), ["Calls"], "makes Python numbers of data"),
    "numpy": (lambda m, x: torch.from_numpy(m.a(x).numpy() * 2), ["Calls"], "hands data to numpy .*remedy: compute with torch's functions"),
    "a function of numpy": (lambda m, x: torch.as_tensor(np.tanh(m.a(x).detach())), ["Calls"], "hands data to numpy"),
    "size": (lambda m, x: F.relu(x) if x.shape[0] > 2 else x, ["relu"], "with another number of samples"),
    "one sample": (lambda m, x: F.relu(x) if len(x) == 1 else x, ["relu"], "with another number of samples"),
    "sample by sample": (lambda m, x: torch.stack([m.a(row) for row in x]), ["a"], "remedy: take the whole batch at once"),
    "the size as a factor": (lambda m, x: m.a(x) * x.shape[0], ["mul"], "follows the batch size"),
    "rand_like": (lambda m, x: m.a(x) + torch.rand_like(x), ["rand_like"], "let nothing be random"),
    "rand": (lambda m, x: m.a(x) + torch.rand(8), ["rand"], "keep randomness and counters out"),
    "bernoulli": (lambda m, x: m.a(x) * torch.bernoulli(torch.sigmoid(x)), ["bernoulli"], "let nothing be random"),
    "dropout": (lambda m, x: F.dropout(m.a(x)), ["dropout"], r"pass training=self\.training"),
    "random": (lambda m, x: m.a(x) * random.random(), ["mul"], "something else in another run.*nothing on chance"),
    "a counter": (counts, ["add_"], "changes 'seen', which the model keeps from run to run"),
    "assignment": (assigns, ["setitem"], r"assigns into a tensor.*torch\.cat, torch\.where or F\.pad"),
    "filling": (fills, ["setitem"], r"assigns into a tensor.*torch\.cat, torch\.where or F\.pad"),
    "in place below a view": (changes_what_a_view_shows, ["add_"], "in place, which is read again later.*inplace=False"),
    "in place on a view": (changes_a_view, ["relu_"], "changes the result of 'a' in place, which is read again later"),
    "in place on the input": (changes_the_input, ["add_"], "in place, which is read again later"),
    "a TorchScript function": (hidden, ["Calls"], "operations that torch does not show"),
    "packed sequences": (packs, ["_pack_padded_sequence", "_pad_packed_sequence"], "whole sequences of one length"),
    "unpooling": (unpools, ["unpool", "unpool"], "ConvTranspose2d"),
    "no batch": (lambda m, x: m.a(x).sum(), ["sum"], r"gives shape \(\) for a batch of 2.*keep the batch"),
    "a mean over the batch": (lambda m, x: m.a(x).mean(0), ["mean"], r"gives shape \(8,\) for a batch of 2 and \(8,\) for a batch of 3"),
    "the batch behind": (lambda m, x: m.a(x).transpose(0, 1), ["transpose"], "keep the batch as the first axis"),
    "samples in pieces": (lambda m, x: m.a(x).view(4, -1).view(-1, 8), ["view"], r"gives shape \(4, 4\) for a batch of 2"),
    "samples chosen by data": (lambda m, x: m.a(x)[x > 0], ["getitem"], "keep the batch as the first axis"),
    "text": (lambda m, x: (m.a(x), "done"), ["output"], "something else than tensors computed from its input: 'done'"),
    "nothing": (lambda m, x: None, ["Calls"], "has 0 inputs"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", REFUSED)
def test_what_has_no_fixed_meaning_is_one_clear_error(form: str) -> None:
    before = nn.Module.__call__
    forward, where, message = REFUSED[form]
    layers = {"lstm": nn.LSTM(2, 4, batch_first=True), "pool": nn.MaxPool1d(2, return_indices=True), "unpool": nn.MaxUnpool1d(2)}
    model = Calls(forward, a=nn.Linear(8, 8), **layers)
    model.register_buffer("seen", torch.zeros(1))
    with pytest.raises(UnsupportedError, match=f"(?s){message}") as caught:
        qfx.quantize(model.eval(), X)
    assert [blocker.where for blocker in caught.value.blockers] == where
    assert nn.Module.__call__ is before


def loops(m: nn.Module, x: Tensor) -> Tensor:
    for place, layer in enumerate((m.a, m.b)):
        x = layer(x) if place % 2 == 0 else F.relu(layer(x))
    while x.shape[1] > 2:
        x = x[:, : x.shape[1] // 2]
    return x


def says(m: nn.Module, x: Tensor) -> Tensor:
    assert x.dim() == 2, f"{x.shape} of {x.dtype} on {x.device}"
    torch._assert(x.shape[1] == 8, "eight features")
    if not isinstance(x, Tensor) or not torch.is_tensor(x) or x.is_complex() or not x.is_floating_point():
        raise TypeError(f"{type(x)}")
    return m.a(x)


def gathers(m: nn.Module, x: Tensor) -> Tensor:
    kept = [m.a(x)]
    kept.append(m.b(kept[-1]))
    named = {f"of {place}": value for place, value in enumerate(kept)}
    return sum(kept) * (1 / len(named)) + named["of 0"]


def rearranged(x: Tensor, heads: int) -> Tensor:
    """b (h d) -> b d h"""
    batch, features = x.shape
    return x.reshape(batch, heads, features // heads).permute(0, 2, 1)


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    x += 1.0
    x.relu_()
    return F.relu(m.b(x), inplace=True).mul_(0.5)


def one_name_for_two(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y
    y += 1.0
    return z + y  # z is y


def tries(m: nn.Module, x: Tensor) -> Tensor:
    try:
        return m.missing(x)
    except AttributeError:
        return m.a(x)


TAKEN: dict[str, Callable[..., Tensor]] = {
    "loops": loops,
    "checks and f-strings": says,
    "lists and dicts": gathers,
    "sizes": lambda m, x: m.a(x).view(x.size(0), -1, x.shape[-1] // 2).flatten(1),
    "a tuple of sizes": lambda m, x: m.a(x).reshape(*x.shape[:-1], 2, 4).reshape(x.shape),
    "float": lambda m, x: m.a(x.float()),
    "to": lambda m, x: m.a(x.to(m.a.weight.dtype).to(m.a.weight.device)),
    "type_as": lambda m, x: m.a(x.type_as(m.a.weight)),
    "detach": lambda m, x: m.a(x).detach() + m.a(x).data,
    "contiguous and clone": lambda m, x: m.a(x.contiguous().clone()),
    "like einops": lambda m, x: rearranged(m.a(x), 2).flatten(1),
    "in place": in_place,
    "one name for two": one_name_for_two,
    "exceptions": tries,
    "no gradient": lambda m, x: torch.no_grad()(m.a)(x),
    "numbers of the model": lambda m, x: m.a(x) * float(m.scale) if bool(m.scale > 0) else x,
    "numpy on constants": lambda m, x: m.a(x) * torch.from_numpy(np.full(8, 0.5, np.float32)),
    "length": lambda m, x: m.a(x) * (1 / len(list(m.children()))),
    "getattr": lambda m, x: getattr(m, "ab"[0])(x) if hasattr(m, "a") and not m.training else x,
}


@pytest.mark.parametrize("form", TAKEN)
def test_python_that_does_not_depend_on_data_passes(form: str) -> None:
    model = Calls(TAKEN[form], a=nn.Linear(8, 8), b=nn.Linear(8, 8)).eval()
    model.register_buffer("scale", torch.tensor(0.5))
    q = qfx.quantize(model, X, qfx.Recipe.uniform(16, input=qfx.Spec(16)))
    with torch.no_grad():
        expected = model(X.clone())
        assert (q(X) - expected).abs().max() < 2e-3 * expected.abs().max()  # 16 bits keep it within this
    check_exact(q)


def test_optional_arguments_stay_at_their_defaults() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 0.5, deep: bool = False) -> Tensor:
            x = x if mask is None else x * mask
            return F.relu(self.a(x)) if deep else self.a(x) * scale

    check_exact(qfx.quantize(Optional().eval(), X))


def test_calls_of_modules_are_as_before_after_errors() -> None:
    before = nn.Module.__call__

    def fails(m: nn.Module, x: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    with pytest.raises(qfx.DataError, match="no such thing"):
        qfx.quantize(Calls(fails, a=nn.Linear(8, 8)), X)
    with pytest.raises(KeyboardInterrupt):
        qfx.quantize(Calls(interrupted), X)
    assert nn.Module.__call__ is before
    assert torch.backends.mha.get_fastpath_enabled()
    check_exact(qfx.quantize(nn.Sequential(nn.Linear(8, 8)), X))


def interrupted(m: nn.Module, x: Tensor) -> Tensor:
    raise KeyboardInterrupt


def test_two_threads_at_once() -> None:
    """Each records its own model, while a third calls another."""
    torch.manual_seed(0)
    before = nn.Module.__call__
    models = [Calls(loops, a=nn.Linear(8, 8), b=nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))]
    expected = [qfx.quantize(model, X)(X) for model in models]
    other, wanted = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), []
    found: list[list[Tensor]] = [[], []]

    def work(place: int) -> None:
        for _ in range(4):
            found[place].append(qfx.quantize(models[place], X)(X))

    def calls() -> None:
        for _ in range(200):
            wanted.append(other(X).detach())

    threads = [threading.Thread(target=work, args=(0,)), threading.Thread(target=work, args=(1,)), threading.Thread(target=calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(each) for each in found] == [4, 4]
    assert all(torch.equal(result, expected[place]) for place in range(2) for result in found[place])
    assert len(wanted) == 200
    assert all(torch.equal(result, other(X)) for result in wanted)
    assert nn.Module.__call__ is before
