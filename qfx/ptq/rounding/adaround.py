"""AdaRound (Nagel et al. 2020): each weight goes up or down, chosen by gradient descent on a relaxed choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qfx.ptq.rounding import descent
from qfx.ptq.rounding.layers import LayerResult, round_layers
from qfx.ptq.rounding.problem import Problem, Rows

_STRETCH = 1.1, -0.1  # zeta, gamma of the rectified sigmoid
_aten = torch.ops.aten  # PyTorch's kernels for gradients have no other name


def adaround(
    qmodel: nn.Module, data: Tensor | Iterable[Tensor], *, iterations: int = 10_000, rate: float = 1e-2, seed: int = 0, **options: Any
) -> tuple[LayerResult, ...]:
    """``round_weights`` by AdaRound: each weight goes up or down (Nagel et al. 2020). As in the paper, 10,000 ``iterations`` per layer, which
    take about a minute of one core for ResNet-20; with 1,000 the layers' errors are 15 % greater, its accuracy is the same."""
    solver = partial(solve_adaround, iterations=iterations, rate=rate, seed=seed)
    return round_layers(qmodel, data, solver, name="adaround", seed=seed, **options)


def solve_adaround(
    problem: Problem,
    *,
    iterations: int = 10_000,
    rate: float = 1e-2,
    regularizer: float = 3.0,
    warm_up: float = 0.2,
    rows: int = 256,
    seed: int = 0,
) -> Tensor:
    """Choose for every weight between its two neighbours by gradient descent (Adam) on a relaxed choice.

    The choice is a rectified sigmoid (stretched to -0.1..1.1), pulled to 0 or 1 by a regularizer whose exponent falls from 20 to 2 after ``warm_up``.
    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, with the asymmetric reconstruction and the activation
    of its section 4.3. Without ``problem.rows`` the moments alone give the exact gradient; with them each iteration sees ``rows`` of them.
    Deterministic for a ``seed``.

    The stretch, the exponents and their cosine, ``warm_up`` and ``iterations`` are those of the authors (paper and AIMET). Three things are not.
    The error (a sum over outputs, a mean over rows) is measured in that of moving one weight by one unit in the last place, so that ``regularizer``
    suits layers of all sizes; theirs is 0.01 in the error itself, and 3.0 stands for 0.0001 to 0.09 in the layers of ResNet-20 at 4 bits. Their
    ``rate`` is 1e-3, with which the errors of those layers are up to a tenth greater. They draw 32 images, all positions; we draw single rows, of
    which 256 leave the same error as 512 and 1024.
    """
    around = problem.around()
    choice = start(around.rest)
    size = problem.scale * (1 if problem.allowed is None else around.up - around.low)
    unit = float((size.square() * problem.hessian().diagonal(dim1=1, dim2=2).unsqueeze(1)).mean())
    if unit > 0:  # else nothing ever comes in
        with torch.no_grad():
            relaxation = Relaxation(problem, unit=unit, regularizer=regularizer, rows=rows, seed=seed)
            _descend(relaxation, choice, [exponent(step / iterations, warm_up) for step in range(iterations)], rate)
    return around.chosen(decided(choice))


def _descend(relaxation: Relaxation, choice: Tensor, powers: Sequence[float | None], rate: float) -> None:
    """Adam on ``choice``, in place: a step for each of the regularizer's exponents; in C++ where that is there."""
    if descent.fits(choice, relaxation.base, relaxation.gain):
        way = descent.Descent(choice, relaxation.base, relaxation.gain, rate, relaxation.regularizer)
        result = torch.empty_like(choice)
        for number, power in enumerate(powers, 1):
            way.step(number, relaxation.error.gradient(way.moved, out=result), power)
        return
    optimizer = torch.optim.Adam([choice], lr=rate, fused=True)
    for number, power in enumerate(powers, 1):
        choice.grad = relaxation.gradient(choice, power)
        optimizer.step()
        if number % 256 == 0:
            _flush(optimizer, choice)


class Relaxation:
    """The gradient of AdaRound's loss, by hand: autograd takes several times as long.

    With ``up`` = ``rectified(choice)`` (G, O, K) the loss is the squared error, a sum over outputs and a mean over rows, in units of ``unit``, plus
    ``regularizer * (1 - |2 up - 1| ** power).sum()``. If there are ``problem.rows``, the error is that behind the activation, over ``rows`` of them,
    others for each gradient.
    """

    gain: Tensor
    base: Tensor

    def __init__(self, problem: Problem, *, unit: float, regularizer: float, rows: int, seed: int) -> None:
        around = problem.around()
        self.gain = problem.scale * (around.up - around.low)  # beyond the ends there is no choice
        self.base = around.low * problem.scale - problem.weight
        self.error: _Moments | _SampledRows = _Moments(problem, unit) if problem.rows is None else _SampledRows(problem.rows, unit, rows, seed)
        self.regularizer = regularizer
        self._sigmoid, self._stretched, self._up, self._tilt, self._result = (torch.empty_like(problem.weight) for _ in range(5))

    def gradient(self, choice: Tensor, power: float | None) -> Tensor:
        """(G, O, K): the gradient by ``choice``; overwritten by the next call. With ``power`` None there is no regularizer."""
        zeta, gamma = _STRETCH
        sigmoid = torch.sigmoid(choice, out=self._sigmoid)
        stretched = torch.mul(sigmoid, zeta - gamma, out=self._stretched).add_(gamma)
        up = torch.clamp(stretched, 0.0, 1.0, out=self._up)
        moved = torch.addcmul(self.base, self.gain, up, out=self._tilt)
        result = self.error.gradient(moved, out=self._result).mul_(self.gain)
        if power is not None:
            tilt = torch.mul(up, 2.0, out=self._tilt).sub_(1.0)
            size = torch.abs(tilt, out=up).log_().mul_(power - 1).clamp_(min=-80.0).exp_()  # faster than pow, and never subnormal
            result.sub_(size.copysign_(tilt), alpha=2 * power * self.regularizer)
        _aten.hardtanh_backward.grad_input(result, stretched, 0.0, 1.0, grad_input=result)
        _aten.sigmoid_backward.grad_input(result, sigmoid, grad_input=result)
        return result.mul_(zeta - gamma)


