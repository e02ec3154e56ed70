"""The ``ai.qfx`` operator set, version 2: ONNX functions whose bodies are standard operators, so that a plain ONNX Runtime computes them exactly.

A model carries the functions that it uses. Tensors hold *values* (``raw * 2**-frac_bits`` as floats). Standard operators do the arithmetic wherever
float32 or float64 holds every partial sum; the functions do the rest:

====================  ==============================================================================================================
``Cast_<Q>_<O>``      rounding mode Q, then overflow mode O, in float64: right for every finite float32, and for every float64 that ``scale`` takes
                      to 0 or a normal number. ``dtype`` is the result's dtype.
``FromRaw``           a constant from its integer raws.
``Affine``, ``Scale`` ``x * scale + shift``, ``x * scale``; ``Shift``: ``x + shift``.
``LeakyRelu``         for float64, where ONNX Runtime has no kernel; the slope is a power of two in (0, 1].
``Conv_w<P>_x<Q>``    a convolution that float32 would round: weight and input are split into P and Q pieces whose convolutions float32 holds;
                      they are summed in float64 (ONNX Runtime has no float64 Conv). ``ConvBias_...`` also adds a bias of shape (O, 1[, 1]).
``PadMaxPool``        a MaxPool whose padding ONNX Runtime refuses because it reaches the kernel size (dilated kernels). Up to version 2:
                      ``PaddedMaxPool``.
``Upsample``          nearest neighbour for float64, where ONNX Runtime's Resize has no kernel.
``Lookup``            a function by table: an entry for every number that can come.
``LookupLinear``      a function by lines between the entries of a table.
``Stretch``           zeros between the pixels: what a transposed convolution convolves.
``SumPool[_x<Q>]``    a depthwise convolution by ones (AveragePool divides and rounds), in float32, or in float64 from Q pieces.
``Swap``, ``Zeros``   for Scan: batch and steps change places, and the first states.
====================  ==============================================================================================================

The bodies are part of the version: files are compared with them when read, so any change needs a new ``VERSION``.
Version 2 added a digest of the graph to the metadata of a file; its functions are those of version 1, whose files are read as before. Version 3
pads all axes, the batch included: where some were left out, ONNX Runtime failed on a Transpose beside the Pad.
"""

from __future__ import annotations

import re
from functools import lru_cache

import onnx
import onnx.parser

from qfx.errors import UnsupportedError
from qfx.fixed.type import FixedType, OMode, QMode
from qfx.homes import joined
from qfx.operators import OPERATORS

DOMAIN = "ai.qfx"
VERSION = 3
READABLE = (1, 2, 3)
"""The versions whose files are read. Those of version 1 have no digest: a damaged constant in them goes unnoticed."""
DIGESTS_FROM = CHANNELS_FROM = 2
"""The version from which files have a digest, and from which the bounds that choose between float32 and float64 are kept per channel."""
PADS_FROM = 3
"""The version from which a Pad names all axes, the batch included. ONNX Runtime moves a Transpose past a Pad as if it did (1.31: it fails)."""
ONNX_OPSET = 21
IR_VERSION = 10

MAX_PIECES = 4
"""Neither operand of a convolution is split into more pieces."""


# Floor and Ceil are exact. `v - Floor(v)` rounds for v in (-0.5, 0) only, where it stays >= 0.5, and by symmetry `Ceil(v) - v` for v in (0, 0.5):
# hence ">= 0.5" against the floor sends ties up, against the ceiling down, and both are right for every double. `v + 0.5` would not be.
_FLOOR_UP = """
    base = Floor({v})
    rest = Sub({v}, base)
    carry = GreaterOrEqual(rest, half)
    step = Cast <to = 11> (carry)
    {r} = Add(base, step)"""
_CEIL_DOWN = """
    base = Ceil({v})
    rest = Sub(base, {v})
    carry = GreaterOrEqual(rest, half)
    step = Cast <to = 11> (carry)
    {r} = Sub(base, step)"""
_MAGNITUDE = """
    sign = Sign(v)
    size = Abs(v)"""
_HALF = """
    half = Constant <value = double {0.5}> ()"""

_ROUND = {
    QMode.RND: _HALF + _FLOOR_UP.format(v="v", r="r"),
    QMode.RND_ZERO: _HALF + _MAGNITUDE + _CEIL_DOWN.format(v="size", r="rounded") + "\n    r = Mul(rounded, sign)",
    QMode.RND_MIN_INF: _HALF + _CEIL_DOWN.format(v="v", r="r"),
    QMode.RND_INF: _HALF + _MAGNITUDE + _FLOOR_UP.format(v="size", r="rounded") + "\n    r = Mul(rounded, sign)",
    QMode.RND_CONV: "\n    r = Round(v)",
    QMode.TRN: "\n    r = Floor(v)",
    QMode.TRN_ZERO: _MAGNITUDE + "\n    rounded = Floor(size)\n    r = Mul(rounded, sign)",
}

_OUTSIDE = """
    over = Greater(r, max)
    under = Less(r, min)
    outside = Or(over, under)"""
