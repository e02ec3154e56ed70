"""Gradient-based post-training quantization: all weights, biases and binary points together, taught by the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qfx.errors import DataError
from qfx.nn.layers import Weighted
from qfx.nn.model import graph_module
from qfx.nn.norm import QFoldedBatchNorm
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import Env, Progress, batches, evaluating, run_node
from qfx.ptq.float_reference import reference_of
from qfx.ptq.rounding.grid import units
from qfx.ptq.tuning.kept import BestState
from qfx.ptq.tuning.optimizer import ElementwiseAdam, cosine

HELD_OUT = 8
"""One in so many calibration samples is not learned from, and decides which state is kept."""


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The distillation loss on the held-out samples before and after ``tune``, and after each epoch; ``best`` is the epoch whose state was kept
    (0: the one before)."""

    before: float
    after: float
    best: int
    losses: tuple[float, ...]


def tune(
    qmodel: nn.Module,
    data: Tensor | Iterable[Tensor],
    *,
    reference: fx.GraphModule | None = None,
    epochs: int = 15,
    batch: int = 64,
    reach: float = 1.5,
    bias_reach: float = 0.1,
    binary_point_reach: float = 1.0,
    features: float = 0.0,
    seed: int = 0,
    keep: Callable[[int, Mapping[str, Tensor]], None] | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
    twin: fx.GraphModule | None = None,
) -> TuneResult:
    """Train the quantized model on unlabelled calibration data to give what the float model gives; in place.

    Weights move freely (not only up or down), with the casts' straight-through gradients, and so do biases and the binary points that their recipe
    lets learn; BatchNorm and word lengths stay. The model computes as in evaluation throughout. The steps of Adam fall to 0 by a cosine, and start so
    that all of them together reach about so far: ``reach`` in units in the last place of each weight, ``bias_reach`` as a share of each layer's
    results, ``binary_point_reach`` in bits. Less than half a unit changes nothing where a rounding pass has put the weights on the grid. The loss is
    ``distillation``; ``features`` times the mean relative squared error of the cast values between blocks is added (none: on ResNet-20 at 4 bits it
    made the result worse). Of the states after each epoch, and the one before, the best on held-out samples (one in eight) is kept; after an
    interrupt too. Deterministic for a ``seed``. A rounding pass beforehand (``gptq``) gives a better start.

    ``keep`` is called after each epoch with how many are done and with tensors that, beside the model's own at that moment, are all that is needed to
    go on: a later call with the same arguments, the model as it was then and those tensors as ``resume`` ends in the same state as one call.

    Source: Yvinec et al., "Gradient-Based Post-Training Quantization: Challenging the Status Quo", 2023, which finds that the loss, the freedom of
    the variables and the optimizer decide, while the choice and augmentation of the calibration data hardly do, so that it is taken as it is. The
    defaults were measured on ResNet-20 with power-of-two scales.

    ``reference``: the float model (default: ``float_reference(qmodel)``, of the weights as they are; ``twin`` is its earlier name). Raises QfxError
    for a reference of another model, DataError for bad data or fewer than two samples.
    """
    module = graph_module(qmodel)
    parts = batches(data)
    if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise DataError("batches of several shapes", where="calibration", remedy="give inputs of one shape")
    inputs = torch.cat(parts)
    if len(inputs) < 2:
        raise DataError("one sample only", where="calibration", remedy="give at least two, one of which is held out")
    reference = reference_of(module, reference, twin)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=generator)
    held, learned = order[: max(len(inputs) // HELD_OUT, 1)], order[max(len(inputs) // HELD_OUT, 1) :]
    marks = _marks(module) if features else []
    with evaluating(module), _only(module) as (weights, biases, points):
        with torch.no_grad():
            lessons = torch.cat([reference(part) for part in torch.split(inputs, batch)])
        per_epoch = math.ceil(len(learned) / batch)
        moving = [*(layer.weight for layer in weights), *(layer.bias for layer in biases.values() if layer.bias is not None), *points]
        rate = 2 / max(epochs * per_epoch, 1)  # the mean of the cosine is a half
        if resume is None:
            spread, norms = _spread(reference, inputs[learned[:batch]]), _folded_norms(module)
            sizes = [
                *(rate * reach * own_units(layer, norms.get(layer.name)) for layer in weights),
                *(torch.tensor(rate * bias_reach * spread[path]) for path, layer in biases.items() if layer.bias is not None),
                *(torch.tensor(rate * binary_point_reach) for point in points),
            ]
            optimizer = ElementwiseAdam(moving, sizes)
            stage = BestState.started(_held_out(module, inputs[held], lessons[held], batch), moving)
        else:
            optimizer, stage = ElementwiseAdam.resumed(moving, resume), BestState.resumed(resume)
            generator.set_state(resume["generator"])
        try:
            for epoch in range(len(stage.losses), epochs):
                shuffled = learned[torch.randperm(len(learned), generator=generator)]
                for step, picked in enumerate(torch.split(shuffled, batch)):
                    done = (epoch * per_epoch + step) / (epochs * per_epoch)
                    if progress is not None:
                        progress("tune", epoch * per_epoch + step, epochs * per_epoch)
                    result, reached = _run(module, inputs[picked], marks)
                    loss = distillation(result, lessons[picked])
                    if features:
                        with torch.no_grad():
                            _, wanted = _run(reference, inputs[picked], marks)
                        for ours, theirs in zip(reached, wanted, strict=True):
                            loss = loss + features * _relative(ours, theirs) / len(marks)
                    optimizer.clear()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step(cosine(done))
                stage.add(_held_out(module, inputs[held], lessons[held], batch), moving)
                if keep is not None:
                    keep(epoch + 1, {**optimizer.tensors(), **stage.tensors(), "generator": generator.get_state()})
        finally:
            stage.settle(moving)
    if progress is not None:
        progress("tune", epochs * per_epoch, epochs * per_epoch)
    return TuneResult(stage.before, stage.least, stage.best, tuple(stage.losses))


def distillation(result: Tensor, lesson: Tensor) -> Tensor:
    """How far a result is from the float model's: the Kullback-Leibler divergence of the softmax over axis 1 (Hinton et al., 2015), which is what
    matters to a classifier, plus the relative squared error, which is what matters to everything else."""
    lesson = lesson.to(result.dtype)
    divergence = F.kl_div(F.log_softmax(result, 1), F.log_softmax(lesson, 1), log_target=True, reduction="none").sum(1).mean()
    return divergence + _relative(result, lesson)


def _relative(result: Tensor, lesson: Tensor) -> Tensor:
    """The squared error as a share of the lesson's variance."""
    return (result - lesson).square().mean() / (lesson - lesson.mean()).square().mean().clamp(min=1e-12)


def _held_out(module: fx.GraphModule, inputs: Tensor, lessons: Tensor, batch: int) -> float:
    with torch.no_grad():
        return float(distillation(torch.cat([module(part) for part in torch.split(inputs, batch)]), lessons))


def _marks(module: fx.GraphModule) -> list[str]:
    """The casts of activations, behind the input's, whose value is the only one alive."""
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    order = {node: index for index, node in enumerate(nodes)}
    marks = []
    alive: set[fx.Node] = set()
    for index, node in enumerate(nodes):
        alive = {other for other in (*alive, node) if any(order.get(user, len(nodes)) > index for user in other.users)}
        if alive == {node} and node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), Quantizer):
            marks.append(node.name)
    return marks


