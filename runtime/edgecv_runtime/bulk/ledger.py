"""Which chunks are done: those whose part is there. Beside the table lie `TABLE.parts/` and `TABLE.job.json`.

Order of what is written: the list of inputs, the record of the job, parts in any order, the table, the record with
what it gave; then the parts are removed. Each is there whole or not at all, so that a process that is killed leaves
one of those states, from each of which the next one goes on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from edgecv_runtime import files, records
from edgecv_runtime.bulk import inputs, tables
from edgecv_runtime.bulk.inputs import Chunk, Frozen, Inputs
from edgecv_runtime.bulk.job import Job
from edgecv_runtime.bulk.tables import Rows
from edgecv_runtime.bulk.worker import Part
from edgecv_runtime.errors import ComputationError, Unavailable

_INPUTS = "inputs.jsonl"


class Ledger:
    """The account of one table; `with` keeps others from writing the same one."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parts = out.with_name(out.name + ".parts")
        self.record = out.with_name(out.name + ".job.json")
        self._lock: int | None = None

    def __enter__(self) -> Ledger:
        files.check_place(self.out)
        while True:
            self.parts.mkdir(exist_ok=True)
            self._lock = os.open(self.parts, os.O_RDONLY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                self._unlock()
                raise Unavailable(f"{self.out}: another process writes it now") from exc
            if self.parts.exists() and self.parts.stat().st_ino == os.fstat(self._lock).st_ino:
                return self
            self._unlock()  # the other one has just finished

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            job = self.job()
            if job is None or job.done is not None:
                self._empty()
                with suppress(OSError):  # of another program there is something in it
                    self.parts.rmdir()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def job(self) -> Job | None:
        """The job whose parts or table are there."""
        try:
            raw = self.record.read_bytes()
        except FileNotFoundError:
            return None
        return records.decode(raw, Job, str(self.record))

    def forget(self) -> None:
        """Begin anew: the record goes first, for parts without one are nobody's."""
        self.record.unlink(missing_ok=True)
        files.sync_folder(self.record.parent)
        self._empty()

    def _empty(self) -> None:
        for pattern in ("*.rows", f"*{_INPUTS}", ".*.tmp"):
            for entry in self.parts.glob(pattern):
                entry.unlink()

    def list_anew(self, found: Inputs) -> Frozen:
        """Write what there is now beside the list of the job; see `begin` and `changes`."""
        with files.replacing(self._new) as file:
            return inputs.freeze(found, file)

    def changes(self) -> str:
        """How what there is now differs from the list of the job, where that is still there: " (3 added)"."""
        return f" ({inputs.differences(self._inputs, self._new)})" if self._inputs.exists() else ""

    def begin(self, job: Job) -> None:
        """Take what was listed as the inputs of a job."""
        self._new.replace(self._inputs)
        files.sync_folder(self.parts)
        self._record(job)

    def is_begun(self) -> bool:
        """Whether there is a list of inputs."""
        return self._inputs.exists()

    def left(self, size: int) -> Iterator[Chunk]:
        """The chunks without a part, in order."""
        there = self._there()
        return (chunk for chunk in inputs.chunks(self._inputs, size) if self._part(chunk.number).name not in there)

    def done(self, size: int, images: int) -> int:
        """How many pictures have a row."""
        there = self._there()
        last = self._part((images - 1) // size).name
        return len(there) * size - ((-images % size) if last in there else 0)

    def _there(self) -> set[str]:
        return {entry.name for entry in self.parts.glob("*.rows")}

    def put(self, part: Part) -> None:
        """Write a part."""
        files.write(self._part(part.number), part.content)

    def rows(self, job: Job) -> Rows:
        """All rows in order; raises ComputationError where they are not those of the inputs."""
        listed = inputs.chunks(self._inputs, job.chunk)
        for chunk in listed:
            rows = tables.read(self._part(chunk.number))
            if tuple(os.fsdecode(row[0]) for row in rows) != chunk.names:
                raise ComputationError(
                    f"{self._part(chunk.number)}: missing or damaged; remove it and run the same command again"
                )
            yield from rows

    def finish(self, job: Job) -> None:
        """The table is there: say what it holds, and remove the parts."""
        self._record(job)
        self._empty()

    def _record(self, job: Job) -> None:
        files.write(self.record, records.encode(job))

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:08}.rows"

    @property
    def _inputs(self) -> Path:
        return self.parts / _INPUTS

    @property
    def _new(self) -> Path:
        return self.parts / f"new-{_INPUTS}"
