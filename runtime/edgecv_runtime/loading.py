"""`load`: from a bundle or a plain ONNX file to a `Model`, as it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecv_runtime import choose, files, onnxfile, tasks
from edgecv_runtime.backends import DEFAULT_DEVICE, Injected
from edgecv_runtime.bundle import ARCHIVE_SUFFIX, MANIFEST, Bundle
from edgecv_runtime.choose import Ask
from edgecv_runtime.description import EXAMPLE, Description
from edgecv_runtime.description import read as read_description
from edgecv_runtime.errors import (
    BadInput,
    BundleError,
    ModelFileError,
)
from edgecv_runtime.goals import Goal
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.inputs import check_matches, fitting
from edgecv_runtime.model import Model
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.target import Target
from edgecv_runtime.tasks.scores import check as check_scores


def load(
    source: str | Path,
    *,
    backend: str | Injected = "auto",
    precision: str = "auto",
    device: str = DEFAULT_DEVICE,
    threads: int = 0,
    goal: str = "latency",
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    scores: str | None = None,
    thresholds: Sequence[float] = (),
    description: Description | str | Path | None = None,
    confidence: float | None = None,
    self_test: bool = False,
    busy_wait: bool = True,
) -> Model[Any]:
    """Load a bundle (folder or .edgecv) or a plain ONNX file.

    backend: a name of `backends.names()`, an object of your own (`backends.Injected`), or "auto": the best measured on
    this machine.
    precision: "auto", "float32", "bf16", "fp16", "int8", or a variant's name.
    device: of that backend: "cpu", "cuda", "cuda:1", "tensorrt", "openvino", "xnnpack" of onnxruntime; "cpu", "gpu",
    "npu", "auto" of openvino. What is not there is an error, never replaced.
    threads: 0 leaves the number to the backend.
    goal: "latency", "throughput", or a bound such as "p99 <= 20 ms"; `submit` and `map` profit from the others. Where
    nothing keeps to a bound, the nearest runs, `info.keeps_goal` is False and `explain()` says so.
    preprocess, labels: for a plain ONNX file, which carries neither; normalization: for one whose input is float.
    scores: what the outputs of a plain ONNX file are: "logits", "probabilities", "sigmoid", "sigmoid-logits" or
    "percent" (docs/api.md); needed where the file's last operator does not prove it. thresholds: of labels of which
    several may hold, from which score on they do; one for all, or one a label; 0.5 by default.
    description: all of these in one, or the path of a YAML or JSON file with them (docs/api.md).
    confidence: of a detector's bundle, the score from which on boxes of any class are shown, in the place of what was
    fitted to the file; of a plain ONNX file the description says it.
    self_test: run the bundle's golden inputs first; raises ParityError that names the fault when they do not agree.
    busy_wait: whether onnxruntime's threads spin between two calls: the next one is sooner, and other threads of the
    program have a core less; False for one that answers many at once, as a server does: of calls that overlap each
    computes in one thread then, and only those that come one by one have threads that spin; the weights may be held
    twice for that.
    Raises BundleError, ModelFileError, BadInput or BackendUnavailable, each in one line.
    """
    source = Path(source)
    ask = Ask(backend, precision, device, threads, Goal(goal), busy_wait=busy_wait)
    given: dict[str, object] = {"preprocess": preprocess, "labels": labels, "normalization": normalization}
    given |= {"scores": scores, "thresholds": tuple(thresholds) or None}
    if is_bundle(source):
        _refuse(given, f"{source}: a bundle carries its own")
    elif description is not None:
        _refuse(given, f"{source}: the description says it")
    elif preprocess is not None and labels is not None:
        meaning = None if scores is None else check_scores(scores)
        head = ClassificationHead(tuple(labels), meaning, tuple(thresholds))
        description = Description(head, preprocess, normalization)
    return load_asked(source, ask, description, confidence, self_test=self_test)


def load_asked(
    source: Path,
    ask: Ask,
    description: Description | str | Path | None = None,
    confidence: float | None = None,
    *,
    self_test: bool = False,
) -> Model[Any]:
    """Load a bundle, or a plain ONNX file with its description, as it was asked for; verbs of the command line do."""
    if is_bundle(source):
        if description is not None:
            raise BadInput(f"{source}: a bundle describes itself: leave the description out")
        return load_bundle(source, ask, confidence, self_test=self_test)
    if confidence is not None:
        raise BadInput(f"{source}: of a plain ONNX file the description says it, confidence: {confidence:g}")
    if self_test:
        raise BadInput(f"{source}: a plain ONNX file carries no golden inputs: leave out self_test")
    if source.name == MANIFEST:
        raise BundleError(f"{source}: name the bundle's folder, {source.parent}")
    header = onnxfile.read(source)
    if description is None:
        raise BadInput(
            f"{source}: a plain ONNX file carries no preprocessing and labels: give preprocess=, labels=, or a "
            f"description, a YAML file with {EXAMPLE} (--describe FILE)"
        )
    if not isinstance(description, Description):
        description = read_description(description)
    entry = fitting(header.inputs, description.preprocess, description.normalization, str(source))
    try:
        decoder = description.form.decoder(description.head, header, entry)
    except BadInput as exc:
        raise type(exc)(f"{source}: {exc}") from exc
    parts = [source, *(source.parent / name for name in header.external)]
    seen = [files.identity(part) for part in parts]
    target = choose.for_file(source, tuple(header.external), entry, ask)
    model = Model(target, entry, source.stem, decoder, header.outputs)
    if seen != [files.identity(part) for part in parts]:  # measuring may take seconds
        model.close()
        raise ModelFileError(f"{source}: was exchanged while it was loaded; load it again")
    return model


def is_bundle(source: Path) -> bool:
    """Whether a path is taken for a bundle, and not for a plain ONNX file."""
    return source.is_dir() or source.suffix == ARCHIVE_SUFFIX or (source.suffix != ".onnx" and not source.exists())


def load_bundle(source: Path, ask: Ask, confidence: float | None = None, *, self_test: bool = False) -> Model[Any]:
    """Load a bundle as it was asked for; `load` and `edgecv tune` do."""
    bundle = Bundle(source, remembered=not self_test)
    try:
        target = choose.for_bundle(bundle, ask)
        model = of_target(bundle, target, confidence)
    except BaseException:
        bundle.close()
        raise
    try:
        if self_test or target.is_remote:
            model.self_test()
    except BaseException:
        model.close()
        raise
    return model


def of_target(bundle: Bundle, target: Target, confidence: float | None = None) -> Model[Any]:
    """A model of an open bundle that runs exactly this target; it closes the bundle when it is closed.

    confidence: see `load`. Raises BadInput for a task that shows all of its results.
    """
    manifest = bundle.manifest
    check_matches(onnxfile.read(target.file), manifest, f"{bundle.path}/{target.file.name}")
    entry = fitting((manifest.input,), manifest.preprocess, None, str(bundle.path))
    fitted = manifest.thresholds(target.variant)
    asked = fitted if confidence is None else (confidence,) * len(manifest.labels)
    task = tasks.create(manifest.head, manifest.outputs).at(asked)
    model = Model(target, entry, manifest.name, task, manifest.outputs, bundle)
    bundle.check_unchanged(target.file.name)
    return model


def _refuse(given: Mapping[str, object], why: str) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise BadInput(f"{why}: leave out {', '.join(named)}")
