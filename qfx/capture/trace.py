"""From a float module to its graph. The model runs, on real numbers, and what torch is asked to do is written down: Python decides as it likes, by
sizes, types and options, and only a decision by data or by the number of samples ends the recording."""

from __future__ import annotations

import operator
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from qfx.capture.any_names import AnyNameModule
from qfx.capture.batch.masks import soften
from qfx.capture.batch.rewriting import batch_in_front
from qfx.capture.inputs import Inputs
from qfx.capture.loops.rewriting import loops_of_cells
from qfx.capture.recording import Recording, StopError, merge, recording
from qfx.capture.refusals.apart import NotTakenApartError
from qfx.capture.refusals.remedies import named, plain_remedy
from qfx.capture.traced import Traced, called, place_of
from qfx.errors import DataError, UnsupportedError, together
from qfx.ir.rules import MAX_RANK

_INDICES = "'indices'"
"""In what torch says of numbers of rows that are no integers."""


def trace(model: nn.Module, example: Any) -> Traced:
    """Record ``model`` (in evaluation mode) on ``example``: a tensor, batch first, or several in a tuple, list or mapping by name (``Inputs``).

    Raises UnsupportedError, which lists all that it found, for control flow that depends on data, for a batch axis that gets mixed with others, for
    a tensor that is changed in place and read again under another name; DataError for an example that the model does not take.
    """
    traced = capture(model, example)
    found = [*traced.refused.values(), *(error for error in (traced.stopped, traced.differs) if error is not None)]
    if found:
        raise together(found, where=type(model).__name__)
    return traced


def capture(model: nn.Module, example: Any) -> Traced:
    """``trace``, but what is not supported is noted in the result. Raises UnsupportedError only for a model that reads no input; DataError."""
    inputs = Inputs.of(model, example)
    try:
        small, large = (_recorded(model, inputs.rows(count)) for count in (2, 3))
    except DataError:
        if inputs.is_floating_point() or any(tensor.is_complex() for tensor in inputs.tensors()):
            raise
        inputs, small, large = _otherwise(model, inputs)
    apart = merge(small, large)  # also as far as they got
    stopped = small.stopped or large.stopped or apart or _by_one(model, inputs, small)
    batch_in_front(small, large)
    soften(small, large)
    if stopped is None:
        loops_of_cells(small, large)
    small.graph.output(small.result if stopped is None else None)
    if stopped is None and not any(node.users for node in small.placeholders):
        raise UnsupportedError("has 0 inputs", where=type(model).__name__, remedy="give a module whose result depends on its input")
    small.forget_unused()
    module = AnyNameModule(small.held(), small.graph, class_name=type(model).__name__)
    shapes: dict[fx.Node, tuple[int, ...]] = {}
    constants: dict[fx.Node, Any] = {}
    fixed: dict[fx.Node, Tensor] = {}
    refused, tainted = dict(small.refused), set[fx.Node]()
    for node, value in small.values.items():
        other = large.values.get(small.twins.get(node))  # type: ignore[arg-type]
        if not isinstance(value, Tensor):
            if node not in small.dependent and other is not None and not _holds_tensors(value):
                constants[node] = value
            continue
        if node not in small.dependent:
            fixed[node] = value
            continue
        shapes[node] = tuple(value.shape[1:])
        problem = _misshapen(node, value, other) if isinstance(other, Tensor) else None
        if problem is not None:
            tainted.add(node)
            if node not in refused and not any(source in refused or source in tainted for source in node.all_input_nodes):
                refused[node] = problem
    differs = _difference(module, inputs.rows(3), large.outputs) if stopped is None and not refused else None
    ordered = {node: refused[node] for node in small.graph.nodes if node in refused}
    dtypes = {node: value.dtype for node, value in small.values.items() if isinstance(value, Tensor)}
    several = {
        node
        for node in small.dependent
        if node.op.startswith("call") and node.target is not operator.getitem and _holds_tensors(small.values.get(node))
    }
    return Traced(module, shapes, constants, fixed, ordered, frozenset(tainted), stopped, differs, frozenset(several), dtypes)


def _otherwise(model: nn.Module, inputs: Inputs) -> tuple[Inputs, Recording, Recording]:
    """Integers that the model does not take as they are, as it takes them: as numbers, or as those of rows, whose table wants int64. The input's cast
    reads them all the same. Raises DataError where neither does."""
    numbers = inputs.map(lambda part: part.float() if isinstance(part, Tensor) else part)
    try:
        small, large = (_recorded(model, numbers.rows(count)) for count in (2, 3))
    except DataError as error:
        rows = inputs.map(lambda part: part.long() if isinstance(part, Tensor) and not part.is_floating_point() else part)
        try:
            small, large = (_recorded(model, rows.rows(count)) for count in (2, 3))
        except DataError as last:
            told = last if _INDICES in error.what else error
            raise told from told.__cause__
        return rows, small, large
    return numbers, small, large


