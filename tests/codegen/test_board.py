"""Boards are data, and an unknown one is answered with the known ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qfx.codegen.board import Board, board, boards, check_ports
from qfx.errors import ProjectError


def test_the_boards() -> None:
    assert [known.name for known in boards()] == ["kv260", "pynq_z2", "ultra96v2", "zcu102", "zcu104"]
    known = board("ultra96v2")
    assert (known.title, known.part) == ("Avnet Ultra96-V2", "xczu3eg-sbva484-1-i")
    assert (known.lut, known.ff, known.dsp, known.bram36, known.uram) == (70560, 141120, 360, 216, 0)
    assert board("zcu102").part == "xczu9eg-ffvb1156-2-e"


def test_every_board_names_ports_of_its_processing_system() -> None:
    for known in boards():
        check_ports(known)
        zynq_7000 = known.part.startswith("xc7z")
        assert known.ps == ("processing_system7" if zynq_7000 else "zynq_ultra_ps_e")
        assert (known.control_port, known.memory_port) == (("M_AXI_GP0", "S_AXI_HP0") if zynq_7000 else ("M_AXI_HPM0_FPD", "S_AXI_HP0_FPD"))
        assert known.board_part.count(":") == 3
        assert known.clock_ns == (10.0 if zynq_7000 else 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps": "microblaze"}, "ps is 'microblaze'"),
        ({"control_port": "S_AXI_HP0_FPD"}, "control_port is 'S_AXI_HP0_FPD'"),
        ({"memory_port": "S_AXI_HP0"}, "memory_port is 'S_AXI_HP0'"),
        ({"ps": "processing_system7"}, "control_port is 'M_AXI_HPM0_FPD'"),
    ],
)
def test_ports_that_a_processing_system_does_not_have(change: dict[str, str], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        check_ports(replace(board("zcu102"), **change))  # type: ignore[arg-type]


def test_a_board_of_the_user_needs_no_more_than_resources() -> None:
    check_ports(Board("mine", "Mine", "xczu3eg-sbva484-1-i", 1, 1, 1, 1, 0))


@pytest.mark.parametrize("name", ["zcu999", "", "../boards/zcu102"])
def test_an_unknown_board_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ProjectError, match="kv260, pynq_z2, ultra96v2, zcu102, zcu104"):
        board(name)
