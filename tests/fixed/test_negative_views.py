"""Tensors that are negated by a bit of theirs, not in memory, as the imaginary part of a conjugate is: each entry of the kernel takes their signs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_cases import assert_same_bits
from torch import Tensor, nn

import qfx
from qfx.fixed.kernel import CastMode, PlainCast, cast, channel_moments, quantize, quantize_pair
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.nn.quantizer import Quantizer

RND_SAT = CastMode(True, QMode.RND, OMode.SAT)
TYPE = FixedType(8, 4, True, QMode.RND, OMode.SAT)


def imaginary(x: Tensor) -> Tensor:
    """-(-x): a view of every second number."""
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def in_order(x: Tensor) -> Tensor:
    """-(-x), contiguous (or channels last, as x is)."""
    return torch._neg_view(-x)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {"imaginary part of a conjugate": imaginary, "in order": in_order}


def data(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 3 + 0.7


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return VIEWS[request.param]


def test_the_views_are_what_they_should_be(view: Callable[[Tensor], Tensor]) -> None:
    x = data(3, 4)
    assert view(x).is_neg()
    assert torch.equal(view(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_cast_and_moments(view: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    if dtype is torch.float16 and view is imaginary:
        pytest.skip("torch makes no such complex numbers")
    for x in (data(5, 3, dtype=torch.float64).to(dtype), data(1, 1, dtype=torch.float64).to(dtype), data(2, 3, 4, 4, dtype=torch.float64).to(dtype)):
        assert_same_bits(cast(view(x), TYPE), cast(x, TYPE))
        for found, expected in zip(channel_moments(view(x)), channel_moments(x), strict=True):
            assert_same_bits(found, expected)
    x = data(2, 3, 4, 4, dtype=torch.float64).to(dtype).to(memory_format=torch.channels_last)
    assert_same_bits(cast(view(x), TYPE), cast(x, TYPE))
    for found, expected in zip(channel_moments(view(x)), channel_moments(x.contiguous()), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)


POINTS: dict[str, Tensor] = {
    "tensor": torch.tensor(4.0),
    "tensor, double": torch.tensor(4.0, dtype=torch.float64),
    "channel": torch.tensor([3.0, 4.0, 5.0]).reshape(1, 3, 1, 1),
    "element": (torch.arange(48) % 3 + 3.0).reshape(1, 3, 4, 4),
}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "scale": ("scale",),
    "affine": ("scale", "shift"),
    "addend": ("addend",),
    "all": ("scale", "shift", "addend"),
}


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("learned", [False, True])
def test_every_argument_and_every_gradient(
    view: Callable[[Tensor], Tensor], points: str, arguments: str, dtype: torch.dtype, memory_format: torch.memory_format, learned: bool
) -> None:
    shape = (2, 3, 4, 4)
    own: dict[str, Tensor] = {
        "x": data(*shape, dtype=dtype).to(memory_format=memory_format),
        "frac_bits": POINTS[points],
        "scale": data(3, dtype=dtype, seed=1),
        "shift": data(3, dtype=torch.float64, seed=2),
        "addend": data(*shape, dtype=dtype, seed=3).to(memory_format=memory_format),
    }
    own["int_bits"] = 8 - own["frac_bits"]
    used = {name: own[name] for name in ("x", "frac_bits", *(("int_bits",) if learned else ()), *ARGUMENTS[arguments])}
    upstream = data(*shape, dtype=torch.float32 if dtype is torch.float32 else torch.float64, seed=4)

    def run(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in used.items()}
        y = quantize(**{name: change(leaf) for name, leaf in leaves.items()}, width=8, mode=RND_SAT, negative_slope=0.0)  # type: ignore[arg-type]
        return [y, *torch.autograd.grad(y, list(leaves.values()), change(upstream.to(y.dtype)))]

    (found, *grads), (expected, *expected_grads) = run(view), run(lambda x: x)
    assert_same_bits(found, expected)
    for grad, expected in zip(grads, expected_grads, strict=True):  # the view may lie otherwise in memory, and the sums be in another order
        assert torch.allclose(grad, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("which", ["x", "frac_bits", "grad"])
def test_pairs(view: Callable[[Tensor], Tensor], which: str) -> None:
    def run(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (data(4, 3), torch.tensor(4.0), data(4, seed=1), torch.tensor(3.0))]
        x, f, y, g = ((change(leaf) if which == name else leaf) for leaf, name in zip(leaves, ("x", "frac_bits", "x", "frac_bits"), strict=True))
        pair = quantize_pair(PlainCast(x, f, 8, RND_SAT, 0.5), PlainCast(y, g, 6, RND_SAT, 0.25))
        upstream = [data(4, 3, seed=5), data(4, seed=6)]
        grads = torch.autograd.grad(pair, leaves, [change(up) if which == "grad" else up for up in upstream])
        return [*pair, *grads]

    for found, expected in zip(run(view), run(lambda x: x), strict=True):
        assert_same_bits(found, expected)


def test_a_quantizer_and_a_model_take_them(view: Callable[[Tensor], Tensor]) -> None:
    x = data(4, 3, 6, 6)
    quantizer = Quantizer(qfx.Spec(6))
    quantizer.initialize(view(x))
    start = quantizer.frac_bits.item()
    assert torch.equal(quantizer(view(x)).value, quantizer(x).value)
    quantizer.initialize(x)
    assert quantizer.frac_bits.item() == start
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    for q in (qfx.quantize(model, view(x)), qfx.quantize(model, x)):
        for mode in (True, False):
            q.train(mode)
            with torch.no_grad():
                assert torch.equal(q.eval()(view(x)), q(x))
