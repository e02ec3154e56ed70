"""The operators ``qfx::forward`` and ``qfx::backward``, which run a quantized model as it runs without them, to the same bits.

A compiler that looked inside would have to know binary points, which training moves, to know which sums fit float32; and it would round what stands
between two casts in its own way. To it the model is one operator: from its inputs and its state (parameters and buffers) to its results and what the
forward moves (statistics, binary points that make room). It has a fake, which gives the shapes, and a gradient, and changes none of its arguments, so
that all that is around it is compiled, in one graph.

The gradient is that of the forward that ran: what autograd recorded of it waits under a key, in a tensor that whoever compiles keeps for the
backward pass, and is forgotten with that tensor.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from qfx.errors import ExactnessError, QfxError


class Hosted(NamedTuple):
    """A model, its forward, the shapes of its inputs (a batch apart), and whether a forward may move a module's tensor by name."""

    model: weakref.ReferenceType[nn.Module]
    run: Callable[..., Any]
    shapes: Callable[[nn.Module], list[tuple[int, ...]]]
    moves: Callable[[nn.Module, str], bool]


class Place(NamedTuple):
    """Where a tensor of the state lies."""

    table: dict[str, Any]
    name: str
    moves: bool


class Form(NamedTuple):
    """What a model gives: ``structure`` as ``_built`` reads it, and of each tensor the size along every axis at no batch, what a sample adds to it,
    and the dtype."""

    structure: tuple[str, ...]
    tensors: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]


class Waiting(NamedTuple):
    """What autograd recorded of a forward: the results, and the tensors that learn."""

    results: list[Tensor]
    learning: list[Tensor]


# Operators of torch take tensors and numbers, so what they run and what waits for a backward pass has to be found by number.
_numbers = itertools.count(1)
_hosted: dict[str, Hosted] = {}
_structures: dict[str, tuple[str, ...]] = {}
_forms: dict[tuple[str, tuple[torch.dtype, ...]], Form] = {}
_waiting: dict[int, Waiting] = {}


def host(
    model: nn.Module, run: Callable[..., Any], shapes: Callable[[nn.Module], list[tuple[int, ...]]], moves: Callable[[nn.Module, str], bool]
) -> str:
    """A key under which the operators find ``model`` as long as it lives."""
    key = f"model {next(_numbers)}"  # a text: a number that differs between models would be compiled as a variable
    _hosted[key] = Hosted(weakref.ref(model), run, shapes, moves)
    weakref.finalize(model, _forget, key)
    return key


def _forget(key: str) -> None:
    for table in (_hosted, _structures):
        table.pop(key, None)
    for known in [known for known in _forms if known[0] == key]:
        del _forms[known]


