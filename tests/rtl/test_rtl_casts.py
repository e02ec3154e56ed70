"""Unrolled designs as RTL, and casts in every mode, against the interpreter and the C simulation with the vendor's headers."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, conv, scalar
from rtl_models import frames
from support.rtl import bench, check, reference
from support.rtl.check import Rtl

from qfx.errors import QfxError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.hardware.board import board
from qfx.ir.graph import Graph, Node
from qfx.ir.interpret import run_from_raws
from qfx.ir.passes.pipeline import optimize
from qfx.ir.values import ArrayType, Const, RawArray
from qfx.operators import Affine, Cast, Clip, Input, Linear, Lookup, MaxPool, Relu, Reshape

ZCU = board("zcu102")


def all_modes() -> list[FixedType]:
    """Each rounding with each overflow, signed and not, some with saturated bits: words of 5 bits that lose bits on both sides."""
    found = []
    for q, o, signed, n in product(QMode, OMode, (True, False), (0, 1, 3)):
        try:
            found.append(FixedType(5, 3, signed, q, o, n))
        except QfxError:  # bits that are saturated belong to two of the overflows, and one is signed only
            continue
    return found


def casts(types: list[FixedType]) -> Graph:
    nodes = [Node("x", Input((1,), ArrayType.of(FixedType(8, 4))))]
    nodes += [Node(f"cast{place}", Cast(ArrayType.of(kind)), ("x",)) for place, kind in enumerate(types)]
    return Graph("casts", tuple(nodes), tuple(node.name for node in nodes[1:]))


def network() -> Graph:
    """What an unrolled design is made of: products by constants, a table, extremes, and bounds that differ from position to position."""
    bounds = [Const(np.array(raws).reshape(2, 1, 1), 2) for raws in ((-9, -2), (7, 5))]
    return chain(
        "network",
        (2, 3, 4),
        conv(120, 2, 2, 2, 2),
        Cast(scalar("ap_fixed<6,3,AP_RND_CONV,AP_SAT>")),
        Clip(*bounds),
        MaxPool((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        Cast(scalar("ap_fixed<4,3,AP_RND,AP_SAT>")),
        Lookup(Const(np.arange(16) ** 2 % 37, 2), -8, 1),
        Affine(Const(np.array([3, -5]), 1), Const(np.array([1, 0]), 2)),
        Relu(),
        Reshape((4,)),
        Linear(Const(np.array([[1, -7, 3, 0], [5, 2, -2, 6], [0, 0, 1, 9]]), 3), Const(np.array([4, -90, 33]), 4)),
        Cast(scalar("ap_fixed<9,7,AP_TRN_ZERO,AP_WRAP>")),
    )


def outputs(rtl: Rtl, seen: bench.Seen, results: tuple[RawArray, ...]) -> list[str]:
    """The outputs whose words are not the interpreter's results."""
    wrong = []
    for name, port, raw in zip(rtl.outputs, rtl.design.outputs, results, strict=True):
        data = [bench.text_of(digits) for digits in seen.words[name]]
        want = reference.words_of(raw, port)
        if [None if word is None else word & ((1 << port.word_bits) - 1) for word in data] != want:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("first", [0, 30, 60, 90])
def test_every_mode(first: int, tmp_path: Path, thorough: bool) -> None:
    """All 256 numbers that come."""
    types = all_modes()
    assert 90 < len(types) <= 120
    if first and not thorough:
        pytest.skip("one group of modes; all of them with --thorough")
    chosen = types[first::30][:4] if not thorough else types[first : first + 30]
    raw = np.arange(-128, 128, dtype=np.int64).reshape(256, 1)
    graph = casts(chosen)
    rtl = check.prepare_unrolled(graph, ZCU, [raw], tmp_path)
    seen = rtl.alone()
    assert check.word_differences(rtl, seen) == []
    assert outputs(rtl, seen[rtl.region.top], run_from_raws(graph, {"x": raw})) == []


def test_an_unrolled_network(tmp_path: Path) -> None:
    graph = optimize(network())
    raws = frames(check.prepare_ports(graph, ZCU), np.random.default_rng(3), 20)
    rtl = check.prepare_unrolled(graph, ZCU, raws, tmp_path)
    for stalls in (False, True):
        seen = rtl.alone(stalls=stalls)
        assert check.word_differences(rtl, seen) == []
        assert outputs(rtl, seen[rtl.region.top], run_from_raws(graph, {"x": raws[0]})) == []
    # Each word of a frame is a turn of its own, in and out.
    words = max(port.words for port in (*rtl.design.inputs, *rtl.design.outputs))
    assert set(rtl.alone()[rtl.region.top].frames) <= {words, words - 1}
    (wrong,) = run_from_raws(graph, {"x": raws[0]})
    wrong.flat[7] ^= 1
    assert outputs(rtl, seen[rtl.region.top], (wrong,)) == list(rtl.outputs)
