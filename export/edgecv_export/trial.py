"""Trials: int8 files measured, for accuracy and latency, and a book of them that outlives an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import edgecv_runtime
from edgecv_export.calibrate import Sample
from edgecv_export.interface import INPUT
from edgecv_export.plan import Plan
from edgecv_export.sessions import Sessions, once
from edgecv_runtime import backends, files, machine, records, verify
from edgecv_runtime.budget import weigh
from edgecv_runtime.errors import BackendUnavailable, BadInput, ModelFileError
from edgecv_runtime.evidence import Agreement, Score
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Budget, Manifest, Precision
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record
from edgecv_runtime.timing import block_ms
from edgecv_runtime.verify import Outputs, Truths
from edgecv_runtime.verify.compare import Known, task_of

REMEMBERED_BYTES = 512 << 20  # of float32's outputs on the check images
Times = tuple[dict[str, float], dict[str, float]]  # median and 99th percentile in milliseconds, by backend
# Of a file on a backend: several turns, for what else the machine does comes in phases, each long enough to outlast the
# threads of the file before, which still spin (ONNX Runtime's for some 10 ms).
SECONDS, ROUNDS = 0.5, 4
CHECK = "check images"
# What is within this factor of the fastest counts as equally fast.
TIE = 1.05
# What bf16 must gain, and by how much its divergence may exceed that of float32.
GAIN, CLOSE = 1.03, 1.2
# Each layer is quantized alone on no more check images than this, those that int8 as a whole moves most: of
# EfficientNet-Lite0's 60 nodes they put the nine dearest in front, in almost the order that 80 images give.
RANKING_IMAGES = 8
_FLOATS: tuple[Precision, Precision] = ("float32", "bf16")


class Trial(Record, frozen=True):
    """One plan's file, measured on every backend here that takes it.

    agreements: with float32 on the check images; scores: where those have labels; p50_ms, p99_ms: of single calls
    at batch 1. All by backend.
    """

    plan: Plan
    agreements: dict[str, Agreement]
    scores: dict[str, Score]
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    size_bytes: int

    @property
    def is_compared(self) -> bool:
        """Whether it was compared with float32, and not only timed."""
        return bool(self.agreements)

    @property
    def agreement(self) -> Agreement:
        """Where it is farthest from float32."""
        return max(self.agreements.values(), key=lambda each: each.divergence)

    @property
    def score(self) -> Score | None:
        """Where it loses most; None without labels."""
        return max(self.scores.values(), key=lambda each: each.drop, default=None)

    @property
    def placement(self) -> str:
        """Where Q/DQ stands."""
        return self.plan.placement

    @property
    def ranges(self) -> str:
        """The range estimator of the activations."""
        return self.plan.ranges

    def divergence(self, backend: str) -> float:
        """Nats from float32 on the check images; infinite where it does not run."""
        return self.agreements[backend].divergence if backend in self.agreements else math.inf

    def cost(self, goal: str, backend: str) -> float:
        """What the goal wants to be small: milliseconds, bytes or nats; infinite where it does not run."""
        if goal == "size":
            return float(self.size_bytes)
        if goal == "divergence":
            return self.divergence(backend)
        return (self.p50_ms if goal == "p50" else self.p99_ms).get(backend, math.inf)


class Floats(Record, frozen=True):
    """Milliseconds of the float32 file by backend; bf16_ms: of its bf16 where that is faster and keeps the budget."""

    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    bf16_ms: dict[str, float]


class Laboratory:
    """Measures files of one bundle: check images, float32's outputs on them, and labels where there are any.

    manifest: with the budget that counts here. floats: what float32 takes, as far as it is known.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: Path,
        check: Image,
        labels: Truths | None,
        known: Floats | None = None,
        views: Sequence[View] | None = None,
    ) -> None:
        """`known`: float32's times from when the trials that they are compared with were measured.

        labels, views: what is right of each check image, and how the network saw it; see `verify`.
        """
        self._manifest = manifest
        self._check = check
        self._labels = labels
        self._views = views
        self._float32 = content = source.read_bytes()
        self._sessions = Sessions()
        self._reveals = bool(verify.revealed(content)[1])
        self.floats = known
        self._task, self._known = task_of(manifest), Known()
        # What classes are chosen from tells more of a file than the classes, where there is room for it.
        if self._reveals:
            shown = self._of_float32(np.ascontiguousarray(check[:1]))
            self._reveals = len(check) * sum(each.nbytes for each in shown.values()) <= REMEMBERED_BYTES
        self.reference = Outputs(check, self._of_float32, REMEMBERED_BYTES)

    def close(self) -> None:
        """Close the files that are open."""
        self._sessions.close()

    def measure(self, plan: Plan, content: bytes, times: Times) -> Trial:
        """Score a file; `times` are its own, or those of a file of the same operators."""
        found: dict[str, verify.Comparison] = {}
        for name in times[0]:
            with contextlib.suppress(ModelFileError):  # OpenVINO compiles for one image and for several apart
                found[name] = self._compared(content, name)
        if not found:
            raise BackendUnavailable("no backend here runs the quantized file", extra="onnxruntime")
        p50_ms, p99_ms = ({name: each[name] for name in found} for each in times)
        agreements = {name: each.agreement for name, each in found.items()}
        scores = {name: scored for name, each in found.items() if (scored := each.score) is not None}
        return Trial(plan, agreements, scores, p50_ms, p99_ms, len(content))

    def islands(self, trial: Trial, content: bytes, name: str) -> Precision:
        """The float precision in which what is not quantized runs faster on a backend.

        "bf16" where it gains and stays as close.
        """
        if "bf16" not in backends.get(name).precisions():
            return "float32"
        plain, bf16 = (statistics.median(each) for each in self._in_turns([(content, each) for each in _FLOATS], name))
        if not bf16 * GAIN < plain:
            return "float32"
        known = trial.agreements[name]
        closeness = self._compared(content, name, "bf16").agreement
        close = closeness.share.value >= known.share.value and closeness.divergence <= CLOSE * known.divergence
        return "bf16" if close else "float32"

    def divergence(self, content: bytes, images: NDArray[np.int64] | None = None) -> float:
        """Mean Kullback-Leibler divergence from float32 in nats, on the check images or some, where files open fastest.

        Of a float file, or one with a single quantized layer, of which there are many: they run alike everywhere.
        """
        return float(self._divergences(content, images).mean())

    def hardest(self, content: bytes) -> NDArray[np.int64]:
        """The check images, by index, that a file moves most: few of them tell its layers apart."""
        return np.argsort(-self._divergences(content), kind="stable")[:RANKING_IMAGES]

    def _divergences(self, content: bytes, images: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        some = None if images is None else [int(index) for index in images]
        reference = self.reference if some is None else Outputs(self._check[some], self.reference.of(some))
        content, shown = self._revealed(content)
        with once(content, "onnxruntime") as backend:
            compute = verify.computing(backend, self._manifest, shown)
            parts = [
                self._task.divergence(wanted, compute(np.ascontiguousarray(reference.frames[part])))
                for part, wanted in reference.batches()
            ]
        return np.concatenate(parts)

    def _compared(self, content: bytes, name: str, precision: Precision = "float32") -> verify.Comparison:
        """A file on one backend beside float32 on the check images, and their labels."""
        content, shown = self._revealed(content)
        with self._sessions.opened(content, name, precision) as backend:
            compute = verify.computing(backend, self._manifest, shown)
            given: dict[str, Any] = {"name": "float32", "frames": CHECK, "truths": self._labels, "views": self._views}
            given |= {"known": self._known, "key": f"{precision} on {name}"}
            found, _ = verify.compare(self._task, self.reference, compute, **given)
        return found

    def _of_float32(self, frames: Image) -> Mapping[str, NDArray[Any]]:
        """Float32's outputs of some frames, on the first backend that takes the file."""
        content, shown = self._revealed(self._float32)
        for name in backends.available():
            with contextlib.suppress(ModelFileError), self._sessions.opened(content, name) as backend:
                return verify.computing(backend, self._manifest, shown)(frames)
        raise BackendUnavailable("no backend here runs the float32 file", extra="onnxruntime")

    def _revealed(self, content: bytes) -> tuple[bytes, dict[str, str]]:
        """A file; where its classes are compared by what they are chosen from, one that shows that, and its name."""
        return verify.revealed(content) if self._reveals else (content, {})

    def against_floats(self, contents: Sequence[bytes]) -> list[Times]:
        """The `times` of files, in turns with float32's own; `floats` then tells these."""
        (p50_ms, p99_ms), *found = self.times([self._float32, *contents])
        bf16_ms = {}
        for name in (each for each in p50_ms if "bf16" in backends.get(each).precisions()):
            plain, bf16 = (
                statistics.median(each) for each in self._in_turns([(self._float32, each) for each in _FLOATS], name)
            )
            if bf16 < plain and self._keeps_budget(name):
                bf16_ms[name] = p50_ms[name] * bf16 / plain
        self.floats = Floats(p50_ms, p99_ms, bf16_ms)
        return found

    def _keeps_budget(self, name: str) -> bool:
        """Whether float32 keeps the budget on a backend that computes it in bf16."""
        found = self._compared(self._float32, name, "bf16")
        return weigh(self._manifest.budget, found.agreement, found.score).met

    def times(self, contents: Sequence[bytes]) -> list[Times]:
        """Milliseconds of each file at batch 1, on every backend here that takes it."""
        found: list[Times] = [({}, {}) for _ in contents]
        for name in backends.available():
            samples = self._in_turns([(content, "float32") for content in contents], name)
            for (p50_ms, p99_ms), each in zip(found, samples, strict=True):
                if each:  # `verify` will say why a backend does not take the dialect
                    p50_ms[name], p99_ms[name] = statistics.median(each), float(np.percentile(each, 99))
        if not all(p50_ms for p50_ms, _ in found):
            raise BackendUnavailable("no backend here runs the quantized file", extra="onnxruntime")
        return found

    def _in_turns(self, given: Sequence[tuple[bytes, Precision]], name: str) -> list[list[float]]:
        """Milliseconds of calls of each file in its precision on a backend, none of one that it does not take.

        The files take turns, every second round in reverse, so that what else the machine does meets all alike.
        """
        samples: list[list[float]] = [[] for _ in given]
        with contextlib.ExitStack() as stack:
            calls = {}
            for index, (content, precision) in enumerate(given):
                with contextlib.suppress(ModelFileError):
                    backend = stack.enter_context(self._sessions.opened(content, name, precision))
                    call = partial(backend.run, {INPUT: np.ascontiguousarray(self._check[:1])})
                    call()
                    calls[index] = call
            for turn in range(ROUNDS):
                for index in sorted(calls, reverse=turn % 2 == 1):
                    samples[index] += block_ms(calls[index], SECONDS / ROUNDS)
        return samples


class _Page(Record, frozen=True):
    trials: dict[str, Trial] = {}
    sensitivities: dict[str, dict[str, float]] = {}
    floats: dict[str, Floats] = {}


class Book:
    """Trials by what they depend on: float32 file, head, images, plan, edgecv, this machine and its backends.

    path: a JSON file that is written whole after every trial, or None to keep them in memory only.
    """

    def __init__(self, path: Path | None, *subject: object) -> None:
        self._path = path
        self._subject = [*subject, edgecv_runtime.__version__, machine.this().key, backends.available()]
        self._page = self._read()

    def key(self, what: object) -> str:
        """SHA-256 over the subject and what is tried."""
        return hashlib.sha256(msgspec.json.encode([self._subject, what])).hexdigest()

    def trial(self, plan: Plan) -> Trial | None:
        """A trial that was made before."""
        return self._page.trials.get(self.key(plan))

    def sensitivities(self, plan: Plan) -> dict[str, float] | None:
        """Layer sensitivities that were measured before."""
        return self._page.sensitivities.get(self.key(plan))

    def floats(self, budget: Budget) -> Floats | None:
        """What float32 took when the trials were made."""
        return self._page.floats.get(self.key(budget))

    def add(self, what: Plan | Budget, found: Trial | Floats | dict[str, float]) -> None:
        """Enter a plan's trial or layer sensitivities, or float32's times under a budget."""
        key = self.key(what)
        if isinstance(found, Trial):
            self._page = msgspec.structs.replace(self._page, trials={**self._page.trials, key: found})
        elif isinstance(found, Floats):
            self._page = msgspec.structs.replace(self._page, floats={**self._page.floats, key: found})
        else:
            known = {**self._page.sensitivities, key: found}
            self._page = msgspec.structs.replace(self._page, sensitivities=known)
        if self._path is not None:
            files.write(self._path, records.encode(self._page))

    def _read(self) -> _Page:
        if self._path is None or not self._path.is_file():
            return _Page()
        try:
            return records.decode(self._path.read_bytes(), _Page, str(self._path))
        except BadInput:
            return _Page()  # of another version, or damaged: everything is tried again


def digest(calibration: Sample, check: Image, labels: Truths | None, views: Sequence[View] | None = None) -> str:
    """SHA-256 over the content of images, of what is right of them and of how the network saw them."""
    found = hashlib.sha256()
    given = (() if each is None else each for each in (labels, views))
    for each in itertools.chain(calibration.batches(), [check], *given):
        _enter(found, each)
    return found.hexdigest()


def _enter(found: Any, value: Any) -> None:
    """Add a value by what it says, not by how it lies in memory: arrays, records of them, plain values."""
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype.str}{value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, msgspec.Struct):
        found.update(type(value).__name__.encode())
        for name in value.__struct_fields__:
            _enter(found, getattr(value, name))
    elif isinstance(value, list | tuple):
        found.update(f"{len(value)}:".encode())
        for each in value:
            _enter(found, each)
    else:
        found.update(f"{value!r};".encode())
