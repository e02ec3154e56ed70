"""A program: the casts of ``qfx.fixed.gpu`` by Triton's interpreter (TRITON_INTERPRET=1), or on the GPU that is there, beside the C++ kernel and the
definition. Prints, as JSON, how many results it compared and which differ in a bit. Arguments: "thorough" for all modes, "plant" for one result with
an error of one least significant bit."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from qfx.fixed import native, reference
from qfx.fixed.gpu import kernels, launch
from qfx.fixed.kernel import CastMode
from qfx.fixed.plan import plan_of
from qfx.fixed.type import OMode, QMode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALL = [
    CastMode(signed, q, o, n)
    for signed, q, o, n in itertools.product((True, False), QMode, OMode, (0, 1, 3))
    if (n == 0 or o in (OMode.WRAP, OMode.WRAP_SM)) and (signed or o is not OMode.WRAP_SM)
]
FEW = [
    mode
    for place, mode in enumerate(ALL)
    if place % 16 == 0 or (mode.signed and (mode.q is QMode.RND_CONV or mode.o is OMode.SAT) and place % 2 == 0)
]
HALVES = [0.0, -0.0, 0.5, 1.5, -0.5, -1.5, 2.5, 0.25, -0.25, 0.125, 0.49999997, -0.49999997, 7.9375, 7.96875, -8.0, -8.03125, 127.5, -128.5, 255.5]
EXTREMES = [1e-40, -1e-40, 1e-45, -1e-45, 3e38, -3e38, 2.0**24, -(2.0**24), 2.0**31, 1e10, math.inf, -math.inf]
EDGES = torch.tensor([*HALVES, *EXTREMES])


class Compared:
    def __init__(self, plant: bool) -> None:
        self.count, self.differ, self.plant = 0, list[str](), plant

    def same(self, what: str, expected: Tensor, found: Tensor) -> None:
        """``found`` has the bits of ``expected``; one that is no number is like any other."""
        found = found.cpu()
        if self.plant and found.is_floating_point() and "forward" in what:
            found.view(-1)[0] += 2.0**-1  # the binary point of its channel is 1
            self.plant = False
        self.count += expected.numel()
        if expected.dtype is not found.dtype or expected.shape != found.shape or not torch.equal(bits_of(expected), bits_of(found)):
            self.differ.append(what)


def bits_of(numbers: Tensor) -> Tensor:
    """As integers, so that signs of zeros count; what is no number has the bits of one NaN."""
    numbers = torch.where(numbers.isnan(), math.nan, numbers)
    return numbers.contiguous().view(torch.int64 if numbers.dtype is torch.float64 else torch.int32)


@triton.jit
def rows_of_a_tile(out, tile, ROWS: tl.constexpr):
    """What ``kernels`` takes as the rows of a tile of a long tensor."""
    tl.store(out + tl.arange(0, ROWS)[:, None], kernels._rows(tile, ROWS, True))


def far_tile() -> bool:
    """Whether rows beyond 2**31 have their numbers."""
    out = torch.empty(1024, dtype=torch.int64, device=DEVICE)
    rows_of_a_tile[(1,)](out, 3_000_000, 1024)
    return out.tolist() == list(range(3_072_000_000, 3_072_001_024))


def on_grid(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers of few bits, many of them ties: sums of their gradients are exact in any order."""
    return torch.randint(-3000, 3001, shape, generator=torch.Generator().manual_seed(seed)).float() / 64


Call = tuple[str, CastMode, int, float, float | None, Tensor, Any]


