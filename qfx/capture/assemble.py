"""Building a float module out of a graph read from a file: the layers that qfx quantizes, under readable paths."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qfx.capture.any_names import RESERVED, AnyNameModule
from qfx.capture.batch.joining import moves_batch
from qfx.capture.refusals.blockers import blockers
from qfx.capture.trace import capture
from qfx.errors import QfxError, UnsupportedError, together
from qfx.ptq.floating.fold import along_outputs
from qfx.recipe import Recipe

Pads = Sequence[tuple[int, int]]
"""(before, after) for each spatial axis."""

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Any] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_AFFINE = (nn.Linear, *_CONV.values(), *_TRANSPOSED.values(), nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ZERO_PAD: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d}


_STAND_IN = "as_strided"
"""The tensor method that makes a stand-in: one that reads the input, gives any shape, and that nothing takes apart."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph under construction: its node, its data on the example, and the layer with weights that it comes straight from."""

    node: fx.Node
    data: Tensor
    layer: nn.Module | None = None

    @property
    def rank(self) -> int:
        """Its spatial axes."""
        return self.data.dim() - 2


class Blockers:
    """Gathers what is refused while a graph is read, so that the whole of it is told at once."""

    def __init__(self) -> None:
        self.found: list[UnsupportedError] = []
        self._blind = False  # something behind a blocker could not be looked at

    @contextlib.contextmanager
    def at(self, stand_in: Callable[[], bool]) -> Iterator[None]:
        """Note a refusal, and let ``stand_in`` give the operation's result a shape; it returns whether it could. Behind a blocker, what does not
        run says nothing of the model."""
        try:
            yield
        except UnsupportedError as error:
            consequence = bool(self.found) and isinstance(error, DoesNotRunError)
            if not consequence:
                self.found.append(error)
            self._blind = not stand_in() or self._blind
        except Exception:
            if not self.found:
                raise
            stand_in()
            self._blind = True

    def check(self, assembly: Assembly, where: str) -> None:
        """Raise one UnsupportedError for all that was refused, if anything was, and for what ``quantize`` would refuse in the rest."""
        if self.found:
            more = "then try again: operations behind these could not be looked at" if self._blind else ""
            raise together([*self.found, *assembly.refused()], where=where, more=more)


class DoesNotRunError(UnsupportedError):
    """An operation that torch does not carry out on the example."""


