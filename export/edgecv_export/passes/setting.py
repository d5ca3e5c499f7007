"""What a correction has to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecv_export.dialects import Grid
from edgecv_export.passes.moments import Moments
from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Wiring


@dataclass(frozen=True)
class Setting:
    """One way to quantize.

    nodes: those that compute in int8; grids: by tensor name; statistics: of the float graph, moments: of its layers'
    inputs, by their names, for "rounding".
    """

    wiring: Wiring
    nodes: list[Any]
    grids: Mapping[str, Grid]
    statistics: Mapping[str, Statistics]
    moments: Mapping[str, Moments] = field(default_factory=dict)
