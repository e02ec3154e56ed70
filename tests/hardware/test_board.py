"""Boards are data, and an unknown one is answered with the known ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qfx.errors import ProjectError
from qfx.hardware.board import Board, board, boards, check_clock, check_ports


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


MINE = {"title": '"My board"', "part": '"xczu3eg-sbva484-1-i"', "lut": 70560, "ff": 141120, "dsp": 360, "bram36": 216, "uram": 0}


def write(path: Path, **changes: object) -> str:
    fields = {**MINE, **changes}
    path.write_text("".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None))
    return str(path)


def test_a_board_in_a_file(tmp_path: Path) -> None:
    """What may be left out follows the part."""
    mine = board(write(tmp_path / "mine.toml"))
    assert mine == Board("mine", "My board", "xczu3eg-sbva484-1-i", 70560, 141120, 360, 216, 0)
    assert board(write(tmp_path / "without_suffix", clock_ns=4)) == replace(mine, name="without_suffix", clock_ns=4.0)
    old = board(write(tmp_path / "old.toml", part='"xc7z045ffg900-2"'))
    assert (old.ps, old.control_port, old.memory_port, old.clock_ns, old.fastest_mhz) == ("processing_system7", "M_AXI_GP0", "S_AXI_HP0", 10.0, 601.0)


def test_the_files_of_the_boards_are_examples(tmp_path: Path) -> None:
    from qfx.hardware.assets import hls_root

    for known in boards():
        path = hls_root() / "boards" / f"{known.name}.toml"
        assert board(str(path)) == known


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"lut": None}, "lut is missing", "uram (int), board_part (str, optional)"),
        ({"luts": 5}, "a board has no 'luts'", "did you mean 'lut'?"),
        ({"name": '"x"'}, "a board has no 'name'", "a board's file holds title (str)"),
        ({"lut": '"many"'}, "lut is 'many', which is no int", "lut (int)"),
        ({"lut": 1.5}, "lut is 1.5, which is no int", "lut (int)"),
        ({"lut": "true"}, "lut is True, which is no int", "lut (int)"),
        ({"lut": 0}, "lut is 0", "give at least 1"),
        ({"dsp": -1}, "dsp is -1", "give at least 0"),
        ({"part": '"EP4CE10"'}, "part is 'EP4CE10'", "a part number of AMD"),
        ({"part": 3}, "part is 3, which is no str", "part (str)"),
        ({"title": '"[exec reboot]"'}, "title is ", "without quotes, braces"),
        ({"title": '""'}, "title is ''", "a line"),
        ({"board_part": '"a b"'}, "board_part is 'a b'", "a pattern for Vivado's board files"),
        ({"clock_ns": "nan"}, "the clock period is nan ns", "use 0.5 to 1000 ns"),
        ({"clock_ns": 1}, "a clock period of 1 ns is 1000 MHz", "use at least 1.22 ns"),
        ({"fastest_mhz": 0}, "fastest_mhz is 0.0", "as the part's data sheet has it"),
        ({"fastest_mhz": "inf"}, "fastest_mhz is inf", "as the part's data sheet has it"),
        ({"ps": '"microblaze"'}, "ps is 'microblaze'", "use one of zynq_ultra_ps_e"),
        ({"memory_port": '"S_AXI_HP7"'}, "memory_port is 'S_AXI_HP7'", "S_AXI_HP0_FPD"),
        ({"lut": "= 3"}, "not TOML", "repair the file"),
    ],
)
def test_a_file_that_is_no_board(tmp_path: Path, changes: dict[str, object], what: str, remedy: str) -> None:
    with pytest.raises(ProjectError) as caught:
        board(write(tmp_path / "mine.toml", **changes))
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert "mine" in caught.value.where


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for path, what in ((tmp_path / "binary.toml", "not TOML"), (tmp_path, "cannot be read"), (tmp_path / "missing.toml", "No such file")):
        with pytest.raises(ProjectError, match=what):
            board(str(path))
    with pytest.raises(ProjectError, match="name is 'my board'"):
        board(write(tmp_path / "my board.toml"))


def test_every_board_starts_from_a_clock_that_it_can_have() -> None:
    """The bounds are those of block RAM or the clock buffers, whichever is less: DS925 and DS187."""
    assert {known.name: known.fastest_mhz for known in boards()} == {"kv260": 585, "pynq_z2": 388, "ultra96v2": 645, "zcu102": 738, "zcu104": 738}
    for known in boards():
        check_clock(known.clock_ns, known)
        check_clock(1000 / known.fastest_mhz, known)
        with pytest.raises(ProjectError, match=f"{known.part} run at {known.fastest_mhz:g} MHz at most") as caught:
            check_clock(0.999 * 1000 / known.fastest_mhz, known)
        least = float(caught.value.remedy.split("at least ")[1].split(" ns")[0])
        check_clock(least, known)
        assert least < 1.01 * 1000 / known.fastest_mhz
    check_clock(0.5)
