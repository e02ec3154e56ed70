"""What torch records of a model (TorchScript, torch.export, its own ONNX export): a quantized one is refused, and told what to use instead."""

from __future__ import annotations

import torch

from qfx.errors import UnsupportedError

_WHAT = "cannot take a quantized model"
_REMEDY = "give it qfx.to_module(qmodel), which has the same numbers; or use qfx.export_onnx(qmodel, path), which qfx hls reads"

_IN_DYNAMO = f"torch.export {_WHAT}: {_REMEDY}"


def refusal(by: str) -> UnsupportedError:
    """The error for a recorder of that name."""
    return UnsupportedError(f"{by} {_WHAT}", where="input", remedy=_REMEDY)


def refuse_recording() -> None:
    """Raise UnsupportedError if torch is recording what runs: intervals and binary points are read by Python, and casts are no torch operators."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise refusal("torch.onnx.export" if torch.onnx.is_in_onnx_export() else "torch.jit.trace")
    if torch.compiler.is_compiling() and _is_exporting():
        if torch.compiler.is_dynamo_compiling():  # export(strict=True) reads this code; of an exception it shows builtin ones with their text
            raise RuntimeError(_IN_DYNAMO)
        raise refusal("torch.export")


def _is_exporting() -> bool:
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return exporting is not None and bool(exporting())
