"""What the study of the zoo keeps."""

from __future__ import annotations

import math
import statistics

import msgspec

REFERENCE = "mobilenet_v3_small"
# Form, backend, float precision: what is not quantized in an int8 file runs in float32.
FORMS = (
    ("float32", "onnxruntime", "float32"),
    ("float32", "openvino", "float32"),
    ("bf16", "openvino", "bf16"),
    ("int8", "onnxruntime", "float32"),
    ("int8", "openvino", "float32"),
)
SLACK, ENOUGH = 1.4, 3  # a block counts where the reference took so many times the usual; so many blocks are enough


class Way(msgspec.Struct, frozen=True):
    """One way to run a network.

    ms, beside_ms: medians of its blocks, and of the reference's beside each. kept: share of `count` frames that keep
    float32's label, with its 95 % interval; None where nothing was compared. why: it does not run.
    """

    executed: str = ""
    ms: tuple[float, ...] = ()
    beside_ms: tuple[float, ...] = ()
    rss_mb: float = 0.0
    load_ms: float = 0.0
    kept: float | None = None
    kept_low: float = 0.0
    kept_high: float = 0.0
    count: int = 0
    why: str = ""

    def steady(self, usual_ms: float) -> list[float]:
        """The blocks beside which the reference took no longer than it usually does, with some slack."""
        return [own for own, other in zip(self.ms, self.beside_ms, strict=True) if other <= SLACK * usual_ms]

    def settled(self, usual_ms: float) -> bool:
        """Whether there is nothing to measure again."""
        return bool(self.why) or len(self.steady(usual_ms)) >= ENOUGH

    def median_ms(self, usual_ms: float) -> float:
        """Of the steady blocks; of all where there are too few."""
        return statistics.median(self.steady(usual_ms) if self.settled(usual_ms) else self.ms)


class Row(msgspec.Struct, frozen=True):
    """One network. published: its weights' score in percent, as published; is_published: those were measured."""

    name: str
    family: str
    task: str
    size: tuple[int, int]
    parameters: int
    macs: int
    published: float | None
    is_published: bool
    file_mb: dict[str, float]
    ways: dict[str, Way]
    seconds: float


def usual_ms(rows: list[Row]) -> float:
    """What the reference takes in the quicker quarter of the whole study; infinite before anything was measured."""
    beside = [ms for row in rows for way in row.ways.values() for ms in way.beside_ms]
    return statistics.quantiles(beside, n=4)[0] if len(beside) > 1 else math.inf
