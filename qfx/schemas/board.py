"""The schema of a board's file, from the fields of ``Board``."""

from __future__ import annotations

from qfx.hardware.board import LEAST_CLOCK_NS, LEAST_COUNTS, LEAST_MHZ, MOST_CLOCK_NS, MOST_MEMORY_GB_S, MOST_MHZ, PORTS, file_fields
from qfx.schemas.words import Schema, choice, document

FIELDS = {
    "title": "The board's name for people.",
    "part": "AMD's part number, such as xczu3eg-sbva484-1-i.",
    "lut": "LUTs of the part.",
    "ff": "Flip-flops of the part.",
    "dsp": "DSP blocks of the part.",
    "bram36": "Block RAMs of 36 kbit.",
    "uram": "UltraRAMs of 288 kbit.",
    "board_part": "A pattern for Vivado's board files.",
    "ps": "The IP of the processing system; left out: by the part.",
    "control_port": "The AXI master of the processing system that reaches the registers.",
    "memory_port": "The AXI slave of the processing system that reaches memory.",
    "clock_ns": "The clock period in nanoseconds where none is asked for.",
    "fastest_mhz": "No shorter period is taken: block RAM and clock buffers run no faster.",
    "memory_gb_s": "10**9 bytes a second that the processing system's memory moves at its peak; 0: designs that read it while they run are refused.",
}
"""What an editor says of a field."""

_TYPES = {"str": "string", "int": "integer", "float": "number"}


def schema() -> Schema:
    """Of a board's TOML file, as ``qfx --board PATH`` reads it. Which ports a processing system has, and which clock a part, it does not say."""
    kinds, optional, patterns = file_fields()
    properties: dict[str, Schema] = {name: {"type": _TYPES[kind], "description": FIELDS[name]} for name, kind in kinds.items()}
    for name, pattern in patterns.items():
        properties[name]["pattern"] = f"^(?:{pattern})$"
    for name, least in LEAST_COUNTS.items():
        properties[name]["minimum"] = least
    properties["clock_ns"] |= {"minimum": LEAST_CLOCK_NS, "maximum": MOST_CLOCK_NS}
    properties["fastest_mhz"] |= {"minimum": LEAST_MHZ, "maximum": MOST_MHZ}
    properties["memory_gb_s"] |= {"minimum": 0.0, "maximum": MOST_MEMORY_GB_S}
    properties["ps"] |= choice(tuple(PORTS))
    for name, letter in (("control_port", "M"), ("memory_port", "S")):
        properties[name] |= choice(tuple(port for ports in PORTS.values() for port in ports if port.startswith(letter)))
    return document(
        "board", "An FPGA board: its part, what that has, and how it is reached.", properties, tuple(n for n in kinds if n not in optional)
    )
