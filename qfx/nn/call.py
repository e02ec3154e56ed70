"""One operation of a float model as its rule sees it, and what rules give: fixed-point layers in a chain, or in a small graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from qfx.capture.refusals import limits
from qfx.capture.traced import Traced
from qfx.errors import UnsupportedError
from qfx.nn.fixed_layer import FixedLayer
from qfx.recipe import Recipe


@dataclass(frozen=True)
class Call:
    """One operation of the float graph, ready for its rule: where it stands, its arguments by name, and what it reads and gives. ``first``: the path
    of the same operation in the first call of its module, where this is a later one."""

    node: fx.Node
    path: str
    traced: Traced
    recipe: Recipe
    module: nn.Module | None
    name: str
    arguments: dict[str, Any]
    first: str = ""

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.traced.shapes[self.inputs[0]]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.traced.shapes[self.node]

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes read, in order."""
        return nodes_of(tuple(self.arguments.values()))

    @property
    def values(self) -> tuple[fx.Node, ...]:
        """Those of ``inputs`` that are computed from the model's: what parts count as their sources."""
        return tuple(node for node in self.inputs if node in self.traced.shapes)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the module, or an argument of the function."""
        value = getattr(self.module, name, default) if self.module is not None else self.arguments.get(name, default)
        return default if value is None else value

    def sizes(self, name: str, default: Any, rank: int) -> tuple[int, ...]:
        """An argument that is one number, or one for each spatial axis."""
        value = self.get(name, default)
        sizes = (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)
        return sizes * rank if len(sizes) == 1 else sizes

    def spatial_rank(self) -> int:
        """The spatial axes that the operation works on, from its name. Refuses a value of others: PyTorch would take its batch for channels."""
        rank = int(self.name[-2])
        if len(self.in_shape) != rank + 1:
            axes = {1: "length", 2: "height, width"}.get(rank, "depth, height, width")
            raise self.refuse(f"{self.name} on a value of shape {self.in_shape}", f"give it (batch, channels, {axes})")
        return rank

    def refuse(self, what: str, remedy: str) -> UnsupportedError:
        return UnsupportedError(what, where=self.path or self.node.name, remedy=remedy)


def nodes_of(argument: Any) -> tuple[fx.Node, ...]:
    if isinstance(argument, fx.Node):
        return (argument,)
    return tuple(node for part in argument for node in nodes_of(part)) if isinstance(argument, tuple | list) else ()


@dataclass(frozen=True, eq=False)
class Part:
    """One layer of the small graph that an operation becomes. ``sources``: what it reads: the call's inputs by their position, and earlier parts.
    ``suffix``: what is added to the operation's path for the layer's; the part that does the operation's work has none."""

    layer: FixedLayer
    sources: tuple[int | Part, ...]
    suffix: str = ""


Layers = Sequence[FixedLayer] | Sequence[Part]
"""What a rule gives: layers, the first of which reads the call's inputs and every other the one before; or parts. Nothing: the input itself."""
Rule = Callable[[Call], Layers]


def parts_of(layers: Layers, inputs: int) -> tuple[Part, ...]:
    """What a rule gave for a call of so many inputs, as parts. Raises ValueError for a part that reads what is not there."""
    parts: list[Part] = []
    found: Sequence[FixedLayer | Part] = layers
    for index, layer in enumerate(found):
        if isinstance(layer, Part):
            parts.append(layer)
        else:
            parts.append(Part(layer, tuple(range(inputs)) if index == 0 else (parts[-1],), f"_{index}" if index else ""))
    for index, part in enumerate(parts):
        if not all(0 <= source < inputs if isinstance(source, int) else source in parts[:index] for source in part.sources):
            raise ValueError(f"part {index}, a {type(part.layer).__name__}, reads what is neither an input nor an earlier part")
    return tuple(parts)


@dataclass(frozen=True)
class Family:
    """What one file of ``qfx/nn/layers`` brings: its fixed-point ``layers``, and the torch ``modules`` (by the class whose forward runs),
    ``functions`` and ``methods`` that become them: the names of the arguments (a star gathers the rest) and the rule. ``takes_constants``: its
    rules have words of their own for operands that are not computed from the input. ``elementwise``: whether its operations work number by number,
    with operands repeated as torch does: whatever the axes are. ``moving``: whether a call with such arguments (by name, or attributes of the
    module) only moves values, where that is not the same for all. ``multiplies``: its calls that read one value and constants are sums of products by
    these."""

    layers: tuple[type[FixedLayer], ...] = ()
    modules: Mapping[type[nn.Module], Rule] = field(default_factory=dict)
    functions: Mapping[Callable[..., Any], tuple[str, Rule]] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, Rule]] = field(default_factory=dict)
    takes_constants: bool = False
    elementwise: bool = False
    multiplies: bool = False
    moving: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def rules(self) -> frozenset[Rule]:
        named = (*self.functions.values(), *self.methods.values())
        return frozenset((*self.modules.values(), *(rule for _, rule in named)))

    @property
    def moves_only(self) -> bool:
        """Whether all that its rules give passes values on as they are (zeros may join them)."""
        return all(layer.traits.moves_only for layer in self.layers)


def name_of(node: fx.Node) -> str:
    """What a node is called in messages: a parameter or buffer by its own name."""
    return str(node.target) if node.op == "get_attr" else node.name


def tensors_of(node: fx.Node, traced: Traced) -> tuple[str, ...]:
    """The parameters and buffers that an operation reads, itself or by what is computed of them alone."""
    found: dict[str, None] = {}
    for source in node.all_input_nodes:
        if source in traced.fixed:
            found.update(dict.fromkeys([str(source.target)] if source.op == "get_attr" else tensors_of(source, traced)))
    return tuple(found)


Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Kernel, stride, padding and dilation of pooling, one number for each spatial axis."""


def pool_window(call: Call) -> Window:
    """The window of a pooling operation. Refuses one that sticks out at the end (``ceil_mode``)."""
    rank = call.spatial_rank()
    kernel = call.sizes("kernel_size", None, rank)
    stride, padding = call.sizes("stride", kernel, rank) or kernel, call.sizes("padding", 0, rank)
    dilation = call.sizes("dilation", 1, rank)
    floor = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in zip(call.in_shape[1:], kernel, stride, padding, dilation, strict=True)
    )
    if floor != call.out_shape[1:]:
        axes = zip(call.in_shape[1:], call.out_shape[1:], kernel, stride, padding, dilation, strict=True)
        remedy = limits.whole_windows(list(axes), "max" in call.name.lower())
        raise call.refuse("ceil_mode with a partial last window", remedy)
    return kernel, stride, padding, dilation
