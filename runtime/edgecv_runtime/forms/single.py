"""Forms of networks whose one output matters: classes of a frame, and classes of its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgecv_runtime import tasks
from edgecv_runtime.errors import BadInput
from edgecv_runtime.forms.base import Form, Size, named
from edgecv_runtime.forms.ways import T, Ways
from edgecv_runtime.head import LOGITS, MASK, ClassificationHead, Head, SegmentationHead
from edgecv_runtime.inputs import Input, one_output, readable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE, OnnxHeader
from edgecv_runtime.records import Record
from edgecv_runtime.tasks.classification import Classification, ClassificationTask

Layout = Literal["channels first", "channels last"]


class Classified(Record, Form, frozen=True):
    """A row of classes for each frame, (N, classes), with axes of length 1 behind or between them, too.

    output: its name, needed where there are others.
    """

    output: str | None = None

    def made(self, head: Head, size: Size) -> tuple[TensorSpec, ...]:
        """The one output of a classifier, (N, classes)."""
        del head, size
        return (TensorSpec(LOGITS, "float32", ("N", "C")),)

    def check(self, outputs: Sequence[TensorSpec], head: Head, size: Size) -> None:
        """Raise BadInput where the output is no row of classes, or there is none of that name."""
        del size
        ClassificationTask(_classifier(head), (self._one(outputs, "the model"),))

    def make(self, ways: Ways[T], given: Mapping[str, T], head: Head, size: Size) -> dict[str, T]:
        """It as float32 (N, classes)."""
        del head, size
        x = given[self.output or next(iter(given))]
        shape = ways.shape(x)
        if len(shape) != 1:
            x = ways.reshape(x, (math.prod(shape),))
        return {LOGITS: ways.cast(x, "float32") if ways.dtype(x) != "float32" else x}

    def decoder(self, head: Head, header: OnnxHeader, entry: Input) -> tasks.Decoder[Classification]:
        """The task itself, which is told what the graph ends in."""
        return self.settling(_classifier(head), header, entry.rows)

    def settling(self, head: ClassificationHead, header: OnnxHeader, rows: int = 0) -> ClassificationTask:
        """The task for the graph's own output, which finds out what that means where the head does not say it."""
        output = self._one(header.outputs, "the model")
        return ClassificationTask(head, (output,), ending=header.endings[output.name], rows=rows)

    def _one(self, outputs: Sequence[TensorSpec], where: str) -> TensorSpec:
        chosen = tuple(outputs) if self.output is None else (named(outputs, self.output, "output"),)
        return one_output(chosen, where)


class ClassMap(Record, Form, frozen=True):
    """A class for each pixel: a map of integers (N, H, W), or floats for each class, (N, classes, H, W).

    output: its name, needed where there are others. layout: where the classes stand. enlarge: whether it is smaller
    than the input, and to be made as large. of: what floats of one class and its opposite are.
    """

    output: str | None = None
    layout: Layout = "channels first"
    enlarge: bool = False
    of: Literal["logits", "probabilities"] | None = None

    def made(self, head: Head, size: Size) -> tuple[TensorSpec, ...]:
        """A class map as large as the input."""
        del head
        return (TensorSpec(MASK, "uint8", ("N", *size)),)

    def check(self, outputs: Sequence[TensorSpec], head: Head, size: Size) -> None:
        """Raise BadInput where the output is neither a class map nor floats for each label."""
        spec = named(outputs, self.output, "output")
        if spec.shape == ANY_SHAPE:
            return
        shape = spec.shape[1:]
        whole = spec.dtype.startswith(("int", "uint"))
        if not whole and not spec.dtype.startswith("float"):
            raise BadInput(f"output '{spec.name}' is {readable(spec)}: classes are integers or floats")
        if len(shape) != 3 and not (whole and len(shape) == 2):
            raise BadInput(
                f"output '{spec.name}' is {readable(spec)}: a class map (N, H, W) of integers, or floats (N, classes, "
                "H, W) are wanted"
            )
        classes = 1 if len(shape) == 2 else shape[0 if self.layout == "channels first" else 2]
        self._check_classes(classes, whole, len(head.labels), spec)
        have = shape if len(shape) == 2 else shape[1:] if self.layout == "channels first" else shape[:2]
        if not self.enlarge and any(isinstance(a, int) and a != b for a, b in zip(have, size, strict=True)):
            raise BadInput(
                f"output '{spec.name}' is {readable(spec)} for an input of {size[0]}x{size[1]}: say enlarge: true to "
                "make it as large, or enlarge it in the graph"
            )

    def make(self, ways: Ways[T], given: Mapping[str, T], head: Head, size: Size) -> dict[str, T]:
        """The class of each pixel, uint8 (N, H, W)."""
        x = given[self.output or next(iter(given))]
        floats = ways.dtype(x).startswith("float")
        strange = 0 if floats else _no_class(head, ways.dtype(x))
        shape = ways.shape(x)
        if len(shape) == 2:
            x = ways.reshape(x, (1, *shape))
        elif self.layout == "channels last":
            x = ways.transpose(x, (0, 3, 1, 2))
        if self.enlarge and ways.shape(x)[1:] != size:
            x = ways.enlarge(ways.cast(x, "float32"), size, "linear" if floats else "nearest")
        one = ways.shape(x)[0] == 1
        if floats and one:
            x = ways.above(x, np.array(0.5 if self.of == "probabilities" else 0, ways.dtype(x)))
        elif floats:
            x = ways.argmax(x, 1)
        x = ways.reshape(x, size)
        return {MASK: ways.cast(x, "uint8") if floats else ways.classes(x, strange)}

    def _check_classes(self, classes: int | str, whole: bool, labels: int, spec: TensorSpec) -> None:
        if not isinstance(classes, int):
            return
        other = {"channels first": "channels last", "channels last": "channels first"}[self.layout]
        swapped = spec.shape[3 if self.layout == "channels first" else 1] if len(spec.shape) == 4 else 0
        if whole and classes != 1:
            raise BadInput(f"output '{spec.name}' is {readable(spec)}: a class map has one integer a pixel")
        if whole or classes == labels:
            return
        if (classes, labels) != (1, 2):
            hint = f"; did you mean layout: {other}?" if swapped == labels else ""
            raise BadInput(
                f"output '{spec.name}' is {readable(spec)}: {classes} classes, but there are {labels} labels{hint}"
            )
        if self.of is None:
            raise BadInput(
                f"output '{spec.name}' is one class and its opposite: say what it is, of: logits, or of: probabilities"
            )


def _no_class(head: Head, dtype: str) -> int:
    """A byte that the task refuses, for classes that no byte holds; raises BadInput where every byte is taken."""
    assert isinstance(head, SegmentationHead)
    free = [each for each in range(255, len(head.labels) - 1, -1) if each != head.ignore]
    if not free and dtype != "uint8":
        raise BadInput(
            f"a class map of {dtype} and 255 labels leave no byte for a class that there is no label of: export the "
            "map as uint8, or name at most 254 labels"
        )
    return free[0] if free else 0


def _classifier(head: Head) -> ClassificationHead:
    assert isinstance(head, ClassificationHead)
    return head
