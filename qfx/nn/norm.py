"""Where BatchNorm was before ``qfx.nn.layers``: code and pickled models know it by this path."""

from __future__ import annotations

from qfx.nn.layers.batch_norm import FoldedNorm, Norm, QBatchNorm, QFoldedBatchNorm, signed_spec

__all__ = ["FoldedNorm", "Norm", "QBatchNorm", "QFoldedBatchNorm", "signed_spec"]
