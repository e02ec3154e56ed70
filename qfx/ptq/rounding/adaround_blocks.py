"""AdaRound block by block: the roundings of all layers of a block are chosen together, for the block's result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.fixed.arith import Bounds
from qfx.nn.layers import Weighted
from qfx.nn.layers.products.materialize import materialize
from qfx.nn.model import graph_module
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.progress import Progress
from qfx.ptq.activations import ActivationCache, Env, batches, evaluating, run_node
from qfx.ptq.float_reference import reference_of
from qfx.ptq.rounding.adaround import decided, rectified, start, undecided
from qfx.ptq.rounding.blocks import Block, find_blocks
from qfx.ptq.rounding.grid import Around, around, integer_range, settle_bias, units
from qfx.ptq.rounding.layers import MEMORY_BYTES

BATCH = 32
"""Samples per iteration, as in the paper."""

ITERATIONS = 300
"""Per block, where nothing else is asked for."""

BIAS_RATE = 1e-3
"""What a bias moves per iteration, as a share of the block's results."""

NEAREST_ERROR = 1 / 12
"""The squared error of a weight that is rounded to nearest, in units in the last place squared: what the block's error stands for at the start."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What ``adaround_blocks`` did to one block: the mean squared error of its cast result before and after, against the float model; ``moved``
    weights of ``weights`` have another integer than before. ``kept``: whether it was better; if not, all stayed as it was."""

    name: str
    before: float
    after: float
    moved: int
    weights: int
    kept: bool


