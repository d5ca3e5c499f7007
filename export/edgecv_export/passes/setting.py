"""What a correction has to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecv_export.deadline import Tick, unbounded
from edgecv_export.dialects import Grid
from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Wiring
from edgecv_runtime.preprocess import Image


@dataclass(frozen=True)
class Setting:
    """One way to quantize.

    nodes: those that compute in int8; grids: by tensor name; statistics: of the float graph; images: (N, H, W, C)
    uint8, preprocessed, some of those that calibrated. tick: what long corrections call between their steps.
    """

    wiring: Wiring
    nodes: list[Any]
    grids: Mapping[str, Grid]
    statistics: Mapping[str, Statistics]
    images: Image
    tick: Tick = unbounded
