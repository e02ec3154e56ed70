"""The clock model: its delays in the order of Yosys' timing, the recurrences of every kind, and the period of designs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hardware_models import DIRECTED, classifier
from random_schedules import random_schedule
from schedule_models import resnet

from qfx.errors import ProjectError
from qfx.hardware.board import board, boards, check_clock
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.processes import PROCESSES
from qfx.hardware.timing.clock import NARROW_UNCERTAINTY, WIDE_UNCERTAINTY, Clock, enable_ns, expected, expected_of_pipeline, uncertainty
from qfx.hardware.timing.delays import SERIES7_1, ULTRASCALE_2, Operator, adder, choice, comparison, delays, fan_out, gates, grade, loops, recurrence

# --- delays

OPERATORS: dict[str, tuple[Operator, str]] = {
    **{f"add_{n}": (adder(n), f"input [{n - 1}:0] a, b, output [{n - 1}:0] y|a + b") for n in (4, 8, 16, 32, 48)},
    **{f"less_{n}": (comparison(n), f"input [{n - 1}:0] a, b, output y|a < b") for n in (8, 16, 32, 48)},
    **{f"mux_{n}": (choice(n), f"input [{n - 1}:0] a, input [7:0] b, output y|a[b[{max((n - 1).bit_length(), 1) - 1}:0]]") for n in (2, 4, 16, 64)},
    **{f"and_{n}": (gates(n), f"input [{n - 1}:0] a, b, output y|&a") for n in (6, 30, 200)},
}
"""By module: the operator of the model, and its ports and expression in Verilog."""


def order_differs(model: dict[str, float], measured: dict[str, int]) -> list[str]:
    """The pairs of one kind which the model tells apart, and those of any kinds of which it has one twice as long, that are measured the other way
    round."""
    names = sorted(model, key=lambda name: (name.split("_")[0], int(name.split("_")[1])))
    pairs = [(a, b) for a, b in pairwise(names) if a.split("_")[0] == b.split("_")[0] and model[a] != model[b]]
    pairs += [(a, b) for a in names for b in names if model[b] > 2 * model[a]]
    return [f"{a} {measured[a]} {b} {measured[b]}" for a, b in pairs if (model[b] - model[a]) * (measured[b] - measured[a]) <= 0]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Picoseconds of Artix-7 cells, without nets, as Yosys has them from Project X-Ray."""
    if shutil.which("yosys") is None:
        pytest.skip("yosys is not installed")
    folder = tmp_path_factory.mktemp("yosys")
    text = ""
    for name, (_, verilog) in OPERATORS.items():
        ports, expression = verilog.split("|")
        text += f"module {name}({ports}); assign y = {expression}; endmodule\n"
    text += "module top(); " + " ".join(f"(* keep *) {name} i_{name}();" for name in OPERATORS) + " endmodule\n"
    (folder / "operators.v").write_text(text, encoding="utf-8")
    steps = ["read_verilog operators.v", "synth_xilinx -top top -family xc7 -noiopad -noclkbuf", "read_verilog -lib -specify +/xilinx/cells_sim.v"]
    steps += [f"tee -a timing.txt sta {name}" for name in OPERATORS]
    subprocess.run(["yosys", "-q", "-p", "; ".join(steps)], cwd=folder, check=True, capture_output=True)
    found = re.findall(r"Latest arrival time in '(\w+)' is (\d+)", (folder / "timing.txt").read_text(encoding="utf-8"))
    return {name: int(picoseconds) for name, picoseconds in found}


@pytest.mark.parametrize("on", [SERIES7_1, ULTRASCALE_2], ids=["7series", "ultrascale"])
def test_delays_are_in_the_order_that_yosys_has_them_in(measured: dict[str, int], on: object) -> None:
    assert measured.keys() == OPERATORS.keys()
    model = {name: operator.delay_ns(on) for name, (operator, _) in OPERATORS.items()}  # type: ignore[arg-type]
    assert order_differs(model, measured) == []
    assert order_differs(model, measured | {"add_16": measured["add_32"] + 1}) != []


def test_speed_grades() -> None:
    assert [grade(known.part).slower >= 1 for known in boards()] == [True] * 5
    order = ["xczu9eg-ffvb1156-3-e", "xczu9eg-ffvb1156-2-e", "xczu3eg-sbva484-1-i", "xck26-sfvc784-2LV-c", "xczu3eg-sbva484-1LV-i", "xczu3eg"]
    slower = [grade(part).slower for part in order]
    assert slower == sorted(slower)
    assert grade("xc7z020clg400-1").slower == grade("xc7z020clg400").slower == 1.0 > grade("xc7z045ffg900-2").slower
    assert adder(32).delay_ns(delays("xczu9eg-ffvb1156-2-e")) == pytest.approx(1.02)
    assert adder(32).delay_ns(delays("xc7z020clg400-1")) == pytest.approx(2.564)


