"""What was measured of a bundle's files, `evidence.json`: on which machine, with what, how near and how fast."""

from __future__ import annotations

import msgspec

from edgecv_runtime.machine import Machine
from edgecv_runtime.paired import PROCESS_LUCK, Ratio, ratio
from edgecv_runtime.records import Record

TOP_1 = "top-1"  # the metric of classifiers: the share of frames that are right
Key = tuple[str, str, str]  # a way to run: variant, backend, precision hint


class Interval(Record, frozen=True):
    """A share in 0..1 with its 95 % Wilson score interval over `count` frames."""

    value: float
    low: float
    high: float
    count: int


class Behind(Record, frozen=True):
    """How far logits are from the reference's from which both choose the classes that are their outputs.

    divergence: mean Kullback-Leibler divergence in nats. max_abs: the largest difference; largest: of the reference's,
    without its sign. count: of frames.
    """

    divergence: float
    max_abs: float
    largest: float
    count: int


class Agreement(Record, frozen=True):
    """How outputs agree with the reference's on the same real frames.

    reference: what they are compared with. metric, share: a score with the reference's results as the truth.
    divergence: mean Kullback-Leibler divergence of the outputs as distributions, in nats. max_abs, mean_abs:
    difference of the raw outputs. largest: of the reference's, without its sign; 0 in evidence of older versions.
    frames: which they were; "" where an older version did not say. behind: of outputs that are classes, what these are
    chosen from, where the reference showed it.
    """

    reference: str
    metric: str
    share: Interval
    divergence: float
    max_abs: float
    mean_abs: float
    largest: float = 0.0
    frames: str = ""
    behind: Behind | None = None

    def said(self, reference: str = "") -> str:
        """In words, of a share of frames or of something else; reference: another name for it."""
        share, of = f"{self.share.value:.1%}", f"{self.share.count} {self.frames or 'frames'}"
        name = reference or self.reference
        return (
            f"agrees with {name} on {share} of {of}"
            if self.metric == TOP_1
            else f"agrees with {name} by {self.metric} of {share} on {of}"
        )


class Score(Record, frozen=True):
    """How well outputs do on labelled frames, 0..1 with its 95 % interval, and what they lose of the reference's.

    reference: the reference's value on the same frames. drop: from it, in points of the metric (hundredths), with its
    paired 95 % interval. frames: as in `Agreement`.
    """

    metric: str
    value: float
    low: float
    high: float
    count: int
    reference: float
    drop: float
    drop_low: float
    drop_high: float
    frames: str = ""


class Latency(Record, frozen=True):
    """Times of single calls at one batch size: `run` on a ready tensor, and frame to result.

    apart: how many times as long as its fastest round the slowest took, by their medians; 0 where that is not known.
    session: names the run of a benchmark, by its time; block_ms: the medians of its short blocks in their order. Those
    of one session were measured side by side, and only they make pairs. Both are empty in evidence of older versions.
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
    session: str = ""
    block_ms: tuple[float, ...] = ()

    def beside(self, other: Latency) -> Ratio | None:
        """How many times as long it takes as another of the same session; None where they make no pairs."""
        if not self.session or self.session != other.session or len(self.block_ms) != len(other.block_ms):
            return None
        return ratio(self.block_ms, other.block_ms, luck=PROCESS_LUCK)


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
    score: Score | None = None
    latency: Latency | None = None

    @property
    def target(self) -> Key:
        """The way to run that was measured."""
        return (self.variant, self.backend, self.hint)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies an entry: a later measurement of the same thing replaces it."""
        return (*self.target, self.machine.key)

    @property
    def circumstances(self) -> tuple[object, ...]:
        """What has to be the same for figures to belong together: the file, versions, driver and power mode."""
        return (self.sha256, self.versions, self.machine.driver, self.machine.power)


class Evidence(Record, frozen=True):
    """The evidence file: one entry per variant, backend, precision hint and machine."""

    entries: tuple[Entry, ...] = ()

    def merged(self, new: list[Entry]) -> Evidence:
        """Evidence in which `new` entries replace those of the same key, and keep what was measured before.

        Only figures of the same file, versions, driver and power mode are kept. Labelled frames bring score and
        agreement, both of the same frames; fewer of them replace those of more only where they show another drop.
        Agreement alone, on fewer frames, replaces no agreement on more unless it is shown to be worse: a self-test on
        golden inputs can withhold, and never offer. A finding stays as long as the agreement beside which it was found.
        """
        table = {entry.key: entry for entry in self.entries}
        for entry in new:
            old = table.get(entry.key)
            same = old is not None and old.circumstances == entry.circumstances
            table[entry.key] = _joined(old, entry) if old is not None and same and not entry.failed else entry
        return Evidence(entries=tuple(table[key] for key in sorted(table)))

    def of_files(self, hashes: set[str]) -> Evidence:
        """Evidence without the entries of files that are no longer there."""
        return Evidence(entries=tuple(entry for entry in self.entries if entry.sha256 in hashes))

    def machines(self) -> dict[str, Machine]:
        """The machines on which anything was measured, by their keys."""
        return {entry.machine.key: entry.machine for entry in self.entries}


def _joined(old: Entry, new: Entry) -> Entry:
    """The new entry with what only the old one has, and the stronger of the two scores and agreements."""
    agreement, score = new.agreement or old.agreement, new.score or old.score
    if new.score and old.score and new.score.count < old.score.count:
        score = old.score if new.score.drop_low <= old.score.drop <= new.score.drop_high else new.score
    labelled = new.agreement if score is not None and score is new.score else None
    same = labelled is not None and score is not None and score.frames == labelled.frames != ""
    if new.agreement and old.agreement and not same:
        fewer = new.agreement.share.count < old.agreement.share.count
        agrees = new.agreement.share.high >= old.agreement.share.low
        agreement = old.agreement if fewer and agrees else new.agreement
    return msgspec.structs.replace(
        new,
        agreement=agreement,
        score=score,
        latency=new.latency or old.latency,
        finding=new.finding or (old.finding if agreement is old.agreement else None),
    )
