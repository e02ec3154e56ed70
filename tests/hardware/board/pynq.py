"""A stand-in for PYNQ where there is no board: the names that the driver uses, over the driver's own model (QFX_TEST_BENCH names the executable)."""

import os
from pathlib import Path

import numpy as np
from driver import SimulatedBoard, load_description

_board = SimulatedBoard(os.environ["QFX_TEST_BENCH"], load_description())


class Overlay:
    def __init__(self, bitfile_name: str) -> None:
        assert Path(bitfile_name).with_suffix(".hwh").read_text()
        self.ip_dict = {name: {} for name in os.environ.get("QFX_CELLS", "dma accelerator").split()}
        for name in self.ip_dict:
            if name.startswith(("dma", "accelerator")):
                setattr(self, name, getattr(_board, name))


def allocate(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    assert dtype is np.uint8
    return _board.allocate(*shape)
