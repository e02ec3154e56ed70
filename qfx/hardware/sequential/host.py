"""A layer engine as processor and board see it: its registers, its masters and the ports of the processing system that they share, and what the
driver must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qfx.fixed.packing import SLOTS
from qfx.fixed.type import FixedType
from qfx.fixed.vectors import Place
from qfx.hardware.board import Board, check_ports
from qfx.hardware.emit.blockdesign import ALIGNMENT, BlockDesign, masters_alone, memory_ports
from qfx.hardware.emit.driver import about, cast_of, memory, memory_register
from qfx.hardware.sequential.engine import Engine
from qfx.hardware.sequential.program import STEP_WORDS, Image, place
from qfx.hardware.sequential.tiles import PROCESSES, memory_bytes
from qfx.ir.graph import Graph

MASTERS = ("values0", "values1", "weights0", "weights1", "beside", "parameters", "results")
"""The AXI masters of the top function."""

REGISTERS: Mapping[str, int] = {
    "steps": 0x10,
    **{name: memory_register(at) for at, name in enumerate(("instructions", *MASTERS))},
}
"""Where the arguments of the top function are written: how many steps, and addresses, the upper half of each four bytes further."""

_VALUES = ("values0", "values1", "beside", "results")
"""The masters that share one region of memory, that of values."""

_MOVED_BY = {
    "values0": "fetch_x0", "values1": "fetch_x1", "weights0": "fetch_weights", "weights1": "fetch_weights", "beside": "fetch_beside",
    "parameters": "fetch_parameters", "results": "write",
}  # fmt: skip
"""The process that moves a word a turn through each master."""

_FILES = {"program": "instructions", "weights0": "weights0", "weights1": "weights1", "parameters": "parameters"}
"""What lies in memory before the first frame, and the register of its address."""


def loads(engine: Engine) -> list[dict[str, int]]:
    """The bytes that each master moves, step by step."""
    found = [memory_bytes(placed.step, engine.shape, placed.tile) for placed in engine.steps]
    return [{**one, "parameters": one["parameters"] + STEP_WORDS * 8} for one in found]


def shared_out(engine: Engine, board: Board) -> dict[str, tuple[str, ...]]:
    """The masters by the port of the processing system that they reach memory by: so that ports hold up steps as little as possible.

    Raises ProjectError for a board without such ports."""
    check_ports(board)
    ports = [port.name for port in memory_ports(board)]
    moved, each = loads(engine), board.memory_port_bits / 8
    best = min(_ways(len(MASTERS), len(ports)), key=lambda way: (_late(engine, moved, way, each), _carried(moved, way), way))
    return {ports[number]: tuple(name for name, at in zip(MASTERS, best, strict=True) if at == number) for number in range(max(best) + 1)}


def late_cycles(engine: Engine, board: Board) -> int:
    """Cycles of a frame beyond those of the plan, which reckons with a port for each master, because masters share ports."""
    shared = list(shared_out(engine, board).values())
    way = tuple(next(number for number, names in enumerate(shared) if name in names) for name in MASTERS)
    return _late(engine, loads(engine), way, board.memory_port_bits / 8)


def _ways(masters: int, ports: int) -> Iterator[tuple[int, ...]]:
    """All ways to share so many ports, but for their order."""
    if masters == 0:
        yield ()
        return
    for way in _ways(masters - 1, ports):
        yield from ((*way, port) for port in range(min(max(way, default=-1) + 2, ports)))


def _late(engine: Engine, moved: Sequence[Mapping[str, int]], way: Sequence[int], each: float) -> int:
    return sum(max(int(_busiest(one, way) / each) - placed.cycles, 0) for one, placed in zip(moved, engine.steps, strict=True))


def _carried(moved: Sequence[Mapping[str, int]], way: Sequence[int]) -> int:
    return sum(_busiest(one, way) for one in moved)


def _busiest(one: Mapping[str, int], way: Sequence[int]) -> int:
    """The bytes that the busiest port carries in a step."""
    ports = [0] * (max(way) + 1)
    for name, port in zip(MASTERS, way, strict=True):
        ports[port] += one[name]
    return max(ports)


def block_design(engine: Engine, board: Board, *, clock_ns: float) -> BlockDesign:
    """The processing system, the engine, and SmartConnects from its masters to memory."""
    return masters_alone(shared_out(engine, board), board, clock_ns=clock_ns)


def description(graph: Graph, engine: Engine, made: Image, board: Board, *, clock_ns: float, top: str) -> dict[str, Any]:
    """``accelerator.json`` of the driver."""
    inputs = zip(graph.inputs, engine.layers.inputs, strict=True)
    outputs = zip(graph.output_names, graph.outputs, engine.layers.outputs, strict=True)
    into = [(node.name, place(value, engine, graph.infos[node.name].shape), graph.infos[node.name].type) for node, value in inputs]
    out = [(name, place(value, engine, graph.infos[node].shape), graph.infos[node].type) for name, node, value in outputs]
    read = loads(engine)
    held = made.files(engine)
    vector, weights = engine.shape.lanes * engine.shape.x_bits // 8, engine.shape.wide * engine.shape.lanes * engine.shape.w_bits // 16
    sizes = {"weights0": weights, "weights1": weights, "parameters": 8}
    return {
        **about(graph, board, clock_ns=clock_ns, top=top),
        "alignment": ALIGNMENT,
        "inputs": [{**_end(f"in_{i}", *one), "cast": cast_of(node)} for i, (one, node) in enumerate(zip(into, graph.inputs, strict=True))],
        "outputs": [_end(f"out_{i}", *one) for i, one in enumerate(out)],
        "memories": [memory(name, REGISTERS[to], held[name], _read(name, read, engine)) for name, to in _FILES.items()],
        "engine": {
            "frames": engine.layers.batch,
            "steps": len(engine.steps),
            "steps_register": REGISTERS["steps"],
            "value_registers": [REGISTERS[name] for name in _VALUES],
            "value_bytes": engine.places.bytes,
            "lanes": engine.shape.lanes,
            "bits": engine.shape.x_bits,
            "inputs": [_place(one) for _, one, _ in into],
            "outputs": [_place(one) for _, one, _ in out],
            "ports": [{"name": name, "process": PROCESSES.index(_MOVED_BY[name]), "bytes": sizes.get(name, vector)} for name in MASTERS],
        },
    }


def _read(name: str, moved: Sequence[Mapping[str, int]], engine: Engine) -> int:
    """Bytes of the file that are read in a frame."""
    program = len(engine.steps) * STEP_WORDS * 8
    return program if name == "program" else sum(one[name] for one in moved) - (program if name == "parameters" else 0)


def _end(stream: str, name: str, of: Place, type_: FixedType) -> dict[str, Any]:
    """An input or output: on the processor's side a frame is a plain array."""
    slot = next(bits for bits in SLOTS if bits >= type_.width)
    return {"name": name, "stream": stream, "dma": "", "type": str(type_), "shape": list(of.shape), "slot": slot, "parallel": 1}


def _place(of: Place) -> dict[str, int]:
    fields = ("at", "channels", "height", "columns", "kernel", "stride", "before", "dilation")
    return {"width": of.type.width, "signed": int(of.type.signed), **{field: getattr(of, field) for field in fields}}
