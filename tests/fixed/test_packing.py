"""Words of a port: against a definition in Python integers, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfx.errors import DataError
from qfx.fixed.packing import SLOTS, Port, pack, unpack
from qfx.fixed.type import FixedType


@st.composite
def ports(draw: st.DrawFn) -> Port:
    slot = draw(st.sampled_from(SLOTS))
    width = draw(st.integers(1, min(slot, 63)))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    parallel = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0]))
    return Port(FixedType(width, 3, draw(st.booleans())), shape, slot, parallel)


def words(raw: np.ndarray, port: Port) -> list[int]:
    """The definition: every word of the frames, as the number that TDATA carries."""
    found = []
    for frame in raw.reshape(len(raw), port.channels, port.pixels).tolist():
        for pixel in range(port.pixels):
            for channel in range(0, port.channels, port.parallel):
                numbers = [frame[channel + i][pixel] % (1 << port.slot) for i in range(port.parallel)]
                found.append(sum(number << (i * port.slot) for i, number in enumerate(numbers)))
    return found


@given(ports(), st.integers(0, 3), st.integers(0, 2**32))
def test_words_are_what_the_definition_says(port: Port, frames: int, seed: int) -> None:
    shape = (frames, *port.shape)
    rng = np.random.default_rng(seed)
    raw = rng.choice([port.type.min_raw, port.type.max_raw, 0, *rng.integers(port.type.min_raw, port.type.max_raw, 4, endpoint=True)], shape)
    packed = pack(raw, port)
    assert packed.shape == (frames, port.frame_bytes)
    assert packed.tobytes() == b"".join(word.to_bytes(port.word_bits // 8, "little") for word in words(raw, port))
    assert port.words * port.word_bits == 8 * port.frame_bytes
    back = unpack(packed, port)
    assert back.dtype == np.int64
    assert np.array_equal(back, raw)


def test_a_flipped_bit_is_another_raw() -> None:
    port = Port(FixedType(6, 3), (2, 2), 8, 1)
    packed = pack(np.zeros((1, 2, 2), dtype=np.int64), port)
    packed[0, 2] ^= 1
    assert unpack(packed, port).tolist() == [[[0, 1], [0, 0]]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((1, 2), dtype=np.int32), "expected int64 raws, got int32"),
        ([[0, 0]], "expected int64 raws, got list"),
        (np.zeros((1, 3), dtype=np.int64), r"expected raws of shape \(N, 2\), got \(1, 3\)"),
        (np.array(3), "expected raws of shape"),
        (np.array([[0, 8]]), r"expected raws in \[-8, 7\], got \[0, 8\]"),
        (np.array([[-9, 0]]), r"got \[-9, 0\]"),
    ],
)
def test_raws_that_do_not_fit(raw: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(raw, Port(FixedType(4, 4), (2,), 8, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [np.zeros((1, 3), dtype=np.uint8), np.zeros(2, dtype=np.uint8), np.zeros((1, 2), dtype=np.int8), b"ab"])
def test_bytes_that_are_no_frames(data: object) -> None:
    with pytest.raises(DataError, match=r"expected uint8 \(N, 2\)"):
        unpack(data, Port(FixedType(4, 4), (2,), 8, 1))  # type: ignore[arg-type]
