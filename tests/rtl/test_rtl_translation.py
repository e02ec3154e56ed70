"""The translation itself: what it makes of loops, arrays and conditions, what it refuses, and the least periods that it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.rtl import bench
from support.rtl.period import Delays, least_period

from qfx.hardware.rtl.machines import sources
from qfx.hardware.rtl.machines.llvm import RtlError
from qfx.hardware.rtl.machines.machine import translate
from qfx.hardware.rtl.machines.netlist import Machine
from qfx.hardware.rtl.machines.sources import Call

STREAM = "hls::stream<ap_int<16> >"
HEAD = '#include <hls_stream.h>\nextern "C" '


def machine(body: str, folder: Path, *, parameters: str = f"{STREAM}& in, {STREAM}& out") -> Machine:
    module = sources.ir(f"{HEAD}void process({parameters}) {{{body}}}\n", folder)
    return translate(module, module.functions["process"], "process")


def run(body: str, folder: Path, words: list[int], frames: int = 1) -> bench.Seen:
    made = machine(body, folder)
    return bench.alone({"process": made}, [Call("process", ("in", "out"))], {"in": words}, folder, frames=frames, load=False, stalls=False)["process"]


def numbers(seen: bench.Seen) -> list[int | None]:
    return [bench.text_of(digits) for digits in seen.words["out"]]


def test_nested_loops_are_one_state_each(tmp_path: Path) -> None:
    """Two loops one after the other, the second in another: every turn a cycle, nothing between them."""
    body = """
      ap_int<16> kept[8];
      for (int i = 0; i < 8; i++) { QFX_TURN(); kept[i] = in.read(); }
      for (int y = 0; y < 2; y++)
        for (int x = 0; x < 3; x++) { QFX_TURN(); if (x != 1) out.write(ap_int<16>(kept[y * 4 + x] + y)); }
    """
    words = [3, 1, 4, 1, 5, 9, 2, 6]
    seen = run(body, tmp_path, words * 2, frames=2)
    assert numbers(seen) == [3, 4, 6, 3] * 2
    assert seen.frames == [14, 14]
    assert seen.reads["in"] == [*range(8)] * 2
    assert seen.writes["out"] == [8, 10, 11, 13] * 2


def test_loops_without_turns_are_unrolled(tmp_path: Path) -> None:
    body = """
      for (int i = 0; i < 4; i++) {
        QFX_TURN();
        const ap_int<16> x = in.read();
        ap_int<16> sum = 0;
        for (int k = 0; k < 5; k++) sum += ap_int<16>(x * k);
        out.write(sum);
      }
    """
    assert numbers(run(body, tmp_path, [1, 2, 3, 4])) == [10, 20, 30, 40]


def test_a_value_outlives_its_turn(tmp_path: Path) -> None:
    """One that only some turns set; a place that is read behind a store of the same turn; numbers below zero."""
    body = """
      ap_int<16> last = -7;
      ap_int<16> kept[4] = {0, 0, 0, 0};
      for (int i = 0; i < 6; i++) {
        QFX_TURN();
        const ap_int<16> x = in.read();
        if (x > 0) last = x;
        kept[i % 4] = x;
        out.write(ap_int<16>(last - kept[(i + (x < 0 ? 0 : 3)) % 4]));
      }
    """
    words = [-2, 5, 0, -1, 8, 1]
    kept, last, want = [0, 0, 0, 0], -7, []
    for place, x in enumerate(words):
        last = x if x > 0 else last
        kept[place % 4] = x
        want.append((last - kept[(place + (0 if x < 0 else 3)) % 4]) % (1 << 16))
    assert numbers(run(body, tmp_path, [x % (1 << 16) for x in words])) == want


def test_a_number_that_was_never_set_is_seen(tmp_path: Path) -> None:
    body = (
        "ap_int<16> kept[4]; for (int i = 0; i < 4; i++) { QFX_TURN(); const int x = int(in.read()); kept[(x + 1) & 3] = x; out.write(kept[x & 3]); }"
    )
    assert numbers(run(body, tmp_path, [0, 1, 1, 3])) == [None, 0, 0, None]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("QFX_TURN(); ap_int<16> x = in.read(); while (x > 3) x = x >> 1; out.write(x);", "a loop without QFX_TURN"),
        ("for (int i = 0; i < 4; i++) { QFX_TURN(); out.write(ap_int<16>(in.read() + in.read())); }", "read twice in a turn"),
        ("for (int i = 0; i < 4; i++) { QFX_TURN(); out.write(in.read()); out.write(0); }", "written twice in a turn"),
        ("for (int i = 0; i < 4; i++) { QFX_TURN(); (in.read() > 0 ? in : out).write(0); }", "a stream that is chosen"),
    ],
)
def test_what_has_no_such_hardware_is_refused(body: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(RtlError, match=what.replace("(", r"\(")):
        machine(body, tmp_path)


def test_cpp_that_clang_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(RtlError, match="clang refuses"):
        machine("nonsense", tmp_path)


# --- least periods

LOOP = "ap_int<16> state = 1; for (int i = 0; i < 9; i++) {{ QFX_TURN(); const ap_int<16> x = in.read(); {0} out.write(state); }}"


def period(body: str, folder: Path, *, balanced: bool = True) -> float:
    return least_period(machine(LOOP.format(body), folder), balanced=balanced).period_ns


def test_a_recurrence_is_as_long_as_its_operations(tmp_path: Path) -> None:
    """An addition; two that depend on each other; one beside which a product of the input does not count, for it can be pipelined."""
    d = Delays()
    one = d.clock_to_q + d.net + d.lut + d.chain(16) + d.setup
    assert period("state = state + x;", tmp_path) == pytest.approx(one, abs=0.001)
    two = period("state = ap_int<16>(state + x) + ap_int<16>(ap_int<16>(state + x) >> 3);", tmp_path)
    assert two == pytest.approx(one + d.net + d.lut + d.chain(16), abs=0.1)
    assert period("state = ap_int<16>(state + ap_int<16>(ap_int<16>(x * x) * x));", tmp_path) == pytest.approx(one, abs=0.001)
    assert period("state = ap_int<16>(state * x);", tmp_path) > 2 * one


def test_two_registers_share_a_delay(tmp_path: Path) -> None:
    """What comes round in two turns has two periods for it."""
    body = "const ap_int<16> old = other; other = ap_int<16>(state + x); state = old;"
    loop = LOOP.replace("ap_int<16> state = 1;", "ap_int<16> state = 1, other = 2;").format(body)
    found = least_period(machine(loop, tmp_path)).period_ns
    d = Delays()
    counter = least_period(machine(LOOP.format(""), tmp_path)).period_ns
    both = 2 * d.clock_to_q + d.net + d.lut + d.chain(16) + d.setup + d.net + d.direct
    assert found == pytest.approx(max(counter, both / 2), abs=0.001)


def test_a_sum_adds_what_comes_round_last(tmp_path: Path) -> None:
    """As the vendor's tools balance it; clang adds from the accumulator on, one after the other."""
    loop = LOOP.replace("ap_int<16> state = 1;", "int state = 1;").format("state = state + (x * 3 + ((x >> 2) + (x >> 5)));")
    made = machine(loop, tmp_path)
    assert least_period(made).period_ns < least_period(made, balanced=False).period_ns


def test_a_process_without_recurrence_has_no_period(tmp_path: Path) -> None:
    found = least_period(machine("QFX_TURN(); out.write(in.read());", tmp_path))
    assert found.period_ns < 1.5  # between the beginning of the frame and its turn


def test_slower_parts_take_longer(tmp_path: Path) -> None:
    made = machine(LOOP.format("state = state + x;"), tmp_path)
    assert least_period(made, Delays().times(1.2)).period_ns == pytest.approx(1.2 * least_period(made).period_ns, rel=0.001)
