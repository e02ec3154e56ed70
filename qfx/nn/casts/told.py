"""What the host is told of a model whose numbers lie on a GPU: once a forward, at its start, all at once. Each further look would be a wait.

The host decides by numbers: which interval a cast has (its binary points), whether a bias has outgrown its range, whether float32 holds the sums of
these very weights, whether the input is finite. Each is a ``Question``, a few numbers that the GPU works out; ``ask`` brings the answers of all of
them in one transfer. Layers look whether they were told, and if not look themselves, as on the CPU: a forward outside of the model's own (one that
is computed again, a layer alone) is right, and waits.

While a CUDA graph is recorded nothing can be asked. The answers are then those of the forward before, and what is recorded looks on the GPU whether
they are still true (``holds``): where they are not, the results are NaN, and never numbers that were decided by what is no longer so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Question(NamedTuple):
    """Numbers of a layer that the host decides by, on the GPU. ``most``: decisions stay the same while none is greater (a finite limit above 0);
    None: while all of them, rounded, are the same."""

    layer: nn.Module
    what: str
    numbers: Tensor
    most: float | None = None


class Known(NamedTuple):
    """What the host was told last: the numbers (``flat``) on the GPU and here, and how many each question has; and ``kept``, what graphs that were
    recorded read at each replay."""

    there: Tensor
    here: Tensor
    sizes: list[int]
    kept: list[Tensor]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None for a copy, or another process, which may have no GPU: it is told anew."""
        return type(None), ()


Answers = dict[tuple[nn.Module, str], Tensor]
"""On the host, by layer and what was asked, in the shape and dtype of the question."""

_TOLD: ContextVar[Answers | None] = ContextVar("told", default=None)


def is_far(x: object) -> bool:
    """Whether the host waits for whoever asks for a number of ``x``."""
    return isinstance(x, Tensor) and x.is_cuda


def is_recording() -> bool:
    """Whether a CUDA graph is recorded."""
    return torch.cuda.is_current_stream_capturing()


def flat(questions: Sequence[Question]) -> Tensor:
    """The numbers of all, one behind the other, on the device of the first: float64 holds those of every dtype."""
    device = questions[0].numbers.device
    return torch.cat([question.numbers.detach().reshape(-1).double().to(device) for question in questions])


def by_layer(questions: Sequence[Question], numbers: Tensor) -> Answers:
    """``flat`` once it is on the host, taken apart."""
    parts = torch.split(numbers, [question.numbers.numel() for question in questions])
    return {(q.layer, q.what): part.reshape(q.numbers.shape).to(q.numbers.dtype) for q, part in zip(questions, parts, strict=True)}


def holds(questions: Sequence[Question], there: Tensor, told: Tensor) -> Tensor:
    """Whether what was decided by ``told`` (``flat``, on the host; ``there``: the same on the GPU) would be decided again: one bool on the GPU, which
    nobody waits for. What was greater than ``most`` went the way that is always right."""
    sizes = [question.numbers.numel() for question in questions]
    parts = list(zip(questions, *(torch.split(t, sizes) for t in (flat(questions), there, told)), strict=True))
    same = [(torch.round(now), torch.round(then)) for question, now, then, _ in parts if question.most is None]
    within = [now / most for q, now, _, then in parts if (most := q.most) is not None and bool((then <= most).all())]
    nothing = [there.new_zeros(1)]
    now, then = (torch.cat(each) for each in zip(*same, strict=True)) if same else (nothing[0], nothing[0])
    return (now == then).all() & (torch.cat(within or nothing) <= 1.0).all()


@contextlib.contextmanager
def at_once(answers: Answers) -> Iterator[None]:
    """Around a forward of the model."""
    token = _TOLD.set(answers)
    try:
        yield
    finally:
        _TOLD.reset(token)


def look(layer: nn.Module, what: str) -> Tensor | None:
    """The answer, on the host; None where none was given."""
    answers = _TOLD.get()
    return None if answers is None else answers.get((layer, what))


def take(layer: nn.Module, what: str) -> Tensor | None:
    """The answer, once: of what the forward itself may change behind it."""
    answers = _TOLD.get()
    return None if answers is None else answers.pop((layer, what), None)


def forget(layer: nn.Module) -> None:
    """What was told of the layer is no longer so."""
    answers = _TOLD.get()
    for key in [key for key in answers or () if key[0] is layer]:
        (answers or {}).pop(key)