_ZERO = """
    zero = Constant <value = double {0.0}> ()"""
# C's fmod is exact for all doubles. The remainder has the sign of r; one modulus brings it into [min, max].
_WRAPPED = """
    remainder = Mod <fmod = 1> (r, modulus)
    raised = Add(remainder, modulus)
    lowered = Sub(remainder, modulus)
    above = Greater(remainder, max)
    below = Less(remainder, min)
    partly = Where(above, lowered, remainder)
    wrapped = Where(below, raised, partly)"""
# ~bits, read as a signed number, is -1 - bits.
_INVERTED = """
    minus_one = Constant <value = double {-1.0}> ()
    inverted = Sub(minus_one, wrapped)
    wrapped_negative = Less(wrapped, zero)"""
# The low width - N bits of r as a number in [0, modulus); base_over and base_under are the words whose other bits are those of the saturated part.
_LOW_BITS = """
    remainder = Mod <fmod = 1> (r, modulus)
    raised = Add(remainder, modulus)
    negative_remainder = Less(remainder, zero)
    low = Where(negative_remainder, raised, remainder)
    high = Where(under, base_under, base_over)"""
_PARITY = """
    two = Constant <value = double {{2.0}}> ()
    quotient = Div({of}, modulus)
    above_bits = Floor(quotient)
    halved = Div(above_bits, two)
    pairs = Floor(halved)
    doubled = Mul(pairs, two)
    parity = Sub(above_bits, doubled)
    odd = Greater(parity, zero)"""

_CLAMP = ("min, max", "\n    c = Clip(r, min, max)")
_OVERFLOW = {
    "SAT": _CLAMP,
    "SAT_SYM": _CLAMP,
    "SAT_ZERO": ("min, max", _ZERO + _OUTSIDE + "\n    c = Where(outside, zero, r)"),
    "WRAP": ("min, max, modulus", _WRAPPED + "\n    c = Identity(wrapped)"),
    "WRAP_N": (
        "min, max, modulus, base_under, base_over",
        _ZERO + _OUTSIDE + _LOW_BITS + "\n    word = Add(high, low)\n    c = Where(outside, word, r)",
    ),
    # The deleted bit next to the word, taken before rounding, says which sign the word should have.
    "WRAP_SM": (
        "min, max, modulus",
        _ZERO
        + _OUTSIDE
        + _WRAPPED
        + _INVERTED
        + "\n    unrounded = Floor(v)"
        + _PARITY.format(of="unrounded")
        + "\n    same = Equal(wrapped_negative, odd)\n    word = Where(same, wrapped, inverted)\n    c = Where(outside, word, r)",
    ),
    "WRAP_SM_1": (
        "min, max, modulus",
        _ZERO
        + _WRAPPED
        + _INVERTED
        + "\n    negative = Less(r, zero)\n    same = Equal(wrapped_negative, negative)\n    c = Where(same, wrapped, inverted)",
    ),
    # Here the lowest saturated bit decides; it should differ from the sign.
    "WRAP_SM_N": (
        "min, max, modulus, base_under, base_over",
        _ZERO
        + _OUTSIDE
        + _LOW_BITS
        + _PARITY.format(of="r")
        + "\n    one = Constant <value = double {1.0}> ()\n    ones = Sub(modulus, one)\n    flipped = Sub(ones, low)\n    same = Equal(odd, under)"
        + "\n    folded = Where(same, flipped, low)\n    word = Add(high, folded)\n    c = Where(outside, word, r)",
    ),
}


def cast_name(type_: FixedType) -> str:
    """The function that casts into types with these modes, like ``Cast_RND_CONV_WRAP_N`` (N > 0; AP_WRAP_SM also tells N = 1 from the others)."""
    n_kind = "" if type_.n == 0 else "_1" if type_.n == 1 and type_.o is OMode.WRAP_SM else "_N"
    return f"Cast_{type_.q.name}_{type_.o.name}{n_kind}"


def cast_inputs(name: str) -> tuple[str, ...]:
    """What a cast function reads after x: ``scale`` (2**frac_bits), then scalars measured in least significant bits; all float64.

    ``min`` and ``max`` are the bounds; ``modulus`` is 2**(bits that wrap); ``base_under`` and ``base_over`` are the words that overflows start from.
    """
    _, overflow = _cast_modes()[name]
    return ("scale", *_OVERFLOW[overflow][0].split(", "))


@lru_cache(maxsize=1)
def _cast_modes() -> dict[str, tuple[QMode, str]]:
    return {f"Cast_{q.name}_{overflow}": (q, overflow) for q in QMode for overflow in _OVERFLOW}


def _cast(name: str) -> str:
    q, overflow = _cast_modes()[name]
    inputs, body = _OVERFLOW[overflow]
    return f"""{name} <type, int_bits, shape, dtype> (x, scale, {inputs}) => (y) {{
    x64 = Cast <to = 11> (x)
    v = Mul(x64, scale){_ROUND[q]}{body}
    y64 = Div(c, scale)
    y = Cast <to: int = @dtype> (y64)
}}"""


