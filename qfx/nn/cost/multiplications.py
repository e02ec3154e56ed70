"""What a network multiplies, and how many bits it takes: effective bit operations, as a differentiable function of the word lengths."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from qfx.export.to_graph import refuse_off
from qfx.fixed.arith import Channels
from qfx.nn.fixed_layer import FixedLayer, moved
from qfx.nn.layers import QInput
from qfx.nn.model import QuantizedModel, graph_module
from qfx.nn.qtensor import QTensor
from qfx.nn.quantizer import Quantizer


@dataclass(frozen=True, eq=False)
class _Place:
    """A node of the network: its layer, the nodes that it reads, the shape of its result (a batch of 1), and the word length of each number where no
    Cast gives it."""

    node: fx.Node
    layer: FixedLayer
    sources: tuple[fx.Node, ...]
    shape: torch.Size
    widths: Tensor


class Multiplications:
    """The multiplications of a quantized model, layer by layer.

    The *bit operations* of a multiplication are the product of its factors' word lengths, which is what an array multiplier has of cells (Wang et
    al., "Differentiable joint pruning and quantization", 2020; Sun et al., arXiv 2405.00645, who call them effective where zeros are left out). A
    factor of zero bits costs nothing. Zeros that pad cost nothing. Counted for one sample, all places of a window.

    What no Cast gives (sums on their way to one) has the word length of its range when the object was made, or at the last ``refresh``.

    Raises UnsupportedError while quantizers are off (``qfx.switch``): what they let pass has no word length.
    """

    model: QuantizedModel

    def __init__(self, qmodel: nn.Module) -> None:
        self.model = graph_module(qmodel)
        self.places: tuple[_Place, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Look at shapes and ranges again. The model's numbers stay as they are, in training too."""
        refuse_off(self.model)
        device = next(self.model.parameters()).device
        env: dict[fx.Node, QTensor] = {}
        places = []
        with _evaluation(self.model), torch.no_grad():
            for node in self.model.graph.nodes:
                if node.op != "call_module":
                    continue
                layer = self.model.get_submodule(str(node.target))
                sources = () if isinstance(layer, QInput) else tuple(node.all_input_nodes)
                value = layer(torch.zeros(1, *layer.shape, device=device)) if isinstance(layer, QInput) else layer(*_read(node.args, env))
                if not isinstance(layer, FixedLayer) or not isinstance(value, QTensor):
                    env[node] = value  # the statistics that a folded layer takes in
                    continue
                env[node] = value
                places.append(_Place(node, layer, tuple(s for s in sources if isinstance(env.get(s), QTensor)), value.shape, _widths(value)))
        self.places = tuple(places)

    @property
    def ranges(self) -> list[Tensor]:
        """What was seen by the last ``refresh``, to be set again when training is resumed: the word lengths of what no Cast gives, place by place."""
        return [place.widths for place in self.places]

    @ranges.setter
    def ranges(self, widths: Sequence[Tensor]) -> None:
        self.places = tuple(replace(place, widths=seen.to(place.widths)) for place, seen in zip(self.places, widths, strict=True))

    def bit_operations(self) -> dict[str, Tensor]:
        """Of each layer that multiplies, by its name, in the order of the network. Differentiable by learned word lengths."""
        return self._summed(_bits_of)

    def counts(self) -> dict[str, int]:
        """How many multiplications each of these layers has, zeros and powers of two among them."""
        with torch.no_grad():
            return {name: round(float(count)) for name, count in self._summed(_one).items()}

    def _summed(self, own: Callable[[Quantizer, torch.Size], Tensor]) -> dict[str, Tensor]:
        env: dict[fx.Node, Tensor] = {}
        found: dict[str, Tensor] = {}
        with _evaluation(self.model):
            for place in self.places:
                read = [env[source] for source in place.sources]
                products = place.layer.multiplied(read, own)
                if products is not None:
                    name = place.layer.name or str(place.node.target)
                    total = products.sum(dtype=torch.float64)
                    found[name] = found[name] + total if name in found else total
                env[place.node] = self._lengths(place, read, own)
        return found

    @staticmethod
    def _lengths(place: _Place, read: list[Tensor], own: Callable[[Quantizer, torch.Size], Tensor]) -> Tensor:
        """The word length of each number that the layer gives."""
        layer = place.layer
        if isinstance(layer, QInput):
            return own(layer.cast, place.shape)
        if isinstance(layer, Quantizer):
            return own(layer, place.shape)
        fallback = place.widths if own is _bits_of else torch.ones_like(place.widths)
        if not layer.traits.keeps_grid or layer.traits.casts or not read:
            return fallback.expand(place.shape)
        if len(read) == 1 and read[0].shape == place.shape and not layer.traits.moves_only:
            return read[0]
        if not layer.traits.moves_only and len(read) > 1:
            return torch.stack([bits.expand(place.shape) for bits in read]).amax(0) if _alike(read, place.shape) else fallback.expand(place.shape)
        return moved(layer, read).clamp(min=0.0 if own is _bits_of else 1.0)


def _alike(read: list[Tensor], shape: torch.Size) -> bool:
    return all(bits.shape == shape for bits in read)


def _bits_of(quantizer: Quantizer, shape: torch.Size) -> Tensor:
    return quantizer.bits().expand(shape)


def _one(quantizer: Quantizer, shape: torch.Size) -> Tensor:
    return torch.ones(shape, device=quantizer.frac_bits.device)


def _widths(value: QTensor) -> Tensor:
    """The word length of each channel's range, to be expanded to the value's shape."""
    bounds = value.interval
    device = value.value.device
    if isinstance(bounds, Channels) and value.value.dim() > 1 and len(bounds.channels) == value.shape[1]:
        widths = torch.tensor([float(channel.width) for channel in bounds.channels], device=device)
        return widths.reshape(1, -1, *([1] * (value.value.dim() - 2)))
    return torch.full((1,) * value.value.dim(), float(bounds.width), device=device)


def _read(args: object, env: dict[fx.Node, QTensor]) -> list[QTensor]:
    return [env[arg] for arg in args if isinstance(arg, fx.Node)] if isinstance(args, tuple) else []


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """In this context no statistics move."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
