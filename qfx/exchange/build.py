"""From a network with explicit fake-quantizations to the fixed-point model that has Casts there, of those types, and nowhere else."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qfx.capture.inputs import Inputs
from qfx.capture.trace import trace
from qfx.capture.traced import Traced
from qfx.errors import DataError, ExactnessError, QfxError, UnsupportedError, together
from qfx.exchange.affine import AffineCast
from qfx.exchange.exact import FLOAT_BIAS, Known, beside, difference, judged, loosely
from qfx.exchange.grid import Grid
from qfx.exchange.thresholds import Thresholds
from qfx.fixed.arith import Bounds, Interval
from qfx.fixed.type import FixedType, QMode
from qfx.nn.builder import Builder, _Value
from qfx.nn.call import Part
from qfx.nn.fixed_layer import FixedLayer
from qfx.nn.layers import QAvgPool, QBatchNorm, QInput, QLinear, Weighted
from qfx.nn.layers.given import FakeQuant, GivenQuantizer, QOffset, sign_bit
from qfx.nn.layers.reductions.reduce import QReduceMean
from qfx.nn.layers.tables.lookup import QLookup
from qfx.nn.lookup import operator_name, picks
from qfx.nn.model import QuantizedModel, quantizers
from qfx.nn.quantizer import Quantizer
from qfx.recipe import LONGEST_WORD, Override, Recipe, Spec

WIDTHS = (16, 20, 25)
"""Of the constants of a BatchNorm, the first with which it is shown that every cast behind it gives what the source's gives."""

FINER = 10
"""A bias in float has as many bits behind the grid of its products as these constants have, but for so many: 6, 10, 15."""

KEEPS_BETWEEN = ("relu", "relu6", "dropout")
"""What leaves a number between the same two numbers of a grid, beside what moves it or takes the greatest."""

NO_QUANTIZER = (
    "give it a quantizer in the source, take its integers as they are: qfx.integers_of "
    "(`qfx import --integers`), or convert it with its own 16 bits: strict=False"
)
OF_BIAS = "quantize the bias to the grid of the products, or take it as exact arithmetic has it: strict=False"
ONLY_NEAR = (
    "merge a BatchNorm into the layer before it and train on (brevitas.nn.utils.merge_bn), give a slope or factor that few bits hold (0.125), "
    "cast to fewer bits behind it, or take what is near: strict=False"
)
BEHIND_THE_LAST = (
    "give it a quantizer in the source, or leave out what it computes in float at the end: nn.Identity() in its place, of a file output=... (--end)"
)


@dataclass(frozen=True)
class Explicit:
    """A network of torch's layers and functions, with ``FakeQuant`` where the source quantizes activations. ``constants``: the types of weights and
    biases, by the names of their quantizers (``conv1.weight``). ``around``: of layers by their paths, what is cast in front and behind.
    ``numbers``: what the source makes of weights and biases, by the same names."""

    module: nn.Module
    constants: Mapping[str, Grid] = field(default_factory=dict)
    around: Mapping[str, tuple[nn.Module | None, nn.Module | None]] = field(default_factory=dict)
    numbers: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FloatBias:
    """Of a layer whose bias the source has in float: what its results lie ``between`` (``Known.between``), or the numbers of that bias, which a proof
    behind the layer reads."""

    between: tuple[int, ...] = ()
    bias: Tensor | None = None


@dataclass(frozen=True)
class Note:
    """What is not as in the source: ``where``, and why."""

    where: str
    why: str