class Assembly:
    """Adds one operation after the other, running each on ``example`` (batch first), so that every shape is known.

    ``name`` in its methods is a dotted path, made unique. All of them raise UnsupportedError with that name for what qfx has no layer for.
    """

    root: nn.Module
    graph: fx.Graph
    literal: bool
    inputs: dict[str, Value]
    input: Value

    def __init__(self, example: Tensor | Mapping[str, Tensor], *, literal: bool = False) -> None:
        """``example``: the one input, or several by the names of the module's arguments. ``literal``: write sizes as they are on the example; another
        assembly, on another batch, tells which of them follow it (``qfx.capture.batch.joining``)."""
        self.root, self.graph, self.literal = nn.Module(), fx.Graph(), literal
        self._odd: set[fx.Node] = set()  # where the batch may have left the first axis
        examples = {"x": example} if isinstance(example, Tensor) else example
        self.inputs = {name: Value(self.graph.placeholder(name), data) for name, data in examples.items()}
        self.input = next(iter(self.inputs.values()))
        self._leaves: set[str] = set()
        self._sliced: dict[fx.Node, tuple[Value, list[slice]]] = {}
        self._values = {value.node: value for value in self.inputs.values()}

    def finish(self, result: Value | Mapping[str, Value], name: str) -> fx.GraphModule:
        """The module; it returns a tensor, or a dict of them by name."""
        self.graph.output(result.node if isinstance(result, Value) else {key: value.node for key, value in result.items()})
        module = AnyNameModule(self.root, self.graph, class_name=re.sub(r"\W", "_", name) or "Model").eval()
        module.graph.eliminate_dead_code()
        module.recompile()
        return module

    def stand_in(self, shape: tuple[int, ...]) -> Value:
        """A value, one number everywhere, for one that cannot be made: the graph is of no use from then on, but to find what else is refused."""
        sizes = self.graph.call_function(getattr, (self.input.node, "shape"))
        batch = self.graph.call_function(operator.getitem, (sizes, 0))
        return Value(self.graph.call_method(_STAND_IN, (self.input.node, (batch, *shape[1:]), (0,) * len(shape))), torch.zeros(shape))

    def refused(self) -> tuple[UnsupportedError, ...]:
        """What ``quantize`` would refuse in the operations that were added. To be called when the graph is of no further use."""
        self.graph.output(list(self.graph.nodes)[-1])
        try:
            found = blockers(capture(AnyNameModule(self.root, self.graph).eval(), self._example()), Recipe())
        except QfxError:
            return ()
        return tuple(error for error in found if not error.where.startswith(_STAND_IN) and error.where != "output")

    def _example(self) -> Any:
        return self.input.data if len(self.inputs) == 1 else {name: value.data for name, value in self.inputs.items()}

    def constant(self, name: str, value: Tensor) -> Value:
        """Numbers that the module holds: a parameter if they are floating-point and finite, else a buffer."""
        holder, leaf = nn.Module(), "value"
        if value.is_floating_point() and bool(torch.isfinite(value).all()):
            holder.register_parameter(leaf, nn.Parameter(value.clone()))
        else:
            holder.register_buffer(leaf, value.clone())
        return self._kept(Value(self.graph.get_attr(f"{self._attach(name, holder)}.{leaf}"), value))

    def batch(self) -> Value:
        """The number of samples that the module is called with."""
        sizes = self.graph.call_function(getattr, (self.input.node, "shape"))
        return Value(self.graph.call_function(operator.getitem, (sizes, 0)), self.input.data.shape[0])  # type: ignore[arg-type]

    def absorbed(self, x: Value, scale: Tensor | None, shift: Tensor | None) -> Value | None:
        """``x * scale + shift`` in the weights of the layer that gives ``x``, which nothing else may read; None if the constants are not one number,
        or one for each output of that layer."""
        axis = x.data.dim() - 1 if isinstance(x.layer, nn.Linear) else 1
        shape = [1] * x.data.dim()
        shape[axis] = x.data.shape[axis]
        rows: list[Tensor | None] = []
        for constant in (scale, shift):
            aligned = None if constant is None else constant.float()[(None,) * (x.data.dim() - constant.dim())]
            if aligned is not None and (aligned.dim() != x.data.dim() or tuple(aligned.shape) not in (tuple(shape), (1,) * x.data.dim())):
                return None
            rows.append(None if aligned is None else aligned.expand(shape))
        if x.layer is None:
            return None
        factors, offsets = rows
        with torch.no_grad():
            _absorb(x.layer, *(None if row is None else row.reshape(-1).clone() for row in rows))
            data = x.data if factors is None else x.data * factors
            return self._kept(Value(x.node, data if offsets is None else data + offsets, x.layer))

    def state(self, name: str, value: Tensor) -> Value:
        """The first state of recurrent layers (layers and directions, samples, features), a constant that is the same for every sample."""
        if not torch.equal(value, value[:, :1].expand_as(value)):
            what = "has a first state that is another for each sample"
            raise UnsupportedError(what, where=name, remedy="let it be the same for all, or compute it from the input")
        node = self.graph.call_method("expand", (self.constant(f"{name}_state", value[:, :1]).node, -1, self.batch().node, -1))
        return self._kept(Value(node, value[:, :1].expand(-1, len(self.input.data), -1)))

    def unflattened(self, flat: fx.Node) -> Value | None:
        """What a reshape made one line of, if it has the batch and one axis more."""
        source = self._values.get(flat.args[0]) if flat.target is torch.reshape else None  # type: ignore[arg-type]
        return source if source is not None and source.data.dim() == 2 else None

    def value_of(self, node: fx.Node) -> Value:
        """The value that a node of the graph gives."""
        return self._values[node]

    def _kept(self, value: Value) -> Value:
        self._values[value.node] = value
        return value

    def layer(self, name: str, module: nn.Module, x: Value, *more: Any) -> Value:
        """Call ``module``, placed at ``name``; ``more``: further arguments, Values or tuples of them."""
        module.eval().requires_grad_(True)
        path = self._attach(name, module)
        nodes, data = (_each((x, *more), take) for take in (lambda value: value.node, lambda value: value.data))
        with torch.no_grad():
            data = self._tried(name, module, *data)
        node = self._look(self.graph.call_module(path, nodes), data)
        return self._kept(Value(node, data, module if isinstance(module, _AFFINE) else None))

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of torch; Values among the arguments stand for their tensors. A list of Values for one that gives several."""
        nodes, data = (_each([args, kwargs], take) for take in (lambda value: value.node, lambda value: value.data))
        result = self._tried(name, function, *data[0], **data[1])
        node = self._look(self.graph.call_function(function, tuple(nodes[0]), nodes[1]), result)
        if moves_batch(function, data[0], data[1]):
            self._odd.add(node)
        if isinstance(result, Tensor):
            return self._kept(Value(node, result))
        return [Value(self._look(self.graph.call_function(operator.getitem, (node, place)), part), part) for place, part in enumerate(result)]

    def conv(
        self, name: str, x: Value, weight: Tensor, bias: Tensor | None, stride: Sequence[int], pads: Pads, dilation: Sequence[int], groups: int
    ) -> Value:
        if x.rank not in _CONV or weight.dim() != x.data.dim():
            raise UnsupportedError(f"convolution over {x.rank} axes", where=name, remedy="use Conv1d, Conv2d or Conv3d")
        x, padding = self._padded(name, x, pads)
        module = _CONV[x.rank](
            weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), tuple(stride), padding, tuple(dilation), groups, bias is not None
        )
        return self.layer(name, _filled(module, weight, bias), x)

    def conv_transpose(
        self,
        name: str,
        x: Value,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        pads: Pads,
        output_padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Value:
        if x.rank not in _TRANSPOSED or any(before != after for before, after in pads):
            raise UnsupportedError("a transposed convolution over more than 3 axes, or with unequal pads", where=name, remedy="pad both sides alike")
        module = _TRANSPOSED[x.rank](
            weight.shape[0],
            weight.shape[1] * groups,
            tuple(weight.shape[2:]),
            tuple(stride),
            tuple(before for before, _ in pads),
            tuple(output_padding),
            groups,
            bias is not None,
            tuple(dilation),
        )
        return self.layer(name, _filled(module, weight, bias), x)

    def linear(self, name: str, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
        """``weight`` (outputs, inputs)."""
        if weight.dim() != 2:
            raise UnsupportedError(f"a product with a constant of {weight.dim()} axes", where=name, remedy="use a matrix (nn.Linear)")
        return self.layer(name, _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight, bias), x)

    def batch_norm(self, name: str, x: Value, scale: Tensor | None, shift: Tensor | None, mean: Tensor, var: Tensor, eps: float) -> Value:
        if x.rank not in _NORM:
            raise UnsupportedError(f"BatchNorm over {x.rank} axes", where=name, remedy="use BatchNorm1d, BatchNorm2d or BatchNorm3d")
        module = _NORM[x.rank](len(mean), eps=eps, dtype=mean.dtype)
        with torch.no_grad():
            module.running_mean.copy_(mean)
            module.running_var.copy_(var)
            module.num_batches_tracked.fill_(1)  # its statistics are real
            for parameter, values in ((module.weight, scale), (module.bias, shift)):
                if values is not None:
                    parameter.copy_(values)
        return self.layer(name, module, x)

    def affine(self, name: str, x: Value, scale: Tensor | None, shift: Tensor | None, *, alone: bool) -> Value:
        """``x * scale + shift`` by constants: one number, or one for each channel. Joins the weights of the layer that gives ``x`` if nothing else
        reads that (``alone``); else it becomes a BatchNorm, qfx's affine step."""
        channels = x.data.shape[1]
        factors = None if scale is None else _per_channel(name, scale, x.data)
        offsets = None if shift is None else _per_channel(name, shift, x.data)
        if alone and x.layer is not None:
            with torch.no_grad():
                _absorb(x.layer, factors, offsets)
                data = x.data if factors is None else x.data * factors.reshape(-1, *(1,) * x.rank)
                data = data if offsets is None else data + offsets.reshape(-1, *(1,) * x.rank)
            return Value(x.node, data, x.layer)
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        return self.batch_norm(name, x, ones if factors is None else factors, zeros if offsets is None else offsets, zeros, ones, 0.0)

    def pad(self, name: str, x: Value, pads: Pads) -> Value:
        if not any(side for pair in pads for side in pair):
            return x
        if any(side < 0 for pair in pads for side in pair):
            raise UnsupportedError(f"padding by {list(pads)}", where=name, remedy="pad spatial axes with zeros")
        flat = tuple(side for pair in reversed(pads) for side in pair)
        return self.layer(name, _ZERO_PAD[x.rank](flat), x) if x.rank in _ZERO_PAD else self.call(name, functional.pad, x, flat)

    def reshape(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """To ``shape`` on the example, the batch first; of other batches all but the first axis."""
        data = self._tried(name, torch.reshape, x.data, tuple(shape))
        if self.literal:
            as_is: Value = self.call(name, torch.reshape, x, tuple(data.shape))
            return as_is
        if data.shape[0] != x.data.shape[0]:
            self._odd.add(x.node)
            raise UnsupportedError(f"reshapes {tuple(x.data.shape)} to {tuple(data.shape)}", where=name, remedy="keep the batch as the first axis")
        if data.shape == x.data.shape:
            return x
        if data.dim() == 2:
            return self.layer(name, nn.Flatten(), x)
        found: Value = self.call(name, torch.reshape, x, (-1, *data.shape[1:]))
        return found

    def slice(self, name: str, x: Value, axis: int, start: int, stop: int, step: int) -> Value:
        axis %= x.data.dim()
        start, stop, step = slice(start, stop, step).indices(x.data.shape[axis])
        if (start, stop, step) == (0, x.data.shape[axis], 1):
            return x
        if axis == 0 and not self.literal:
            raise UnsupportedError("takes a part of the batch", where=name, remedy="take the whole batch")
        index = [slice(None)] * x.data.dim()
        index[axis] = slice(start, stop, step)
        source = self._sliced.get(x.node)
        if source is not None and source[1][axis] == slice(None):  # one operation for several axes
            index = [own if own != slice(None) else mine for own, mine in zip(source[1], index, strict=True)]
            x = source[0]
        while index[-1] == slice(None):
            index.pop()
        result: Value = self.call(name, operator.getitem, x, tuple(index))
        self._sliced[result.node] = x, index + [slice(None)] * (x.data.dim() - len(index))
        return result

    def _look(self, node: fx.Node, result: Any) -> fx.Node:
        """Note a tensor whose first axis is not the batch."""
        if isinstance(result, Tensor) and (result.dim() == 0 or result.shape[0] != self.input.data.shape[0]):
            self._odd.add(node)
        return node

    @property
    def feeds(self) -> dict[str, Tensor]:
        """The example, by the names of the module's arguments."""
        return {name: value.data for name, value in self.inputs.items()}

    def is_odd(self) -> bool:
        """Whether in what is left of the graph the batch may lie on another axis than the first."""
        return any(node in self._odd for node in self.graph.nodes)

    def _padded(self, name: str, x: Value, pads: Pads) -> tuple[Value, tuple[int, ...]]:
        """Unequal pads become a layer of their own."""
        if all(before == after for before, after in pads):
            return x, tuple(before for before, _ in pads)
        return self.pad(f"{name}_pad", x, pads), (0,) * len(pads)

    def _tried(self, name: str, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        try:
            with torch.no_grad():
                return function(*args, **kwargs)
        except Exception as error:  # whatever torch raises on shapes that do not fit
            message = str(error).split("\n")[0]
            remedy = "check the shape of the data, and that the file tells its inputs' shapes as they are"
            raise DoesNotRunError(f"does not run on the data: {message}", where=name, remedy=remedy) from error

    def _attach(self, name: str, module: nn.Module) -> str:
        """Place the module at ``name``, or at one beside it that is free; return where it is."""
        parts = [re.sub(r"\W", "_", part) or "_" for part in name.split(".") if part] or ["layer"]
        parts[0] = f"{parts[0]}_" if parts[0] in RESERVED else parts[0]
        holder: nn.Module = self.root
        for depth, part in enumerate(parts[:-1]):
            child = getattr(holder, part, None)
            if child is None:
                child = nn.Module()
                holder.add_module(part, child)
            if ".".join(parts[: depth + 1]) in self._leaves or not isinstance(child, nn.Module):
                return self._attach("_".join(parts), module)
            holder = child
        leaf, count = parts[-1], 1
        while hasattr(holder, leaf):
            leaf, count = f"{parts[-1]}_{count}", count + 1
        holder.add_module(leaf, module)
        path = ".".join([*parts[:-1], leaf])
        self._leaves.add(path)
        return path


def _each(arguments: Any, take: Callable[[Value], Any]) -> Any:
    if isinstance(arguments, Value):
        return take(arguments)
    if isinstance(arguments, dict):
        return {key: _each(part, take) for key, part in arguments.items()}
    return type(arguments)(_each(part, take) for part in arguments) if isinstance(arguments, list | tuple) else arguments


def _filled(module: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module.to(weight.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(bias.reshape(-1))
    found: nn.Module = module
    return found


def _per_channel(name: str, constant: Tensor, x: Tensor) -> Tensor:
    """A constant that broadcasts against ``x`` as one number per channel."""
    aligned = constant.float().reshape((1,) * (x.dim() - constant.dim()) + tuple(constant.shape)) if constant.dim() <= x.dim() else constant
    if aligned.dim() != x.dim() or any(size != 1 for axis, size in enumerate(aligned.shape) if axis != 1) or aligned.shape[1] not in (1, x.shape[1]):
        raise UnsupportedError(
            f"arithmetic with a constant of shape {tuple(constant.shape)} on a value of shape {tuple(x.shape)}",
            where=name,
            remedy="use one number, or one for each channel",
        )
    return aligned.reshape(-1).expand(x.shape[1]).clone()


def _absorb(layer: Any, factors: Tensor | None, offsets: Tensor | None) -> None:
    """Let the layer compute ``y * factors + offsets`` in place of ``y``."""
    if factors is not None:
        norm = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        layer.weight.copy_(layer.weight * (factors if norm else along_outputs(layer, factors)))
        if layer.bias is not None:
            layer.bias.copy_(layer.bias * factors)
    if offsets is not None:
        layer.bias = nn.Parameter(offsets if layer.bias is None else layer.bias + offsets)
