"""The arithmetic: fixed-point types, the definition of Cast, exact result types. Nothing that this package imports here needs torch."""

from qfx.fixed.arith import Interval
from qfx.fixed.type import FixedType, OMode, QMode

__all__ = ["FixedType", "Interval", "OMode", "QMode"]