def _run(module: fx.GraphModule, x: Tensor, marks: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The model's result, and the values of the nodes called ``marks``."""
    if not marks:
        return module(x), []
    nodes = list(module.graph.nodes)
    env: Env = {next(node.name for node in nodes if node.op == "placeholder"): x}
    for node in nodes:
        run_node(module, node, env)
    result = env[next(str(node.args[0]) for node in nodes if node.op == "output")]
    return result, [env[mark].tensor() for mark in marks]


def _spread(reference: fx.GraphModule, x: Tensor) -> dict[str, float]:
    """The root mean square of the results of each layer with weights, by its path."""
    nodes = list(reference.graph.nodes)
    env: Env = {next(node.name for node in nodes if node.op == "placeholder"): x}
    spread: dict[str, float] = {}
    with torch.no_grad():
        for node in nodes:
            run_node(reference, node, env)
            value = env.get(node.name)
            if node.op == "call_module" and isinstance(reference.get_submodule(str(node.target)), Weighted) and isinstance(value, QTensor):
                spread[str(node.target)] = max(float(value.tensor().square().mean().sqrt()), 1e-12)
            for source in node.all_input_nodes:
                if all(user.name in env for user in source.users):
                    env.pop(source.name, None)
    return spread


def own_units(layer: Weighted, norm: QFoldedBatchNorm | None = None) -> Tensor:
    """The value of one unit in the last place of each weight, in the layout of ``layer.weight``, which must take gradients. A weight that is
    multiplied by the scale of ``norm`` before it is cast must move by as much less."""
    with torch.enable_grad():
        weight = layer.cast_weight()
        unit = units(layer).to(weight.dtype).expand(weight.shape)
        if norm is not None:
            unit = unit / norm.affine()[0].detach().abs().clamp(min=1e-6).reshape(-1, *(1,) * (weight.dim() - 1))
        (own,) = torch.autograd.grad((weight * unit).sum(), layer.weight)  # which knows the layout
    return own


def _folded_norms(module: fx.GraphModule) -> dict[str, QFoldedBatchNorm]:
    """The BatchNorms that are folded on the fly, by the name of the layer that they are folded into."""
    norms: dict[str, QFoldedBatchNorm] = {}
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Weighted) and len(node.args) > 1:
            norm = module.get_submodule(str(node.args[1].target))
            assert isinstance(norm, QFoldedBatchNorm)
            norms[layer.name] = norm
    return norms


@contextmanager
def _only(module: fx.GraphModule) -> Iterator[tuple[list[Weighted], dict[str, Weighted], list[nn.Parameter]]]:
    """(layers whose weight, layers by path whose bias, binary points that) may move. In this context nothing else takes gradients."""
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Weighted)}
    weights = [layer for layer in layers.values() if layer.weight.requires_grad]
    biases = {path: layer for path, layer in layers.items() if layer.bias is not None and layer.bias.requires_grad}
    casts = (part for part in module.modules() if isinstance(part, Quantizer))
    points = [cast.frac_bits for cast in casts if isinstance(cast.frac_bits, nn.Parameter) and cast.frac_bits.requires_grad]
    flags = {parameter: parameter.requires_grad for parameter in module.parameters()}
    chosen = {id(layer.weight) for layer in weights} | {id(layer.bias) for layer in biases.values()} | {id(point) for point in points}
    try:
        for parameter in flags:
            parameter.requires_grad_(id(parameter) in chosen)
        yield weights, biases, points
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
