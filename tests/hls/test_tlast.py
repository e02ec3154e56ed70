"""TLAST: it leaves with the last word of a frame if the frame's last word came with it, and the harness sees it anywhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qfx.hardware.assets import hls_root
from qfx.hardware.emit.emit import CSIM_FLAGS

PROGRAM = """#include "harness.h"
#include "qfx/width.h"

struct port {
  static const int pixels = 3, channels = 4, parallel = 2, slot = 8, frac_bits = 0;
  static const bool is_signed = true;
  typedef qfx::axi_word<16> word;
};
typedef hls::stream<port::word> words;

static void right(words& in, words& out) {
  hls::stream<qfx::vec<qfx::sint<5>, 2> > middle("middle");
  hls::stream<qfx::vec<qfx::uint<1>, 1> > last("last");
  qfx::from_port<6, 8>(in, middle, last);
  qfx::to_port<6, 8>(middle, last, out);
}
// Faults.
static void always(words& in, words& out) {
  for (int i = 0; i < 6; i++) out.write(qfx::axi<16>(in.read().data, i == 5));
}
static void never(words& in, words& out) {
  for (int i = 0; i < 6; i++) out.write(qfx::axi<16>(in.read().data, false));
}
static void early(words& in, words& out) {
  static int words_so_far = 0;
  for (int i = 0; i < 6; i++) out.write(qfx::axi<16>(in.read().data, ++words_so_far == 11));
}

int main(int, char** argv) {
  const std::string which = argv[1];
  void (*top)(words&, words&) = which == "right" ? right : which == "always" ? always : which == "never" ? never : early;
  qfx_tb::numbers x, y;
  for (int i = 0; i < 24; i++) x.push_back(i % 16 - 8);
  if (!qfx_tb::run<port, port>(top, x, y)) return 1;
  words kept_in("in"), kept_out("out");  // and what else a word carries
  for (int i = 0; i < 6; i++) kept_in.write(qfx::axi<16>(0, i == 2));
  top(kept_in, kept_out);
  for (int i = 0; i < 6; i++) {
    const port::word word = kept_out.read();
    if (word.keep != 3 || word.strb != 3 || word.last != 0) return 3;
  }
  return x == y ? 0 : 4;
}
"""


@pytest.fixture(scope="module")
def executable(gxx: str, vendor_include: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tlast")
    (folder / "tlast.cpp").write_text(PROGRAM)
    root = hls_root()
    includes = ["-isystem", str(vendor_include), "-isystem", str(root / "sim"), f"-I{root / 'include'}", f"-I{root / 'templates'}"]
    command = [gxx, *CSIM_FLAGS, "-Werror", "-O1", *includes, str(folder / "tlast.cpp"), "-o", str(folder / "tlast")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "tlast"


def test_it_comes_with_the_last_word_of_the_last_frame(executable: Path) -> None:
    done = subprocess.run([str(executable), "right"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("fault", "frame"), [("always", 0), ("never", 1), ("early", 1)])
def test_a_wrong_one_is_seen(executable: Path, fault: str, frame: int) -> None:
    done = subprocess.run([str(executable), fault], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"error: wrong TLAST in frame {frame}\n")
