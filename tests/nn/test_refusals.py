"""quantize() refuses with the place and a remedy what it cannot express, and data that is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nn_models import DATA, Calls, check_exact, check_same_numbers, integers, small_network
from torch import Tensor, nn
from torch.nn.utils import prune

import qfx
from qfx import DataError, QfxError, RecipeError, UnsupportedError

IMAGE, SIGNAL, VECTOR = integers(4, 3, 7, 5), integers(4, 4, 9), integers(4, 6)


class Standardized(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight - weight.mean(), bias)


def hooked(change: Callable[[nn.Module], object]) -> nn.Module:
    model = small_network()
    change(model)
    return model


class InPlaceAlias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y
        y += x
        return F.relu(y) + z


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def last(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), *layers)


A = nn.Linear(6, 6)
# name: (model, data, what the message must say)
REFUSED: dict[str, tuple[nn.Module, Tensor, str]] = {
    "Upsample bicubic": (last(nn.Upsample(scale_factor=2, mode="bicubic")), IMAGE, "^1: upsampling by mode='bicubic'\n.*mode='nearest'"),
    "ConvTranspose1d on vectors": (last(nn.ConvTranspose1d(6, 6, 1)), VECTOR, "does not run on an example|ConvTranspose1d"),
    "ConvTranspose2d on two sizes": (
        Calls(lambda m, x: m.a(m.a(x)), a=nn.ConvTranspose2d(3, 3, 2, stride=2)),
        IMAGE,
        r"^a: is called on \(7, 5\) and on \(14, 10\)",
    ),
    "divisor_override": (last(nn.AvgPool2d(2, divisor_override=-4)), IMAGE, "^1: divisor_override=-4"),
    "return_indices": (last(nn.MaxPool2d(2, return_indices=True)), IMAGE, "return_indices off"),
    "ConstantPad2d": (last(nn.ConstantPad2d(1, -float("inf"))), IMAGE, "^1: padding by mode 'constant' with -inf"),
    "track_running_stats": (last(nn.BatchNorm2d(3, track_running_stats=False)), IMAGE, "^1: BatchNorm without running statistics"),
    "MaxPool2d on signals": (last(nn.MaxPool2d(3, 1, 1)), SIGNAL, "^1: MaxPool2d on a value of shape"),
    "AvgPool2d on signals": (last(nn.AvgPool2d(2, 1)), SIGNAL, "^1: AvgPool2d on a value of shape"),
    "MaxPool1d on vectors": (last(nn.MaxPool1d(3, 1, 1)), VECTOR, "^1: MaxPool1d on a value of shape"),
    "AdaptiveAvgPool1d on vectors": (last(nn.AdaptiveAvgPool1d(1)), VECTOR, "AdaptiveAvgPool1d|keep the batch"),
    "several inputs": (TwoInputs(), IMAGE, "TwoInputs: has 2 inputs"),
    "no input": (Calls(lambda m, x: 1), IMAGE, "has 0 inputs"),
    "control flow": (Calls(lambda m, x: x if x.sum() > 0 else -x), IMAGE, "cannot be traced: it decides by data"),
    "numpy": (Calls(lambda m, x: torch.from_numpy(x.numpy())), IMAGE, "^Calls: cannot be traced"),
    "item": (Calls(lambda m, x: x * x.max().item()), IMAGE, "keep the batch"),
    "batch merged": (Calls(lambda m, x: x.view(-1, 5)), IMAGE, "^view: .*batch of 2"),
    "batch moved": (Calls(lambda m, x: x.transpose(0, 1)), IMAGE, "^transpose: .*batch of 2"),
    "batch hard-coded": (Calls(lambda m, x: x.view(4, -1)), IMAGE, "does not run on an example"),
    "batch cut": (Calls(lambda m, x: x[1:]), IMAGE, "^getitem: .*batch of 2"),
    "batch joined": (Calls(lambda m, x: torch.cat((x, x))), IMAGE, "^cat: .*batch of 2"),
    "batch as a number": (Calls(lambda m, x: F.avg_pool2d(x, 2, divisor_override=x.shape[0])), IMAGE, "^avg_pool2d"),
    "seven axes": (Calls(lambda m, x: x.unflatten(1, (1, 1, 3)).unsqueeze(1).flatten(1)), IMAGE, "^unsqueeze: gives shape"),
    "empty slice": (Calls(lambda m, x: x[:, 0:0]), IMAGE, "^getitem: gives shape"),
    "mask": (Calls(lambda m, x: x[x > 0]), IMAGE, "getitem: gives shape"),
    "bits as integers": (Calls(lambda m, x: x.view(torch.int32)), IMAGE, "^view: a view of the bits"),
    "dropout at inference": (Calls(lambda m, x: F.dropout(x, 0.5)), IMAGE, "^dropout: dropout at inference"),
    "relu_ of a view": (Calls(lambda m, x: (lambda y: (y.view(-1, 2, 3).relu_(), y)[1])(m.a(x)), a=A), VECTOR, "^relu_: changes"),
    "half": (Calls(lambda m, x: x.half().float()), IMAGE, "^half: a conversion from"),
    "bfloat16": (Calls(lambda m, x: x.bfloat16().float()), IMAGE, "^bfloat16: a conversion from"),
    "int": (Calls(lambda m, x: x * (x > 1).int()), IMAGE, "^int: a conversion from"),
    "long": (Calls(lambda m, x: x * (x > 1).long()), IMAGE, "^long: a conversion from"),
}

TAKEN: dict[str, tuple[nn.Module, Tensor]] = {
    "Upsample by a fraction": (last(nn.Upsample(scale_factor=1.5)), IMAGE),
    "Upsample by nearly 2": (last(nn.Upsample(scale_factor=2.1)), SIGNAL),
    "Upsample by 41, which PyTorch rounds": (last(nn.Upsample(scale_factor=41)), SIGNAL),
    "Upsample to fewer": (last(nn.Upsample(size=(7, 3))), IMAGE),
    "ceil_mode": (last(nn.MaxPool2d(2, ceil_mode=True)), IMAGE),
    "padding_mode": (last(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), IMAGE),
    "padding_mode same": (last(nn.Conv2d(3, 3, 3, padding="same", padding_mode="circular")), IMAGE),
    "ZeroPad2d negative": (last(nn.ZeroPad2d((-1, 0, 0, 0))), IMAGE),
    "len": (Calls(lambda m, x: x.view(len(x), -1)), IMAGE),
    "cat of rows": (Calls(lambda m, x: torch.cat((x, x), 2)), IMAGE),
    "list index": (Calls(lambda m, x: x[:, [0, 1]]), IMAGE),
    "chunk": (Calls(lambda m, x: torch.chunk(x, 3, 1)[0]), IMAGE),
    "split": (Calls(lambda m, x: x.split(1, 1)[1]), IMAGE),
    "relu(inplace) read again": (Calls(lambda m, x: (lambda y: F.relu(y, inplace=True) + y)(m.a(x)), a=A), VECTOR),
    "relu_ as a statement": (Calls(lambda m, x: (lambda y: (y.relu_(), y)[1])(m.a(x)), a=A), VECTOR),
    "add_ as a statement": (Calls(lambda m, x: (lambda y: (y.add_(x), y)[1])(m.a(x)), a=A), VECTOR),
    "inplace module read again": (Calls(lambda m, x: (lambda y: m.r(y) + y)(m.a(x)), a=A, r=nn.ReLU(inplace=True)), VECTOR),
    "input changed in place": (Calls(lambda m, x: torch.relu_(x) + m.a(x), a=A), VECTOR),
    "y += x with another name for y": (InPlaceAlias(), VECTOR),
}
"""Once in the way: nothing is rounded, so the numbers are the float model's."""

