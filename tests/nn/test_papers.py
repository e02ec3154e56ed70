"""Methods beside their papers' own formulas, each written once more in a few lines of numpy or Python integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import Recipe, Spec
from qfx.errors import DataError, QfxError
from qfx.fixed.number_sets import read
from qfx.nn.quantizer import Quantizer
from qfx.ptq import shifted_ranges
from qfx.ptq.floating.shifted import shifted
from qfx.training.distillation import map_distance
from qfx.training.dynamic import dynamic, with_dynamic
from qfx.training.levels import start
from qfx.training.low_rank import low_rank

Floats = npt.NDArray[np.float64]


# ---- DFP-16 (Das et al., 2018) ----


def shared_exponent(x: Tensor, bits: int) -> tuple[list[list[int]], int]:
    """Integers of ``bits`` bits, and the least exponent with which the greatest of them fits."""
    rows = [[float(value) for value in row] for row in x.detach().tolist()]
    top, exponent = max(abs(value) for row in rows for value in row), -200
    while top >= 2.0 ** (exponent + bits - 1):
        exponent += 1
    most = 2 ** (bits - 1) - 1
    return [[max(-most, min(most, round(value * 2.0**-exponent))) for value in row] for row in rows], exponent  # Python's round is to even, too


def integer_product(a: Tensor, b: Tensor, bits: int, chain: int) -> Tensor:
    """a times b: INT16 products in INT32 sums of ``chain``, which go on in FP32."""
    (left, e), (right, f) = shared_exponent(a, bits), shared_exponent(b, bits)
    found = []
    for row in left:
        for column in zip(*right, strict=True):
            total = np.float32(0)
            for first in range(0, len(row), chain):
                whole = sum(x * y for x, y in zip(row[first : first + chain], column[first : first + chain], strict=True))
                wrapped = (whole + 2**31) % 2**32 - 2**31
                total = np.float32(total + np.float32(np.float32(wrapped) * np.float32(2.0 ** (e + f))))
            found.append(float(total))
    return torch.tensor(found).reshape(len(left), -1)


@pytest.mark.parametrize(("bits", "chain"), [(16, 8), (16, 2), (8, 5)])
def test_dynamic_fixed_point_forward_and_backward(bits: int, chain: int) -> None:
    torch.manual_seed(bits + chain)
    x, grad = torch.randn(7, 12, requires_grad=True), torch.randn(7, 4) * 1e-3
    net = with_dynamic(nn.Sequential(nn.Linear(12, 4, bias=False)), x.detach(), bits=bits, chain=chain)
    y, weight = net(x), net[0].weight  # type: ignore[index]
    y.backward(grad)
    assert torch.equal(y, integer_product(x, weight.T, bits, chain))
    assert torch.equal(x.grad, integer_product(grad, weight, bits, chain))  # type: ignore[arg-type]
    assert torch.equal(weight.grad, integer_product(grad.T, x, bits, chain))
    assert [dynamic(x, bits).raw.tolist(), dynamic(x, bits).exponent] == [*shared_exponent(x, bits)]


def test_dynamic_fixed_point_convolution() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5)
    net = with_dynamic(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)), x, bits=16, chain=8)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    places = [(n, i, j) for n in range(2) for i in range(3) for j in range(3)]
    windows = torch.stack([padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].flatten() for n, i, j in places])
    wanted = integer_product(windows, net[0].weight.flatten(1).T, 16, 8)  # type: ignore[index]
    found = net(x)
    assert [found[n, :, i, j].tolist() for n, i, j in places] == wanted.tolist()


def test_dynamic_fixed_point_convolutions_of_groups_and_lengths() -> None:
    """One exponent for the whole tensor, whatever the groups; padding by text and by the tensor's own numbers; gradients, too."""
    torch.manual_seed(0)
    x, grad = torch.randn(2, 4, 7), torch.randn(2, 6, 7)
    x[:, 2:] *= 2.0**-6  # a group by itself would have a finer exponent
    x.requires_grad_()
    net = with_dynamic(nn.Sequential(nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular", groups=2, bias=False)), x.detach())
    weight = net[0].weight  # type: ignore[index]
    padded = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2).detach()
    windows = torch.stack([padded[n, :, i : i + 3] for n in range(2) for i in range(7)])  # (14, 4, 3)
    (_, e), (_, f) = shared_exponent(windows.flatten(1), 16), shared_exponent(weight.flatten(1), 16)
    found = net(x)
    found.backward(grad)
    (_, g) = shared_exponent(grad.transpose(1, 2).reshape(14, 6), 16)
    for group in range(2):
        top = torch.tensor([2.0 ** (exponent + 15) - 2.0**exponent for exponent in (e, f, g)])  # beside it each part has the tensor's exponent
        part = windows[:, 2 * group : 2 * group + 2].flatten(1)
        own = weight[3 * group : 3 * group + 3].flatten(1)
        rows = torch.cat([part, top[0].expand(1, 6)])
        columns = torch.cat([own, top[1].expand(1, 6)])
        wanted = integer_product(rows, columns.T, 16, 8)[:14, :3]
        assert torch.equal(found[:, 3 * group : 3 * group + 3].transpose(1, 2).reshape(14, 3), wanted)
        sent = torch.cat([grad[:, 3 * group : 3 * group + 3].transpose(1, 2).reshape(14, 3), top[2].expand(14, 1)], 1)
        by_weight = integer_product(sent.T, torch.cat([part, top[0].expand(14, 1)], 1), 16, 8)[:3, :6]
        assert torch.equal(weight.grad[3 * group : 3 * group + 3].flatten(1), by_weight)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 8, 3, stride=2, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, (3, 2), padding=(1, 0), groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2),
        nn.Conv3d(4, 2, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1), groups=2),
    ],
)
def test_dynamic_fixed_point_convolutions_lie_where_torch_has_them(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randint(-3, 4, (2, 4, *[6] * (layer.weight.dim() - 2))).float()  # type: ignore[operator]
    with torch.no_grad():
        for part in layer.parameters():
            part.copy_(torch.randint(-3, 4, part.shape))
    assert torch.equal(with_dynamic(nn.Sequential(layer), x, chain=2)(x), layer(x))  # small integers, sums that do not wrap: exact in both


# ---- NUPES (Yvinec et al., 2023) ----


@pytest.mark.parametrize(("bits", "exponent"), [(3, 0.6), (4, 0.5), (4, 0.85), (5, 1.0)])
def test_power_codes_are_those_of_the_power_quantizer(bits: int, exponent: float) -> None:
    """The paper's operator: sign(x) |x|**a in front of a uniform quantizer of b bits, and its inverse behind it."""
    width, most = 12, 2 ** (bits - 1) - 1
    scale, x = 2.0 ** (width - 1) - 1, np.linspace(-1, 1, 4001)
    codes = np.sign(x) * np.round(most * np.abs(x) ** exponent)
    theirs = np.sign(codes) * (np.abs(codes) / most) ** (1 / exponent)
    numbers = read(f"power({bits}, {exponent})").integers(width)
    assert sorted(set(np.sign(theirs) * np.floor(np.abs(theirs) * scale + 0.5))) == numbers.tolist()
    cast = Quantizer(Spec(width, numbers=f"power({bits}, {exponent})", frac_bits=0), channel_axis=0)
    values = torch.from_numpy(x * scale)
    cast.initialize(values)
    ours = cast(values).value.detach().numpy()
    assert np.isin(ours, numbers).all()
    nearest = numbers[np.abs(values.numpy()[:, None] - numbers).argmin(1)]
    assert (np.abs(ours - values.numpy()) == np.abs(nearest - values.numpy())).all()
    assert np.square(ours - x * scale).sum() <= np.square(theirs * scale - x * scale).sum() + len(x) / 4  # nearest in value, theirs in the power


def test_levels_of_a_pruned_weight_lie_on_both_sides() -> None:
    """More than half of it is 0, which has a level of its own."""
    units = torch.cat([torch.zeros(70), -torch.arange(1.0, 16.0), torch.arange(1.0, 16.0)])
    for half in (1, 3):
        levels = start(units, half)
        assert (levels[:half] < 0).all()
        assert (levels[half:] > 0).all()
    assert (start(torch.zeros(8), 2) != 0).all()


# ---- learned levels (Biswas, Singhal et al., 2025) ----


def test_the_regularizer_is_the_distance_to_the_nearest_level() -> None:
    torch.manual_seed(0)
    q = qfx.quantize(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(16, 6), Recipe(weight=Spec(8)))
    levels = qfx.Levels(q, 3)
    with torch.no_grad():
        for sizes in levels.parameters():
            sizes.add_(torch.randn_like(sizes))
    levels.loss().backward()
    total = 0.0
    for name, sizes in zip(("0", "2"), levels.parameters(), strict=True):
        layer = q.get_submodule(name)
        unit = 2.0 ** int(layer.weight_cast.points())
        weight, every = layer.weight.detach().double().numpy() * unit, [0.0, *sizes.tolist()]
        slopes, pull, error, share = np.zeros(len(every)), np.zeros(weight.shape), 0.0, np.square(weight).mean()
        for place in np.ndindex(weight.shape):
            near = min(range(len(every)), key=lambda k: abs(weight[place] - every[k]))
            distance = weight[place] - every[near]
            error += distance**2
            slopes[near] -= 2 * distance / weight.size / share / 2
            pull[place] = 2 * distance * unit / weight.size / share / 2
        total += error / weight.size / share / 2
        assert sizes.grad is not None
        assert np.allclose(sizes.grad.numpy(), slopes[1:], rtol=1e-3, atol=1e-6)
        assert np.allclose(layer.weight.grad.numpy(), pull, rtol=1e-3, atol=1e-5)
    assert float(levels.loss().detach()) == pytest.approx(total, rel=1e-4)


# ---- PAMS (Li et al., 2020) ----


def test_the_maximum_of_an_activation_learns_as_alpha_does() -> None:
    """PAMS: what is clipped to +-alpha pulls alpha with its sign. Here alpha is 2**-F times the greatest raw, so d/dF = -ln 2 * alpha * d/d alpha,
    times what keeps rates of all words alike, 2**-(4 / 2)."""
    spec = Spec(4, signed=True, o="AP_SAT_SYM", frac_bits=2)
    cast = Quantizer(spec)
    x = torch.tensor([5.0, -7.0, 2.0, -3.0], requires_grad=True)  # all beyond 7 / 4
    cast.initialize(x.detach())
    cast.frac_bits.grad = None
    upstream = torch.tensor([0.5, 2.0, -1.0, 0.25])
    (cast(x).value * upstream).sum().backward()
    alpha = 7 / 4
    assert float(cast.frac_bits.grad) == pytest.approx(-np.log(2) * alpha * float((upstream * x.detach().sign()).sum()) / 4, rel=1e-5)  # type: ignore[arg-type]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0, 0]


def test_structured_knowledge_is_the_distance_of_normalized_maps() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 7, 5, 6))
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        maps = [np.square(part).sum(0) for part in (ours, theirs)]
        maps = [part / np.sqrt(np.square(part).sum()) for part in maps]
        total += np.square(maps[0] - maps[1]).sum() / 3
    assert float(map_distance(torch.from_numpy(student), torch.from_numpy(teacher))) == pytest.approx(total, rel=1e-12)


