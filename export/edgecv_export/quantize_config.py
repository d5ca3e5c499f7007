"""What a recipe's `quantize:` section holds."""

from __future__ import annotations

from typing import Literal

from edgecv_export.dialects import DIALECTS, WeightRanges
from edgecv_export.passes import PASSES
from edgecv_export.placement import PLACEMENTS
from edgecv_export.ranges import ESTIMATORS, Ranges
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

Goal = Literal["p50", "p99", "size", "divergence"]
DIALECT = "int8-u8s8"
FP16 = "fp16"
MIN_IMAGES = 16
# What recipes may still name, and why it is gone: benchmarks/quantization_rescue and quantization_nearness.
REMOVED = {
    "adaround": "it took minutes and brought nothing that 'bias' does not",
    "full-bias": "it brought nothing that 'bias' does not",
}


class QuantizeConfig(Record, frozen=True):
    """How to quantize, and what the search may try.

    images: how many calibrate; check_images: how many more choose between the candidates. passes: of PASSES; islands:
    whether sensitive layers may stay in float; keep_float: names of nodes that stay in float whatever they cost.
    goal: what is to be small; "divergence" takes what is closest to float32 and as fast as it. budget_s: seconds for
    the search.
    dialects: of "int8-u8s8", "int8-s8s8", "int8-s8s8-fp16" and "fp16", which files go into the bundle; "fp16" alone is
    converted, and nothing is searched.
    """

    images: int = 200
    check_images: int = 100
    placements: tuple[str, ...] = tuple(PLACEMENTS)
    ranges: tuple[Ranges, ...] = ("min-max", "mean-min-max", "percentile", "mse")
    weight_ranges: tuple[WeightRanges, ...] = ("min-max",)
    passes: tuple[str, ...] = PASSES
    islands: bool = True
    keep_float: tuple[str, ...] = ()
    dialects: tuple[str, ...] = (DIALECT,)
    goal: Goal = "p50"
    budget_s: float = 600.0

    @property
    def int8(self) -> tuple[str, ...]:
        """The int8 dialects that are asked for; the files of the first are those that are tried."""
        return tuple(name for name in self.dialects if name in DIALECTS)

    def __post_init__(self) -> None:
        if self.images < MIN_IMAGES or self.check_images < MIN_IMAGES:
            raise BadInput(f"images and check_images must be at least {MIN_IMAGES}")
        if not self.budget_s > 0:
            raise BadInput(f"budget_s must be positive, got {self.budget_s}")
        for what, given, known in (
            ("placements", self.placements, PLACEMENTS),
            ("ranges", self.ranges, ESTIMATORS),
            ("weight_ranges", self.weight_ranges, ("min-max", "mse")),
            ("dialects", self.dialects, (*DIALECTS, FP16)),
            ("passes", self.passes, PASSES),
        ):
            for name in given:
                if why := REMOVED.get(name, ""):
                    raise BadInput(f"{what}: '{name}' was removed, {why}; leave it out")
            if (not given and what != "passes") or not set(given) <= set(known):
                raise BadInput(f"{what} are of {', '.join(known)}; got {', '.join(given) or 'none'}")
