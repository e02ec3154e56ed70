"""The solvers on problems small enough to try everything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qfx.errors import QfxError
from qfx.fixed.kernel import CastMode
from qfx.fixed.type import OMode
from qfx.nn.casts.digits import numbers
from qfx.ptq.rounding.adaround import Relaxation, _flush, _SampledRows, exponent, rectified, relaxed, solve_adaround, undecided
from qfx.ptq.rounding.comq import solve_comq
from qfx.ptq.rounding.gptq import solve_gptq
from qfx.ptq.rounding.problem import Problem, Rows, Solver


def problem(
    groups: int = 1,
    outputs: int = 2,
    inputs: int = 4,
    *,
    rows: int = 40,
    seed: int = 0,
    free_bias: bool = False,
    noise: float = 0.1,
    slope: float = 1.0,
) -> Problem:
    """Correlated inputs, some of them always positive; targets from the float weights and slightly other inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(groups, inputs, inputs, generator=generator)
    exact = (torch.randn(groups, rows, inputs, generator=generator) @ mix + 0.5).relu()
    x = exact + 0.1 * torch.randn(exact.shape, generator=generator)
    weight = torch.randn(groups, outputs, inputs, generator=generator)
    scale = torch.tensor([0.5, 1.0])[torch.randint(2, (groups, outputs, 1), generator=generator)].expand(weight.shape)
    bias = torch.randn(groups, 1, outputs, generator=generator)
    return from_rows(x, exact @ weight.transpose(1, 2) + bias, weight, scale, bias, free_bias=free_bias, slope=slope)


def from_rows(x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, *, free_bias: bool, slope: float) -> Problem:
    """By the definitions, in float64."""
    low, high = -2, 1
    x, y = x.double(), y.double()
    result = x @ weight.double().transpose(1, 2) + bias
    rest = y - result
    mean_x, mean_rest = x.mean(1, keepdim=True), rest.mean(1, keepdim=True).transpose(1, 2)
    centred, left = x - mean_x, rest - mean_rest.transpose(1, 2)
    count = x.shape[1]
    rows = None
    if slope != 1.0:
        shown = (centred, result + mean_rest.transpose(1, 2)) if free_bias else (x, result)
        rows = Rows(shown[0].float(), shown[1].float(), y.float(), slope)
    return Problem(
        weight,
        scale,
        torch.floor(weight / scale + 0.5).clamp(low, high),
        low,
        high,
        centred.transpose(1, 2) @ centred / count,
        left.transpose(1, 2) @ centred / count,
        left.square().mean(1),
        mean_x,
        mean_rest,
        free_bias,
        rows,
    )


def by_definition(p: Problem, x: Tensor, y: Tensor, bias: Tensor, raw: Tensor) -> float:
    left = y.double() - x.double() @ (raw * p.scale).double().transpose(1, 2) - bias
    if p.free_bias:
        left = left - left.mean(1, keepdim=True)
    return float(left.square().mean())


@pytest.mark.parametrize("free_bias", [False, True])
def test_error_from_moments_is_the_error_over_rows(free_bias: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = torch.randn(2, 50, 3, generator=generator) + 1, torch.randn(2, 4, 3, generator=generator)
    y, bias = torch.randn(2, 50, 4, generator=generator), torch.randn(2, 1, 4, generator=generator)
    p = from_rows(x, y, weight, torch.full_like(weight, 0.5), bias, free_bias=free_bias, slope=1.0)
    raw = torch.randint(-2, 2, weight.shape, generator=generator).float()
    assert p.error(raw) == pytest.approx(by_definition(p, x, y, bias, raw), rel=1e-9)
    left = (y.double() - x.double() @ (raw * p.scale).double().transpose(1, 2) - bias).mean(1)
    assert torch.allclose(p.mean_error(raw), left)
    assert p.error(raw, free_bias=False) >= p.error(raw, free_bias=True)


def best(p: Problem) -> float:
    """The least error over all integers."""
    return min(p.error(torch.tensor(raw).reshape(p.weight.shape)) for raw in itertools.product(range(p.low, p.high + 1), repeat=p.weight.numel()))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=15)
def test_no_single_change_improves_on_comq(seed: int, free_bias: bool) -> None:
    p = problem(2, 2, 4, seed=seed, free_bias=free_bias)
    raw = solve_comq(p)
    reached = p.error(raw)
    assert reached <= p.error(p.present) + 1e-9
    assert bool(((raw >= p.low) & (raw <= p.high) & (raw == raw.round())).all())
    for place in itertools.product(*map(range, raw.shape)):
        for value in range(p.low, p.high + 1):
            other = raw.clone()
            other[place] = value
            assert p.error(other) >= reached - 1e-7


