"""``QuantizedModel``: what ``qfx.quantize`` returns, how it loads checkpoints, and how it is found inside what wraps it."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qfx.capture.any_names import AnyNameModule
from qfx.errors import ModelFileError, QfxError
from qfx.fixed.layout import PLAIN
from qfx.nn import accumulator
from qfx.nn.casts import told
from qfx.nn.casts.format_table import Format, FormatTable
from qfx.nn.casts.room import may_make_room
from qfx.nn.casts.told import Question
from qfx.nn.compiled import operators
from qfx.nn.compiled.operators import host
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QInput, Weighted
from qfx.nn.layers.batch_norm import Norm, QBatchNorm
from qfx.nn.layers.elementwise.held import HeldConstant
from qfx.nn.layers.products.chain import shortened
from qfx.nn.layers.products.computed import settle
from qfx.nn.layers.products.materialize import materialize_for
from qfx.nn.layers.selecting.embedding import QEmbedding
from qfx.nn.layers.tables.lookup import Tabled
from qfx.nn.quantizer import Quantizer
from qfx.nn.recording import refusal, refuse_recording
from qfx.recipe import Recipe

_LISTED = 6
"""An error lists so many more names."""


class QuantizedModel(AnyNameModule):
    """A network in fixed point: an ``fx.GraphModule`` whose checkpoints carry the types of its casts.

    ``state_dict`` has, for each quantizer, its binary points, where they started (``frac_start``) and its type (``cast_type``: word length, sign and
    modes, as integers), and of ranges that follow the numbers whether they are fixed (``range_fixed``). ``load_state_dict`` takes a float model's
    checkpoint, which has none of them (the present ones stay), and those of a quantized model of the same types; of one that was materialized
    (``materialize``), which this one then is too. Raises ModelFileError, strict or not, for one of other types. A load that fails changes nothing.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "QuantizedModel") -> None:
        super().__init__(root, graph, class_name)
        settle(self, root, fresh=True)

    def __repr__(self) -> str:
        """One table of formats; that of a layer is torch's."""
        return str(formats(self))

    def __str__(self) -> str:
        return str(formats(self))

    def _repr_html_(self) -> str:
        return formats(self).html()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = super().__deepcopy__(memo)
        settle(made, self)
        return made

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but all or nothing: after an error, torch's own included, the model is as it was."""
        kept = [(module, dict(module._parameters), dict(module._buffers), dict(module._modules)) for module in self.modules()]
        values = [(tensor, tensor.detach().clone()) for tensor in (*self.parameters(), *self.buffers())]
        try:
            materialize_for(self, state_dict)
            return super().load_state_dict(state_dict, strict, assign)
        except BaseException:
            for module, parameters, buffers, parts in kept:
                for place in (module._parameters, module._buffers, module._modules):
                    place.clear()
                module._parameters.update(parameters)
                module._buffers.update(buffers)
                module._modules.update(parts)
            with torch.no_grad():
                for tensor, value in values:
                    tensor.copy_(value)
            raise

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Before the children load: refuse what does not fit while nothing has changed, and complete a float checkpoint by what is here."""
        layers = list(_quantizers(self, prefix))
        found = [check for path, layer in layers for check in (layer.misfit(state_dict, path), accumulator.misfit(layer, state_dict, path))]
        misfits = [misfit for misfit in found if misfit is not None]
        if misfits:
            first, *others = misfits
            more = f" (and so for {len(others)} more: {', '.join(other.where for other in others[:_LISTED])}{'...' * (len(others) > _LISTED)})"
            raise ModelFileError(first.what + more * bool(others), where=first.where, remedy=first.remedy)
        _rename_constants(self, state_dict, prefix)
        if not any(name in state_dict for path, layer in layers for name in _names(layer, path)):
            state_dict.update({name: value for path, layer in layers for name, value in layer.state_dict(prefix=path, keep_vars=True).items()})
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[no-untyped-call, unused-ignore]

    def recompile(self) -> Any:
        code = super().recompile()
        own: Any = type(self)  # every GraphModule has a class of its own, into which torch has just put the generated forward
        calls = Counter(str(node.target) for node in self.graph.nodes if node.op == "call_module")
        repeated = tuple(path for path, count in calls.items() if count > 1)
        generated = shortened(self) or own.forward
        generated = _exact(_told(_of_one_start(generated, repeated) if repeated else generated))
        own.forward = _guarded(generated, host(self, generated, _input_shapes, _moves))
        return code

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script calls this."""
        raise refusal("torch.jit.script")


def _guarded(forward: Callable[..., Any], key: str) -> Callable[..., Any]:
    """The forward, run as it is, as one operator for torch.compile and torch.func, and kept from those who would record it. ``key``: of the model
    among those that the operator finds."""

    @functools.wraps(forward)
    def run(model: nn.Module, *args: Any) -> Any:
        refuse_recording()
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return operators.call(key, model, args)
        return forward(model, *args)

    return run


