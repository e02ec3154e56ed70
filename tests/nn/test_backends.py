"""Every switch that lets float32 products be rounded is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qfx
from qfx import ExactnessError
from qfx.fixed.arith import Interval
from qfx.nn import backends
from qfx.nn.layers import Weighted
from qfx.nn.qtensor import QTensor

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    return qfx.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)), X)


def test_what_is_around_a_model_trains_in_bfloat16(model: nn.Module) -> None:
    before = nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = before(X)
        assert half.dtype is torch.bfloat16
        result = model(half)
    result.square().sum().backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    assert before.weight.grad is not None
    assert before.weight.grad.abs().max() > 0
    model.zero_grad()
    whole = model(half.detach().float())
    assert torch.equal(result, whole)
    whole.square().sum().backward()
    for found, p in zip(gradients, model.parameters(), strict=True):
        assert (found is None and p.grad is None) or torch.equal(found, p.grad)


def settings() -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
    def new(path: str, value: str) -> Callable[[], None]:
        *parts, leaf = path.split(".")

        def write() -> None:
            holder = torch.backends
            for part in parts:
                holder = getattr(holder, part)
            setattr(holder, leaf, value)

        return write

    found = []
    for path in ("mkldnn.conv.fp32_precision", "mkldnn.matmul.fp32_precision", "mkldnn.fp32_precision", "fp32_precision"):
        for value in ("bf16", "tf32"):
            found.append((f"{path}={value}", new(path, value), new(path, "none")))
    return found


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has other switches")
@pytest.mark.parametrize(("name", "turn_on", "turn_off"), [pytest.param(*setting, id=setting[0]) for setting in settings()])
def test_reduced_precision_is_refused_by_name(model: nn.Module, name: str, turn_on: Callable[[], None], turn_off: Callable[[], None]) -> None:
    try:
        turn_on()
    except RuntimeError as error:
        pytest.skip(f"this torch has no {name}: {error}")
    try:
        with pytest.raises(ExactnessError, match=r"torch\.backends\.mkldnn\.(conv|matmul)\.fp32_precision is '(bf16|tf32)'") as caught:
            model(X)
        assert caught.value.where == "0"
    finally:
        turn_off()
    model(X)


def test_the_older_switch_and_autocast(model: nn.Module) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(ExactnessError, match="medium"):
            model(X)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = model(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # for what is around the model
        found = model(X)
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype is torch.bfloat16
    assert found.dtype is expected.dtype
    assert torch.equal(found, expected)
    layer = next(part for part in model.modules() if isinstance(part, Weighted))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ExactnessError, match="autocast"):  # a layer by itself
        layer(QTensor(torch.ones(1, *X.shape[1:]), Interval(-1, 1, 0)))


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_what_libraries_read_when_they_start(name: str, thorough: bool) -> None:
    program = "import torch, qfx\nqfx.quantize(torch.nn.Linear(4, 2), torch.randn(8, 4))"
    for value, accepted in (("BF16", False), ("ANY", False), ("strict", True), ("", True))[slice(None) if thorough else slice(0, 3, 2)]:
        done = subprocess.run([sys.executable, "-c", program], env={**os.environ, name: value}, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == accepted, done.stderr
        assert accepted or f"{name}={value}" in done.stderr


def test_a_product_that_is_rounded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: linear and convolution computed from operands of 8 bits, as a library without a switch might."""
    assert backends._rounded("cpu") == ""
    linear, conv2d = backends.F.linear, backends.F.conv2d

    def short(x: Tensor, weight: Tensor) -> Tensor:
        return linear(x.bfloat16().float(), weight.bfloat16().float())

    def nearly(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        return conv2d(x, weight, padding=padding) * (1 if x.dtype == torch.float64 else 1 + 2**-22)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", short)
        assert backends._rounded("cpu") == "a matrix product"
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "conv2d", nearly)
        assert backends._rounded("cpu") == "a convolution"