def call(key: str, model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """The model's forward through the operators. torch.compile reads this function, and so does whoever differentiates by ``torch.func``."""
    state = [*model.parameters(), *model.buffers()]
    grad = torch.is_grad_enabled()
    learns = [grad and tensor.requires_grad for tensor in (*inputs, *state)]
    if torch._C._are_functorch_transforms_active():  # functions without side effects: nothing moves
        given = _Function.apply(key, len(inputs), learns, *inputs, *state)  # type: ignore[no-untyped-call]
        return _built(_structures[key], given)
    structure, moved = _foretold(key, " ".join([str(x.dtype) for x in inputs]))
    found = torch.ops.qfx.forward(key, list(inputs), state, learns)
    with torch.no_grad():
        for place, value in zip(moved, found[len(found) - len(moved) :], strict=True):
            state[place].copy_(value)
    return _built(structure, found)


def _built(structure: tuple[str, ...], tensors: Sequence[Tensor]) -> Any:
    kind, *keys = structure
    if kind == "tensor":
        return tensors[0]
    if kind == "dict":
        return {key: tensors[place] for place, key in enumerate(keys)}
    listed = [tensors[place] for place in range(len(keys))]
    return listed if kind == "list" else tuple(listed)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _foretold(key: str, dtypes: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The structure of what the model gives, and which tensors of its state the operator gives too."""
    model, hosted = _found(key)
    form = _form(key, tuple(getattr(torch, dtype.removeprefix("torch.")) for dtype in dtypes.split()))
    return form.structure, tuple(place for place, one in enumerate(_places(model, hosted)) if one.moves)


def _found(key: str) -> tuple[nn.Module, Hosted]:
    hosted = _hosted.get(key)
    model = None if hosted is None else hosted.model()
    if hosted is None or model is None:
        raise QfxError("the quantized model is gone", where="torch.compile", remedy="keep the model as long as what was compiled of it")
    return model, hosted


def _form(key: str, dtypes: tuple[torch.dtype, ...]) -> Form:
    """By two runs in evaluation mode, of two and of three samples."""
    known = _forms.get((key, dtypes))
    if known is not None:
        return known
    model, hosted = _found(key)
    flags = [(module, module.training) for module in model.modules()]
    try:
        with _disable_current_modes(), torch.no_grad():
            model.eval()
            shapes = hosted.shapes(model)
            device = next((tensor.device for tensor in model.parameters()), None)
            two, three = (
                hosted.run(model, *(torch.zeros(n, *s, dtype=d, device=device) for s, d in zip(shapes, dtypes, strict=True))) for n in (2, 3)
            )
    finally:
        for module, training in flags:
            module.training = training
    tensors = []
    for a, b in zip(pytree.tree_leaves(two), pytree.tree_leaves(three), strict=True):
        slope = tuple(more - less for less, more in zip(a.shape, b.shape, strict=True))
        tensors.append((tuple(size - 2 * step for size, step in zip(a.shape, slope, strict=True)), slope, a.dtype))
    found = _forms[(key, dtypes)] = Form(_structure(two), tuple(tensors))
    return found


def _structure(results: Any) -> tuple[str, ...]:
    if isinstance(results, Tensor):
        return "tensor", ""
    kind = next((kind for kind in (dict, list, tuple) if type(results) is kind), None)
    values = () if kind is None else tuple(results.values()) if kind is dict else tuple(results)
    if not values or not all(isinstance(value, Tensor) for value in values):
        what = f"a model that gives a {type(results).__name__} of other things than tensors cannot be compiled"
        raise QfxError(what, where="torch.compile", remedy="give a tensor, or a flat tuple, list or dict of tensors")
    assert kind is not None
    return kind.__name__, *(map(str, results) if kind is dict else map(str, range(len(values))))


def _places(model: nn.Module, hosted: Hosted) -> list[Place]:
    """In the order of ``parameters()`` and ``buffers()``, each tensor once."""
    found = []
    for tables in ("_parameters", "_buffers"):
        seen = set[int]()
        for module in model.modules():
            table = getattr(module, tables)
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found.append(Place(table, name, hosted.moves(module, name)))
    return found


class _StandingIn:
    """The model with these tensors as its state. Whatever shares a tensor shares the new one."""

    def __init__(self, model: nn.Module, places: Sequence[Place], tensors: Sequence[Tensor]) -> None:
        tables: list[dict[str, Any]] = [table for module in model.modules() for table in (module._parameters, module._buffers)]
        self._before = [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
        self._new = {id(place.table[place.name]): tensor for place, tensor in zip(places, tensors, strict=True)}

    def __enter__(self) -> None:
        for table, name, tensor in self._before:
            table[name] = self._new[id(tensor)]

    def __exit__(self, *_: object) -> None:
        for table, name, tensor in self._before:
            table[name] = tensor


def _recording() -> AbstractContextManager[None]:
    """Inside an operator: autograd records again, as it does outside of one."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    guard: AbstractContextManager[None] = torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)
    return guard


def _forward(key: str, inputs: Sequence[Tensor], state: Sequence[Tensor], learns: Sequence[bool]) -> list[Tensor]:
    """The model's results; the number under which its gradient waits (0: none); and what of its state may have moved. ``learns``: of inputs and
    state."""
    model, hosted = _found(key)
    places = _places(model, hosted)
    if len(places) != len(state):
        raise QfxError("the model has other parameters than when it was compiled", where="torch.compile", remedy="compile it again")
    leaves = [x.detach().requires_grad_(learning) for x, learning in zip(inputs, learns, strict=False)]
    for place, tensor, learning in zip(places, state, learns[len(inputs) :], strict=True):
        leaves.append((tensor.detach().clone() if place.moves else tensor.detach()).requires_grad_(learning))
    with _recording(), torch.set_grad_enabled(any(learns)), _StandingIn(model, places, leaves[len(inputs) :]):
        given = hosted.run(model, *leaves[: len(inputs)])
        results: list[Tensor] = pytree.tree_leaves(given)
        moved = [place.table[place.name].detach().clone() for place in places if place.moves]
    token = torch.zeros((), dtype=torch.int64)
    if any(result.requires_grad for result in results):
        waits = next(_numbers)
        _waiting[waits] = Waiting(results, [leaf for leaf, learning in zip(leaves, learns, strict=True) if learning])
        token.fill_(waits)
        weakref.finalize(token.untyped_storage(), _waiting.pop, waits, None)  # whoever keeps the number has an alias of the tensor, maybe not itself
    _structures[key] = _structure(given)
    form = _forms.get((key, tuple(x.dtype for x in inputs)))
    dtypes = [result.dtype for result in results] if form is None else [dtype for _, _, dtype in form.tensors]
    told = [_as_told(result, dtype) for result, dtype in zip(results, dtypes, strict=True)]
    return [*told, token, *moved]


def _as_told(result: Tensor, dtype: torch.dtype) -> Tensor:
    value = result.detach()
    given = value.to(dtype).contiguous()
    if value.dtype is torch.float64 and dtype is torch.float32 and not torch.equal(given.double(), value):
        what = "a result no longer fits float32, as it did when the model was compiled"
        raise ExactnessError(what, where="torch.compile", remedy="compile the model again: torch.compiler.reset()")
    return given.clone() if given.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() else given


forward: CustomOpDef = torch.library.custom_op("qfx::forward", _forward, mutates_args=())


@forward.register_fake
def _(key: str, inputs: Sequence[Tensor], state: Sequence[Tensor], learns: Sequence[bool]) -> list[Tensor]:
    model, hosted = _found(key)
    form = _form(key, tuple(x.dtype for x in inputs))
    x = inputs[0]
    shapes = [[low + step * x.shape[0] if step else low for low, step in zip(base, slope, strict=True)] for base, slope, _ in form.tensors]
    results = [x.new_empty(shape, dtype=dtype) for shape, (_, _, dtype) in zip(shapes, form.tensors, strict=True)]
    moved = [torch.empty_like(tensor) for place, tensor in zip(_places(model, hosted), state, strict=True) if place.moves]
    return [*results, torch.empty((), dtype=torch.int64), *moved]


@torch.library.custom_op("qfx::backward", mutates_args=())
def backward(token: Tensor, grads: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the tensors that learn, which ``like`` resembles, from those of the results."""
    recorded = _waiting.pop(int(token), None)
    if recorded is None:
        raise QfxError(
            "the forward of this backward pass is forgotten",
            where="torch.compile",
            remedy="run backward once after each forward; retain_graph=True and second derivatives are for models that are not compiled",
        )
    chosen = [(result, grad.to(result.dtype)) for result, grad in zip(recorded.results, grads, strict=True) if result.requires_grad]
    with _recording():
        found = torch.autograd.grad([result for result, _ in chosen], recorded.learning, [grad for _, grad in chosen], allow_unused=True)
    given = zip(found, recorded.learning, strict=True)
    return [torch.zeros_like(leaf, requires_grad=False) if grad is None else grad.detach().contiguous().clone() for grad, leaf in given]


@backward.register_fake
def _(token: Tensor, grads: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _key, given, state, learns = inputs
    results = _results(output)
    ctx.save_for_backward(output[results])
    # not the tensors themselves: moving some of them in place, behind the forward, is no change that its gradient would have to hear of
    ctx.like = [(t.shape, t.dtype, t.device) for t, learning in zip((*given, *state), learns, strict=True) if learning]
    ctx.learns, ctx.inputs, ctx.results = list(learns), len(given), results


def _differentiate(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    (token,) = ctx.saved_tensors
    like = [torch.empty((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.like]
    found = iter(torch.ops.qfx.backward(token, [grad.contiguous() for grad in grads[: ctx.results]], like))
    by = [next(found) if learning else None for learning in ctx.learns]
    return None, by[: ctx.inputs], by[ctx.inputs :], None


forward.register_autograd(_differentiate, setup_context=_remember)


class _Function(torch.autograd.Function):
    """The same for ``torch.func``, whose transforms take no operator's gradient but that of such a function."""

    @staticmethod
    def forward(key: str, inputs: int, learns: list[bool], *tensors: Tensor) -> tuple[Tensor, ...]:
        found = _forward(key, tensors[:inputs], tensors[inputs:], learns)
        return tuple(found[: _results(found) + 1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        key, given, learns, *tensors = inputs
        ctx.mark_non_differentiable(output[-1])
        _remember(ctx, (key, tensors[:given], tensors[given:], learns), list(output))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _, inputs, state, _ = _differentiate(ctx, grads)
        return None, None, None, *inputs, *state


def _results(found: Sequence[Tensor]) -> int:
    """How many results the operator gives: they are followed by a number."""
    return next(place for place, tensor in enumerate(found) if tensor.dtype is torch.int64 and not tensor.dim())
