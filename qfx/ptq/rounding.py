"""Rounding the weights of one layer: to nearest is not best. Each solver chooses integers so that the layer's result moves least.

All of them work on a ``Problem``, a layer as matrices (see ``rows.py``), and return the chosen integers, as floats of the weight's shape. None needs
labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.errors import QfxError

_STRETCH = 1.1, -0.1  # zeta, gamma of the rectified sigmoid


@dataclass(frozen=True, eq=False)
class Rows:
    """Some of a layer's rows, for what depends on the activation that follows.

    ``x`` (G, n, K): the inputs; ``result`` (G, n, O): what the float weights make of them, and ``goal`` (G, n, O) what they should; both before the
    activation, whose slope for negative numbers is ``negative_slope``.
    """

    x: Tensor
    result: Tensor
    goal: Tensor
    negative_slope: float

    def act(self, value: Tensor) -> Tensor:
        return torch.where(value > 0, value, value * self.negative_slope)


@dataclass(frozen=True, eq=False)
class Problem:
    """Find integers q in [low, high] so that ``x @ (q * scale).T`` plus the bias is near ``y``, over the rows of a layer.

    ``weight`` (G, O, K): float weights; ``scale`` (G, O, K): powers of two; ``present`` (G, O, K): the integers that the layer has now. ``x`` is what
    the quantized layers before give, ``y`` the float model's result. Of the rows there are only moments, in float64, with ``rest`` = y - what the
    float weights and the bias make of x: ``gram`` (G, K, K) = covariance of x, ``pull`` (G, O, K) = covariance of rest and x, ``power`` (G, O) =
    variance of rest, ``mean_x`` (G, 1, K) and ``mean_rest`` (G, O, 1). With ``free_bias`` the bias will take any mean error, so that only variances
    count. ``rows``: if an activation follows at once.
    """

    weight: Tensor
    scale: Tensor
    present: Tensor
    low: int
    high: int
    gram: Tensor
    pull: Tensor
    power: Tensor
    mean_x: Tensor
    mean_rest: Tensor
    free_bias: bool
    rows: Rows | None = None

    def hessian(self) -> Tensor:
        """(G, K, K): half the second derivative of one output's squared error by its weights."""
        return self.gram if self.free_bias else self.gram + self.mean_x.transpose(1, 2) @ self.mean_x

    def target(self) -> Tensor:
        """(G, O, K): minus half the gradient of the squared errors at the float weights."""
        return self.pull if self.free_bias else self.pull + self.mean_rest @ self.mean_x

    def moved(self, raw: Tensor) -> Tensor:
        """How far integers are from the float weights, in float64."""
        return raw.double() * self.scale.double() - self.weight.double()

    def error(self, raw: Tensor, *, free_bias: bool | None = None) -> float:
        """The mean squared difference to ``y`` that integers ``raw`` leave; ``free_bias`` (default: the problem's) counts no mean error."""
        moved = self.moved(raw)
        variance = self.power + ((moved @ self.gram - 2 * self.pull) * moved).sum(2)
        free = self.free_bias if free_bias is None else free_bias
        return float(variance.mean() if free else (variance + self.mean_error(raw).square()).mean())

    def mean_error(self, raw: Tensor) -> Tensor:
        """(G, O): the mean of y minus the result; adding it to the bias removes it."""
        return (self.mean_rest - self.moved(raw) @ self.mean_x.transpose(1, 2)).squeeze(2)


