"""What a bundle says of itself, `bundle.json`: everything a device must know, and the hash of every file."""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.errors import BadInput
from edgecv_runtime.head import Head
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record

SCHEMA = 2

Precision = Literal["float32", "fp16", "bf16", "int8"]


class FileRecord(Record, frozen=True):
    """A file of the bundle: SHA-256 as 64 hexadecimal digits, size in bytes."""

    sha256: str
    bytes: int


class TensorSpec(Record, frozen=True):
    """A tensor of the network: `shape` holds sizes, and the name of each dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Calibration(Record, frozen=True):
    """How an int8 variant came about: number of images, range estimators and the operator types quantized.

    placement: the rule for where Q/DQ stands. passes: what was done to keep the accuracy. islands: nodes left in float.
    trained: whether weights and ranges were trained on the grid from there; then no pass was needed.
    """

    images: int
    ranges: str
    operators: tuple[str, ...]
    placement: str = ""
    weight_ranges: str = "min-max"
    passes: tuple[str, ...] = ()
    islands: tuple[str, ...] = ()
    trained: bool = False


class Variant(Record, frozen=True):
    """One ONNX file of the bundle; where it is offered follows from the evidence.

    name: "float32" or the dialect, "int8-u8s8" say. islands: float precision of what is not quantized, on the backends
    that have it natively; in "int8-s8s8-fp16" the file itself has it. thresholds: the confidence of each class from
    which on results are shown, fitted to this file's own outputs, which int8 shifts; () where a task has none.
    """

    name: str
    file: str
    precision: Precision
    calibration: Calibration | None = None
    islands: Precision = "float32"
    thresholds: tuple[float, ...] = ()


AGREEMENT = 0.9  # of the reference's results, where nothing else was asked for and there are no labels


class Budget(Record, frozen=True):
    """What a smaller variant may lose and still be offered.

    max_drop_points: of the task's metric, in points, on labelled frames. min_agreement: share of the reference's
    results that it keeps; where it is given it counts on labelled frames, too, and else AGREEMENT on all others.
    """

    max_drop_points: float = 0.5
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop_points <= 100:
            raise BadInput(f"max_drop_points must lie in 0..100, got {self.max_drop_points}")
        if not 0 <= self.least_agreement <= 1:
            raise BadInput(f"min_agreement must lie in 0..1, got {self.min_agreement}")

    @property
    def least_agreement(self) -> float:
        """The share that counts where there are no labels."""
        return AGREEMENT if self.min_agreement is None else self.min_agreement


class Manifest(Record, frozen=True):
    """The manifest. head: what the outputs mean. provenance: where the network came from, in free words."""

    name: str
    head: Head
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    normalization: Normalization
    variants: tuple[Variant, ...]
    budget: Budget = Budget()
    provenance: dict[str, str] = {}
    files: dict[str, FileRecord] = {}
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise BadInput(f"variant names repeat: {names}")
        if not self.outputs:
            raise BadInput("outputs: expected at least one, got none")

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)

    def thresholds(self, name: str) -> tuple[float, ...]:
        """The confidences that were fitted to a variant, or else to float32; () where none were."""
        found = [each.thresholds for each in map(self.variant, (name, "float32")) if each is not None]
        return next(filter(None, found), ())

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.head.task

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs."""
        return self.head.labels
