"""Whether a bundle became slower or worse than a baseline that this machine measured before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgecv_runtime import offers
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Entry, Evidence, Key
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.records import Record

# Hours lie between a baseline and now, and nothing can be put side by side. A machine's slow phases are passed over by
# the fast tenth of the blocks; what is left moves by some percent, so only more than this is a change, and only when
# every measurement of so many says so.
CHANGED, CONFIRMED = 1.10, 3
_FAST = 10  # percentile


class Regression(Record, frozen=True):
    """One way to run, now beside a baseline.

    changed: versions and the like that are others than then, in words. times: how many times as long it took, of each
    measurement. lost: what became worse of its answers, or why it no longer runs. unseen: what of them could not be
    compared, and why.
    """

    key: str
    changed: str = ""
    times: tuple[float, ...] = ()
    lost: str = ""
    unseen: str = ""

    @property
    def slower(self) -> bool:
        """Whether every measurement says so, and there were enough."""
        return len(self.times) >= CONFIRMED and min(self.times) > CHANGED

    @property
    def worse(self) -> bool:
        """Slower, or of worse answers."""
        return self.slower or bool(self.lost)


@dataclass(frozen=True)
class Baseline:
    """What this machine measured before of a bundle; raises BadInput where it did not, or not with `bench`."""

    evidence: Evidence
    machine: Machine
    where: str

    def __post_init__(self) -> None:
        if not self.entries:
            known = ", ".join(self.evidence.machines()) or "nothing"
            raise BadInput(
                f"{self.where}: a baseline is of the same machine, {self.machine.key}; this one is of {known}"
            )
        if not any(each.latency and each.latency.block_ms for each in self.entries):
            raise BadInput(f"{self.where}: has no times to compare with; write it with: edgecv bench --evidence FILE")

    @property
    def entries(self) -> list[Entry]:
        """Those of this machine."""
        return [each for each in self.evidence.entries if each.machine.key == self.machine.key]


def regress(
    baseline: Baseline, manifest: Manifest, now: Sequence[Entry], again: Callable[[], Sequence[Entry]]
) -> list[Regression]:
    """Compare with a baseline; again: measures anew, asked for as long as something seems to be slower.

    now: with latency, and agreement or a score where the baseline has them.
    """
    measured = [{entry.target: entry for entry in now}]
    slow = [old for old in baseline.entries if _times(old, measured) and min(_times(old, measured)) > CHANGED]
    while slow and len(measured) < CONFIRMED:
        measured.append({entry.target: entry for entry in again()})
        slow = [old for old in slow if min(_times(old, measured)) > CHANGED]
    first = measured[0]
    return [
        Regression(
            _name(old),
            _changed(old, first.get(old.target), baseline.machine),
            _times(old, measured),
            _lost(old, first.get(old.target), manifest),
            _unseen(old, first.get(old.target)),
        )
        for old in baseline.entries
        if not old.failed
    ]


def _times(old: Entry, measured: Sequence[dict[Key, Entry]]) -> tuple[float, ...]:
    """How many times as long it takes now, of each measurement that has it."""
    found = [each[old.target].latency for each in measured if old.target in each]
    before = old.latency
    if before is None or not before.block_ms:
        return ()
    return tuple(
        float(np.percentile(each.block_ms, _FAST) / np.percentile(before.block_ms, _FAST))
        for each in found
        if each is not None and each.block_ms and each.batch == before.batch and each.threads == before.threads
    )


def _changed(old: Entry, new: Entry | None, machine: Machine) -> str:
    if new is None:
        return ""
    file = "" if new.sha256 == old.sha256 else "the file is another one"
    stale = offers.stale(old, machine, {new.backend: new.versions})
    return ", ".join(filter(None, (file, stale.partition(";")[0].removeprefix("stale: "))))


def _lost(old: Entry, new: Entry | None, manifest: Manifest) -> str:
    """What became worse, or ""; what was not good before is no news."""
    if new is None:
        return "no longer measured: the variant or the backend is gone"
    if new.failed:
        return f"no longer runs: {new.failed}"
    if old.agreement and new.agreement and offers.is_good(old, manifest) and (why := offers.beyond(new, manifest)):
        return why
    before, after = old.score, new.score
    if before and after and after.high < before.value and after.value < before.low:
        return f"{after.metric} fell from {before.value:.2%} to {after.value:.2%} on {after.count} frames"
    return ""


def _unseen(old: Entry, new: Entry | None) -> str:
    """What of the answers cannot be compared, or ""."""
    if new is None or new.failed:
        return ""
    if old.score is not None and new.score is None:
        return f"{old.score.metric}, which the baseline has on {old.score.count} frames: give --data"
    if old.agreement is None and old.score is None:
        return "answers, which the baseline does not have: run 'edgecv verify' before 'edgecv bench --evidence FILE'"
    return ""


def _name(entry: Entry) -> str:
    return f"{entry.variant} on {entry.backend}" + f" ({entry.hint})" * (entry.hint != offers.FLOAT)
