"""Answers that several process kinds share. A kind names the traits that it has; each answers some of what ``Process`` asks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Self

from qfx.hardware.cost import resources as r
from qfx.hardware.cost.pieces import queue
from qfx.hardware.cost.resources import Resources
from qfx.hardware.design import loadable, storage
from qfx.hardware.design.loadable import Loadable
from qfx.hardware.design.schedule import Folding
from qfx.hardware.design.storage import Memory
from qfx.hardware.design.streams import Epilogue, Stream
from qfx.hardware.emit.spelling import Unit, plain, with_epilogue
from qfx.hardware.folding.option import AS_FAR_AS_IT_GOES, Option, Role, fits_word, placed
from qfx.hardware.processes.process import Front, Process, Setting, Stored
from qfx.hardware.timing.program import MEMORY, READ_WRITE

IN_WINDOWS = "its window unit takes at most the channels of one pixel a cycle"
"""What limits a layer with a window unit."""


class OneToOne(Process, abstract=True):
    """It reads ``input`` and writes ``output``, and nothing else."""

    __slots__ = ()

    input: Stream
    output: Stream

    @property
    def sources(self) -> tuple[Stream, ...]:
        return (self.input,)

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return ()

    def call(self, text: str) -> Unit:
        """The unit that is this one call of ``in`` and ``out``."""
        return plain(self.name, {"in": self.input, "out": self.output}, text)


class TwoToOne(Process, abstract=True):
    """It joins the two ``inputs`` into ``output``."""

    __slots__ = ()

    inputs: tuple[Stream, Stream]
    output: Stream

    @property
    def sources(self) -> tuple[Stream, ...]:
        return self.inputs

    @property
    def targets(self) -> tuple[Stream, ...]:
        return (self.output,)

    @property
    def marks(self) -> tuple[Stream, ...]:
        return ()


class WithoutConstants(Process, abstract=True):
    """It has no weights and no tables that could be loaded: it moves numbers and computes nothing."""

    __slots__ = ()

    @property
    def loads(self) -> tuple[Loadable, ...]:
        return ()

    @property
    def stored(self) -> Stored | None:
        return None


class Passing(WithoutConstants, abstract=True):
    """Its words go from hand to hand, and none is kept."""

    __slots__ = ()

    @property
    def latency(self) -> int:
        return READ_WRITE

    @property
    def memories(self) -> tuple[Memory, ...]:
        return ()


class Buffering(WithoutConstants, abstract=True):
    """Its words lie in a memory before they leave."""

    __slots__ = ()

    @property
    def latency(self) -> int:
        return READ_WRITE + MEMORY


class WithEpilogue(Process, abstract=True):
    """Its numbers go through ``epilogue`` before they leave by ``output``."""

    __slots__ = ()

    epilogue: Epilogue
    output: Stream

    @property
    def tables(self) -> tuple[Memory, ...]:
        """The memories of the epilogue, in as many shares as numbers leave at once."""
        return storage.tables(self.epilogue, self.output.parallel)

    def call_with_epilogue(self, streams: dict[str, Stream], text: str, lanes: int = 0) -> Unit:
        """The unit that is one call of ``streams``, by parameter, with the struct of the epilogue and its tables; ``lanes``: as there."""
        return with_epilogue(self.name, streams, self.epilogue, text, lanes)


class Unweighted(WithEpilogue, abstract=True):
    """It has no constants but those of its epilogue."""

    __slots__ = ()

    @property
    def loads(self) -> tuple[Loadable, ...]:
        return loadable.tables(self.epilogue.tables)

    @property
    def stored(self) -> Stored | None:
        return None


class Between(Process, abstract=True):
    """It takes the words that come; the layers at its two ends are folded."""

    __slots__ = ()

    @property
    def role(self) -> Role:
        return Role.BETWEEN

    @property
    def front(self) -> Front | None:
        return None

    def options(self, setting: Setting) -> list[Option]:
        return []

    def limit(self, setting: Setting) -> str:
        return ""


class Widening(Process, abstract=True):
    """Its layer has a PE alone: numbers per word, the same at all ends."""

    __slots__ = ()

    @property
    def role(self) -> Role:
        return Role.OTHER

    @property
    def front(self) -> None:
        return None

    @abstractmethod
    def widths(self, setting: Setting) -> list[int]:
        """The numbers per word that it can have, ascending."""

    def widened(self, parallel: int) -> Process:
        """It with ``parallel`` numbers a word."""
        return self.with_streams(lambda stream: stream if stream in self.marks else stream.with_parallel(parallel))

    def options(self, setting: Setting) -> list[Option]:
        return [option for pe in ([setting.pinned.pe] if setting.pinned else self.widths(setting)) for option in self._options(pe, setting)]

    def limit(self, setting: Setting) -> str:
        return IN_WINDOWS if setting.front else AS_FAR_AS_IT_GOES

    def _options(self, pe: int, setting: Setting) -> list[Option]:
        """``pe`` numbers per word, with its window unit if it has one."""
        busy, cost, lines, folding = 0, Resources(), {"auto": Resources()}, Folding(pe)
        if setting.front is not None:
            unit = setting.front.widened(pe)
            lines = unit.buffers(setting.on, setting.buffer_places)
            line = next(iter(lines))
            cost = unit.logic(setting.on) + lines[line] + r.total([queue(stream, pe) for stream in unit.targets])
            busy, folding = unit.busy, Folding(pe, buffer=line)
        wide = self.widened(pe)
        queues = [queue(stream, stream.parallel) for stream in wide.targets]
        option = Option(folding, pe, pe, max(busy, wide.busy), r.total([cost, wide.cost(setting.on), *queues]))
        return placed(option, {"auto": Resources()}, lines)


class WholePixels(Widening, abstract=True):
    """Its layer has a PE as others have (``abreast`` = 0), or words of so many whole pixels, with all their channels: the folding's PE is then the
    channels of the result, its ``pixels`` those of a word of the result."""

    __slots__ = ()

    abreast: int

    @property
    @abstractmethod
    def leaving(self) -> int:
        """The channels of a pixel of the layer's result."""

    @property
    @abstractmethod
    def counts(self) -> Iterable[int]:
        """The numbers of pixels that a search looks at."""

    @abstractmethod
    def wide(self, pixels: int) -> Self | None:
        """It with words of so many whole pixels; None where there is no such process. It has one number a word."""

    def fitting(self, pixels: int) -> Self | None:
        """As ``wide``, and None where the words are too long."""
        made = self.wide(pixels)
        return made if made is not None and all(fits_word(stream.parallel, stream) for stream in (*made.sources, *made.targets)) else None

    def options(self, setting: Setting) -> list[Option]:
        pinned = setting.pinned
        if pinned is None:
            single = [] if self.leaving in self.widths(setting) else [1]
            return [*Widening.options(self, setting), *self._whole([*single, *(count for count in self.counts if count > 1)], setting)]
        if pinned.pixels == 1 and pinned.pe in self.widths(setting):
            return Widening.options(self, setting)
        return self._whole([pinned.pixels], setting) if pinned.pe == self.leaving else []

    def _whole(self, counts: Iterable[int], setting: Setting) -> list[Option]:
        found = []
        for pixels in counts:
            made = self.fitting(pixels)
            if made is not None:
                cost = r.total([made.cost(setting.on), *(queue(stream, stream.parallel) for stream in made.targets)])
                option = Option(Folding(self.leaving, pixels=pixels), made.sources[0].parallel, made.targets[0].parallel, made.busy, cost)
                found.append(option)
        return found
