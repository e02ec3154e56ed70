"""The old name of ``qfx.hardware.project.csim``."""

from qfx.hardware.project.csim import VARIANTS, build, layers_of, losses, run, run_raw, trace_raw

__all__ = ["VARIANTS", "build", "layers_of", "losses", "run", "run_raw", "trace_raw"]
