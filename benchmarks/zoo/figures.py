"""What the study of the zoo keeps."""

from __future__ import annotations

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

    @property
    def ratio(self) -> float:
        """To the reference: the median of the pairs."""
        return statistics.median(own / other for own, other in zip(self.ms, self.beside_ms, strict=True))


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


def reference_ms(rows: list[Row]) -> float:
    """The reference's median in the whole study."""
    return statistics.median(ms for row in rows for way in row.ways.values() for ms in way.beside_ms)
