"""A run folder's journal: a step is skipped when its inputs have not changed and its outputs are whole."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import msgspec

from edgecv_runtime import __version__, files, records
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

log = logging.getLogger("edgecv.build")


class Done(Record, frozen=True):
    """A step that has run: the hash of what it depended on, what it made, how long it took."""

    inputs: str
    outputs: dict[str, str]
    seconds: float


class State(Record, frozen=True):
    """`state.json` of a run folder."""

    steps: dict[str, Done] = {}


class Step(ABC):
    """One step of a build."""

    name: ClassVar[str]

    def check(self) -> Iterable[str]:
        """Look for all that can be known to go wrong before any step runs: raises, or gives notes, a line each."""
        return ()

    @abstractmethod
    def inputs(self) -> object:
        """What the step depends on, in plain values."""

    @abstractmethod
    def run(self) -> dict[str, str]:
        """Do it; gives what was made, by name, as hashes."""

    @abstractmethod
    def is_whole(self, outputs: dict[str, str]) -> bool:
        """Whether what was made is still there."""


class Journal:
    """What has been done in a run folder; `say` takes one line per step that is skipped.

    folder: where the steps work, and their record lies; it may be set to another place for the steps that follow.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say

    def unchanged(self, step: Step) -> bool:
        """Whether a step need not run: what it depends on is as it was, and what it made is still there."""
        known = self._steps().get(step.name)
        return known is not None and known.inputs == self._inputs(step) and step.is_whole(known.outputs)

    def skip(self, step: Step) -> None:
        """Say that a step need not run."""
        self._say(f"{step.name}: unchanged, skipped")

    def do(self, step: Step) -> None:
        """Run a step and record it."""
        inputs = self._inputs(step)
        start = time.perf_counter()
        outputs = step.run()
        done = Done(inputs=inputs, outputs=outputs, seconds=time.perf_counter() - start)
        files.write(self._file, records.encode(State(steps={**self._steps(), step.name: done})))

    def knows(self, names: Iterable[str]) -> bool:
        """Whether any of these steps has run here before."""
        return not self._steps().keys().isdisjoint(names)

    def seconds(self) -> dict[str, float]:
        """How long each step took that is done."""
        return {name: done.seconds for name, done in self._steps().items()}

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    def _inputs(self, step: Step) -> str:
        return digest([__version__, step.name, step.inputs()])

    def _steps(self) -> dict[str, Done]:
        """What earlier builds recorded; nothing when there is no record or it cannot be read."""
        if not self._file.is_file():
            return {}
        try:
            return records.decode(self._file.read_bytes(), State, str(self._file)).steps
        except BadInput as exc:
            log.warning("%s; all steps run again", exc)
            return {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that two builds do not write into each other; raises BadInput when one runs there.

    On a disk that has no locks, as some network disks, nothing is held, and a warning says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise BadInput(f"{folder}: another build is running there; wait, or name another folder") from exc
        except OSError as exc:
            log.warning("%s: this disk has no locks (%s); run one build at a time there", folder, exc.strerror)
        yield


def digest(value: object) -> str:
    """SHA-256 of a value's JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
