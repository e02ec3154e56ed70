"""The grammar of ``#pragma HLS`` as two tools take it: Vivado HLS 2019.2 and Vitis HLS.

Facts, not code, from
- AMD's open HLS front end, ``clang/lib/Parse/ParseXlxPragma.cpp`` (github.com/Xilinx/hls-llvm-project; Vitis HLS 2021.2): which options a pragma
  has, which take an integer constant expression, a word, a name or a variable, which exclude each other, and where a pragma may stand;
- UG1399 (Vitis HLS), chapter "HLS Pragmas", for the implementations that BIND_OP and BIND_STORAGE know;
- UG902 and UG1253 (Vivado HLS and SDx 2018 to 2020.1) for what Vivado HLS takes and for the cores of RESOURCE; FIFO_URAM is none of their table;
  public code for that tool has it.
Names and words are told apart without regard to case, as the front end does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from support.cpp_preprocess import words


class Tool(Enum):
    """Whose grammar. ``macros`` are what the tool's preprocessor knows while it synthesizes."""

    VIVADO_HLS = "Vivado HLS 2019.2"
    VITIS_HLS = "Vitis HLS"

    @property
    def macros(self) -> Mapping[str, str]:
        common = {"__SYNTHESIS__": "1", "__cplusplus": "201103L"}
        return common if self is Tool.VIVADO_HLS else {**common, "__VITIS_HLS__": "1"}


class Value(Enum):
    """What follows an option's name."""

    NONE = "nothing"
    INTEGER = "= an integer constant expression"
    WORD = "= one of a set of words"
    NAME = "= any name"
    VARIABLE = "= a variable, or several with commas"
    PORT = "= a parameter of the top function, or return"
    FUNCTION = "= a function"


class Place(Enum):
    """The innermost pair of braces around the pragma must be this."""

    FUNCTION = "the body of a function"
    LOOP = "the body of a loop"
    FUNCTION_OR_LOOP = "the body of a function or a loop"
    WITHIN_FUNCTION = "anywhere in a function"
    TOP = "the body of the top function"


BOTH = frozenset(Tool)
VIVADO = frozenset({Tool.VIVADO_HLS})
VITIS = frozenset({Tool.VITIS_HLS})


@dataclass(frozen=True, slots=True)
class Option:
    """An option. At most one option of a ``group`` may stand; ``low`` and ``high`` bound an integer, ends included."""

    name: str
    value: Value = Value.NONE
    words: frozenset[str] = frozenset()
    tools: frozenset[Tool] = BOTH
    required: bool = False
    group: str = ""
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Pragma:
    """A kind of pragma. ``instead`` says what a tool that does not know it takes; ``one_of`` is a group of which one option must stand."""

    name: str
    place: Place
    options: tuple[Option, ...] = ()
    tools: frozenset[Tool] = BOTH
    instead: str = ""
    one_of: str = ""

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name.lower()), None)


def _integer(name: str, low: int | None = None, high: int | None = None, *, required: bool = False, tools: frozenset[Tool] = BOTH) -> Option:
    return Option(name, Value.INTEGER, tools=tools, required=required, low=low, high=high)


def _word(name: str, choices: str, *, group: str = "", required: bool = False, tools: frozenset[Tool] = BOTH) -> Option:
    return Option(name, Value.WORD, words(choices), tools, required, group)


def _flags(names: str, group: str = "", tools: frozenset[Tool] = BOTH) -> tuple[Option, ...]:
    return tuple(Option(name, tools=tools, group=group) for name in names.split())


_VARIABLE = Option("variable", Value.VARIABLE, required=True)
_LIMIT = (1 << 31) - 1
_MODES = "m_axi axis s_axilite ap_memory bram ap_fifo ap_none ap_hs ap_ack ap_vld ap_ovld ap_stable ap_ctrl_none ap_ctrl_hs ap_ctrl_chain"
_BURSTS = ("num_read_outstanding", "num_write_outstanding", "max_read_burst_length", "max_write_burst_length")
_PARTITION = (
    _VARIABLE,
    *_flags("cyclic block complete", "type"),
    _word("type", "cyclic block complete", group="type", tools=VITIS),
    _integer("factor", 1, _LIMIT),
    _integer("dim", 0),
)

