"""What an engine takes of a board: the formulas of ``cost/resources.py`` for the parts of ``hls/include/qfx/sequential``."""

from __future__ import annotations

from math import ceil

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType
from qfx.hardware.board import Board
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.estimate import CONTROL, Cost, Estimate
from qfx.hardware.cost.products import Products
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.sequential.engine import Engine
from qfx.hardware.sequential.tiles import TAPS, Shape

MASTER = Resources(lut=1000, ff=1500)
"""An AXI master, but for the words that wait in it. An assumption; nobody measured it."""
WAITING = 512
"""Words that wait in a master: 8 bursts of 64 under way. Each master reads or writes, none does both."""
MASTERS = 7
PROCESS = Resources(lut=300, ff=450)
"""Counters, addresses and states of a process whose loops have bounds that are known at run time, those of either input. An assumption."""
PROCESSES = 12


def estimate(engine: Engine, board: Board) -> Estimate:
    """The parts of the engine on the board."""
    on = r.device(board.part)
    parts = {
        "multipliers": _products(engine, on),
        "sums": _sums(engine),
        "values": _values(engine),
        "weights": _weights(engine, on),
        "results": _results(engine),
        "beside": _beside(engine),
        "sums that wait": _held(engine),
        "epilogue": _epilogue(engine, on),
        "streams": _streams(engine),
        "masters": MASTER * MASTERS + Resources(bram18=waiting(engine.shape)),
        "processes": PROCESS * PROCESSES,
    }
    cycles = ceil(engine.cycles / engine.layers.batch)
    costs = tuple(Cost(name, name, cycles if name != "beside" else 0, found) for name, found in parts.items())
    return Estimate(board, (*costs, Cost("control", "(control port)", 0, CONTROL)))


def waiting(shape: Shape) -> int:
    """Block RAMs for the words in masters: four of vectors of values, two of halves of words of weights, one of parameters."""
    half = shape.wide // 2 * shape.lanes * shape.w_bits
    return 4 * r.bram18(WAITING, shape.lanes * shape.x_bits) + 2 * r.bram18(WAITING, half) + r.bram18(WAITING, 64)


def _products(engine: Engine, on: Device) -> Resources:
    """Of the array, and of single channels."""
    shape = engine.shape
    found = array(engine.operand, engine.weights, shape.outputs, shape.lanes, shape.pixels - shape.lut_pixels, engine.acc_bits, engine.arithmetic, on)
    found += of_luts(engine.operand, engine.weights, engine.acc_bits, shape.outputs, shape.lanes) * shape.lut_pixels
    if not engine.products:
        return found
    one = r.product(engine.operand_bits + (not engine.signed), engine.weight_bits, "dsp" if engine.weight_bits > 9 else "lut", on)
    return found + one * (shape.lanes * shape.pixels * (1 + TAPS * engine.slides))


def array(operand: FixedType, weights: Interval, outputs: int, lanes: int, pixels: int, most: int, arithmetic: str, on: Device) -> Resources:
    """Products and sums of so many pixels in DSP blocks."""
    return Products(outputs, lanes, operand, weights, weights.type(), False, most, pixels).take(arithmetic, on) if pixels else Resources()


def of_luts(operand: FixedType, weights: Interval, most: int, outputs: int, lanes: int) -> Resources:
    """Products and sums of one pixel in LUTs."""
    factors = operand.width + (not operand.signed), weights.width
    return (r.product(*factors, "lut", r.ULTRASCALE) * lanes + r.adder_tree(lanes, min(sum(factors), most), most)) * outputs


def _sums(engine: Engine) -> Resources:
    """An accumulator for each output of each pixel; of one vector of outputs also the choice between sums and what single channels make."""
    shape = engine.shape
    single = r.multiplexer(2, engine.acc_bits) + r.greater(engine.acc_bits)
    found = r.adder(engine.acc_bits) * (shape.outputs * shape.pixels) + single * (shape.lanes * shape.pixels)
    if not engine.slides:
        return found
    kept = Resources(ff=engine.slide_rows * (TAPS - 1) * engine.operand_bits) + r.multiplexer(engine.slide_rows, (TAPS - 1) * engine.operand_bits)
    taps = (r.adder(engine.acc_bits) + r.greater(engine.acc_bits)) * TAPS
    return found + (kept + taps) * (shape.lanes * shape.pixels)


def _twice(depth: int, width: int) -> Resources:
    """A memory that is filled while its other half is read: block RAM."""
    return Resources(bram18=2 * r.bram18(depth, width))


def _values(engine: Engine) -> Resources:
    shape = engine.shape
    return _twice(shape.x_depth, shape.lanes * shape.x_bits) * shape.pixels


def _weights(engine: Engine, on: Device) -> Resources:
    shape = engine.shape
    width = shape.lanes * shape.w_bits
    if shape.shallow:
        return Resources(lut=2 * r.lutram(shape.w_depth, width, on), ff=2 * width) * shape.outputs
    return _twice(shape.w_depth, shape.lanes * shape.w_bits) * shape.outputs


def _results(engine: Engine) -> Resources:
    shape = engine.shape
    return _twice(shape.y_depth, shape.lanes * shape.x_bits)


def _beside(engine: Engine) -> Resources:
    if not engine.beside:
        return Resources()
    return _twice(engine.beside_depth, engine.shape.lanes * engine.shape.x_bits) * engine.beside_planes


def _held(engine: Engine) -> Resources:
    """Sums that wait for others: written in one job, read in the next."""
    return Resources(bram18=r.bram18(engine.held_depth, engine.shape.lanes * engine.value_bits) if engine.held_depth else 0)


def _epilogue(engine: Engine, on: Device) -> Resources:
    """A lane: factor, summands, shifts by as many bits as a channel says, bounds; and what it knows of the channels of a job, twice."""
    shape, bits = engine.shape, engine.value_bits
    shifter = r.multiplexer(4, bits) * 3
    lane = r.adder(bits) * 2 + shifter + r.comparison(bits) * 2 + r.multiplexer(3, bits)
    if engine.factors:
        lane += Resources(dsp=r.multiplier_dsps(engine.acc_bits, engine.scale_bits, on))
    if engine.beside or engine.held_depth:
        lane += r.adder(bits) + shifter
    if engine.leak:
        lane += r.multiplexer(4, bits) * 2
    if engine.slope_bits:
        lane += Resources(dsp=r.multiplier_dsps(bits, engine.slope_bits, on))
    if engine.up:
        lane += r.multiplexer(4, shape.x_bits) * 2
    known = 3 * bits + engine.scale_bits + 18
    chosen = r.multiplexer(shape.vectors, known) + r.multiplexer(shape.vectors * shape.pixels, engine.acc_bits)
    return (lane + chosen) * shape.lanes + Resources(ff=2 * known * shape.outputs + 8 * bits * shape.lanes)


def _streams(engine: Engine) -> Resources:
    shape = engine.shape
    words = [shape.lanes * shape.x_bits] * 3 + [shape.lanes * shape.w_bits]
    sums = r.fifo(4, shape.outputs * shape.pixels * engine.acc_bits)
    return r.total([*(r.fifo(64, width) for width in words), sums])
