"""Casts away from the CPU: torch operators that never wait for the host, to the same bits. Without a GPU, tensors without data stand for its own."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import qfx
from qfx.fixed import eager
from qfx.fixed.kernel import CastMode, quantize
from qfx.fixed.plan import plan_of
from qfx.fixed.type import OMode, QMode

MODES = [CastMode(q=q, o=o, n=n) for q, o, n in itertools.product(QMode, OMode, (0, 1, 3)) if n == 0 or o in (OMode.WRAP, OMode.WRAP_SM)]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand: the same code was tried with tensors without data alone")


class Reads(TorchDispatchMode):
    """Counts the operators that give a number to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = str(func.overloadpacket)
        if name in ("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_cast_never_waits_for_the_host(mode: CastMode) -> None:
    """Tensors without data cannot be read: whoever looked would raise."""
    x, frac, scale = torch.empty(4, 3, 5, device="meta"), torch.empty((), device="meta"), torch.empty(3, device="meta")
    plan = plan_of(mode, 8, 0.0, None)
    for tensors in ((x, frac, None, None, None, None), (x, frac, None, scale, scale, x)):
        out = eager.forward(plan, *tensors)
        assert (out.shape, out.dtype, out.device.type) == (x.shape, torch.float32, "meta")
        gradients = eager.backward(plan, out, *tensors)
        assert [None if g is None else g.shape for g in gradients] == [None if t is None else t.shape for t in tensors]


def test_a_cast_there_is_recorded_and_goes_that_way() -> None:
    x, frac = torch.empty(4, 3, device="meta", requires_grad=True), torch.empty((), device="meta", requires_grad=True)
    quantize(x, frac, 8, CastMode(o=OMode.SAT)).sum().backward()
    assert x.grad is not None
    assert frac.grad is not None
    with pytest.raises((RuntimeError, NotImplementedError)):
        frac.item()  # what would have been refused


def test_what_a_model_reads_is_two_numbers_a_cast() -> None:
    """The binary points and their starts, by which bounds are kept: on a GPU each is a wait. More may not become of them unnoticed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(8, 4)
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(8)).eval()
    casts = len(list(qfx.quantizers(qmodel)))
    with torch.no_grad():
        qmodel(x)
        with Reads() as reads:
            qmodel(x)
    looked = 2 * 2  # whether a bias has outgrown its range: its point and start once more, and whether it has
    finite = 1
    assert reads.found["aten._local_scalar_dense"] <= 2 * casts + looked + 2 + finite
    assert set(reads.found) == {"aten._local_scalar_dense"}


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.cpu(), b.cpu()) and a.dtype is b.dtype


@needs_gpu
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_gpu_gives_the_same_bits(mode: CastMode) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, 9, generator=generator) * 8
    frac = torch.tensor([3.0, 1.4, -2.0, 5.5] * 4).reshape(1, 16, 1)
    for device in ("cuda",):
        here, there = (quantize(x.to(d), frac.to(d), 8, mode, negative_slope=0.0) for d in ("cpu", device))
        assert same(here, there)


@needs_gpu
def test_a_model_on_a_gpu_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    x = torch.randn(16, 3, 8, 8)
    qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(8)).eval()
    here = qmodel(x)
    assert same(here, qmodel.cuda()(x.cuda()))
