"""Runs the accelerator of this project from Python on the board (PYNQ 3.0 or later), or on a software model of it anywhere.

    from driver import Accelerator

    with Accelerator() as accelerator:
        y = accelerator.run(x)  # x: float array (N, *input shape), or of several inputs a dict of such arrays
        print(accelerator.timing)

``errors.py`` and ``fixed/`` are qfx's own: the numbers are quantized and packed here by the code that the emulator runs.
"""

from .accelerator import Accelerator, Timing
from .description import Description, load_description
from .device import Device, DeviceError, open_board
from .simulation import SimulatedBoard

__all__ = ["Accelerator", "Description", "Device", "DeviceError", "SimulatedBoard", "Timing", "load_description", "open_board"]
