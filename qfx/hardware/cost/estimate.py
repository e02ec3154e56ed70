"""What a design costs on a board before any synthesis: LUTs, flip-flops, DSP blocks and block RAM of every process, layer and in total.

Every formula is in ``resources.py``; this module says which pieces a process is made of. docs/estimates.md compares, and says what is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from qfx.errors import ProjectError
from qfx.fixed.type import FixedType
from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import FIELDS, Device, Resources
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import design as d
from qfx.hardware.design import loading, storage
from qfx.hardware.design.storage import Memory
from qfx.hardware.timing.tokens import cycles

LIMITS: Mapping[str, float] = {"lut": 0.80, "ff": 0.80, "dsp": 1.0, "bram18": 0.90}
"""The share of a board's resources up to which a folding is chosen: the rest is for the DMA and its interconnect, and for routing. (UG949 warns from
70 % of the LUTs, 50 % of the flip-flops, 80 % of the DSP blocks and block RAMs on.)"""

NAMES: Mapping[str, str] = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "BRAM18"}

_PROCESS = Resources(lut=30, ff=20)
"""The handshake and state machine of a process: an assumption."""

_CONTROL = Resources(lut=40, ff=40)
"""The AXI4-Lite block with ap_ctrl alone: an assumption."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A process with the FIFOs that it writes: ``node`` is the graph node that it works for, ``cycles`` its turns a frame."""

    process: str
    node: str
    cycles: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class Estimate:
    """Costs in the order of the design's processes; the last one is the control port's."""

    board: Board
    costs: tuple[Cost, ...]

    @property
    def total(self) -> Resources:
        return r.total([cost.resources for cost in self.costs])

    @property
    def layers(self) -> tuple[Cost, ...]:
        """One cost per graph node, in order of first appearance; ``process`` names its slowest process, ``cycles`` are that one's."""
        merged: dict[str, Cost] = {}
        for cost in self.costs:
            known = merged.get(cost.node, Cost("", cost.node, -1, Resources()))
            slower = cost if cost.cycles > known.cycles else known
            merged[cost.node] = replace(slower, resources=known.resources + cost.resources)
        return tuple(merged.values())

    def share(self, field: str) -> float:
        """The used part of the board's ``field``, one of FIELDS; 1.0 is all of it. Infinite if the board has none."""
        used, there = getattr(self.total, field), getattr(capacity(self.board), field)
        return used / there if there else (float("inf") if used else 0.0)

    def over(self, limits: Mapping[str, float]) -> tuple[str, ...]:
        """The fields whose share is above its limit."""
        return tuple(field for field in FIELDS if self.share(field) > limits[field])


def capacity(board: Board) -> Resources:
    """What the board has."""
    return Resources(board.lut, board.ff, board.dsp, 2 * board.bram36)


def estimate(design: d.Design, board: Board) -> Estimate:
    """What the design, with the FIFO depths that it has, costs on the board."""
    on = r.device(board.part)
    costs = []
    for process, node in zip(design.processes, design.nodes, strict=True):
        queues = [r.fifo(stream.depth, stream.parallel * stream.type.width) for stream in d.outputs(process)]
        costs.append(Cost(process.name, node, cycles(process), r.total([process_cost(process, on), *queues])))
    if design.loader is not None:
        costs.append(Cost(design.loader.name, "(weights)", 0, _loader(design.loader)))
    return Estimate(board, (*costs, Cost("control", "(control port)", 0, _CONTROL)))


class DoesNotFitError(ProjectError):
    """A design that needs more than the board has: ``needs`` says what."""

    def __init__(self, board: Board, needs: str, remedy: str) -> None:
        super().__init__(f"does not fit the {board.title}: {needs}", where=board.name, remedy=remedy)
        self.needs = needs


def to_be_used(limit: float) -> str:
    """A note on a number of what the board has, if less than all of it is to be used."""
    return f", {100 * limit:.0f} % of which are to be used" if limit < 1 else ""


def check_fits(found: Estimate, limits: Mapping[str, float] | None = None, *, remedies: str = "") -> None:
    """Raises ProjectError unless the estimate stays within ``limits`` (default: all that the board has).

    The error names the resources that are short, the three layers that take most of them, and what would make the design fit.
    """
    limits = limits or dict.fromkeys(FIELDS, 1.0)
    over = found.over(limits)
    if not over:
        return
    total, there = found.total, capacity(found.board)
    parts = []
    for field in over:
        worst = sorted(found.layers, key=lambda cost: getattr(cost.resources, field), reverse=True)[:3]
        costly = ", ".join(f"{cost.node} {getattr(cost.resources, field)}" for cost in worst if getattr(cost.resources, field))
        parts.append(f"{getattr(total, field)} {NAMES[field]} of {getattr(there, field)}{to_be_used(limits[field])} ({costly})")
    raise DoesNotFitError(found.board, f"needs {'; '.join(parts)}", remedies or "use a larger board, shorter words or smaller layers")


