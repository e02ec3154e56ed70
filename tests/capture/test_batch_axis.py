"""The batch behind other axes, or part of one, in the middle of a network: written with the batch in front, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls
from torch import Tensor, nn

import qfx
from qfx.capture.from_onnx import from_onnx
from qfx.capture.from_pt2 import from_pt2
from qfx.capture.trace import trace
from qfx.errors import UnsupportedError
from qfx.testing import assert_bit_exact

T, E = 5, 8
"""Steps and features of a sample."""

Form = Callable[[Any, Tensor], Any]


def attention(m: Any, x: Tensor) -> Tensor:
    """As torch's own attention does it by hand: heads and batch on one axis."""
    batch = x.shape[0]
    steps = x.permute(1, 0, 2)
    q, k, v = (part.contiguous().view(T, batch * 2, 4).transpose(0, 1) for part in m.wide(steps).chunk(3, -1))
    seen = torch.bmm(q * 0.5, k.transpose(1, 2)).softmax(-1)
    mixed = torch.bmm(seen, v).transpose(0, 1).contiguous().view(T * batch, E)
    result: Tensor = (m.a(mixed).view(T, batch, E) + steps).transpose(0, 1)
    return result


def masked_attention(m: Any, x: Tensor) -> Tensor:
    steps = x.transpose(0, 1)
    q = steps.reshape(T, -1, 4).transpose(0, 1)
    scores = torch.baddbmm(m.mask, q, q.transpose(1, 2)).softmax(-1)
    return torch.bmm(scores, q).transpose(0, 1).reshape(T, -1, E).transpose(0, 1)


FORMS: dict[str, Form] = {
    "time major": lambda m, x: m.b(F.relu(m.a(x.permute(1, 0, 2)))).permute(1, 0, 2),
    "time major, moved": lambda m, x: m.a(x.movedim(0, 1)).movedim(1, 0),
    "steps behind": lambda m, x: m.a(x.transpose(0, 1))[-1],
    "steps before": lambda m, x: m.a(x.transpose(0, 1))[:3].mean(0),
    "rows": lambda m, x: F.relu(m.a(x.reshape(-1, E))).view(x.shape[0], T, -1),
    "rows of steps": lambda m, x: m.a(x.transpose(0, 1).reshape(-1, E)).view(T, -1, E).transpose(0, 1),
    "flattened": lambda m, x: m.a(x.flatten(0, 1)).relu().unflatten(0, (-1, T)),
    "Flatten": lambda m, x: m.apart(m.a(m.flat(x))),
    "stack and sum": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(0),
    "stack and mean": lambda m, x: torch.stack([m.a(x), m.b(x), x], 0).mean(dim=0),
    "stack and take": lambda m, x: torch.stack((m.a(x), m.b(x)))[1],
    "stack and largest": lambda m, x: torch.stack((m.a(x), m.b(x))).amax(0),
    "stack and take apart": lambda m, x: m.a(x) * torch.stack((x, m.b(x))).unbind(0)[1],
    "one number a sample": lambda m, x: torch.sigmoid(m.one(x[:, 0]).squeeze(-1)).unsqueeze(-1) * x[:, 1],
    "several numbers a sample": lambda m, x: torch.stack([m.one(x[:, 0]).squeeze(-1), m.one(x[:, 1]).squeeze(-1)], 1),
    "weighted by one number": lambda m, x: x[:, 0] * (m.a(x) * x).sum((1, 2)).view(-1, 1),
    "scores": lambda m, x: (m.a(x[:, 0]) * x[:, 1]).sum(1)[:, None] + x[:, 2],
    "attention by hand": attention,
    "masked attention by hand": masked_attention,
    "einsum": lambda m, x: torch.einsum("tnd,tne->nde", m.a(x.transpose(0, 1)), x.transpose(0, 1)),
    "einsum with weights": lambda m, x: torch.einsum("tnd,ed->tne", x.transpose(0, 1), m.a.weight).transpose(0, 1),
    "a product of heads": lambda m, x: torch.matmul(x.view(-1, T, 2, 4).permute(2, 0, 1, 3), m.heads).permute(1, 2, 0, 3).flatten(2),
    "a normalization": lambda m, x: m.norm(m.a(x.transpose(0, 1))).transpose(0, 1),
    "positions": lambda m, x: m.a(x.transpose(0, 1) + m.place).transpose(0, 1),
    "every step alone": lambda m, x: torch.stack([m.a(step) for step in x.transpose(0, 1)]).transpose(0, 1),
    "steps of steps": lambda m, x: torch.cat([step.unsqueeze(0) for step in x.transpose(0, 1)[1:]]).transpose(1, 0),
    "joined steps": lambda m, x: m.a(torch.cat([x.transpose(0, 1), x.transpose(0, 1)[:2]])).transpose(0, 1),
    "joined features": lambda m, x: torch.cat([x.transpose(0, 1), m.a(x).transpose(0, 1)], -1).transpose(0, 1),
    "turned round": lambda m, x: m.a(x.transpose(0, 1).flip(0)).transpose(0, 1),
    "index": lambda m, x: m.a(x.permute(2, 1, 0)[[3, 1, 2]].permute(2, 1, 0).repeat(1, 1, 3)[..., :E]),
    "new axes": lambda m, x: m.a(x.transpose(0, 1)[None, ..., 1:7]).squeeze(0).transpose(0, 1) if m.a.in_features == 6 else m.a(x[None])[0],
    "repeated": lambda m, x: m.a(x.mean(1)).expand(T, -1, -1).transpose(0, 1) * x,
    "padded": lambda m, x: F.pad(m.a(x.transpose(0, 1)), (0, 0, 0, 0, 1, 0)).transpose(0, 1),
    "the batch last": lambda m, x: F.relu(x.permute(1, 2, 0)).amax(0).t(),
}


