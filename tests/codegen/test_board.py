"""Boards are data, and an unknown one is answered with the known ones."""

from __future__ import annotations

import pytest

from qfx.codegen.board import Board, board, boards
from qfx.errors import ProjectError


def test_the_boards() -> None:
    assert [known.name for known in boards()] == ["kv260", "pynq_z2", "ultra96v2", "zcu102", "zcu104"]
    assert board("ultra96v2") == Board("ultra96v2", "Avnet Ultra96-V2", "xczu3eg-sbva484-1-i", 70560, 141120, 360, 216, 0)
    assert board("zcu102").part == "xczu9eg-ffvb1156-2-e"


@pytest.mark.parametrize("name", ["zcu999", "", "../boards/zcu102"])
def test_an_unknown_board_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ProjectError, match="kv260, pynq_z2, ultra96v2, zcu102, zcu104"):
        board(name)
