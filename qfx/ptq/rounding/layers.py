"""Rounding a whole model, layer by layer, by any method: each layer sees what the quantized layers before it give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.nn.accumulator import accumulating
from qfx.nn.layers import Weighted
from qfx.nn.layers.products.materialize import materialize
from qfx.nn.model import graph_module
from qfx.nn.qtensor import QTensor
from qfx.progress import Progress
from qfx.ptq.activations import ActivationCache, evaluating, layer_calls, stream
from qfx.ptq.float_reference import reference_of
from qfx.ptq.rounding.grid import settle_bias
from qfx.ptq.rounding.measured import measured_problem
from qfx.ptq.rounding.problem import Problem, Solver
from qfx.ptq.rounding.rows import from_matrix, to_matrix

MEMORY_BYTES = 1 << 29
"""What a pass may hold in memory of activations, all in all; the rest goes to a temporary folder."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """What a pass did to one layer: the mean squared error of its result before and after, against the float model; ``moved`` weights of ``weights``
    have another integer than before."""

    path: str
    before: float
    after: float
    moved: int
    weights: int


def round_layers(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    solve: Solver,
    *,
    name: str,
    reference: fx.GraphModule | None = None,
    layers: Iterable[str] | None = None,
    correct_bias: bool = True,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
    twin: fx.GraphModule | None = None,
) -> tuple[LayerResult, ...]:
    """Give every layer the integers that ``solve`` finds for its problem; in place. ``name``: what ``progress`` is told. Otherwise as
    ``round_weights``, whose docstring says what the options are and what is raised."""
    module = graph_module(qmodel)
    todo = layer_calls(module, layers)
    reference = reference_of(module, reference, twin)
    materialize(module)
    results = []
    with evaluating(module), ActivationCache((module, reference), stream(data), memory_bytes=memory_bytes // 2) as cache:
        for number, call in enumerate(todo):
            if progress is not None:
                progress(name, number, len(todo))
            cache.advance_to(call.node)
            generator = torch.Generator().manual_seed(seed + number)
            with torch.no_grad():
                problem = measured_problem(cache, call, reference, generator, correct_bias, memory_bytes // 4)
            raw = _held(call.layer, problem, problem.sparse(solve(problem)))
            results.append(_result(call.path, problem, raw))
            _keep(call.layer, problem, raw, cache.inputs(call.node, 0)[0])
    if progress is not None:
        progress(name, len(todo), len(todo))
    return tuple(results)


def _held(layer: Weighted, problem: Problem, raw: Tensor) -> Tensor:
    """The integers as an accumulator of a chosen width lets them be, or those that the layer has, if they are better."""
    accumulator = accumulating(layer.weight_cast)
    if accumulator is None or accumulator.narrows:
        return raw
    with torch.no_grad():
        weight = accumulator(from_matrix(layer, raw * problem.scale)).value
        raw = torch.round(to_matrix(layer, weight.to(raw.dtype)) / problem.scale)
        return raw if problem.error(raw) < problem.error(problem.present) else problem.present


def _result(path: str, problem: Problem, raw: Tensor) -> LayerResult:
    moved = int((raw != problem.present).sum())
    return LayerResult(path, problem.error(problem.present, free_bias=False), problem.error(raw), moved, raw.numel())


def _keep(layer: Weighted, problem: Problem, raw: Tensor, x: QTensor) -> None:
    with torch.no_grad():
        layer.set_cast_weight(from_matrix(layer, raw * problem.scale))
        if problem.free_bias and layer.bias is not None:
            layer.bias.add_(problem.mean_error(raw).reshape(-1).to(layer.bias.dtype))
            settle_bias(layer, x)
