"""A program: the kernels of ``qfx.fixed.gpu``, compiled by Triton for the compute capability in the argument, without a GPU. Prints, as JSON, the
size of each and which instructions are in them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qfx.fixed.gpu import kernels, launch
from qfx.fixed.kernel import CastMode
from qfx.fixed.plan import plan_of
from qfx.fixed.type import OMode, QMode

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64"}


def built(kernel: Any, given: dict[str, str | None], constants: dict[str, Any]) -> Any:
    """The kernel for arguments of these types; None: what is left out."""
    places = {name: place for place, name in enumerate(kernel.arg_names)}
    signature = {name: "constexpr" if kind is None else kind for name, kind in given.items()} | dict.fromkeys(constants, "constexpr")
    fixed = {(places[name],): None for name, kind in given.items() if kind is None} | {(places[name],): value for name, value in constants.items()}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    return triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=fixed), target=target, options={"enable_fp_fusion": False})


def both(mode: CastMode, width: int, slope: float, x: Tensor, frac: Tensor, *others: Tensor | None) -> list[Any]:
    """Forward and backward of a cast."""
    fused = launch.there(plan_of(mode, width, slope), x, frac, *(*others, None, None, None, None)[:4])
    assert fused is not None
    result = "*fp64" if fused.wide or x.dtype is torch.float64 else "*fp32"
    words, scale, shift, addend = (None if t is None else POINTERS[t.dtype] for t in (*others, None, None, None, None)[:4])
    pointers = {"frac": POINTERS[frac.dtype], "words": words, "scale": scale, "shift": shift, "addend": addend}
    constants = fused.constants | {"ROWS": fused.tile[0], "COLUMNS": fused.tile[1]}
    own, shape = POINTERS[x.dtype], dict.fromkeys(("channels", "inner", "rows"), "i32")
    gradients = {"grad_x": own, "grad_addend": addend, "partial": "*fp64", "grad": result, "steps": "i32", "splits": "i32"}
    return [
        built(kernels.forward, {"out": result, "x": own, **pointers, **shape}, constants),
        built(kernels.backward, {"x": own, **gradients, **pointers, **shape}, constants | {"SUMS": True}),
    ]


def main() -> None:
    x, one, each, vector = torch.randn(4, 5, 6), torch.tensor(2.0), torch.zeros(1, 5, 1), torch.ones(5)
    made = {
        "plain": both(CastMode(q=QMode.RND_CONV, o=OMode.SAT), 8, 1.0, x, one),
        "channels": both(CastMode(), 8, 1.0, x, each),
        "affine": both(CastMode(q=QMode.RND, o=OMode.SAT), 8, 0.0, x, one, None, vector, vector, x),
        "words": both(CastMode(q=QMode.RND_INF, o=OMode.SAT), 8, 1.0, x, each, each),
        "long": both(CastMode(q=QMode.RND_ZERO, o=OMode.WRAP_SM, n=3), 30, 1.0, x, each),
        "sign and magnitude": both(CastMode(q=QMode.TRN_ZERO, o=OMode.WRAP_SM), 8, 1.0, x, each),
        "sums": [
            built(kernels.finish, {"out": "*fp32", "partial": "*fp64", "factor": "i64", "rows": "i32", "columns": "i32"}, {"ROWS": 32, "COLUMNS": 32})
        ],
    }
    code = "\n".join(kernel.asm["ptx"] for each_way in made.values() for kernel in each_way)
    found = {
        "kernels": {f"{name} {place}": len(kernel.asm["cubin"]) for name, ways in made.items() for place, kernel in enumerate(ways)},
        "flushing": sorted(set(re.findall(r"\S*\.ftz\S*", code))),
        "forbidden": sorted(set(re.findall(r"\b(?:fma\S*|atom\S*|red\.\S*|div\.full\S*|\S*\.approx\S*)", code))),
        "arithmetic": sorted(set(re.findall(r"\b(?:mul|add|sub)\.rn\.f\d\d", code))),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
