"""The data of a graph's inputs: one array, or several in order or by name, checked and taken apart by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qfx.errors import DataError
from qfx.ir.graph import Graph
from qfx.ir.values import Shape

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = Array | Sequence[Array] | Mapping[str, Array]
"""What a model is given: the array of its one input, or a sequence of arrays in the order of its inputs, or a mapping by their names."""
Feeds: TypeAlias = dict[str, Array]
"""An array for each input, by name, in the inputs' order; all of one length."""

_FLOATS = (np.float32, np.float64)


def feeds(graph: Graph, x: Feed) -> Feeds:
    """The data by the names of the graph's inputs. Raises DataError as ``named`` and ``check_floats``."""
    given = named({node.name: graph.infos[node.name].shape for node in graph.inputs}, x, graph.name)
    return {name: numbers(array, name) for name, array in given.items()}


def named(shapes: Mapping[str, Shape], x: Feed, where: str) -> Feeds:
    """The arrays of inputs that have these shapes (without the batch), by name. Integers stay integers; no array is copied.

    Raises DataError for a missing or unknown input, for what is no array, for a wrong shape and for batches of different sizes.
    """
    names = tuple(shapes)
    if isinstance(x, Mapping):
        if set(x) != set(names):
            got = ", ".join(map(str, x)) or "nothing"
            raise DataError(f"expected the inputs {', '.join(names)}, got {got}", where=where, remedy="give an array for each input, by its name")
        arrays = [x[name] for name in names]
    elif isinstance(x, tuple | list):
        arrays = list(x)
    else:
        arrays = [x]  # type: ignore[list-item]
    if len(arrays) != len(names):
        what = f"expected {len(names)} input{'s' * (len(names) > 1)} ({', '.join(names)}), got {len(arrays)}"
        raise DataError(what, where=where, remedy="give an array for each input, in this order or by name")
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            raise DataError(f"expected a float32 or float64 array, got {type(array).__name__}", where=name, remedy="convert the data")
        if array.ndim == 0 or array.shape[1:] != shapes[name]:
            expected = ", ".join(map(str, ("N", *shapes[name])))
            axes = array.ndim != 1 + len(shapes[name])
            remedy = "put the batch first and leave no axis out" if axes else "give data of this size, or make the model for that of the data"
            raise DataError(f"expected the shape ({expected}), got {array.shape}", where=name, remedy=remedy)
    sizes = {name: len(array) for name, array in zip(names, arrays, strict=True)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise DataError(f"the inputs have batches of different sizes: {told}", where=where, remedy="give every input as many samples")
    return dict(zip(names, arrays, strict=True))


def numbers(x: Array, where: str) -> Array:
    """Finite floats, float32 or float64, of the same values: those of integers too, as long as float64 holds each exactly.

    Raises DataError for another dtype, for NaN and infinity, and for an integer that float64 would round.
    """
    if x.dtype.kind in "iu":
        exact = x.astype(np.float64)
        if x.dtype.itemsize > 4 and x.size and (int(x.max()) > 1 << 53 or int(x.min()) < -(1 << 53)):
            raise DataError("holds an integer beyond 2**53, which float64 rounds", where=where, remedy="scale the data")
        return exact.astype(np.float32) if x.dtype.itemsize <= 2 else exact
    if x.dtype not in _FLOATS:
        raise DataError(f"expected a float32 or float64 array, got {x.dtype}", where=where, remedy="convert the data")
    finite = np.isfinite(x)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"expected finite numbers, got {x[index]} at {index}", where=where, remedy="remove NaN and infinity from the data")
    return x


def samples(x: Mapping[str, Array]) -> int:
    """How many samples there are."""
    return len(next(iter(x.values())))


def part(x: Mapping[str, Array], piece: slice) -> Feeds:
    """The samples of ``piece``."""
    return {name: array[piece] for name, array in x.items()}


__all__ = ["Array", "Feed", "Feeds", "feeds", "named", "numbers", "part", "samples"]
