"""`Model`: the inference API, the same for every backend. `loading` makes it of a bundle or a file."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import forks, geometry, onnxfile, tasks
from edgecv_runtime.backends import Backend, Tensors
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import (
    BackendUnavailable,
    BadInput,
    Closed,
    EdgecvError,
    ModelFileError,
    NoMemory,
)
from edgecv_runtime.geometry import View
from edgecv_runtime.inputs import Input, check_feeds
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record
from edgecv_runtime.target import Target
from edgecv_runtime.tasks.base import R

if TYPE_CHECKING:
    from concurrent.futures import Future

    from edgecv_runtime.notebook import Explanation
    from edgecv_runtime.workers import Workers


class Info(Record, frozen=True):
    """What a loaded model is: its variant and backend, and the precision that executes (not the one asked for).

    keeps_goal: False when nothing that was measured here keeps to the bound that was asked for.
    """

    name: str
    task: str
    variant: str
    backend: str
    precision: str
    layers: dict[str, int]
    device: str
    threads: int
    streams: int
    batch: int
    keeps_goal: bool
    versions: dict[str, str]

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        known = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("layers", "versions"):
            known[name] = ", ".join(f"{key} {value}" for key, value in known[name].items())
        return notebook.facts(known)


class Model(Generic[R]):
    """A loaded model: call it with frames, or `run` it with tensors; `with` closes it.

    It is generic in its result: `model: Model[Classification] = load(...)` tells an editor what a call gives. Calls
    may come from several threads.
    """

    def __init__(
        self,
        target: Target,
        entry: Input,
        name: str,
        decoder: tasks.Decoder[R],
        outputs: tuple[TensorSpec, ...],
        bundle: Bundle | None = None,
    ) -> None:
        """Use `load`; this is for code that has found a target itself."""
        self.labels = decoder.labels
        self.preprocess = entry.preprocess
        self.input = entry.spec
        self.outputs = outputs
        self.name = name
        self.task = decoder.name
        self.batch = target.batch
        self.bundle = bundle
        self._decoder = decoder
        self._entry = entry
        self._target = target
        self._info: Info | None = None
        self._workers: Workers | None = None
        self._lock = threading.RLock()
        self._whole = geometry.whole(entry.preprocess.size)
        self._sizes = list(entry.spec.shape[1:])
        self._rows = entry.spec.shape[0] if isinstance(entry.spec.shape[0], int) else None
        self._dtype = np.dtype(entry.spec.dtype)
        self._backend: Backend | None = target.compile()  # the file was checked by who called this
        self.streams = self._backend.streams
        self._forked = False
        _LOADED.add(self)

    @overload
    def __call__(self, frames: Image) -> R: ...
    @overload
    def __call__(self, frames: Sequence[Image]) -> list[R]: ...
    def __call__(self, frames: Image | Sequence[Image]) -> R | list[R]:
        """Run one frame, (H, W, 3) uint8 BGR as OpenCV gives it, or a list of them as one batch.

        Gives the task's result (a Classification), or a list of them. Raises ShapeError for another dtype or rank,
        InvalidOutput for NaN or infinite outputs, Closed after `close`.
        """
        if isinstance(frames, (list, tuple)):
            return self.results(self._entry.batch(frames), self._entry.views(frames))
        one = [frames]
        return self.results(self._entry.batch(one), self._entry.views(one))[0]  # type: ignore[arg-type]

    def results(self, batch: NDArray[Any], views: Sequence[View] | None = None) -> list[R]:
        """Run a ready input tensor (N, ...) and decode it: one result per row.

        views: how the network sees each frame, so that results lie in the frame's pixels; without, in the input's.
        """
        return self.decode(self._alive().run({self.input.name: batch}), views or [self._whole] * len(batch))

    def tensor(self, frames: Sequence[Image]) -> NDArray[Any]:
        """Frames of any size as the network's input tensor (N, ...): what a call of the model runs."""
        return self._entry.batch(frames)

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[R]:
        """Results of the outputs that `run` gave; views: how the network saw each frame (`preprocess.view`)."""
        try:
            return self._decoder.decode(outputs, views)
        except BadInput as exc:  # the outputs are not what they were said to be
            raise BadInput(f"model '{self.name}': {exc}") from exc

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run raw tensors: {"image": (N, H, W, C) uint8} -> {"logits": (N, classes) float32} for our own bundles.

        Raises ShapeError that says what was expected when a name, dtype or shape differs.
        """
        backend = self._alive()
        try:
            tensor = feeds[self.input.name]
            rows, *sizes = tensor.shape
            fits = tensor.dtype == self._dtype and sizes == self._sizes and rows > 0 and len(feeds) == 1
            fits = fits and self._rows in (None, rows)
        except (TypeError, LookupError, AttributeError, ValueError):  # no mapping, or no tensor in it
            fits = False
        if not fits:
            check_feeds(feeds, self.input)
        try:
            return backend.run(feeds)
        except MemoryError as exc:
            raise NoMemory(f"model '{self.name}': no memory for {tensor.shape}; run fewer frames") from exc
        except Exception:  # whatever a backend of somebody else raises
            self._alive()  # closed meanwhile by another thread: that is the error, whatever the backend says
            raise

    def submit(self, frame: Image | Tensors) -> Future[Any]:
        """Compute in the background -> Future of a frame's result, or of the tensors that `run` gives for tensors.

        `streams` of them compute at once (see `load(goal=...)`); waits for room when too many are queued.
        """
        return self._busy().submit(self._either, frame)

    def map(self, frames: Iterable[Image | Tensors], *, errors: bool = False) -> Iterator[Any]:
        """Results of any iterable of frames (or of tensors), in order, with all streams busy and bounded memory.

        errors: give an item's EdgecvError in its place instead of raising it, and go on. Leaving the loop early
        cancels what was not begun.
        """
        rows = max(1, self._target.rows)  # a graph that takes so many computes no fewer
        batches = _batches(frames, -(-self._target.batch // rows) * rows)
        for results in self._busy().map(self._each, batches):
            for result in results:
                if isinstance(result, EdgecvError) and not errors:
                    raise result
                yield result

    def _busy(self) -> Workers:
        """The threads that compute in the background, started when first wanted."""
        from edgecv_runtime.workers import Workers

        with self._lock:
            self._alive()
            if self._workers is None:
                self._workers = Workers(self.streams)
            return self._workers

    def _either(self, item: Any) -> Any:
        return self.run(item) if isinstance(item, Mapping) else self(item)

    def _each(self, items: list[Any]) -> list[Any]:
        """Results, or the errors in their place; frames run as one batch, and singly when something is wrong in it."""
        if len(items) > 1 and not any(isinstance(item, Mapping) for item in items):
            try:
                return self(items)
            except EdgecvError:
                self._alive()
        results: list[Any] = []
        for item in items:
            try:
                results.append(self._either(item))
            except EdgecvError as exc:
                results.append(exc)
        return results

    @property
    def info(self) -> Info:
        """What runs: read from the compiled model the first time it is asked for (some milliseconds)."""
        if self._info is None:
            executed = self._alive().executed()
            self._info = Info(
                name=self.name,
                task=self._decoder.name,
                variant=self._target.variant,
                backend=self._target.backend,
                precision=executed.precision,
                layers=executed.layers,
                device=self._target.device,
                threads=self._target.threads or self._target.machine.cores,
                streams=self.streams,
                batch=self._target.batch,
                keeps_goal=self._target.keeps_goal,
                versions=self._target.kind.probe(),
            )
        return self._info

    @property
    def choice(self) -> tuple[str, str]:
        """The backend and the precision by which `load` runs this again, where it might choose something else."""
        hint = self._target.hint
        is_open = self.bundle is not None and hint == "float32"
        return self._target.asked, self._target.variant if is_open else hint

    def self_test(self) -> None:
        """Run the bundle's golden inputs; raises ParityError that names the fault when they do not agree."""
        from edgecv_runtime import verify

        if self.bundle is None:
            raise BadInput(f"model '{self.name}' is a plain ONNX file: it carries no golden inputs")
        verify.self_test(self.bundle, self._target, self._alive())

    def explain(self) -> Explanation:
        """Why this backend and variant run: what was asked, tried, measured and left out; text, one reason a line."""
        from edgecv_runtime.notebook import Explanation

        return Explanation("\n".join(self._target.reasons))

    def close(self) -> None:
        """Finish what was submitted, then release the model; closing twice is fine.

        A call that another thread is in ends as it would have, or with Closed; later ones are Closed.
        """
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.close()
        with self._lock:
            backend, self._backend, self._forked = self._backend, None, False
        if backend is not None:
            backend.close()
        if self.bundle is not None:
            self.bundle.close()

    def _alive(self) -> Backend:
        return self._backend or self._reopened()

    def _reopened(self) -> Backend:
        """In a forked process, open the model again when it is first wanted; raises Closed after `close`.

        Raises BundleError or ModelFileError when another file has taken its place, for the labels are the old one's.
        """
        with self._lock:
            if self._forked:
                self._check_file()
                try:
                    backend = self._target.open()
                except EdgecvError as exc:
                    raise BackendUnavailable(
                        f"model '{self.name}' was loaded before this process forked, and {self._target.backend} cannot "
                        f"open it again here: {exc}; load it in each process, or start them by 'spawn'"
                    ) from exc
                self._check_file()  # what was read by its path is what was loaded
                self._backend, self._forked = backend, False
            if self._backend is None:
                raise Closed(f"model '{self.name}' is closed; load it again")
            return self._backend

    def _check_file(self) -> None:
        file = self._target.file
        if self.bundle is not None:
            self.bundle.check_unchanged(file.name)
        elif onnxfile.digest(file, onnxfile.read(file).external) != self._target.sha256:
            raise ModelFileError(f"{file}: was exchanged since it was loaded; load it again")

    def _after_fork(self) -> None:
        """Let go of what does not live on in the child: the threads, those of the runtime, and locks they may hold."""
        self._lock = threading.RLock()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.abandon()
        if self._backend is not None:
            forks.keep_for_ever(self._backend)
            self._backend, self._forked = None, True

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: raises BadInput that says what to do instead."""
        where = self.bundle.path if self.bundle is not None else self._target.file
        raise BadInput(
            f"model '{self.name}' cannot be pickled or copied, for it holds a session of {self._target.backend}: send "
            f"the path, and call edgecv_runtime.load({str(where)!r}, ...) in the other process"
        )

    def __enter__(self) -> Model[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_LOADED: weakref.WeakSet[Model[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for model in list(_LOADED):
        model._after_fork()


forks.in_child(_after_fork)


def _batches(frames: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(frames)
    while batch := list(islice(rest, size)):
        yield batch
