"""Recording one run of a float model: a ``TorchFunctionMode`` sees every function of torch, at the level at which people write them, and a wrapper
of ``nn.Module.__call__`` every module. What qfx has a rule for becomes one node; what it has none for is opened, down to what torch computes itself.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from qfx.capture.apart.decompositions import OF_FUNCTIONS, OF_MODULES, OF_TORCH
from qfx.capture.inputs import Inputs
from qfx.capture.names import READS_DATA, bare_name, instead, is_question, known, spelled
from qfx.capture.traced import CALLER, INTERNAL, KEPT, KIND, MADE, OPENED, SITE, SPARE, TAKEN_APART, WHOLE, base_layer, is_layer, place_of
from qfx.errors import UnsupportedError
from qfx.nn.layers.products.own import computed_roles, kept_names
from qfx.nn.layers.sequences.apart import taken_apart
from qfx.nn.rules import MODULES


class StopError(UnsupportedError):
    """Raised in the user's forward; where that is, ``capture`` finds out."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy=remedy)


class _Known:
    """A tensor that has been seen: its node, and how often it had been written to then. It is held, so that no other gets its id."""

    __slots__ = ("node", "tensor", "version")

    def __init__(self, tensor: Tensor, node: fx.Node) -> None:
        self.tensor, self.node, self.version = tensor, node, tensor._version


class _Frame:
    """A module whose forward runs: where it is, how often each operation was called in it, and the nodes made."""

    def __init__(self, path: str, layer: bool, opened: str, kind: str) -> None:
        self.path, self.layer, self.opened, self.kind = path, layer, opened, kind
        self.counts: dict[str, int] = {}
        self.nodes: list[fx.Node] = []


