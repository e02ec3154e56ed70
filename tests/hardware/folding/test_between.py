"""Where the design of the fastest choice is too large and that of the slowest fits, paces between the two are looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hardware_models import const, scalar

from qfx.hardware.board import board
from qfx.hardware.cost.estimate import LIMITS
from qfx.hardware.design.schedule import Request
from qfx.hardware.folding import search as fold
from qfx.ir.graph import Graph, Node
from qfx.operators import Add, Cast, Conv, Input

ON = replace(board("ultra96v2"), name="small", title="small board", lut=20_000, ff=40_000, dsp=64, bram36=14, memory_gb_s=1.0)


def blocks(count: int) -> Graph:
    """Two convolutions and a shortcut, again and again: what waits in shortcuts, and in front of tiles, is no layer."""
    narrow = scalar("ap_fixed<8,4,AP_RND,AP_SAT>")
    nodes, last = [Node("x", Input((16, 16, 16), narrow))], "x"
    for block in range(count):
        start = last
        for name in (f"first{block}", f"second{block}"):
            kernel = const(len(nodes), 16, 16, 3, 3, bits=8)
            nodes += [Node(name, Conv(kernel, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), (last,)), Node(f"{name}_q", Cast(narrow), (name,))]
            last = f"{name}_q"
        nodes += [Node(f"sum{block}", Add(), (last, start)), Node(f"sum{block}_q", Cast(narrow), (f"sum{block}",))]
        last = f"sum{block}_q"
    return Graph("blocks", tuple(nodes), last)


def test_a_pace_between_the_fastest_and_the_slowest_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The design of the fastest choice misses the board; with its overhead the program has another, whose design misses it too and asks for the first
    again."""
    graph, request = blocks(2), Request(fit=True, memory="ddr")
    designs: list[fold._Made] = []
    real = fold._Search._make

    def counted(self: fold._Search, picked: list[int]) -> fold._Made:
        designs.append(real(self, picked))
        return designs[-1]

    monkeypatch.setattr(fold._Search, "_make", counted)
    made = fold.resolve(graph, ON, request, clock_ns=5)
    assert not made.estimate.over(LIMITS)
    fitting = [one.plan.interval for one in designs if one.plan is not None and one.fitting is not None]
    assert made.interval == min(fitting)
    assert designs[0].fitting is None  # or there was nothing to look for
    assert len(designs) <= fold._ROUNDS + 1 + fold._HALVINGS
    slowest = fitting[0]
    assert made.interval < slowest / 10
    assert made.gap is not None
    assert made.gap > 0