PRAGMAS: Mapping[str, Pragma] = {
    pragma.name: pragma
    for pragma in (
        Pragma(
            "pipeline",
            Place.FUNCTION_OR_LOOP,
            (
                _integer("ii", 1, _LIMIT),
                *_flags("rewind off"),
                # Deprecated by Vitis HLS in favour of style=flp. Vivado HLS flushes functions only; pragmas.py looks at the place.
                *_flags("enable_flush", tools=VIVADO),
                _word("style", "stp flp frp", tools=VITIS),
            ),
        ),
        Pragma("unroll", Place.LOOP, (_integer("factor", 1, (1 << 32) - 1), *_flags("skip_exit_check"))),
        Pragma("dataflow", Place.FUNCTION_OR_LOOP, _flags("disable_start_propagation")),
        Pragma("loop_flatten", Place.LOOP, _flags("off")),
        Pragma("loop_merge", Place.FUNCTION_OR_LOOP, _flags("force")),
        Pragma("loop_tripcount", Place.LOOP, (_integer("min", 0), _integer("max", 0, required=True), _integer("avg", 0))),
        Pragma("inline", Place.FUNCTION, (*_flags("off"), *_flags("recursive"), *_flags("region", tools=VIVADO))),
        Pragma(
            "interface",
            Place.TOP,
            (
                *_flags(_MODES, "mode"),
                _word("mode", _MODES, group="mode", tools=VITIS),
                Option("port", Value.PORT, required=True),
                Option("bundle", Value.NAME),
                Option("name", Value.NAME),
                Option("clock", Value.NAME),
                Option("storage_type", Value.NAME, tools=VITIS),
                Option("storage_impl", Value.NAME, tools=VITIS),
                Option("offset", Value.NAME),  # an address (s_axilite) or off, slave, direct (m_axi)
                *_flags("register"),
                *_flags("forward reverse both off", "register_mode"),
                _word("register_mode", "forward reverse both off", group="register_mode"),
                _integer("depth", 1),
                _integer("latency", 0),
                *(
                    _integer(f"{count}_{way}_{what}", 1)
                    for way in ("read", "write")
                    for count, what in (("num", "outstanding"), ("max", "burst_length"))
                ),
                _integer("max_widen_bitwidth", 0, tools=VITIS),
            ),
            one_of="mode",
        ),
        Pragma(
            "stream",
            Place.WITHIN_FUNCTION,
            (
                _VARIABLE,
                _integer("depth", 1, _LIMIT),
                _integer("dim", 0, tools=VIVADO),
                *_flags("off", tools=VIVADO),
                _word("type", "fifo pipo shared unsync", tools=VITIS),
            ),
        ),
        Pragma("array_partition", Place.WITHIN_FUNCTION, _PARTITION),
        Pragma("array_reshape", Place.WITHIN_FUNCTION, (*_PARTITION, *_flags("object"))),
        Pragma("array_map", Place.WITHIN_FUNCTION, (_VARIABLE, Option("instance", Value.NAME), *_flags("horizontal vertical", "way")), VIVADO),
        Pragma(
            "resource",
            Place.WITHIN_FUNCTION,
            (_VARIABLE, Option("core", Value.WORD, required=True), _integer("latency", -1)),
            VIVADO,
            instead="BIND_OP or BIND_STORAGE",
        ),
        Pragma(
            "bind_op",
            Place.WITHIN_FUNCTION,
            (_VARIABLE, _word("op", "mul add sub", required=True), _word("impl", "fabric dsp"), _integer("latency", -1, 4)),
            VITIS,
            instead="RESOURCE",
        ),
        Pragma(
            "bind_storage",
            Place.WITHIN_FUNCTION,
            (
                _VARIABLE,
                _word("type", "fifo ram_1p ram_1wnr ram_2p ram_s2p ram_t2p rom_1p rom_2p rom_np", required=True),
                _word("impl", "bram bram_ecc lutram uram uram_ecc srl memory"),
                _integer("latency", -1, 3),
            ),
            VITIS,
            instead="RESOURCE",
        ),
        Pragma(
            "data_pack",
            Place.WITHIN_FUNCTION,
            (_VARIABLE, Option("instance", Value.NAME), *_flags("struct_level field_level", "level")),
            VIVADO,
            instead="AGGREGATE",
        ),
        Pragma("aggregate", Place.WITHIN_FUNCTION, (_VARIABLE, _word("compact", "none bit byte auto")), VITIS, instead="DATA_PACK"),
        Pragma("disaggregate", Place.WITHIN_FUNCTION, (_VARIABLE,), VITIS),
        Pragma(
            "dependence",
            Place.WITHIN_FUNCTION,
            (
                Option("variable", Value.VARIABLE),
                *_flags("pointer array", "class"),
                _word("class", "pointer array", group="class"),
                *_flags("intra inter", "type"),
                _word("type", "intra inter", group="type", tools=VITIS),
                *_flags("raw war waw", "direction"),
                _word("direction", "raw war waw", group="direction", tools=VITIS),
                *_flags("true false", "dependent"),
                _word("dependent", "true false", group="dependent", tools=VITIS),
                _integer("distance", 1),
            ),
        ),
        Pragma(
            "allocation",
            Place.WITHIN_FUNCTION,
            (
                *_flags("function operation", "what"),
                *_flags("core", "what", VIVADO),
                Option("instances", Value.NAME, required=True),
                _integer("limit", 1, required=True),
            ),
            one_of="what",
        ),
        Pragma("function_instantiate", Place.FUNCTION, (_VARIABLE,)),
        Pragma("stable", Place.WITHIN_FUNCTION, (_VARIABLE,)),
        Pragma("reset", Place.WITHIN_FUNCTION, (_VARIABLE, *_flags("off"))),
        Pragma("latency", Place.WITHIN_FUNCTION, (_integer("min", 0), _integer("max", 0))),
        Pragma("expression_balance", Place.WITHIN_FUNCTION, _flags("off")),
        Pragma("occurrence", Place.WITHIN_FUNCTION, (_integer("cycle", 1),)),
        Pragma("protocol", Place.WITHIN_FUNCTION, (*_flags("floating fixed", "mode"), _word("mode", "floating fixed", group="mode", tools=VITIS))),
        Pragma("top", Place.FUNCTION, (Option("name", Value.NAME),)),
    )
}