def adaround_blocks(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    iterations: int = ITERATIONS,
    rate: float = 2e-2,
    regularizer: float = 3.0,
    warm_up: float = 0.2,
    binary_point_rate: float = 0.0,
    reference: fx.GraphModule | None = None,
    first: int = 0,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
    twin: fx.GraphModule | None = None,
) -> tuple[BlockResult, ...]:
    """Choose for every weight between its two neighbours so that each block's cast result stays near the float model's; in place.

    All layers of a block are relaxed together, with the activation casts between them in the loop; biases move along, and with
    ``binary_point_rate`` (per iteration, in bits; 0: not) so do the activations' binary points where their recipe lets them learn. Each iteration
    sees one batch (a tensor is cut into batches of 32). A block that did not come nearer is left as it was. Otherwise as ``round_weights``: the
    weights' binary points stay, weights that the model computes become parameters (``materialize``), inputs come from the quantized blocks
    before, targets from ``reference`` (``twin`` is its earlier name).

    Sources: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021 (the squared error in place of its
    Fisher-weighted one); Nagel et al. 2020 for the relaxation. BRECQ takes 20,000 ``iterations``.

    ``first``: the block to begin with, of those that ``find_blocks`` lists; the ones before it, done in an earlier call, are neither changed nor
    reported, and the others end as they would have in one call. Raises what ``round_weights`` raises.
    """
    module = graph_module(qmodel)
    blocks = find_blocks(module)
    if not 0 <= first <= len(blocks):
        raise RecipeError(f"first is {first} of {len(blocks)} blocks", where="adaround_blocks", remedy="count from 0, as find_blocks does")
    reference = reference_of(module, reference, twin)
    materialize(module)
    parts = batches(data, BATCH)
    results = []
    total = len(blocks) * iterations
    with (
        evaluating(module),
        ActivationCache((module,), parts, memory_bytes=memory_bytes // 2) as cache,
        ActivationCache((reference,), parts, memory_bytes=memory_bytes // 2) as targets,
    ):
        for number, block in list(enumerate(blocks))[first:]:
            if progress is not None:  # with the model as it is between two blocks
                progress("adaround_blocks", number * iterations, total)
            cache.advance_past(block.source)
            targets.advance_past(block.nodes[-1])
            pairs = _Pairs(module, block, cache, targets)
            generator = torch.Generator().manual_seed(seed + number)
            before = pairs.error()
            with _relaxed(block, module, binary_point_rate > 0) as relaxation:
                optimizer = torch.optim.Adam(relaxation.groups(rate, BIAS_RATE * pairs.spread(), binary_point_rate))
                fall = [lambda step: 1.0] + [lambda step: 0.5 * (1 + math.cos(math.pi * step / iterations))] * (len(optimizer.param_groups) - 1)
                schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, fall)
                weights = sum(call.layer.weight.numel() for call in block.calls)
                for step in range(iterations if before > 0 else 0):
                    if progress is not None and step and step % 10 == 0:
                        progress("adaround_blocks", number * iterations + step, total)
                    index = int(torch.randint(cache.batches, (1,), generator=generator))
                    loss = pairs.loss(index) * (weights * NEAREST_ERROR / before)
                    loss = loss + regularizer * relaxation.undecided(step / iterations, warm_up)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
            results.append(_hardened(relaxation, pairs, before))
    if progress is not None:
        progress("adaround_blocks", total, total)
    return tuple(results)


class SoftRounding(nn.Module):
    """Stands in for a layer's weight cast while its roundings are chosen: gives relaxed weights, whatever it is asked to cast."""

    quantizer: Quantizer
    unit: Tensor
    around: Around
    choice: nn.Parameter

    def __init__(self, layer: Weighted) -> None:
        super().__init__()
        weight = layer.cast_weight().detach()
        self.quantizer = layer.weight_cast
        self.unit = units(layer).to(weight.dtype)
        found = around(weight / self.unit, *integer_range(layer.weight_cast), layer.weight_cast.allowed(weight.device))
        self.around = found if layer.weight_cast.kept is None else found.among(layer.weight_cast.kept)
        self.choice = nn.Parameter(start(self.around.rest))

    def forward(self, x: Tensor) -> QTensor:
        low, up, _ = self.around
        return QTensor((low + (up - low) * rectified(self.choice)) * self.unit, self.interval())

    def with_another(self, x: Tensor, other: Quantizer, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)

    def interval(self) -> Bounds:
        return self.quantizer.interval()

    def hard(self) -> Tensor:
        """The chosen weights, outputs on axis 0."""
        return self.around.chosen(decided(self.choice)) * self.unit


@dataclass(frozen=True, eq=False)
class _Relaxation:
    """The variables of a block that is being worked on, and how it was before."""

    soft: tuple[SoftRounding, ...]
    biases: list[nn.Parameter]
    points: list[nn.Parameter]
    saved: dict[nn.Parameter, Tensor]

    def groups(self, rate: float, bias_rate: float, point_rate: float) -> list[dict[str, Any]]:
        pairs = (([soft.choice for soft in self.soft], rate), (self.biases, bias_rate), (self.points, point_rate))
        return [{"params": params, "lr": lr} for params, lr in pairs if params]

    def undecided(self, done: float, warm_up: float) -> Tensor:
        return torch.stack([undecided(rectified(soft.choice), done, warm_up) for soft in self.soft]).sum()

    def restore(self) -> None:
        with torch.no_grad():
            for parameter, value in self.saved.items():
                parameter.copy_(value)


@contextmanager
def _relaxed(block: Block, module: fx.GraphModule, learn_points: bool) -> Iterator[_Relaxation]:
    """In this context the layers of the block have SoftRounding for weight casts, and only what is to be chosen takes gradients. Afterwards the casts
    and flags are as they were; after an error the numbers too."""
    layers = [call.layer for call in block.calls]
    modules = [module.get_submodule(str(node.target)) for node in block.nodes if node.op == "call_module"]
    casts = [part for part in modules if isinstance(part, Quantizer)]
    parameters = {parameter: parameter.requires_grad for part in modules for parameter in part.parameters()}
    biases = [layer.bias for layer in layers if isinstance(layer.bias, nn.Parameter) and layer.bias.requires_grad]
    points = [cast.frac_bits for cast in casts if isinstance(cast.frac_bits, nn.Parameter) and cast.frac_bits.requires_grad] if learn_points else []
    kept = [layer.weight_cast for layer in layers]
    soft = tuple(SoftRounding(layer) for layer in layers)
    relaxation = _Relaxation(soft, biases, points, {parameter: parameter.detach().clone() for parameter in parameters})
    chosen = {id(parameter) for parameter in (*biases, *points)}
    try:
        for layer, cast in zip(layers, soft, strict=True):
            layer.weight_cast = cast  # type: ignore[assignment]
        for parameter in parameters:
            parameter.requires_grad_(id(parameter) in chosen)
        yield relaxation
    except BaseException:
        relaxation.restore()
        raise
    finally:
        for layer, known in zip(layers, kept, strict=True):
            layer.weight_cast = known
        for parameter, flag in parameters.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


class _Pairs:
    """A block's inputs as the quantized model gives them, and its results as the float model gives them."""

    def __init__(self, module: fx.GraphModule, block: Block, cache: ActivationCache, targets: ActivationCache) -> None:
        self.module, self.block, self.cache, self.targets = module, block, cache, targets

    def loss(self, index: int) -> Tensor:
        """The mean squared error of the block's result for one batch."""
        env: Env = {self.block.source.name: self.cache.value(self.block.source.name, index)}
        for node in self.block.nodes:
            run_node(self.module, node, env)
        result = _tensor(env[self.block.nodes[-1].name])
        return (result - self.goal(index).to(result.dtype)).square().mean()

    def goal(self, index: int) -> Tensor:
        return _tensor(self.targets.value(self.block.nodes[-1].name, index))

    def error(self) -> float:
        """The mean squared error over all data."""
        with torch.no_grad():
            sizes = [len(self.goal(index)) for index in range(self.cache.batches)]
            return sum(float(self.loss(index)) * size for index, size in enumerate(sizes)) / sum(sizes)

    def spread(self) -> float:
        """The root mean square of a batch of results."""
        return max(float(self.goal(0).square().mean().sqrt()), 1e-12)

    def settle_biases(self) -> None:
        env: Env = {self.block.source.name: self.cache.value(self.block.source.name, 0)}
        layers = {call.node: call.layer for call in self.block.calls}
        with torch.no_grad():
            for node in self.block.nodes:
                if node in layers:
                    settle_bias(layers[node], env[str(node.args[0])])
                run_node(self.module, node, env)


def _hardened(relaxation: _Relaxation, pairs: _Pairs, before: float) -> BlockResult:
    moved = weights = 0
    with torch.no_grad():
        for call, soft in zip(pairs.block.calls, relaxation.soft, strict=True):
            layer = call.layer
            hard = layer.weight_cast(soft.hard()).value.to(layer.weight.dtype)  # as an accumulator of a chosen width lets them be
            moved += int((hard != layer.weight_cast(layer.cast_weight()).value).sum())
            weights += hard.numel()
            layer.set_cast_weight(hard)
    pairs.settle_biases()
    after = pairs.error()
    better = after < before
    if not better:
        relaxation.restore()
        moved, after = 0, before
    return BlockResult(pairs.block.name, before, after, moved, weights, better)


def _tensor(value: Tensor | QTensor) -> Tensor:
    return value.tensor() if isinstance(value, QTensor) else value
