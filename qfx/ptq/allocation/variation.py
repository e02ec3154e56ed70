"""How one quantizer is varied while the rest of the network computes in float: it is put into the float reference, at several word lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from qfx.errors import RecipeError
from qfx.fixed.arith import Interval
from qfx.nn.accumulator import Accumulating
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer
from qfx.ptq.activations import ActivationCache, Env, run_node
from qfx.ptq.allocation.sites import Site
from qfx.ptq.float_reference import PassThrough


@dataclass(frozen=True, eq=False)
class Variation:
    """A site in the float reference, and the batches carried to where it is next to run (those of the input's cast start from the data)."""

    reference: fx.GraphModule
    site: Site
    batches: list[Tensor]
    cache: ActivationCache

    @classmethod
    def at(cls, site: Site, batches: list[Tensor], cache: ActivationCache) -> Variation:
        """``cache``: of the reference alone and of these batches, not yet beyond the site; it is carried there."""
        cache.advance_to(next(node for node in cache.nodes[0] if node.name == site.node))
        return cls(cache.models[0], site, batches, cache)

    @property
    def numbers(self) -> int:
        """How many numbers the site casts: all weights of a layer, or one sample's activations."""
        first = next(self._values())
        return first.numel() if self.site.role == "weight" else first[0].numel()

    def casts(self, widths: Iterable[int]) -> list[Quantizer]:
        """The quantizer at every word length, its binary points placed from the float values that it meets. Raises RecipeError, naming it, for a word
        too short for its digits."""
        old, made = self.site.quantizer, []
        for width in widths:
            try:
                spec = replace(old.spec, width=width, learn_width=False)
            except RecipeError as error:
                raise RecipeError(error.what, where=old.name, remedy="try longer words alone, or give it fewer digits") from None
            kind = Accumulating if isinstance(old, Accumulating) else Quantizer
            cast = kind(spec, signed=old.signed, channel_axis=old.channel_axis, name=old.name)
            if isinstance(old, Accumulating) and isinstance(cast, Accumulating):
                cast.met = old.met
            cast.initialize_from(_Again(self._values))
            made.append(cast.to(dtype=old.frac_bits.dtype))
        return made

    def output(self, cast: Quantizer) -> Tensor:
        """The reference's output on all data with this site cast."""
        with intercepted(self.reference, self.site, lambda x: cast(x).value.to(x.dtype)):
            return torch.cat([self._run(index) for index in range(len(self.batches))])

    def _values(self) -> Iterator[Tensor]:
        """What the site meets in every batch; weights once."""
        for index in range(1 if self.site.role == "weight" else len(self.batches)):
            caught: list[Tensor] = []
            with intercepted(self.reference, self.site, _catcher(caught)):
                self._run(index, only_site=True)
            yield caught[0]

    def _run(self, index: int, only_site: bool = False) -> Tensor:
        if self.site.role == "input":
            whole: Tensor = self.reference(self.batches[index])
            return whole
        nodes = self.cache.nodes[0]
        env: Env = dict(self.cache.alive(0, index))
        for node in nodes[self.cache.position :]:
            if node.op == "output":
                break
            run_node(self.reference, node, env)
            if only_site:
                break
        result: Tensor = torch.empty(0) if only_site else env[str(nodes[-1].args[0])]
        return result


@dataclass(frozen=True, eq=False)
class _Again:
    """Values that can be gone through as often as wanted."""

    start: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.start()


def _catcher(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def see(x: Tensor) -> Tensor:
        into.append(x)
        return x

    return see


@contextmanager
def intercepted(reference: fx.GraphModule, site: Site, see: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In this context what the site would cast goes to ``see``, and its answer goes on."""
    parent, _, name = site.path.rpartition(".")
    holder = reference.get_submodule(parent)
    through = getattr(holder, name)
    setattr(holder, name, _Intercept(through, see))
    try:
        yield
    finally:
        setattr(holder, name, through)


@contextmanager
def watched(reference: fx.GraphModule, sites: list[Site]) -> Iterator[dict[str, Tensor]]:
    """In this context whatever a site meets is a variable that gradients are known of; the dictionary holds them by the quantizer's name."""
    variables: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def see(x: Tensor) -> Tensor:
            variables[name] = x if x.requires_grad else x.detach().requires_grad_(True)
            return variables[name]

        return see

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(intercepted(reference, site, watch(site.name)))
        yield variables


class _Intercept(nn.Module):
    """Stands where a quantizer stood: lets everything pass, but shows it to ``see`` first."""

    def __init__(self, through: PassThrough, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.through, self.see, self.frac_bits = through, see, through.frac_bits

    def forward(self, x: QTensor | Tensor) -> QTensor:
        seen: QTensor = self.through(self.see(x if isinstance(x, Tensor) else x.tensor()))
        return seen

    def with_another(self, x: Tensor, other: PassThrough, y: Tensor) -> tuple[QTensor, QTensor]:
        return self(x), other(y)

    def interval(self) -> Interval:
        return self.through.interval()
