"""The texts that remedies offer as "the same": each is evaluated beside the operation that it stands for, and quantized."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_models import Calls, check_exact, integers
from torch import Tensor, nn

import qfx
from qfx import UnsupportedError
from qfx.capture.refusals import rewrites

IMAGE, SIGNAL, VECTOR = integers(4, 4, 6, 8), integers(4, 6, 9), integers(4, 8)
W, P = nn.Parameter(integers(8, 5, seed=3)), nn.Parameter(integers(4, 6, 8, seed=4))


class Rewritten(nn.Module):
    """``text`` as a forward."""

    def __init__(self, text: str, **layers: nn.Module) -> None:
        super().__init__()
        self.text = text
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        names = {"x": x, "F": F, "torch": torch, "self": self, "nn": nn, **dict(self.named_children())}
        value: Tensor = eval(self.text, names)
        return value


FORMS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]] = {
    "max over time": (lambda m, x: torch.max(x, 2)[0], SIGNAL),
    "max of channels": (lambda m, x: x.max(dim=1, keepdim=True).values, IMAGE),
    "narrow": (lambda m, x: x.narrow(2, 1, 3), IMAGE),
    "select": (lambda m, x: x.select(1, -1), IMAGE),
    "list of channels": (lambda m, x: x[:, [2, 0, 1]], IMAGE),
    "list of columns": (lambda m, x: x[:, :, [2, 0, -1]], SIGNAL),
    "a new axis": (lambda m, x: x[:, None], VECTOR),
    "index_select": (lambda m, x: torch.index_select(x, 2, torch.tensor([0, 1, 5])), SIGNAL),
    "movedim": (lambda m, x: x.movedim(1, -1), IMAGE),
    "swapaxes": (lambda m, x: torch.swapaxes(x, 1, 2), SIGNAL),
    "mT": (lambda m, x: x.mT, SIGNAL),
    "flip of columns": (lambda m, x: x.flip(3), IMAGE),
    "flip of channels": (lambda m, x: torch.flip(x, (1,)), IMAGE),
    "roll": (lambda m, x: torch.roll(x, 2, 2), IMAGE),
    "roll back": (lambda m, x: x.roll(-1, dims=1), SIGNAL),
    "repeat": (lambda m, x: x.repeat(1, 2, 1, 3), IMAGE),
    "tile": (lambda m, x: torch.tile(x, (1, 3)), VECTOR),
    "repeat_interleave": (lambda m, x: x.repeat_interleave(2, 3), IMAGE),
    "expand of pixels": (lambda m, x: x.expand(-1, -1, 6, 8), IMAGE[:, :, :1, :1]),
    "expand of channels": (lambda m, x: x.expand(-1, 5, -1), SIGNAL[:, :1]),
    "crop": (lambda m, x: F.pad(x, (-1, 2, 0, -3)), IMAGE),
    "ChannelShuffle": (lambda m, x: F.channel_shuffle(x, 3), SIGNAL[:, :, :, None]),
}


TAKEN = frozenset({
    "narrow", "select", "list of channels", "list of columns", "index_select", "movedim", "swapaxes", "flip of columns", "flip of channels",
    "roll", "roll back", "repeat", "tile", "repeat_interleave", "expand of pixels", "expand of channels", "crop", "ChannelShuffle",
})  # fmt: skip
"""Forms that go through as they are."""


@pytest.mark.parametrize("name", [name for name in FORMS if name in TAKEN])
def test_what_moves_numbers_goes_through(name: str) -> None:
    forward, x = FORMS[name]
    check_exact(qfx.quantize(Calls(forward), x))


@pytest.mark.parametrize("name", [name for name in FORMS if name not in TAKEN])
def test_the_same_is_the_same(name: str) -> None:
    forward, x = FORMS[name]
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(Calls(forward), x)
    (blocker,) = caught.value.blockers
    found = re.match(r"(?:before an addition write a subtraction; elsewhere )?(?:nn\.\w+\(\) or )?(.*?) (?:is the same|keeps)", blocker.remedy)
    assert found is not None, blocker
    model = Rewritten(found[1])
    torch.testing.assert_close(model(x), forward(model, x), rtol=1e-6, atol=1e-6)
    check_exact(qfx.quantize(model, x))


PARTS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, ...]], Tensor]] = {
    "chunk": (lambda x: x.chunk(2, 1), IMAGE),
    "uneven chunk": (lambda x: torch.chunk(x, 2, -1), SIGNAL),
    "split": (lambda x: torch.split(x, [1, 3], 1), IMAGE),
    "split method": (lambda x: x.split(3, dim=2), IMAGE),
    "unbind": (lambda x: x.unbind(1), IMAGE),
    "tensor_split": (lambda x: torch.tensor_split(x, 2, 1), VECTOR),
}


@pytest.mark.parametrize("name", PARTS)
def test_slices_give_the_parts(name: str) -> None:
    cut, x = PARTS[name]

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        first, *_, last = cut(x)
        return F.relu(first).flatten(1)[:, :4] + last.flatten(1)[:, :4]

    with pytest.raises(UnsupportedError, match=r"gives a .* of tensors") as caught:
        qfx.quantize(Calls(forward), x)
    (blocker,) = caught.value.blockers
    texts = blocker.remedy.removeprefix("slices give the same: ").replace("x[", "\nx[").split("\n")[1:]
    parts = [eval(text.rstrip(", "), {"x": x}) for text in texts]
    assert all(torch.equal(part, wanted) for part, wanted in zip(parts, cut(x), strict=True))
    check_exact(qfx.quantize(Rewritten(texts[-1].rstrip(", ")), x))


def depthwise(layer: nn.Module, weight: float | Tensor, bias: float | Tensor) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight, dtype=torch.float32).reshape(-1, *(1,) * (layer.weight.dim() - 1)).expand_as(layer.weight))
        layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float32).flatten().expand_as(layer.bias))
    return layer


LAYERS: dict[str, tuple[nn.Module, Tensor]] = {
    "PixelShuffle": (nn.PixelShuffle(2), integers(4, 8, 3, 5)),
    "PixelUnshuffle": (nn.PixelUnshuffle(2), IMAGE),
    "Unfold": (nn.Unfold((2, 3), padding=1, stride=2), IMAGE),
}


MOVING = ("PixelShuffle", "PixelUnshuffle", "Unfold")
"""Layers that go through as they are."""


@pytest.mark.parametrize("name", MOVING)
def test_layers_that_move_numbers_go_through(name: str) -> None:
    layer, x = LAYERS[name]
    check_exact(qfx.quantize(nn.Sequential(layer), x))


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in MOVING])
def test_layers_with_one_hot_weights(name: str) -> None:
    layer, x = LAYERS[name]
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(nn.Sequential(layer), x)
    text, weight = caught.value.remedy.split(" with its weight ")
    new = eval(text, {"nn": nn})
    new.weight = nn.Parameter(eval(weight.partition(" is the same")[0].partition(", and")[0], {"torch": torch}))
    rewritten = Rewritten("new(x)" + (".flatten(2)" if "flatten(2)" in weight else ""), new=new)
    assert torch.equal(rewritten(x), layer(x))
    check_exact(qfx.quantize(rewritten, x))


TWO: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "join of rows": lambda m, x: torch.cat([x, m.a(x)], 2),
}


def test_values_joined_along_rows_go_through() -> None:
    check_exact(qfx.quantize(Calls(TWO["join of rows"], a=nn.Conv2d(4, 4, 1)), IMAGE))


@pytest.mark.parametrize("name", [name for name in TWO if name != "join of rows"])
def test_operations_on_two_values(name: str) -> None:
    model = Calls(TWO[name], a=nn.Conv2d(4, 4, 1))
    with pytest.raises(UnsupportedError) as caught:
        qfx.quantize(model, IMAGE)
    (blocker,) = caught.value.blockers
    text = re.sub(r"\b[ab]\b", lambda match: "(x)" if match[0] == "a" else "(conv(x))", blocker.remedy.partition(" is the same")[0])
    rewritten = Rewritten(text, conv=model.a)
    torch.testing.assert_close(rewritten(IMAGE), model(IMAGE))
    check_exact(qfx.quantize(rewritten, IMAGE))


def test_a_padded_maximum_behind_a_relu() -> None:
    layer = nn.MaxPool2d(3, 2, ceil_mode=True)
    check_exact(qfx.quantize(nn.Sequential(nn.ReLU(), layer), IMAGE))


def test_shapes_that_do_not_broadcast() -> None:
    assert rewrites.expanded("x", (4, 1), (4, 8, 8)) is None
    assert rewrites.expanded("x", (3, 8, 8), (4, 8, 8)) is None
