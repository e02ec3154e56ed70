"""``Computed``: a weight or a constant that a float model computes of its parameters and buffers, computed anew whenever it is read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qfx.capture.traced import KEPT, Traced
from qfx.errors import QfxError, UnsupportedError


class Slot(NamedTuple):
    """Stands in the arguments of a ``Step`` for a value: by its place among the leaves, then the constants, then what the steps before give."""

    place: int


@dataclass(frozen=True, eq=False)
class Step:
    """A call of a function of torch, or of a tensor's method by its name."""

    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, values: Sequence[Any]) -> Any:
        args, kwargs = _mapped(self.args, values.__getitem__), _mapped(self.kwargs, values.__getitem__)
        return getattr(args[0], self.target)(*args[1:], **kwargs) if isinstance(self.target, str) else self.target(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A parameter or buffer by the dotted ``names`` under which float checkpoints have it; the first is where it is read. ``holder``: the module that
    has it, as the last part of that name."""

    names: tuple[str, ...]
    holder: nn.Module | None

    @property
    def own(self) -> str:
        return self.names[0].rpartition(".")[2]

    def tensor(self) -> Tensor:
        found = getattr(self.holder, self.own, None)
        if not isinstance(found, Tensor):
            raise QfxError("is read outside of the quantized model that has it", where=self.names[0], remedy="copy or pickle the whole model")
        return found


class Computed(nn.Module):
    """What is computed of parameters and buffers, in float, by torch's operations and with their gradients: the same in training and evaluation.

    The parameters stand in the quantized model under the names that the user gave them, and are read there (``settle``). ``steps``: what is done,
    the last gives the result; none: the one leaf itself. ``constants``: tensors that the float model's checkpoints do not have.
    """

    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]

    def __init__(self, leaves: Sequence[Leaf], constants: Sequence[Tensor] = (), steps: Sequence[Step] = ()) -> None:
        super().__init__()
        self.leaves, self.steps = tuple(leaves), tuple(steps)
        self._constants = tuple(f"constant_{place}" for place in range(len(constants)))
        self._writes = any(isinstance(step.target, str) and step.target.endswith("_") for step in self.steps)
        for name, tensor in zip(self._constants, constants, strict=True):
            self.register_buffer(name, tensor.detach().clone(), persistent=False)

    @property
    def trained(self) -> bool:
        """Whether parameters go into it, not buffers alone."""
        return any(isinstance(tensor, nn.Parameter) for tensor in self.tensors_read())

    @property
    def itself(self) -> bool:
        """Whether it is a parameter or buffer as it stands, which may be written."""
        return not self.steps

    def forward(self) -> Tensor:
        values: list[Any] = [leaf.tensor() for leaf in self.leaves]
        if not self.steps:
            return values[0]  # type: ignore[no-any-return]
        device = values[0].device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._result(values)
        return self._result(values)

    def _result(self, values: list[Any]) -> Tensor:
        values += [tensor.clone() for tensor in self.constants()] if self._writes else self.constants()
        for step in self.steps:
            values.append(step(values))
        return values[-1]  # type: ignore[no-any-return]

    def constants(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self._constants]

    def tensors_read(self) -> Iterator[Tensor]:
        return (leaf.tensor() for leaf in self.leaves)

    def parameter(self) -> nn.Parameter:
        """A parameter of the present value, which is trained if one of those that it is computed of is."""
        return nn.Parameter(self().detach().clone(), requires_grad=any(tensor.requires_grad for tensor in self.tensors_read()))

    def settle(self, root: nn.Module) -> None:
        """Read from the modules of ``root``."""
        self.leaves = tuple(Leaf(leaf.names, _module(root, leaf.names[0].rpartition(".")[0])) for leaf in self.leaves)

    def __deepcopy__(self, memo: dict[int, Any]) -> Computed:
        """A copy that reads from the copies of the modules that are copied already, and else from where this one reads."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items() if name not in ("leaves", "steps")})
        made.steps = self.steps  # values alone
        made.leaves = tuple(Leaf(leaf.names, memo.get(id(leaf.holder), leaf.holder)) for leaf in self.leaves)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "leaves": tuple(Leaf(leaf.names, None) for leaf in self.leaves)}


