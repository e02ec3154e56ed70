"""After training: passes that make a fixed-point model as good as the arithmetic allows, without labels.

The rooms: ``floating`` (passes on the float model, before ``qfx.quantize``), ``rounding`` (which integers the weights become: AdaRound, COMQ, GPTQ),
``allocation`` (how long the words are: sensitivity, budgets, search), ``tuning`` (training on unlabelled data), ``data_free`` (without calibration
data), ``run`` (``qfx ptq``, ``autoquant``), ``report`` (what it writes). Beside them, for all: ``float_reference`` (what passes compare with),
``activations`` (what the layers are given), ``calibrate`` (binary points), ``bias`` (bias correction) and ``measure`` (how good a model is).
"""

from qfx.ptq.allocation.powers import learn_powers, search_powers
from qfx.ptq.allocation.search import Budget, Found, Point, plot_pareto, search, weight_bits, with_widths
from qfx.ptq.allocation.sensitivity import sensitivity
from qfx.ptq.allocation.table import Row, Table
from qfx.ptq.bias import BiasResult, correct_bias
from qfx.ptq.calibrate import calibrate
from qfx.ptq.data_free.bias_from_statistics import correct_bias_from_statistics
from qfx.ptq.data_free.datafree import calibrate_from_statistics, distill, quantize_without_data
from qfx.ptq.float_reference import float_reference
from qfx.ptq.floating.checks import Finding, check_data, check_model, require
from qfx.ptq.floating.equalize import absorb_bias, clipped_shares, equalize, equalize_exactly, measured_statistics, replace_relu6
from qfx.ptq.floating.fold import Statistics, fold_batch_norm, folded_statistics
from qfx.ptq.floating.prune import prune_channels
from qfx.ptq.floating.shifted import shifted_ranges
from qfx.ptq.rounding.adaround import adaround
from qfx.ptq.rounding.adaround_blocks import BlockResult, adaround_blocks
from qfx.ptq.rounding.comq import comq
from qfx.ptq.rounding.gptq import gptq
from qfx.ptq.rounding.layers import LayerResult
from qfx.ptq.rounding.methods import round_weights
from qfx.ptq.run.auto import Attempt, AutoResult, autoquant
from qfx.ptq.tuning.tune import TuneResult, tune

float_twin = float_reference
"""The earlier name of ``float_reference``."""

__all__ = [
    "Attempt",
    "AutoResult",
    "BiasResult",
    "BlockResult",
    "Budget",
    "Finding",
    "Found",
    "LayerResult",
    "Point",
    "Row",
    "Statistics",
    "Table",
    "TuneResult",
    "absorb_bias",
    "adaround",
    "adaround_blocks",
    "autoquant",
    "calibrate",
    "calibrate_from_statistics",
    "check_data",
    "check_model",
    "clipped_shares",
    "comq",
    "correct_bias",
    "correct_bias_from_statistics",
    "distill",
    "equalize",
    "equalize_exactly",
    "float_reference",
    "float_twin",
    "fold_batch_norm",
    "folded_statistics",
    "gptq",
    "learn_powers",
    "measured_statistics",
    "plot_pareto",
    "prune_channels",
    "quantize_without_data",
    "replace_relu6",
    "require",
    "round_weights",
    "search",
    "search_powers",
    "sensitivity",
    "shifted_ranges",
    "tune",
    "weight_bits",
    "with_widths",
]