def calls(modes: list[CastMode]) -> Iterator[Call]:
    point, points = torch.tensor(2.3), torch.tensor([1.0, -2.0, 4.0, 3.4, 0.5]).reshape(1, 5, 1)
    for mode in modes:
        yield f"{mode} of channels", mode, 8, 1.0, None, on_grid((3, 5, 7), 1), (points, None, None, None, None)
    sat, wrap = CastMode(q=QMode.RND_CONV, o=OMode.SAT), CastMode(q=QMode.RND)
    yield "many tiles", sat, 8, 0.0, None, on_grid((5000,), 2), (point, None, None, None, None)
    x = on_grid((2, 5, 3, 2), 3)
    last, each = x.contiguous(memory_format=torch.channels_last), points.reshape(1, 5, 1, 1)
    yield "channels last", sat, 8, 1.0, None, last, (each, None, None, None, None)
    yield "elements", wrap, 8, 1.0, None, x[0], (on_grid((5, 3, 2), 4).round(), None, None, None, None)
    scale, shift = on_grid((5,), 5) / 16, on_grid((5,), 6)
    yield "affine", sat, 8, 0.0, 6.0, x, (point, None, scale, shift, on_grid((2, 5, 3, 2), 7))
    yield "affine, one shift, leaky", wrap, 8, 0.25, None, last, (each, None, scale, torch.tensor(0.5), None)
    yield "float64", sat, 8, 0.25, None, x.double(), (point.double(), None, None, None, None)
    yield "a slope that float32 rounds", sat, 8, 0.01, 6.1, x, (point, None, None, None, None)
    yield "a long word", CastMode(o=OMode.WRAP), 40, 1.0, None, x, (each * 8, None, None, None, None)
    yield "rows", sat, 6, 1.0, None, on_grid((40, 70), 8), (on_grid((40, 1), 9).round() / 16, None, None, None, None)
    lengths = torch.tensor([3.0, 0.4, -4.0, 2.0, -1.0]).reshape(1, 5, 1, 1)  # one of no bits, one of one
    for o in (OMode.SAT, OMode.SAT_SYM, OMode.WRAP):
        for signed in (True, False):
            yield f"lengths, {o.value}, {signed}", CastMode(signed, QMode.RND, o), 8, 1.0, None, x, (each, lengths, None, None, None)


def compare(compared: Compared, call: Call) -> None:
    what, mode, width, slope, upper, x, tensors = call
    plan = plan_of(mode, width, slope, upper)
    here = native.fused(plan, x, *tensors)
    there: Any = [None if t is None else t.to(DEVICE) for t in (x, *tensors)]
    found = launch.there(plan, *there)
    assert here is not None
    assert found is not None
    compared.same(f"{what}: forward", here.forward(x, *tensors), found.forward(*there))
    grad = torch.randint(-8, 9, x.shape, generator=torch.Generator().manual_seed(11)).to(here.forward(x, *tensors))
    inexact = "rounds" in what  # the order of a sum of parameters decides its last bit
    for parameters in (False,) if inexact else (True, False) if what in ("affine", "many tiles") else (True,):
        expected = here.backward(grad, x, *tensors, frac_grad_scale=0.37, parameters=parameters)
        given = found.backward(grad.to(DEVICE), *there, frac_grad_scale=0.37, parameters=parameters)
        for place, (a, b) in enumerate(zip(expected, given, strict=True)):
            assert (a is None) == (b is None), f"{what}: gradient {place}"
            if a is not None and b is not None:
                compared.same(f"{what}: gradient {place}", a, b)


def edges(compared: Compared, mode: CastMode) -> None:
    """Values by the definition, and gradients of elements, at halves, limits, huge and subnormal numbers; infinity is cast alike."""
    plan, point, type_ = plan_of(mode, 8), torch.tensor(2.0), mode.type(8, 2)
    for x in (EDGES[EDGES.isfinite()], EDGES[EDGES.isinf()]):
        there = x.to(DEVICE), point.to(DEVICE), None, None, None, None
        here, found = native.fused(plan, x, point, None, None, None, None), launch.there(plan, *there)
        assert here is not None
        assert found is not None
        given = found.forward(*there)
        compared.same(f"{mode} at edges: forward", here.forward(x, point, None, None, None, None), given)
        if bool(x.isinf().any()):
            continue
        compared.same(f"{mode} at edges: definition", torch.tensor([reference.cast_float(number, type_) / 4 for number in x.tolist()]), given)
        grad = torch.full_like(x, 3.0)
        gradient = found.backward(grad.to(DEVICE), *there, 1.0, False)[0]
        compared.same(f"{mode} at edges: gradient", here.backward(grad, x, point, None, None, None, None, 1.0, False)[0], gradient)


def main() -> None:
    np.seterr(all="ignore")  # the interpreter computes by numpy
    torch.set_num_threads(1)
    compared = Compared("plant" in sys.argv)
    modes = ALL if "thorough" in sys.argv else FEW
    if "plant" in sys.argv:
        modes = modes[:1]
    for call in itertools.islice(calls(modes), 1 if "plant" in sys.argv else None):
        compare(compared, call)
    for mode in modes:
        edges(compared, mode)
    point = torch.tensor(500.0, device=DEVICE)
    found = launch.there(plan_of(ALL[0], 8), EDGES.to(DEVICE), point, None, None, None, None)
    assert found is not None
    bad = found.forward(EDGES.to(DEVICE), point, None, None, None, None)
    looks = {"bad point": bool(bad.isnan().all()), "far tile": far_tile(), "works": launch.works(torch.device(DEVICE))}
    print(json.dumps({"compared": compared.count, "modes": len(modes), "differ": compared.differ, **looks}))


if __name__ == "__main__":
    main()
