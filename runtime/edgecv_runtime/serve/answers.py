"""What a picture's result is as tensors of the protocol, task by task; a JSON document of it goes with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import jsontext
from edgecv_runtime.manifest import TensorSpec

Columns = dict[str, NDArray[Any]]


class Answer(NamedTuple):
    """The outputs of a task, and how results become them."""

    outputs: tuple[TensorSpec, ...]
    columns: Callable[[Sequence[Any]], Columns]


def of_task(task: str) -> Answer:
    """What a task answers; `result`, the JSON that `edgecv predict --json` shows of it, is there for every task."""
    specs, columns = _TASKS.get(task, ((), lambda _: {}))
    result = TensorSpec("result", "object", ("N",))

    def with_documents(results: Sequence[Any]) -> Columns:
        return {"result": _bytes([jsontext.encode(each.as_dict()) for each in results]), **columns(results)}

    return Answer((result, *specs), with_documents)


def _classes(results: Sequence[Any]) -> Columns:
    return {
        "label": _bytes([each.label.encode() for each in results]),
        "score": np.array([each.score for each in results], np.float32),
        "scores": np.stack([each.scores for each in results]).astype(np.float32, copy=False),
    }


def _boxes(results: Sequence[Any]) -> Columns:
    """All boxes one below the other; `picture` says of which picture each is."""
    counts = [len(each) for each in results]
    return {
        "picture": np.repeat(np.arange(len(results)), counts).astype(np.int64),
        "box": np.concatenate([each.xyxy for each in results]).astype(np.float32, copy=False),
        "score": np.concatenate([each.confidence for each in results]).astype(np.float32, copy=False),
        "label": _bytes([each.labels[int(kind)].encode() for each in results for kind in each.class_id]),
    }


def _masks(results: Sequence[Any]) -> Columns:
    """A PNG each, for pictures differ in size."""
    return {"mask": _bytes([each.png() for each in results])}


_TASKS: dict[str, tuple[tuple[TensorSpec, ...], Callable[[Sequence[Any]], Columns]]] = {
    "classification": (
        (
            TensorSpec("label", "object", ("N",)),
            TensorSpec("score", "float32", ("N",)),
            TensorSpec("scores", "float32", ("N", "classes")),
        ),
        _classes,
    ),
    "detection": (
        (
            TensorSpec("picture", "int64", ("boxes",)),
            TensorSpec("box", "float32", ("boxes", 4)),
            TensorSpec("score", "float32", ("boxes",)),
            TensorSpec("label", "object", ("boxes",)),
        ),
        _boxes,
    ),
    "segmentation": ((TensorSpec("mask", "object", ("N",)),), _masks),
}


def _bytes(values: Sequence[bytes]) -> NDArray[Any]:
    made = np.empty(len(values), object)
    made[:] = values
    return made
