"""GPTQ (Frantar et al. 2022): weights not yet rounded make up for those that are, by the inverse Hessian."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qfx.errors import QfxError
from qfx.ptq.rounding.layers import LayerResult, round_layers
from qfx.ptq.rounding.problem import Problem


def gptq(qmodel: nn.Module, data: Tensor | Iterable[Tensor], *, damping: float = 0.01, **options: Any) -> tuple[LayerResult, ...]:
    """``round_weights`` by GPTQ: weights not yet rounded make up for those that are, by the inverse Hessian (Frantar et al. 2022)."""
    return round_layers(qmodel, data, partial(solve_gptq, damping=damping), name="gptq", **options)


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
        kept = None if problem.kept is None else problem.kept[group][:, order]
        chosen = torch.empty_like(weight)
        for index in range(weight.shape[1]):
            chosen[:, index] = problem.nearest(weight[:, index] / scale[:, index])
            if kept is not None:
                chosen[:, index] *= kept[:, index]
            error_part = (weight[:, index] - chosen[:, index] * scale[:, index]) / upper[index, index]
            weight[:, index + 1 :] -= error_part[:, None] * upper[index, index + 1 :]
        raw[group][:, order] = chosen
    return raw.to(problem.weight.dtype)
