"""Functions of one number by table: what torch operations become one (``rules``), the layer (``lookup``), and the entries (``entries``).

**For operations of several steps** (a softmax's exponential, a normalization's reciprocal root): ``table`` gives a layer that can be a ``Part``, with
a Cast of its own. Its input has to be cast: what reads an exact sum, say, comes behind a Quantizer, or the Cast that is due is put in as it is
for any layer. A row that is normalized by ``x * rsqrt(mean(x * x) + eps)``::

    square = Part(QMul(), (0, 0), "_square")
    mean = Part(QAvgPool(...), (square,), "_mean")
    root = Part(table(torch.rsqrt, call, "rsqrt"), (mean,), "_rsqrt")
    return [square, mean, root, Part(QMul(), (0, root))]

The Cast is called ``<path>.<label>`` in recipes, here ``norm.rsqrt``; its role is "internal". Where the input has up to 2**12 numbers that is one ROM
and nothing else; up to 2**20, two ROMs and a multiplier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qfx.nn.call import Call
from qfx.nn.layers.tables.entries import Function as Function
from qfx.nn.layers.tables.lookup import QInnerLookup as QInnerLookup
from qfx.nn.layers.tables.lookup import QLookup as QLookup
from qfx.nn.layers.tables.lookup import Tabled as Tabled
from qfx.nn.layers.tables.lookup import error_bound as error_bound
from qfx.nn.layers.tables.rules import FAMILY as FAMILY
from qfx.nn.quantizer import Quantizer


def table(function: Function, call: Call, label: str, role: str = "internal", *, max_error: float | None = None, **changes: Any) -> QInnerLookup:
    """A table of ``function`` with a Cast of its own, called ``<call.path>.<label>``, whose spec is that of ``role`` with ``changes`` (fields of
    Spec) where the recipe's overrides do not say otherwise. ``function``: of a module, or a partial of one, so that models can be pickled."""
    name, also = f"{call.path}.{label}", f"{call.first or call.path}.{label}"
    recipe = replace(call.recipe, **{role: replace(getattr(call.recipe, role), **changes)})
    spec = replace(recipe.spec(name, role, also), granularity="tensor")
    return QInnerLookup(function, label, Quantizer(spec, name=name, also=also), max_error)
