"""The synthesized sources of a design: what their top function joins, and their processes as LLVM IR."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qfx.hardware.assets import hls_root
from qfx.hardware.rtl.machines.llvm import Function, Module, RtlError, parse
from qfx.hardware.rtl.tools import clang

_FLAGS = (
    *("-std=c++14", "-w", "-S", "-emit-llvm", "-D__SYNTHESIS__", "-D__VITIS_HLS__"),
    *("-Xclang", "-fexperimental-max-bitint-width=65536", "-fbracket-depth=8192", "-fconstexpr-steps=100000000"),
    # Names for reports; no exceptions, no vectors, no calls of the C library in place of loops.
    *("-fno-discard-value-names", "-fno-exceptions", "-fno-rtti", "-fno-vectorize", "-fno-slp-vectorize", "-fno-builtin"),
    # Loops without turns are unrolled whole, numbers keep the width that they have, and each stream keeps its own reads and writes.
    *("-O1", "-funroll-loops", "-mllvm", "-unroll-threshold=10000000", "-mllvm", "-indvars-widen-indvars=false"),
    *("-mllvm", "-disable-loop-idiom-all", "-mllvm", "-simplifycfg-sink-common=false"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A process, and what it is given for each of its parameters."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A top function: its processes in order and the depth of each FIFO, read from the text that the vendor's tool reads."""

    top: str
    calls: tuple[Call, ...]
    depths: Mapping[str, int]


def write(files: Mapping[str, str], folder: Path) -> None:
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def region(folder: Path, top: str) -> Region:
    """What ``src/<top>.cpp`` joins."""
    text = (folder / "src" / f"{top}.cpp").read_text(encoding="utf-8")
    calls = tuple(
        Call(name, tuple(re.split(r",\s*", arguments))) for name, arguments in re.findall(rf"{top}_layers::(\w+)\((.*?)\);", text, re.DOTALL)
    )
    depths = {name: int(depth) for name, depth in re.findall(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)", text)}
    return Region(top, calls, depths)


def processes(folder: Path, top: str, names: Sequence[str]) -> tuple[Module, dict[str, Function]]:
    """The functions of ``src/layers.h`` as clang optimizes them, each with all that it calls. Raises RtlError where clang refuses the source."""
    kept = "".join(f"__attribute__((used)) static const auto qfx_rtl_{name} = &{top}_layers::{name};\n" for name in names)
    module = _compiled(folder, "layers.h", kept)
    found = {}
    for name in names:
        (place,) = [function for mangled, function in module.functions.items() if f"{len(top) + 7}{top}_layers{len(name)}{name}E" in mangled]
        found[name] = place
    return module, found


def whole(folder: Path, top: str) -> tuple[Module, Function]:
    """The top function of an unrolled design, with all that it calls."""
    module = _compiled(folder, f"{top}.cpp", "")
    (function,) = [function for mangled, function in module.functions.items() if f"{len(top)}{top}R" in mangled]
    return module, function


def _compiled(folder: Path, source: str, behind: str) -> Module:
    return ir(f'#include "{source}"\n', folder, behind)


def ir(text: str, folder: Path, behind: str = "") -> Module:
    """C++ as clang optimizes it, every function with all that it calls; but for ``behind``, which comes last. Works in ``folder``; headers come from
    its ``src``. Raises RtlError where clang refuses it."""
    head = "#include <ap_fixed.h>\n#pragma clang attribute push(__attribute__((flatten)), apply_to = function)\n"
    text = f"{head}{text}\n#pragma clang attribute pop\n{behind}"
    unit, result = folder / "processes.cpp", folder / "processes.ll"
    unit.write_text(text, encoding="utf-8")
    includes = [f"-I{hls_root() / 'sim' / 'rtl'}", f"-I{hls_root() / 'include'}", "-iquote", str(folder / "src")]
    done = subprocess.run([clang(), *_FLAGS, *includes, str(unit), "-o", str(result)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RtlError(f"clang refuses the C++:\n{done.stderr[:4000]}")
    return parse(result.read_text(encoding="utf-8"))
