"""The binary point that an observer chooses really has the least squared error of all it may choose from."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import OMode, QMode
from qfx.fixed.kernel import CastMode
from qfx.fixed.reference import cast_float
from qfx.nn.observer import FRAC_BITS, MAX_SPREAD, SEARCH_DEPTH, min_error_frac_bits

MODES = [CastMode(signed, q, o) for signed in (True, False) for q in (QMode.RND, QMode.TRN, QMode.RND_CONV) for o in (OMode.SAT, OMode.WRAP)]


def squared_error(values: list[float], width: int, frac_bits: int, mode: CastMode) -> Fraction:
    """By the definition of Cast, in exact arithmetic."""
    type_ = mode.type(width, frac_bits)
    return sum(((cast_float(value, type_) * type_.lsb - Fraction(value)) ** 2 for value in values), Fraction(0))


def just_holds(values: list[float], width: int, mode: CastMode) -> int:
    """The finest position at which 2**(its integer bits) exceeds every magnitude."""
    largest = max(abs(value) for value in values)
    return width - int(mode.signed) - (math.frexp(largest)[1] if largest else 0)


def best(values: list[float], width: int, mode: CastMode, most: int | None = None) -> set[int]:
    """All candidates of least error, by brute force."""
    first = just_holds(values, width, mode)
    candidates = {first + step if most is None else min(first + step, most) for step in range(SEARCH_DEPTH + 1)}
    errors = {candidate: squared_error(values, width, candidate, mode) for candidate in candidates}
    return {candidate for candidate, error in errors.items() if error == min(errors.values())}


numbers = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@settings(max_examples=150)
@given(st.lists(numbers, min_size=1, max_size=8), st.integers(1, 12), st.sampled_from(MODES), st.none() | st.integers(-3, 12))
def test_one_binary_point_has_the_least_error(values: list[float], width: int, mode: CastMode, most: int | None) -> None:
    found = min_error_frac_bits(torch.tensor(values), width, mode, (), most=most)
    allowed = best(values, width, mode, most)
    assert int(found) in allowed
    assert int(found) == min(allowed), "ties go to the wider range"


@settings(max_examples=60)
@given(st.integers(2, 8), st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_channels_and_elements_are_chosen_alone(width: int, mode: CastMode, random: object) -> None:
    generator = torch.Generator().manual_seed(random.getrandbits(32))  # type: ignore[attr-defined]
    x = torch.randn(3, 4, 2, generator=generator) * torch.tensor([0.25, 1.0, 8.0, 30.0]).reshape(1, 4, 1)
    per_channel = min_error_frac_bits(x, width, mode, (1, 4, 1))
    assert per_channel.shape == (1, 4, 1)
    for channel in range(4):
        assert int(per_channel[0, channel, 0]) in best(x[:, channel].flatten().tolist(), width, mode)
    weight = x.transpose(0, 1)
    assert torch.equal(min_error_frac_bits(weight, width, mode, (4, 1, 1)).flatten(), per_channel.flatten())
    row = x[:1].clamp(min=0.05)
    per_element = min_error_frac_bits(row, width, mode, (1, 4, 2))
    assert all(int(found) in best([value], width, mode) for found, value in zip(per_element.flatten(), row.flatten().tolist(), strict=True))


def test_what_saturates_is_weighed_against_resolution() -> None:
    """1000 numbers of 0.01 and one of 1: four signed bits are better spent on the many."""
    x = torch.cat([torch.full((1000,), 0.07), torch.ones(1)])
    assert int(min_error_frac_bits(x, 4, CastMode(True, QMode.RND, OMode.SAT), ())) > 2
    assert int(min_error_frac_bits(torch.ones(3), 4, CastMode(True, QMode.RND, OMode.SAT), ())) == 2


@pytest.mark.parametrize(("signed", "expected"), [(True, 7), (False, 8)])
def test_zeros_alone(signed: bool, expected: int) -> None:
    mode = CastMode(signed, QMode.RND, OMode.SAT)
    assert int(min_error_frac_bits(torch.zeros(5), 8, mode, ())) == expected
    assert min_error_frac_bits(torch.zeros(2, 3), 8, mode, (2, 1)).flatten().tolist() == [expected, expected]


def test_a_dead_channel_takes_the_widest_range_and_a_faint_one_stays_near() -> None:
    x = torch.tensor([[4.0, 3.0], [0.0, 0.0], [1e-30, 1e-31], [0.5, 0.25]])
    mode = CastMode(True, QMode.RND, OMode.SAT)
    wide, dead, faint, fine = min_error_frac_bits(x, 8, mode, (4, 1)).flatten().tolist()
    assert dead == wide == 4
    assert wide + MAX_SPREAD <= faint <= wide + MAX_SPREAD + SEARCH_DEPTH
    assert fine > wide


@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-10, 1e10, 1e30, 3e38])
def test_any_magnitude_has_a_binary_point(magnitude: float) -> None:
    x = torch.tensor([magnitude, -magnitude / 3])
    mode = CastMode(True, QMode.RND, OMode.SAT)
    for dtype in (torch.float32, torch.float64):
        found = int(min_error_frac_bits(x.to(dtype), 8, mode, ()))
        assert FRAC_BITS[0] <= found <= FRAC_BITS[1] + SEARCH_DEPTH
    if 1e-15 < magnitude < 1e29:
        assert found in best(x.tolist(), 8, mode)


def test_no_gradient_and_no_change() -> None:
    x = torch.randn(6, requires_grad=True)
    before = x.detach().clone()
    assert not min_error_frac_bits(x, 8, CastMode(), ()).requires_grad
    assert torch.equal(x.detach(), before)


def test_a_long_word_keeps_headroom() -> None:
    """With ``negligible`` a word of 16 bits leaves range for larger data, a word of 8 bits has none to spare."""
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    mode = CastMode(True, QMode.RND, OMode.SAT)
    assert int(min_error_frac_bits(x, 16, mode, ())) == 15
    assert int(min_error_frac_bits(x, 16, mode, (), negligible=1e-7)) == 13
    assert int(min_error_frac_bits(x, 8, mode, (), negligible=1e-7)) == 7
