"""`load` and `Model`: the inference API, the same for every backend."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, choose, machine, onnxfile, tasks
from edgecv_runtime.backends import Backend, Executed, Tensors
from edgecv_runtime.bundle import ARCHIVE_SUFFIX, MANIFEST, Bundle
from edgecv_runtime.choose import Target
from edgecv_runtime.errors import BadInput, BundleError, Closed, ModelFileError, NoMemory, ShapeError
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.preprocess import Image, Normalization, Preprocess


@dataclass(frozen=True)
class Info:
    """What a loaded model is: its variant and backend, and the precision that executes (not the one asked for)."""

    name: str
    task: str
    variant: str
    backend: str
    precision: str
    layers: dict[str, int]
    threads: int
    versions: dict[str, str]


def load(
    source: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    normalization: Normalization | None = None,
    self_test: bool = False,
) -> Model:
    """Load a bundle (folder or .edgecv) or a plain ONNX file.

    backend: a name of `backends.names()`, or "auto": the fastest measured on this machine.
    precision: "auto", "float32", "bf16", "fp16", "int8", or a variant's name.
    threads: 0 leaves the number to the backend.
    preprocess, labels: for a plain ONNX file, which carries neither; normalization: for one with float32 NCHW input.
    self_test: run the bundle's golden inputs first; raises ParityError that names the fault when they do not agree.
    Raises BundleError, ModelFileError, BadInput or BackendUnavailable, each in one line.
    """
    source = Path(source)
    given = {"preprocess": preprocess, "labels": labels, "normalization": normalization}
    if source.is_dir() or source.suffix == ARCHIVE_SUFFIX or (source.suffix != ".onnx" and not source.exists()):
        _refuse(given, f"{source}: a bundle carries its own")
        return _load_bundle(source, backend, precision, threads, self_test)
    if self_test:
        raise BadInput(f"{source}: a plain ONNX file carries no golden inputs: leave out self_test")
    if source.name == MANIFEST:
        raise BundleError(f"{source}: name the bundle's folder, {source.parent}")
    header = onnxfile.read(source)
    if preprocess is None or labels is None:
        raise BadInput(f"{source}: a plain ONNX file carries no preprocessing and labels: give preprocess=, labels=")
    if len(header.outputs) != 1:
        raise ModelFileError(f"{source}: has {len(header.outputs)} outputs; a classifier has one")
    entry = _entry(header.inputs, preprocess, normalization, str(source))
    target = choose.for_file(source, entry.spec, backend, precision, threads)
    name = header.last_operators.get(header.outputs[0].name, "")
    task = tasks.create("classification", tuple(labels), header.outputs, name == "Softmax")
    return Model(target, entry, task, source.stem, "classification", tuple(labels), header.outputs)


def _load_bundle(source: Path, backend: str, precision: str, threads: int, self_test: bool) -> Model:
    bundle = Bundle(source)
    try:
        model = of_target(bundle, choose.for_bundle(bundle, backend, precision, threads))
        if self_test:
            model.self_test()
        return model  # noqa: TRY300 - the bundle stays open with it
    except BaseException:
        bundle.close()
        raise


def of_target(bundle: Bundle, target: Target) -> Model:
    """A model of an open bundle that runs exactly this target; it closes the bundle when it is closed."""
    manifest = bundle.manifest
    _check_matches(onnxfile.read(target.file), manifest, f"{bundle.path}/{target.file.name}")
    entry = _entry((manifest.input,), manifest.preprocess, None, str(bundle.path))
    task = tasks.create(manifest.task, manifest.labels, manifest.outputs, False)
    model = Model(target, entry, task, manifest.name, manifest.task, manifest.labels, manifest.outputs, bundle)
    bundle.check_unchanged(target.file.name)
    return model


class Model:
    """A loaded model: call it with frames, or `run` it with tensors; `with` closes it.

    Calls may come from several threads.
    """

    def __init__(
        self,
        target: Target,
        entry: Input,
        task: tasks.Task,
        name: str,
        task_name: str,
        labels: tuple[str, ...],
        outputs: tuple[TensorSpec, ...],
        bundle: Bundle | None = None,
    ) -> None:
        """Use `load`; this is for code that has found a target itself."""
        self.labels = labels
        self.preprocess = entry.preprocess
        self.input = entry.spec
        self.outputs = outputs
        self.name = name
        self.bundle = bundle
        self._task_name = task_name
        self._task = task
        self._entry = entry
        self._target = target
        self._executed: Executed | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._backend: Backend | None = target.open()

    @overload
    def __call__(self, frames: Image) -> Any: ...
    @overload
    def __call__(self, frames: Sequence[Image]) -> list[Any]: ...
    def __call__(self, frames: Image | Sequence[Image]) -> Any:
        """Run one frame, (H, W, 3) uint8 BGR as OpenCV gives it, or a list of them as one batch.

        Gives the task's result (a Classification), or a list of them. Raises ShapeError for another dtype or rank,
        InvalidOutput for NaN or infinite outputs, Closed after `close`.
        """
        if isinstance(frames, (list, tuple)):
            return self.results(self._entry.batch(frames))
        return self.results(self._entry.batch([frames]))[0]  # type: ignore[list-item]

    def results(self, batch: NDArray[Any]) -> list[Any]:
        """Run a ready input tensor (N, ...) and decode it: one result per row."""
        return self._task.decode(self._alive().run({self.input.name: batch}))

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run raw tensors: {"image": (N, H, W, C) uint8} -> {"logits": (N, classes) float32} for our own bundles.

        Raises ShapeError that says what was expected when a name, dtype or shape differs.
        """
        backend = self._alive()
        if not isinstance(feeds, Mapping):
            raise ShapeError(f"run wants named tensors, {{'{self.input.name}': ...}}, got {type(feeds).__name__}")
        if len(feeds) != 1 or self.input.name not in feeds:
            raise ShapeError(f"run wants the input '{self.input.name}' and no other, got: {', '.join(feeds)}")
        _check_tensor(feeds[self.input.name], self.input)
        rows = len(feeds[self.input.name])
        try:
            outputs = backend.run(feeds)
        except MemoryError as exc:
            raise NoMemory(
                f"model '{self.name}': no memory for {feeds[self.input.name].shape}; run fewer frames"
            ) from exc
        except Exception:
            self._alive()  # closed meanwhile by another thread: that is the error, whatever the backend says
            raise
        if any(len(values) != rows for values in outputs.values()):  # OpenVINO's answer when memory runs out
            counts = ", ".join(str(len(values)) for values in outputs.values())
            raise NoMemory(
                f"model '{self.name}' gave {counts} rows for {rows}: no memory for so many; run fewer frames"
            )
        return outputs

    def submit(self, frame: Image) -> Future[Any]:
        """Run one frame in the background -> Future of its result; frames run one after the other."""
        self._alive()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgecv-submit")
        return self._pool.submit(self, frame)

    @property
    def info(self) -> Info:
        """What runs: read from the compiled model the first time it is asked for (some milliseconds)."""
        if self._executed is None:
            self._executed = self._alive().executed()
        return Info(
            name=self.name,
            task=self._task_name,
            variant=self._target.variant,
            backend=self._target.backend,
            precision=self._executed.precision,
            layers=self._executed.layers,
            threads=self._target.threads or machine.this().cores,
            versions=backends.get(self._target.backend).probe(),
        )

    def self_test(self) -> None:
        """Run the bundle's golden inputs; raises ParityError that names the fault when they do not agree."""
        from edgecv_runtime import verify

        if self.bundle is None:
            raise BadInput(f"model '{self.name}' is a plain ONNX file: it carries no golden inputs")
        verify.self_test(self.bundle, self._target, self._alive())

    def explain(self) -> str:
        """Why this backend and variant run: what was asked, tried, measured and left out."""
        return "\n".join(self._target.reasons)

    def close(self) -> None:
        """Finish what was submitted, then release the model; closing twice is fine."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()
        if self.bundle is not None:
            self.bundle.close()

    def _alive(self) -> Backend:
        if self._backend is None:
            raise Closed(f"model '{self.name}' is closed; load it again")
        return self._backend

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Input:
    """From frames to the network's input tensor: uint8 NHWC for our own graphs, float32 NCHW for others'."""

    spec: TensorSpec
    preprocess: Preprocess
    normalization: Normalization | None

    def batch(self, frames: Sequence[Image]) -> NDArray[Any]:
        """Frames of any size -> the input tensor."""
        pixels = self.preprocess.batch(frames)
        if self.normalization is None:
            return pixels
        mean = np.asarray(self.normalization.mean, np.float32)
        std = np.asarray(self.normalization.std, np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # (N, H, W, C) -> (N, C, H, W)


def _entry(
    inputs: tuple[TensorSpec, ...], preprocess: Preprocess, normalization: Normalization | None, where: str
) -> Input:
    """Match the preprocessing with the network's input, or say what does not fit."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise ModelFileError(f"{where}: a vision model has one image input of rank 4, this one has: {found}")
    spec = inputs[0]
    height, width = preprocess.size
    if normalization is not None and len(normalization.mean) != preprocess.channels:
        raise BadInput(f"{where}: normalization has {len(normalization.mean)} channels, not {preprocess.channels}")
    layouts: dict[str, tuple[int, ...]] = {
        "uint8": (height, width, preprocess.channels),
        "float32": (preprocess.channels, height, width),
    }
    if spec.dtype not in layouts:
        raise ModelFileError(
            f"{where}: input '{spec.name}' is {spec.dtype}; uint8 (NHWC) and float32 (NCHW) are served"
        )
    if spec.dtype == "float32" and normalization is None:
        raise BadInput(f"{where}: its input is float32: give normalization=Normalization(mean=..., std=...)")
    if spec.dtype == "uint8" and normalization is not None:
        raise BadInput(f"{where}: its input is uint8, so the graph normalizes: leave normalization out")
    wanted = layouts[spec.dtype]
    for have, want in zip(spec.shape[1:], wanted, strict=True):
        if isinstance(have, int) and have != want:
            raise ShapeError(f"{where}: input is {spec.dtype} {spec.shape}, but preprocessing gives (N, {wanted})")
    return Input(TensorSpec(spec.name, spec.dtype, (spec.shape[0], *wanted)), preprocess, normalization)


