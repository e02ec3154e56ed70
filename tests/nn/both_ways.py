"""Layers as one step of autograd in C++, and one by one: the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qfx.nn.layers.products import whole

Run = Callable[[], tuple[Tensor | None, ...]]


@contextmanager
def taken(monkeypatch: pytest.MonkeyPatch, name: str, way: Callable[..., Any], off: str = "") -> Iterator[list[bool]]:
    """For each call of ``whole``'s function ``name``, in whose place ``way`` stands, whether it went as one step; that called ``off`` never goes."""
    went: list[bool] = []

    def seen(*given: object) -> Any:
        found = way(*given)
        went.append(found is not None)
        return found

    with monkeypatch.context() as patch:
        if off:
            patch.setattr(whole, off, lambda *_: None)
        patch.setattr(whole, name, seen)
        yield went


def both_ways(monkeypatch: pytest.MonkeyPatch, name: str, run: Run, expected: list[bool], off: str = "") -> None:
    """``run`` as one step where that is possible, which is where ``expected`` says, and one by one: the same to the bit."""
    with taken(monkeypatch, name, getattr(whole, name), off) as went:
        first = run()
    with taken(monkeypatch, name, lambda *_: None, off):
        second = run()
    assert went == expected
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a is None) is (b is None)
        assert a is None or b is None or torch.equal(a, b)


def trained(qmodel: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor] = torch.sum) -> Run:
    """A forward and backward pass: the result, the gradient by the input, and by each parameter."""

    def run() -> tuple[Tensor | None, ...]:
        qmodel.zero_grad()
        given = x.clone().requires_grad_()
        out = qmodel(given)
        loss(out).backward()  # type: ignore[no-untyped-call]
        return out.detach(), given.grad, *(parameter.grad for parameter in qmodel.parameters())

    return run