def fixed(source: Explicit, example: Any, *, strict: bool, input_type: FixedType | None = None) -> tuple[QuantizedModel, tuple[Note, ...]]:
    """The fixed-point model of ``source``, and what in it is not shown to be the source's to the last bit: with ``strict`` nothing.

    ``input_type``: what inputs are cast to where the source computes with them before it quantizes them; they must lie on its grid.
    Raises UnsupportedError, listing all obstacles, for what cannot be had so; DataError for an example that the model does not take.
    """
    with torch.inference_mode(False), torch.no_grad():
        for module in source.module.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.num_batches_tracked is not None:
                module.num_batches_tracked.clamp_(min=1)  # statistics of no batch count as they are: the example says nothing of them
        inputs = Inputs.of(source.module, example)
        traced = trace(source.module, inputs)
        require_all_casts(source.module, traced)
        for path, (before, behind) in source.around.items():
            surround(traced, path, before, behind)
        built: tuple[GivenBuilder, QuantizedModel] | None = None
        for width in WIDTHS if strict else (*WIDTHS, WIDTHS[0]):
            builder = GivenBuilder(traced, _recipe(width), source, input_type)
            try:
                built = builder, builder.build(inputs)
            except UnsupportedError:
                if built is None:
                    raise
                continue  # numbers are too long with longer constants
            if not builder.float_arithmetic:
                break
        assert built is not None
        builder, model = built
        if builder.obstacles and strict:
            raise together(builder.obstacles, where=type(source.module).__name__)
        told = told_recipe(model)
        for layer in model.modules():
            if isinstance(layer, QInput):
                layer.recipe = told
        return model, tuple(Note(error.where, error.what) for error in builder.obstacles)


def require_all_casts(module: nn.Module, traced: Traced) -> None:
    """Refuse a forward that goes another way than the source's, which passed all of its casts."""
    reached = {id(traced.module.get_submodule(str(node.target))) for node in traced.module.graph.nodes if node.op == "call_module"}
    for cast in module.modules():
        if isinstance(cast, FakeQuant | AffineCast) and id(cast) not in reached:
            what = "is run by the source, but not by its forward on plain layers: that asks what class a layer or a value has"
            raise UnsupportedError(what, where=cast.label, remedy="decide in __init__ what a forward does, not by isinstance(layer, QuantConv2d)")


def told_recipe(model: QuantizedModel) -> Recipe:
    """What the model is, as a recipe: the type of each quantizer by its name."""
    overrides = []
    for name, quantizer in quantizers(model):
        spec = quantizer.spec
        changes: dict[str, Any] = {"width": spec.width, "q": spec.q, "o": spec.o, "n": spec.n, "granularity": spec.granularity, "learn": spec.learn}
        changes |= {"signed": bool(quantizer.signed)}
        if spec.granularity == "tensor":
            changes["frac_bits"] = int(quantizer.points())
        overrides.append(Override(glob.escape(name), changes))
    return Recipe(overrides=tuple(overrides))


def _recipe(width: int) -> Recipe:
    """Of what the source has no type for."""
    spec = Spec(width, granularity="channel")
    return Recipe(scale=spec, shift=spec, constant=spec, weight=Spec(8, granularity="channel"))


def surround(traced: Traced, path: str, before: nn.Module | None, behind: nn.Module | None) -> None:
    """Put casts in front of and behind every call of a layer."""
    graph, shapes = traced.module.graph, traced.shapes
    for node in [node for node in graph.nodes if node.op == "call_module" and node.target == path]:
        if before is not None:
            place = f"{path}.input_cast"
            traced.module.add_module(place.replace(".", "_"), before)
            with graph.inserting_before(node):
                cast = graph.call_module(place.replace(".", "_"), (node.args[0],))
            cast.meta.update(node.meta)
            shapes[cast] = shapes[node.args[0]]
            node.args = (cast, *node.args[1:])
        if behind is not None:
            place = f"{path}.output_cast"
            traced.module.add_module(place.replace(".", "_"), behind)
            with graph.inserting_after(node):
                cast = graph.call_module(place.replace(".", "_"), (node,))
            cast.meta.update(node.meta)
            shapes[cast] = shapes[node]
            node.replace_all_uses_with(cast, lambda user, cast=cast: user is not cast)


