"""The schema of folding.toml, from the keys that its reader knows."""

from __future__ import annotations

from qfx.hardware.design.schedule import ARITHMETIC, BUFFER_STORAGE, FIFO_STORAGE, WEIGHT_STORAGE
from qfx.hardware.folding.file import FIFO_KEYS, LAYER_KEYS, PORTS, TABLES
from qfx.schemas.words import Schema, choice, count, document, mapping, table

FIELDS = {
    "ports": "Numbers per word of the streams into and out of the network.",
    "layers": "The folding of layers, by name; those that are not named are chosen.",
    "fifos": "The depths of FIFOs in words, by name; those that are not named are chosen.",
    "input": "Numbers per word of the input; of several inputs a table with one for each name.",
    "output": "Numbers per word of the output; of several outputs a table with one for each name.",
    "merged": "All inputs in one stream, and all outputs in one.",
    "pe": "How many outputs are worked on in parallel.",
    "simd": "How many inputs are worked on in parallel.",
    "pixels": "How many neighbouring outputs of a row are worked on in parallel, with the same weights, or moved in one word.",
    "arithmetic": "What multiplies: DSP blocks, LUTs, shifts and additions, or several products in a DSP block.",
    "taps": "How many taps of a window come in a word: 1, or all; of a pool over the whole frame how many of its pixels.",
    "weights": "What holds the weights; ddr: the board's memory.",
    "rows": "With weights in ddr: the rows of the result for which they are read once; left out: all.",
    "buffer": "What the line buffer of the window is built of.",
    "sparsity": "n:m, as 2:4: n weights of each m neighbouring inputs are stored and multiplied, of a layer that has no more; left out: all.",
    "depth": "Words.",
    "storage": "What the FIFO is built of.",
}
"""What an editor says of a key."""

_WORDS = {"arithmetic": ARITHMETIC, "weights": WEIGHT_STORAGE, "buffer": BUFFER_STORAGE}


def schema() -> Schema:
    """Of folding.toml, as ``qfx hls --folding`` reads it. Which layers, ports and FIFOs there are, the model says."""
    layer = {name: _told(name, _word(name) if kind is str else count(1)) for name, kind in LAYER_KEYS.items()}
    ports = {name: _told(name, {"anyOf": [count(1), mapping("By name.", count(1))]}) for name in PORTS}
    ports["merged"] = _told("merged", {"type": "boolean", "default": False})
    fifo = {name: _told(name, count(1) if name == "depth" else choice(FIFO_STORAGE)) for name in FIFO_KEYS}
    tables = {
        "ports": table(FIELDS["ports"], ports),
        "layers": mapping(FIELDS["layers"], table("The folding of a layer.", layer)),
        "fifos": mapping(FIELDS["fifos"], {"anyOf": [count(1), table("Depth and storage of a FIFO.", fifo)]}),
    }
    return document("folding", "How far each layer is folded onto hardware.", {name: tables[name] for name in TABLES})


def _word(name: str) -> Schema:
    return choice(_WORDS[name]) if name in _WORDS else {"type": "string"}


def _told(name: str, made: Schema) -> Schema:
    return {**made, "description": FIELDS[name]}
