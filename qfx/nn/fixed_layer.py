"""``FixedLayer``: what every fixed-point layer is, and what the rest of qfx asks of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from qfx.errors import DataError
from qfx.fixed.arith import Interval
from qfx.homes import unanswered
from qfx.ir.operator import Operator
from qfx.ir.values import Const
from qfx.nn.casts.told import Question
from qfx.nn.clipped import Clipped
from qfx.nn.qtensor import QTensor
from qfx.recipe import Recipe

Steps = list[tuple[str, Operator]]
"""The operators of one layer in order, each reading the one before: (suffix of the node's name, operator)."""

Own = Callable[[Any, torch.Size], Tensor]
"""The word lengths of a layer's quantizer, in the given shape of what it casts."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What ``quantize`` has to know of a kind of layer to place Casts and to attach it.

    ``moves_only``: at inference it gives its input's values as they are (zeros, or another constant, may join them).
    ``keeps_grid``: cast values give cast values; the result of every other layer is due for a Cast.
    ``reads_uncast``: it may read a result that is not cast yet, inside a chain; every other layer reads cast values.
    ``ends_chain``: a Cast that is due stands right behind it, where it gives the result of a torch operation.
    ``aligns``: it brings its operands onto one grid, so that grids that lie far apart cost bits.
    ``named_by_source``: a Cast behind it belongs to the layer before it.
    ``called_again``: what a later call of its torch module gets: a layer of its own, or the one that is there.
    ``one_point``: a Cast behind it has one binary point for all channels, whatever the recipe says.
    ``casts``: it gives cast values, whatever it reads.
    ``leaves_out``: it may give less than its operation does, where nothing reads the rest.
    ``holds_constants``: it has numbers of its own for every output channel, which could take in a factor or an addend that follows.
    """

    moves_only: bool
    keeps_grid: bool
    reads_uncast: bool
    ends_chain: bool = False
    aligns: bool = False
    named_by_source: bool = False
    called_again: Literal["new", "shared"] = "new"
    one_point: bool = False
    casts: bool = False
    leaves_out: bool = False
    holds_constants: bool = False


class FixedLayer(nn.Module):
    """A fixed-point layer: what it computes on a ``QTensor`` (``forward``), and what exporter, tracer and passes ask of it.

    Every concrete class has ``traits``, a ``forward`` and a method for each abstract one, of its own or from a base between; one without is a
    TypeError when the class is made. A base that leaves some to its subclasses says ``abstract=True``, and may add more by ``abstractmethod``.
    """

    traits: ClassVar[Traits]

    name = ""
    """The layer's place in the network, for errors."""

    float_tensors: tuple[str, ...] = ()
    """The parameters and buffers of the float model, by their dotted names, that went into the layer's constants: a float checkpoint has them."""

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        missing = [] if abstract else unanswered(cls, FixedLayer)
        if not abstract and cls.forward is nn.Module.forward:
            missing.append("forward")
        if missing:
            raise TypeError(f"{cls.__name__} does not define {', '.join(missing)}, as every fixed-point layer must")

    @abstractmethod
    def operators(self) -> Steps:
        """The operators of the graph that the layer is, with the constants that it computes with now."""

    @abstractmethod
    def distribution(self, sources: Sequence[Clipped]) -> Clipped:
        """What the layer gives, channel by channel, if it reads ``sources``; rounding is left out."""

    @abstractmethod
    def scales_channels(self, channels: int) -> bool:
        """Whether the layer works on each of ``channels`` channels alone, and commutes with a positive factor for each."""

    def restart(self, values: Iterable[QTensor], arguments: Callable[[], tuple[QTensor, ...]]) -> None:
        """Start the binary points anew. ``values``: what the layer reads first, batch by batch, as often as wanted. ``arguments``: all that it reads
        of one batch, which is enough where the data only bound what constants meet. For layers that can be started: those with an
        ``initialize``."""
        initialize: Any = self.initialize
        initialize(*arguments())

    def multiplied(self, bits: Sequence[Tensor], own: Own) -> Tensor | None:
        """Of the layer's multiplications, the word lengths of both factors multiplied, summed in whatever shape; None if it multiplies nothing.

        ``bits``: the word length of each number that it reads, of one sample (a batch of 1). Differentiable by them and by what ``own`` gives.
        """
        return None

    def bits_added(self, recipe: Recipe) -> int:
        """By how many bits an operand that is not cast may grow here."""
        return 1

    def questions(self, arguments: Sequence[Any]) -> Iterable[Question]:
        """What the host has to be told of numbers on a GPU for the next forward: see ``qfx.nn.casts.told``. ``arguments``: of the layer in the model,
        those that layers give as these, tensors as they are. What is not asked here the forward has to look up, and waits."""
        return ()


_ANY = Interval(-(1 << 20), 1 << 20, 0)


def moved(layer: nn.Module, bits: Sequence[Tensor]) -> Tensor:
    """Where a layer that only moves numbers puts their word lengths."""
    result: QTensor = layer(*(QTensor(lengths, _ANY) for lengths in bits))
    return result.tensor()


def constant(values: Tensor, where: str, grids: tuple[int, ...] | None = None) -> Const:
    """Exact fixed-point values as a constant of the graph; ``grids``: the binary point of each index of axis 0, where it has its own."""
    try:
        return Const.of(values.detach().cpu().numpy(), grids)
    except DataError as error:
        raise DataError(error.what, where=where, remedy=error.remedy) from None
