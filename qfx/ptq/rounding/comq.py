"""COMQ (Zhang et al. 2024): rounding by coordinate descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qfx.ptq.rounding.layers import LayerResult, round_layers
from qfx.ptq.rounding.problem import Problem


def comq(qmodel: nn.Module, data: Tensor | Iterable[Tensor], **options: Any) -> tuple[LayerResult, ...]:
    """``round_weights`` by COMQ: coordinate descent, no back-propagation (Zhang et al. 2024)."""
    return round_layers(qmodel, data, solve_comq, name="comq", **options)


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
                step = problem.nearest(q[:, index] + wish) - q[:, index]
                if problem.kept is not None:
                    step = step * problem.kept[group, :, index]
                step = torch.where(step * (2 * wish - step) > 1e-9, step, 0.0)  # what it gains, in units of the last place squared
                if bool(step.any()):
                    r -= (step * s[:, index])[:, None] * h[index]
                    q[:, index] += step
                    changed = True
            if not changed:
                break
    return raw.to(problem.weight.dtype)
