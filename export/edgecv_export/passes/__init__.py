"""Rescue passes: each a small function on a graph, each on or off.

Float passes rewrite the float32 graph without (or hardly) changing what it computes, so that it quantizes better; the
graph is calibrated again behind them. Corrections change the weights and biases of one way to quantize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgecv_export.passes import bias, equalize, fold, rounding, smooth
from edgecv_export.passes.setting import Setting
from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Wiring

# Each gives a changed copy, or None when there is nothing for it to change.
FLOAT_PASSES: dict[str, Callable[[Wiring, Mapping[str, Statistics]], Wiring | None]] = {
    "fold-batch-norm": fold.fold_batch_norm,
    "equalize": equalize.equalize,
    "smooth": smooth.smooth,
}
# Each gives a changed copy; they run in this order.
CORRECTIONS: dict[str, Callable[[Setting], Wiring]] = {"rounding": rounding.round_weights, "bias": bias.correct}
PASSES = (*FLOAT_PASSES, *CORRECTIONS)
