"""How good a fixed-point model is: right answers, and signal to quantization noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qfx.pages.answers import Answers, counted, fitting


@dataclass(frozen=True, eq=False)
class Labelled:
    """Inputs with the right answers: ``x`` batch first, ``y`` class numbers, one for every sample (or position)."""

    x: Tensor
    y: Tensor

    def first(self, count: int) -> Labelled:
        return Labelled(self.x[:count], self.y[:count])


def outputs(model: nn.Module, x: Tensor, batch: int) -> Tensor:
    """The model's results on ``x``, computed in batches, nothing differentiated."""
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(x, batch)])


def answers(model: nn.Module, data: Labelled, batch: int) -> Answers:
    """Which class is taken for which: that of the greatest score along axis 1.

    Raises DataError if the labels do not fit the model's output, or number classes that it does not have.
    """
    scores = outputs(model, data.x, batch).numpy()
    return counted(scores, fitting(data.y.numpy(), scores.shape, "evaluation data"))


def accuracy(model: nn.Module, data: Labelled, batch: int) -> float:
    """The share of samples (or positions) that are right. Raises DataError as ``answers`` does."""
    found = answers(model, data, batch)
    return found.right / found.total if found.total else math.nan


def sqnr(exact: Tensor, quantized: Tensor) -> float:
    """Signal to quantization noise in dB: 10 log10(sum exact**2 / sum (exact - quantized)**2). inf if there is no noise, else -inf without a
    signal."""
    signal = float(exact.double().square().sum())
    noise = float((exact.double() - quantized.double()).square().sum())
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 else -math.inf


@dataclass(frozen=True, eq=False)
class Judge:
    """Says how good quantized models are beside the float one: the noise of their output on ``inputs``, where the float model gives ``expected``, and
    right answers on ``evaluation`` (None: nobody knows them)."""

    inputs: Tensor
    expected: Tensor
    evaluation: Labelled | None
    batch: int

    @classmethod
    def between(cls, model: nn.Module, inputs: Tensor, evaluation: Labelled | None, batch: int) -> Judge:
        """That of a float model."""
        return cls(inputs, outputs(model, inputs, batch), evaluation, batch)

    def noise(self, model: nn.Module) -> float:
        """``sqnr`` of a model's output."""
        return sqnr(self.expected, outputs(model, self.inputs, self.batch))

    def right(self, model: nn.Module, first: int | None = None) -> float | None:
        """``accuracy`` of a model on the ``first`` evaluation samples (None: on all)."""
        if self.evaluation is None:
            return None
        return accuracy(model, self.evaluation if first is None else self.evaluation.first(first), self.batch)

    def answers(self, model: nn.Module) -> Answers | None:
        """``answers`` of a model on all evaluation samples."""
        return None if self.evaluation is None else answers(model, self.evaluation, self.batch)