@lru_cache(maxsize=256)
def _shift_slots(process: d.MatVec) -> tuple[tuple[int, bool, bool], ...]:
    return tuple((slot.span, slot.zero, slot.negative) for slot in arith.digit_form(process.weights).slots)


def process_cost(process: d.Process, on: Device) -> Resources:
    """The process without its FIFOs."""
    if isinstance(process, d.MatVec):
        return matvec_cost(process, on)
    if isinstance(process, d.Window):
        return _window(process, on)
    pieces = [_PROCESS, r.counter(max(cycles(process), 2))]
    for stream in (*d.inputs(process), *d.outputs(process)):
        pieces.append(Resources(ff=stream.parallel * stream.type.width))  # read and written through registers
    if isinstance(process, d.Rewidth):
        wide = max(process.input.parallel, process.output.parallel) * process.input.type.width
        pieces.append(r.multiplexer(2, wide) if process.input.parallel > process.output.parallel else Resources())
        pieces.append(Resources(ff=wide))
    elif isinstance(process, d.Pool):
        pieces.append(_pool(process, on))
    elif isinstance(process, d.Pointwise | d.Binary):
        pieces.append(_epilogue(process.epilogue, process.output.parallel, on))
    elif isinstance(process, d.Concat):
        lanes = process.output.parallel
        pieces += [r.multiplexer(2, lanes * process.joined.width), _epilogue(process.epilogue, lanes, on)]
    elif isinstance(process, d.Permute):
        pieces += _permute(process, on)
    elif isinstance(process, d.PadFrame | d.SliceFrame | d.Stretch):
        pieces += [r.multiplexer(2, process.output.parallel * process.output.type.width), *_place(process.size)]
    elif isinstance(process, d.Repeat):
        height, width, channels = process.size
        words = channels // process.output.parallel
        pieces += [_memory(storage.row(process), on), *_place((height, width, words))]
    elif isinstance(process, d.FromPort | d.ToPort):
        stream = process.output if isinstance(process, d.FromPort) else process.input
        bits = process.slot * stream.parallel
        pieces.append(Resources(lut=bits // 2 + 10, ff=2 * bits + 10))  # register slice of the AXI4-Stream port
    return r.total(pieces)


def matvec_cost(process: d.MatVec, on: Device, *, pe: int | None = None, simd: int | None = None, arithmetic: str | None = None) -> Resources:
    """A matrix-vector unit, optionally as it would be with another folding and arithmetic.

    ``products`` and the sums of a turn, the accumulators, the input that is kept for further outputs, the weights, and the epilogue of each lane.
    """
    pe, simd, arithmetic = pe or process.pe, simd or process.simd, arithmetic or process.arithmetic
    x, weight, acc = process.input.type, process.weight_type, process.acc.width
    lanes = pe if process.depthwise else pe * simd
    output_fold, input_fold = (1, process.inputs) if process.depthwise else (process.outputs // pe, process.inputs // simd)
    rows = process.weights.size // lanes
    a, b = x.width + (not x.signed), weight.width + (not weight.signed)
    width = min(a + b, acc)
    code = weight.width
    if arithmetic == "pair":
        form = arith.pair_form(process.possible, x)
        # joining two weights borrows from the upper one; splitting the product gives it back
        glue = Resources(lut=form.packed.width - form.split + width, ff=form.packed.width)
        products = (Resources(dsp=r.multiplier_dsps(a, form.packed.width, on)) + glue) * (lanes // 2)
    elif arithmetic == "shift":
        slots = _shift_slots(process)
        code = max(sum((span + zero - 1).bit_length() + negative for span, zero, negative in slots), 1)
        products = r.digit_product(x.width, width, [(span + zero, negative) for span, zero, negative in slots]) * lanes
    else:
        products = r.product(a, b, arithmetic, on) * lanes
    weights = storage.weights(rows, lanes, code, loaded=process.loaded)
    trees = r.adder_tree(1 if process.depthwise else simd, width, acc) * pe
    loops = (process.pixels, process.groups, output_fold, input_fold, rows)
    loads = r.counter(rows) if process.loaded else Resources()
    pieces = [_PROCESS, products, trees, _memory(weights, on), loads, *(r.counter(loop) for loop in loops if loop > 1)]
    pieces.append((r.adder(acc) if input_fold > 1 else Resources(ff=acc)) * pe)
    if output_fold > 1 and not process.depthwise:
        pieces += [_memory(storage.kept(input_fold, x.width, simd, output_fold), on), r.multiplexer(2, simd * x.width)]
    taken = (pe if process.depthwise else simd) * x.width
    pieces += [Resources(ff=taken + lanes * code), _epilogue(process.epilogue, pe, on)]
    return r.total(pieces)


def _memory(memory: Memory, on: Device) -> Resources:
    one = r.rom(memory.depth, memory.width) if memory.constant else r.ram(memory.depth, memory.width, on)
    return one * memory.count


def _loader(loader: d.Loader) -> Resources:
    """The port, a counter, and the two FIFOs of each process that constants are loaded into."""
    bits = loader.port.slot * loader.port.parallel
    port = Resources(lut=bits // 2 + 10, ff=bits + 10)
    queues = r.fifo(loading.WORDS_DEPTH, bits) + r.fifo(loading.FLAGS_DEPTH, 1)
    return r.total([_PROCESS, r.counter(max(loader.port.words, 2)), port, queues * len(loader.loads)])


def _window(process: d.Window, on: Device) -> Resources:
    """The line buffer, one word of it per address, and the counters and comparisons that say what to read and write."""
    chunks, outer, h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw = process.shape
    rows, width = (kh - 1) * dh + 1, process.input.parallel * process.input.type.width
    row, size = w * chunks, rows * w * chunks
    counters = [r.counter(loop) for loop in (oh, ow, kh, kw, outer, chunks // outer, size) if loop > 1]
    bits = Resources()
    # y, top; column, left, next left; bottom, need, limit, their successors and the sums and comparisons in between
    for count, reach in ((2, top + oh * sh + rows + kh * dh), (3, (left + ow * sw + kw * dw) * chunks), (9, h * row + size), (3, 2 * size)):
        bits += r.adder((reach - 1).bit_length()) * count
    comparisons = r.comparison((h * row).bit_length()) * 6
    return r.total([_PROCESS, *counters, bits, comparisons, _memory(storage.line(process), on), r.multiplexer(2, width), Resources(ff=2 * width)])


def _pool(process: d.Pool, on: Device) -> Resources:
    lanes, width = process.output.parallel, process.acc.width
    join = r.adder(width) if process.join == "sum" else r.greater(width) + Resources(ff=width)
    kept = storage.sums(process)
    shifting = Resources(ff=width * process.channels) if process.whole_frame and not kept.depth else Resources()
    return r.total([join * lanes, _memory(kept, on), shifting, _epilogue(process.epilogue, lanes, on)])


def _permute(process: d.Permute, on: Device) -> list[Resources]:
    words = process.input.words
    pieces = [_memory(storage.frame(process), on), *(r.counter(size) + r.adder(words.bit_length()) for size, _ in process.read)]
    if isinstance(process.write, d.Table):
        return [*pieces, _memory(storage.places(process), on)]
    return [*pieces, *(r.counter(size) + r.adder(words.bit_length()) for size, _ in process.write)]


def _place(size: tuple[int, ...]) -> list[Resources]:
    """Counters over a frame and, for each, two comparisons."""
    return [r.counter(count) + r.comparison(2 * (count - 1).bit_length()) for count in size if count > 1]


def _epilogue(epilogue: d.Epilogue, lanes: int, on: Device) -> Resources:
    """All steps in each of the lanes, a register behind each, and the tables that they read."""
    pieces = []
    before = epilogue.inputs[0]
    for step in epilogue.steps:
        operands = tuple(operand.type for operand in step.operands if operand.type is not None)
        second = operands[0] if operands else epilogue.inputs[-1]
        pieces.append((_step(step, before, second, on) + Resources(ff=step.out.width)) * lanes)
        for operand in step.operands:
            if operand.table.index != "scalar":
                pieces.append(_memory(storage.table(operand.table, lanes), on))
        before = step.out
    return r.total(pieces)


def _step(step: d.Step, x: FixedType, second: FixedType, on: Device) -> Resources:
    """One step on one number, without the register behind it."""
    width = step.out.width
    if step.function in ("add", "sub"):
        return Resources(lut=width)
    if step.function in ("relu", "leaky_relu"):
        return r.multiplexer(2, width)
    if step.function in ("shl_by", "move_by", "add_by", "sub_by"):
        moved = r.total([r.multiplexer(len(set(operand.table.values)), width) for operand in step.operands])
        return moved if step.function.startswith(("shl", "move")) else moved + Resources(lut=width)
    if step.function == "clip":
        wide = step.arguments[0].width if isinstance(step.arguments[0], FixedType) else width
        return r.comparison(wide) * 2 + r.multiplexer(3, width)
    if step.function == "mul":
        return replace(r.product(x.width + (not x.signed), second.width + (not second.signed), "auto", on), ff=0)
    if step.function in ("cast", "cast_moved"):
        source, target = (argument.type for argument in step.arguments[:2] if isinstance(argument, d.Tag))
        moved = r.Resources()
        if step.function == "cast_moved":
            moved = r.multiplexer(4, source.width) + r.multiplexer(4, width)
        return r.cast(source, target) + moved
    return Resources()
