"""The few operations on tensors that forms are written in: with numpy here, as nodes of a graph in `edgecv_export`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import InvalidOutput

T = TypeVar("T")
Constant = NDArray[np.float32]


class Ways(Protocol[T]):
    """Operations on tensors whose first axis is the batch, which is never named: shapes are those behind it."""

    def shape(self, x: T) -> tuple[int, ...]: ...

    def dtype(self, x: T) -> str: ...

    def cast(self, x: T, dtype: str) -> T: ...

    def classes(self, x: T, strange: int) -> T:
        """Class positions as uint8; -1, which says that none counts, is 255.

        What lies outside 0..255 raises InvalidOutput, or is `strange` in a graph, which cannot raise.
        """
        ...

    def reshape(self, x: T, shape: tuple[int, ...]) -> T: ...

    def transpose(self, x: T, axes: tuple[int, ...]) -> T:
        """Order the axes anew; 0 is the batch, which stays where it is."""
        ...

    def columns(self, x: T, first: int, last: int) -> T:
        """Part of the last axis."""
        ...

    def join(self, parts: Sequence[T], axis: int) -> T: ...

    def add(self, x: T, y: T | Constant) -> T: ...

    def subtract(self, x: T | Constant, y: T) -> T: ...

    def multiply(self, x: T, y: T | Constant) -> T: ...

    def exp(self, x: T) -> T: ...

    def sigmoid(self, x: T) -> T: ...

    def softmax(self, x: T) -> T:
        """Over the last axis."""
        ...

    def equal(self, x: T, y: Constant) -> T:
        """1 where x, rounded, is y, else 0, float32."""
        ...

    def above(self, x: T, limit: T | Constant) -> T:
        """1 where x is larger, else 0, float32."""
        ...

    def refused(self, x: T, where: T, told: str) -> T:
        """`x`, where `where` is 0 everywhere; else InvalidOutput, or NaN in a graph, which cannot raise."""
        ...

    def argmax(self, x: T, axis: int) -> T: ...

    def enlarge(self, x: T, size: tuple[int, int], mode: str) -> T:
        """The last two axes to that size, "linear" between the pixels' centres, or "nearest"."""
        ...


Array = NDArray[Any]


class Arrays:
    """The operations with numpy."""

    def shape(self, x: Array) -> tuple[int, ...]:
        return x.shape[1:]

    def dtype(self, x: Array) -> str:
        return x.dtype.name

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype, copy=False)

    def classes(self, x: Array, strange: int) -> Array:
        del strange
        if x.size and not (x.min() >= -1 and x.max() <= 255):
            found = x.min() if x.min() < -1 else x.max()
            raise InvalidOutput(f"a class map holds {found:g}: classes lie in 0..255, -1 says that none counts")
        if x.dtype.kind == "f":  # what becomes of one below 0 depends on the processor
            x = x.astype(np.int32)
        return x.astype(np.uint8, copy=False)

    def reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(len(x), *shape)

    def transpose(self, x: Array, axes: tuple[int, ...]) -> Array:
        return x.transpose(axes)

    def columns(self, x: Array, first: int, last: int) -> Array:
        return x[..., first:last]

    def join(self, parts: Sequence[Array], axis: int) -> Array:
        return np.concatenate(parts, axis)

    def add(self, x: Array, y: Array) -> Array:
        return np.asarray(x + y)

    def subtract(self, x: Array, y: Array) -> Array:
        return np.asarray(x - y)

    def multiply(self, x: Array, y: Array) -> Array:
        return np.asarray(x * y)

    def exp(self, x: Array) -> Array:
        return np.asarray(np.exp(x))

    def sigmoid(self, x: Array) -> Array:
        from edgecv_runtime.tasks.scores import sigmoid

        return sigmoid(x)

    def softmax(self, x: Array) -> Array:
        from edgecv_runtime.tasks.scores import softmax

        return softmax(x)

    def equal(self, x: Array, y: Constant) -> Array:
        found: Constant = np.equal(np.rint(x), y).astype(np.float32)
        return found

    def above(self, x: Array, limit: Array) -> Array:
        found: Constant = np.greater(x, limit).astype(np.float32)
        return found

    def refused(self, x: Array, where: Array, told: str) -> Array:
        if where.any():
            raise InvalidOutput(told)
        return x

    def argmax(self, x: Array, axis: int) -> Array:
        return np.asarray(x.argmax(axis))

    def enlarge(self, x: Array, size: tuple[int, int], mode: str) -> Array:
        rows, columns = (_between(have, wanted, mode) for have, wanted in zip(x.shape[-2:], size, strict=True))
        return np.asarray(rows @ x @ columns.T, x.dtype)


def _between(have: int, wanted: int, mode: str) -> NDArray[np.float32]:
    """Of each of `wanted` pixels along a side the weights of `have` others, those of centres: (wanted, have)."""
    places = (np.arange(wanted) + 0.5) * have / wanted - 0.5
    if mode == "nearest":
        return np.asarray(np.eye(have)[np.floor(places + 0.5).astype(int).clip(0, have - 1)], np.float32)
    places = places.clip(0, have - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(have))), np.float32)
