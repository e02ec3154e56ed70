"""The arithmetic of layers and their ROMs: whole designs bit for bit, what is refused and why, and how many bits the ROMs take."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hardware_models import chain, const, scalar
from random_schedules import random_schedule
from support.bundles import build_bundle

from qfx.errors import ProjectError
from qfx.fixed.arith import Interval
from qfx.fixed.digits import csd
from qfx.fixed.type import FixedType
from qfx.hardware.design import arithmetic, dsp
from qfx.hardware.design import design as d
from qfx.hardware.design.arithmetic import MAX_DIGITS, choices, digit_form, lanes_per_element, product_type, rom_shape
from qfx.hardware.design.lower import lower
from qfx.hardware.design.schedule import ARITHMETIC, Folding, Schedule
from qfx.hardware.emit.emit import emit_sources
from qfx.hardware.emit.spelling import pack_weights
from qfx.ir.graph import Graph
from qfx.ir.interpret import quantize_input, run_raw
from qfx.operators import Cast, Const, Conv, Linear, Relu, Reshape
from qfx.testing import adversarial_inputs, assert_bit_exact, random_graph

S8, U8 = FixedType(8, 8), FixedType(8, 8, signed=False)
PAIRS = ("auto", "dsp", "lut", "shift", "pair", "pair27")


def network(bits: int = 5) -> Graph:
    """A grouped, a depthwise and a dense convolution and a linear layer, all with weights and inputs of so many bits."""
    cast = Cast(scalar(f"ap_ufixed<{bits},3,AP_RND,AP_SAT>"))
    return chain(
        "network",
        (4, 5, 4),
        Conv(const(30, 4, 2, 3, 3, bits=bits), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
        cast,
        Conv(const(31, 4, 1, 3, 3, bits=bits), const(32, 4, frac_bits=5), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
        cast,
        Conv(const(33, 6, 4, 2, 2, bits=bits), const(34, 6, frac_bits=7), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        Relu(),
        cast,
        Reshape((72,)),
        Linear(const(34, 4, 72, bits=bits), None),
    )


@pytest.mark.usefixtures("gxx")
def test_every_arithmetic_in_a_design(tmp_path: Path) -> None:
    graph = network(4)
    layers = {"conv0": (2, 6), "conv2": (2, 1), "conv4": (6, 8), "linear8": (4, 36)}
    designs = []
    for name in ARITHMETIC:
        foldings = {layer: Folding(pe, simd, name) for layer, (pe, simd) in layers.items()}
        if name in dsp.PACKED:
            foldings |= {"conv0": Folding(2, 6, "pair"), "conv2": Folding(2, 1)}  # two outputs a group, and one
        if name in dsp.GRIDS:
            foldings = {"conv0": Folding(2, 6, name, pixels=4), "conv2": Folding(2, 1), "conv4": Folding(6, 8, name, pixels=2)}
        designs.append((graph, Schedule.of(foldings)))
    bundle = build_bundle(designs, tmp_path, flags=("-Werror", "-O1"))
    text = (next(tmp_path.glob("design_3*")) / "src" / "layers.h").read_text()
    assert text.count("qfx::mul_shift<") == len(layers)
    x = adversarial_inputs(graph, np.random.default_rng(0), 6)
    expected = run_raw(graph, x)
    for index in range(len(designs)):
        assert_bit_exact(bundle.run_from_raw(index, quantize_input(graph, x)), expected, names=(ARITHMETIC[index], "interpreter"))
    wrong = expected.copy()
    wrong[0, 0] += 1
    with pytest.raises(AssertionError):
        assert_bit_exact(bundle.run_from_raw(3, quantize_input(graph, x)), wrong)


def any_arithmetic(graph: Graph, rng: np.random.Generator) -> Schedule:
    """A random folding, and for each layer any arithmetic that it can have; the rare ones more often."""
    folded = random_schedule(graph, rng)
    foldings = dict(folded.foldings)
    design = lower(graph, folded)
    for process, node in zip(design.processes, design.nodes, strict=True):
        if isinstance(process, d.MatVec):
            possible = choices(process.weights, process.input.type, pe=process.pe, depthwise=process.depthwise)
            foldings[node] = replace(foldings[node], arithmetic=str(rng.choice(possible[-3:])))
    return Schedule.of(foldings, input_parallel=folded.input_parallel, output_parallel=folded.output_parallel)


@pytest.mark.usefixtures("gxx")
def test_any_arithmetic_in_random_graphs(tmp_path: Path) -> None:
    seed = int(np.random.default_rng().integers(1 << 32))
    print(f"seed {seed}")  # shown by pytest if the test fails
    rng = np.random.default_rng(seed)
    graphs = [graph for graph in (random_graph(rng) for _ in range(60)) if any(isinstance(node.op, Conv | Linear) for node in graph.nodes)][:10]
    designs = [(graph, any_arithmetic(graph, rng)) for graph in graphs]
    bundle = build_bundle(designs, tmp_path, flags=("-Werror", "-O1"))
    for index, (graph, schedule) in enumerate(designs):
        x = adversarial_inputs(graph, rng, 4)
        try:
            assert_bit_exact(bundle.run_from_raw(index, quantize_input(graph, x)), run_raw(graph, x), names=("C simulation", "interpreter"))
        except AssertionError as error:
            raise AssertionError(f"{graph.name} with {schedule}: {error}") from error


@pytest.mark.usefixtures("gxx")
def test_as_many_weights_as_resnet20_compile_with_little_memory(tmp_path: Path) -> None:
    """270,000 of them, one number a word: the most elements. g++ takes its header files' time, and some hundred MiB."""
    graph = chain("large", (1000,), Linear(const(5, 270, 1000, bits=8), None), Cast(scalar("ap_fixed<8,8,AP_RND,AP_SAT>")))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    bundle = build_bundle([(graph, Schedule())], tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 60
    assert after.ru_maxrss < 2 << 20  # KiB, of the largest process
    x = adversarial_inputs(graph, np.random.default_rng(1), 2)
    assert_bit_exact(bundle.run_from_raw(0, quantize_input(graph, x)), run_raw(graph, x))


@pytest.mark.parametrize(
    ("bits", "x", "pe", "depthwise", "expected"),
    [
        (8, U8, 2, False, PAIRS),
        (8, S8, 2, False, PAIRS),
        (8, U8, 1, False, ("auto", "dsp", "lut", "shift")),
        (8, U8, 2, True, ("auto", "dsp", "lut", "shift")),
        (9, U8, 2, False, ("auto", "dsp", "lut", "pair", "pair27")),
        (11, U8, 2, False, ("auto", "dsp", "lut")),
        (4, FixedType(18, 18, signed=False), 2, False, ("auto", "dsp", "lut", "shift")),
        (2, FixedType(18, 18), 2, False, PAIRS),
        (4, FixedType(4, 4), 4, False, tuple(name for name in ARITHMETIC if name not in dsp.GRIDS)),
        (4, FixedType(4, 4), 3, False, ("auto", "dsp", "lut", "shift", "pair", "triple", "pair27", "triple27")),
        (8, U8, 8, False, PAIRS),
        (2, FixedType(18, 18, signed=False), 2, False, ("auto", "dsp", "lut", "shift")),
    ],
)
def test_choices(bits: int, x: FixedType, pe: int, depthwise: bool, expected: tuple[str, ...]) -> None:
    weights = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    assert choices(weights, x, pe=pe, depthwise=depthwise) == expected


@pytest.mark.parametrize(
    ("bits", "x", "pe", "pixels", "depthwise", "expected"),
    [
        (4, FixedType(4, 4, signed=False), 2, 2, False, ("grid", "grid27")),
        (4, FixedType(4, 4), 3, 4, False, ("grid", "grid27")),
        (4, FixedType(4, 4), 2, 1, False, ()),
        (4, FixedType(4, 4), 2, 3, False, ()),
        (4, FixedType(4, 4), 1, 2, False, ()),
        (4, FixedType(4, 4), 2, 2, True, ()),
        (6, FixedType(6, 6), 2, 2, False, ("grid27",)),
        (3, U8, 2, 2, False, ("grid", "grid27")),
        (8, U8, 2, 2, False, ()),
        (2, FixedType(18, 18), 2, 2, False, ()),  # two numbers do not fit the narrow port
    ],
)
def test_choices_of_several_pixels(bits: int, x: FixedType, pe: int, pixels: int, depthwise: bool, expected: tuple[str, ...]) -> None:
    weights = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    assert tuple(name for name in choices(weights, x, pe=pe, pixels=pixels, depthwise=depthwise) if name in dsp.GRIDS) == expected


def test_nine_bits_of_few_digits_may_shift() -> None:
    weights = np.array([256, -255, 0, 192])
    assert "shift" in choices(weights, U8, pe=1)
    assert [len(csd(w)) for w in weights.tolist()] == [1, 2, 0, 2]


@pytest.mark.parametrize(
    ("layer", "folding", "message"),
    [
        ("conv0", Folding(1, 1, "pair"), "conv0: arithmetic 'pair': PE=1 outputs do not fill a DSP block of 2 products"),
        ("conv4", Folding(3, 8, "quad"), "conv4: arithmetic 'quad': PE=3 outputs do not fill a DSP block of 4 products"),
        ("conv2", Folding(2, 1, "pair"), "conv2: arithmetic 'pair': its outputs share no input"),
        ("conv2", Folding(2, 1, "grid", pixels=2), "conv2: arithmetic 'grid': its outputs share no input"),
        ("conv4", Folding(2, 8, "grid27"), "conv4: arithmetic 'grid27': it makes the products of 2 pixels in a block, which do not divide pixels=1"),
        ("conv4", Folding(1, 8, "grid", pixels=2), "conv4: arithmetic 'grid': PE=1 outputs do not fill a DSP block of 2 outputs"),
    ],
)
def test_refusals_name_the_node_and_the_remedy(layer: str, folding: Folding, message: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(message)) as caught:
        lower(network(), Schedule.of({layer: folding}))
    assert "another arithmetic" in str(caught.value)


def test_refusals_report_what_would_be_needed() -> None:
    many = chain("many", (4,), Linear(Const(np.array([[85 + 256, 1, 1, 1]] * 2), 4), None))
    assert len(csd(341)) == MAX_DIGITS + 1
    with pytest.raises(ProjectError, match="its weights need 5 signed digits, more than 4"):
        lower(many, Schedule.of({"linear0": Folding(1, 1, "shift")}))
    digits = [(6, 4, 2, 0), (56, 54, 52, 50)]
    far = np.array([sign * sum(1 << shift for shift in shifts) for shifts in digits for sign in (-1, 1)] + [0])
    with pytest.raises(ProjectError, match="the 4 signed digits of a weight take 28 bits, more than 24"):
        arithmetic.check("shift", far, FixedType(4, 4), pe=1, depthwise=False, where="far")
    with pytest.raises(ProjectError, match="its products have 65 bits, more than 64"):
        arithmetic.check("shift", np.array([1 << 57]), S8, pe=1, depthwise=False, where="long")
    wide = chain("wide", (4,), Linear(const(1, 2, 4, bits=10), None), cast="ap_fixed<12,4>")
    with pytest.raises(
        ProjectError, match=r"2 weights of 10 bits lie at most 15 bits apart .* products have 21 bits, of which at most 2 can be found"
    ):
        lower(wide, Schedule.of({"linear0": Folding(2, 1, "pair")}))
    with pytest.raises(ProjectError, match="an input takes 19 bits, but a DSP block multiplies 25 by 18 bits"):
        arithmetic.check("triple", np.array([-1, 1]), FixedType(18, 18, signed=False), pe=3, depthwise=False, where="wide")
    long = (
        r"2 weights of 8 bits on 27 bits of a DSP block's port and 2 inputs on 18 leave their products at most 9 bits apart, but these have 16 bits"
    )
    with pytest.raises(ProjectError, match=long):
        arithmetic.check("grid27", np.array([-128, 127]), U8, pe=2, depthwise=False, where="long", pixels=2)
    with pytest.raises(ProjectError, match=r"lie at most 8 bits apart .* less than the 9 bits that they have below their signs"):
        arithmetic.check("triple27", np.array([-500, 500]), FixedType(1, 1, signed=False), pe=3, depthwise=False, where="overlapping")


def test_pairs_of_8_bits_fit_the_narrower_block_exactly() -> None:
    pair = dsp.packing("pair", Interval(-128, 127, 0), U8, 1)
    assert pair is not None
    assert (pair.split, pair.known, pair.packed.width) == (16, 0, 25)
    # A product of 17 bits would not fit below the weight above: one of them has to be found outside the block.
    tight = dsp.packing("pair", Interval(-129, 127, 0), U8, 1)
    assert tight is not None
    assert (tight.split, tight.known, tight.packed.width) == (16, 1, 25)


def test_four_products_of_4_bits_share_a_block_as_wp521_has_them() -> None:
    four = dsp.packing("grid27", Interval(-8, 7, 0), FixedType(4, 4, signed=False), 8)
    assert four is not None
    assert four.numbers is not None
    assert (four.count, four.chain, four.split, four.known) == (4, 8, 11, 0)  # eight sums before they are split once
    assert (four.packed.width, four.numbers.width, four.wide.width) == (27, 16, 44)


def test_chains_of_pairs_are_as_long_as_their_guard_bits_allow() -> None:
    lengths = {(lo, lanes): dsp.packing("pair", Interval(lo, 127, 0), U8, lanes) for lo in (-128, -127) for lanes in (2, 8, 9, 16)}
    assert {key: form and form.chain for key, form in lengths.items()} == {
        (-128, 2): 2,
        (-128, 8): 4,
        (-128, 9): 3,
        (-128, 16): 4,
        (-127, 2): 2,
        (-127, 8): 8,
        (-127, 9): 5,
        (-127, 16): 8,
    }
    wide = dsp.packing("pair27", Interval(-128, 127, 0), U8, 8)
    assert wide is not None
    assert (wide.chain, wide.known, wide.packed.width) == (8, 1, 27)


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-8, 7), (0, 15), (-1, 1), (1, 1), (0, 0), (-1, -1), (3, 3), (-5, 0)])
def test_digit_codes_hold_their_weights(low: int, high: int) -> None:
    weights = np.arange(low, high + 1).reshape(1, -1)
    form = digit_form(weights)
    codes = form.codes(weights)
    assert codes.min() >= 0
    assert codes.max() < 1 << form.width
    decoded = []
    for code in codes.reshape(-1).tolist():
        value = 0
        for slot in form.slots:
            field, code = code & ((1 << slot.field) - 1), code >> slot.field
            negative = slot.negative and code & 1
            code >>= slot.negative
            term = 0 if slot.zero and field == slot.span else 1 << (slot.low + field)
            value += -term if negative else term
        decoded.append(value)
    assert decoded == weights.reshape(-1).tolist()


