"""How a layer's output depends on places of its inputs: one class for each way in which layers move places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from edgecv.xray.extent import (
    Extent,
    Places,
    Shape,
    everything,
    gather,
    mixed,
    nothing,
    of_rank,
    recovered,
    squeezed,
    union,
)


class Given(NamedTuple):
    """What is known when a layer moves: extents and shapes of its inputs but constants, and its output's shape."""

    extents: Sequence[Extent]
    shapes: Sequence[Shape]
    output: Shape


class Move:
    """A way in which outputs depend on inputs; by default, place by place with broadcasting."""

    def apply(self, given: Given) -> Extent:
        """Extent of a layer's output."""
        return of_rank(union(given.extents), len(given.output))


@dataclass(frozen=True)
class Slide(Move):
    """Convolution and pooling: windows over some axes, of all channels (axis 1)."""

    axes: Shape
    kernel: Shape
    stride: Shape
    before: Shape
    dilation: Shape

    def apply(self, given: Given) -> Extent:
        extent = mixed(union(given.extents), (1,))
        for axis, kernel, stride, before, dilation in zip(
            self.axes, self.kernel, self.stride, self.before, self.dilation, strict=True
        ):
            starts = np.arange(given.output[axis]) * stride - before
            taps = starts[:, None] + np.arange(kernel) * dilation
            extent = gather(extent, axis, taps, jump=stride)
        return extent


