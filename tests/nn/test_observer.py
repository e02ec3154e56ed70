"""The binary point that an observer chooses really has the least squared error of all it may choose from."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qfx import OMode, QMode
from qfx.fixed.kernel import CastMode
from qfx.fixed.reference import cast_float
from qfx.nn.observer import FRAC_BITS, MAX_SPREAD, OUTLIER_OCTAVES, SAMPLE, SEARCH_DEPTH, choose_frac_bits, min_error_frac_bits
from qfx.recipe import ObserverName

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


# The other observers


def overflows(values: list[float], width: int, frac_bits: int, mode: CastMode) -> int:
    """By the definition of Cast: how many numbers, rounded but not limited, lie outside of the range."""
    type_ = mode.type(width, frac_bits)
    longer = CastMode(mode.signed, mode.q, OMode.SAT).type(width + 40, frac_bits)
    return sum(not type_.min_raw <= cast_float(value if mode.signed else max(value, 0.0), longer) <= type_.max_raw for value in values)


def finest(values: list[float], width: int, mode: CastMode, allowed: float, octaves: int) -> int:
    """The last position, from one left of the one that just holds the largest, up to which no more than ``allowed`` overflow."""
    first = just_holds(values, width, mode)
    if not any(values):
        return first
    found = first - 1
    for candidate in range(first - 1, first + octaves + 1):
        if overflows(values, width, candidate, mode) > allowed:
            break
        found = candidate
    return found


SYMMETRIC = CastMode(True, QMode.RND, OMode.SAT_SYM)


@settings(max_examples=150)
@given(st.lists(numbers, min_size=1, max_size=8), st.integers(2, 12), st.sampled_from([*MODES, SYMMETRIC]))
def test_minmax_is_the_finest_without_overflow(values: list[float], width: int, mode: CastMode) -> None:
    found = choose_frac_bits((torch.tensor(values),), width, mode, (), observer="minmax")
    assert int(found) == finest(values, width, mode, 0, 1)


def test_minmax_counts_the_rounding() -> None:
    signed = CastMode(True, QMode.RND, OMode.SAT)
    truncating = CastMode(True, QMode.TRN, OMode.SAT)

    def minmax(values: list[float], mode: CastMode) -> int:
        return int(choose_frac_bits((torch.tensor(values),), 8, mode, (), observer="minmax"))

    assert minmax([0.999], signed) == 6, "127.9 rounds to 128"
    assert minmax([0.999], truncating) == 7
    assert minmax([0.99], signed) == 7
    assert minmax([-1.0, 0.5], signed) == 7
    assert minmax([-1.0, 0.5], SYMMETRIC) == 6
    assert minmax([1.0], signed) == 6


@settings(max_examples=100)
@given(
    st.lists(numbers, min_size=1, max_size=40), st.integers(3, 8), st.sampled_from([*MODES, SYMMETRIC]), st.sampled_from((50.0, 75.0, 90.0, 100.0))
)
def test_percentile_leaves_out_so_many_and_no_more(values: list[float], width: int, mode: CastMode, percentile: float) -> None:
    found = choose_frac_bits((torch.tensor(values),), width, mode, (), observer="percentile", percentile=percentile)
    assert int(found) == finest(values, width, mode, len(values) * (100 - percentile) / 100, OUTLIER_OCTAVES)


def test_percentile_forgets_outliers() -> None:
    x = torch.cat([torch.linspace(-0.9, 0.9, 9_999), torch.tensor([900.0])])
    mode = CastMode(True, QMode.RND, OMode.SAT)
    assert int(choose_frac_bits((x,), 8, mode, (), observer="percentile", percentile=99.9)) == 7
    assert int(choose_frac_bits((x,), 8, mode, (), observer="percentile", percentile=100.0)) == -3
    assert int(choose_frac_bits((x,), 8, mode, (), observer="minmax")) == -3


def divergence(values: list[float], frac_bits: int, first: int, width: int, signed: bool) -> float:
    """Migacz's measure for one range, written out bin by bin."""
    levels = 2 ** (width - signed)
    counts = [0] * (levels * 16)
    for value in values:
        counts[min(int(abs(value) * 2.0 ** (first + 4)), len(counts) - 1)] += 1
    counts[0] = counts[1]
    kept = counts[: len(counts) >> (frac_bits - first)]
    clipped = [*kept[:-1], kept[-1] + sum(counts[len(kept) :])]
    group = len(kept) // levels
    spread = []
    for start in range(0, len(kept), group):
        part = kept[start : start + group]
        filled = sum(count > 0 for count in part)
        spread += [sum(part) / filled if count else 0.0 for count in part]
    p_sum, q_sum = max(sum(clipped), 1), max(sum(spread), 1)
    return sum(p / p_sum * math.log(p / p_sum / max(q / q_sum, 1e-12)) for p, q in zip(clipped, spread, strict=True) if p)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("tail", [1.0, 8.0])
