"""Rounding passes on whole models: layer by layer, each layer seeing what the quantized layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.fixed.type import OMode
from qfx.nn.convert import graph_module
from qfx.nn.functional import QReLU
from qfx.nn.layers import Weighted
from qfx.ptq.rounding import Problem, adaround, comq, gptq
from qfx.ptq.rows import from_matrix, input_rows, output_rows, some_rows, to_matrix
from qfx.ptq.twin import float_twin
from qfx.ptq.walk import Station, Walk, batches, stations

Method = Literal["adaround", "comq", "gptq"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on."""

MEMORY_BYTES = 1 << 28
"""What the rows of one layer may take; of a larger layer, that many are drawn."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """What a pass did to one layer: the mean squared error of its result before and after, against the float model; ``moved`` weights of ``weights``
    are no longer the nearest."""

    path: str
    before: float
    after: float
    moved: int
    weights: int


def round_weights(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    method: Method = "adaround",
    *,
    twin: fx.GraphModule | None = None,
    layers: Iterable[str] | None = None,
    iterations: int = 1000,
    seed: int = 0,
    correct_bias: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
) -> tuple[LayerResult, ...]:
    """Choose the integers of every weight so that each layer's result stays near the float model's; in place.

    ``qmodel``: from ``qfx.quantize``, BatchNorm folded beforehand (``fold_batch_norm``) or kept. ``data``: calibration inputs. ``method``: see
    ``qfx.ptq.rounding``. ``twin``: the float model to compare with (default: ``float_twin(qmodel)``; give the one taken before other passes).
    ``layers``: the paths to work on (default: all). ``iterations`` are AdaRound's. With ``correct_bias`` the mean error that is left goes into
    each layer's bias. Binary points stay. Inputs come from the quantized layers, targets from the float ones (asymmetric reconstruction).

    Raises UnsupportedError for a layer whose BatchNorm is folded on the fly, RecipeError for weights that do not saturate, DataError for bad data.
    """
    module = graph_module(qmodel)
    parts = batches(data)
    twin = float_twin(module) if twin is None else twin
    wanted = None if layers is None else set(layers)
    was_training = module.training
    module.eval()
    results = []
    todo = [station for station in stations(module) if wanted is None or station.path in wanted]
    with Walk((module, twin), parts) as walk:
        for number, station in enumerate(todo):
            if progress is not None:
                progress(method, number, len(todo))
            walk.to(station.node)
            generator = torch.Generator().manual_seed(seed + number)
            problem = _problem(walk, station, twin, generator, memory_bytes)
            results.append(_solve(station, problem, method, iterations, seed, correct_bias))
    if progress is not None:
        progress(method, len(todo), len(todo))
    module.train(was_training)
    return tuple(results)


def _problem(walk: Walk, station: Station, twin: fx.GraphModule, generator: torch.Generator, memory_bytes: int) -> Problem:
    layer = station.layer
    cast = layer.weight_cast
    if cast.spec.o not in (OMode.SAT, OMode.SAT_SYM):
        raise RecipeError(f"its weights overflow by {cast.spec.o.value}", where=f"{station.path}.weight", remedy="use AP_SAT or AP_SAT_SYM")
    weight = layer.cast_weight().detach()
    scale = torch.exp2(-torch.round(cast.frac_bits.detach())).expand(weight.shape)
    mode = cast.mode
    high = (1 << (cast.word_length - 1 if mode.signed else cast.word_length)) - 1
    low = 0 if not mode.signed else -high if cast.spec.o is OMode.SAT_SYM else -high - 1
    matrix = to_matrix(layer, weight)
    row_bytes = 4 * matrix.shape[0] * (matrix.shape[1] + matrix.shape[2])
    most = max(memory_bytes // row_bytes // walk.batches, 1)
    teacher = twin.get_submodule(station.path)
    assert isinstance(teacher, Weighted)
    xs, ys = [], []
    with torch.no_grad():
        for index in range(walk.batches):
            quantized, exact = walk.inputs(station.node, index)
            y = output_rows(layer, teacher(exact).tensor().to(weight.dtype))
            x = input_rows(layer, quantized.tensor().to(weight.dtype))
            picked = some_rows(x.shape[1], most, generator)
            xs.append(x[:, picked])
            ys.append(y[:, picked])
    groups, outputs = matrix.shape[:2]
    bias = weight.new_zeros(groups, 1, outputs) if layer.bias is None else layer.bias.detach().reshape(groups, 1, outputs)
    return Problem(matrix, to_matrix(layer, scale), low, high, torch.cat(xs, 1), torch.cat(ys, 1), bias, _slope(station, walk.models[0]))


def _slope(station: Station, module: fx.GraphModule) -> float:
    """0 if a ReLU alone reads the layer's result, else 1."""
    users = list(station.node.users)
    alone = len(users) == 1 and users[0].op == "call_module" and isinstance(module.get_submodule(str(users[0].target)), QReLU)
    return 0.0 if alone else 1.0


def _solve(station: Station, problem: Problem, method: Method, iterations: int, seed: int, correct_bias: bool) -> LayerResult:
    solvers: dict[str, Callable[[Problem], Tensor]] = {"adaround": partial(adaround, iterations=iterations, seed=seed), "comq": comq, "gptq": gptq}
    if method not in solvers:
        raise RecipeError(f"the method is {method!r}", remedy=f"use one of {', '.join(solvers)}")
    nearest = problem.nearest()
    raw = solvers[method](problem)
    layer = station.layer
    before, after = problem.error(nearest), problem.error(raw)
    with torch.no_grad():
        layer.set_cast_weight(from_matrix(layer, raw * problem.scale))
        if correct_bias and layer.bias is not None:
            left = problem.x @ (raw * problem.scale).transpose(1, 2) + problem.bias - problem.y
            layer.bias.sub_(left.mean(1).reshape(-1))
    return LayerResult(station.path, before, after, int((raw != nearest).sum()), raw.numel())
