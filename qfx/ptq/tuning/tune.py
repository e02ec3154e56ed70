"""Gradient-based post-training quantization: all weights, biases and binary points together, taught by the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qfx.errors import DataError, RecipeError
from qfx.nn.layers.products.materialize import materialize
from qfx.nn.model import graph_module
from qfx.progress import Progress
from qfx.ptq.activations import batches, evaluating
from qfx.ptq.float_reference import reference_of
from qfx.ptq.tuning.dropped import dropped
from qfx.ptq.tuning.kept import BestState
from qfx.ptq.tuning.loss import Loss, distillation
from qfx.ptq.tuning.optimizer import ElementwiseAdam, cosine
from qfx.ptq.tuning.variables import Reach, only_variables

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
    drop: float = 0.0,
    seed: int = 0,
    keep: Callable[[int, Mapping[str, Tensor]], None] | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
    twin: fx.GraphModule | None = None,
) -> TuneResult:
    """Train the quantized model on unlabelled calibration data to give what the float model gives; in place.

    Weights move freely (not only up or down), with the casts' straight-through gradients, and so do biases and the binary points that their recipe
    lets learn; BatchNorm and word lengths stay. Weights that the model computes of other parameters become parameters (``materialize``). The
    model computes as in evaluation throughout. The steps of Adam fall to 0 by a cosine, and start so that all of them together reach about so far:
    ``reach`` in units in the last place of each weight, ``bias_reach`` as a share of each layer's results, ``binary_point_reach`` in bits. Less than
    half a unit changes nothing where a rounding pass has put the weights on the grid. The loss is ``distillation``; ``features`` times the mean
    relative squared error of the cast values between blocks is added (none: on ResNet-20 at 4 bits it made the result worse). While it trains, each
    number of an activation passes its cast unrounded with probability ``drop`` (``dropped``). Of the states after
    each epoch, and the one before, the best on held-out samples (one in eight) is kept; after an interrupt too. Deterministic for a ``seed``. A
    rounding pass beforehand (``gptq``) gives a better start.

    ``keep`` is called after each epoch with how many are done and with tensors that, beside the model's own at that moment, are all that is needed to
    go on: a later call with the same arguments, the model as it was then and those tensors as ``resume`` ends in the same state as one call.

    Source: Yvinec et al., "Gradient-Based Post-Training Quantization: Challenging the Status Quo", 2023, which finds that the loss, the freedom of
    the variables and the optimizer decide, while the choice and augmentation of the calibration data hardly do, so that it is taken as it is. The
    defaults were measured on ResNet-20 with power-of-two scales.

    ``reference``: the float model (default: ``float_reference(qmodel)``, of the weights as they are; ``twin`` is its earlier name). Raises QfxError
    for a reference of another model, RecipeError for a ``drop`` that is no probability, DataError for bad data or fewer than two samples.
    """
    if not 0 <= drop < 1:
        raise RecipeError(f"drop is {drop}", where="tune", remedy="give a probability from 0 to below 1; QDrop takes 0.5")
    module = graph_module(qmodel)
    inputs = _of_one_shape(data)
    reference = reference_of(module, reference, twin)
    materialize(module)
    generator = torch.Generator().manual_seed(seed)
    samples = _Samples.split(inputs, reference, batch, generator)
    loss = Loss.between(module, reference, features)
    steps = epochs * samples.steps
    with evaluating(module), only_variables(module) as variables:
        moving = variables.parameters
        if resume is None:
            rate = 2 / max(steps, 1)  # the mean of the cosine is a half
            sizes = variables.sizes(module, reference, samples.first, Reach(reach, bias_reach, binary_point_reach), rate)
            optimizer, best = ElementwiseAdam(moving, sizes), BestState.started(samples.held_out(module), variables.state)
        else:
            optimizer, best = ElementwiseAdam.resumed(moving, resume), BestState.resumed(resume)
            generator.set_state(resume["generator"])
        try:
            for epoch in range(len(best.losses), epochs):
                for step, (x, target) in enumerate(samples.shuffled(generator), epoch * samples.steps):
                    if progress is not None:
                        progress("tune", step, steps)
                    optimizer.clear()
                    with dropped(module, drop, generator):
                        found = loss(x, target)
                    found.backward()  # type: ignore[no-untyped-call]
                    optimizer.step(cosine(step / steps))
                best.add(samples.held_out(module), variables.state)
                if keep is not None:
                    keep(epoch + 1, {**optimizer.tensors(), **best.tensors(), "generator": generator.get_state()})
        finally:
            best.settle(variables.state)
    if progress is not None:
        progress("tune", steps, steps)
    return TuneResult(best.before, best.least, best.best, tuple(best.losses))


def _of_one_shape(data: Tensor | Iterable[Tensor]) -> Tensor:
    parts = batches(data)
    if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise DataError("batches of several shapes", where="calibration", remedy="give inputs of one shape")
    inputs = data if isinstance(data, Tensor) else torch.cat(parts)  # data that is mapped is not copied
    if len(inputs) < 2:
        raise DataError("one sample only", where="calibration", remedy="give at least two, one of which is held out")
    return inputs


@dataclass(frozen=True, eq=False)
class _Samples:
    """Inputs with what the float model makes of them, ``batch`` at a time: which are ``learned`` from, and which are ``held`` out."""

    inputs: Tensor
    targets: Tensor
    learned: Tensor
    held: Tensor
    batch: int

    @classmethod
    def split(cls, inputs: Tensor, reference: fx.GraphModule, batch: int, generator: torch.Generator) -> _Samples:
        """Which are held out is drawn by ``generator``."""
        order = torch.randperm(len(inputs), generator=generator)
        count = max(len(inputs) // HELD_OUT, 1)
        with torch.no_grad():
            targets = torch.cat([reference(part) for part in torch.split(inputs, batch)])
        return cls(inputs, targets, order[count:], order[:count], batch)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.learned) / self.batch)

    @property
    def first(self) -> Tensor:
        """Inputs of one batch that is learned from."""
        return self.inputs[self.learned[: self.batch]]

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, with their targets."""
        for picked in torch.split(self.learned[torch.randperm(len(self.learned), generator=generator)], self.batch):
            yield self.inputs[picked], self.targets[picked]

    def held_out(self, module: fx.GraphModule) -> float:
        """The distillation loss on the samples that are held out."""
        with torch.no_grad():
            result = torch.cat([module(part) for part in torch.split(self.inputs[self.held], self.batch)])
            return float(distillation(result, self.targets[self.held]))
