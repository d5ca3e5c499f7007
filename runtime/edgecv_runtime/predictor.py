"""`Predictor`: a model that can be sent to other processes; it is opened where it is first called.

For `multiprocessing`, `concurrent.futures` and Ray Data's `map_batches`, which pickle what they call, some of them for
every batch: copies of one predictor share one model in each process.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import answers, forks, images, stores
from edgecv_runtime.answers import Columns
from edgecv_runtime.backends import DEFAULT_DEVICE
from edgecv_runtime.description import Description
from edgecv_runtime.errors import BadInput, Closed, EdgecvError, Unavailable, nearest
from edgecv_runtime.loading import load
from edgecv_runtime.model import Model
from edgecv_runtime.preprocess import Image, Normalization, Preprocess

ERROR = "error"
_HOLDING = ("bytes", "path", "item")  # as Ray Data's read_binary_files and from_items name columns
_KEPT = 4  # predictors of other processes whose models stay open in this one


class Predictor:
    """A bundle or ONNX file as a function of batches of pictures that gives columns; it can be pickled.

    Columns are those that `edgecv serve` answers (docs/bulk.md), a row a picture, and `error`: why there is no result
    for a picture, else None. One that is broken costs the others nothing: its row has None, or NaN for numbers.
    Calls may come from several threads; `with` closes the model.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        backend: str = "auto",
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
        columns: Sequence[str] | None = None,
        column: str | None = None,
        rgb: bool = False,
        max_pixels: int = images.MAX_PIXELS,
    ) -> None:
        """Take what `load` takes; nothing is opened before the first call.

        columns: which to give, by default all of the task. column: of batches that are columns themselves, the one that
        holds the pictures; by default "bytes", "path" or "item". rgb: arrays are RGB, as Pillow and Ray's read_images
        give them, not BGR. max_pixels: of a picture that is decoded.
        """
        self.source = Path(source).absolute()  # other processes may have another folder
        self.options: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "device": device,
            "threads": threads,
            "goal": goal,
            "preprocess": preprocess,
            "labels": labels,
            "normalization": normalization,
            "scores": scores,
            "thresholds": thresholds,
            "description": Path(description).absolute() if isinstance(description, str | Path) else description,
            "confidence": confidence,
            "self_test": self_test,
            "busy_wait": busy_wait,
        }
        self.columns = None if columns is None else tuple(columns)
        twice = [name for name, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise BadInput(f"columns: '{twice[0]}' stands there twice")
        self._column = column
        self._rgb = rgb
        self.max_pixels = max_pixels
        self._name = uuid.uuid4().hex
        self._begin()

    def _begin(self) -> None:
        self._model: Model[Any] | None = None
        self._closed = False
        self._lock = threading.Lock()
        _LIVING.add(self)

    @property
    def model(self) -> Model[Any]:
        """The model of this process, which is opened when it is first wanted; raises as `load` does."""
        with self._lock:
            if self._closed:
                raise Closed(f"the predictor of {self.source} is closed; make it again")
            if self._model is None:
                model = load(self.source, **self.options)
                try:
                    self._check_columns(model)
                except BaseException:
                    model.close()
                    raise
                self._model = model
            return self._model

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that a call gives for pictures, `error` the last."""
        return (*self._wanted(self.model), ERROR)

    def _wanted(self, model: Model[Any]) -> tuple[str, ...]:
        return answers.of_task(model.task).names if self.columns is None else self.columns

    def _check_columns(self, model: Model[Any]) -> None:
        known = answers.of_task(model.task).names
        for name in self._wanted(model):
            if name not in known:
                raise BadInput(f"{model.task} has no column '{name}'{nearest(name, known)}")

    def asking(
        self, *, backend: str = "", precision: str = "", threads: int = 0, columns: Sequence[str] = ()
    ) -> Predictor:
        """Another predictor of the same file, with these in the place of what was asked for where they are given."""
        asked = {"backend": backend, "precision": precision, "threads": threads}
        options = self.options | {name: value for name, value in asked.items() if value}
        return Predictor(
            self.source,
            **options,
            columns=columns or self.columns,
            column=self._column,
            rgb=self._rgb,
            max_pixels=self.max_pixels,
        )

    def __call__(self, batch: Mapping[str, Any] | Sequence[Any] | NDArray[Any]) -> Columns:
        """Columns of a batch: a list or array of pictures, each an array (H, W, 3) uint8 BGR, a file's bytes or path.

        Paths may be URLs where fsspec is installed. Of a batch that is columns itself, Ray's say, the others stay, and
        bytes and arrays are left out. Raises BadInput for what is no batch, and as `load` does.
        """
        if not isinstance(batch, Mapping):
            return self._predicted(batch)
        column = self._holding(batch)
        found = self._predicted(batch[column])
        both = sorted(found.keys() & batch.keys() - {column})
        if both:
            raise BadInput(f"the batch has columns of the same names as the results: {', '.join(both)}; rename them")
        kept = {name: values for name, values in batch.items() if name != column or _are_names(values)}
        return {**kept, **found}

    def _holding(self, batch: Mapping[str, Any]) -> str:
        known = (self._column,) if self._column is not None else _HOLDING
        found = next((name for name in known if name in batch), None)
        if found is None:
            there = ", ".join(map(str, batch))
            raise BadInput(f"no column '{known[0]}' in the batch, which has: {there}; name the pictures' by column=")
        return found

    def _predicted(self, pictures: Sequence[Any] | NDArray[Any]) -> Columns:
        if isinstance(pictures, np.ndarray):  # NumPy's own bytes have lost the zeros that a file ends in
            is_batch = pictures.dtype.kind != "S" and pictures.ndim not in (0, 3)
        else:
            is_batch = isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes | bytearray | memoryview)
        if not is_batch:
            raise BadInput(
                "a batch is a list of pictures, an array (N, H, W, 3) uint8 or of objects (dtype=object), or a dict of "
                f"such columns (Ray: batch_format='numpy'); got {_readable(pictures)}"
            )
        model = self.model
        errors: list[str | None] = [None] * len(pictures)
        results: list[Any | None] = [None] * len(pictures)
        rows: list[int] = []  # of the pictures that are decoded, in order

        def frames() -> Iterator[Image]:
            for row, picture in enumerate(pictures):
                try:
                    frame = self._frame(picture)
                except Unavailable:  # fsspec, say: no fault of this picture
                    raise
                except EdgecvError as exc:
                    errors[row] = str(exc)
                    continue
                rows.append(row)
                yield frame

        for at, result in enumerate(model.map(frames(), errors=True)):
            if isinstance(result, EdgecvError):
                errors[rows[at]] = str(result)
            else:
                results[rows[at]] = result
        columns = answers.of_task(model.task).columns(results, len(model.labels), self._wanted(model))
        columns[ERROR] = np.array(errors, object)
        return columns

    def _frame(self, picture: Any) -> Image:
        if isinstance(picture, np.ndarray):
            return picture[..., ::-1] if self._rgb else picture
        if isinstance(picture, bytes | bytearray | memoryview):
            return images.decode(bytes(picture), max_pixels=self.max_pixels)
        if isinstance(picture, str | os.PathLike):
            return stores.image(os.fspath(picture), self.max_pixels)
        raise BadInput(f"a picture is an array, the bytes of a file or a path; got {type(picture).__name__}")

    def close(self) -> None:
        """Release the model of this process; closing twice is fine."""
        with self._lock:
            model, self._model, self._closed = self._model, None, True
        if model is not None:
            model.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """What was asked for goes to the other process, not what is open here."""
        return _here, ({name: value for name, value in vars(self).items() if name not in ("_model", "_lock")},)


_LIVING: weakref.WeakSet[Predictor] = weakref.WeakSet()
_ARRIVED: OrderedDict[str, Predictor] = OrderedDict()
_arriving = threading.Lock()


def _here(facts: dict[str, Any]) -> Predictor:
    """The one of this process: pools pickle what they call for every batch."""
    with _arriving:
        found = _ARRIVED.pop(facts["_name"], None)
        if found is None or found._closed:
            found = Predictor.__new__(Predictor)
            found._begin()
            vars(found).update(facts)
        _ARRIVED[facts["_name"]] = found
        while len(_ARRIVED) > _KEPT:
            _ARRIVED.popitem(last=False)
        return found


def _after_fork() -> None:
    """Locks may be held by threads that stayed behind; models open themselves anew."""
    global _arriving
    _arriving = threading.Lock()
    for predictor in list(_LIVING):
        predictor._lock = threading.Lock()


forks.in_child(_after_fork)


def _are_names(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str | os.PathLike) for value in values)


def _readable(pictures: object) -> str:
    if isinstance(pictures, np.ndarray):
        return f"an array {pictures.shape} of {pictures.dtype}"
    return type(pictures).__name__
