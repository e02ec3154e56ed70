"""What processes have in common, in resources: memories, epilogues, FIFOs, the control of a loop. The formulas are in ``resources.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qfx.fixed.type import FixedType
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import storage
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Slot, Step, Stream, Table, Tag


def control(turns: int, streams: Sequence[Stream], latency: int) -> Resources:
    """The handshake, a counter of the turns, and a register for a word of each stream, read or written."""
    return r.total([r.handshake(len(streams), latency), r.counter(max(turns, 2)), *(Resources(ff=stream.bits) for stream in streams)])


def memory(found: Memory, on: Device) -> Resources:
    """All memories of an array."""
    one = r.rom(found.depth, found.width, found.asked) if found.constant else r.ram(found.depth, found.width, on, found.asked)
    return one * found.count


def queue(stream: Stream, parallel: int) -> Resources:
    """The shallowest FIFO of the stream, ``parallel`` numbers a word."""
    return r.fifo(2, parallel * stream.type.width)


def rewidth(stream: Stream, source: int, target: int) -> Resources:
    """The process that changes words of ``source`` numbers into such of ``target``, with its FIFO; nothing where they are the same."""
    if source == target:
        return Resources()
    wide = max(source, target) * stream.type.width
    return r.handshake(2, 1) + Resources(lut=30 + wide // 2, ff=20 + 2 * wide) + queue(stream, target)


def port(slot: int, stream: Stream) -> Resources:
    """The register slice of an AXI4-Stream port of as many slots as the stream has numbers a word."""
    return register_slice(slot * stream.parallel)


def register_slice(bits: int) -> Resources:
    """That of a stream with words of so many bits."""
    return Resources(lut=bits // 2 + 10, ff=2 * bits + 10)


def place(size: tuple[int, ...]) -> Resources:
    """Counters over a frame and, for each, two comparisons."""
    return r.total([r.counter(count) + r.comparison(2 * (count - 1).bit_length()) for count in size if count > 1])


def epilogue(steps: Epilogue, lanes: int, on: Device) -> Resources:
    """All steps in each of the lanes, a register behind each; the tables that they read are memories of the process."""
    pieces = [_line(table, on) for table in steps.tables if table.index == "pixel"]
    before = steps.inputs[0]
    for step in steps.steps:
        operands = tuple(operand.type for operand in step.operands if operand.type is not None)
        second = operands[0] if operands else steps.beside if step.beside >= 0 and steps.beside is not None else steps.inputs[-1]
        pieces.append((_step(step, before, second, on) + Resources(ff=step.out.width)) * lanes)
        before = step.out
    return r.total(pieces)


def _line(values: Table, on: Device) -> Resources:
    """Which entry a pixel reads: a product for each quotient by what is no power of two, and one more with a difference for the remainder."""
    bits = (values.pixels - 1).bit_length()
    quotients = [values.inner, *([len(values.values)] if values.repeats else [])]
    found = [r.product(bits, bits + 1, "auto", on) for divisor in quotients if divisor & (divisor - 1)]
    if values.repeats and len(values.values) & (len(values.values) - 1):
        found += [r.product(bits, len(values.values).bit_length(), "lut", on), r.adder(bits)]
    return r.total(found)


def _step(step: Step, x: FixedType, second: FixedType, on: Device) -> Resources:
    """One step on one number, without the register behind it."""
    width = step.out.width
    if step.function in ("add", "sub"):
        return Resources(lut=width)
    if step.function in ("relu", "leaky_relu"):
        return r.multiplexer(2, width)
    if step.function in ("shl_by", "move_by", "add_by", "sub_by"):
        moved = r.total([r.multiplexer(len(set(operand.table.values)), width) for operand in step.operands])
        return moved if step.function.startswith(("shl", "move")) else moved + Resources(lut=width)
    if step.function == "lookup":  # the table itself is a memory
        return Resources(lut=x.width)
    if step.function == "lookup_linear":
        low = step.arguments[1] if isinstance(step.arguments[1], int) else 0
        slope = storage.table(step.operands[1].table, 1).width
        return Resources(lut=x.width + width) + replace(r.product(low + 1, slope, "auto", on), ff=0)
    if step.function in ("greater", "lesser"):
        return r.comparison(width) + r.multiplexer(2, width)
    if step.function in ("greater_by", "lesser_by"):
        return r.comparison(width) + r.total([r.multiplexer(len(set(operand.table.values)), width) for operand in step.operands])
    if step.function in ("above", "not_above"):
        return r.comparison(x.width)
    if step.function == "mul_digits":
        return _digit_product(step, x)
    if step.function in ("prelu", "prelu_by", "prelu_digits", "prelu_digits_by"):
        if "digits" in step.function:
            factor = _digit_product(step, x)
        else:
            factor = replace(r.product(x.width + (not x.signed), second.width + (not second.signed), "auto", on), ff=0)
        return factor + r.total([r.multiplexer(2, width)] * (3 if step.function.endswith("_by") else 1))
    if step.function == "clip":
        wide = step.arguments[0].width if isinstance(step.arguments[0], FixedType) else width
        return r.comparison(wide) * 2 + r.multiplexer(3, width)
    if step.function == "minifloat":  # magnitude, thresholds, both shifts, rounding, the end
        binades = step.arguments[3] if isinstance(step.arguments[3], int) else 0
        shifts = r.multiplexer(max(binades + 1, 2), x.width) + r.multiplexer(max(binades + 1, 2), width)
        return Resources(lut=x.width + 2 * width) + r.comparison(x.width) * binades + shifts + r.comparison(width)
    if step.function == "mul":
        return replace(r.product(x.width + (not x.signed), second.width + (not second.signed), "auto", on), ff=0)
    if step.function in ("cast", "cast_moved"):
        source, target = (argument.type for argument in step.arguments[:2] if isinstance(argument, Tag))
        moved = Resources()
        if step.function == "cast_moved":
            moved = r.multiplexer(4, source.width) + r.multiplexer(4, width)
        return r.cast(source, target) + moved
    return Resources()


def _digit_product(step: Step, x: FixedType) -> Resources:
    digits = [(slot.span + slot.zero, slot.negative) for slot in step.arguments if isinstance(slot, Slot)]
    return replace(r.digit_product(x.width, step.out.width, digits), ff=0)
