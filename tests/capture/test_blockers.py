"""Every blocker of a model is named at once, with its place and what to do."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import qfx
from qfx import UnsupportedError
from qfx.capture.refusals.blockers import require_supported
from qfx.errors import together

IMAGE, SIGNAL, VECTOR = torch.randn(4, 3, 8, 8), torch.randn(4, 6, 9), torch.randn(4, 8)


def places(model: nn.Module, x: Tensor) -> list[str]:
    """Where ``quantize`` finds blockers; each has all three parts, and the message holds each."""
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(model, x)
    blockers = caught.value.blockers
    assert all(blocker.what and blocker.where and blocker.remedy for blocker in blockers)
    assert all(blocker.what in str(caught.value) and blocker.where in str(caught.value) for blocker in blockers)
    assert all(blocker.remedy in str(caught.value) for blocker in blockers)
    return [blocker.where for blocker in blockers]


def random_pooling() -> nn.Module:
    """A layer that stays without a form: what it pools is drawn anew each time."""
    return nn.FractionalMaxPool2d(1, 8)


class Mobile(nn.Module):
    """Five kinds of blocker among what is taken, one of them twice: functions, methods, layers that are opened, several tensors, a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.RReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.FeatureAlphaDropout(), nn.GroupNorm(2, 8), random_pooling())
        self.again = random_pooling()
        self.gate, self.steps = nn.Conv2d(8, 8, 1), nn.AdaptiveMaxPool1d(8, return_indices=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x) + self.again(x)
        x = x * torch.lgamma(self.gate(F.relu(x.mean((2, 3), keepdim=True))))
        left, right = x.chunk(2, 1)
        x = torch.cat([right, left], 1).flatten(2)
        steps, _ = self.steps(x.reshape(x.shape[0], -1, 8))
        return self.head(steps.cumsum(1).amax(1).remainder(2.0)).softmax(1)


def test_all_of_them_in_the_order_of_the_model() -> None:
    assert places(Mobile(), IMAGE) == ["block.1", "block.3", "again", "lgamma", "steps", "cumsum", "remainder"]


def test_the_message_groups_what_is_the_same() -> None:
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(Mobile(), IMAGE)
    lines = str(caught.value).split("\n")
    assert lines[0] == "Mobile: 7 obstacles on the way to fixed point"
    assert lines[3] == "  block.3, again: FractionalMaxPool2d has no fixed-point form in qfx"
    assert lines[4].startswith("    remedy: train the model without it")
    assert str(caught.value).count("FractionalMaxPool2d") == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert len(again.blockers) == 7


def test_the_order_does_not_depend_on_the_run() -> None:
    texts = set()
    for _ in range(3):
        with pytest.raises(UnsupportedError) as caught:
            qfx.quantize(Mobile(), IMAGE)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_single_blocker_stands_for_itself() -> None:
    with pytest.raises(UnsupportedError, match=r"^1: FractionalMaxPool2d has no fixed-point form in qfx\n  remedy: ") as caught:
        qfx.quantize(nn.Sequential(nn.Conv2d(3, 4, 1), random_pooling()), IMAGE)
    assert caught.value.blockers == (caught.value,)


def test_mending_what_is_named_is_enough() -> None:
    """The promise of the list: what is not on it needs no change."""
    model = Mobile()
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(model, IMAGE)
    assert [blocker.where for blocker in caught.value.blockers] == ["block.1", "block.3", "again", "lgamma", "steps", "cumsum", "remainder"]

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = m.block[2](m.block[0](x)) + x
        x = x * torch.exp(m.gate(F.relu(x.mean((2, 3), keepdim=True))))
        left, right = x.chunk(2, 1)
        x = torch.cat([right, left], 1).flatten(2)
        x = x.reshape(x.shape[0], -1, 8)
        return m.head(x.amax(1)).softmax(1)

    kept = {name: module for name, module in model.named_children() if name not in ("again", "steps")}
    qfx.to_graph(qfx.quantize(Calls(forward, **kept), IMAGE).eval())


