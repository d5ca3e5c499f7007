"""What a bundle says of itself: `bundle.json` (the manifest) and `evidence.json` (what was measured)."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgecv_runtime.errors import BadInput
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record

SCHEMA = 1

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
    """One ONNX file of the bundle.

    name: "float32" or the dialect, "int8-u8s8" say. backends: those on which it was verified and is worth running.
    withheld: for the other backends tried, why it is not offered there. hints: of float32, by backend, the other float
    precisions that keep the budget there and are faster. islands: float precision of what is not quantized, on the
    backends that have it natively; in "int8-s8s8-fp16" the file itself has it.
    """

    name: str
    file: str
    precision: Precision
    backends: tuple[str, ...] = ()
    withheld: dict[str, str] = {}
    hints: dict[str, tuple[Precision, ...]] = {}
    calibration: Calibration | None = None
    islands: Precision = "float32"


class Budget(Record, frozen=True):
    """What a smaller variant may lose and still be offered.

    max_drop_points: top-1 in points, on labelled frames. min_agreement: share of frames that keep the reference's top-1
    label, used where there are no labels.
    """

    max_drop_points: float = 0.5
    min_agreement: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop_points <= 100:
            raise BadInput(f"max_drop_points must lie in 0..100, got {self.max_drop_points}")
        if not 0 <= self.min_agreement <= 1:
            raise BadInput(f"min_agreement must lie in 0..1, got {self.min_agreement}")

    def broken_by(self, agreement: Agreement, accuracy: Accuracy | None) -> str:
        """What is lost beyond the budget, in words, or "": accuracy counts where there are labels, else agreement."""
        if accuracy is not None:
            if accuracy.drop_points > self.max_drop_points:
                return f"loses {accuracy.drop_points:.2f} points of accuracy, the budget is {self.max_drop_points:g}"
        elif agreement.top1.value < self.min_agreement:
            share = f"{agreement.top1.value:.1%}"
            return f"agrees with float32 on {share} of frames, the budget is {self.min_agreement:.1%}"
        return ""


class Manifest(Record, frozen=True):
    """The manifest, `bundle.json`: everything a device must know, and the hash of every file.

    judged_on: the machine whose measurements decided on which backends the variants are offered.
    """

    name: str
    task: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    normalization: Normalization
    labels: tuple[str, ...]
    variants: tuple[Variant, ...]
    budget: Budget = Budget()
    judged_on: str = ""
    provenance: dict[str, str] = {}
    files: dict[str, FileRecord] = {}
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise BadInput(f"schema {self.schema} is not {SCHEMA}: use the edgecv version that wrote it")
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise BadInput(f"variant names repeat: {names}")

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)


class Interval(Record, frozen=True):
    """A share in 0..1 with its 95 % Wilson score interval over `count` frames."""

    value: float
    low: float
    high: float
    count: int


class Agreement(Record, frozen=True):
    """How outputs agree with the reference on real frames.

    top1: share of frames with the same top-1 label. max_abs, mean_abs: difference of the logits.
    kl: mean Kullback-Leibler divergence of the softmax outputs, in nats. largest: of the reference's logits, without
    its sign; 0 in evidence of older versions.
    """

    reference: str
    top1: Interval
    max_abs: float
    mean_abs: float
    kl: float
    largest: float = 0.0


class Accuracy(Record, frozen=True):
    """Top-1 on labelled frames: of this file, of the reference on the same frames, and the drop in points."""

    top1: Interval
    reference: Interval
    drop_points: float
    drop_low: float
    drop_high: float


class Latency(Record, frozen=True):
    """Times of single calls at one batch size: `run` on a ready tensor, and frame to result.

    apart: how many times as long as its fastest round the slowest took, by their medians; 0 where that is not known.
    """

    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    runs: int
    rounds: int
    throughput_per_s: float
    frame_p50_ms: float
    frame_size: tuple[int, int]
    load_ms: float
    peak_rss_mb: float
    threads: int
    apart: float = 0.0


class Machine(Record, frozen=True):
    """Where something was measured.

    isa: instruction sets of the processor; isa_limit: the largest that oneDNN may use, as ONEDNN_MAX_CPU_ISA names it.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    os: str
    python: str
    gpu: str = ""
    isa_limit: str = ""

    @property
    def key(self) -> str:
        """Short name that tells machines apart; one whose instruction sets are limited is another machine."""
        limit = f"at most {self.isa_limit}" if self.isa_limit else ""
        return ", ".join(filter(None, (self.cpu, f"{self.cores} cores", self.gpu, limit)))


class Finding(Record, frozen=True):
    """A fault that verification found and named.

    name: of the fault, as the catalogue has it (docs/verify.md). detail: how it shows here; cure: what to do.
    node: the first node of the graph at which the computation differs, where that could be told.
    """

    name: str
    detail: str
    cure: str
    node: str = ""

    def __str__(self) -> str:
        where = f"; first node that differs: {self.node}" if self.node else ""
        return f"{self.name}: {self.detail}{where}; {self.cure}"


class Entry(Record, frozen=True):
    """What is known of one variant on one backend of one machine.

    sha256: of the very file that was verified and timed. hint: the float precision asked for ("float32" or "bf16").
    executed: the precision that executed; layers: convolutions and matrix products by executed precision.
    failed: why the backend could not run it at all; then nothing was measured.
    finding: the fault behind outputs that disagree.
    """

    variant: str
    sha256: str
    backend: str
    hint: str
    executed: str
    layers: dict[str, int]
    versions: dict[str, str]
    machine: Machine
    failed: str = ""
    finding: Finding | None = None
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies an entry: a later measurement of the same thing replaces it."""
        return (self.variant, self.backend, self.hint, self.machine.key)


class Evidence(Record, frozen=True):
    """The evidence file: one entry per variant, backend, precision hint and machine."""

    entries: tuple[Entry, ...] = ()

    def merged(self, new: list[Entry]) -> Evidence:
        """Evidence in which `new` entries replace those of the same key, and keep what was measured before.

        Only figures of the same file and the same versions are kept. Agreement on more frames is kept over agreement
        on fewer, unless the new one contradicts it: a self-test on golden inputs can withhold, and never offer.
        """
        table = {entry.key: entry for entry in self.entries}
        for entry in new:
            old = table.get(entry.key)
            same = old is not None and (old.sha256, old.versions) == (entry.sha256, entry.versions)
            table[entry.key] = _joined(old, entry) if old is not None and same and not entry.failed else entry
        return Evidence(entries=tuple(table[key] for key in sorted(table)))

    def of_files(self, hashes: set[str]) -> Evidence:
        """Evidence without the entries of files that are no longer there."""
        return Evidence(entries=tuple(entry for entry in self.entries if entry.sha256 in hashes))


def _joined(old: Entry, new: Entry) -> Entry:
    """The new entry with what only the old one has, and the stronger of the two agreements."""
    agreement = new.agreement or old.agreement
    if new.agreement and old.agreement:
        fewer = new.agreement.top1.count < old.agreement.top1.count
        agrees = new.agreement.top1.value >= old.agreement.top1.low
        agreement = old.agreement if fewer and agrees else new.agreement
    return msgspec.structs.replace(
        new,
        agreement=agreement,
        accuracy=new.accuracy or old.accuracy,
        latency=new.latency or old.latency,
        finding=new.finding if new.agreement else old.finding,
    )