INTERFACE_OPTIONS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("ap_ctrl_none", "ap_ctrl_hs", "ap_ctrl_chain"), frozenset({"name"})),
    **dict.fromkeys(("ap_none", "ap_fifo", "ap_hs", "ap_ack", "ap_vld", "ap_ovld", "ap_stable"), frozenset({"register", "name", "depth"})),
    **dict.fromkeys(("ap_memory", "bram"), frozenset({"depth", "latency", "storage_type", "name"})),
    "axis": frozenset({"register", "register_mode", "forward", "reverse", "both", "off", "depth", "name", "bundle"}),
    "s_axilite": frozenset({"bundle", "register", "offset", "clock", "name", "storage_impl"}),
    "m_axi": frozenset({"bundle", "depth", "offset", "name", "latency", "max_widen_bitwidth", *_BURSTS}),
}
"""What each interface mode takes besides its port."""

CORES = words(
    """
    fifo fifo_bram fifo_lutram fifo_srl fifo_uram ram_1p ram_1p_bram ram_1p_lutram ram_1p_uram ram_2p ram_2p_bram ram_2p_lutram ram_2p_uram
    ram_s2p_bram ram_s2p_lutram ram_s2p_uram ram_t2p_bram ram_t2p_uram rom_1p rom_1p_bram rom_1p_lutram rom_2p rom_2p_bram rom_2p_lutram rom_np_bram
    rom_np_lutram xpm_memory addsub addsubns addsub_dsp divns dsp48 mul mulns mul_lut
    """
)
"""The cores of RESOURCE that hold arrays or compute on integers (UG902, "Functional Cores" and "Storage Cores")."""

STORAGE: Mapping[str, frozenset[str]] = {
    "fifo": frozenset({"bram", "lutram", "uram", "srl", "memory"}),
    "ram_1p": frozenset({"bram", "lutram", "uram"}),
    "ram_1wnr": frozenset({"bram", "lutram", "uram"}),
    "ram_2p": frozenset({"bram", "lutram", "uram"}),
    "ram_s2p": frozenset({"bram", "bram_ecc", "lutram", "uram", "uram_ecc"}),
    "ram_t2p": frozenset({"bram", "uram"}),
    "rom_1p": frozenset({"bram", "lutram"}),
    "rom_2p": frozenset({"bram", "lutram"}),
    "rom_np": frozenset({"bram", "lutram"}),
}
"""The implementations of each BIND_STORAGE type (UG1399, "pragma HLS bind_storage")."""