# ---- LR-QAT (Bondarenko et al., 2024) ----


def test_low_rank_weights_are_rounded_as_the_paper_has_it() -> None:
    """W = s * clip(round(W0 / s + gain * A B / s), -2**(b - 1), 2**(b - 1) - 1)."""
    torch.manual_seed(0)
    x, net = torch.randn(32, 12), nn.Sequential(nn.Linear(12, 10))
    before = net[0].weight.detach().clone()
    low_rank(net, 2, gain=0.5)
    q = qfx.quantize(net, x, Recipe(weight=Spec(3)))
    layer: Any = q.get_submodule("0")
    parts = dict(q.named_parameters())
    a, b = (parts[f"0.parametrizations.weight.0.{name}"] for name in "ab")
    with torch.no_grad():
        a.copy_(torch.randn_like(a))
    scale = 2.0 ** -int(layer.weight_cast.points())
    raw = ((before.double() + 0.5 * (a @ b).detach().double()) / scale + 0.5).floor().clamp(-4, 3)
    assert torch.equal(layer.constants()[0].value.double(), raw * scale)
    q(x).square().sum().backward()
    assert a.grad is not None
    assert [name for name, part in q.named_parameters() if part.grad is not None and part.dim() == 2] == [
        f"0.parametrizations.weight.0.{name}" for name in "ab"
    ]