def test_digit_codes_are_short() -> None:
    """One bit for signs, none wasted on digits that cannot be zero or negative."""
    assert digit_form(np.array([-1, 1])).width == 1
    assert digit_form(np.array([-1, 0, 1])).width == 2
    assert digit_form(np.array([0, 1, 2, 4])).width == 2
    assert digit_form(np.array([5, 5])).width == 1  # a ROM has at least one bit
    assert digit_form(np.arange(-8, 8)).width == 7
    assert digit_form(np.arange(-128, 128)).width == 16


@pytest.mark.parametrize("x", [S8, U8, FixedType(5, 2)])
def test_product_types_hold_the_extreme_products_and_no_more(x: FixedType) -> None:
    weights = np.array([-7, 3, 12])
    type_ = product_type(weights, x)
    products = [w * v for w in (-7, 12) for v in (x.min_raw, x.max_raw)]
    assert type_.min_raw <= min(products) <= max(products) <= type_.max_raw
    half = FixedType(type_.width - 1, 0, type_.signed)
    assert not half.min_raw <= min(products) <= max(products) <= half.max_raw


def test_rom_bits_over_layers_of_every_width_and_lane_count() -> None:
    """Within 10 % of the weights' own bits over all, and for every single ROM."""
    taken = needed = 0
    for width in range(1, 65):
        for lanes in (*range(1, 129), 144, 251, 256, 576, 1024):
            rows, elements, bits = rom_shape(9, lanes, width)
            assert bits <= 64
            assert bits == lanes_per_element(lanes, width) * width
            assert rows * elements * bits <= 1.10 * 9 * lanes * width
            taken += rows * elements * bits
            needed += 9 * lanes * width
    assert needed <= taken <= 1.02 * needed