def test_kl_has_the_least_divergence(signed: bool, width: int, tail: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 2, generator=generator).abs() ** (1 + tail / 4) * torch.tensor([1.0, 30.0])
    mode = CastMode(signed, QMode.RND, OMode.SAT)
    found = choose_frac_bits((x,), width, mode, (1, 2), observer="kl")
    for channel in range(2):
        values = x[:, channel].tolist()
        first = just_holds(values, width, mode)
        least = min(range(first, first + 5), key=lambda bits: divergence(values, bits, first, width, signed))
        assert int(found[0, channel]) == least
    assert int(choose_frac_bits((x[:, :1],), width, mode, (), observer="kl")) == int(found[0, 0])


def test_kl_saturates_a_long_tail_and_long_words_take_the_least_error() -> None:
    x = torch.cat([torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 0.1, torch.tensor([3.9])])
    mode = CastMode(True, QMode.RND, OMode.SAT)
    assert int(choose_frac_bits((x,), 8, mode, (), observer="kl")) > int(choose_frac_bits((x,), 8, mode, (), observer="minmax"))
    assert torch.equal(choose_frac_bits((x,), 16, mode, (), observer="kl"), choose_frac_bits((x,), 16, mode, ()))


@pytest.mark.parametrize("observer", get_args(ObserverName))
@pytest.mark.parametrize("shape", [(), (1, 3, 1), (1, 3, 4)])
def test_batches_count_as_one_tensor(observer: ObserverName, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 4, generator=generator) * torch.tensor([0.1, 1.0, 9.0]).reshape(3, 1)
    x[40, 1, 2] = 70.0  # in the last batch alone
    mode = CastMode(True, QMode.RND, OMode.SAT)
    parts = torch.split(x, 16)
    together = choose_frac_bits((x,), 6, mode, shape, observer=observer, percentile=99.0)
    assert torch.equal(choose_frac_bits(parts, 6, mode, shape, observer=observer, percentile=99.0), together)
    assert not torch.equal(choose_frac_bits(parts[:1], 6, mode, shape, observer="minmax"), choose_frac_bits(parts, 6, mode, shape, observer="minmax"))
    assert int(choose_frac_bits(parts, 6, mode, shape, observer=observer, most=-9).max()) == -9


@pytest.mark.parametrize("observer", get_args(ObserverName))
def test_every_observer_takes_zeros_and_large_data(observer: ObserverName) -> None:
    mode = CastMode(False, QMode.RND, OMode.SAT)
    assert int(choose_frac_bits((torch.zeros(5),), 8, mode, (), observer=observer)) == 8
    x = torch.rand(3 * SAMPLE, generator=torch.Generator().manual_seed(0))
    x[-1] = 100.0  # not in the sample, but in the range
    found = int(choose_frac_bits((x[:SAMPLE], x[SAMPLE:]), 8, mode, (), observer=observer))
    assert found == 1 if observer == "minmax" else 1 < found <= 8
