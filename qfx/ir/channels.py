"""How operators carry channels: what each channel of a result is made of, and constants of some channels alone.

An operator answers with one of three (``Operator.carries``), and the pass that removes channels (``qfx.ir.passes.vanish``) asks no more of it:

* ``Apart``: each channel is made of one channel of each value that is read, or of some of them. Removed are all channels of one origin, or none.
* ``Summed``: each channel is a sum over channels, weighed by constants; whichever channels are taken from either side, the rest is such an operator.
* None: channels mix in ways that are not told. None of them, and none that is read, is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfx.ir.rules import Infos
from qfx.ir.values import ArrayType, Const, Info

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Apart:
    """``origins``: for each value that is read, the channel of it that each channel of the result is made of, -1 for none. ``fixed``: the channels
    of the result that are the same numbers whatever is read. ``annuls``: whether a channel is 0 where one of its origins is."""

    origins: tuple[npt.NDArray[np.int64], ...]
    fixed: Mask | None = None
    annuls: bool = False


@dataclass(frozen=True, eq=False)
class Summed:
    """``meets`` (channels of the result, channels of the one value that is read): where a weight is not 0. ``whole``: whether all channels stay after
    all, since the constants of some of them alone would not make such an operator."""

    meets: Mask
    whole: bool = False


Carried = Apart | Summed | None


def alone(inputs: Infos, out: Info, *, fixed: Mask | None = None, annuls: bool = False) -> Apart | None:
    """Each channel is made of the same channel of whatever is read; None where these are not as many."""
    if any(info.shape[0] != out.shape[0] for info in inputs):
        return None
    return Apart((np.arange(out.shape[0]),) * len(inputs), fixed, annuls)


def meets(weight: Const, groups: int = 1) -> Mask:
    """Of ``Summed``: where a weight (outputs, inputs of a group, ...) is not 0."""
    used = np.asarray(weight.raw.reshape(*weight.shape[:2], -1).any(-1), dtype=np.bool_)
    outputs, each = used.shape
    found = np.zeros((outputs, each * groups), dtype=np.bool_)
    for group in range(groups):
        rows, columns = slice(group * outputs // groups, (group + 1) * outputs // groups), slice(group * each, (group + 1) * each)
        found[rows, columns] = used[rows]
    return found


def rows(const: Const, made: Mask) -> Const:
    """The entries of the channels ``made``, of a constant that has an entry for each, or one for all."""
    if not const.shape or (const.shape[0] == 1 and made.size > 1):
        return const
    grids = const.frac_bits if isinstance(const.frac_bits, int) else tuple(np.array(const.frac_bits)[made].tolist())
    return Const(const.raw[made], grids)


def weight_of(const: Const, made: Mask, read: Mask) -> Const:
    """The weights (outputs, inputs, ...) between the channels ``made`` and ``read``."""
    left = rows(const, made)
    return Const(left.raw[:, read], left.frac_bits)


def cast_of(cast: ArrayType, made: Mask) -> ArrayType:
    """The cast of the channels ``made``."""
    if not cast.shape or cast.shape[0] == 1:
        return cast
    int_bits = np.array(cast.int_bits).reshape(cast.shape)[made]
    return ArrayType(cast.with_int_bits(int(int_bits.max())), tuple(int_bits.reshape(-1).tolist()), int_bits.shape)
