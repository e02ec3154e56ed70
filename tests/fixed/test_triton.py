"""The casts of a GPU without one: Triton's interpreter computes the kernels to the bits of the C++ kernel and of the definition, and its compiler
makes code of them for cards that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from qfx.fixed import native
from qfx.fixed.gpu import launch
from qfx.fixed.kernel import CastMode
from qfx.fixed.layout import FRAC_PER_CHANNEL, Layout
from qfx.fixed.plan import plan_of

HERE = Path(__file__).resolve().parent

needs_triton = pytest.mark.skipif(
    getattr(find_spec("triton"), "origin", None) is None, reason="no Triton is installed (pip install triton, or a folder of it in PYTHONPATH)"
)
needs_native = pytest.mark.skipif(not native.available(), reason="no C++ compiler: nothing to compare with")


def run(program: str, *arguments: str, interpreted: bool = True) -> Any:
    """What a program printed, as JSON, in a process of its own: where Triton is imported, torch.compile knows of it."""
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    done = subprocess.run(
        [sys.executable, str(HERE / program), *arguments], env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_triton
@needs_native
def test_the_kernels_have_the_bits_of_the_definition(thorough: bool) -> None:
    found = run("triton_cases.py", *(["thorough"] if thorough else []))
    assert found["differ"] == []
    assert found["bad point"]
    assert found["far tile"]
    assert found["works"]
    assert found["modes"] == (105 if thorough else 14)
    assert found["compared"] > 10_000


@needs_triton
@needs_native
def test_an_error_of_one_lsb_is_found() -> None:
    assert len(run("triton_cases.py", "plant")["differ"]) == 1


@needs_triton
@needs_native
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is at hand: Triton's interpreter computed the same")
def test_a_gpu_has_the_bits_of_the_definition() -> None:
    assert run("triton_cases.py", "thorough", interpreted=False)["differ"] == []


def test_a_grid_has_so_many_channels_and_no_more() -> None:
    """A binary point for each of very many rows is left to torch's operators."""
    for channels, has in ((65_535, True), (65_536, False), (100_000, False)):
        assert launch.has_grid(Layout(1, channels, 512, FRAC_PER_CHANNEL, torch.contiguous_format)) is has
    assert launch.has_grid(Layout(512, 100_000, 1, FRAC_PER_CHANNEL, torch.contiguous_format))  # side by side: many in a tile
    x, points = torch.zeros(70_000, 2), torch.zeros(70_000, 1)
    assert launch.there(plan_of(CastMode(), 8), x, points, None, None, None, None) is None


def test_kernels_that_do_not_run_are_left_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Triton finds no C compiler."""

    def failing(*given: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(launch, "there", failing)
    launch.works.cache_clear()
    with pytest.warns(launch.GpuKernelWarning, match=r"do not run on cpu \(RuntimeError: Failed to find C compiler") as said:
        assert [launch.works(torch.device("cpu")) for _ in range(3)] == [False] * 3
    assert len(said) == 1
    launch.works.cache_clear()


@needs_triton
def test_kernels_compile_for_cards_that_are_not_here(thorough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sum is taken in an order of chance, nothing is fused or approximated; only floor, where it does not matter, flushes subnormal numbers."""
    if not thorough:
        pytest.skip("compiling runs with --thorough")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = run("triton_compiled.py", "80", interpreted=False)
    assert len(found["kernels"]) == 13
    assert all(size > 1000 for size in found["kernels"].values())
    assert set(found["flushing"]) <= {"cvt.rmi.ftz.f32.f32"}
    assert found["forbidden"] == []
    assert {"mul.rn.f32", "sub.rn.f32"} <= set(found["arithmetic"])