class _Moments:
    """The squared error over all rows, from moments, in units of ``unit``."""

    hessian: Tensor
    offset: Tensor

    def __init__(self, problem: Problem, unit: float) -> None:
        dtype = problem.weight.dtype
        self.hessian, self.offset = (problem.hessian() * (2 / unit)).to(dtype), (problem.target() * (-2 / unit)).to(dtype)

    def gradient(self, moved: Tensor, out: Tensor) -> Tensor:
        """(G, O, K), in ``out``: the gradient by ``moved``, how far the weights are from the float ones."""
        return torch.baddbmm(self.offset, moved, self.hessian, out=out)


class _SampledRows:
    """The squared error behind the activation, in units of ``unit``, over ``size`` rows at a time.

    The rows are shuffled once; each time those behind a random place count, as if in a circle: gathering them anew would take long.
    """

    generator: torch.Generator
    count: int
    size: int
    x: Tensor
    result: Tensor
    goal: Tensor
    negative_slope: float
    weight: float

    def __init__(self, rows: Rows, unit: float, size: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.count = rows.x.shape[1]
        self.size = min(size, self.count)
        order = torch.randperm(self.count, generator=self.generator)
        order = torch.cat((order, order[: self.size - 1]))
        self.x, self.result, self.goal = rows.x[:, order], rows.result[:, order], rows.act(rows.goal[:, order])
        self.negative_slope, self.weight = rows.negative_slope, 2 / (unit * self.size)
        self._before, self._left = (torch.empty_like(self.result[:, : self.size], memory_format=torch.contiguous_format) for _ in range(2))
        self._in_one_pass = descent.fits(self._before, self.goal)

    def gradient(self, moved: Tensor, out: Tensor) -> Tensor:
        """(G, O, K), in ``out``: the gradient by ``moved``, how far the weights are from the float ones."""
        start = int(torch.randint(self.count, (1,), generator=self.generator))
        x, result, goal = (part[:, start : start + self.size] for part in (self.x, self.result, self.goal))
        before = torch.baddbmm(result, x, moved.transpose(1, 2), out=self._before)
        if self._in_one_pass:
            descent.behind(before, goal, self.negative_slope)
            left = before
        else:
            left = _aten.leaky_relu.out(before, self.negative_slope, out=self._left).sub_(goal)
            _aten.leaky_relu_backward.grad_input(left, before, self.negative_slope, False, grad_input=left)
        return torch.baddbmm(out, left.transpose(1, 2), x, beta=0, alpha=self.weight, out=out)


def _flush(optimizer: torch.optim.Adam, choice: Tensor) -> None:
    """Make nothing of what would end in subnormal numbers, which many processors are slow with: the momentum of choices that have settled."""
    momentum = optimizer.state[choice]["exp_avg"]
    momentum.copy_(F.hardshrink(momentum, 1e-20))


def relaxed(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """For weights in units of the last place: (the lower neighbours, where the relaxed choice starts so that it gives the weights themselves)."""
    low = torch.floor(ratio)
    return low, start(ratio - low)


def start(rest: Tensor) -> Tensor:
    """Where the relaxed choice starts that leaves a number where it is, ``rest`` of the way from the lower neighbour to the upper."""
    zeta, gamma = _STRETCH
    rest = rest.clamp(1e-3, 1 - 1e-3)
    return torch.log((rest - gamma) / (zeta - rest))


def rectified(choice: Tensor) -> Tensor:
    """0 (down) to 1 (up)."""
    zeta, gamma = _STRETCH
    return (torch.sigmoid(choice) * (zeta - gamma) + gamma).clamp(0.0, 1.0)


def undecided(up: Tensor, done: float, warm_up: float) -> Tensor:
    """The regularizer: how far the choices are from 0 and 1, under an exponent that falls from 20 to 2; nothing before ``warm_up``."""
    power = exponent(done, warm_up)
    return up.new_zeros(()) if power is None else (1 - (2 * up - 1).abs().pow(power)).sum()


def exponent(done: float, warm_up: float) -> float | None:
    """That of the regularizer when a share ``done`` of the iterations is over: None before ``warm_up``, then from 20 to 2 along a cosine."""
    return None if done < warm_up else 2 + 9 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def decided(choice: Tensor) -> Tensor:
    """Where the upper neighbour is chosen."""
    return rectified(choice.detach()) >= 0.5