class Recording(TorchFunctionMode):
    """What one run of a model was. ``graph``: without its output node; ``values``: what every node gave; ``dependent``: the nodes that are
    computed from the input; ``result``: the model's, with nodes in place of tensors; ``refused``: what has no place in a fixed-point network;
    ``failure``: what ended the run early; ``twins``: of ``merge``, the nodes of another run; ``replaced``: layers by the paths of the model's."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model: nn.Module = model
        self.inputs: Inputs = inputs
        self.graph: fx.Graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.dependent: set[fx.Node] = set()
        self.refused: dict[fx.Node, UnsupportedError] = {}
        self.placeholders: list[fx.Node] = []
        self.outputs: Any = None
        self.result: Any = None
        self.failure: BaseException | None = None
        self.stopped: UnsupportedError | None = None
        self.twins: dict[fx.Node, fx.Node] = {}
        self.replaced: dict[str, nn.Module] = {}
        self.place: str = ""
        self.quiet: bool = False  # quiet: a layer that is one piece runs
        self._tensors: dict[int, _Known] = {}
        self._writers: dict[int, fx.Node] = {}  # by the memory that was written to
        self._foreign: dict[str, Tensor] = {}
        self._frames = [_Frame("", False, "", "")]
        self._open: list[Any] = []
        self._paths = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self._kept = kept_names(model)
        self._held, self._inside = [model, named], 0  # inside: operations that qfx takes apart itself

    # The run

    def run(self) -> None:
        args, kwargs = self.inputs.args, dict(self.inputs.kwargs)
        for name, argument in (*zip(self.inputs.names, args, strict=True), *kwargs.items()):
            self._input(name, argument)
        try:
            with torch.no_grad(), _fast_paths_off(), _modules_through(self), self:
                self.outputs = self.model(*args, **kwargs)
        except Exception as error:  # whatever the model raises, and what it may not do
            self.failure = error
            return
        self.result = self._nodes((self.outputs,), {})[0][0]

    def _input(self, name: str, argument: Any) -> None:
        with self.graph.inserting_after(self.placeholders[-1]) if self.placeholders else contextlib.nullcontext():
            node = self.graph.placeholder(name)
        self.placeholders.append(node)
        self.values[node] = argument
        self.dependent.add(node)
        self._parts(node, argument)

    def _parts(self, node: fx.Node, value: Any) -> None:
        """Make known what a node gives: a tensor, or several in lists and dicts."""
        if isinstance(value, Tensor):
            self._tensors[id(value)] = _Known(value, node)
            return
        places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
        for place, part in places:
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(part)):
                element = self._add("call_function", operator.getitem, (node, place), {}, part, node in self.dependent)
                element.meta[SPARE] = True
                self._parts(element, part)

    # Functions

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_question(func):
            return func(*args, **kwargs)
        target, arguments = spelled(func, args)
        parts = self._always_apart(target, arguments, kwargs)
        if parts is not None:
            with self:
                return self._taken_apart(parts, arguments, kwargs, bare_name(target))
        if not known(target):
            whole = isinstance(func, types.FunctionType)
            apart = OF_TORCH.get(bare_name(target)) or taken_apart(target, arguments, self._node_of, self.dependent)
            taken = OF_FUNCTIONS.get(func) if whole else apart
            if taken is not None and any(self._depends(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
                with self:
                    return self._taken_apart(taken, arguments, kwargs, bare_name(target))
            if whole and func not in self._open:
                self._open.append(func)
                try:
                    with self:
                        return _opened(func)(*args, **kwargs)
                finally:
                    self._open.pop()
        return self._operation(getattr(func, "__name__", ""), target, arguments, kwargs, lambda: func(*args, **kwargs))

    def _always_apart(self, target: Any, args: Any, kwargs: Any) -> Callable[..., Any] | None:
        """What takes apart a call of a function that has a rule for other arguments: a quotient of values, the extreme of an axis with its place."""
        name = bare_name(target)
        second = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("dim"))
        if name in ("div", "truediv") and isinstance(second, Tensor) and self._depends(second):
            return OF_TORCH["div"]
        if name in ("max", "min") and isinstance(second, int) and isinstance(args[0], Tensor) and self._depends(args[0]):
            return OF_TORCH[name]
        return None

    def _taken_apart(self, function: Callable[..., Any], args: Any, kwargs: Any, name: str = "") -> Any:
        """Run ``function`` in place of torch's; what its steps give stays within the operation, its results do not."""
        self._inside += 1
        try:
            result = function(*args, **kwargs)
        finally:
            self._inside -= 1
        for leaf in tree_leaves(result):
            found = self._tensors.get(id(leaf)) if isinstance(leaf, Tensor) else None
            if found is not None and not self._inside:
                found.node.meta[INTERNAL] = False
                if name and isinstance(source := args[0] if args else kwargs.get("input"), Tensor):
                    found.node.meta[TAKEN_APART] = (name, self._node_of(source))
        return result

    def _operation(self, name: str, target: Any, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        versions = [tensor._version for tensor in tensors]
        if name in READS_DATA and any(self._depends(tensor) for tensor in tensors):
            raise StopError(READS_DATA[name], instead(name))
        node_args, node_kwargs = self._nodes(args, kwargs)
        bare = name.partition(".")[0]
        if tensors and (bare.startswith("__i") or (bare.endswith("_") and not bare.endswith("__"))) and not self._depends(tensors[0]):
            self.values[self._node_of(tensors[0])] = tensors[0].clone()  # a constant is what it was, whatever is written into its tensor
        result = run()
        written = [tensor for tensor, version in zip(tensors, versions, strict=True) if tensor._version != version]
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)) and not written:
            return result
        if not any(result is tensor for tensor in written):
            result = tree_map(lambda leaf: leaf.view_as(leaf) if any(leaf is tensor for tensor in tensors) else leaf, result)
        dependent = any(self._depends(tensor) for tensor in tensors)
        op = "call_method" if isinstance(target, str) else "call_function"
        node = self._add(op, target, node_args, node_kwargs, result, dependent)
        self._note(node)
        for tensor in written:
            self._writers[tensor.untyped_storage().data_ptr()] = node
            if id(tensor) in self._names:
                self.refused[node] = UnsupportedError(
                    f"changes {self._names[id(tensor)]!r}, which the model keeps from run to run",
                    where=place_of(node),
                    remedy="keep counters and other state out of inference (if self.training: ...)",
                )
            elif result is not tensor:
                self.refused[node] = UnsupportedError(
                    "assigns into a tensor", where=place_of(node), remedy="build the result of its parts: torch.cat, torch.where or F.pad"
                )
            if result is None:  # what was assigned into is what is read from here on
                self.values[node], self._tensors[id(tensor)] = tensor, _Known(tensor, node)
        self._parts(node, result)
        return result

    def _note(self, node: fx.Node) -> None:
        """Say where a node is: in which module, and which of the calls in its forward."""
        frame = self._frames[-1]
        name = getattr(node.target, "__name__", str(node.target)).strip("_")
        node.meta |= {CALLER: frame.path, SITE: (frame.path, name, frame.counts.setdefault(name, 0)), OPENED: frame.opened, KIND: frame.kind}
        node.meta |= {INTERNAL: self._inside > 0, SPARE: self._inside > 0 or name.startswith("arg")}
        frame.counts[name] += 1
        frame.nodes.append(node)

    def _add(self, op: str, target: Any, args: Any, kwargs: Any, value: Any, dependent: bool) -> fx.Node:
        node = self.graph.create_node(op, target, tuple(args), dict(kwargs))
        node.meta[CALLER] = self._frames[-1].path
        self.values[node] = value
        if dependent:
            self.dependent.add(node)
        return node

    # Tensors

    def _depends(self, tensor: Tensor) -> bool:
        found = self._tensors.get(id(tensor))
        return found is not None and found.node in self.dependent

    def _node_of(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; one that is new is a parameter, a buffer or something that the model holds beside them."""
        found = self._tensors.get(id(tensor))
        if found is None:
            name = self._names.get(id(tensor)) or self._named(tensor)
            found = self._tensors[id(tensor)] = _Known(tensor, self._add("get_attr", name, (), {}, tensor, False))
            found.node.meta[KEPT] = self._kept.get(id(tensor), ())
        elif tensor._version != found.version:
            writer = self._writers.get(tensor.untyped_storage().data_ptr(), found.node)
            problem = UnsupportedError(
                f"changes the result of {found.node.name!r} in place, which is read again later",
                where=place_of(writer),
                remedy="use the form that is not in place (inplace=False, x = x + y), and its result",
            )
            self.refused.setdefault(writer, problem)
        return found.node

    def _nodes(self, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with nodes in place of tensors; tuples with names become plain ones."""

        def node(part: Any) -> Any:
            if isinstance(part, Tensor):
                return self._node_of(part)
            if isinstance(part, slice):
                return slice(node(part.start), node(part.stop), node(part.step))
            if isinstance(part, tuple | list):
                parts = [node(each) for each in part]
                return parts if isinstance(part, list) else tuple(parts)
            return {key: node(each) for key, each in part.items()} if isinstance(part, dict) else part

        return node(tuple(args)), node(dict(kwargs))

    def _named(self, tensor: Tensor) -> str:
        name = f"qfx_constant_{len(self._foreign)}"
        self._foreign[name] = tensor.detach()
        return name

    def forget_unused(self) -> None:
        """Take out nodes that were made in case someone reads them. To be called when the graph has its output."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and (node.op == "get_attr" or node.meta.get(SPARE)):
                self.graph.erase_node(node)
                self.values.pop(node, None)

    def held(self) -> dict[str, Any]:
        """The modules and tensors that the graph names."""
        targets = {str(node.target): node for node in self.graph.nodes if node.op in ("call_module", "get_attr")}
        own = {**self._foreign, **self.replaced}
        return {target: own[target] if target in own else _got(self.model, target) for target in targets}

    # Modules

    def module(self, path: str) -> nn.Module:
        """The model's layer at a dotted path."""
        return self.replaced.get(path) or _got(self.model, path)

    def call(self, module: nn.Module, args: Any, kwargs: Any, original: Callable[..., Any]) -> Any:
        """Called in place of ``nn.Module.__call__``."""
        path = self._paths.get(id(module))
        layer = path is not None and is_layer(module)
        self.place = self._frames[-1].path if path is None else path
        packed = any(isinstance(argument, PackedSequence) for argument in args)  # refused where it was packed, whatever happens here
        layer = layer and (packed or any(self._depends(leaf) for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)))
        roles = computed_roles(module) if layer else {}
        if layer and (_is_plain(module) or roles) and (base_layer(module) in MODULES or packed) and path:
            self.quiet = True
            try:
                with torch._C.DisableTorchFunction():
                    result = self._layer(path, module, args, kwargs, original, roles)
            finally:
                self.quiet = False
            self.place = self._frames[-1].path
            return result
        taken = OF_MODULES.get(base_layer(module)) if layer and _is_plain(module) else None
        outer = self._frames[-1]
        path = outer.path if path is None else path
        frame = _Frame(path, layer, *((path, base_layer(module).__name__) if layer and not outer.opened else (outer.opened, outer.kind)))
        self._frames.append(frame)
        try:
            if taken is None:
                return original(module, *args, **kwargs)
            return self._taken_apart(taken, (module, *args), kwargs)
        finally:
            if sys.exc_info()[0] is None:
                self.place = outer.path
            self._frames.pop()
            if layer and len(frame.nodes) == 1:
                frame.nodes[0].meta[WHOLE] = True
            outer.nodes += frame.nodes if not layer else ()

    def _layer(self, path: str, module: nn.Module, args: Any, kwargs: Any, original: Callable[..., Any], roles: dict[str, Tensor]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        versions = [tensor._version for tensor in tensors]
        node_args, node_kwargs = self._nodes(args, kwargs)
        result = original(module, *args, **kwargs)
        written = [tensor for tensor, version in zip(tensors, versions, strict=True) if tensor._version != version]
        if not written:
            result = tree_map(lambda leaf: leaf.view_as(leaf) if any(leaf is tensor for tensor in tensors) else leaf, result)
        own: Any = next((type(tensor) for tensor in tensors if hasattr(type(tensor), "behind_layer")), None)
        result = own.behind_layer(module, result) if own is not None else result  # a class of tensors that layers hand on
        node = self._add("call_module", path, node_args, node_kwargs, result, any(self._depends(tensor) for tensor in tensors))
        node.meta[MADE] = {role: self._node_of(tensor) for role, tensor in roles.items()}
        for tensor in written:
            self._writers[tensor.untyped_storage().data_ptr()] = node
        self._parts(node, result)
        return result


def recording(model: nn.Module, inputs: Inputs) -> Recording:
    """One run of ``model``, recorded as far as it got."""
    run = Recording(model, inputs)
    with warnings.catch_warnings():  # of torch, about the model: whoever runs it sees them
        warnings.simplefilter("ignore")
        run.run()
    return run


def merge(mine: Recording, other: Recording, *, sizes: bool = True) -> UnsupportedError | None:
    """Compare two runs on batches of other sizes, node by node. Numbers that follow the batch size become nodes that compute it, in ``mine``
    (``sizes``). What the runs do differently is returned as an error: Python decided by the number of samples."""
    pairs = list(zip(mine.values, other.values, strict=False))
    mine.twins.update(pairs if sizes else ())
    for node, twin in list(mine.twins.items()) if sizes else pairs:
        if node.op != twin.op or node.target != twin.target:
            return _by_batch(node)
        if sizes and node.op != "placeholder":
            batches = tuple(next(run.inputs.named())[1].shape[0] for run in (mine, other))
            try:
                node.args, node.kwargs = _joined((node.args, dict(node.kwargs)), (twin.args, dict(twin.kwargs)), mine, batches)
            except ValueError:
                return _by_batch(node)
        if sizes and node not in mine.dependent and node.op != "get_attr":
            problem = _unsteady(node, mine.values[node], other.values[twin])
            if problem is not None:
                return problem
        if sizes and str(node.target) in mine._foreign and not _same(mine.values[node], other.values[twin]):
            return UnsupportedError(
                "computes with operations that torch does not show (a TorchScript function, an extension, numpy)",
                where=str(node.meta[CALLER]) or type(mine.model).__name__,
                remedy="write them with torch's own functions",
            )
    if len(mine.values) != len(other.values):
        longer = max((list(run.values) for run in (mine, other)), key=len)
        return _by_batch(longer[min(len(mine.values), len(other.values))])
    return None


def _by_batch(node: fx.Node) -> UnsupportedError:
    remedy = "take the whole batch at once, let nothing but sizes depend on its size (x.shape[0] in a view is fine), and nothing on chance"
    return UnsupportedError("does something else in another run, with another number of samples", where=place_of(node), remedy=remedy)


def _unsteady(node: fx.Node, value: Any, other: Any) -> UnsupportedError | None:
    if not isinstance(value, Tensor) or value.shape != other.shape or _same(value, other):
        return None
    remedy = "keep randomness and counters out of inference; what the batch size decides belongs outside of the model"
    return UnsupportedError("gives other constants in every run", where=place_of(node), remedy=remedy)


def _same(a: Any, b: Any) -> bool:
    return (
        isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and bool(torch.equal(a, b) or torch.allclose(a.double(), b.double(), 0.0, 0.0, equal_nan=True))
    )


def _joined(a: Any, b: Any, run: Recording, batches: tuple[int, ...]) -> Any:
    """``a``, with nodes in place of integers that differ from those of ``b`` because the batches do. Raises ValueError for other differences."""
    if isinstance(a, fx.Node):
        if run.twins.get(a) is not b:
            raise ValueError
        return a
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*(_joined(getattr(a, part), getattr(b, part), run, batches) for part in ("start", "stop", "step")))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        if len(a) != len(b):
            raise ValueError
        parts = [_joined(x, y, run, batches) for x, y in zip(a, b, strict=True)]
        return parts if isinstance(a, list) else tuple(parts)
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: _joined(a[key], b[key], run, batches) for key in a}
    if isinstance(a, int) and isinstance(b, int) and a != b:
        factor, rest = divmod(b - a, batches[1] - batches[0])
        offset = a - factor * batches[0]
        if rest:
            raise ValueError
        return _sized(run, factor, offset)
    if type(a) is not type(b) or (isinstance(a, int | float | str | bool) and a != b and not (a != a and b != b)):
        raise ValueError
    return a