def _recorded(model: nn.Module, inputs: Inputs) -> Recording:
    """One run, as far as it got. Raises DataError where the model itself fails."""
    run = recording(model, inputs)
    if run.failure is None:
        return run
    if isinstance(run.failure, StopError | NotTakenApartError):
        run.stopped = _stop(run.failure, run.place or type(model).__name__)
        return run
    message = str(run.failure).split("\n")[0] or type(run.failure).__name__
    remedy = "give one real batch, and let the model take any batch size: x.shape[0] or -1 in place of a number"
    if message.startswith("index out of range"):
        remedy = "give numbers of rows that the table has"
    elif _INDICES in message:
        remedy = "give the numbers of rows as integers: example.long(), say"
    elif not inputs.is_floating_point():
        remedy = f"give floating-point numbers, as the model takes them: the example is {inputs.dtypes()}, example.float() may do"
    raise DataError(
        f"the model does not run on an example of shape {inputs.shapes()}: {message}", where="example_input", remedy=remedy
    ) from run.failure


def _by_one(model: nn.Module, inputs: Inputs, seen: Recording) -> UnsupportedError | None:
    """Whether the model does something else with a single sample."""
    run = recording(model, inputs.rows(1))
    if run.failure is not None:
        return None  # what does not run on one sample is the user's affair
    return merge(seen, run, sizes=False)


def _stop(error: UnsupportedError, place: str) -> UnsupportedError:
    """Why recording ended, where in the user's code, and what to do."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    line = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line})" if frames and frames[-1].line else ""
    return UnsupportedError(f"cannot be traced: it {error.what}{line}", where=place, remedy=error.remedy)


def _is_library(filename: str) -> bool:
    roots = (Path(torch.__file__).parent, Path(__file__).parents[1])
    return any(root in Path(filename).parents for root in roots) or filename.startswith("<")


def _difference(module: nn.Module, inputs: Inputs, expected: Any) -> UnsupportedError | None:
    """Whether a model computes something else than its graph: then something went past torch's functions, or is random."""
    try:
        with torch.no_grad():
            actual = module(*inputs.args, **inputs.kwargs)
    except Exception as error:  # whatever torch raises
        message = str(error).split("\n")[0] or type(error).__name__
        remedy = "write it with public functions of torch; docs/layers.md lists those that have a fixed-point form"
        return UnsupportedError(f"does not run again as it was recorded: {message}", where=type(module).__name__, remedy=remedy)
    pairs = [(a, b) for a, b in zip(tree_leaves(expected), tree_leaves(actual), strict=False) if isinstance(a, Tensor) and isinstance(b, Tensor)]
    for a, b in pairs:
        a, b = (torch.view_as_real(part) if part.is_complex() else part for part in (a, b))
        scale = float(a.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
        if a.shape != b.shape or not torch.allclose(a.double(), b.double(), rtol=0.0, atol=1e-3 * scale, equal_nan=True):
            return UnsupportedError(
                "computes something else when it is traced",
                where=type(module).__name__,
                remedy="write x = x + y where another name stands for x too; keep randomness (F.dropout(x, training=self.training)) and counters out "
                "of inference",
            )
    return None


def _misshapen(node: fx.Node, value: Tensor, other: Tensor) -> UnsupportedError | None:
    """What is wrong with the shape of a tensor, for its values on batches of 2 and 3."""
    name = called(node)
    if value.dim() < 2 or value.shape[0] != 2 or other.shape != (3, *value.shape[1:]):
        remedy = "keep the batch as the first axis of every tensor, with at least one axis behind it"
        if named(name):
            remedy = plain_remedy(name)
        elif value.dim() == 1 and value.shape[0] == 2:
            remedy = "leave one axis behind the batch: shape (batch, 1), which the host may squeeze"
        what = f"gives shape {tuple(value.shape)} for a batch of 2 and {tuple(other.shape)} for a batch of 3"
        return UnsupportedError(_said(node, what), where=place_of(node), remedy=remedy)
    if value.dim() > MAX_RANK + 1 or value.numel() == 0:
        return UnsupportedError(
            _said(node, f"gives shape {tuple(value.shape)} for a batch of 2"), where=place_of(node), remedy=_fewer_axes(node, value)
        )
    return None


def _said(node: fx.Node, what: str) -> str:
    """A complaint about a node, with the name of the operation where its place does not say that."""
    if node.op == "placeholder":
        return f"the model's input {what}"
    name = called(node)
    return what if name in (place_of(node).rpartition(".")[2], node.name.rstrip("0123456789").strip("_")) else f"{name} {what}"


def _fewer_axes(node: fx.Node, value: Tensor) -> str:
    if value.dim() <= MAX_RANK + 1:
        return "leave no axis empty"
    if node.op != "placeholder" and _only_reorders(node):
        return "at the end of a model leave it out, with what follows it: the host reorders the result"
    return f"a value has at most {MAX_RANK} axes behind the batch: make one of them part of another"


_REORDERS = ("view", "reshape", "permute", "transpose", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze", "movedim", "getattr", "size")


def _only_reorders(node: fx.Node) -> bool:
    """Whether nothing but moves lies between the node and the output."""
    return all(user.op == "output" or (called(user) in _REORDERS and _only_reorders(user)) for user in node.users)


def _holds_tensors(value: Any) -> bool:
    return not isinstance(value, Tensor) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
