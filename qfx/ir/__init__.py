"""The hardware-side model: graphs of exact fixed-point operators and casts, their interpreter and their listing. Imports no torch."""

from qfx.ir.graph import Graph, Info, Node
from qfx.ir.interpret import run, run_raw, trace
from qfx.ir.text import listing

__all__ = ["Graph", "Info", "Node", "listing", "run", "run_raw", "trace"]
