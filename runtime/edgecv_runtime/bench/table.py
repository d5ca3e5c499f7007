"""The results table: one row per variant and backend, with what was measured and whether it is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from edgecv_runtime import backends, machine, offers
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.evidence import TOP_1, Agreement, Entry, Evidence, Finding, Interval, Latency, Score
from edgecv_runtime.manifest import Manifest, Variant
from edgecv_runtime.paired import Ratio
from edgecv_runtime.records import Record
from edgecv_runtime.timing import STEADY

MISSING, NOT_SCORED = "–", "accuracy not measured"


class Row(Record, frozen=True):
    """One variant on one backend of one machine; what was not measured is None, or empty.

    file_mb: in MB (10^6 bytes). hint: the float precision asked for; executed: the precision that ran, layers: how many
    convolutions and matrix products ran in each. ratio: its time as a multiple of float32's on that backend, measured
    side by side. offered: whether `load` takes it by itself on that machine; why_not: else the reason.
    """

    bundle: str
    variant: str
    sha256: str
    file_mb: float
    offered: bool
    why_not: str = ""
    backend: str | None = None
    hint: str | None = None
    executed: str | None = None
    layers: dict[str, int] = {}
    versions: dict[str, str] = {}
    machine: str | None = None
    score: Score | None = None
    agreement: Agreement | None = None
    latency: Latency | None = None
    ratio: Ratio | None = None
    finding: Finding | None = None

    @property
    def target(self) -> str:
        """Short name: "int8-u8s8 on openvino", with the precision that was asked for when it is not float32."""
        where = f" on {self.backend}" if self.backend else ""
        return f"{self.variant}{where}" + (f" ({self.hint})" if self.hint not in (None, "float32") else "")


def rows(bundle: Bundle) -> list[Row]:
    """The bundle's evidence as rows, in the order of its variants; a variant that was never measured has one row too.

    Evidence of a file that is no longer in the bundle does not count. Raises BundleError when the evidence is broken.
    """
    return of_evidence(bundle, bundle.evidence())


def of_evidence(bundle: Bundle, evidence: Evidence, judged: Evidence | None = None) -> list[Row]:
    """The same of evidence that need not be in the bundle; judged: what decides on what is offered, if it is more."""
    manifest = bundle.manifest
    verdicts = {}
    for key, each in evidence.machines().items():
        is_here = key == machine.this().key
        now = backends.available() if is_here else None
        found = offers.offered(manifest, judged or evidence, machine.this() if is_here else each, now)
        verdicts[key] = {**found.why_not, **found.stale}
    nowhere = f"not measured; {offers.CURE}"
    table: list[Row] = []
    for variant in manifest.variants:
        digest = bundle.sha256(variant.name)
        measured = [entry for entry in evidence.entries if entry.variant == variant.name and entry.sha256 == digest]
        measured.sort(key=lambda entry: (entry.machine.key, entry.backend, entry.hint != "float32", entry.hint))
        for entry in measured:
            row = _row(manifest, variant, entry, verdicts[entry.machine.key].get(entry.target, nowhere))
            table.append(msgspec.structs.replace(row, ratio=_of_float32(entry, manifest, evidence)))
        if not measured:
            table.append(_row(manifest, variant, None, nowhere))
    return table


def _row(manifest: Manifest, variant: Variant, entry: Entry | None, why_not: str) -> Row:
    file = manifest.files[variant.file]
    if entry is not None and entry.hint != "float32" and why_not:
        why_not = f"only when asked for, by precision='{entry.hint}'"
    row = Row(manifest.name, variant.name, file.sha256, file.bytes / 1e6, not why_not, why_not)
    if entry is None:
        return row
    return msgspec.structs.replace(
        row,
        backend=entry.backend,
        hint=entry.hint,
        executed=entry.executed,
        layers=entry.layers,
        versions=entry.versions,
        machine=entry.machine.key,
        score=entry.score,
        agreement=entry.agreement,
        latency=entry.latency,
        finding=entry.finding,
    )


def _of_float32(entry: Entry, manifest: Manifest, evidence: Evidence) -> Ratio | None:
    where = (entry.backend, entry.machine.key)
    for each in evidence.entries:
        if each is entry or (each.backend, each.machine.key) != where or not offers.is_float32(each, manifest):
            continue
        return entry.latency.beside(each.latency) if entry.latency and each.latency else None
    return None


def fastest(rows: Iterable[Row]) -> Row | None:
    """Of the rows that are offered and were timed, the one with the smallest median at its batch size."""
    timed = [(row.latency.p50_ms / row.latency.batch, row) for row in rows if row.offered and row.latency]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None


# What a cell shows: its main text, and a detail that stands beside or below it (an interval, a version, a reason).
Cell = tuple[str, str]

COLUMNS: dict[str, Callable[[Row], Cell]] = {
    "bundle": lambda row: (row.bundle, ""),
    "variant": lambda row: (row.variant, row.hint or "" if row.hint != "float32" else ""),
    "backend": lambda row: (row.backend or MISSING, _versions(row)),
    "executed": lambda row: (row.executed or MISSING, _layers(row)),
    "accuracy": lambda row: _accuracy(row),
    "drop, points": lambda row: _drop(row.score) if row.score else (MISSING, ""),
    "agreement": lambda row: _named(row.agreement.metric, row.agreement.share) if row.agreement else (MISSING, ""),
    "p50 ms": lambda row: (_latency(row, "p50_ms")[0], _unsteady(row)),
    "p90 ms": lambda row: _latency(row, "p90_ms"),
    "p99 ms": lambda row: _latency(row, "p99_ms"),
    "of float32": lambda row: _ratio(row.ratio),
    "per s": lambda row: _latency(row, "throughput_per_s"),
    "frame ms": lambda row: _latency(row, "frame_p50_ms"),
    "file MB": lambda row: (number(row.file_mb), ""),
    "memory MB": lambda row: _latency(row, "peak_rss_mb"),
    "load ms": lambda row: _latency(row, "load_ms"),
    "machine": lambda row: (row.machine or MISSING, ""),
    "offered": lambda row: ("yes", "") if row.offered else ("no", row.why_not),
}
TIMED = frozenset({"p50 ms", "p90 ms", "p99 ms", "per s", "frame ms", "memory MB", "load ms"})
WORDS = frozenset({"bundle", "variant", "backend", "executed", "machine", "offered"})  # the others hold figures


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns that tell something: no time that nobody took, nothing that all share.

    Beside a time stands the accuracy of that very file, or that it was not measured.
    """
    left_out = set() if any(row.score for row in rows) else {"drop, points"}
    left_out |= set() if any(row.score or row.latency for row in rows) else {"accuracy"}
    left_out |= set() if any(row.latency for row in rows) else TIMED
    left_out |= set() if any(row.ratio for row in rows) else {"of float32"}
    left_out |= {name for name in ("bundle", "machine") if len({COLUMNS[name](row) for row in rows}) < 2}
    return [name for name in COLUMNS if name not in left_out]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, with how it was measured below; empty cells hold a dash."""
    names = columns(rows)
    lines = [_line(names), _line("---" if name in WORDS else "---:" for name in names)]
    lines += [_line(joined(COLUMNS[name](row)) for name in names) for row in rows]
    return "\n".join([*lines, "", *(f"- {_escaped(note)}" for note in notes(rows))]) + "\n"


def joined(cell: Cell) -> str:
    """A cell on one line: "98.61 % (96.8–99.4)", "no: slower than float32"."""
    main, detail = cell
    if not detail:
        return main
    return f"{main}: {detail}" if main == "no" else f"{main} ({detail})"


def machines(rows: Sequence[Row]) -> list[str]:
    """Where it was measured, with which versions: a sentence for each machine."""
    lines = []
    for name in _distinct(row.machine for row in rows if row.machine):
        versions = (row.versions.items() for row in rows if row.machine == name)
        libraries = ", ".join(_distinct(f"{library} {version}" for pairs in versions for library, version in pairs))
        lines.append(f"Measured on {name}, with {libraries}.")
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """How the figures came about, a sentence each: machines, frames and reference, batch, threads, frame size."""
    lines = machines(rows)
    scored = [row.score for row in rows if row.score]
    shares = [row.agreement for row in rows if row.agreement]
    if scored:
        counts = " or ".join(_distinct(each.count for each in scored))
        metric = " or ".join(_distinct(each.metric for each in scored))
        lines.append(f"Accuracy: {metric} on {counts} labelled images with its 95 % interval.")
    if shares:
        counts = " or ".join(_distinct(each.share.count for each in shares))
        names = " or ".join(_distinct(each.reference for each in shares))
        metric = " or ".join(_distinct(each.metric for each in shares))
        lines.append(f"Agreement: with {names} by {metric}, on {counts} real frames, with its 95 % interval.")
    timed = [row.latency for row in rows if row.latency]
    if timed:
        batch, threads = (_distinct(getattr(each, name) for each in timed) for name in ("batch", "threads"))
        rounds = " or ".join(_distinct(each.rounds for each in timed))
        lines.append(
            f"p50, p90, p99: milliseconds of single calls at batch {' or '.join(batch)} with {' or '.join(threads)} "
            f"threads, in {rounds} interleaved rounds; load: from the file to the first result."
        )
        sizes = " or ".join(_distinct(f"{width}x{height}" for height, width in (each.frame_size for each in timed)))
        lines.append(f"Frame: from a {sizes} frame to its result, preprocessing included, median.")
    apart = [each.apart for each in timed if each.apart > STEADY]
    if apart:
        lines.append(
            f"Warning: the machine's speed changed while it was timed: rounds of {len(apart)} of {len(timed)} rows lie "
            f"more than {STEADY} times apart, up to {max(apart):.1f}; only ratios still tell."
        )
    return lines


def share(interval: Interval | Score) -> Cell:
    """A share as percent, and its interval: ("98.61 %", "96.8–99.4")."""
    return f"{100 * interval.value:.2f} %", f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def _accuracy(row: Row) -> Cell:
    if row.score is None:
        return (NOT_SCORED if row.latency else MISSING), ""
    return _named(row.score.metric, row.score)


def _named(metric: str, value: Interval | Score) -> Cell:
    """A share with the name of what it is a share of, where that is not the frames that are right."""
    main, detail = share(value)
    return (main if metric == TOP_1 else f"{metric} {main}"), detail


def number(value: float) -> str:
    """A figure to three digits that count, in plain notation: 0.043, 1.29, 13.4, 775."""
    size = abs(value)
    digits = 3 if size < 0.9995 else 2 if size < 9.995 else 1 if size < 99.95 else 0
    return signed(value, digits)


def signed(value: float, digits: int) -> str:
    """A figure with a real minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _drop(score: Score) -> Cell:
    return signed(score.drop, 2), f"{signed(score.drop_low, 1)} to {signed(score.drop_high, 1)}"


def _ratio(ratio: Ratio | None) -> Cell:
    return (f"{ratio.value:.2f}", f"{ratio.low:.2f}–{ratio.high:.2f}") if ratio else (MISSING, "")


def _latency(row: Row, field: str) -> Cell:
    return (number(getattr(row.latency, field)), "") if row.latency else (MISSING, "")


def _unsteady(row: Row) -> str:
    """A warning beside a time whose rounds lie too far apart."""
    apart = row.latency.apart if row.latency else 0.0
    return f"unsteady ({apart:.1f}x)" if apart > STEADY else ""


def _layers(row: Row) -> str:
    total = sum(row.layers.values())
    return f"{row.layers.get(row.executed or '', 0)} of {total}" if total else ""


def _versions(row: Row) -> str:
    """The backend's own version bare, other libraries' with their names."""
    return ", ".join(value if name == row.backend else f"{name} {value}" for name, value in row.versions.items())


def _distinct(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text that neither ends a cell nor becomes markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
