"""Rounding the weights of one layer: to nearest is not best. Each pass chooses integers near the weights so that the layer's result moves least.

All of them work on a ``Problem``, a layer as matrices (see ``rows.py``), and return the chosen integers. None needs labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qfx.errors import QfxError

_STRETCH = 1.1, -0.1  # zeta, gamma of the rectified sigmoid


@dataclass(frozen=True, eq=False)
class Problem:
    """Find integers q in [low, high] so that ``act(x @ (q * scale).T + bias)`` is near ``act(y)``.

    ``weight`` (G, O, K) floats; ``scale`` (G, O, K) powers of two; ``x`` (G, n, K) what the quantized layers before give; ``y`` (G, n, O) the float
    model's result with its bias; ``bias`` (G, 1, O). ``negative_slope``: that of the activation that follows at once (0: ReLU), 1 for none.
    """

    weight: Tensor
    scale: Tensor
    low: int
    high: int
    x: Tensor
    y: Tensor
    bias: Tensor
    negative_slope: float = 1.0

    def nearest(self) -> Tensor:
        return torch.floor(self.weight / self.scale + 0.5).clamp(self.low, self.high)

    def error(self, raw: Tensor) -> float:
        """The mean squared difference to ``y`` (activation left out) that integers ``raw`` leave."""
        return float((self.x @ (raw * self.scale).transpose(1, 2) + self.bias - self.y).square().mean())

    def without_bias(self) -> Tensor:
        """What the products should be."""
        return self.y - self.bias

    def act(self, value: Tensor) -> Tensor:
        return value if self.negative_slope == 1.0 else torch.where(value > 0, value, value * self.negative_slope)


def adaround(
    problem: Problem, *, iterations: int = 1000, rows: int = 2048, rate: float = 1e-2, regularizer: float = 0.01, warm_up: float = 0.2, seed: int = 0
) -> Tensor:
    """Choose for every weight between its two neighbours by gradient descent on a relaxed choice.

    The choice is a rectified sigmoid (stretched to -0.1..1.1), pulled to 0 or 1 by a regularizer whose exponent falls from 20 to 2 after ``warm_up``.
    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, with the asymmetric reconstruction of its section 4.3
    (inputs quantized, targets float). ``rows``: how many of the problem's rows each iteration sees. Deterministic for a ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    low, start = relaxed(problem.weight / problem.scale)
    choice = start.requires_grad_(True)
    optimizer = torch.optim.Adam([choice], lr=rate)
    count = problem.x.shape[1]
    for step in range(iterations):
        picked = torch.randint(count, (min(rows, count),), generator=generator)
        up = rectified(choice)
        weight = (low + up).clamp(problem.low, problem.high) * problem.scale
        result = problem.act(problem.x[:, picked] @ weight.transpose(1, 2) + problem.bias)
        loss = (result - problem.act(problem.y[:, picked])).square().sum(-1).mean()
        loss = loss + regularizer * undecided(up, step / iterations, warm_up)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (low + (rectified(choice.detach()) >= 0.5)).clamp(problem.low, problem.high)


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


def comq(problem: Problem, *, sweeps: int = 4) -> Tensor:
    """Coordinate descent: one input at a time, every output's best integer given all the others; greatest inputs first.

    Source: Zhang et al., "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization", 2024. Needs only second moments of the rows.
    """
    hessian, target = _moments(problem)
    raw = problem.nearest().double()
    scale = problem.scale.double()
    order = torch.argsort(hessian.diagonal(dim1=1, dim2=2) * problem.weight.double().square().mean(1), dim=1, descending=True)
    for group in range(raw.shape[0]):
        h, t, q, s = hessian[group], target[group], raw[group], scale[group]
        residual = t - (q * s) @ h  # (O, K): minus half the gradient
        for _ in range(sweeps):
            changed = False
            for index in order[group].tolist():
                curvature = float(h[index, index])
                if curvature <= 0:
                    continue
                best = torch.floor(q[:, index] + residual[:, index] / (curvature * s[:, index]) + 0.5).clamp(problem.low, problem.high)
                delta = (best - q[:, index]) * s[:, index]
                if bool((delta != 0).any()):
                    residual -= delta[:, None] * h[index]
                    q[:, index] = best
                    changed = True
            if not changed:
                break
    return raw.to(problem.weight.dtype)


def gptq(problem: Problem, *, damping: float = 0.01) -> Tensor:
    """Round one input after the other, and let the ones not yet rounded make up for it, by the inverse Hessian.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022; inputs in the order of falling
    curvature. ``damping``, a share of the mean curvature, is added to the diagonal. The starting point is the float weight that serves the
    quantized inputs best. Raises QfxError if the Hessian cannot be inverted.
    """
    hessian, target = _moments(problem)
    raw = torch.empty_like(problem.weight, dtype=torch.float64)
    for group in range(raw.shape[0]):
        h = hessian[group].clone()
        mean = float(h.diagonal().mean())
        h.diagonal().add_(damping * mean if mean > 0 else 1.0)
        order = torch.argsort(h.diagonal(), descending=True)
        weight = problem.weight[group].double()
        weight = weight + torch.linalg.solve(h, (target[group] - weight @ hessian[group]).T).T
        weight, scale = weight[:, order].clone(), problem.scale[group].double()[:, order]
        try:
            upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
        except RuntimeError as error:
            raise QfxError("the inputs' second moments cannot be inverted", remedy="give more calibration data, or more damping") from error
        chosen = torch.empty_like(weight)
        for index in range(weight.shape[1]):
            chosen[:, index] = torch.floor(weight[:, index] / scale[:, index] + 0.5).clamp(problem.low, problem.high)
            error_part = (weight[:, index] - chosen[:, index] * scale[:, index]) / upper[index, index]
            weight[:, index + 1 :] -= error_part[:, None] * upper[index, index + 1 :]
        raw[group][:, order] = chosen
    return raw.to(problem.weight.dtype)


def _moments(problem: Problem) -> tuple[Tensor, Tensor]:
    """(x.T @ x, y.T @ x) per group in float64, the bias taken from y."""
    x, y = problem.x.double(), problem.without_bias().double()
    return x.transpose(1, 2) @ x, y.transpose(1, 2) @ x