def _input_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """Of each argument, a batch apart."""
    assert isinstance(model, fx.GraphModule)
    readers = {node.args[0]: model.get_submodule(str(node.target)) for node in model.graph.nodes if node.args and node.op == "call_module"}
    inputs = [readers.get(node) for node in model.graph.nodes if node.op == "placeholder"]
    return [layer.shape for layer in inputs if isinstance(layer, QInput)]


def _moves(layer: nn.Module, name: str) -> bool:
    """Whether a forward may move this tensor of a layer: statistics, and binary points that make room or follow the numbers."""
    if isinstance(layer, Norm):
        return name in ("running_mean", "running_var", "num_batches_tracked")
    if not isinstance(layer, Quantizer) or name not in ("frac_bits", "frac_start", "int_bits"):
        return False
    return type(layer) is not Quantizer or layer.spec.learn_width or may_make_room(layer)


def _exact(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward, whatever torch.autocast would round: what is around the model may be computed in bfloat16, the model is fixed point."""

    @functools.wraps(forward)
    def run(model: nn.Module, *args: Any) -> Any:
        device = args[0].device.type if args and isinstance(args[0], torch.Tensor) else "cpu"
        if not torch.is_autocast_enabled(device):
            return forward(model, *args)
        with torch.autocast(device, enabled=False):
            return forward(model, *args)

    return run


def _told(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward, where the numbers lie on a GPU: the host is told at its start of all that it has to know, and waits once. In a CUDA graph it is
    told what it was told the last time, and where that is no longer so the results are NaN, and so is each gradient."""

    @functools.wraps(forward)
    def run(model: nn.Module, *args: Any) -> Any:
        if not any(map(told.is_far, args)) or torch.compiler.is_dynamo_compiling():
            return forward(model, *args)
        with torch.no_grad():
            questions = [question for question in _questions(model, args) if told.is_far(question.numbers)]
        if not questions:
            return forward(model, *args)
        known, sizes = model.__dict__.get("_told"), [question.numbers.numel() for question in questions]
        if not told.is_recording():
            there = told.flat(questions)
            model.__dict__["_told"] = known = told.Known(there, there.cpu(), sizes, [] if known is None else known.kept)
            with told.at_once(told.by_layer(questions, known.here)):
                return forward(model, *args)
        if known is None or known.sizes != sizes:
            what = "a CUDA graph of a model that has not run like this before"
            raise QfxError(
                what, where="torch.cuda.graph", remedy="run it three times as it is to be recorded, in a stream of its own, as PyTorch says"
            )
        if not known.kept or known.kept[-1] is not known.there:
            known.kept.append(known.there)
        with told.at_once(told.by_layer(questions, known.here)):
            results = forward(model, *args)
        with torch.no_grad():
            factor = torch.where(told.holds(questions, known.there, known.here), 1.0, torch.nan)  # 1.0 keeps every bit
        return pytree.tree_map_only(Tensor, lambda result: result * factor.to(result if result.is_floating_point() else factor), results)

    return run


def _questions(model: nn.Module, args: tuple[Any, ...]) -> Iterator[Question]:
    """Of all layers, each once."""
    assert isinstance(model, fx.GraphModule)
    given, seen = iter(args), set[nn.Module]()
    values: dict[fx.Node, Any] = {}
    for node in model.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given, None)
        if node.op != "call_module":
            continue
        values[node] = called = model.get_submodule(str(node.target))
        arguments = [values.get(source) for source in node.all_input_nodes]
        for layer in called.modules():
            if isinstance(layer, FixedLayer) and layer not in seen and all(map(_is_whole, (layer, *arguments))):
                seen.add(layer)
                yield from layer.questions(arguments if layer is called else ())


def _is_whole(layer: object) -> bool:
    """Whether a module's parameters are all here: not those that several processes share out, before they are gathered."""
    return not isinstance(layer, nn.Module) or all(type(tensor) in PLAIN for tensor in layer.parameters())


