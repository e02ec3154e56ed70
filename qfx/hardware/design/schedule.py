"""The schedule: how far every layer is folded onto hardware. Numbers only; lowering turns them into processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from qfx.errors import ProjectError
from qfx.hardware.board import check_clock as check_clock  # part of this module's vocabulary
from qfx.hardware.design.weights.sparse import Kept

ARITHMETIC = ("auto", "dsp", "lut", "shift", "pair", "triple", "quad", "pair27", "triple27", "quad27", "grid", "grid27")
"""How the multipliers of a layer are built: left to the vendor's tool, in DSP blocks, in LUTs, as shifts and additions of the digits of constant
weights, or two, three or four products in one DSP block ("27": of those with a port of 27 bits). All of them compute the same numbers."""


BUFFER_STORAGE = CHIP_STORAGE = ("auto", "lut", "bram", "uram")
"""What line buffers and FIFOs are built of on the chip: as their size says (``storage.py``), of LUTs, block RAM or UltraRAM."""

FIFO_STORAGE = (*CHIP_STORAGE, "ddr")
"""What holds the words of a FIFO: "ddr" is the board's memory, which an AXI master writes and reads."""

WEIGHT_STORAGE = (*BUFFER_STORAGE, "mixed", "ddr")
"""What holds weights: "mixed" is block RAM as far as the rows fill it, and LUTs for the rest. UltraRAM holds none that are constant. "ddr" is the
board's memory, which an AXI master reads while the hardware runs."""


@dataclass(frozen=True, slots=True)
class Folding:
    """``pe`` outputs (channels, for operators without weights) and ``simd`` inputs are worked on in parallel; ``arithmetic`` is one of ARITHMETIC,
    ``weights`` (what holds them) of WEIGHT_STORAGE, ``buffer`` (what the line buffer of its window is built of) of BUFFER_STORAGE. ``taps``: how many
    taps of a window come in a word, 1 or all, of a window that is the frame any divisor. ``pixels``: how many pixels of the result are worked on in
    parallel, each with the same weights, or, of what joins or moves pixels, leave in a word.
    ``rows``: with weights in "ddr", the rows of the result for which a word of them is read once; 0 for all. ``sparsity``: "n:m" stores and
    multiplies n weights of each m neighbouring inputs alone, of a layer that has no more; "": all.

    Of layers with weights pe and simd need not divide the outputs of a group and the inputs of one output (``folding/ragged.py``), but neither may be
    greater than what makes as few words; else pe divides the channels, or is all of the result for words of whole pixels. Lowering checks it.
    Operators without weights ignore simd, arithmetic, weights and sparsity, those without windows taps and buffer.
    """

    pe: int = 1
    simd: int = 1
    arithmetic: str = "auto"
    taps: int = 1
    weights: str = "auto"
    buffer: str = "auto"
    pixels: int = 1
    rows: int = 0
    sparsity: str = ""

    def stored(self, weights: str, buffer: str) -> Folding:
        """It with its memories in those places. (``dataclasses.replace`` takes twice as long, and searches make thousands.)"""
        return Folding(self.pe, self.simd, self.arithmetic, self.taps, weights, buffer, self.pixels, self.rows, self.sparsity)

    @property
    def kept(self) -> Kept | None:
        """``sparsity`` as numbers."""
        return Kept.parse(self.sparsity) if self.sparsity else None

    @property
    def lanes(self) -> int:
        """The weights of an output that are multiplied at once."""
        kept = self.kept
        return self.simd if kept is None else kept.lanes(self.simd)

    def __post_init__(self) -> None:
        kept = self.kept
        if kept is not None and self.simd % kept.m:
            what = f"sparsity {self.sparsity}: SIMD={self.simd} cuts groups of {kept.m} inputs"
            raise ProjectError(what, remedy=f"use a SIMD that {kept.m} divides, or leave sparsity out")
        if self.rows < 0 or (self.rows and self.weights != "ddr"):
            raise ProjectError(f"rows={self.rows} with weights in {self.weights!r}", remedy='give rows with weights = "ddr" alone, and at least 1')
        if self.pe < 1 or self.simd < 1 or self.taps < 1 or self.pixels < 1:
            more = "".join(f", {field}={value}" for field, value in (("taps", self.taps), ("pixels", self.pixels)) if value < 1)
            raise ProjectError(f"the folding is PE={self.pe}, SIMD={self.simd}{more}", remedy="use at least 1")
        if self.arithmetic not in ARITHMETIC:
            raise ProjectError(f"the arithmetic is {self.arithmetic!r}", remedy=f"use one of {', '.join(ARITHMETIC)}")
        if self.weights not in WEIGHT_STORAGE:
            raise ProjectError(f"the weights are to lie in {self.weights!r}", remedy=f"use one of {', '.join(WEIGHT_STORAGE)}")
        if self.buffer == "ddr":
            remedy = 'leave it on the chip; a unit with weights = "ddr" has none, and --style sequential keeps values in memory'
            raise ProjectError("the line buffer is to lie in the board's memory: only FIFOs and weights can", remedy=remedy)
        if self.buffer not in BUFFER_STORAGE:
            raise ProjectError(f"the buffer is to lie in {self.buffer!r}", remedy=f"use one of {', '.join(BUFFER_STORAGE)}")


