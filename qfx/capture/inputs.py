"""What a model is called with: one tensor, or several by position or by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from qfx.errors import DataError, UnsupportedError


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a model: ``args`` and ``kwargs`` hold tensors, batch first, or tuples, lists and dicts of them. ``names``: of the
    parameters that ``args`` fill."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> Inputs:
        """``example``: a tensor (the model's first argument), a tuple or list (its arguments in order), or a dict (arguments by name); an ``Inputs``
        stays as it is. A model of one parameter without default gets a tuple, list or dict as that parameter, if it does not take it as several.

        Raises DataError for what holds no tensor, or tensors of different batch sizes."""
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Tensor) and len(_required(model)) > 1:
            raise UnsupportedError(
                f"has {len(_required(model))} inputs: {', '.join(_required(model))}",
                where=type(model).__name__,
                remedy="give an example of each: a tuple in this order, or a dict by name",
            )
        parameters = [each for each in inspect.signature(model.forward).parameters.values() if each.kind is not each.VAR_KEYWORD]
        needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
        several = len(parameters) > 1 or any(each.kind is each.VAR_POSITIONAL for each in parameters)
        if isinstance(example, Mapping) and all(isinstance(name, str) for name in example) and {each.name for each in needed} <= set(example):
            found = cls((), dict(example))
        elif isinstance(example, tuple | list) and (several or len(example) == 1):
            found = cls(tuple(example), {}, _names(parameters, len(example)))
        else:
            found = cls((example,), {}, _names(parameters, 1))
        found.check()
        return found

    def check(self) -> None:
        """Raise DataError unless all tensors are finite, with at least one axis behind the batch, and hold the same number of samples."""
        tensors = list(self.named())
        if not tensors:
            raise DataError(
                "holds no tensor", where="example_input", remedy="give one tensor, batch first, or several in a tuple or by name in a dict"
            )
        for name, tensor in tensors:
            if tensor.dim() == 1 and tensor.shape[0]:
                what, remedy = "has one number a sample, and no axis behind the batch", "give x.unsqueeze(1), and let the model take that"
                raise DataError(what, where=_where(name, tensors), remedy=remedy)
            if tensor.dim() < 2 or tensor.shape[0] < 1:
                raise DataError("must be one tensor, batch first", where=_where(name, tensors), remedy="give a batch of real inputs")
            if tensor.is_complex():
                raise DataError("complex numbers", where=_where(name, tensors), remedy="give real ones, with real and imaginary parts as channels")
            if not bool(torch.isfinite(tensor).all()):
                raise DataError("NaN or infinity", where=_where(name, tensors), remedy="clean the data")
        sizes = {name: tensor.shape[0] for name, tensor in tensors}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise DataError(f"inputs of different batch sizes: {told}", where="example_input", remedy="give as many samples of each input")

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with a name: the parameter's, and the place within where that holds several."""
        for name, argument in (*zip(self.names, self.args, strict=True), *self.kwargs.items()):
            yield from _leaves(name, argument)

    def rows(self, count: int) -> Inputs:
        """The first ``count`` samples, from the start again where there are fewer; new tensors."""

        def taken(tensor: Any) -> Any:
            return tensor[torch.arange(count, device=tensor.device) % tensor.shape[0]] if isinstance(tensor, Tensor) else tensor

        return self.map(taken)

    def map(self, function: Callable[[Any], Any]) -> Inputs:
        return Inputs(tree_map(function, self.args), tree_map(function, dict(self.kwargs)), self.names)

    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    def is_floating_point(self) -> bool:
        return all(tensor.is_floating_point() for tensor in self.tensors())

    def shapes(self) -> str:
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors())

    def dtypes(self) -> str:
        return ", ".join(str(tensor.dtype) for tensor in self.tensors())


def _required(model: nn.Module) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    return [each.name for each in parameters if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _leaves(name: str, argument: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(argument, Tensor):
        yield name, argument
    elif isinstance(argument, Mapping):
        for key, part in argument.items():
            yield from _leaves(f"{name}_{key}", part)
    elif isinstance(argument, tuple | list):
        for place, part in enumerate(argument):
            yield from _leaves(f"{name}_{place}", part)


def _names(parameters: list[inspect.Parameter], count: int) -> tuple[str, ...]:
    names: list[str] = []
    for each in parameters:
        if each.kind is each.VAR_POSITIONAL:
            names += [f"{each.name}_{place}" for place in range(count - len(names))]
        else:
            names.append(each.name)
    names += [f"input_{place}" for place in range(len(names), count)]
    return tuple(names[:count])


def _where(name: str, tensors: list[tuple[str, Tensor]]) -> str:
    return "example_input" if len(tensors) == 1 else f"example_input {name}"