@dataclass(frozen=True)
class SlideBack(Slide):
    """Transposed convolution: output place o sees input place i where o = i s - p + t d for a tap t."""

    def apply(self, given: Given) -> Extent:
        extent = mixed(union(given.extents), (1,))
        for axis, kernel, stride, before, dilation in zip(
            self.axes, self.kernel, self.stride, self.before, self.dilation, strict=True
        ):
            spread = np.arange(given.output[axis])[:, None] + before - np.arange(kernel) * dilation
            extent = gather(extent, axis, spread // stride, jump=1 / stride, seen=spread % stride == 0)
        return extent


@dataclass(frozen=True)
class Cells(Move):
    """Adaptive pooling: place i of m sees floor(i n / m) .. ceil((i + 1) n / m) - 1."""

    axes: Shape

    def apply(self, given: Given) -> Extent:
        extent = union(given.extents)
        for axis in self.axes:
            size, cells = given.shapes[0][axis], given.output[axis]
            if cells == 1:
                extent = mixed(extent, (axis,))
                continue
            starts = [cell * size // cells for cell in range(cells)]
            stops = [-(-(cell + 1) * size // cells) for cell in range(cells)]
            width = max(stop - start for start, stop in zip(starts, stops, strict=True))
            taps = np.array(
                [
                    [min(start + tap, stop - 1) for tap in range(width)]
                    for start, stop in zip(starts, stops, strict=True)
                ]
            )
            extent = gather(extent, axis, taps, jump=size / cells)
        return extent


@dataclass(frozen=True)
class Mix(Move):
    """Every output sees all places along some axes: linear layers, softmax, means; `keep`: the axes remain."""

    axes: Shape
    keep: bool = True

    def apply(self, given: Given) -> Extent:
        extent = union(given.extents)
        rank = extent.low.ndim
        axes = tuple(sorted(axis % rank for axis in self.axes))
        extent = mixed(extent, axes)
        return extent if self.keep else squeezed(extent, axes)


class Multiply(Move):
    """Matrix product (..., i, k) @ (..., k, j): sees row i of the first and column j of the second."""

    def apply(self, given: Given) -> Extent:
        rows, columns = mixed(given.extents[0], (len(given.shapes[0]) - 1,)), given.extents[-1]
        columns = mixed(columns, (len(given.shapes[-1]) - 2,)) if len(given.shapes[-1]) > 1 else columns
        return of_rank(union([rows, columns]), len(given.output))


@dataclass(frozen=True)
class MultiplyConstant(Move):
    """Matrix product with a constant: mixes the axis that is summed over (-1 or -2)."""

    axis: int

    def apply(self, given: Given) -> Extent:
        return of_rank(mixed(given.extents[0], (len(given.shapes[0]) + self.axis,)), len(given.output))


class Attend(Move):
    """Attention over (..., tokens, features): every query sees itself, all keys and all values."""

    def apply(self, given: Given) -> Extent:
        context = [mixed(extent, (len(given.output) - 2,)) for extent in given.extents[1:]]
        return mixed(union([given.extents[0], *context]), (len(given.output) - 1,))


@dataclass(frozen=True)
class Permute(Move):
    """Axes in another order."""

    order: Shape

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        axis = None if extent.axis is None else self.order.index(extent.axis)
        return replace(extent, low=extent.low.transpose(self.order), high=extent.high.transpose(self.order), axis=axis)


class Reshape(Move):
    """The same numbers in another shape."""

    def apply(self, given: Given) -> Extent:
        extent, shape = given.extents[0], given.shapes[0]
        lows, highs, axis = extent.low, extent.high, None
        kept: list[int] = []  # the arrays' shape on the way in, group by group
        made: list[int] = []  # and on the way out
        for inside, outside in _groups(shape, given.output):
            depends = any(lows.shape[each] > 1 for each in inside)
            kept += [shape[each] if depends else 1 for each in inside]
            made += [given.output[each] if depends else 1 for each in outside]
            if extent.axis in inside:
                same = [each for each in outside if given.output[each] == shape[extent.axis]]
                axis = (
                    same[0]
                    if same and math.prod(given.output[each] for each in outside) == given.output[same[0]]
                    else None
                )
        lows = np.broadcast_to(lows, kept).reshape(made)
        highs = np.broadcast_to(highs, kept).reshape(made)
        return recovered(replace(extent, low=lows, high=highs, axis=axis))


@dataclass(frozen=True)
class Pick(Move):
    """Some places of one axis, in order; beyond the borders the plane goes on where the axis runs along the input."""

    axis: int
    places: Shape
    step: int = 1

    def apply(self, given: Given) -> Extent:
        return recovered(gather(given.extents[0], self.axis, np.array(self.places)[:, None], jump=abs(self.step)))


@dataclass(frozen=True)
class Chain(Move):
    """Several picks one after the other, each of another axis."""

    picks: tuple[Pick, ...]

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        for pick in self.picks:
            extent = pick.apply(given._replace(extents=(extent,)))
        return extent


@dataclass(frozen=True)
class Roll(Move):
    """Cyclic shift, read as a shift of the plane: Swin masks what only the wrap-around made neighbours."""

    axes: Shape
    shifts: Shape

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        for axis, wanted in zip(self.axes, self.shifts, strict=True):
            size = given.output[axis]
            shift = (wanted + size // 2) % size - size // 2  # by the shorter way round
            places = np.arange(size) - shift
            if axis != extent.axis:
                places %= size
            extent = gather(extent, axis, places[:, None], jump=1)
        return extent


@dataclass(frozen=True)
class Take(Move):
    """One place of an axis, which goes; None: places that only running tells, so all of them."""

    axis: int
    place: int | None = None

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        if self.place is None:
            return of_rank(mixed(extent, (self.axis,)), len(given.output))
        if extent.low.shape[self.axis] > 1:
            extent = replace(
                extent, low=extent.low.take([self.place], self.axis), high=extent.high.take([self.place], self.axis)
            )
        return squeezed(extent, (self.axis,))


@dataclass(frozen=True)
class Pad(Move):
    """Places before the first of each axis (negative: cut off); after the last, to the output's length."""

    before: Shape

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        for axis, before in enumerate(self.before):
            size = given.shapes[0][axis]
            if (before == 0 and size == given.output[axis]) or (extent.low.shape[axis] == 1 and axis != extent.axis):
                continue
            places = np.arange(given.output[axis])[:, None] - before
            inside = None if axis == extent.axis else (places >= 0) & (places < size)
            extent = gather(extent, axis, places, jump=1, seen=inside)
        return extent


@dataclass(frozen=True)
class Concat(Move):
    """One after the other along an axis; along the channels, a place sees what any of the parts sees."""

    axis: int
    constant: tuple[bool, ...]  # of all parts, whether they depend on nothing
    sizes: Shape  # of all parts along the axis

    def apply(self, given: Given) -> Extent:
        if all(each.low.shape[self.axis] == 1 and each.axis != self.axis for each in given.extents):
            return union(given.extents)
        local = [each for each in given.extents if each.jump > 0] or given.extents
        first = max(local, key=lambda each: (each.axis is not None, each.jump))
        rest, empty = list(given.extents), nothing(first, first.low.ndim)
        parts = [empty if constant else rest.pop(0) for constant in self.constant]
        low, high = self._joined([part.low for part in parts]), self._joined([part.high for part in parts])
        whole = any(each.whole for each in given.extents)
        return recovered(replace(first, low=low, high=high, axis=None, whole=whole))

    def _joined(self, arrays: Sequence[Places]) -> Places:
        """Concatenate after broadcasting: every array to its own length along the axis."""
        rest = [
            1 if axis == self.axis else max(array.shape[axis] for array in arrays) for axis in range(arrays[0].ndim)
        ]
        whole = [
            np.broadcast_to(array, [size if axis == self.axis else length for axis, length in enumerate(rest)])
            for array, size in zip(arrays, self.sizes, strict=True)
        ]
        return np.concatenate(whole, self.axis)


@dataclass(frozen=True)
class Resample(Move):
    """Enlarging or shrinking by interpolation: place o sees the taps around its place in the input.

    taps: 1 nearest, 2 linear, 4 cubic. half_pixel: pixels are areas (o + 1/2) / scale - 1/2, else points;
    corners: the first and last places coincide.
    """

    axes: Shape
    taps: int
    half_pixel: bool = True
    corners: bool = False

    def apply(self, given: Given) -> Extent:
        extent = given.extents[0]
        for axis in self.axes:
            size, wanted = given.shapes[0][axis], given.output[axis]
            if size == wanted:
                continue
            places = np.arange(wanted)
            if self.corners:
                source = places * ((size - 1) / max(1, wanted - 1))
            elif self.half_pixel:
                source = (places + 0.5) * size / wanted - 0.5
            else:
                source = places * size / wanted
            first = np.floor(source + 1e-9).astype(np.int64)
            fraction = source - first
            taps = first[:, None] + np.arange(self.taps) - (self.taps - 1) // 2
            counted = np.ones(taps.shape, bool)
            if self.taps > 1:
                counted[np.abs(fraction) < 1e-6] = np.arange(self.taps) == (self.taps - 1) // 2
            extent = gather(extent, axis, taps, jump=size / wanted, seen=counted)
        return extent


@dataclass(frozen=True)
class Repeat(Move):
    """Each place several times along some axes, and channels mixed: depth to space, pixel shuffle."""

    axes: Shape
    times: int

    def apply(self, given: Given) -> Extent:
        extent = mixed(given.extents[0], (len(given.output) - len(self.axes) - 1,))
        for axis in self.axes:
            extent = gather(extent, axis, np.arange(given.output[axis])[:, None] // self.times, jump=1 / self.times)
        return extent


class Unknown(Move):
    """An operation that is not known: every place may see everything."""

    def apply(self, given: Given) -> Extent:
        return everything(given.extents[0], len(given.output))


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equally many numbers into the smallest runs of axes with equal products."""
    groups = []
    left = right = 0
    while left < len(before) or right < len(after):
        inside, outside = [], []
        ones, others = 1, 1
        while True:
            if ones <= others and left < len(before):
                inside.append(left)
                ones *= before[left]
                left += 1
            elif right < len(after):
                outside.append(right)
                others *= after[right]
                right += 1
            elif left < len(before):
                inside.append(left)
                ones *= before[left]
                left += 1
            if (ones == others and inside and outside) or (left == len(before) and right == len(after)):
                break
        groups.append((inside, outside))
    return groups