def _sized(run: Recording, factor: int, offset: int) -> fx.Node:
    """A node that gives ``factor * batch size + offset``, behind the placeholders."""
    first = next(node for node in run.graph.nodes if node.op == "call_function" or node.op != "placeholder")
    source = run.placeholders[0]
    with run.graph.inserting_before(first):
        while not isinstance(run.values[source], Tensor):
            place = next(iter(run.values[source])) if isinstance(run.values[source], dict) else 0
            source = run.graph.call_function(operator.getitem, (source, place))
            run.values[source] = run.values[source.args[0]][place]  # type: ignore[index]
            run.dependent.add(source)
        size = run.graph.call_method("size", (source, 0))
        if factor != 1:
            size = run.graph.call_function(operator.mul, (size, factor))
        return run.graph.call_function(operator.add, (size, offset)) if offset else size


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing but its class says what the module computes: no hooks, no parametrization, no forward of its own instance."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module) and "parametrizations" not in module._modules


def _got(model: nn.Module, target: str) -> Any:
    """What is found at a dotted path; names may hold anything but dots."""
    found: Any = model
    for name in target.split("."):
        found = getattr(found, name)
    return found


def _opened(function: types.FunctionType) -> Callable[..., Any]:
    """A function of torch that does not ask whether someone wants to see the call as a whole."""
    globals_ = dict(function.__globals__)
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        globals_[name] = lambda *_: False
    found = types.FunctionType(function.__code__, globals_, function.__name__, function.__defaults__, function.__closure__)
    found.__kwdefaults__ = function.__kwdefaults__
    return found


@contextlib.contextmanager
def _fast_paths_off() -> Iterator[None]:
    """Attention as its parts: torch has one function for the whole of it at inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_ONE = threading.RLock()


@contextlib.contextmanager
def _modules_through(run: Recording) -> Iterator[None]:
    """Let calls of modules in this thread go through ``run``."""
    thread = threading.get_ident()
    with _ONE:
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread or run.quiet:
                return original(module, *args, **kwargs)
            return run.call(module, args, kwargs, original)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