def test_rom_words_are_few() -> None:
    """Memories are made of whole blocks: as many lanes as fit share an element."""
    assert rom_shape(1, 64, 8) == (1, 8, 64)
    assert rom_shape(1, 45, 3) == (1, 3, 45)
    assert rom_shape(1, 61, 8) == (1, 8, 64)  # three lanes of 64 unused are better than 61 memories
    assert rom_shape(1, 1, 5) == (1, 1, 5)


def test_a_rom_says_its_bits_and_holds_its_weights() -> None:
    weights = np.random.default_rng(3).integers(-4, 4, (6, 45))
    constant, reader = pack_weights("w", weights, FixedType(3, 3))
    assert (constant.type, constant.dims, reader) == ("qfx::rom<45>::type", "[6][3]", "qfx::packed<true, 3, 15>")
    assert constant.comment == "810 bits: 6 words of 3 x 45, for 270 numbers of 3 bits."
    elements = [int(text, 16) for text in re.findall(r"0x([0-9a-f]+)ULL", constant.body)]
    lanes = [(element >> (3 * i)) & 7 for element in elements for i in range(15)]
    assert [lane - 8 if lane & 4 else lane for lane in lanes] == weights.reshape(-1).tolist()


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_roms_of_a_project_hold_little_more_than_its_weights(name: str) -> None:
    foldings = {"conv0": Folding(2, 6, "pair" if name in dsp.PACKED else name), "conv4": Folding(6, 16, name), "linear8": Folding(4, 9, name)}
    if name in dsp.GRIDS:
        foldings = {layer: replace(folding, pixels=2) for layer, folding in foldings.items() if layer != "linear8"}
    design = lower(network(4), Schedule.of(foldings))
    processes = [process for process in design.processes if isinstance(process, d.MatVec)]
    sources = emit_sources(design, "top")
    for process in processes:
        _, type_ = arithmetic.rom_contents(process.weights, process.weight_type, process.arithmetic)
        stated = re.search(r"// (\d+) bits: (\d+) words of (\d+) x (\d+), for (\d+) numbers of (\d+) bits", sources[f"src/weights/{process.name}.h"])
        assert stated is not None
        total, words, elements, bits, numbers, width = map(int, stated.groups())
        assert total == words * elements * bits <= 1.10 * numbers * width
        assert (numbers, width) == (process.weights.size, type_.width)
