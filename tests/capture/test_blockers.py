"""Every blocker of a model is named at once, with its place and what to do."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import qfx
from qfx import UnsupportedError
from qfx.capture.refusals.blockers import require_supported
from qfx.capture.source import load_model
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


class Mobile(nn.Module):
    """What a mobile network of today is made of: five kinds of blocker, one of them three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.RReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.RReLU(), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.RReLU())
        self.squeeze, self.gate = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x) + x
        x = x * torch.lgamma(self.gate(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        left, right = x.chunk(2, 1)
        return self.head(torch.cat([right, left], 1).amax((2, 3))).softmax(1)


def test_all_of_them_in_the_order_of_the_model() -> None:
    found = places(Mobile(), IMAGE)
    assert found == ["stem.2", "block.1", "block.3", "block.4", "lgamma", "chunk", "softmax"]


def test_the_message_groups_what_is_the_same() -> None:
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(Mobile(), IMAGE)
    lines = str(caught.value).split("\n")
    assert lines[0] == "Mobile: 9 obstacles on the way to fixed point"
    assert lines[1] == "  stem.2, block.1, block.4: RReLU has no fixed-point form in qfx"
    assert lines[2].startswith("    remedy: use nn.LeakyReLU(0.25)")
    assert str(caught.value).count("RReLU") == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert len(again.blockers) == 9


def test_the_order_does_not_depend_on_the_run() -> None:
    texts = set()
    for _ in range(3):
        with pytest.raises(UnsupportedError) as caught:
            qfx.quantize(Mobile(), IMAGE)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_single_blocker_stands_for_itself() -> None:
    with pytest.raises(UnsupportedError, match=r"^1: RReLU has no fixed-point form in qfx\n  remedy: ") as caught:
        qfx.quantize(nn.Sequential(nn.Linear(8, 4), nn.RReLU()), VECTOR)
    assert caught.value.blockers == (caught.value,)


def test_mending_what_is_named_is_enough() -> None:
    """The promise of the list: what is not on it needs no change."""
    model = Mobile()
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(model, IMAGE)
    for blocker in caught.value.blockers:
        if blocker.where.partition(".")[0] in ("stem", "block"):
            parent, _, leaf = blocker.where.rpartition(".")
            model.get_submodule(parent)[int(leaf)] = nn.BatchNorm2d(8) if "GroupNorm" in blocker.what else nn.ReLU()

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = m.block(x) + x
        gate = F.relu6(m.gate(F.relu(m.squeeze(x.mean((2, 3), keepdim=True)))))
        x = x * F.interpolate(gate, size=(8, 8))
        left, right = x[:, 0:4], x[:, 4:8]
        return m.head(F.adaptive_max_pool2d(torch.cat([right, left], 1), 1).flatten(1))

    mended = Calls(forward, **dict(model.named_children()))
    qfx.to_graph(qfx.quantize(mended, IMAGE).eval())


class Stops(nn.Module):
    """A decision in the middle, blockers before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b, self.norm, self.unused = nn.Linear(8, 8), nn.RReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.RReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        if x.neg().max() > 100:
            x = x / 2
        return self.norm(self.b(x))


def test_where_tracing_stops_layers_behind_are_named_too() -> None:
    with pytest.raises(UnsupportedError, match=r"test_blockers\.py, line \d+: if x\.neg\(\)\.max\(\) > 100") as caught:
        qfx.quantize(Stops(), VECTOR)
    assert [blocker.where for blocker in caught.value.blockers] == ["act", "Stops", "norm"]


def test_hooks_parametrizations_and_operations_are_named_together() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.RReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 8), nn.Softmax(1))
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[2].eval())
    model[4].register_forward_hook(lambda *_: None)
    assert places(model, IMAGE) == ["0", "2", "4", "1", "5"]


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune", "old weight_norm", "old spectral_norm", "two"])
def test_the_calls_that_remove_hooks_and_parametrizations_work(kind: str) -> None:
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
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(model, IMAGE)
    for call in caught.value.remedy.partition(": ")[2].split("; "):
        eval(call, {"torch": torch, "model": model})
    assert torch.allclose(model(IMAGE), expected, atol=1e-6)
    q = qfx.quantize(model, IMAGE)
    assert set(model.state_dict()) <= set(q.state_dict())


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

    with pytest.raises(UnsupportedError, match=r"^Two: has 3 inputs: x, y, w\n.*forward"):
        qfx.quantize(Two(), VECTOR)


def raises(m: nn.Module, x: Tensor) -> Tensor:
    if not torch.is_tensor(x):
        raise TypeError("no tensor")
    return x


# What must stand in the place or the complaint, and in the remedy.
NAMED: dict[str, tuple[Callable[[nn.Module, Tensor], object], Tensor, str, str]] = {
    "LSTM": (lambda m, x: m.lstm(x)[0], SIGNAL, "LSTM gives a tuple", "nn.Conv1d over the steps"),
    "attention": (lambda m, x: m.attention(x, x, x)[0], SIGNAL, "MultiheadAttention", "attention on the host"),
    "zeros": (lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1)], 1), VECTOR, "torch.zeros", "F.pad"),
    "item": (lambda m, x: x * float(x.mean()), VECTOR, "float\\(x.mean", "Python number"),
    "samples": (lambda m, x: torch.stack([m.a(row) for row in x]), VECTOR, "one by one", "the whole batch"),
    "concatenated constant": (lambda m, x: torch.cat([x, m.p.expand(x.shape[0], 8)], 1), VECTOR, "expand", "F.pad"),
    "float": (lambda m, x: m.a(x.float()), VECTOR, "float", "leave it out"),
    "stack": (lambda m, x: torch.stack([x, x]).sum(0), VECTOR, "stack", r"a \+ b"),
    "squeezed": (lambda m, x: m.a(x)[:, :1].squeeze(), VECTOR, "squeeze: gives shape", "shape \\(batch, 1\\)"),
    "classes": (lambda m, x: m.a(x).argmax(1), VECTOR, "argmax", "of the result on the host"),
    "boxes at the end": (
        lambda m, x: m.a(x).view(-1, 2, 2, 2, 1, 1, 1).permute(0, 1, 4, 2, 3, 5, 6),
        VECTOR,
        "view: gives shape",
        "the host reorders",
    ),
    "features last": (lambda m, x: m.norm(x), SIGNAL, "LayerNorm", r"nn\.BatchNorm1d\(9\) on x\.permute\(0, 2, 1\), and \.permute"),
    "a check of the type": (raises, VECTOR, "cannot be traced: no tensor", r"torch\.is_tensor find no tensor"),
    "dict": (lambda m, x: {"out": m.a(x), "aux": x}, VECTOR, "a dict of 'out', 'aux'", r"model\(x\)\['out'\]"),
    "list": (lambda m, x: [m.a(x), x], VECTOR, "a list of 2", r"model\(x\)\[0\]"),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_operator_and_a_remedy_are_named(name: str) -> None:
    forward, x, what, remedy = NAMED[name]
    layers = {"a": nn.Linear(8, 8), "lstm": nn.LSTM(9, 4, batch_first=True), "attention": nn.MultiheadAttention(9, 3, batch_first=True)}
    layers["norm"] = nn.LayerNorm(9)
    model = Calls(forward, **layers)
    model.p, model.w = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8, 4))
    with pytest.raises(UnsupportedError, match=rf"(?s){what}.*remedy: .*{remedy}") as caught:
        qfx.quantize(model.eval(), x)
    assert len(caught.value.blockers) == 1


def test_randomness_is_named_with_the_rest() -> None:
    model = Calls(lambda m, x: torch.lgamma(m.a(x)) + torch.randn_like(m.a(x)), a=nn.Linear(8, 4))
    assert places(model, VECTOR) == ["lgamma", "randn_like", "Calls"]


def test_layers_of_several_inputs() -> None:
    with pytest.raises(UnsupportedError, match=r"^MultiheadAttention: MultiheadAttention has no fixed-point form"):
        qfx.quantize(nn.MultiheadAttention(9, 3), SIGNAL)


@pytest.mark.filterwarnings("ignore")  # torch.jit is on its way out
def test_a_torchscript_module_is_named() -> None:
    with pytest.raises(UnsupportedError, match="is a TorchScript module"):
        qfx.quantize(torch.jit.trace(nn.Linear(8, 4), VECTOR), VECTOR)
    with pytest.raises(UnsupportedError, match="is a TorchScript module"):
        qfx.quantize(torch.jit.script(nn.Linear(8, 4)), VECTOR)


def test_an_unsigned_example_says_what_to_give() -> None:
    with pytest.raises(qfx.DataError, match=r"torch\.uint8, example\.float\(\)"):
        qfx.quantize(nn.Conv2d(3, 2, 3), torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8))


def test_adding_zero_is_nothing() -> None:
    """``sum`` starts with it."""
    torch.manual_seed(0)
    model = Calls(lambda m, x: sum([m.a(x), m.b(x)]), a=nn.Linear(8, 4), b=nn.Linear(8, 4))
    plain = Calls(lambda m, x: m.a(x) + m.b(x), a=model.a, b=model.b)
    assert torch.equal(qfx.quantize(model, VECTOR)(VECTOR), qfx.quantize(plain, VECTOR)(VECTOR))


def test_sync_batch_norm_takes_the_state_of_its_remedy() -> None:
    old = nn.SyncBatchNorm(3, eps=1e-3)
    with pytest.raises(UnsupportedError, match=r"nn\.BatchNorm2d\(3, eps=0\.001\)"):
        qfx.quantize(nn.Sequential(old).eval(), IMAGE)
    new = nn.BatchNorm2d(3, eps=0.001)
    new.load_state_dict(old.state_dict())
    qfx.quantize(nn.Sequential(new).eval(), IMAGE)


def test_require_supported_and_together() -> None:
    require_supported(nn.Sequential(nn.Linear(8, 4)).eval(), VECTOR)
    one, two = (UnsupportedError(f"does {name}", where=name, remedy="no") for name in "ab")
    assert together([one], where="m") is one
    assert together([together([one, two], where="m"), two], where="n").blockers == (one, two, two)


def test_a_model_that_keeps_results_cannot_be_copied() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    model.kept = model(VECTOR)
    with pytest.raises(UnsupportedError, match=r"cannot be copied(.|\n)*keep no results"):
        qfx.quantize(model, VECTOR)


class Written(nn.Module):
    """A forward in one of the forms that an exported program may have."""

    def __init__(self, form: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form
        self.c, self.d, self.e = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv1d(1, 2, 3)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.gain = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x)


EXPORTED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "chunk": lambda m, x: torch.cat(m.c(x).chunk(2, 1)[::-1], 1),
    "split": lambda m, x: torch.cat(torch.split(m.c(x), 4, dim=1), 1),
    "float": lambda m, x: m.c(x.float()),
    "to": lambda m, x: m.c(x.to(m.c.weight.dtype)),
    "x[:, None]": lambda m, x: m.e(x.flatten(1)[:, None]),
}


@pytest.mark.parametrize("form", EXPORTED)
def test_what_an_exported_program_may_hold_is_offered_and_works(form: str, tmp_path: Path) -> None:
    model = Written(EXPORTED[form]).eval()
    with pytest.raises(UnsupportedError, match=r"remedy: .*or leave the model as it is and export it, (.*): `qfx ptq --model model\.pt2`") as caught:
        qfx.quantize(model, IMAGE)
    call = re.search(r"export it, (.*): `qfx ptq", str(caught.value))
    assert call is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        eval(call[1].replace("'model.pt2'", "path"), {"torch": torch, "model": model, "example": IMAGE, "path": tmp_path / "model.pt2"})
    q = qfx.quantize(load_model(str(tmp_path / "model.pt2"), None, IMAGE), IMAGE)
    check_exact(q)


HELPLESS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "lgamma": lambda m, x: m.c(x).lgamma() * 2,
}


@pytest.mark.parametrize("form", HELPLESS)
def test_export_is_not_offered_where_it_does_not_help(form: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(Written(HELPLESS[form]), IMAGE)
    assert "export" not in str(caught.value)
