"""A model whose numbers lie on a GPU: a training step in which the host waits once, and CUDA graphs. Without a GPU the CPU stands for one: what the
host was told is marked, and whoever asks for another number is caught."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import qfx
from qfx.fixed import eager, native, step
from qfx.nn.casts import quick, told
from qfx.nn.layers.products import whole
from qfx.nn.model import _questions as model_questions

UNIFORM = qfx.Recipe.uniform(8)


def by_channel(recipe: qfx.Recipe, **more: Any) -> qfx.Recipe:
    each = {role: dataclasses.replace(getattr(recipe, role), granularity="channel", **more) for role in ("weight", "activation")}
    return dataclasses.replace(recipe, **each)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.norm2(self.second(x)))
        return self.last(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.place = nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.randn(5, 8))
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        x = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1) @ x
        return self.last(F.gelu(self.norm(x)).flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loop, self.last = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.loop(x)[0][:, -1])


class Others(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.slope, self.last = nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 4, 2, 2), nn.PReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.slope(self.up(F.max_pool1d(F.hardswish(self.conv(x)), 2))))
        return self.last(F.interpolate(x, scale_factor=2).amax(-1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.last = nn.Embedding(10, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rows(x).mean(1))


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], qfx.Recipe]


def images() -> Tensor:
    return torch.randn(8, 3, 8, 8)


CASES: dict[str, Case] = {
    "tensor": (Residual, images, UNIFORM),
    "channel": (Residual, images, by_channel(UNIFORM)),
    "folded": (Residual, images, dataclasses.replace(UNIFORM, batch_norm="fold")),
    "learned word lengths": (Residual, images, by_channel(UNIFORM, learn_width=True)),
    "long words": (Residual, images, qfx.Recipe.uniform(14)),
    "attention": (Attention, lambda: torch.randn(8, 5, 8), UNIFORM),
    "recurrent": (Recurrent, lambda: torch.randn(4, 5, 4), UNIFORM),
    "others": (Others, lambda: torch.randn(4, 3, 10), UNIFORM),
    "rows of a table": (Words, lambda: torch.randint(10, (6, 3)), UNIFORM),
}


class Reads(TorchDispatchMode):
    """Collects the operators that give the host a number that it was not told."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **(kwargs or {}))
        if given and all(getattr(x, "was_told", False) for x in given):
            for x in pytree.tree_leaves(result):
                if isinstance(x, Tensor):
                    x.was_told = True  # type: ignore[attr-defined]  # what follows from it on the host
        elif str(func.overloadpacket) in ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero"):
            self.found.append(str(func.overloadpacket))
        return result


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The CPU goes the ways of a GPU."""
    for where in (native, quick, step, whole):
        for name in ("recorded", "fused", "flat", "words"):
            if hasattr(where, name):
                monkeypatch.setattr(where, name, lambda *_: None)
    apart = told.by_layer

    def marked(questions: Any, numbers: Tensor) -> Any:
        numbers.was_told = True  # type: ignore[attr-defined]
        return apart(questions, numbers)

    monkeypatch.setattr(eager, "is_here", lambda x: False)
    monkeypatch.setattr(told, "is_far", lambda x: isinstance(x, Tensor))
    monkeypatch.setattr(told, "is_recording", lambda: False)
    monkeypatch.setattr(told, "by_layer", marked)
    return monkeypatch


def made(case: Case) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x, recipe = case[0](), case[1](), case[2]
    return qfx.quantize(model, x, recipe).train(), x


def steps(qmodel: nn.Module, x: Tensor, count: int) -> list[str]:
    """Train; what the host read in the last step."""
    optimizer = torch.optim.SGD(qmodel.parameters(), 0.05)
    reads = Reads()
    for _ in range(count):
        reads.found.clear()
        with reads:
            optimizer.zero_grad()
            qmodel(x).square().mean().backward()
            optimizer.step()
    return reads.found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_training_step_asks_the_device_for_no_number(far: pytest.MonkeyPatch, case: Case) -> None:
    qmodel, x = made(case)
    for _, cast in qfx.quantizers(qmodel):
        cast._known = None  # it lies on the GPU, and is told anew there
    asked = 2 if case is CASES["rows of a table"] else 0  # a row that is none would end the process there
    assert len(steps(qmodel, x, 2)) == asked


def test_who_asks_is_caught(far: pytest.MonkeyPatch) -> None:
    qmodel, x = made(CASES["tensor"])
    far.setattr(told, "look", lambda *_: None)
    assert len(steps(qmodel, x, 2)) > len(list(qfx.quantizers(qmodel)))


@pytest.mark.parametrize("name", ["channel", "folded", "learned word lengths", "long words"])
def test_what_is_told_changes_no_bit(far: pytest.MonkeyPatch, name: str, thorough: bool) -> None:
    """Steps in which binary points move and constants outgrow their ranges, against the same where each number is looked up."""
    case = CASES[name]
    if not thorough and name not in ("folded", "long words"):
        pytest.skip("the others run with --thorough")
    results = []
    for is_far in (True, False):
        far.setattr(told, "is_far", lambda x, is_far=is_far: is_far)
        qmodel, x = made(case)
        layer = next(m for m in qmodel.modules() if getattr(m, "name", "") == "last")
        began = {path: cast.points().clone() for path, cast in qfx.quantizers(qmodel) if not cast.spec.learn_width}
        steps(qmodel, x, 2)
        with torch.no_grad():
            layer.weight_cast.frac_bits.add_(1.0)
            layer.bias.mul_(1000.0)
        steps(qmodel, x, 8 if thorough else 1)
        moved = {path for path, cast in qfx.quantizers(qmodel) if path in began and not torch.equal(cast.points(), began[path])}
        assert moved >= {"last.weight", "last.bias"} or name == "learned word lengths"
        results.append({**qmodel.state_dict(), "result": qmodel.eval()(x)})
    first, second = results
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def sums_behind_a_point_that_moved(far: pytest.MonkeyPatch, is_far: bool, granularity: str) -> Tensor:
    """Of a layer whose weights take the 24 bits of float32 up, once they lie on a grid that is twice as fine as in the forward before."""
    far.setattr(told, "is_far", lambda x: is_far and isinstance(x, Tensor))
    torch.manual_seed(0)
    model, x = nn.Linear(12, 2, bias=False), torch.rand(4096, 12) * 0.3 + 0.69
    with torch.no_grad():
        model.weight.uniform_(0.6, 0.68)[:, 3] = 0.6 if granularity == "element" else 0.031  # a point of its own would leave float32 out
    weight, wide = qfx.Spec(14, granularity=granularity), qfx.Spec(24)
    qmodel = qfx.quantize(model, x, dataclasses.replace(UNIFORM, weight=weight, output=wide)).eval()
    layer = next(m for m in qmodel.modules() if hasattr(m, "weight_cast"))
    with torch.no_grad():
        qmodel(x)
        qmodel(x)
        layer.weight_cast.frac_bits.add_(1.0)
        return qmodel(x)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "element"])
def test_sums_are_exact_when_a_weights_point_has_moved(far: pytest.MonkeyPatch, granularity: str) -> None:
    expected = sums_behind_a_point_that_moved(far, False, granularity)
    assert torch.equal(sums_behind_a_point_that_moved(far, True, granularity), expected)
    apart = told.by_layer

    def stale(questions: Any, numbers: Tensor) -> Any:
        """What is told of the weights in the grid of the forward before."""
        return {(layer, what): number / 2 if what == "rows" else number for (layer, what), number in apart(questions, numbers).items()}

    far.setattr(told, "by_layer", stale)
    assert not torch.equal(sums_behind_a_point_that_moved(far, True, granularity), expected)


def test_a_constant_that_outgrows_its_range_makes_room(far: pytest.MonkeyPatch) -> None:
    qmodel, x = made(CASES["long words"])
    layer = next(m for m in qmodel.modules() if isinstance(m, nn.Module) and getattr(m, "name", "") == "last")
    before = layer.bias_cast.points().clone()
    with torch.no_grad():
        layer.bias.mul_(1000.0)
    assert float(qmodel(x).detach().abs().max()) > 1.0
    assert bool((layer.bias_cast.points() < before).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused_there_too(far: pytest.MonkeyPatch, bad: float) -> None:
    qmodel, x = made(CASES["tensor"])
    x[0, 0, 0, 0] = bad
    with pytest.raises(qfx.QfxError, match="NaN or infinity"):
        qmodel(x)


def test_rows_that_are_none_are_refused_there_too(far: pytest.MonkeyPatch) -> None:
    qmodel, x = made(CASES["rows of a table"])
    for row in (10, -1):
        with pytest.raises(qfx.QfxError, match="for a table of 10 rows"):
            qmodel(torch.full_like(x, row))


def recorded(far: pytest.MonkeyPatch, qmodel: nn.Module, x: Tensor) -> Tensor:
    """What a graph that is recorded now gives when it is replayed at once."""
    far.setattr(told, "is_recording", lambda: True)
    try:
        with Reads() as reads:
            result: Tensor = qmodel(x)
    finally:
        far.setattr(told, "is_recording", lambda: False)
    assert reads.found == []
    return result


def test_a_recorded_graph_asks_nothing_and_gives_the_same(far: pytest.MonkeyPatch) -> None:
    qmodel, x = made(CASES["tensor"])
    with pytest.raises(qfx.QfxError, match="has not run like this before"):
        recorded(far, qmodel, x)
    qmodel.eval()(x)
    once = qmodel(x)
    assert torch.equal(recorded(far, qmodel, x), once)


@pytest.mark.parametrize("what", ["point", "bias", "input"])
def test_a_recorded_graph_whose_decisions_no_longer_hold_gives_nan(far: pytest.MonkeyPatch, what: str) -> None:
    """What moved between the last forward and the replay; a binary point that moves within its rounding changes nothing."""
    qmodel, x = made(CASES["long words"])
    qmodel.eval()(x)
    layer = next(m for m in qmodel.modules() if getattr(m, "name", "") == "last")
    with torch.no_grad():
        layer.bias_cast.frac_bits.add_(0.2)
        assert bool(recorded(far, qmodel, x).isfinite().all())
        if what == "point":
            layer.bias_cast.frac_bits.add_(0.6)
        elif what == "bias":
            layer.bias.mul_(1000.0)
        else:
            x[0, 0, 0, 0] = math.inf
    assert bool(recorded(far, qmodel, x).isnan().all())


@pytest.mark.parametrize("moved", [False, True])
def test_a_graph_that_no_longer_holds_has_no_gradient_that_could_train(far: pytest.MonkeyPatch, moved: bool) -> None:
    qmodel, x = made(CASES["long words"])
    once = qmodel.eval()(x)
    layer = next(m for m in qmodel.modules() if getattr(m, "name", "") == "last")
    with torch.no_grad():
        layer.bias_cast.frac_bits.add_(0.8 if moved else 0.0)
    far.setattr(told, "is_recording", lambda: True)
    result = qmodel(x)
    result.square().mean().backward()
    assert bool(result.isnan().all()) == moved
    assert moved or torch.equal(result.view(torch.int32), once.view(torch.int32))  # also the sign of a zero
    assert all(bool(each.isnan().all()) == moved for each in (layer.weight.grad, layer.bias.grad))


def test_what_lies_on_several_devices_is_told_at_once(far: pytest.MonkeyPatch) -> None:
    numbers = [torch.zeros(2, device="meta"), torch.ones(3)]
    assert told.flat([told.Question(nn.Identity(), "", each) for each in numbers]).shape == (5,)


def test_what_the_host_can_look_at_is_not_asked(far: pytest.MonkeyPatch) -> None:
    """As of a layer that was left on the CPU: only what several binary points tell counts as far here."""
    qmodel, x = made(CASES["long words"])
    expected, asked, flat = qmodel.eval()(x), list[told.Question](), told.flat
    assert {q.what for q in model_questions(qmodel, (x,))} > {"points"}
    far.setattr(told, "is_far", lambda x: isinstance(x, Tensor) and x.numel() > 1)
    far.setattr(told, "flat", lambda questions: (asked.extend(questions), flat(questions))[1])
    assert torch.equal(qmodel(x), expected)
    assert {q.what for q in asked} == {"points"}


def test_a_model_that_was_told_is_copied_and_saved(far: pytest.MonkeyPatch, tmp_path: Any) -> None:
    qmodel, x = made(CASES["tensor"])
    qmodel.eval()
    qmodel(x)
    expected = qmodel(x)
    copied = copy.deepcopy(qmodel)
    assert torch.equal(copied(x), expected)
    assert torch.equal(copied(x), expected)
    assert torch.equal(recorded(far, copied, x), expected)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand: the CPU stood for one in the tests above")


@needs_gpu
def test_a_training_step_on_a_gpu_waits_once() -> None:
    qmodel, x = made(CASES["tensor"])
    qmodel, x = qmodel.cuda(), x.cuda()
    steps(qmodel, x, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            qmodel(x)  # at its start
        far_from_the_start = told.flat

        def waiting(questions: Any) -> Tensor:
            torch.cuda.set_sync_debug_mode("default")
            return far_from_the_start(questions).cpu()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(told, "flat", waiting)
            patch.setattr(told, "by_layer", lambda *given: (torch.cuda.set_sync_debug_mode("error"), _by_layer(*given))[1])
            qmodel(x).square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


_by_layer = told.by_layer


@needs_gpu
def test_a_cuda_graph_gives_the_same_bits() -> None:
    qmodel, x = made(CASES["tensor"])
    qmodel, x = qmodel.cuda().eval(), x.cuda()
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            expected = qmodel(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        result = qmodel(x)
    graph.replay()
    assert torch.equal(result, expected)


@needs_gpu
def test_a_training_step_as_a_cuda_graph() -> None:
    torch.manual_seed(0)
    qmodel, x = made(CASES["tensor"])
    qfx.freeze(qmodel)
    qmodel, x = qmodel.cuda(), x.cuda()
    expected = qmodel(x).detach().clone()
    graphed = torch.cuda.make_graphed_callables(qmodel, (x.clone().requires_grad_(),))
    result = graphed(x)
    assert torch.equal(result.detach(), expected)
    result.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in qmodel.parameters() if p.grad is not None)