OUT = "output:"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The folding of each node by name (nodes not listed: one number at a time) and of the two ports.

    ``fifos``: depths, in words, that streams have by the user's wish instead of by simulation; ``fifo_storage``: which of FIFO_STORAGE some are built
    of by the user's wish.
    """

    foldings: tuple[tuple[str, Folding], ...] = ()
    input_parallel: int = 1
    output_parallel: int = 1
    fifos: tuple[tuple[str, int], ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    """Of a graph with several inputs or outputs: the numbers per word of a port, by the node's name (with ``OUT`` before that of an output),
    where they are not the greatest common divisor of ``input_parallel`` or ``output_parallel`` and the numbers of a frame."""
    merged: bool = False
    """Whether all inputs come in one stream, one after the other in a frame, and all outputs leave in one."""
    fifo_storage: tuple[tuple[str, str], ...] = ()
    batch: int = 1
    """The frames for which fully connected layers whose weights lie in memory read them once."""

    @classmethod
    def of(
        cls,
        foldings: Mapping[str, Folding],
        *,
        input_parallel: int = 1,
        output_parallel: int = 1,
        fifos: Mapping[str, int] | None = None,
        ports: Mapping[str, int] | None = None,
        merged: bool = False,
        fifo_storage: Mapping[str, str] | None = None,
        batch: int = 1,
    ) -> Schedule:
        folded = tuple(sorted(foldings.items(), key=lambda item: item[0]))
        depths, widths = (tuple(sorted((given or {}).items())) for given in (fifos, ports))
        return cls(folded, input_parallel, output_parallel, depths, widths, merged, tuple(sorted((fifo_storage or {}).items())), batch)

    def port(self, name: str, numbers: int, *, output: bool = False) -> int:
        """The numbers per word of one port among several, of a frame of ``numbers``."""
        asked = dict(self.ports).get(f"{OUT}{name}" if output else name)
        return gcd(self.output_parallel if output else self.input_parallel, numbers) if asked is None else asked

    def folding(self, name: str) -> Folding:
        """That of the node ``name``."""
        return dict(self.foldings).get(name, Folding())


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks of the schedule; ``fold.resolve`` answers it.

    ``foldings``, the ports, ``fifos`` and ``fifo_storage`` are fixed. What is not fixed is chosen for ``fps`` frames per second, or to be as fast as
    fits (``fit``), or else is one number at a time.
    """

    foldings: tuple[tuple[str, Folding], ...] = ()
    input_parallel: int | None = None
    output_parallel: int | None = None
    fifos: tuple[tuple[str, int], ...] = ()
    fps: float | None = None
    fit: bool = False
    ports: tuple[tuple[str, int], ...] = ()
    """The numbers per word of ports by the model's names for them, with ``OUT`` before that of an output."""
    merged: bool = False
    """As in ``Schedule``."""
    shift_and_add: bool = False
    """Whether every product with a constant is to be a sum of shifted numbers."""
    fifo_storage: tuple[tuple[str, str], ...] = ()
    memory: str = ""
    """Which layers have their weights in the board's memory beside those whose folding says so: "" none, "auto" as many as the chip cannot hold,
    "ddr" all that save block RAM by it."""
    batch: int = 1
    """As in ``Schedule``."""
    above: float = 0.0
    """With ``fit``: frames per second that are made otherwise, so that nothing slower is looked for."""

    def __post_init__(self) -> None:
        if self.memory not in ("", "auto", "ddr"):
            raise ProjectError(f"the weights of which layers lie in memory: {self.memory!r}", remedy='use "", "auto" or "ddr"')
        if self.batch < 1:
            raise ProjectError(f"a batch of {self.batch} frames", remedy="use at least 1")
        if self.fps is not None and self.fit:
            raise ProjectError("both a number of frames per second and the fastest that fits are asked for", remedy="ask for one of them")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ProjectError(f"{self.fps:g} frames per second", remedy="ask for a positive number")
