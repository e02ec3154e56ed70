"""The performance gate tells a slower kernel, and lets noise pass."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import gate
from benchmarks.gate import Compared

LOOP = "    for (int64_t i = 0; i < count; i++) out[i] = value("


def test_what_is_beyond_margin_and_noise_is_slower() -> None:
    quiet, loud = (1.0, 1.0, 1.01, 0.99), (0.8, 1.0, 1.2, 1.0)
    assert Compared("", quiet, tuple(1.2 * t for t in quiet), 0.05).is_slower
    assert not Compared("", quiet, tuple(1.04 * t for t in quiet), 0.05).is_slower
    assert not Compared("", loud, tuple(1.2 * t for t in loud), 0.05).is_slower
    assert not Compared("", quiet, tuple(0.5 * t for t in quiet), 0.05).is_slower
    assert Compared("", (1000.0,), (1011.0,), 0.01).is_slower
    assert not Compared("", (1000.0,), (1009.0,), 0.01).is_slower


def test_turns_alternate() -> None:
    asked: list[str] = []

    def of(name: str) -> float:
        asked.append(name)
        return float(len(asked))

    assert gate.in_turns(lambda: of("base"), lambda: of("head"), 2) == ((1.0, 3.0), (2.0, 4.0))
    assert asked == ["base", "head"] * 2


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is no dependency")
@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("g++") is None, reason="the kernels are counted on x86_64, as g++ builds them")
def test_a_planted_pass_is_counted(tmp_path: Path) -> None:
    sources = tmp_path / "slower" / "qfx" / "fixed"
    shutil.copytree(gate.ROOT / "qfx" / "fixed", sources, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (sources / "native.cpp").read_text(encoding="utf-8")
    assert text.count(LOOP) == 1
    (sources / "native.cpp").write_text(text.replace(LOOP, "    for (int64_t i = 0; i < count; i += 16) *(volatile R*)(out + i) = 0;\n" + LOOP))
    defines = gate.KERNELS["plain cast"]
    base, again, slower = (gate.instructions(tree, tmp_path, defines) for tree in (gate.ROOT, gate.ROOT, tmp_path / "slower"))
    assert base == again > 32768
    assert Compared("", (base,), (slower,), 0.005).is_slower


def test_an_unknown_revision_is_an_error() -> None:
    with pytest.raises(Exception, match="worktree"), gate.revision("no-such-revision"):
        pass