def _of_one_start(forward: Callable[..., Any], repeated: tuple[str, ...]) -> Callable[..., Any]:
    """The forward in which all calls of a BatchNorm compute with the statistics at its start: those that evaluation would compute with."""

    @functools.wraps(forward)
    def run(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as forwards:
            for layer in (model.get_submodule(path) for path in repeated):
                if isinstance(layer, QBatchNorm):
                    forwards.enter_context(layer.one_forward())
            return forward(model, *args, **kwargs)

    return run


def _quantizers(model: nn.Module, prefix: str) -> Iterator[tuple[str, Quantizer]]:
    """Every initialized quantizer with the prefix of its names in a state_dict."""
    for path, layer in model.named_modules():
        if isinstance(layer, Quantizer) and layer.is_initialized:
            yield f"{prefix}{path}.", layer


def _rename_constants(model: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Give the constants and weights in a float checkpoint that no module of torch holds the names that they have here; what is computed of others
    stays as it is here."""
    held = [(f"{prefix}{path}.", layer) for path, layer in model.named_modules() if isinstance(layer, HeldConstant | Weighted | QEmbedding)]
    names = {path + own: (prefix + theirs if theirs else "", layer, own) for path, layer in held for own, theirs in layer.float_names().items()}
    for ours, (theirs, layer, name) in names.items():
        if theirs in state_dict:
            state_dict.setdefault(ours, state_dict[theirs])
        elif not theirs:
            state_dict.setdefault(ours, layer.get_buffer(name))
    read = {prefix + theirs for layer in model.modules() if isinstance(layer, FixedLayer) for theirs in layer.float_tensors}
    own = model.state_dict(prefix=prefix, keep_vars=True) if read or names else {}
    for theirs in read | {theirs for theirs, _, _ in names.values()}:
        if theirs not in names and theirs not in own:
            state_dict.pop(theirs, None)


def _names(layer: Quantizer, prefix: str) -> list[str]:
    """What a checkpoint calls the learned parameters of a quantizer."""
    return [prefix + name for name, _ in layer.named_parameters(recurse=False)]


def graph_module(qmodel: nn.Module) -> QuantizedModel:
    """``qmodel`` itself, if it came from ``quantize``, or the quantized model that it wraps (an ``AveragedModel``, ``DataParallel``, a compiled one).

    Raises QfxError for anything else; for a module that holds a quantized model among others it says where.
    """
    inner = unwrapped(qmodel)
    if isinstance(inner, QuantizedModel):
        return inner
    held = [name for name, module in qmodel.named_modules() if isinstance(module, QuantizedModel)] if isinstance(qmodel, nn.Module) else []
    remedy = f"give its quantized part, .{held[0]}" if held else "make one with qfx.quantize(model, example_input)"
    raise QfxError("is not a quantized model", where=type(qmodel).__name__, remedy=remedy)


def quantized_parts(model: nn.Module) -> list[QuantizedModel]:
    """The quantized models in ``model``, itself or parts of a float one. Raises QfxError where there are none."""
    found = [module for module in model.modules() if isinstance(module, QuantizedModel)] if isinstance(model, nn.Module) else []
    return found or [graph_module(model)]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that compute the same with it: DataParallel, DistributedDataParallel, AveragedModel, torch.compile."""
    while True:
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | torch.optim.swa_utils.AveragedModel):
        module = model.module
        return module if isinstance(module, nn.Module) else None
    # torch.compile's wrapper; its class is slow to import
    return model._modules["_orig_mod"] if isinstance(model, nn.Module) and "_orig_mod" in model._modules else None


def quantizers(qmodel: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """(name, quantizer) of every quantizer in use, in the order of the network; the names are those that recipes match."""
    module, seen = graph_module(qmodel), set[int]()
    for node in module.graph.nodes:
        if node.op != "call_module":
            continue
        for layer in module.get_submodule(str(node.target)).modules():
            if isinstance(layer, Quantizer) and layer.is_initialized and id(layer) not in seen:
                seen.add(id(layer))
                yield layer.name, layer


def formats(qmodel: nn.Module) -> FormatTable:
    """The table that printing the model shows."""
    module = graph_module(qmodel)
    casts = []
    for name, cast in quantizers(module):
        element, int_bits, _ = cast.types()
        layer, _, role = name.rpartition(".")
        learned = float(cast.word_lengths().mean()) if cast.spec.learn_width else None
        casts.append(Format(layer or role, role if layer else "", element, int_bits, learned, cast.off))
    layers = [(str(node.target), module.get_submodule(str(node.target))) for node in module.graph.nodes if node.op == "call_module"]
    kinds = {getattr(layer, "name", "") or path: type(layer).__name__.removeprefix("Q") for path, layer in layers if not isinstance(layer, Quantizer)}
    notes = {path: layer.extra_repr() for path, layer in layers if isinstance(layer, Tabled)}
    return FormatTable(tuple(casts), tuple(kinds.items()), tuple(notes.items()))


def recipe_of(qmodel: nn.Module) -> Recipe:
    """The recipe that ``qmodel`` was made with. QfxError if it did not come from ``quantize``."""
    return next(layer.recipe for layer in graph_module(qmodel).modules() if isinstance(layer, QInput))


def left_out_of(qmodel: nn.Module) -> tuple[str, ...]:
    """What ``qmodel`` was made without because its recipe leaves it out (``Recipe.tail``), and where that stood in the float model."""
    return next(layer.left_out for layer in graph_module(qmodel).modules() if isinstance(layer, QInput))
