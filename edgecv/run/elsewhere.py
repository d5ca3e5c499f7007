"""Evidence that other machines measured, brought into a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecv.run.judged import keep
from edgecv_runtime import backends, machine, offers, records
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Entry, Evidence
from edgecv_runtime.records import Record


class Merged(Record, frozen=True):
    """What came of it: the bundle's evidence then, how many entries were taken, and what was not and why."""

    evidence: Evidence
    taken: int
    left_out: tuple[str, ...]


def read(path: Path) -> Evidence:
    """An evidence file, as `--evidence` of verify, bench and deploy writes it; raises BadInput where it is none."""
    try:
        return records.decode(path.read_bytes(), Evidence, str(path))
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror}") from exc


def merge(opened: Bundle, entries: Sequence[Entry]) -> Merged:
    """Put entries into a bundle that are of its files; of the same thing a later one replaces an earlier one.

    What a machine measured before its libraries changed does not replace what it measured since. Raises BadInput
    where nothing is of the bundle's files, and Unavailable where the bundle cannot be written.
    """
    before, this, now = opened.evidence(), machine.this(), backends.available()
    known = {entry.key: entry for entry in before.entries}
    digests = {each.name: opened.sha256(each.name) for each in opened.manifest.variants}
    taken, left_out = [], []
    for entry in entries:
        name = f"{entry.variant} on {entry.backend}, {entry.machine.key}"
        own = known.get(entry.key)
        if digests.get(entry.variant) != entry.sha256:
            left_out.append(f"{name}: of another file than this bundle's")
        elif entry.machine.key == this.key and own is not None and _is_older(entry, own, now):
            left_out.append(f"{name}: {offers.stale(entry, this, now).partition(';')[0]}, and the bundle has newer")
        elif own is not None and _is_earlier(entry, own):
            left_out.append(f"{name}: measured with other versions before what the bundle has")
        else:
            taken.append(entry)
    if left_out and not taken:
        raise BadInput(f"{opened.path}: nothing of it was taken: {'; '.join(left_out)}")
    evidence = before.merged(taken)
    if taken:
        keep(opened, evidence)
    return Merged(evidence, len(taken), tuple(left_out))


def _is_earlier(entry: Entry, own: Entry) -> bool:
    """Whether it was timed before, with something else; sessions begin with their moment."""
    times = [each.latency.session if each.latency else "" for each in (entry, own)]
    return all(times) and times[0] < times[1] and entry.circumstances != own.circumstances


def _is_older(entry: Entry, own: Entry, now: offers.Versions) -> bool:
    return bool(offers.stale(entry, machine.this(), now)) and not offers.stale(own, machine.this(), now)