def test_a_weight_that_is_off_by_one_would_show() -> None:
    p = problem(seed=5)
    raw = solve_comq(p)
    worse = raw.clone()
    worse[0, 0, 0] += 1 if float(raw[0, 0, 0]) < p.high else -1
    assert p.error(worse) > p.error(raw) + 1e-4


@pytest.mark.parametrize("solve", [solve_comq, solve_gptq, lambda p: solve_adaround(p, iterations=150, rate=0.08)], ids=["comq", "gptq", "adaround"])
@pytest.mark.parametrize("free_bias", [False, True])
def test_better_than_nearest_and_near_the_best(solve, free_bias: bool) -> None:  # type: ignore[no-untyped-def]
    nearest = reached = optimal = 0.0
    for seed in range(6):
        p = problem(outputs=1, inputs=5, seed=seed, free_bias=free_bias)
        nearest, reached, optimal = nearest + p.error(p.present), reached + p.error(solve(p)), optimal + best(p)
    assert optimal <= reached < nearest
    assert reached - optimal < 0.6 * (nearest - optimal)


@pytest.mark.parametrize("seed", range(5))
def test_gptq_is_the_papers_step(seed: int) -> None:
    """Round a weight; those that are left, F, make up for it by the inverse for F: w_F -= (w_q - round(w_q)) / [H_F^-1]_qq * [H_F^-1]_q."""
    p = problem(groups=2, outputs=3, inputs=6, seed=seed)
    found = solve_gptq(p, damping=0.02)
    for group, (h, pull) in enumerate(zip(p.hessian(), p.target(), strict=True)):
        h = h + 0.02 * h.diagonal().mean() * torch.eye(6)
        weight, scale = p.weight[group].double() + torch.linalg.solve(h, pull.T).T, p.scale[group].double()
        left = sorted(range(6), key=lambda place: -float(h[place, place]))
        while left:
            inverse, place = torch.linalg.inv(h[left][:, left]), left[0]
            raw = torch.floor(weight[:, place] / scale[:, place] + 0.5).clamp(-2, 1)
            assert torch.equal(raw, found[group][:, place].double())
            error = (weight[:, place] - raw * scale[:, place]) / inverse[0, 0]
            weight[:, left] -= error[:, None] * inverse[0]
            left = left[1:]


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_adaround_minds_the_activation(slope: float) -> None:
    """Where the result is negative anyway, a ReLU leaves room: by the error behind it, the rows win over the moments."""

    def behind(p: Problem, raw: Tensor) -> float:
        assert p.rows is not None
        result = p.rows.result.double() + p.rows.x.double() @ p.moved(raw).transpose(1, 2)
        return float((p.rows.act(result) - p.rows.act(p.rows.goal.double())).square().mean())

    gained = 0.0
    for seed in range(3):
        p = problem(outputs=3, inputs=6, rows=200, seed=seed, slope=slope, free_bias=True)
        blind = solve_adaround(replace(p, rows=None), iterations=150, rate=0.08)
        gained += behind(p, blind) - behind(p, solve_adaround(p, iterations=150, rate=0.08))
    assert gained > 0