CAST: dict[str, tuple[nn.Module, Tensor]] = {
    "Softmax": (last(nn.Softmax(1)), IMAGE),
    "GroupNorm": (last(nn.GroupNorm(3, 3)), IMAGE),
    "weight standardization": (nn.Sequential(Standardized(3, 4, 3)), IMAGE),
    "forward hook": (hooked(lambda m: m[2].register_forward_hook(lambda *_: None)), DATA),
    "pre-hook of the root": (hooked(lambda m: m.register_forward_pre_hook(lambda *_: None)), DATA),
    "pruning": (hooked(lambda m: prune.l1_unstructured(m[0], "weight", 0.5)), DATA),
    "weight_norm": (hooked(lambda m: torch.nn.utils.parametrizations.weight_norm(m[0])), DATA),
    "own forward": (hooked(lambda m: setattr(m[2], "forward", torch.tanh)), DATA),
}
"""Once in the way: what these give is rounded."""


@pytest.mark.parametrize("name", TAKEN)
def test_forms_that_are_taken_with_the_same_numbers(name: str) -> None:
    check_same_numbers(*TAKEN[name])


@pytest.mark.parametrize("name", CAST)
def test_forms_that_are_taken_and_rounded(name: str) -> None:
    check_exact(qfx.quantize(*CAST[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_remedy(name: str) -> None:
    model, x, message = REFUSED[name]
    with pytest.raises((UnsupportedError, DataError), match=message) as caught:
        qfx.quantize(model, x)
    assert caught.value.where
    assert caught.value.remedy


BAD_DATA: dict[str, object] = {
    "NaN": DATA * float("nan"),
    "infinity": DATA / 0,
    "channels": DATA[:, :2],
    "axes": DATA[0],
    "no sample": DATA[:0],
    "nothing": None,
    "complex": DATA.to(torch.complex64),
    "another dtype": DATA.double(),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_examples_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="example_input") as caught:
        qfx.quantize(small_network(), BAD_DATA[name])
    assert caught.value.remedy


@pytest.mark.parametrize("example", [[DATA], DATA.int()], ids=["a list of the inputs", "integers"])
def test_examples_of_other_kinds_are_taken(example: object) -> None:
    check_exact(qfx.quantize(small_network(), example))


@pytest.mark.parametrize("name", ["NaN", "infinity", "channels", "axes", "a list", "nothing", "complex"])
def test_bad_inputs_are_refused(name: str) -> None:
    data = {**BAD_DATA, "a list": [DATA]}[name]
    q = qfx.quantize(small_network(), DATA).eval()
    with pytest.raises(DataError, match=r"^input: ") as caught:
        q(data)
    assert caught.value.remedy


def test_bad_models_and_recipes_are_refused() -> None:
    for model in (torch.relu, None, nn.Linear, small_network().state_dict()):
        with pytest.raises(UnsupportedError, match=r"not a torch\.nn\.Module"):
            qfx.quantize(model, DATA)  # type: ignore[arg-type]
    for name in ("0.weight", "1.running_var"):
        model = small_network()
        model.state_dict()[name].view(-1)[0] = float("nan")
        with pytest.raises(DataError, match=rf"^{name}: NaN"):
            qfx.quantize(model, DATA)
    with pytest.raises(DataError, match=r"^0.weight: is not initialized yet"):
        qfx.quantize(nn.Sequential(nn.LazyConv2d(4, 3)), DATA)
    with pytest.raises(UnsupportedError, match="is quantized already"):
        qfx.quantize(qfx.quantize(small_network(), DATA), DATA)
    with pytest.raises(RecipeError, match=r"^recipe: is a str"):
        qfx.quantize(small_network(), DATA, "recipe.toml")  # type: ignore[arg-type]
    for call in (qfx.to_graph, lambda model: qfx.calibrate(model, DATA), lambda model: dict(qfx.quantizers(model))):
        with pytest.raises(QfxError, match="is not a quantized model"):
            call(small_network())