def joined(target: Callable[..., Any] | str, parts: Sequence[Computed | Tensor | float]) -> Computed:
    """A function of torch, or a method, of what is computed, of constants and of numbers."""
    leaves = [leaf for part in parts if isinstance(part, Computed) for leaf in part.leaves]
    constants: list[Tensor] = []
    for part in parts:
        constants += part.constants() if isinstance(part, Computed) else [part] if isinstance(part, Tensor) else []
    steps: list[Step] = []
    results: list[Slot | float] = []
    leaf, constant = 0, len(leaves)
    for part in parts:
        if isinstance(part, float):
            results.append(part)
            continue
        if isinstance(part, Tensor):
            results.append(Slot(constant))
            constant += 1
            continue
        own = [Slot(leaf + place) for place in range(len(part.leaves))] + [Slot(constant + place) for place in range(len(part.constants()))]
        leaf, constant = leaf + len(part.leaves), constant + len(part.constants())
        for step in part.steps:
            steps.append(Step(step.target, _mapped(step.args, own.__getitem__), _mapped(step.kwargs, own.__getitem__)))
            own.append(Slot(len(leaves) + len(constants) + len(steps) - 1))
        results.append(own[-1] if part.steps else own[0])
    return Computed(leaves, constants, (*steps, Step(target, tuple(results), {})))


def settle(model: nn.Module, source: nn.Module | None = None, *, fresh: bool = False) -> None:
    """Put what the computed weights of a model read where its names say, unless it is there, and let them read from there. ``source``: a module that
    may have it already. ``fresh``: the model has just been built. Raises UnsupportedError for a name that is taken."""
    found = [part for part in model.modules() if isinstance(part, Computed)]
    for leaf in (leaf for part in found for leaf in part.leaves):
        for name in leaf.names:
            path, _, own = name.rpartition(".")
            present = getattr(_module(model, path), own, None)
            if isinstance(present, Tensor):
                if fresh and leaf.holder is not None and leaf.tensor() is not present:
                    raise _taken(name)
                continue
            tensor = None if source is None else getattr(_module(source, path), own, None)
            if not isinstance(tensor, Tensor):
                tensor = leaf.tensor()
            _put(model, name, tensor)
    for part in found:
        part.settle(model)


def _module(root: nn.Module, path: str) -> nn.Module | None:
    found: Any = root
    for name in path.split(".") if path else ():
        found = getattr(found, "_modules", {}).get(name)
    return found if isinstance(found, nn.Module) else None


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, own = name.split(".")
    holder = root
    for part in path:
        if holder._modules.get(part) is None:
            if hasattr(holder, part):
                raise _taken(name)
            holder.add_module(part, nn.Module())
        holder = holder._modules[part]  # type: ignore[assignment]
    if hasattr(holder, own):
        raise _taken(name)
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(own, tensor)
    else:
        holder.register_buffer(own, tensor)


def _taken(name: str) -> UnsupportedError:
    return UnsupportedError(f"the name {name!r} is taken", where=name, remedy="rename the parameter, or the module that has it")


def computed_of(traced: Traced, node: fx.Node) -> Computed | None:
    """What a node of ``traced.fixed`` is computed of. None where nothing goes into it that checkpoints have, or not tensors alone do: then it stays
    as it is."""
    try:
        found = _Found(traced).of(node)
    except _NotOfTensorsError:
        return None
    if found is None or found.itself:
        return found
    with torch.no_grad():
        same = torch.equal(found(), traced.fixed[node])
    return found if same else None


class _NotOfTensorsError(Exception):
    """The batch size goes into it, or a module."""


