"""Whether a bundle can run on a target that is not here: `edgecv check`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from edgecv.deploy import traits
from edgecv.deploy.targets import LEAST_GLIBC, LEAST_PYTHON, RULES, Rule, Target, Way
from edgecv.deploy.traits import FileTraits
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.evidence import Entry
from edgecv_runtime.records import Record

Said = Literal["runs", "refused", "not known"]
RUNS: Final = "runs"
REFUSED: Final = "refused"
NOT_KNOWN: Final = "not known"
_UNTRIED = "docs/tensorrt.md, What has run where"


class Reason(Record, frozen=True):
    """Why, in words, and who says so."""

    because: str
    source: str


class Verdict(Record, frozen=True):
    """Of one variant on one backend of a target: whether it runs there. notes: what else is known of it there."""

    variant: str
    backend: str
    version: str
    verdict: Said
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...] = ()


class Checked(Record, frozen=True):
    """What is known of a bundle on a target."""

    bundle: str
    target: Target
    verdicts: tuple[Verdict, ...]

    @property
    def nothing_runs(self) -> bool:
        """Whether everything of the bundle is refused there."""
        return all(each.verdict == REFUSED for each in self.verdicts)


def check(bundle: Bundle, target: Target, memory_mb: int | None = None) -> Checked:
    """Judge each variant of a bundle on each backend of a target.

    memory_mb: of the device, in MiB; None: as it is sold. What was tried on such a device, by the bundle's evidence,
    decides; then rules do, then whether anybody tried such a library on such a processor.
    """
    evidence, manifest = bundle.evidence(), bundle.manifest
    sizes = target.memory_mb if memory_mb is None else (memory_mb,)
    verdicts = []
    for variant in manifest.variants:
        file = traits.read(bundle.variant_file(variant.name))
        for backend in target.ways:
            entries = [
                each for each in evidence.entries if (each.variant, each.backend) == (variant.name, library(backend))
            ]
            there = [each for each in entries if _is_such(each, target)] if " " not in backend else []
            case = _Case(variant.name, file, target, backend, entries, sizes)
            verdicts.append(case.measured(there) if there else case.by_rules())
    return Checked(manifest.name, target, tuple(verdicts))


def library(way: str) -> str:
    """The backend of a way: "tensorrt", of "tensorrt dla"."""
    return way.partition(" ")[0]


class _Case(Record, frozen=True):
    """One variant on one backend. entries: the evidence of that pair on any machine; sizes: of memory, in MiB."""

    variant: str
    file: FileTraits
    target: Target
    backend: str
    entries: list[Entry]
    sizes: tuple[int, ...]

    @property
    def way(self) -> Way:
        return self.target.ways[self.backend]

    def measured(self, there: Sequence[Entry]) -> Verdict:
        """By what ran, or did not, on such devices: it runs where one of them ran it, and its memory is enough."""
        failed = [Reason(each.failed, _source(each)) for each in there if each.failed]
        ran = [each for each in there if not each.failed]
        if not ran:
            return self._so(REFUSED, failed)
        memory = {rule.verdict: [Reason(rule.because, rule.source)] for rule in self._memory()}
        notes = [Reason(f"disagrees there: {each.finding}", _source(each)) for each in ran if each.finding]
        for verdict in (REFUSED, NOT_KNOWN):
            if verdict in memory:
                return self._so(verdict, memory[verdict], [*notes, *failed])
        reasons = [Reason(f"it ran there, in {each.executed}", _source(each)) for each in ran]
        return self._so(RUNS, reasons, [*notes, *failed])

    def by_rules(self) -> Verdict:
        """By rules; what none refuses or doubts, and somebody ran on such a processor, runs."""
        name, version = library(self.backend), self.way.version
        words = {self.backend, name, f"{name} {version}", self.target.name, *self.target.traits, *self.file.words}
        known = [rule for rule in RULES if words.issuperset(rule.when)]
        said = [*_system(self.target), *known, *self._versions(), *self._memory()]

        def of(verdict: str) -> list[Reason]:
            return [Reason(each.because, each.source) for each in said if each.verdict == verdict]

        if reasons := of(REFUSED):
            return self._so(REFUSED, reasons)
        if reasons := of(NOT_KNOWN):
            return self._so(NOT_KNOWN, reasons, of("noted"))
        if not self.way.tried:
            untried = Reason(f"nobody of us has run edgecv with {name} {version} on such a device", _UNTRIED)
            return self._so(NOT_KNOWN, [untried], of("noted"))
        return self._so(RUNS, [Reason("such files ran", self.way.tried)], of("noted"))

    def _so(self, verdict: Said, reasons: list[Reason], notes: Sequence[Reason] = ()) -> Verdict:
        return Verdict(self.variant, self.backend, self.way.version, verdict, tuple(reasons), tuple(notes))

    def _versions(self) -> list[Rule]:
        """A file that is newer than the library: ONNX Runtime refuses it, other parsers may take it."""
        name, way, found = library(self.backend), self.way, self.file
        verdict: Literal["refused", "not known"] = REFUSED if name == "onnxruntime" else NOT_KNOWN
        pairs = (("opset", found.opset, way.opset), ("IR version", found.ir, way.ir))
        return [
            Rule((), verdict, f"{what} {has} of the file is above {most} of {name} {way.version}", way.source)
            for what, has, most in pairs
            if has > most
        ]

    def _memory(self) -> list[Rule]:
        """The largest peak that was measured against the memory of the device; its system wants some, too."""
        peaks = [(each.latency.peak_rss_mb * 1e6 / 2**20, each.machine.key) for each in self.entries if each.latency]
        if not peaks:
            return [Rule((), "noted", "peak memory is not known: run 'edgecv bench'", "the bundle's evidence")]
        peak, machine = max(peaks)
        source = f"the bundle's evidence: peak on {machine}"
        if self.sizes and peak > max(self.sizes):
            return [Rule((), REFUSED, f"needs {peak:.0f} MiB, the device has {max(self.sizes)}", source)]
        if self.sizes and peak > min(self.sizes):
            sold = f"the device is sold with {min(self.sizes)} to {max(self.sizes)}; say --memory"
            return [Rule((), NOT_KNOWN, f"needs {peak:.0f} MiB, {sold}", source)]
        return []


def _source(entry: Entry) -> str:
    return f"the bundle's evidence: {entry.machine.key}"


def _is_such(entry: Entry, target: Target) -> bool:
    """Whether evidence is of such a device: by the name of its board or processor."""
    return any(re.search(rf"\b{re.escape(name)}\b", entry.machine.cpu) for name in target.named)


def _system(target: Target) -> list[Rule]:
    """What the device's own system lacks."""
    found = []
    if _numbers(target.python) < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        found.append(Rule((), REFUSED, f"its Python is {target.python}, edgecv wants {wanted} or later", target.source))
    if _numbers(target.glibc) < LEAST_GLIBC:
        wanted = ".".join(map(str, LEAST_GLIBC))
        found.append(
            Rule((), REFUSED, f"its glibc is {target.glibc}, the wheels want {wanted} or later", target.source)
        )
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
