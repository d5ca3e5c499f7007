"""Trials: int8 files measured, for accuracy and latency, and a book of them that outlives an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from edgecv_runtime import backends, files, machine, records, verify
from edgecv_runtime.backends import Options
from edgecv_runtime.budget import weigh
from edgecv_runtime.errors import BackendUnavailable, BadInput, ModelFileError
from edgecv_runtime.evidence import Agreement, Score
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Budget, Manifest, Precision
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record
from edgecv_runtime.timing import times_ms
from edgecv_runtime.verify import Outputs, Truths
from edgecv_runtime.verify.compare import Known, task_of

REMEMBERED_BYTES = 512 << 20  # of float32's outputs on the check images
Times = tuple[dict[str, float], dict[str, float]]  # median and 99th percentile in milliseconds, by backend
SECONDS, ROUNDS = 0.5, 8  # of a file on a backend: many short turns, for what else the machine does comes in phases
CHECK = "check images"
# What is within this factor of the fastest counts as equally fast.
TIE = 1.05
# What bf16 must gain, and by how much its divergence may exceed that of float32.
GAIN, CLOSE = 1.03, 1.2
# Each layer is quantized alone on no more check images than this, those that int8 as a whole moves most: of
# EfficientNet-Lite0's 60 nodes they put the nine dearest in front, in almost the order that 80 images give.
RANKING_IMAGES = 8
_FLOATS: tuple[Precision, ...] = ("float32", "bf16")


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
    """Milliseconds of the float32 file by backend; bf16_ms: of its bf16 where that keeps the budget."""

    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    bf16_ms: dict[str, float]


class Laboratory:
    """Measures files of one bundle: check images, float32's outputs on them, and labels where there are any.

    manifest: with the budget that counts here. float_ms: of float32, bf16_ms: of its bf16 where that keeps the budget;
    medians by backend.
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
        content = source.read_bytes()
        self._reveals = bool(verify.revealed(content)[1])
        ((self.float_ms, self._float_p99),) = [(known.p50_ms, known.p99_ms)] if known else self.times([content])
        self._task, self._known = task_of(manifest), Known()
        fastest = min(self.float_ms, key=lambda each: self.float_ms[each])
        # What classes are chosen from tells more of a file than the classes, where there is room for it.
        if self._reveals:
            shown = self._computed(content, fastest, np.ascontiguousarray(check[:1]))
            self._reveals = len(check) * sum(each.nbytes for each in shown.values()) <= REMEMBERED_BYTES
        self.reference = Outputs(check, lambda frames: self._computed(content, fastest, frames), REMEMBERED_BYTES)
        self.bf16_ms = known.bf16_ms if known else self._bf16(content)

    @property
    def floats(self) -> Floats:
        """What float32 takes here."""
        return Floats(self.float_ms, self._float_p99, self.bf16_ms)

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
        with _File(content) as file:
            rounds = [[statistics.median(self._samples(file, name, each)) for each in _FLOATS] for _ in range(3)]
        plain, bf16 = (statistics.median(times) for times in zip(*rounds, strict=True))
        known = trial.agreements[name]
        closeness = self._compared(content, name, "bf16").agreement
        close = closeness.share.value >= known.share.value and closeness.divergence <= CLOSE * known.divergence
        return "bf16" if close and bf16 * GAIN < plain else "float32"

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
        with self._computing(content, "onnxruntime") as compute:
            parts = [
                self._task.divergence(wanted, compute(np.ascontiguousarray(reference.frames[part])))
                for part, wanted in reference.batches()
            ]
        return np.concatenate(parts)

    def _compared(self, content: bytes, name: str, precision: Precision = "float32") -> verify.Comparison:
        """A file on one backend beside float32 on the check images, and their labels."""
        with self._computing(content, name, precision) as compute:
            given: dict[str, Any] = {"name": "float32", "frames": CHECK, "truths": self._labels, "views": self._views}
            given |= {"known": self._known, "key": f"{precision} on {name}"}
            found, _ = verify.compare(self._task, self.reference, compute, **given)
        return found

    def _computed(self, content: bytes, name: str, frames: Image) -> Mapping[str, NDArray[Any]]:
        """Outputs of some frames, with a session of their own: they are remembered."""
        with self._computing(content, name) as compute:
            return compute(frames)

    @contextlib.contextmanager
    def _computing(self, content: bytes, name: str, precision: Precision = "float32") -> Iterator[verify.Compute]:
        """What a file gives on a backend; instead of classes, what it chooses them from."""
        shown: dict[str, str] = {}
        if self._reveals:
            content, shown = verify.revealed(content)
        with _File(content) as file, self._opened(file, name, precision) as backend:
            yield verify.computing(backend, self._manifest, shown)

    def times(self, contents: Sequence[bytes]) -> list[Times]:
        """Milliseconds of each file at batch 1, on every backend here that takes it.

        The files take turns, every second round in reverse, so that what else the machine does meets all alike.
        """
        samples: list[dict[str, list[float]]] = [{} for _ in contents]
        for name in backends.available():
            with contextlib.ExitStack() as stack:
                calls = {}
                for index, content in enumerate(contents):
                    file = stack.enter_context(_File(content))
                    with contextlib.suppress(ModelFileError):  # `verify` will say why it does not take the dialect
                        calls[index] = stack.enter_context(self._running(file, name, "float32"))
                        calls[index]()
                        samples[index][name] = []
                for turn in range(ROUNDS):
                    for index in sorted(each for each in calls if name in samples[each])[:: 1 if turn % 2 == 0 else -1]:
                        samples[index][name] += times_ms(calls[index], SECONDS / ROUNDS)
        if not all(samples):
            raise BackendUnavailable("no backend here runs the quantized file", extra="onnxruntime")
        return [
            (
                {name: statistics.median(each) for name, each in found.items()},
                {name: float(np.percentile(each, 99)) for name, each in found.items()},
            )
            for found in samples
        ]

    def _bf16(self, content: bytes) -> dict[str, float]:
        """Median milliseconds of the float32 file in bf16, on the backends that take it and keep the budget in bf16."""
        found = {}
        for name in (each for each in self.float_ms if "bf16" in backends.get(each).precisions()):
            found_here = self._compared(content, name, "bf16")
            if weigh(self._manifest.budget, found_here.agreement, found_here.score).met:
                with _File(content) as file:
                    found[name] = statistics.median(self._samples(file, name, "bf16"))
        return found

    def _samples(self, file: Path, name: str, precision: Precision) -> list[float]:
        with self._running(file, name, precision) as call:
            return times_ms(call, SECONDS)

    @contextlib.contextmanager
    def _running(self, file: Path, name: str, precision: Precision) -> Iterator[Callable[[], object]]:
        """A file, opened: what runs its first check image."""
        with self._opened(file, name, precision) as backend:
            yield partial(backend.run, {INPUT: np.ascontiguousarray(self._check[:1])})

    @contextlib.contextmanager
    def _opened(self, file: Path, name: str, precision: Precision) -> Iterator[backends.Backend]:
        backend = backends.get(name)(file, Options(precision=precision))
        try:
            yield backend
        finally:
            backend.close()


class _File:
    """A file's content on the disk, for the backends."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._folder = tempfile.TemporaryDirectory(prefix="edgecv-")

    def __enter__(self) -> Path:
        path = Path(self._folder.name) / "candidate.onnx"
        path.write_bytes(self._content)
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


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
