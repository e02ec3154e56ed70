"""``python -m benchmarks.gate BASE [HEAD]``: has anything become slower between two revisions? Ends with 1 if so.

The kernels are compared by the instructions that they execute, counted by valgrind's callgrind: the same number from run to run, so that a percent is
a difference. Training steps and starting the command are compared by processor time, in processes that take turns (base, head, base, head ...), each
step as a ratio to a float32 step beside it in its process; what is beyond the margin and beyond the noise that both revisions' own turns show has
become slower.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

KERNELS = {
    "plain cast": "-DQFX_ACTIVATION=0 -DQFX_AFFINE=0 -DQFX_ADDEND=0 -DQFX_WORDS=0",
    "cast behind a ReLU": "-DQFX_ACTIVATION=1 -DQFX_AFFINE=0 -DQFX_ADDEND=0 -DQFX_WORDS=0",
    "cast behind BatchNorm and a shortcut": "-DQFX_ACTIVATION=1 -DQFX_AFFINE=1 -DQFX_ADDEND=1 -DQFX_WORDS=0",
    "cast with word lengths of its own": "-DQFX_ACTIVATION=0 -DQFX_AFFINE=0 -DQFX_ADDEND=0 -DQFX_WORDS=1",
}
"""Of native.cpp, at AP_RND, AP_SAT, float32: the defines that distinguish them."""

_COMPILE = (
    "-O2 -ftree-vectorize -std=c++11 -fno-math-errno -fno-trapping-math -ffp-contract=off -DQFX_Q=0 -DQFX_O=0 -DQFX_N=0 -DQFX_X=float -DQFX_R=float"
)
_PROCESSORS = {"x86_64": "-march=haswell"}  # valgrind knows no later instructions

_STEP = """
import json, sys, time, torch
import torch.nn.functional as F
import qfx
from benchmarks.models import Layers, ResNet, mlp
torch.set_num_threads(1)
name, rounds = sys.argv[1], int(sys.argv[2])
build, x, classes = (mlp, torch.randn(1024, 16), 5) if name == "mlp" else (ResNet, torch.randn(16, 3, 32, 32), 10)
y = torch.randint(classes, (len(x),))
torch.manual_seed(0)
model = build(Layers())
qmodel = qfx.quantize(model, x, qfx.Recipe.uniform(8))
def step_of(m, groups):
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    m.train()
    def step():
        began = time.thread_time()
        optimizer.zero_grad()
        F.cross_entropy(m(x), y).backward()
        optimizer.step()
        return time.thread_time() - began
    return step
steps = step_of(model, model.parameters()), step_of(qmodel, qfx.parameter_groups(qmodel, lr=1e-3))
for _ in range(max(rounds // 5, 2)):
    [step() for step in steps]
pairs = [[step() for step in steps] for _ in range(rounds)]
ratios = sorted(b / a for a, b in pairs)
print(json.dumps(ratios[len(ratios) // 2]))
"""

_START = """
import json, os, subprocess, sys
before = os.times()
subprocess.run([sys.executable, "-m", "qfx.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
after = os.times()
print(json.dumps(after.children_user - before.children_user + after.children_system - before.children_system))
"""

MEASURES: Mapping[str, tuple[str, ...]] = {
    "training step, MLP (ratio to float32)": (_STEP, "mlp", "200"),
    "training step, ResNet-20 (ratio to float32)": (_STEP, "resnet", "6"),
    "qfx --help (s of processor time)": (_START,),
}


@dataclass(frozen=True)
class Compared:
    """One figure at both revisions, turn by turn (a count has one turn), and by how much it may grow."""

    name: str
    base: tuple[float, ...]
    head: tuple[float, ...]
    margin: float

    @property
    def ratio(self) -> float:
        """Of the medians: above 1, the head is slower."""
        return statistics.median(self.head) / statistics.median(self.base)

    @property
    def noise(self) -> float:
        """How far a turn lies from the median of its revision, relative to it: the median of that, of the noisier revision, twice."""
        return 2 * max(_spread(self.base), _spread(self.head))

    @property
    def is_slower(self) -> bool:
        return self.ratio > 1 + self.margin + self.noise


def _spread(turns: Sequence[float]) -> float:
    middle = statistics.median(turns)
    return statistics.median(abs(turn - middle) for turn in turns) / middle


def instructions(tree: Path, folder: Path, defines: str, *, source: str = "qfx/fixed/native.cpp") -> float:
    """That one forward and one backward pass of a kernel of ``tree`` execute, over 32,768 numbers; built and run in ``folder``."""
    program = folder / "kernel"
    machine = _PROCESSORS.get(os.uname().machine, "")
    harness = ROOT / "benchmarks" / "gate_kernels.cpp"
    command = [os.environ.get("CXX", "g++"), str(harness), "-o", str(program), f'-DQFX_KERNEL="{tree / source}"', *_COMPILE.split(), *defines.split()]
    subprocess.run([*command, *machine.split()], check=True)
    few, many = (_counted(program, folder, rounds) for rounds in (1, 3))
    return (many - few) / 2


def _counted(program: Path, folder: Path, rounds: int) -> int:
    """What the whole program executes."""
    out = folder / "callgrind.out"
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet", str(program), str(rounds)]
    subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
    return next(int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith(("summary:", "totals:")))


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """A tree of that revision; of none (""), the one that lies here."""
    if not name:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="qfx_gate_") as place:
        tree = Path(place) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), name], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def in_turns(base: Callable[[], float], head: Callable[[], float], turns: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What both give, asked one after the other."""
    pairs = [(base(), head()) for _ in range(turns)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def _measured(tree: Path, measure: Sequence[str]) -> float:
    code, *arguments = measure
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare(base: Path, head: Path, *, turns: int, kernels_alone: bool = False) -> Iterator[Compared]:
    """Each figure as soon as it is there."""
    with tempfile.TemporaryDirectory(prefix="qfx_gate_") as folder:
        for name, defines in KERNELS.items():
            counts = [instructions(tree, Path(folder), defines) for tree in (base, head)]
            yield Compared(f"{name} (instructions)", (counts[0],), (counts[1],), 0.01)
    for name, measure in () if kernels_alone else MEASURES.items():
        yield Compared(name, *in_turns(lambda m=measure: _measured(base, m), lambda m=measure: _measured(head, m), turns), 0.05)  # type: ignore[misc]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base", help="the revision to compare with, as git names it")
    parser.add_argument("head", nargs="?", default="", help="the revision that may be slower (default: the files that lie here)")
    parser.add_argument("--turns", type=int, default=7, help="of what is timed (default: 7)")
    parser.add_argument("--kernels", action="store_true", help="the instructions of the kernels alone")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed (Debian: apt-get install valgrind): it counts the kernels' instructions")
    slower = []
    with revision(options.base) as base, revision(options.head) as head:
        for one in compare(base, head, turns=options.turns, kernels_alone=options.kernels):
            print(
                f"{one.name}: {statistics.median(one.base):.6g} -> {statistics.median(one.head):.6g}, {one.ratio:.3f} (noise {one.noise:.3f})",
                flush=True,
            )
            slower += [one.name] * one.is_slower
    if slower:
        sys.exit(f"slower: {', '.join(slower)}")


if __name__ == "__main__":
    main()