class Held(Calls):
    """With layers and constants at hand."""

    def __init__(self, forward: Form) -> None:
        super().__init__(
            forward, a=nn.Linear(E, E), b=nn.Linear(E, E), one=nn.Linear(E, 1), wide=nn.Linear(E, 3 * E), norm=nn.LayerNorm(E),
            flat=nn.Flatten(0, 1), apart=nn.Unflatten(0, (-1, T)),
        )  # fmt: skip
        self.heads = nn.Parameter(torch.randn(2, 1, 4, 4))
        self.place = nn.Parameter(torch.randn(T, 1, E))
        self.register_buffer("mask", torch.full((T, T), -9.0).triu(1))


def held(form: Form) -> nn.Module:
    torch.manual_seed(0)
    return Held(form).eval()


def samples(count: int = 6) -> Tensor:
    return torch.randn(count, T, E, generator=torch.Generator().manual_seed(1))


def check(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """The graph gives the model's numbers, on another batch too, with the batch in front everywhere, and its fixed-point form is one in torch and
    in the interpreter."""
    traced = trace(model, x)
    for rows in (x, x[:1], torch.cat([x, x])):
        with torch.no_grad():
            torch.testing.assert_close(traced.module(rows), model(rows), rtol=1e-4, atol=1e-5)
    q = qfx.quantize(model, x).eval()
    with torch.no_grad():
        y: Tensor = q(x)
        assert float((y - model(x)).abs().max()) < 0.1 * float(model(x).abs().max())
    assert_bit_exact(y.numpy(), qfx.run(qfx.to_graph(q), x.numpy()), names=(f"torch, {name}", "interpreter"))
    return y


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_anywhere_in_between(form: str) -> None:
    check(held(FORMS[form]), samples(), form)


@pytest.mark.parametrize("form", ["time major", "rows", "flattened", "Flatten"])
def test_moves_of_the_batch_alone_vanish(form: str) -> None:
    moves = ("permute", "reshape", "view", "flatten", "unflatten", "flat", "apart", "transpose")
    names = [node.name.rstrip("_0123456789") for node in trace(held(FORMS[form]), samples()).module.graph.nodes]
    assert not set(names) & set(moves)


REFUSED: dict[str, tuple[Form, str, str]] = {
    "running sums over the batch": (lambda m, x: m.a(x.transpose(0, 1)).cumsum(1).transpose(0, 1), "cumsum", "no fixed-point form"),
    "a mean over the batch": (lambda m, x: x - m.a(x.transpose(0, 1)).mean(1, keepdim=True).transpose(0, 1), "mean", r"mean.*holds the batch"),
    "a norm over the batch": (lambda m, x: F.softmax(m.a(x.transpose(0, 1)), 1).transpose(0, 1), "amax", "holds the batch.*every sample"),
    "the batch turned round": (lambda m, x: m.a(x.transpose(0, 1)).flip(1).transpose(0, 1), "flip", "holds the batch.*worked on alone"),
    "a part of the batch": (lambda m, x: m.a(x.transpose(0, 1))[:, ::2].transpose(0, 1), "getitem", "take the whole batch"),
    "a part of rows": (lambda m, x: m.a(x.flatten(0, 1))[::T], "getitem", "take the whole batch"),
    "features that are samples": (lambda m, x: m.a(x.permute(1, 2, 0).matmul(x.permute(1, 0, 2))), "matmul", "multiplies|adds up"),
    "every sample beside every other": (lambda m, x: (x.sum((1, 2))[:, None] * x.sum((1, 2))).sum(1, keepdim=True), "mul", "different axes"),
    "joined behind one another": (lambda m, x: torch.cat([x.transpose(0, 1), x.transpose(0, 1)], 1).transpose(0, 1), "cat", "holds the batch"),
    "returned": (lambda m, x: m.a(x.transpose(0, 1)), "a", r"gives shape \(5, 2, 8\).*batch as the first axis of what the model returns"),
    "an operation on one number": (
        lambda m, x: torch.outer(m.one(x[:, 0]).squeeze(-1), torch.ones(3)),
        "outer",
        r"no axis behind.*x\.unsqueeze\(1\)",
    ),
    "one number returned": (lambda m, x: m.one(x[:, 0]).squeeze(-1), "squeeze", r"shape \(batch, 1\)"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_mixes_samples_is_refused(form: str) -> None:
    forward, where, message = REFUSED[form]
    with pytest.raises(UnsupportedError, match=f"(?s){message}") as caught:
        qfx.quantize(held(forward), samples())
    assert where in str(caught.value)


def exported(module: nn.Module, x: Tensor, path: Path, *, free: bool = True) -> nn.Module:
    """The module that is made of an exported program: for batches of any size, or for two samples at a time."""
    batch: Any = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch},) if free else None
    torch.export.save(torch.export.export(module, (x if free else x[:2],), dynamic_shapes=shapes, strict=False), path)
    return from_pt2(path, x)


@pytest.mark.parametrize("form", ["time major", "rows", "attention by hand", "stack and sum", "one number a sample", "einsum", "a normalization"])
def test_an_exported_program_is_taken_as_well(form: str, tmp_path: Path) -> None:
    module, x = held(FORMS[form]), samples()
    y = check(module, x, form)
    other = check(exported(module, x, tmp_path / "model.pt2"), x, f"{form}, exported")
    assert_bit_exact(other.numpy(), y.numpy(), names=("the exported program", "the module"))


class Attends(nn.Module):
    """nn.MultiheadAttention as its default options have it, the steps first."""

    def __init__(self, *, need_weights: bool, **options: Any) -> None:
        super().__init__()
        self.before, self.attention, self.need_weights = nn.Linear(E, E), nn.MultiheadAttention(E, 2, **options), need_weights

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).transpose(0, 1)
        result: Tensor = self.attention(x, x, x, need_weights=self.need_weights)[0]
        return result.transpose(0, 1)