def _check_matches(header: onnxfile.OnnxHeader, manifest: Manifest, where: str) -> None:
    """The graph's own inputs, outputs and labels must be the manifest's."""
    for found, claimed in ((header.inputs, (manifest.input,)), (header.outputs, manifest.outputs)):
        if len(found) != len(claimed) or not all(map(_is_same, found, claimed)):
            raise BundleError(f"{where}: the graph has {found}, the manifest says {claimed}; export it again")
    labels = header.metadata.get("edgecv.labels")
    if labels is not None and labels != "\n".join(manifest.labels):
        raise BundleError(f"{where}: the graph's own labels are not the manifest's; export it again")


def _is_same(found: TensorSpec, claimed: TensorSpec) -> bool:
    sizes = zip(found.shape, claimed.shape, strict=False)
    return (
        (found.name, found.dtype, len(found.shape)) == (claimed.name, claimed.dtype, len(claimed.shape))
        and all(have == want for have, want in sizes if isinstance(have, int) and isinstance(want, int))
    )  # fmt: skip


def _check_tensor(tensor: Any, spec: TensorSpec) -> None:
    """Backends disagree on what they cast silently, so dtype and shape are checked here for all of them."""
    shape = getattr(tensor, "shape", None)
    if shape is None or str(tensor.dtype) != spec.dtype or len(shape) != len(spec.shape):
        got = f"{shape} {tensor.dtype}" if shape is not None else type(tensor).__name__
        raise ShapeError(f"'{spec.name}' wants {_readable(spec)}, got {got}; model.preprocess.batch makes it")
    if any(isinstance(want, int) and want != have for want, have in zip(spec.shape, shape, strict=True)):
        raise ShapeError(f"'{spec.name}' wants {_readable(spec)}, got {shape}; model.preprocess.batch makes it")
    if shape[0] == 0:
        raise ShapeError(f"'{spec.name}' wants at least one frame, got a batch of 0")


def _readable(spec: TensorSpec) -> str:
    sizes = ", ".join("N" if isinstance(size, str) else str(size) for size in spec.shape)
    return f"({sizes}) {spec.dtype}"


def _refuse(given: Mapping[str, object], why: str) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise BadInput(f"{why}: leave out {', '.join(named)}")