class _Found:
    """Leaves, constants and steps of a node, as they come."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.leaves: dict[fx.Node, Leaf] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.steps: list[fx.Node] = []

    def of(self, node: fx.Node) -> Computed | None:
        above = _above(node)
        ordered = [other for other in self.traced.module.graph.nodes if other in above and other not in self.traced.constants]
        live: set[fx.Node] = set()
        for other in ordered:
            if other.op == "get_attr" and other.meta.get(KEPT):
                names = other.meta[KEPT]
                self.leaves[other] = Leaf(names, _module(self.traced.module, names[0].rpartition(".")[0]))
                live.add(other)
            elif other.op != "get_attr" and any(source in live for source in other.all_input_nodes):
                live.add(other)
                self.steps.append(other)
            elif other in self.traced.fixed:
                self.constants[other] = self.traced.fixed[other]
            elif other.op in ("call_function", "call_method"):
                self.steps.append(other)
            else:
                raise _NotOfTensorsError
        if any(step.op not in ("call_function", "call_method") for step in self.steps):
            raise _NotOfTensorsError
        if not self.leaves:
            return None
        read = {source for step in self.steps for source in step.all_input_nodes}
        constants = {source: tensor for source, tensor in self.constants.items() if source in read}
        places = {source: Slot(place) for place, source in enumerate((*self.leaves, *constants, *self.steps))}
        return Computed(tuple(self.leaves.values()), tuple(constants.values()), tuple(self._step(step, places) for step in self.steps))

    def _step(self, node: fx.Node, places: dict[fx.Node, Slot]) -> Step:
        def place(source: fx.Node) -> Any:
            return places[source] if source in places else self.traced.constants[source]

        args, kwargs = fx.map_arg(node.args, place), dict(fx.map_arg(node.kwargs, place))
        step = _on_any_device(Step(node.target, _plain(args), _plain(kwargs)))
        try:
            pickle.dumps((step.target, step.args, step.kwargs))
        except Exception:  # whatever it raises: a model with it could not be saved
            raise _NotOfTensorsError from None
        return step


def _above(node: fx.Node) -> set[fx.Node]:
    found, left = {node}, [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                left.append(source)
    return found


def _on_any_device(step: Step) -> Step:
    """The step without the device of the example, everything it reads being on that of the parameters, and without an order in memory."""
    kwargs = {name: value for name, value in step.kwargs.items() if name not in ("device", "memory_format")}
    args = step.args
    if step.target in ("cpu", "cuda"):
        return Step("view_as", (args[0], args[0]), {})
    if step.target == "to":
        args = tuple(value for value in args if not isinstance(value, torch.device | str))
        if len(args) == 1 and not kwargs:
            return Step("view_as", (args[0], args[0]), {})
    return Step(step.target, args, kwargs)


def _mapped(argument: Any, value: Callable[[int], Any]) -> Any:
    """An argument with values in place of slots."""
    if isinstance(argument, Slot):
        return value(argument.place)
    if isinstance(argument, tuple | list):
        return type(argument)([_mapped(part, value) for part in argument]) if type(argument) in (tuple, list) else argument
    if isinstance(argument, dict):
        return {name: _mapped(part, value) for name, part in argument.items()}
    if isinstance(argument, slice):
        return slice(_mapped(argument.start, value), _mapped(argument.stop, value), _mapped(argument.step, value))
    return argument


def _plain(argument: Any) -> Any:
    """fx's immutable lists and dicts as Python's."""
    if isinstance(argument, Slot):
        return argument
    if isinstance(argument, tuple | list):
        parts = [_plain(part) for part in argument]
        return parts if isinstance(argument, list) else tuple(parts)
    if isinstance(argument, dict):
        return {name: _plain(part) for name, part in argument.items()}
    return slice(_plain(argument.start), _plain(argument.stop), _plain(argument.step)) if isinstance(argument, slice) else argument
