"""The problem of one layer, measured: second moments of what it is given and of what the float model makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qfx.nn.layers import QLeakyReLU, QReLU, Weighted
from qfx.ptq.activations import ActivationCache, LayerCall
from qfx.ptq.rounding.grid import integer_range, units
from qfx.ptq.rounding.problem import Problem, Rows
from qfx.ptq.rounding.rows import input_rows, output_rows, some_rows, to_matrix

SAMPLED_ROWS = 1 << 18
"""So many rows of a layer, spread over all batches and positions, decide about its weights."""


def measured_problem(
    cache: ActivationCache, call: LayerCall, reference: fx.GraphModule, generator: torch.Generator, correct_bias: bool, memory_bytes: int
) -> Problem:
    """What rounding the layer of ``call`` is about, from the inputs that ``cache`` holds for it in the quantized model and in its reference.

    Rows are drawn by ``generator`` where there are very many; those that an activation needs take at most about ``memory_bytes``.
    """
    layer, teacher = call.layer, reference.get_submodule(call.path)
    assert isinstance(teacher, Weighted)  # reference_of has compared the graphs
    weight = layer.cast_weight().detach().clone()  # the layer's own is overwritten while the problem is still in use
    matrix, scale = to_matrix(layer, weight), to_matrix(layer, units(layer).to(weight.dtype).expand(weight.shape))
    groups, outputs, inputs = matrix.shape
    bias = weight.new_zeros(groups, 1, outputs) if layer.bias is None else layer.bias.detach().reshape(groups, 1, outputs)
    slope = _slope(call, cache.models[0])
    row_bytes = weight.element_size() * groups * (inputs + 2 * outputs)
    sums, kept = _Sums(matrix), []
    for index in range(cache.batches):
        quantized, exact = cache.inputs(call.node, index)
        x, y = quantized.tensor().to(weight.dtype), teacher(exact).tensor().to(weight.dtype)
        per_sample = y[0].numel() // (groups * outputs)  # rows
        for part in range(0, len(x), size := max(memory_bytes // (2 * row_bytes * per_sample), 1)):
            x_rows, goal = input_rows(layer, x[part : part + size]), output_rows(layer, y[part : part + size])
            share = len(x[part : part + size]) / (len(x) * cache.batches)  # of all rows
            picked = some_rows(x_rows.shape[1], max(int(SAMPLED_ROWS * share), 1), generator)
            x_rows, goal = x_rows[:, picked], goal[:, picked]
            result = x_rows @ matrix.transpose(1, 2) + bias
            sums.add(x_rows, goal - result)
            if slope != 1.0:
                picked = some_rows(x_rows.shape[1], max(int(memory_bytes / (2 * row_bytes) * share), 1), generator)
                kept.append((x_rows[:, picked], result[:, picked], goal[:, picked]))
    free = correct_bias and layer.bias is not None
    rows = None
    if kept:
        x_rows, result, goal = (torch.cat(parts, 1) for parts in zip(*kept, strict=True))
        if free:  # the bias follows the weights, so that the mean error is always 0
            x_rows, result = x_rows - sums.mean_x.to(weight.dtype), result + sums.mean_rest.transpose(1, 2).to(weight.dtype)
        rows = Rows(x_rows, result, goal, slope)
    present = torch.round(to_matrix(layer, layer.weight_cast(weight).value.to(weight.dtype)) / scale)
    low, high = integer_range(layer.weight_cast)
    allowed = layer.weight_cast.allowed(weight.device)
    mask = None if layer.weight_cast.kept is None else to_matrix(layer, layer.weight_cast.kept)
    return Problem(matrix, scale, present, low, high, *sums.covariances(), sums.mean_x, sums.mean_rest, free, rows, allowed, mask)


class _Sums:
    """Sums over rows, in float64, of x, rest, and their products. The products of one batch are summed in the weights' dtype: x is short, and rest is
    small, so that this costs nothing that matters."""

    def __init__(self, matrix: Tensor) -> None:
        groups, outputs, inputs = matrix.shape
        self.count = 0
        self.x, self.rest = (matrix.new_zeros(shape, dtype=torch.float64) for shape in ((groups, 1, inputs), (groups, outputs, 1)))
        self.gram = matrix.new_zeros(groups, inputs, inputs, dtype=torch.float64)
        self.pull = matrix.new_zeros(groups, outputs, inputs, dtype=torch.float64)
        self.power = matrix.new_zeros(groups, outputs, dtype=torch.float64)

    def add(self, x: Tensor, rest: Tensor) -> None:
        self.count += x.shape[1]
        self.x += x.sum(1, keepdim=True, dtype=torch.float64)
        self.rest += rest.sum(1, dtype=torch.float64).unsqueeze(2)
        self.gram += x.transpose(1, 2) @ x
        self.pull += rest.transpose(1, 2) @ x
        self.power += rest.square().sum(1, dtype=torch.float64)

    @property
    def mean_x(self) -> Tensor:
        return self.x / self.count

    @property
    def mean_rest(self) -> Tensor:
        return self.rest / self.count

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those of x, of rest and x, and the variance of rest."""
        mean_x, mean_rest = self.mean_x, self.mean_rest
        gram = self.gram / self.count - mean_x.transpose(1, 2) @ mean_x
        pull = self.pull / self.count - mean_rest @ mean_x
        return gram, pull, (self.power / self.count - mean_rest.square().squeeze(2)).clamp(min=0)


def _slope(call: LayerCall, module: fx.GraphModule) -> float:
    """That of the activation that alone reads the layer's result, for negative numbers; 1 if there is none."""
    users = list(call.node.users)
    reader = module.get_submodule(str(users[0].target)) if len(users) == 1 and users[0].op == "call_module" else None
    return 0.0 if isinstance(reader, QReLU) else 2.0**reader.log2_slope if isinstance(reader, QLeakyReLU) else 1.0
