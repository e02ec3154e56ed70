"""qfx: take a PyTorch network to an AMD/Xilinx FPGA in fixed point, bit-exact all the way.

Names are imported on first use, so that the hardware side (``load_graph``, ``run``, the ``qfx`` command) never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfx.capture.check import check
    from qfx.distributed.synchronize import fully_shard, synchronize
    from qfx.errors import (
        DataError,
        ExactnessError,
        ModelFileError,
        NativeKernelWarning,
        ProjectError,
        QfxError,
        RecipeError,
        UnsupportedError,
    )
    from qfx.exchange.brevitas import from_brevitas
    from qfx.exchange.conversion import conversion
    from qfx.exchange.integers.door import integers_of
    from qfx.exchange.onnx_files import from_onnx
    from qfx.exchange.torch_ao.door import from_torchao
    from qfx.export.export import export_onnx, to_graph
    from qfx.export.programs.module import to_module
    from qfx.fixed.kernel import cast
    from qfx.fixed.type import FixedType, OMode, QMode
    from qfx.ir.from_onnx import load_graph
    from qfx.ir.graph import Graph
    from qfx.ir.interpret import run
    from qfx.nn.convert import quantize
    from qfx.nn.cost.cost import cost, summary
    from qfx.nn.groups import parameter_groups
    from qfx.nn.layers.tables.user import lookup
    from qfx.nn.model import quantizers
    from qfx.ptq.calibrate import calibrate
    from qfx.ptq.ranges import fix_ranges, prove_no_wrap
    from qfx.ptq.run.auto import autoquant
    from qfx.recipe import Override, Recipe, Spec
    from qfx.training.budget.archive import Archive
    from qfx.training.budget.budget import Budget
    from qfx.training.distillation import Distillation
    from qfx.training.ladder import float_state, ladder
    from qfx.training.levels import Levels
    from qfx.training.settling import Settling
    from qfx.training.states import freeze, switch

__version__ = "0.2.0"

_HOMES = {
    "qfx.capture.check": ("check",),
    "qfx.distributed.synchronize": ("fully_shard", "synchronize"),
    "qfx.errors": (
        "DataError",
        "ExactnessError",
        "ModelFileError",
        "NativeKernelWarning",
        "ProjectError",
        "QfxError",
        "RecipeError",
        "UnsupportedError",
    ),
    "qfx.exchange.brevitas": ("from_brevitas",),
    "qfx.exchange.conversion": ("conversion",),
    "qfx.exchange.integers.door": ("integers_of",),
    "qfx.exchange.onnx_files": ("from_onnx",),
    "qfx.exchange.torch_ao.door": ("from_torchao",),
    "qfx.export.export": ("export_onnx", "to_graph"),
    "qfx.export.programs.module": ("to_module",),
    "qfx.fixed.kernel": ("cast",),
    "qfx.fixed.type": ("FixedType", "OMode", "QMode"),
    "qfx.ir.from_onnx": ("load_graph",),
    "qfx.ir.graph": ("Graph",),
    "qfx.ir.interpret": ("run",),
    "qfx.training.budget.archive": ("Archive",),
    "qfx.training.budget.budget": ("Budget",),
    "qfx.nn.convert": ("quantize",),
    "qfx.nn.cost.cost": ("cost", "summary"),
    "qfx.nn.groups": ("parameter_groups",),
    "qfx.nn.layers.tables.user": ("lookup",),
    "qfx.nn.model": ("quantizers",),
    "qfx.ptq.run.auto": ("autoquant",),
    "qfx.ptq.calibrate": ("calibrate",),
    "qfx.ptq.ranges": ("fix_ranges", "prove_no_wrap"),
    "qfx.recipe": ("Override", "Recipe", "Spec"),
    "qfx.training.distillation": ("Distillation",),
    "qfx.training.levels": ("Levels",),
    "qfx.training.ladder": ("float_state", "ladder"),
    "qfx.training.settling": ("Settling",),
    "qfx.training.states": ("freeze", "switch"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Archive",
    "Budget",
    "DataError",
    "Distillation",
    "ExactnessError",
    "FixedType",
    "Graph",
    "Levels",
    "ModelFileError",
    "NativeKernelWarning",
    "OMode",
    "Override",
    "ProjectError",
    "QMode",
    "QfxError",
    "Recipe",
    "RecipeError",
    "Settling",
    "Spec",
    "UnsupportedError",
    "autoquant",
    "calibrate",
    "cast",
    "check",
    "conversion",
    "cost",
    "export_onnx",
    "fix_ranges",
    "float_state",
    "freeze",
    "from_brevitas",
    "from_onnx",
    "from_torchao",
    "fully_shard",
    "integers_of",
    "ladder",
    "load_graph",
    "lookup",
    "parameter_groups",
    "prove_no_wrap",
    "quantize",
    "quantizers",
    "run",
    "summary",
    "switch",
    "synchronize",
    "to_graph",
    "to_module",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'qfx' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