def solve_adaround(
    problem: Problem,
    *,
    iterations: int = 1000,
    rate: float = 1e-2,
    regularizer: float = 3.0,
    warm_up: float = 0.2,
    rows: int = 1024,
    seed: int = 0,
) -> Tensor:
    """Choose for every weight between its two neighbours by gradient descent on a relaxed choice.

    The choice is a rectified sigmoid (stretched to -0.1..1.1), pulled to 0 or 1 by a regularizer whose exponent falls from 20 to 2 after ``warm_up``.
    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, with the asymmetric reconstruction and the activation
    of its section 4.3. The error is measured in that of moving one weight by one unit in the last place, so that ``regularizer`` suits layers of all
    sizes. Without ``problem.rows`` the moments alone give the exact gradient; with them each iteration sees ``rows``. Deterministic for a ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    low, choice = relaxed(problem.weight / problem.scale)
    choice.requires_grad_(True)
    optimizer = torch.optim.Adam([choice], lr=rate)
    hessian, target = problem.hessian().to(low.dtype), problem.target().to(low.dtype)
    scale = problem.scale
    unit = float((scale.square() * hessian.diagonal(dim1=1, dim2=2).unsqueeze(1)).mean())
    if unit <= 0:  # nothing ever comes in
        return neighbour(low, choice, problem.low, problem.high)
    picked = None
    for step in range(iterations):
        up = rectified(choice)
        moved = (low + up).clamp(problem.low, problem.high) * scale - problem.weight
        if problem.rows is None:
            still = moved.detach()
            loss = (2 * (still @ hessian - target) * moved).sum()  # whose gradient is that of the squared error
        else:
            count = problem.rows.x.shape[1]
            picked = torch.randint(count, (min(rows, count),), generator=generator)
            result = problem.rows.result[:, picked] + problem.rows.x[:, picked] @ moved.transpose(1, 2)
            goal = problem.rows.goal[:, picked]
            loss = (problem.rows.act(result) - problem.rows.act(goal)).square().sum() / len(picked)
        loss = loss / unit + regularizer * undecided(up, step / iterations, warm_up)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return neighbour(low, choice, problem.low, problem.high)


def relaxed(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """For weights in units of the last place: (the lower neighbours, where the relaxed choice starts so that it gives the weights themselves)."""
    zeta, gamma = _STRETCH
    low = torch.floor(ratio)
    rest = (ratio - low).clamp(1e-3, 1 - 1e-3)
    return low, torch.log((rest - gamma) / (zeta - rest))


def rectified(choice: Tensor) -> Tensor:
    """0 (down) to 1 (up)."""
    zeta, gamma = _STRETCH
    return (torch.sigmoid(choice) * (zeta - gamma) + gamma).clamp(0.0, 1.0)


def undecided(up: Tensor, done: float, warm_up: float) -> Tensor:
    """The regularizer: how far the choices are from 0 and 1, under an exponent that falls from 20 to 2; nothing before ``warm_up``."""
    if done < warm_up:
        return up.new_zeros(())
    left = 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
    return (1 - (2 * up - 1).abs().pow(2 + 18 * left)).sum()


def neighbour(low: Tensor, choice: Tensor, least: int, most: int) -> Tensor:
    """The integers that are chosen."""
    return (low + (rectified(choice.detach()) >= 0.5)).clamp(least, most)


def solve_comq(problem: Problem, *, sweeps: int = 30) -> Tensor:
    """Coordinate descent: one input at a time, every output's best integer given all the others; greatest inputs first, from the present integers.

    Ends where no change of a single weight helps, or after ``sweeps``. Never worse than the present integers.
    Source: Zhang et al., "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization", 2024, on second moments instead of rows.
    """
    hessian = problem.hessian()
    raw, scale = problem.present.double(), problem.scale.double()
    rest = problem.target() - problem.moved(raw) @ hessian  # minus half the gradient
    curvature = hessian.diagonal(dim1=1, dim2=2)
    weight = torch.argsort(curvature * problem.weight.double().square().mean(1), dim=1, descending=True)
    for group in range(raw.shape[0]):
        h, q, s, r = hessian[group], raw[group], scale[group], rest[group]
        order = [index for index in weight[group].tolist() if curvature[group, index] > 0]
        for _ in range(sweeps):
            changed = False
            for index in order:
                wish = r[:, index] / (h[index, index] * s[:, index])
                step = (q[:, index] + wish).round().clamp(problem.low, problem.high) - q[:, index]
                step = torch.where(step * (2 * wish - step) > 1e-9, step, 0.0)  # what it gains, in units of the last place squared
                if bool(step.any()):
                    r -= (step * s[:, index])[:, None] * h[index]
                    q[:, index] += step
                    changed = True
            if not changed:
                break
    return raw.to(problem.weight.dtype)


def solve_gptq(problem: Problem, *, damping: float = 0.01) -> Tensor:
    """Round one input after the other, and let the ones not yet rounded make up for it, by the inverse Hessian.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022; inputs in the order of falling
    curvature. ``damping``, a share of the mean curvature, is added to the diagonal. The starting point is the float weight that serves the
    quantized inputs best. Raises QfxError if the Hessian cannot be inverted.
    """
    hessian, target = problem.hessian(), problem.target()
    raw = torch.empty_like(problem.weight, dtype=torch.float64)
    for group in range(raw.shape[0]):
        h = hessian[group].clone()
        mean = float(h.diagonal().mean())
        h.diagonal().add_(damping * mean if mean > 0 else 1.0)
        order = torch.argsort(h.diagonal(), descending=True)
        try:
            factor = torch.linalg.cholesky(h)
            upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
        except RuntimeError as error:
            raise QfxError("the inputs' second moments cannot be inverted", remedy="give more calibration data, or more damping") from error
        weight = problem.weight[group].double() + torch.cholesky_solve(target[group].T, factor).T
        weight, scale = weight[:, order], problem.scale[group].double()[:, order]
        chosen = torch.empty_like(weight)
        for index in range(weight.shape[1]):
            chosen[:, index] = torch.floor(weight[:, index] / scale[:, index] + 0.5).clamp(problem.low, problem.high)
            error_part = (weight[:, index] - chosen[:, index] * scale[:, index]) / upper[index, index]
            weight[:, index + 1 :] -= error_part[:, None] * upper[index, index + 1 :]
        raw[group][:, order] = chosen
    return raw.to(problem.weight.dtype)