class Encodes(nn.Module):
    """Layers of torch with their default options, behind one another."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.before, self.layers = nn.Linear(E, E), nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(self.before(x).transpose(0, 1))
        return result.mean(0)


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(E, 2, 16, **options)


class Transforms(nn.Module):
    """An encoder and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(E, 2, 1, 1, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        result: Tensor = self.transformer(x, x[:3])
        return result.transpose(0, 1)


STEPS_FIRST: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attends(need_weights=True),
    "attention without weights": lambda: Attends(need_weights=False),
    "attention without bias": lambda: Attends(need_weights=False, bias=False),
    "attention of other sizes": lambda: Attends(need_weights=True, kdim=E, vdim=E),
    "an encoder layer": lambda: Encodes(encoder_layer()),
    "an encoder": lambda: Encodes(nn.TransformerEncoder(encoder_layer(norm_first=True, activation="gelu"), 2, enable_nested_tensor=False)),
    "a transformer": Transforms,
}


FOR_ONE_BATCH = ("attention", "attention without weights", "an encoder", "a transformer")


def made(name: str) -> nn.Module:
    torch.manual_seed(2)
    return STEPS_FIRST[name]().eval()


def from_legacy_onnx(module: nn.Module, x: Tensor, path: Path, *, free: bool = True) -> nn.Module:
    axes = {"dynamic_axes": {"x": {0: "batch"}}} if free else {}
    torch.onnx.export(module, (x if free else x[:1],), str(path), dynamo=False, input_names=["x"], **axes)  # type: ignore[arg-type]
    return from_onnx(path, x)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", STEPS_FIRST)
def test_layers_that_want_the_steps_first(name: str) -> None:
    check(made(name), samples(), name)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", STEPS_FIRST)
def test_layers_that_want_the_steps_first_exported(name: str, tmp_path: Path) -> None:
    check(exported(made(name), samples(), tmp_path / "model.pt2"), samples(), f"{name}, exported")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STEPS_FIRST)
def test_layers_that_want_the_steps_first_in_onnx(name: str, tmp_path: Path) -> None:
    check(from_legacy_onnx(made(name), samples(), tmp_path / "model.onnx"), samples(), f"{name}, ONNX")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FOR_ONE_BATCH)
def test_files_that_hold_one_batch_size_are_freed_of_it(name: str, tmp_path: Path) -> None:
    module, x = made(name), samples()
    programs = exported(module, x, tmp_path / "model.pt2", free=False), exported(module, x, tmp_path / "free.pt2")
    for rows in (x, x[:5]):
        torch.testing.assert_close(programs[0](rows), module(rows), rtol=1e-4, atol=1e-5)
    y = check(programs[1], x, name)
    assert_bit_exact(check(programs[0], x, name).numpy(), y.numpy(), names=("for two samples", "for any number"))
    check(from_legacy_onnx(module, x, tmp_path / "model.onnx", free=False), x, f"{name}, ONNX")


@pytest.mark.parametrize(
    "form", ["time major", "rows", "flattened", "attention by hand", "stack and take", "one number a sample", "every step alone"]
)
def test_forms_exported_for_one_batch_size(form: str, tmp_path: Path) -> None:
    check(exported(held(FORMS[form]), samples(), tmp_path / "model.pt2", free=False), samples(), form)


def test_a_file_whose_batch_is_lost_is_refused(tmp_path: Path) -> None:
    model = held(lambda m, x: m.a(x.transpose(0, 1).reshape(2, T, E)))
    with pytest.raises(UnsupportedError, match=r"(?s)moves the batch, and holds one size of it alone.*export it with a batch of any size"):
        exported(model, samples(2), tmp_path / "model.pt2", free=False)