class GivenBuilder(Builder):
    """Casts stand where the source has them. ``obstacles``: what is not shown to be what the source computes; ``float_arithmetic``: whether longer
    constants could show more of it."""

    source: Explicit
    input_type: FixedType | None
    float_arithmetic: bool

    def __init__(self, traced: Traced, recipe: Recipe, source: Explicit, input_type: FixedType | None) -> None:
        super().__init__(traced, recipe)
        self.source, self.input_type = source, input_type
        self.known: dict[fx.Node, Known] = {}
        self.data: dict[fx.Node, Any] = {}
        self.obstacles: list[UnsupportedError] = []
        self.float_arithmetic = False
        self.at: fx.Node | None = None
        self.joined: dict[fx.Node, Tensor] = {}  # of sums whose bias in float goes into the BatchNorm behind them
        self.near: dict[str, str] = {}  # layers by name: why their bias may count in another way in float32
        self.at_input: set[fx.Node] = set()  # casts of the source that the model's input is

    # Where Casts stand

    def _given(self, node: fx.Node, data: Any, raw: fx.Node, given: dict[fx.Node, Any]) -> None:
        if not isinstance(data, Tensor):
            super()._given(node, data, raw, given)
            return
        label = self._label(node) if self._several() else "input"
        grid = self._grid_of_input(node, label)
        layer = QInput(self.traced.shapes[node], replace(self.recipe, input=replace(grid.spec, granularity="tensor")), label)
        cast = sign_bit(grid, QMode.TRN) if grid.bipolar else grid
        layer.cast = GivenQuantizer(cast, label, also="input")
        path = self._attach(self._free(layer.label), layer)
        checked = layer.checked(data)
        layer.cast.initialize(checked)
        value = _Value(self.graph.call_module(path, (raw,)), layer(data), due=False, path=path, role="input", cast_as="input")
        self._keep(value, Known())
        if self.input_type is not None and not torch.equal(value.data.tensor().double(), checked.double()):
            what = f"the example does not lie on the grid of {self.input_type}, so the input's cast would change it"
            raise DataError(what, where=label, remedy="give inputs on the grid, or the type that they have")
        if grid.bipolar:
            value = self._apply(QOffset(1, -grid.frac_bits[0]), f"{path}_up", [value], "input", None)
        self.values[node] = value

    def _grid_of_input(self, node: fx.Node, label: str) -> Grid:
        """The type of the cast that the source has first, on all ways from its input."""
        found, others = self._first_casts(node)
        grids = {cast.grid for cast in found.values()}
        if self.input_type is not None:
            return Grid.of_type(self.input_type)
        if not others and not grids:
            raise UnsupportedError("is read by nothing", where=label, remedy="leave it out of the model")
        if others or len(grids) != 1:
            what = (
                f"is read by {self.traced.place(others[0])} before it is quantized"
                if others
                else f"is quantized in {len(grids)} ways: {', '.join(map(str, grids))}"
            )
            remedy = "quantize it first and once (a QuantIdentity), or say what type inputs have: input_type=qfx.FixedType(...) (--input-type)"
            raise UnsupportedError(what, where=label, remedy=remedy)
        self.at_input |= set(found)
        return grids.pop()

    def _first_casts(self, node: fx.Node) -> tuple[dict[fx.Node, FakeQuant], list[fx.Node]]:
        """The casts that numbers come to first from a node, moved perhaps, and what reads them else."""
        found: dict[fx.Node, FakeQuant] = {}
        others: list[fx.Node] = []
        for user in self.traced.tensor_users(node):
            module = self.traced.module.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(module, FakeQuant) and (node.op == "placeholder" or (module.grid.axis is None and not module.grid.bipolar)):
                found[user] = module  # (the sign of a zero that pads would be no zero)
            elif user.op != "output" and picks(user, self.traced):
                more, rest = self._first_casts(user)
                found |= more
                others += rest
            elif user.op != "output" and operator_name(user, self.traced).lower() in ("relu", "relu_"):
                more, rest = self._first_casts(user)
                unsigned = more and not rest and not any(cast.grid.signed for cast in more.values())
                found |= more if unsigned else {}  # which makes 0 of what is below 0, as the ReLU does
                others += [] if unsigned else [user]
            else:
                others.append(user)
        return found, others

    def _ready(self, place: fx.Node | Part, layer: FixedLayer, alone: bool) -> _Value:
        return self.values[place]

    def _cast(self, value: _Value) -> _Value:
        return value

    def _settled(self, value: _Value) -> _Value:
        return value

    # What becomes of each operation

    def _convert(self, node: fx.Node, path: str) -> None:
        if node in self.at_input:
            self.values[node] = self.values[node.args[0]]  # type: ignore[index]
            return
        self.at = node
        module = self.traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        start = self.values.get(node.args[0]) if isinstance(module, FakeQuant | Thresholds) else None  # type: ignore[arg-type]
        path = self._place(node, module) if isinstance(module, FakeQuant) else path
        if start is not None and isinstance(module, FakeQuant):
            _check_reads(module, start.data.interval)
        elif start is not None and isinstance(module, Thresholds):
            module.read(start.data.interval, start.data.shape[1])
        super()._convert(node, path)
        if start is not None and self.known[start.node].why:
            self._prove(self.values[node], path)

    def _place(self, node: fx.Node, cast: FakeQuant) -> str:
        """Where a cast is attached; that of a table is a part of it, for entries are its results."""
        source = self.values.get(node.args[0])  # type: ignore[arg-type]
        if source is None or not isinstance(self._layer(str(source.node.target)), QLookup):
            return cast.place
        calls = sum(other.op == "call_module" and other.target == node.target for other in self.traced.module.graph.nodes)
        if calls > 1 or len(self.traced.tensor_users(node.args[0])) > 1 or cast.grid.axis is not None or cast.grid.bipolar:  # type: ignore[arg-type]
            remedy = "put one quantizer of its own behind it, with one scale"
            raise UnsupportedError("rounds what a function by table gives, in several places or with several scales", where=cast.label, remedy=remedy)
        return f"{source.node.target}.output_cast"

    def _apply(self, layer: FixedLayer, path: str, inputs: list[_Value], role: str, norm: fx.Node | None) -> _Value:
        off = self._give(layer, inputs)
        if isinstance(layer, QBatchNorm) and inputs[0].node in self.joined:  # the mean goes with the bias
            layer.running_mean = layer.running_mean - self.joined[inputs[0].node].to(layer.running_mean.dtype)
        try:
            value = super()._apply(layer, path, inputs, role, norm)
        except ExactnessError as error:
            raise UnsupportedError(error.what, where=error.where or path, remedy=f"quantize what it reads; {BEHIND_THE_LAST}") from error
        layer = self._layer(str(value.node.target))
        if isinstance(layer, Weighted):
            self._check_numbers(layer)
        sources = [(source.node, self.known[source.node], source.data) for source in inputs]
        known, known_input = sources[0][1], sources[0][1].reach
        if self.at is None:  # at the input
            known = Known()
        elif not isinstance(layer, GivenQuantizer):
            known = judged(layer, path, self.at, sources, value.data)
            if not known.why and layer.name in self.near:
                known = Known(self.near[layer.name], path)
            elif not known.why and off.between:
                known = replace(known, between=off.between, where=path)
            elif off.bias is not None:
                known = self._loose(layer, path, value, off.bias, known_input or sources[0][2].interval, known)
        elif known.between:
            known = self._cast_beside(layer, known)
        elif known.why and known.start is not None:
            known = known.through(layer, self.at)
        else:
            known = Known(known.why, known.where)
        self._keep(value, known)
        return value

    def _give(self, layer: FixedLayer, inputs: list[_Value]) -> FloatBias:
        """Put the quantizers of the source into a layer. What becomes of a bias that has none."""
        for role in ("weight", "bias") if isinstance(layer, Weighted) else ():
            mine: Quantizer = getattr(layer, f"{role}_cast")
            grid = self.source.constants.get(mine.name)
            if grid is not None:
                setattr(layer, f"{role}_cast", GivenQuantizer(grid, mine.name, channel_axis=0, also=mine.also))
        if isinstance(layer, QAvgPool | QReduceMean):
            count, mine = layer.divisor if isinstance(layer, QAvgPool) else layer.count, layer.reciprocal_cast
            if count & (count - 1) == 0:
                layer.reciprocal_cast = GivenQuantizer(Grid(1, False, (count.bit_length() - 1,)), mine.name, channel_axis=0, also=mine.also)
        return self._give_bias(layer, inputs[0]) if isinstance(layer, Weighted) else FloatBias()

    def _give_bias(self, layer: Weighted, x: _Value) -> FloatBias:
        """A bias in float, beside products on a grid: what no cast behind it can tell from it, if float32 cannot either; in front of a BatchNorm a
        part of that; else so many bits of it that what follows can be shown to give the same."""
        mine, weights = layer.bias_cast, self.source.constants.get(layer.weight_cast.name)
        exact = not (self.known[x.node].why or self.known[x.node].between)
        floats = isinstance(layer.bias, nn.Parameter) and mine.name not in self.source.constants
        if weights is None or weights.scales or weights.axis not in (None, 0) or not exact or not floats or self.at is None:
            return FloatBias()
        theirs = layer.bias.detach().double().reshape(-1)  # type: ignore[union-attr]
        numbers, grids, why = beside(layer, weights.frac_bits, x.data.interval)
        on_grid = bool((numbers == theirs).all())
        points = tuple(grid if on_grid else grid + 1 for grid in grids)
        if not weights.bipolar and (on_grid or self._cast_coarsely(self.at, min(grids))):
            given = self._with_bias(layer, numbers, points)
            if given and why:
                self.near[layer.name] = why
            return FloatBias(() if on_grid or not given else grids)
        shape = self.traced.shapes[self.at]
        if shape[0] != len(theirs) or (isinstance(layer, QLinear) and len(shape) > 1):  # not one number for each channel
            return FloatBias(grids if not weights.bipolar and self._with_bias(layer, numbers, points) else ())
        if self._normalized_alone(self.at):
            layer.bias = None
        elif not self._with_bias(layer, theirs, tuple(grid + self.recipe.constant.width - FINER for grid in grids)):
            return FloatBias()
        return FloatBias(bias=theirs)

    def _with_bias(self, layer: Weighted, numbers: Tensor, points: tuple[int, ...]) -> bool:
        """Whether the bias of a layer could be made ``numbers``, in words that hold them with so many fractional bits."""
        mine, weight = layer.bias_cast, layer.weight
        width = int(float((numbers.abs() * torch.exp2(torch.tensor(points, dtype=torch.float64))).ceil().max())).bit_length() + 1
        if width > LONGEST_WORD or not torch.equal(numbers, numbers.to(weight.dtype).double()):
            return False
        layer.bias = nn.Parameter(numbers.to(weight.dtype))
        layer.bias_cast = GivenQuantizer(Grid(width, True, points, 0), mine.name, channel_axis=0, also=mine.also)
        return True

    def _cast_coarsely(self, node: fx.Node, finest: int) -> bool:
        """Whether all that reads a value are casts to fewer fractional bits, behind what leaves numbers between the same two of a grid at most."""
        for user in self.traced.tensor_users(node):
            module = self.traced.module.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(module, FakeQuant):
                if module.grid.bipolar or max(module.grid.frac_bits) + 1 > finest:
                    return False
            elif not (picks(user, self.traced) or operator_name(user, self.traced).lower().rstrip("_") in KEEPS_BETWEEN):
                return False
            if not isinstance(module, FakeQuant) and not self._cast_coarsely(user, finest):
                return False
        return True

    def _normalized_alone(self, node: fx.Node) -> bool:
        """Whether nothing but a BatchNorm reads a layer's result, and both are called once."""
        users = self.traced.tensor_users(node)
        if len(users) != 1 or node.op != "call_module" or users[0].op != "call_module":
            return False
        norm = self.traced.module.get_submodule(str(users[0].target))
        calls = [other.target for other in self.traced.module.graph.nodes if other.op == "call_module"]
        alone = calls.count(node.target) == calls.count(users[0].target) == 1
        return isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None and alone

    def _loose(self, layer: FixedLayer, path: str, value: _Value, bias: Tensor, x: Bounds, known: Known) -> Known:
        """Of sums with a bias in float: exact where float32 holds them, else with all that is known of them."""
        assert isinstance(layer, Weighted)
        if layer.bias is None:  # whatever is known of it, it goes into the mean behind
            self.joined[value.node] = bias
            layer.register_load_state_dict_pre_hook(_refuse_bias)  # type: ignore[no-untyped-call]
        loose = loosely(layer, bias, x)
        if loose is None:
            return known if known.why else Known(FLOAT_BIAS, path)
        if not known.why and torch.equal(loose.ours, loose.theirs):
            return known
        return Known(FLOAT_BIAS, path, value.node, loose=loose)

    def _cast_beside(self, layer: GivenQuantizer, known: Known) -> Known:
        """Behind a cast whose steps lie on the grid between whose numbers both are, they are the same."""
        if layer.grid.bipolar or max(layer.grid.frac_bits) + 1 > min(known.between):
            what = f"{FLOAT_BIAS}, and is cast to {max(layer.grid.frac_bits)} fractional bits, as fine as its products"
            self._refuse(Known(what, known.where))
        return Known()

    def _check_numbers(self, layer: Weighted) -> None:
        """Refuse a weight or bias that is another number here than in the source."""
        for quantizer, constant in zip((layer.weight_cast, layer.bias_cast), layer.constants(), strict=True):
            theirs = self.source.numbers.get(quantizer.name)
            if theirs is None or constant is None:
                continue
            ours = constant.value.detach().double().reshape(-1)
            other = (theirs if quantizer is layer.bias_cast else layer.as_cast(theirs)).double().reshape(-1)
            grid = self.source.constants.get(quantizer.name)
            if not torch.equal(ours, other) and not (grid is not None and grid.scales):
                place = int((ours != other).nonzero()[0, 0])
                what = f"number {place} is {float(other[place]):g} in the source, and {float(ours[place]):g} as {quantizer}"
                raise UnsupportedError(what, where=quantizer.name, remedy="please report this defect, with the quantizer's class")

    # What is known of the numbers

    def _keep(self, value: _Value, known: Known) -> None:
        self.known[value.node], self.data[value.node] = known, value.data

    def _prove(self, value: _Value, path: str) -> None:
        """The cast gives what the source's gives, or that is an obstacle."""
        known = self.known[value.node]
        if known.start is None:
            self._refuse(known, OF_BIAS if known.why in self.near.values() else NO_QUANTIZER)
        else:
            bounds = self.known[known.start].reach or self.data[known.start].interval
            start = self.data[known.start]
            bounds = known.loose.sums if known.loose is not None else bounds.hull if known.shape else bounds
            own = start.interval.hull if known.shape else start.interval
            why = difference(self.traced, known, bounds, known.shape or tuple(start.shape[1:]), own)
            if why:
                self.float_arithmetic = True
                self._refuse(replace(known, why=f"{known.why}, and {why}"), ONLY_NEAR)
        self.known[value.node] = Known()

    def _refuse(self, known: Known, remedy: str = NO_QUANTIZER) -> None:
        if not any(error.where == known.where for error in self.obstacles):
            self.obstacles.append(UnsupportedError(known.why, where=known.where, remedy=remedy))

    def _output(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            known = self.known[self.values[source].node] if source in self.values else Known()
            why = known.why or (FLOAT_BIAS if known.between else "")
            if why:
                self._refuse(replace(known, why=f"{why}, and no quantizer follows before the output"), BEHIND_THE_LAST)
        super()._output(node)

    def build(self, inputs: Inputs) -> QuantizedModel:
        try:
            return super().build(inputs)
        except QfxError as error:
            if self.obstacles and isinstance(error, UnsupportedError):
                raise together([*self.obstacles, error], where=type(self.source.module).__name__) from error
            raise


def _refuse_bias(layer: nn.Module, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
    """Before a layer loads a state: one with a bias is of the source, whose BatchNorm has a mean without it."""
    errors: list[str] = rest[-1]
    if f"{prefix}bias" in state:
        errors.append(
            f"{prefix}bias is a part of the mean of the BatchNorm behind it, which this state has without: import the model with these weights"
        )


def _check_reads(cast: FakeQuant, bounds: Bounds) -> None:
    """Refuse a truncation that the source does otherwise: of numbers that lie on a finer grid than it takes, or that a limit would change."""
    hull, grid = bounds.hull, cast.grid
    if cast.reads is not None and hull.frac_bits > cast.reads:
        what = f"truncates numbers with {hull.frac_bits} fractional bits that it first rounds to {cast.reads}"
        raise UnsupportedError(what, where=cast.label, remedy="quantize what it reads to the scale that it is told")
    limits = Interval.of(grid.type)
    if cast.holds_all and (
        hull.lo * 2.0**-hull.frac_bits < limits.lo * 2.0**-limits.frac_bits or hull.hi * 2.0**-hull.frac_bits > limits.hi * 2.0**-limits.frac_bits
    ):
        what = f"truncates numbers that {grid.width} bits do not hold, without a limit"
        raise UnsupportedError(what, where=cast.label, remedy="say as many input bits as the numbers have, or use version 2 of Trunc")