# ---- the whitepaper's affine quantizer (Krishnamoorthi, 2018) ----


def test_shifted_ranges_are_the_affine_quantizer() -> None:
    """x_int = clamp(0, 2**b - 1, round(x / step) + z), x = (x_int - z) * step: here z = -first and the step is a power of two."""
    torch.manual_seed(0)
    weight = torch.randn(6, 9) * 0.3 + 0.2
    changes = shifted(weight, 4)
    numbers, step = read(changes["numbers"]).integers(changes["width"]), 2.0 ** -changes["frac_bits"]
    assert numbers.tolist() == list(range(int(numbers[0]), int(numbers[0]) + 16))
    zero_point, span = -int(numbers[0]), float(weight.max()) - min(float(weight.min()), 0)
    assert span / 15 <= step < 2 * span / 15
    cast = Quantizer(Spec(changes["width"], numbers=changes["numbers"], frac_bits=changes["frac_bits"]), channel_axis=0)
    cast.initialize(weight)
    affine = (np.clip(np.floor(weight.double().numpy() / step + 0.5) + zero_point, 0, 15) - zero_point) * step
    assert cast(weight).value.detach().double().numpy().tolist() == affine.tolist()


def test_shifted_ranges_of_a_model() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(32, 6)
    with torch.no_grad():
        net[2].weight.copy_(torch.rand(3, 5))  # type: ignore[index, union-attr, operator]
    overrides = shifted_ranges(net, 4)
    assert [override.pattern for override in overrides] == ["0.weight", "2.weight"]
    q = qfx.quantize(net, x, Recipe(weight=Spec(4, granularity="tensor"), overrides=overrides)).eval()
    for name, override in zip(("0", "2"), overrides, strict=True):
        layer: Any = q.get_submodule(name)
        raw = layer.constants()[0].value.double() * 2.0 ** int(layer.weight_cast.points())
        assert int(layer.weight_cast.points()) == override.changes["frac_bits"]
        assert set(raw.flatten().tolist()) <= set(read(override.changes["numbers"]).integers(override.changes["width"]).tolist())
    assert overrides[1].changes["numbers"] == f"levels({', '.join(map(str, range(16)))})"  # nothing below zero: all codes above it
    assert [override.pattern for override in shifted_ranges(net, 4, pattern="2")] == ["2.weight"]
    qfx.quantize(nn.Linear(6, 5), x, Recipe(overrides=shifted_ranges(nn.Linear(6, 5))))
    assert shifted(torch.zeros(3), 2) == {"numbers": "levels(0, 1, 2, 3)", "width": 3, "frac_bits": 0}
    with pytest.raises(QfxError, match="no linear layer or convolution matches 'conv'"):
        shifted_ranges(net, 4, pattern="conv")
    with pytest.raises(QfxError, match="bits is 9"):
        shifted_ranges(net, 9)
    with pytest.raises(DataError, match="NaN or infinity"):
        shifted(torch.tensor([float("nan")]), 4)
