"""What a survey found, as a record: written and read as a file, and remembered for this hardware."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgecv_runtime import files, machine, records
from edgecv_runtime.backends import get
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Precision
from edgecv_runtime.records import Record

log = logging.getLogger("edgecv.cost")

SCHEMA = 2


class Timed(Record, frozen=True):
    """One small network: the fastest of its runs, and what the model says that was found without it."""

    name: str
    ms: float
    left_out_ms: float


class Limits(Record, frozen=True):
    """The roofline, by the best that any timed network reached.

    gmacs_per_s: 10^9 MACs of products in this precision. memory_gb_per_s: reading weights from beyond the caches, and
    cache_gb_per_s: moving activations, 10^9 bytes. weights_near, weights_far: bytes of all weights of a network, up to
    which they stay in the caches, and from which none does.
    """

    gmacs_per_s: float
    memory_gb_per_s: float
    cache_gb_per_s: float
    weights_near: int
    weights_far: int

    def far_share(self, weight_bytes: int) -> float:
        """Share of a network's weights that are read from memory at every run."""
        return min(1.0, max(0.0, (weight_bytes - self.weights_near) / (self.weights_far - self.weights_near)))


class Survey(Record, frozen=True):
    """What a backend costs on a machine in one precision.

    costs: microseconds per unit of each quantity (model.quantities). error: mean absolute relative error of the
    networks that a model has not seen (leave-out). seconds: how long it took. reference_ms: of a network that tells
    whether the machine is as fast at another time. timed: the evidence.
    """

    machine: Machine
    backend: str
    versions: dict[str, str]
    precision: Precision
    costs: dict[str, float]
    limits: Limits
    error: float
    seconds: float
    reference_ms: float
    timed: tuple[Timed, ...]

    @property
    def key(self) -> str:
        """Short name: "openvino bf16"."""
        return f"{self.backend} {self.precision}"


class Surveys(Record, frozen=True):
    """A file of surveys."""

    surveys: tuple[Survey, ...] = msgspec.field(name="calibrations")  # as files of earlier versions have it
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise BadInput(f"schema {self.schema} is not {SCHEMA}: survey again with this version of edgecv")
        if not self.surveys:
            raise BadInput("it holds no survey")


def write(path: Path, found: Iterable[Survey]) -> None:
    """Write surveys as a file that another machine can read."""
    files.write(path, records.encode(Surveys(tuple(found))))


def read(path: Path) -> tuple[Survey, ...]:
    """Read a file of surveys; raises BadInput when it is none."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise BadInput(f"{path}: {exc.strerror}; expected a file that 'edgecv survey --out' wrote") from exc
    return records.decode(content, Surveys, str(path)).surveys


def remember(survey: Survey) -> None:
    """Keep a survey for this hardware, backend version and precision."""
    write(_place(survey.backend, survey.precision, survey.versions), [survey])


def remembered(backend: str, precision: Precision) -> Survey | None:
    """This machine's survey of a backend that works here, or None; raises BadInput when the file is damaged."""
    path = _place(backend, precision, get(backend).probe())
    try:
        return read(path)[0] if path.is_file() else None
    except BadInput as exc:
        raise BadInput(f"{exc}; it is replaced by: edgecv survey --backend {backend}") from exc


def of_this_machine() -> tuple[Survey, ...]:
    """All surveys of this machine; a damaged one is said and left out.

    Raises Unavailable with the cure when there is none, and BadInput when all that there are is damaged.
    """
    found, damaged = [], []
    for name, precision in runnable():
        try:
            survey = remembered(name, precision)
        except BadInput as exc:
            damaged.append(exc)
            continue
        if survey is not None:
            found.append(survey)
    if damaged and not found:
        raise damaged[0]
    for problem in damaged:
        log.warning("left out: %s", problem)
    if not found:
        raise Unavailable(
            "this machine is not surveyed: run 'edgecv survey' here, or name another machine's file with --device"
        )
    return tuple(found)


def runnable() -> list[tuple[str, Precision]]:
    """Backends and float precisions that work here."""
    from edgecv_runtime import backends

    return [(name, precision) for name in backends.available() for precision in get(name).precisions()]


def folder() -> Path:
    """Where this machine's surveys are kept; raises Unavailable, with the cure, where it cannot be made."""
    try:
        return files.cache_folder("calibrations")
    except OSError as exc:
        raise Unavailable(f"no folder to keep surveys in: {exc}; set EDGECV_CACHE to one that can be written") from exc


def check_kept() -> None:
    """Raise Unavailable, with the cure, where no survey could be kept."""
    try:
        files.check_replaceable(folder() / "any.json")
    except OSError as exc:
        raise Unavailable(
            f"{folder()}: cannot be written: {exc.strerror}; set EDGECV_CACHE to a folder that can"
        ) from exc


def _place(backend: str, precision: str, versions: dict[str, str]) -> Path:
    this = machine.this()
    asked = msgspec.json.encode([SCHEMA, this.key, this.isa, backend, versions, precision])
    return folder() / f"{hashlib.sha256(asked).hexdigest()[:32]}.json"
