"""What every form can do: check that a network's outputs are as it says, and make the task's tensors of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import numpy as np

from edgecv_runtime import tasks
from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, InvalidOutput, nearest
from edgecv_runtime.forms.ways import Arrays, T, Ways
from edgecv_runtime.geometry import View
from edgecv_runtime.head import Head
from edgecv_runtime.inputs import Input, readable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE, OnnxHeader
from edgecv_runtime.records import Record
from edgecv_runtime.tasks.base import R, Task

Size = tuple[int, int]


class Form:
    """How the outputs of a network become those of a task: `made` of them, `check`ed before."""

    def made(self, head: Head, size: Size) -> tuple[TensorSpec, ...]:
        """What `make` gives; raises BadInput where nobody has said it."""
        del size
        raise _unsaid(head)

    def check(self, outputs: Sequence[TensorSpec], head: Head, size: Size) -> None:
        """Raise BadInput, with what is missing, where a network's outputs are not as the form and the head say.

        size: (height, width) of the network's input. A length that is not known is not checked.
        """
        del outputs, size
        raise _unsaid(head)

    def make(self, ways: Ways[T], given: Mapping[str, T], head: Head, size: Size) -> dict[str, T]:
        """The task's tensors of outputs that were checked."""
        del ways, given, size
        raise _unsaid(head)

    def doubt(self, made: Tensors, size: Size) -> str:
        """Why what was made of real images' outputs cannot be what the form says, or ""."""
        del made, size
        return ""

    def decoder(self, head: Head, header: OnnxHeader, entry: Input) -> tasks.Decoder[Any]:
        """What makes results of a plain file's outputs; raises BadInput when they do not fit."""
        size = entry.preprocess.size
        self.check(by_frame(header.outputs, entry.rows), head, size)
        return Translated(self, head, tasks.create(head, self.made(head, size)), size)


class AsTheyAre(Record, Form, frozen=True):
    """The outputs are those of the task, of which nothing else is known: they are decoded, and no bundle is made."""

    def decoder(self, head: Head, header: OnnxHeader, entry: Input) -> tasks.Decoder[Any]:
        """The task itself."""
        return tasks.create(head, by_frame(header.outputs, entry.rows))


def _unsaid(head: Head) -> BadInput:
    return BadInput(f"a network for the task '{head.task}' does not become a bundle: nothing says what its outputs are")


class Translated(Generic[R]):
    """A task's decoding behind a form."""

    def __init__(self, form: Form, head: Head, task: Task[R], size: Size) -> None:
        self.name, self.labels = task.name, task.labels
        self._form, self._head, self._task, self._size = form, head, task, size

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[R]:
        """One result per frame; raises InvalidOutput for NaN, BadInput when the outputs are not as the form says."""
        return self._task.decode(translate(self._form, self._head, outputs, self._size), views)


def translate(form: Form, head: Head, outputs: Tensors, size: Size) -> dict[str, Any]:
    """The task's arrays of a network's outputs; raises InvalidOutput for NaN, BadInput where the form is another."""
    form.check([spec_of(name, each) for name, each in outputs.items()], head, size)
    broken = [name for name, each in outputs.items() if each.dtype.kind == "f" and np.isnan(each).any()]
    if broken:
        raise InvalidOutput(f"output '{broken[0]}' holds NaN; run 'edgecv verify'")
    return form.make(Arrays(), outputs, head, size)


def spec_of(name: str, output: Any) -> TensorSpec:
    """What an array is as an output of a batch."""
    return TensorSpec(name, output.dtype.name, ("N", *output.shape[1:]))


def by_frame(outputs: Sequence[TensorSpec], rows: int) -> tuple[TensorSpec, ...]:
    """Outputs of a graph with a row for each frame; a graph for one frame may leave that axis out."""

    def whole(spec: TensorSpec) -> TensorSpec:
        if rows != 1 or spec.shape == ANY_SHAPE or (len(spec.shape) > 1 and spec.shape[0] in (1, "N", "?")):
            return spec
        return TensorSpec(spec.name, spec.dtype, ("N", *spec.shape))

    return tuple(map(whole, outputs))


def named(outputs: Sequence[TensorSpec], name: str | None, key: str) -> TensorSpec:
    """The output of that name, or the only one; raises BadInput with what there is.

    key: where the description names it, "boxes: output" say.
    """
    listed = ", ".join(f"'{spec.name}' {readable(spec)}" for spec in outputs)
    if name is None:
        if len(outputs) != 1:
            raise BadInput(f"the model has {len(outputs)} outputs: {listed}; say which one: {key}: NAME")
        return outputs[0]
    for spec in outputs:
        if spec.name == name:
            return spec
    near = nearest(name, [spec.name for spec in outputs])
    raise BadInput(f"{key}: the model has no output '{name}'{near}; it has {listed}")
