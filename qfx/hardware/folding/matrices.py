"""How a matrix-vector unit can be folded, with the window unit in front of it: PE, SIMD, taps, pixels, arithmetic and where its memories lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from qfx.hardware.cost import pieces
from qfx.hardware.cost import resources as r
from qfx.hardware.cost.resources import Device, Resources
from qfx.hardware.design import arithmetic as arith
from qfx.hardware.design import dsp
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import bram18
from qfx.hardware.design.streams import MAX_WORD_BITS
from qfx.hardware.design.weights.sparse import Kept
from qfx.hardware.folding import ragged
from qfx.hardware.folding.offered import ragged_pairs
from qfx.hardware.folding.option import Moves, Option, Options, Way, choices, divisors, fits_word, window_channels
from qfx.hardware.processes.phases import Interleave
from qfx.hardware.processes.rows.abreast import Deal, Gather, Scatter, behind
from qfx.hardware.processes.rows.wide_window import wide_window
from qfx.hardware.timing.program import REWIND

if TYPE_CHECKING:
    from qfx.hardware.processes.matvec import MatVec
    from qfx.hardware.processes.process import Process, Setting

_ARITHMETIC = ("dsp", "lut", *dsp.PACKED, *dsp.GRIDS, "shift")
"""What is chosen from, the first of equals. "auto" would leave the costs to the tool."""

_ABREAST = (2, 4)
"""Pixels at once that are looked at, beside one."""

_LUT_ROWS = 64
"""Rows of weights that LUTs hold as well as one."""

_IDLE = 3
"""A unit of several pixels may wait for its words in all but one of so many turns: where pixels come too slowly one by one nothing else is there."""

_LEAST_SAVED, _PART_SAVED, _PART_DONE = 8, 2, 4
"""Block RAMs, and one in so many of them, that rows of weights for several pixels must save for them to be looked at; where pixels come side by side,
one in so many outputs that are worked on at once."""


class _Form(NamedTuple):
    """What the words of a unit depend on: PE, SIMD, taps a word of the window unit, and pixels at once."""

    pe: int
    simd: int
    taps: int
    pixels: int = 1


class _Front(NamedTuple):
    """Busy cycles and costs of a window unit, and what its buffer takes in each place where it may lie, of which the costs count the first.
    ``takes``: the numbers of a word of one that writes several windows side by side; 0 for others."""

    busy: int
    cost: Resources
    lines: dict[str, Resources]
    takes: int = 0


class _Unit(NamedTuple):
    """A unit with one arithmetic, zeros left out or not, and its weights in a place: cycles that a pipeline that runs empty waits longer, its cost
    without what is around it, and what the weights take in each place."""

    arithmetic: str
    sparsity: str
    weights: str
    waits: int
    cost: Resources
    stored: dict[str, Resources]


class _Inside(NamedTuple):
    """What depends on PE, SIMD, pixels and the zeros that can be left out alone: busy cycles of the unit and of the slowest process at its sides,
    what is around it whatever multiplies, and the unit with each arithmetic."""

    busy: int
    slowest: int
    around: Resources
    units: list[_Unit]


def options(unit: MatVec, setting: Setting) -> Options:
    """Those of the unit as it is with one number at a time."""
    pinned, on = setting.pinned, setting.on
    wanted = ("shift",) if setting.shift_and_add else _ARITHMETIC
    per_group = setting.front.channels // unit.groups if setting.front else unit.inputs
    at_once = (pinned.pixels,) if pinned else (1, *_ABREAST)
    possible = {pixels: _possible(unit, wanted, pixels, on) for pixels in at_once}
    few = {pixels: _possible(unit, wanted, pixels, on, apart=True) for pixels in at_once} if unit.sparsities else {}
    front: dict[tuple[int, int, int], _Front | None] = {}

    def window(form: _Form) -> _Front | None:
        word = _word(unit, form, per_group)
        if word is None:
            return None
        alone = unit.words(Folding(form.pe, form.simd))[0] == 1  # a word holds all of a pixel
        key = (word, form.taps, form.pixels if alone else 1)
        if key not in front:
            front[key] = _window(setting, *key)
        return front[key]

    if pinned:
        forms, extra = [_Form(pinned.pe, pinned.simd, pinned.taps, pinned.pixels)], 0
    else:
        forms = [form for form in _dividing(unit, setting) if window(form) is not None]
        others = _ragged(unit, setting, forms, tuple(sorted({dsp.PACKED.get(name, (1, 0))[0] for name in possible[1]})))
        grids = any(name in dsp.GRIDS for name in possible[_ABREAST[0]]) if _ABREAST else False
        others += _travelling(unit, [form for one in forms for form in _abreast(unit, one, grids=grids)])
        extra = len(others)
        forms += others
    found: list[Option] = []
    others_of: list[Moves] = []
    inside: dict[tuple[int, int, int, str], _Inside] = {}
    moves: dict[tuple[int, int], Moves] = {}  # by the identities of two tables, which ``inside`` and ``front`` keep
    for number, form in enumerate(forms):
        before = window(form)
        if before is None:
            continue
        pe, simd, taps, pixels = form
        window_busy, window_cost, lines, wide = before
        kept = _kept(unit, form, per_group)
        key = (pe, simd, pixels, str(kept or ""))
        if key not in inside:
            ways = [(name, "") for name in possible[pixels] if _pays(unit, name, pe, pixels)]
            ways += [(name, str(kept)) for name in few.get(pixels, ()) if kept is not None and _pays(unit, name, 1, pixels)]
            inside[key] = _inside(unit, setting, form, ways)
        own = inside[key]
        way = _way(unit, form, per_group, beside=wide)
        slowest = max(window_busy, way.busy, own.slowest)
        if number >= len(forms) - extra and slowest > own.busy * (1 if pixels == 1 else _IDLE):
            continue  # it saves lanes for a pace that it does not keep
        around = r.total([window_cost, own.around, way.cost])
        buffer = next(iter(lines))
        for each in own.units:
            folding = Folding(pe, simd, each.arithmetic, taps, each.weights, buffer, pixels, sparsity=each.sparsity)
            found.append(Option(folding, way.takes, way.gives, max(own.busy + each.waits, slowest), each.cost + around, way.cost))
            tables = (id(each.stored), id(lines))
            if tables not in moves:
                moves[tables] = Moves.of(choices(each.stored, lines))
            others_of.append(moves[tables])
    return Options.moved(found, others_of)


def _inside(unit: MatVec, setting: Setting, form: _Form, ways: list[tuple[str, str]]) -> _Inside:
    """The unit in ``form`` with each pair of an arithmetic and a sparsity, or with those that are pinned."""
    pinned, on = setting.pinned, setting.on
    pe, simd, _, pixels = form
    tree = replace(unit, pe=pe, simd=simd, arithmetic="lut", abreast=pixels)
    sides_busy, sides = _sides(unit, form, on)
    around = r.total([pieces.queue(unit.output, pe * pixels), sides, _memory(unit, form, on)])
    by_bits: dict[tuple[int, str], tuple[Resources, dict[str, Resources]]] = {}
    units = []
    for name, sparsity in ((pinned.arithmetic, pinned.sparsity),) if pinned else ways:
        folding = Folding(pe, simd, name, weights=pinned.weights if pinned else "auto", pixels=pixels, sparsity=sparsity)
        waits = unit.delay(folding) - unit.delay(tree.folding) if unit.loaded else 0  # of a pipeline that runs empty between frames
        bits = unit.code_bits(name, folding.kept)
        if (bits, sparsity) not in by_bits:
            stored = unit.places(folding, setting)
            by_bits[bits, sparsity] = stored[folding.weights] + unit.apart(folding, bits, on), stored
        fixed, stored = by_bits[bits, sparsity]
        units.append(_Unit(name, sparsity, folding.weights, waits, unit.by_arithmetic(folding, on) + fixed, stored))
    return _Inside(tree.busy, max([sides_busy, *(process.busy for process in unit.in_place(pe, pixels))]), around, units)


def _kept(unit: MatVec, form: _Form, per_group: int) -> Kept | None:
    """The sparsest form in which the weights can be stored there: SIMD has whole groups, of the channels of a tap each where a word has all taps."""
    word = _word(unit, form, per_group) if form.taps > 1 else form.simd
    if unit.inputs % form.simd or word is None:
        return None
    fits = [kept for kept in unit.sparsities if form.simd % kept.m == 0 and word % kept.m == 0]
    return fits[-1] if fits else None


def _possible(unit: MatVec, wanted: tuple[str, ...], pixels: int, on: Device, *, apart: bool = False) -> list[str]:
    """The arithmetics of ``wanted`` for so many pixels at once, as many outputs as there are. ``apart``: each output has inputs of its own."""
    outputs, x = unit.groups * unit.outputs, unit.input.type
    can = arith.choices(unit.possible, x, pe=outputs, depthwise=unit.depthwise or apart, loaded=unit.loaded, pixels=pixels)

    def worth(name: str) -> bool:
        between, _, shared = dsp.roles(name, unit.bounds, unit.weight_type, x, pixels)
        return dsp.worth(name, between, shared, on.dsp_wide)

    return [name for name in wanted if name in can and worth(name)]


def _pays(unit: MatVec, arithmetic: str, pe: int, pixels: int) -> bool:
    """Whether it takes fewer blocks than with fewer products in each."""
    crossed = dsp.across(arithmetic, unit.weight_type, unit.input.type, pixels)
    return dsp.pays(arithmetic, pixels if crossed else 1 if unit.depthwise else pe)


def _memory(unit: MatVec, form: _Form, on: Device) -> Resources:
    """What its memories take beside the weights."""
    _, *others = unit.memories_at(Folding(form.pe, form.simd, pixels=form.pixels))
    return r.total([pieces.memory(memory, on) for memory in others])


def _word(unit: MatVec, form: _Form, per_group: int) -> int | None:
    """The channels a word that come into the layer, of each pixel."""
    if unit.depthwise:
        return form.pe
    if unit.inputs % form.simd:
        most = MAX_WORD_BITS // unit.input.type.width
        return ragged.source_channels(per_group, form.taps, unit.inputs, form.simd, ragged.words(unit.outputs, form.pe), most)
    return window_channels(form.simd, per_group, form.taps)


def _way(unit: MatVec, form: _Form, per_group: int, *, beside: int) -> Way:
    """How words come to the unit, or to what puts pixels side by side, and leave it; ``_word`` has found some. ``beside``: the numbers a word
    where a word that comes can hold several pixels side by side; 0 where they come one after the other."""
    pe, simd, taps, pixels = form
    word = _word(unit, form, per_group)
    assert word is not None
    folding = Folding(pe, simd, pixels=pixels)
    come, leave = unit.words(folding)
    vectors, lanes = unit.vectors(folding) * pixels, pe * simd if unit.depthwise else simd
    last = _behind(unit, form)
    leaves = (pe * pixels if leave == 1 else pe) if last is None else last.output.parallel
    if unit.cropped:
        leaves = next((process.targets[0].parallel for process in reversed(unit.in_place(pe, pixels))), leaves)
    if come == 1 and beside:
        return Way(beside, leaves)
    if unit.depthwise and lanes == word * taps:
        return Way(word, leaves, 0, pieces.rewidth(unit.input, lanes, lanes * pixels if come == 1 else lanes))
    if unit.inputs % simd == 0:
        wide = lanes * pixels if come == 1 else lanes
        way = Way(word, leaves, 0, pieces.rewidth(unit.input, word * taps, wide))
    else:
        row = taps * pe if unit.depthwise else unit.inputs
        widths = (word * taps, *ragged.filling(row, word * taps, lanes))
        steps = [pieces.rewidth(unit.input, source, target) for source, target in pairwise(widths)]
        way = Way(word, pe, vectors * ragged.filling_turns(row, word * taps, lanes) + REWIND, r.total(steps))
    if unit.depthwise or unit.outputs % pe == 0:
        return way
    gives = ragged.given(unit.outputs, pe, ragged.words(unit.inputs, simd), MAX_WORD_BITS // unit.output.type.width)
    leaving = vectors * ragged.giving_turns(unit.outputs, pe, gives) + REWIND
    return Way(word, gives, max(way.busy, leaving), way.cost + pieces.rewidth(unit.output, pe, gives))


def _sides(unit: MatVec, form: _Form, on: Device) -> tuple[int, Resources]:
    """Busy cycles and costs of what puts pixels side by side in front of the unit, and one after the other behind it."""
    pe, simd, _, pixels = form
    if pixels == 1:
        return 0, Resources()
    lanes = pe * simd if unit.depthwise else simd
    come, leave = unit.words(Folding(pe, simd))
    ends = [(unit.input, lanes, come), *([] if unit.beside is None else [(unit.beside, pe, leave)])]
    singles = [(replace(stream, parallel=numbers, words=unit.pixels * words), words) for stream, numbers, words in ends if words > 1]
    made: list[Process] = [Gather("", single, single.with_parallel(single.parallel * pixels), words) for single, words in singles]
    last = _behind(unit, form)
    made += [] if last is None else [last]
    queues = [pieces.queue(target, target.parallel) for process in made for target in process.targets]
    return max((process.busy for process in made), default=0), r.total([*(process.cost(on) for process in made), *queues])


def _behind(unit: MatVec, form: _Form) -> Scatter | Deal | None:
    """What takes pixels apart behind the unit."""
    pe, simd, _, pixels = form
    _, leave = unit.words(Folding(pe, simd))
    even = unit.depthwise or unit.outputs % pe == 0
    joined = replace(unit.output, parallel=pe * pixels, words=unit.pixels // pixels * leave)
    return behind(joined, leave, pixels, ragged.words(unit.inputs, simd), whole=unit.beside is None and even)


def _abreast(unit: MatVec, form: _Form, *, grids: bool) -> list[_Form]:
    """The form with several pixels at once, as far as that can save anything: rows of weights that are so wide that their blocks are not full, or DSP
    blocks, which channels of a depthwise convolution do not share, or where ``grids`` of outputs and pixels share one; or where all outputs are
    worked on already, and only pixels are left."""
    if unit.epilogue.by_pixel or (unit.cropped and form.pe < unit.outputs):
        return []
    outputs = unit.groups if unit.depthwise else unit.outputs * unit.groups
    come, _ = unit.words(Folding(form.pe, form.simd))
    fast = come == 1 and form.pe * _PART_DONE >= outputs and (form.taps > 1 or form.simd == unit.inputs)
    found = []
    for pixels in _ABREAST:
        if unit.pixels % pixels or (unit.cropped and any(isinstance(process, Interleave) for process in unit.in_place(form.pe, pixels))):
            continue
        (narrow, *_), (wide, *_) = (unit.memories_at(Folding(form.pe * many, form.simd)) for many in (1, pixels))
        blocks, more = bram18(narrow.depth, narrow.width * narrow.count), bram18(wide.depth, wide.width * wide.count)
        saves = wide.depth > _LUT_ROWS and more - blocks >= max(_LEAST_SAVED, more // _PART_SAVED)
        shares = (grids and form.pe >= dsp.SIDE) or (unit.depthwise and form.taps > 1)
        if saves or fast or (shares and pixels == _ABREAST[0]):
            found.append(form._replace(pixels=pixels))
    return found


def _dividing(unit: MatVec, setting: Setting) -> list[_Form]:
    """Every PE and SIMD that divide, and number of taps a word, whose words can travel."""
    pes = divisors(unit.groups if unit.depthwise else unit.outputs)
    return _travelling(unit, [_Form(pe, simd, together) for pe in pes for simd, together in _simds(unit, setting, divisors)])


def _ragged(unit: MatVec, setting: Setting, dividing: list[_Form], packs: tuple[int, ...]) -> list[_Form]:
    """Those that need not divide and have fewer lanes than all of ``dividing`` that are as fast; ``packs``: as in ``ragged_pairs``."""
    if unit.cropped:  # a transposed convolution without its zeros is built where foldings divide alone
        return []
    outputs = unit.groups if unit.depthwise else unit.outputs
    pes = divisors(outputs) if unit.depthwise or unit.beside is not None else ragged.useful(outputs)
    simds = _simds(unit, setting, ragged.useful)
    both = tuple(sorted({simd for simd, _ in simds}))
    pairs = set(ragged_pairs(outputs, unit.inputs, tuple(pes), both, frozenset((form.pe, form.simd) for form in dividing), packs))
    return _travelling(unit, [_Form(pe, simd, together) for pe in pes for simd, together in simds if (pe, simd) in pairs])


def _simds(unit: MatVec, setting: Setting, numbers: Callable[[int], list[int]]) -> list[tuple[int, int]]:
    """SIMD, of ``numbers`` of those that there are, and taps a word."""
    taps = setting.front.taps if setting.front else 1
    simds = [(simd, 1) for simd in ([1] if unit.depthwise else numbers(unit.inputs))]
    if taps > 1:  # fewer inputs than taps take longer than one tap a turn does
        simds += [(simd, taps) for simd in numbers(taps if unit.depthwise else unit.inputs) if simd > 1]
    return simds


def _travelling(unit: MatVec, forms: list[_Form]) -> list[_Form]:
    """Those whose words can travel."""
    return [
        form
        for form in forms
        if fits_word((form.pe * form.simd if unit.depthwise else form.simd) * form.pixels, unit.input)
        and fits_word(form.pe * form.pixels, unit.output)
    ]


def _window(setting: Setting, word: int, taps: int, pixels: int) -> _Front | None:
    """That of words of ``taps`` taps of ``word`` channels, of so many ``pixels`` where such words can be had; nothing where no unit is in front.
    None if there is no such unit."""
    if setting.front is None:
        return _Front(0, Resources(), {"auto": Resources()}, word * pixels)
    wide = wide_window(setting.front, pixels) if taps > 1 < pixels else None
    unit = wide or (setting.front if taps == 1 else setting.front.whole()).widened(word)
    if not unit.possible or not all(fits_word(stream.parallel, stream) for stream in unit.targets):
        return None
    lines = unit.buffers(setting.on, setting.buffer_places)
    queues = [pieces.queue(stream, stream.parallel) for stream in unit.targets]
    cost = r.total([unit.logic(setting.on), next(iter(lines.values())), *queues])
    return _Front(unit.busy, cost, lines, 0 if wide is None else wide.input.parallel)