def test_adaround_goes_up_or_down_only_and_repeats() -> None:
    p = problem(2, 3, 5, slope=0.0)
    first, again, other = (solve_adaround(p, iterations=100, rate=0.05, rows=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert other.shape == first.shape
    ratio = p.weight / p.scale
    assert bool(((first == ratio.floor().clamp(p.low, p.high)) | (first == (ratio.floor() + 1).clamp(p.low, p.high))).all())


def in_float64(p: Problem) -> Problem:
    rows = None if p.rows is None else Rows(p.rows.x.double(), p.rows.result.double(), p.rows.goal.double(), p.rows.negative_slope)
    return replace(p, weight=p.weight.double(), scale=p.scale.double(), rows=rows)


@pytest.mark.parametrize("slope", [1.0, 0.0, 0.25], ids=["moments", "relu", "leaky"])
@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("done", [0.1, 0.2, 0.6, 0.999])
def test_gradient_by_hand_is_that_of_autograd(slope: float, free_bias: bool, done: float) -> None:
    p = in_float64(problem(2, 5, 7, rows=60, seed=4, slope=slope, free_bias=free_bias))
    unit, warm_up = 0.7, 0.2
    low, choice = relaxed(p.weight / p.scale)
    assert bool((low < p.low).any() or (low >= p.high).any())  # some have no choice
    choice = (choice * 2.5).requires_grad_()  # some are at 0 or 1
    up = rectified(choice)
    assert 0 < int(((up == 0) | (up == 1)).sum()) < up.numel()
    moved = (low + up).clamp(p.low, p.high) * p.scale - p.weight
    if p.rows is None:
        error = ((moved @ p.hessian() - 2 * p.target()) * moved).sum()
    else:
        result = p.rows.result + p.rows.x @ moved.transpose(1, 2)
        error = (p.rows.act(result) - p.rows.act(p.rows.goal)).square().mean(1).sum()
    (error / unit + 3.0 * undecided(up, done, warm_up)).backward()
    relaxation = Relaxation(p, unit=unit, regularizer=3.0, rows=60, seed=0)
    power = exponent(done, warm_up)
    assert (power is None) == (done < warm_up)
    for _ in range(2):  # nothing is left of the first time
        found = relaxation.gradient(choice.detach(), power)
        torch.testing.assert_close(found, choice.grad, rtol=1e-9, atol=1e-11)


def test_exponent_falls_from_20_to_2() -> None:
    assert exponent(0.19, 0.2) is None
    found = [exponent(done, 0.2) for done in (0.2, 0.6, 1.0)]
    assert found == pytest.approx([20.0, 11.0, 2.0])


def test_momentum_of_what_has_settled_is_not_missed() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(40, generator=generator, dtype=torch.float64)
    expected = value.clone()
    optimizer, flushed = torch.optim.Adam([expected], lr=0.03), torch.optim.Adam([value], lr=0.03, fused=True)
    for step in range(600):
        gradient = torch.randn(40, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(-30, 10)
        gradient[5:20] *= step < 100  # has settled
        value.grad = expected.grad = gradient
        flushed.step()
        optimizer.step()
        if step % 256 == 255:
            _flush(flushed, value)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)


def test_sampled_rows_are_different_ones_and_all_come() -> None:
    count, size = 11, 4
    rows = Rows(torch.eye(count)[None], torch.ones(1, count, 1), torch.zeros(1, count, 1), 0.0)  # the gradient shows which rows were seen
    sampled, seen = _SampledRows(rows, 1.0, size, 0), torch.zeros(count)
    for _ in range(300):
        now = sampled.gradient(torch.zeros(1, 1, count), torch.empty(1, 1, count)).flatten() * size / 2
        assert sorted(now.tolist()) == [0.0] * (count - size) + [1.0] * size
        seen += now
    assert 0.5 * 300 * size / count < float(seen.min()) <= float(seen.max()) < 1.5 * 300 * size / count


def test_relaxed_choice_starts_at_the_weight() -> None:
    ratio = torch.tensor([-1.75, -0.25, 0.0, 0.5, 3.125])
    low, choice = relaxed(ratio)
    assert torch.allclose(low + rectified(choice), ratio, atol=1.1e-3)


@pytest.mark.parametrize("solve", [solve_comq, solve_gptq, lambda p: solve_adaround(p, iterations=5)], ids=["comq", "gptq", "adaround"])
def test_inputs_that_never_come_change_nothing(solve) -> None:  # type: ignore[no-untyped-def]
    weight = torch.tensor([[[0.6, -0.4, 1.2]]])
    x = torch.zeros(1, 9, 3)
    p = from_rows(x, torch.ones(1, 9, 1), weight, torch.ones_like(weight), torch.zeros(1, 1, 1), free_bias=True, slope=1.0)
    assert torch.equal(solve(p), p.present)


def test_gptq_without_damping_names_the_remedy() -> None:
    p = problem(inputs=6, rows=3)  # fewer rows than inputs
    p = replace(p, gram=p.gram * 0 - 1.0)
    with pytest.raises(QfxError, match="more calibration data"):
        solve_gptq(p, damping=0.0)


@pytest.mark.parametrize("solve", [solve_comq, solve_gptq, solve_adaround])
def test_solvers_choose_allowed_numbers(solve: Solver) -> None:
    """Of -8, -4, -2, -1, 0, 1, 2, 4, for weights that reach beyond both ends."""
    allowed = numbers(4, CastMode(o=OMode.SAT), 1, "signed")
    p = problem()
    scaled = p.weight * 6
    present = allowed.nearest(scaled / p.scale).to(scaled.dtype)
    made = replace(p, weight=scaled, present=present, low=-8, high=7, allowed=allowed)
    raw = solve(made)
    assert torch.isin(raw.double(), allowed.raw).all()
    assert made.error(raw) <= made.error(present) * (1 if solve is solve_comq else 1.2)
