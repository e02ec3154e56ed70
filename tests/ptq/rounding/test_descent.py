"""AdaRound's iteration in C++ goes the way of torch's operators and torch's Adam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qfx.ptq.rounding import adaround, descent
from qfx.ptq.rounding.adaround import Relaxation, solve_adaround
from qfx.ptq.rounding.problem import Problem, Rows

pytestmark = pytest.mark.skipif(descent.library() is None, reason="needs a C++ compiler")


def problem(groups: int, outputs: int, inputs: int, slope: float | None, rows: int = 700) -> Problem:
    """Of random weights on a grid of 1/16, and rows of which the goal is not quite what the weights make."""
    generator = torch.Generator().manual_seed(groups + outputs)
    weight = 0.2 * torch.randn(groups, outputs, inputs, generator=generator)
    x = torch.relu(torch.randn(groups, rows, inputs, generator=generator))
    result = x @ weight.transpose(1, 2)
    goal = result + 0.05 * torch.randn(result.shape, generator=generator)
    mean_x, rest = x.mean(1, keepdim=True).double(), (goal - result).double()
    centred, mean_rest = x.double() - mean_x, rest.mean(1, keepdim=True)
    moments = centred.transpose(1, 2) @ centred / rows, (rest - mean_rest).transpose(1, 2) @ centred / rows
    scale = torch.full_like(weight, 2.0**-4)
    kept = None if slope is None else Rows(x, result, goal, slope)
    power = (rest - mean_rest).square().mean(1)
    return Problem(weight, scale, torch.round(weight / scale), -8, 7, *moments, power, mean_x, mean_rest.transpose(1, 2), False, kept)


def descended(p: Problem, steps: int, monkeypatch: pytest.MonkeyPatch, *, by_torch: bool, regularizer: float = 3.0) -> Tensor:
    """The choice after so many steps, half of them with the regularizer."""
    with monkeypatch.context() as patch, torch.no_grad():
        if by_torch:
            patch.setattr(descent, "fits", lambda *_: False)
        relaxation = Relaxation(p, unit=0.01, regularizer=regularizer, rows=64, seed=3)
        choice = adaround.start(p.around().rest)
        powers = [None if step < steps // 2 else 20.0 - 18.0 * step / steps for step in range(steps)]
        adaround._descend(relaxation, choice, powers, 1e-2)
    return choice


@pytest.mark.parametrize("slope", [None, 0.0, 0.25], ids=["moments", "relu", "leaky"])
@pytest.mark.parametrize("shape", [(1, 7, 19), (3, 4, 9)], ids=["one group", "groups"])
def test_both_go_the_same_way(shape: tuple[int, int, int], slope: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(*shape, slope)
    mine, theirs = (descended(p, 60, monkeypatch, by_torch=by_torch) for by_torch in (False, True))
    assert float((mine - theirs).abs().max()) < 1e-4
    assert float((mine - adaround.start(p.around().rest)).abs().max()) > 0.1  # and a long one


def test_another_regularizer_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(1, 7, 19, 0.0)
    mine, theirs = descended(p, 60, monkeypatch, by_torch=False, regularizer=3.1), descended(p, 60, monkeypatch, by_torch=True)
    assert float((mine - theirs).abs().max()) > 1e-3


def test_the_integers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(1, 16, 72, 0.0, rows=2000)
    mine = solve_adaround(p, iterations=400)
    monkeypatch.setattr(descent, "fits", lambda *_: False)
    assert torch.equal(mine, solve_adaround(p, iterations=400))


def test_functions_end_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices far beyond what counts, and on the middle, where the logarithm is that of nothing."""
    p = problem(1, 7, 19, None)
    ends = torch.tensor([-1e3, -90.0, -30.0, -1e-30, 0.0, 1e-30, 30.0, 90.0, 1e3]).repeat(15)[: 7 * 19].reshape(1, 7, 19)
    found = []
    for by_torch in (False, True):
        with monkeypatch.context() as patch, torch.no_grad():
            if by_torch:
                patch.setattr(descent, "fits", lambda *_: False)
            choice = ends.clone()
            adaround._descend(Relaxation(p, unit=0.01, regularizer=3.0, rows=64, seed=3), choice, [2.0, 5.0, 19.0], 1e-2)
        found.append(choice)
    assert torch.isfinite(found[0]).all()
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)
