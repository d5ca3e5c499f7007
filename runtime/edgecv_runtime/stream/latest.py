"""A model that follows its bundle: exchanged between two batches when that changes, and back when the new one fails.

A remote deployment that restarts the process loses frames and, when the new file is broken, the camera. So the new
model is loaded and tested beside the old one, which stays loaded until the new one has proven itself on frames.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgecv_runtime.bundle import MANIFEST
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.events import Journal, ModelState
from edgecv_runtime.stream.redact import redact

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.model import Model

_LEAVE_S = 1.0  # a bundle that is being loaded does not hold up the end
_PROVEN = 30  # frames without an error, and the old model is let go


class Latest:
    """The model of a bundle as it is now: `with Latest("bundle") as model: stream.run(model, ...)`.

    A bundle that changes is loaded by a thread of its own and must pass its self-test on its golden inputs; then it
    takes the place of the old one between two batches. One that cannot be loaded, fails its test, or raises for one of
    its first 30 frames changes nothing: the frame is computed by the old model, and the same content is not tried anew.
    """

    def __init__(self, path: str | Path, load: Callable[[], Model[Any]] | None = None, *, check_s: float = 2.0) -> None:
        """path: a bundle, or a link to one; load: how it is loaded, by default by `load(path, self_test=True)`.

        check_s: seconds between two looks at it. Raises what loading raises.
        """
        self._path = Path(path)
        self._load = load or self._load_tested
        self._check_s = check_s
        self._journal = Journal()
        self._lock = threading.Lock()
        self._seen = self._content()
        self._model = self._load()
        self._next: Model[Any] | None = None
        self._former: Model[Any] | None = None  # while the present one has to prove itself
        self._proven = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="edgecv-latest", daemon=True)
        self._thread.start()

    def __call__(self, frames: Image | Sequence[Image]) -> Any:
        """Compute with the model that is the latest now."""
        return self.current()(frames)

    @property
    def info(self) -> Any:
        """Of the model in use."""
        return self._model.info

    def attach(self, journal: Journal) -> None:
        """Tell this journal of exchanges from now on."""
        self._journal = journal

    def current(self) -> Model[Any]:
        """The model for the next batch: the moment in which it is exchanged."""
        with self._lock:
            new, self._next = self._next, None
            if new is None:
                return self._model
            if self._former is not None:  # two exchanges in short time: the one before was not proven, but did not fail
                self._former.close()
            self._former, self._model, self._proven = self._model, new, 0
        self._note("exchanged", f"now {told(new)}")
        return new

    def worked(self, frames: int) -> None:
        """The current model gave results for so many frames."""
        with self._lock:
            self._proven += frames
            former = self._former if self._proven >= _PROVEN else None
            if former is not None:
                self._former = None
        if former is not None:
            former.close()

    def failed(self, error: Exception) -> Model[Any] | None:
        """The current model raised: the one to go back to, None where it has proven itself: then it is the frame."""
        with self._lock:
            broken, former = self._model, self._former
            if former is None:
                return None
            self._model, self._former = former, None
        self._note(
            "kept", f"{told(broken)} failed: {redact(f'{type(error).__name__}: {error}')}; back to {told(former)}"
        )
        broken.close()
        return former

    def close(self) -> None:
        """Follow no more, and close the models."""
        self._closing.set()
        self._thread.join(_LEAVE_S)
        for model in (self._next, self._former, self._model):
            if model is not None:
                model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> None:
        while not self._closing.wait(self._check_s):
            content = self._content()
            if content in (None, self._seen) or self._closing.wait(min(self._check_s, 0.2)):
                continue
            if content != self._content():  # it is being written
                continue
            self._seen = content
            try:
                new = self._load()
            except Exception as exc:  # whatever is wrong with the new one, the old one works
                self._note("kept", f"the new bundle is refused: {redact(f'{type(exc).__name__}: {exc}')}")
                continue
            with self._lock:
                late = new if self._closing.is_set() else self._next
                self._next = self._next if self._closing.is_set() else new
            if late is not None:
                late.close()

    def _content(self) -> str | None:
        """What tells one bundle from another: where the link leads, and its manifest, which has the digests of all."""
        try:
            real = os.path.realpath(self._path)
            manifest = Path(real) / MANIFEST
            if manifest.is_file():
                return real + hashlib.sha256(manifest.read_bytes()).hexdigest()
            status = Path(real).stat()
        except OSError:
            return None  # between two of them
        return f"{real} {status.st_ino} {status.st_size} {status.st_mtime_ns}"

    def _load_tested(self) -> Model[Any]:
        from edgecv_runtime.loading import load

        return load(self._path, self_test=True)

    def _note(self, state: ModelState, reason: str) -> None:
        self._journal.note("model", str(self._path), state, reason)


def told(model: object) -> str:
    """What a model is called in outputs: name, variant and digest, or the name of the function that it is."""
    info = getattr(model, "info", None)
    if info is None:
        return str(getattr(model, "__name__", type(model).__name__))
    bundle = getattr(model, "bundle", None)
    digest = f" {bundle.sha256(info.variant)[:8]}" if bundle is not None else ""
    return f"{info.name} {info.variant}{digest}"
