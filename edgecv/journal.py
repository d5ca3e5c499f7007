"""A run folder's journal: a step is skipped when its inputs have not changed and its outputs are whole."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Step:
    """One step: what it depends on, how it runs (giving its outputs), and whether recorded outputs are still there."""

    name: str
    inputs: Callable[[], object]
    run: Callable[[], dict[str, str]]
    whole: Callable[[dict[str, str]], bool]


class Journal:
    """What has been done in a run folder; `say` takes one line per step that is skipped."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._file = folder / "state.json"
        self._say = say

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that two builds do not write into each other; raises BadInput when one runs there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise BadInput(f"{self._folder}: another build is running there; wait, or name another folder") from exc
            yield

    def do(self, step: Step) -> bool:
        """Run a step, or find that it need not run; tells which."""
        inputs = digest([__version__, step.name, step.inputs()])
        steps = self._steps()
        known = steps.get(step.name)
        if known is not None and known.inputs == inputs and step.whole(known.outputs):
            self._say(f"{step.name}: unchanged, skipped")
            return False
        start = time.perf_counter()
        outputs = step.run()
        done = Done(inputs=inputs, outputs=outputs, seconds=time.perf_counter() - start)
        files.write(self._file, records.encode(State(steps={**steps, step.name: done})))
        return True

    def seconds(self) -> dict[str, float]:
        """How long each step took that is done."""
        return {name: done.seconds for name, done in self._steps().items()}

    def _steps(self) -> dict[str, Done]:
        """What earlier builds recorded; nothing when there is no record or it cannot be read."""
        if not self._file.is_file():
            return {}
        try:
            return records.decode(self._file.read_bytes(), State, str(self._file)).steps
        except BadInput as exc:
            log.warning("%s; all steps run again", exc)
            return {}


def digest(value: object) -> str:
    """SHA-256 of a value's JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def start_over_if_changed(folder: Path, inputs: object) -> None:
    """Keep the folder of a step that goes on from a checkpoint when its inputs are the same, else empty it."""
    marker, wanted = folder / "inputs", digest(inputs)
    if folder.is_dir() and (not marker.is_file() or marker.read_text() != wanted):
        shutil.rmtree(folder)
    files.write(marker, wanted.encode())
