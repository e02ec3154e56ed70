"""What C simulation with the vendor's headers writes to every stream of a design."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qfx.fixed.packing import Port, pack
from qfx.hardware.assets import hls_root, simulation_headers
from qfx.hardware.design import design as d
from qfx.hardware.design import loading
from qfx.hardware.project.compile import compile_cpp
from qfx.ir.values import RawArray

HERE = Path(__file__).resolve().parent

Words = Mapping[str, Sequence[int]]
"""The words of each stream by name; of a port TLAST lies above TDATA."""

_FLAGS = ("-std=c++11", "-O0", "-DNDEBUG", "-w")


def words_of(raw: RawArray, port: Port) -> list[int]:
    """TDATA of each word of frames of raws (N, *shape) at a port of its own."""
    size, data = port.word_bits // 8, pack(np.asarray(raw), port).tobytes()
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def port_words(design: d.Design, raws: Sequence[RawArray]) -> dict[str, list[int]]:
    """What goes into each port for frames of raws (N, *shape), an array an input; TLAST ends a transfer of the first frame, and one of all others.
    Constants that are loaded, too."""
    arrays = dict(zip((name for name, _ in design.sources), raws, strict=True))
    found: dict[str, list[int]] = {}
    for wire in design.wires[0]:
        size = wire.bits // 8
        words: list[int] = []
        packed = {name: pack(np.asarray(arrays[name]), port) for name, port in wire.ports}
        for frame in range(len(raws[0])):
            for name, _ in wire.ports:
                data = packed[name][frame].tobytes()
                words += [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
            if frame in (0, len(raws[0]) - 1):
                words[-1] |= 1 << wire.bits
        found[wire.name] = words
    if design.loader is not None:
        slot, data = design.loader.port.slot, loading.words(design)
        words = [int.from_bytes(data[at : at + slot // 8], "little") for at in range(0, len(data), slot // 8)]
        found["weights"] = [*words[:-1], words[-1] | 1 << slot]
    return found


def record(folder: Path, top: str, bits: Mapping[str, int], words: Words, results: Sequence[str], frames: int, *, load: bool) -> dict[str, list[int]]:
    """Run the sources in ``folder``. ``bits``: TDATA of each port; ``words``: of each input; ``results``: the outputs; ``load``: the first call loads
    constants. Returns the words of every stream, ports included. Raises ProjectError where g++ refuses the source."""
    text = f'#include <fstream>\n#include <hls_stream.h>\n#include "src/{top}.cpp"\n' + _MAIN
    names = [*words, *results]
    # The ports in the order of the top function's parameters: inputs, outputs, constants.
    order = [name for name in names if name != "weights"] + [name for name in names if name == "weights"]
    text += "int main(int, char** argv) {\n  const std::string folder = argv[1];\n"
    for name in order:
        text += f'  hls::stream<qfx::axi_word<{bits[name]}> > {name}_("{name}");\n'
    for name in words:
        text += f'  if (!feed<{bits[name]}>({name}_, folder + "/{name}.in")) return 2;\n'
    arguments = ", ".join(f"{name}_" for name in order) + (", frame == 0" if load else "")
    text += f"  for (int frame = 0; frame < {frames}; frame++) {top}({arguments});\n  return qfx_record::save(folder) ? 0 : 2;\n}}\n"
    main, executable, log = folder / "record.cpp", folder / "record", folder / "words"
    main.write_text(text, encoding="utf-8")
    log.mkdir(exist_ok=True)
    for name, items in words.items():
        (log / f"{name}.in").write_text("".join(f"{word:b}\n" for word in items), encoding="utf-8")
    includes = ("-isystem", str(HERE / "record"), *simulation_headers(), f"-I{hls_root() / 'include'}", f"-I{folder}")
    compile_cpp((main,), includes, executable, _FLAGS)
    subprocess.run([str(executable), str(log)], check=True)
    streams = {path.name: path for path in log.iterdir() if path.suffix != ".in"}
    return {name: [int(line, 16) for line in path.read_text(encoding="utf-8").split()] for name, path in sorted(streams.items())}


_MAIN = """
template <int BITS>
static bool feed(hls::stream<qfx::axi_word<BITS> >& into, const std::string& path) {
  std::ifstream file(path.c_str());
  std::string text;
  while (file >> text) {
    qfx::axi_word<BITS> word = qfx::axi<BITS>(ap_uint<BITS>(0), false);
    for (size_t i = 0; i < text.size(); i++) {
      const bool bit = text[text.size() - 1 - i] == '1';
      if (i == BITS) word.last = bit;
      else word.data[static_cast<int>(i)] = bit;
    }
    into.write(word);
  }
  return file.eof();
}
"""
