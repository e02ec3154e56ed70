"""The designs whose RTL is compared: every kind of process, every arithmetic, loops, several ports, loaded constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hardware_models import DIRECTED, chain, const, conv, few_of_each, moved, odd_sizes, scalar, side_by_side, whole_pixels
from random_schedules import random_schedule
from schedule_models import BRANCHED, folded, upsampling
from support.bounded import step_of
from test_merged_ports import CASES as MERGED
from test_several_ports import crossed, siamese

from qfx.hardware.design import design as d
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import Folding, Schedule
from qfx.hardware.project.project import prepare
from qfx.hardware.timing.fifo import plan, size_fifos
from qfx.ir.graph import Graph
from qfx.ir.values import RawArray
from qfx.operators import Affine, Cast, Clip, Const, Linear, Relu, Reshape, SumPool

FRAMES = 3


@dataclass(frozen=True)
class Case:
    """``make``: of a random generator; FIFOs are sized."""

    name: str
    make: Callable[[np.random.Generator], d.Design]


def arithmetics() -> Graph:
    """Convolutions, depthwise ones and linear layers, whose weights are few digits or fit two to a DSP block, and whose results have bounds of their
    own."""
    narrow = Cast(scalar("ap_fixed<5,3,AP_RND_CONV,AP_SAT>"))
    bounds = [Const(np.array(raws).reshape(4, 1, 1), 2) for raws in ((-16, -3, 0, -1), (15, 7, 3, 0))]
    return chain(
        "arithmetics",
        (4, 5, 4),
        conv(90, 4, 4, 2, 2),
        narrow,
        conv(92, 4, 4, 3, 3, pads=(1, 1)),
        narrow,
        conv(94, 4, 4, 1, 1),
        narrow,
        conv(96, 4, 1, 2, 2, groups=4),
        narrow,
        conv(98, 4, 1, 1, 1, groups=4),
        narrow,
        Clip(*bounds),
        Affine(moved(const(100, 4), 0, 3, 1, 2), const(101, 4)),
        Relu(),
        Cast(scalar("ap_ufixed<7,5,AP_RND_INF,AP_WRAP>")),
        Reshape((24,)),
        Linear(const(102, 6, 24), const(103, 6)),
        Cast(scalar("ap_fixed<13,9,AP_TRN_ZERO,AP_SAT_SYM>")),
        Linear(const(104, 4, 6), None),
    )


def _arithmetics(kinds: tuple[str, ...]) -> Callable[[np.random.Generator], d.Design]:
    names = ("conv0", "conv2", "conv4", "conv6", "conv8", "linear15", "linear17")
    folds = ((2, 2), (4, 12), (4, 4), (2, 1), (4, 1), (2, 6), (2, 3))
    foldings = {name: Folding(*fold, kind) for name, fold, kind in zip(names, folds, kinds, strict=True)}
    return lambda _: size_fifos(lower(arithmetics(), Schedule.of(foldings, input_parallel=2, output_parallel=2)))


def _branched(make: Callable[[], Graph]) -> Callable[[np.random.Generator], d.Design]:
    return lambda _: size_fifos(lower(make(), folded(make())))


def _directed(make: Callable[[], Graph]) -> Callable[[np.random.Generator], d.Design]:
    return lambda rng: size_fifos(lower(make(), random_schedule(make(), rng)))


def _loaded(make: Callable[[], Graph], schedule: Schedule) -> Callable[[np.random.Generator], d.Design]:
    return lambda _: size_fifos(lower(prepare(make(), "stream"), schedule))


def _merged(place: int) -> Callable[[np.random.Generator], d.Design]:
    return lambda _: plan(lower(*MERGED[place])).design


def _step(make: Callable[[], Graph]) -> Callable[[np.random.Generator], d.Design]:
    def made(rng: np.random.Generator) -> d.Design:
        design = size_fifos(lower(make(), random_schedule(make(), rng)))
        return step_of(next(process for process in design.processes if isinstance(process, d.Loop)))

    return made


def classifier_like() -> Graph:
    """A grouped and a depthwise convolution and a linear layer, with biases and an activation between."""
    narrow = Cast(scalar("ap_fixed<6,3,AP_RND,AP_SAT>"))
    scale = Affine(Const(np.array([-7, 9, 5, -3]), 3), const(114, 4, bits=11, frac_bits=9))
    first, second = conv(110, 4, 2, 3, 3, pads=(1, 1), groups=2), conv(112, 4, 1, 2, 2, groups=4)
    return chain("classifier_like", (4, 4, 3), first, narrow, second, scale, Relu(), Reshape((24,)), Linear(const(115, 4, 24), const(116, 4)), narrow)


_FOLDING = Schedule.of({"conv0": Folding(2, 6, "pair"), "conv2": Folding(4), "linear6": Folding(2, 8, "dsp")}, input_parallel=2, output_parallel=2)

QUICK = (
    Case("residual", _branched(BRANCHED[0])),
    Case("arithmetics", _arithmetics(("pair", "shift", "lut", "dsp", "shift", "pair", "auto"))),
    Case("loaded", _loaded(classifier_like, _FOLDING)),
)

_RECURRENT = DIRECTED[-3:]

WIDE_POOL = Case("wide_pool", lambda _: size_fifos(lower(chain("wide_pool", (18, 3, 2), SumPool((3, 2), (1, 1), ((0, 0), (0, 0)))), Schedule())))
"""A global pool of so many channels that its accumulators are a memory."""

ALL = (
    *QUICK,
    Case("arithmetics2", _arithmetics(("auto", "pair", "dsp", "lut", "auto", "shift", "lut"))),
    Case("arithmetics3", _arithmetics(("shift", "dsp", "pair", "shift", "dsp", "lut", "shift"))),
    *(Case(f"branched{place}", _branched(make)) for place, make in enumerate(BRANCHED[1:])),
    *(Case(f"directed{place}", _directed(make)) for place, make in enumerate(DIRECTED)),
    Case("upsampling", _directed(upsampling)),
    WIDE_POOL,
    Case("phases", lambda _: size_fifos(lower(next(make() for make in DIRECTED if make().name == "phases"), Schedule()))),
    Case("odd_sizes", lambda _: size_fifos(lower(*odd_sizes()))),
    Case("side_by_side", lambda _: size_fifos(lower(*side_by_side()))),
    Case("whole_pixels", lambda _: size_fifos(lower(*whole_pixels()))),
    Case("few_of_each", lambda _: size_fifos(lower(*few_of_each()))),
    *(Case(f"step{place}", _step(make)) for place, make in enumerate(_RECURRENT)),
    Case("siamese", lambda _: size_fifos(lower(siamese(), Schedule()))),
    Case("crossed", lambda _: size_fifos(lower(crossed(), Schedule()))),
    *(Case(f"merged{place}", _merged(place)) for place in range(len(MERGED))),
    Case("loaded_several", _loaded(siamese, Schedule())),
    Case("loaded_merged", _loaded(siamese, Schedule.of({}, merged=True))),
)


def frames(design: d.Design, rng: np.random.Generator, count: int = FRAMES) -> list[RawArray]:
    """Raws for every input: any that its type has, and its bounds."""
    found = []
    for port in design.inputs:
        raw = rng.integers(port.type.min_raw, port.type.max_raw + 1, (count, *port.shape))
        edge = rng.choice([port.type.min_raw, port.type.max_raw], raw.shape)
        found.append(np.where(rng.random(raw.shape) < 0.25, edge, raw).astype(np.int64))
    return found