class Stops(nn.Module):
    """A decision in the middle, blockers before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b, self.norm, self.unused = nn.Conv2d(3, 4, 1), random_pooling(), nn.Conv2d(4, 8, 1), nn.LayerNorm(8), random_pooling()
        self.cell = random_pooling()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        if x.neg().max() > 100:
            x = x / 2
        return self.cell(self.norm(self.b(x)))


def test_where_tracing_stops_layers_behind_are_named_too() -> None:
    with pytest.raises(UnsupportedError, match=r"test_blockers\.py, line \d+: if x\.neg\(\)\.max\(\) > 100") as caught:
        qfx.quantize(Stops(), IMAGE)
    assert [blocker.where for blocker in caught.value.blockers] == ["act", "Stops", "cell"]


def test_an_opened_layer_of_several_blockers_is_named_once() -> None:
    layer = nn.TransformerEncoderLayer(9, 3, 4, batch_first=True, activation=torch.lgamma)
    assert places(Calls(lambda m, x: m.steps(x), steps=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)), SIGNAL) == ["steps"]


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune", "old weight_norm", "old spectral_norm", "two"])
def test_hooks_and_parametrizations_need_no_removal(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    change: dict[str, Callable[[nn.Module], object]] = {
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "prune": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
        "old weight_norm": torch.nn.utils.weight_norm,
        "old spectral_norm": torch.nn.utils.spectral_norm,
        "two": lambda conv: (prune.l1_unstructured(conv, "weight", 0.5), prune.l1_unstructured(conv, "bias", 0.5)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old functions
        change[kind](model[0])
    model.eval()
    expected = model(IMAGE).detach()
    q = qfx.quantize(model, IMAGE, qfx.Recipe.uniform(16, input=qfx.Spec(16)))
    assert (q(IMAGE) - expected).abs().max() < 1e-3 * expected.abs().max()  # 16 bits keep it within this
    assert torch.equal(model(IMAGE), expected)


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *rest: Tensor, deep: bool = False, **more: object) -> Tensor:
        if mask is not None:
            x = x * mask
        return self.a(F.relu(x) if deep else x)


def test_the_model_is_called_with_its_input_alone() -> None:
    q = qfx.quantize(Optional().eval(), VECTOR)
    assert "relu.output" not in dict(qfx.quantizers(q))


def test_inputs_are_named() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor, z: int = 0, *, w: Tensor) -> Tensor:
            return x + y

    with pytest.raises(UnsupportedError, match=r"^Two: has 3 inputs: x, y, w\n.*a tuple in this order, or a dict by name"):
        qfx.quantize(Two(), VECTOR)


# What must stand in the place or the complaint, and in the remedy.
NAMED: dict[str, tuple[Callable[[nn.Module, Tensor], object], Tensor, str, str]] = {
    "squeezed": (lambda m, x: m.a(x)[:, :1].squeeze(), VECTOR, "squeeze: gives shape", "shape \\(batch, 1\\)"),
    "classes": (lambda m, x: m.a(x).argmax(1), VECTOR, r"^argmax: gives shape \(2,\)", "leave one axis behind the batch"),
    "mode": (lambda m, x: torch.mode(m.a(x), 1).values, VECTOR, "^mode: mode has no", "of the result on the host"),
    "kept indices": (lambda m, x: m.pool(x)[0], IMAGE, "^pool: max pooling that returns indices", "leave return_indices off"),
    "bicubic": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"), IMAGE, "mode='bicubic'", "mode='bilinear'"),
    "Fourier transform": (lambda m, x: torch.fft.rfft(m.a(x)).abs(), VECTOR, "fft_rfft has no", "cosines and sines"),
    "complex": (lambda m, x: torch.complex(x, x).real, VECTOR, "complex has no", "two values"),
    "remainder": (lambda m, x: m.a(x) % 3, VECTOR, "remainder has no", "on the host"),
    "computed indices": (lambda m, x: m.a(x).gather(1, x.argmax(1, keepdim=True)), VECTOR, "gather by places", "constant places"),
    "a special function": (lambda m, x: torch.lgamma(m.a(x)), VECTOR, "^lgamma: lgamma has no", "docs/layers.md"),
    "boxes at the end": (
        lambda m, x: m.a(x).view(-1, 2, 2, 2, 1, 1, 1).permute(0, 1, 4, 2, 3, 5, 6),
        VECTOR,
        "view: gives shape",
        "the host reorders",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_operator_and_a_remedy_are_named(name: str) -> None:
    forward, x, what, remedy = NAMED[name]
    layers = {"a": nn.Linear(8, 8), "table": nn.Embedding(9, 4)}
    layers["pool"] = nn.MaxPool2d(2, return_indices=True)
    model = Calls(forward, **layers)
    model.p, model.w = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8, 4))
    with pytest.raises(UnsupportedError, match=rf"(?s){what}.*remedy: .*{remedy}") as caught:
        qfx.quantize(model.eval(), x)
    assert len(caught.value.blockers) == 1


def test_randomness_is_named_with_the_rest() -> None:
    model = Calls(lambda m, x: torch.lgamma(m.a(x)) + torch.randn_like(m.a(x)), a=nn.Linear(8, 4))
    assert places(model, VECTOR) == ["lgamma", "randn_like"]


SAME: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], Callable[[nn.Module, Tensor], Tensor]]] = {
    "cumsum": (lambda m, x: m.a(x).cumsum(1), lambda m, x: torch.matmul(m.a(x), torch.ones(8, 8).triu())),
    "cosine": (
        lambda m, x: F.cosine_similarity(m.a(x), x, 1).unsqueeze(1),
        lambda m, x: (m.a(x) * x).sum(1, keepdim=True) / ((m.a(x) * m.a(x)).sum(1, keepdim=True) * (x * x).sum(1, keepdim=True)).sqrt(),
    ),
    "power": (lambda m, x: x.abs() ** m.a(x), lambda m, x: torch.exp(torch.log(x.abs()) * m.a(x))),
    "vstack": (lambda m, x: torch.hstack([m.a(x), x]), lambda m, x: torch.cat([m.a(x), x], 1)),
}


@pytest.mark.parametrize("name", SAME)
def test_what_a_remedy_calls_the_same_is_the_same_and_goes_through(name: str) -> None:
    forward, instead = SAME[name]
    a = nn.Linear(8, 8)
    with pytest.raises(UnsupportedError, match=r"same|torch"):
        qfx.quantize(Calls(forward, a=a), VECTOR)
    mended = Calls(instead, a=a)
    torch.testing.assert_close(mended(VECTOR), Calls(forward, a=a)(VECTOR))
    check_exact(qfx.quantize(mended, VECTOR))


@pytest.mark.filterwarnings("ignore")  # torch.jit is on its way out
def test_a_torchscript_module_is_named() -> None:
    with pytest.raises(UnsupportedError, match="is a TorchScript module"):
        qfx.quantize(torch.jit.trace(nn.Linear(8, 4), VECTOR), VECTOR)
    with pytest.raises(UnsupportedError, match="is a TorchScript module"):
        qfx.quantize(torch.jit.script(nn.Linear(8, 4)), VECTOR)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_part_is_named_by_its_path() -> None:
    with pytest.raises(UnsupportedError, match=r"^1\.0: is a TorchScript module"):
        qfx.quantize(nn.Sequential(nn.Linear(8, 8), nn.Sequential(torch.jit.script(nn.Linear(8, 4)))), VECTOR)


def test_an_unsigned_example_is_taken_as_numbers() -> None:
    bytes_ = torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8)
    conv = nn.Conv2d(3, 2, 3)
    q = qfx.quantize(conv, bytes_)
    assert torch.equal(q(bytes_.float()), qfx.quantize(conv, bytes_.float())(bytes_.float()))


def test_adding_zero_is_nothing() -> None:
    """``sum`` starts with it."""
    torch.manual_seed(0)
    model = Calls(lambda m, x: sum([m.a(x), m.b(x)]), a=nn.Linear(8, 4), b=nn.Linear(8, 4))
    plain = Calls(lambda m, x: m.a(x) + m.b(x), a=model.a, b=model.b)
    assert torch.equal(qfx.quantize(model, VECTOR)(VECTOR), qfx.quantize(plain, VECTOR)(VECTOR))


def test_sync_batch_norm_is_a_batch_norm() -> None:
    old = nn.SyncBatchNorm(3, eps=1e-3)
    new = nn.BatchNorm2d(3, eps=0.001)
    new.load_state_dict(old.state_dict())
    assert torch.equal(qfx.quantize(nn.Sequential(old).eval(), IMAGE)(IMAGE), qfx.quantize(nn.Sequential(new).eval(), IMAGE)(IMAGE))


def test_require_supported_and_together() -> None:
    require_supported(nn.Sequential(nn.Linear(8, 4)).eval(), VECTOR)
    one, two = (UnsupportedError(f"does {name}", where=name, remedy="no") for name in "ab")
    assert together([one], where="m") is one
    assert together([together([one, two], where="m"), two], where="n").blockers == (one, two, two)


def test_a_model_may_keep_results() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    model.kept = model(VECTOR)
    check_exact(qfx.quantize(model, VECTOR))
