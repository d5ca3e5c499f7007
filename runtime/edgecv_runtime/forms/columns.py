"""Columns of numbers in outputs: (N, boxes, columns), (N, columns, boxes) or (N, columns, H, W), of one or joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecv_runtime.errors import BadInput
from edgecv_runtime.forms.base import named
from edgecv_runtime.forms.single import Layout
from edgecv_runtime.forms.ways import T, Ways
from edgecv_runtime.inputs import readable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE


def _names(output: str | tuple[str, ...] | None) -> tuple[str | None, ...]:
    return output if isinstance(output, tuple) else (output,)


def chosen(outputs: Sequence[TensorSpec], output: str | tuple[str, ...] | None, key: str) -> list[TensorSpec]:
    """The outputs that are named, or the only one; raises BadInput."""
    return [named(outputs, name, f"{key}: output") for name in _names(output)]


def width_of(spec: TensorSpec, layout: Layout, key: str, flat: bool = False) -> int | str:
    """How many columns an output has; flat: whether it may have no axis of them. Raises BadInput for other ranks."""
    if spec.shape == ANY_SHAPE:
        return "?"
    if not spec.dtype.startswith(("float", "int")):
        raise BadInput(f"{key}: output '{spec.name}' is {readable(spec)}: no numbers that can be {key}")
    rank = len(spec.shape)
    if rank == 2 and flat:
        return 1
    if rank not in (3, 4):
        missing = "; a graph whose number of boxes differs from frame to frame has no such axes: export it without "
        missing += "its suppression, or with a fixed number of boxes" if rank < 3 else ""
        raise BadInput(
            f"{key}: output '{spec.name}' is {readable(spec)}: (N, boxes, columns), (N, columns, boxes) or (N, "
            f"columns, H, W) are wanted{missing if rank < 3 else ''}"
        )
    return spec.shape[1 if layout == "channels first" else -1]


def count_of(specs: Sequence[TensorSpec], layout: Layout) -> int | str:
    """How many boxes outputs hold in all."""
    total = 0
    for spec in specs:
        flat = len(spec.shape) == 2  # a number a box, without an axis of columns
        sizes = spec.shape[1:] if flat else spec.shape[2:] if layout == "channels first" else spec.shape[1:-1]
        if spec.shape == ANY_SHAPE or not all(isinstance(size, int) for size in sizes):
            return "?"
        total += int(np.prod([int(size) for size in sizes]))
    return total


def swapped(spec: TensorSpec, layout: Layout, wanted: int) -> str:
    """A hint where the other axis is as long as the columns should be."""
    other: Layout = "channels last" if layout == "channels first" else "channels first"
    return f"; did you mean layout: {other}?" if width_of(spec, other, "", flat=True) == wanted else ""


def rows_of(ways: Ways[T], given: Mapping[str, T], output: str | tuple[str, ...] | None, layout: Layout) -> T:
    """Outputs as float32 (N, boxes, columns), joined box after box."""
    parts: list[T] = []
    for name in _names(output):
        x = given[next(iter(given)) if name is None else name]
        if ways.dtype(x) != "float32":
            x = ways.cast(x, "float32")
        shape = ways.shape(x)
        if len(shape) == 1:
            x = ways.reshape(x, (*shape, 1))
        elif len(shape) == 3:
            sides = shape[1:] if layout == "channels first" else shape[:2]
            cells = sides[0] * sides[1]
            x = ways.reshape(x, (shape[0], cells) if layout == "channels first" else (cells, shape[2]))
        if layout == "channels first" and len(shape) > 1:
            x = ways.transpose(x, (0, 2, 1))
        parts.append(x)
    return parts[0] if len(parts) == 1 else ways.join(parts, 1)