def test_more_takes_longer() -> None:
    on = ULTRASCALE_2
    for lesser, greater in (
        (adder(8), adder(9)),
        (choice(2), choice(5)),
        (gates(6), gates(7)),
        (fan_out(64), fan_out(65)),
    ):
        assert lesser.delay_ns(on) < greater.delay_ns(on)
    assert loops(4, 8).delay_ns(on) < loops(4, 4, 8).delay_ns(on) < loops(4, 4, 9).delay_ns(on)
    assert loops(1, 8, 1) == loops(8)
    assert recurrence("", adder(8), adder(8), turns=2).delay_ns(on) == pytest.approx(adder(8).delay_ns(on))
    assert enable_ns(2, 100, on) < enable_ns(2, 1000, on) < enable_ns(9, 1000, on)


# --- designs


def test_every_process_tells_what_it_waits_for() -> None:
    seen = set()
    for index, make in enumerate(DIRECTED):
        graph = make()
        design = lower(graph, random_schedule(graph, np.random.default_rng(index)))
        for process in design.processes:
            seen.add(type(process))
            assert process.recurrences
            assert all(
                0.5 < found.delay_ns(ULTRASCALE_2) < 6 or found.what.startswith(("the word that", "a sum in")) for found in process.recurrences
            )
    assert len(seen) > len(PROCESSES) / 2


def test_the_slowest_process_sets_the_period() -> None:
    processes, on = lower(resnet(), Schedule()).processes, board("zcu102")
    found = expected(processes, on)
    slow = delays(on.part)
    longest = max((path.delay_ns(slow), process.name, path.what) for process in processes for path in process.recurrences)
    assert found.recurrence_ns == longest[0]
    assert found.believed_ns == pytest.approx(longest[0] / (1 - NARROW_UNCERTAINTY), abs=0.01)
    assert "window" in found.process
    assert found.what == "the words that a window needs"
    without = expected([process for process in processes if "window" not in process.name], on)
    assert without.believed_ns < found.believed_ns
    assert expected(processes, board("ultra96v2")).believed_ns > found.believed_ns
    assert expected(processes, board("pynq_z2")).believed_ns > 2 * found.believed_ns
    slow_part = expected(processes, replace(on, fastest_mhz=100.0))
    assert (slow_part.believed_ns, slow_part.process) == (10.0, "")


def test_the_periods_of_netlists_are_met() -> None:
    """Least periods of netlists of the C++, from which the model is not made (Yosys cells with nets of 0.38 ns, UltraScale+ -2): a window of 3 x 3
    taps 3.31 to 3.56 ns, matrix-vector units 2.3 to 2.8. The model may be a fifth off."""
    on = delays(board("zcu102").part)
    design = lower(resnet(), Schedule.of({"a": Folding(4, 2)}))
    for kind, least, most in (("Window", 0.8 * 3.31, 1.2 * 3.56), ("MatVec", 0.8 * 2.32, 1.2 * 2.78)):
        found = [max(path.delay_ns(on) for path in process.recurrences) for process in design.processes if type(process).__name__ == kind]
        assert found
        assert all(least <= period <= most for period in found), (kind, found)


def test_the_uncertainty_is_wide_where_there_is_room() -> None:
    assert uncertainty(3.0, 5.0) == WIDE_UNCERTAINTY
    assert uncertainty(3.4, 5.0) == NARROW_UNCERTAINTY  # 3.65 is left, too little to spare
    clock = Clock(4.0, "a", "b", 3.5)
    assert clock.believes(4.0)
    assert not clock.believes(3.99)
    assert (clock.uncertainty(4.0), clock.uncertainty(10.0)) == (NARROW_UNCERTAINTY, WIDE_UNCERTAINTY)


def test_the_part_is_the_end() -> None:
    for known in boards():
        found = expected(lower(classifier(), Schedule()).processes, known)
        check_clock(found.believed_ns, known)
        none = expected((), known)
        check_clock(none.believed_ns, known)
        with pytest.raises(ProjectError):
            check_clock(none.believed_ns - 0.02, known)


def test_a_pipeline_waits_for_its_enable() -> None:
    on = board("zcu102")
    small, large = (expected_of_pipeline(2, flip_flops, 0.9, on) for flip_flops in (100, 100_000))
    assert small.believed_ns < large.believed_ns
    assert large.what == "the enable of the pipeline"
    assert expected_of_pipeline(2, 100, 3.0, on).believed_ns == pytest.approx(3.0 / (1 - WIDE_UNCERTAINTY), abs=0.01)