_SIMPLE: dict[str, str] = {
    "FromRaw": """FromRaw <frac_bits, dtype> (raw, lsb) => (y) {
    integer = Cast <to: int = @dtype> (raw)
    y = Mul(integer, lsb)
}""",
    **joined(pair for operator in OPERATORS for pair in operator.functions.items()),
}

_SPLIT = re.compile(r"^(Conv|ConvBias)_w([1-9])_x([1-9])$|^(SumPool)_x([1-9])$")


def conv_name(w_pieces: int, x_pieces: int, *, bias: bool) -> str:
    """The convolution that splits its operands so. Inputs: x, w, w_step1.., x_step1.. (float64 scalars, coarse first), bias if it has one."""
    return f"Conv{'Bias' if bias else ''}_w{w_pieces}_x{x_pieces}"


def sum_pool_name(x_pieces: int) -> str:
    """The float64 sum pool that splits its input into so many pieces. Inputs: x, x_step1.. (float64 scalars, coarse first)."""
    return f"SumPool_x{x_pieces}"


def step_names(operand: str, pieces: int) -> tuple[str, ...]:
    """The inputs that say where ``operand`` (w or x) is split."""
    return tuple(f"{operand}_step{i}" for i in range(1, pieces))


def _pieces(operand: str, count: int) -> tuple[str, list[str]]:
    """Code that splits the float64 ``<operand>64`` into float32 multiples of the steps, nearest first, and the names of the pieces."""
    code, rest, names = "", f"{operand}64", []
    for i, step in enumerate(step_names(operand, count), start=1):
        code += f"""
    {operand}_ratio{i} = Div({rest}, {step})
    {operand}_digit{i} = Round({operand}_ratio{i})
    {operand}_part{i} = Mul({operand}_digit{i}, {step})
    {operand}_rest{i} = Sub({rest}, {operand}_part{i})
    {operand}{i} = Cast <to = 1> ({operand}_part{i})"""
        rest = f"{operand}_rest{i}"
        names.append(f"{operand}{i}")
    code += f"\n    {operand}{count} = Cast <to = 1> ({rest})"
    return code, [*names, f"{operand}{count}"]


def _split_conv(kind: str, w_pieces: int, x_pieces: int) -> str:
    attributes = ["group", "strides", "pads"]
    inputs = ["x"]
    x_code, x_names = _pieces("x", x_pieces)
    if kind == "SumPool":
        attributes.insert(0, "window")
        w_code = "\n    shape = Constant <value_ints: ints = @window> ()\n    w1 = ConstantOfShape <value = float[1] {1.0}> (shape)"
        w_names = ["w1"]
        name = sum_pool_name(x_pieces)
    else:
        attributes.append("dilations")
        inputs += ["w", *step_names("w", w_pieces)]
        w_code, w_names = _pieces("w", w_pieces)
        w_code = "\n    w64 = Cast <to = 11> (w)" + w_code
        name = conv_name(w_pieces, x_pieces, bias=kind == "ConvBias")
    inputs += step_names("x", x_pieces)
    given = ", ".join(f"{a}: {'int' if a == 'group' else 'ints'} = @{a}" for a in attributes if a != "window")
    code, terms = "", []
    for w in w_names:
        for x in x_names:
            code += f"\n    {w}_{x} = Conv <{given}> ({x}, {w})\n    term_{w}_{x} = Cast <to = 11> ({w}_{x})"
            terms.append(f"term_{w}_{x}")
    if kind == "ConvBias":
        inputs.append("bias")
        terms.append("bias")
    total, *others = terms
    for i, term in enumerate(others, start=1):
        code += f"\n    sum{i} = Add({total}, {term})"
        total = f"sum{i}"
    head = f"{name} <{', '.join(attributes)}> ({', '.join(inputs)}) => (y) {{"
    return f"{head}\n    x64 = Cast <to = 11> (x){x_code}{w_code}{code}\n    y = Identity({total})\n}}"


def function_text(name: str) -> str:
    """The function as ONNX text, without its header. Raises UnsupportedError if the operator set has no such function."""
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name in _cast_modes():
        return _cast(name)
    match = _SPLIT.match(name)
    if match is not None:
        kind = match.group(1) or match.group(4)
        pieces = [int(group) for group in (match.group(2) or "1", match.group(3) or match.group(5))]
        if max(pieces) <= MAX_PIECES:
            return _split_conv(kind, *pieces)
    raise UnsupportedError(f"{DOMAIN} {VERSION} has no operator {name!r}", remedy="export the model with this version of qfx")


@lru_cache(maxsize=256)
def _function_bytes(name: str) -> bytes:
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {ONNX_OPSET}]>\n'
    content: bytes = onnx.parser.parse_function(header + function_text(name)).SerializeToString(deterministic=True)
    return content


def function(name: str) -> onnx.FunctionProto:
    """The function, a message of the caller's own. Raises UnsupportedError if the operator set has no such function."""
    message = onnx.FunctionProto()
    message.ParseFromString(_function_bytes(name))
    return message
