"""How a deployment's own answers are read, beside what outputs say read rightly, and read by code that is wrong.

Answers are kept in the form in which they were given: scores, masks or boxes. Faults of the pixels are common to all
tasks (`edgecv_runtime.verify.pixelfaults`); what can be wrong with the answers themselves is told by each task here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.records import Record

Rows = NDArray[np.float32]
Given = NDArray[Any] | Mapping[str, NDArray[Any]]
A = TypeVar("A")


class Fault(Record, frozen=True):
    """What a fault is called, and what to do about it."""

    name: str
    cure: str


SHIFTED = Fault("shifted labels", "use the bundle's labels; mind a background class")
REORDERED = Fault("labels in another order", "use the bundle's labels in their order")
OUT_OF_STEP = Fault("answers out of step", "wait for a frame's own result; copy it before the next one runs")


class Reading(Protocol[A]):
    """Answers of a deployment to some pictures, `seen`, and how far others are from them.

    shape: what its form alone shows to be wrong, as fault and detail, or None. signal: how much there is to explain in
    what was seen, in the units of `away`: what says next to nothing is near to many answers.
    """

    seen: A
    signal: float
    shape: tuple[Fault, str] | None

    def of(self, outputs: Tensors, views: Sequence[View]) -> A:
        """What outputs say, in the form of those that were seen."""
        ...

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, A]]:
        """What wrong code would make of right outputs: fault, detail and answers."""
        ...

    def fitted(self, right: A) -> Iterator[tuple[Fault, str, A]]:
        """What was found from those that were seen, and is asked only where nothing else explains them."""
        ...

    def away(self, read: A, other: A) -> Rows:
        """How far answers that were read off outputs are from others, by picture: 0 the same, 1 nothing in common."""
        ...


def text_order(count: int) -> list[int]:
    """Class positions sorted as text (0, 1, 10, 11, ..., 2): what listing numbered folders gives."""
    return sorted(range(count), key=str)


class Squares(Protocol):
    """What of a task the comparison of raw outputs needs."""

    def squares(self, wanted: Tensors, got: Tensors) -> tuple[float, float]: ...


class RawReading:
    """Outputs as the network gives them, compared by the task's own squares: only the pixels can be wrong."""

    def __init__(self, task: Squares, given: Sequence[Given], outputs: Tensors) -> None:
        """Raises BadInput for arrays that are not of the network's outputs."""
        self.shape: tuple[Fault, str] | None = None
        self._task = task
        self.signal = 1.0
        self.seen: Tensors = {}
        for name, right in outputs.items():
            rows = [each[name] if isinstance(each, Mapping) and name in each else None for each in given]
            shapes = {None if row is None else np.shape(row) for row in rows}
            if shapes != {right.shape[1:]}:
                told = ", ".join("none" if shape is None else str(shape) for shape in shapes)
                raise BadInput(
                    f"the network's output '{name}' is {right.shape[1:]} a picture, the pipeline gives {told}"
                )
            self.seen[name] = np.stack([np.asarray(row).astype(right.dtype) for row in rows])

    def of(self, outputs: Tensors, views: Sequence[View]) -> Tensors:
        """They themselves."""
        del views
        return outputs

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, Tensors]]:
        """Nothing: nobody has read them yet."""
        del outputs, views
        yield from ()

    def fitted(self, right: Tensors) -> Iterator[tuple[Fault, str, Tensors]]:
        """Nothing."""
        del right
        yield from ()

    def away(self, read: Tensors, other: Tensors) -> Rows:
        """Root of the squares of the difference over those of all."""
        count = len(next(iter(other.values())))
        pairs = [
            self._task.squares(*({name: each[at : at + 1] for name, each in rows.items()} for rows in (other, read)))
            for at in range(count)
        ]
        whole = max(sum(size for _, size in pairs) / count, 1e-12)
        return np.sqrt(np.array([off for off, _ in pairs]) / whole).astype(np.float32)
