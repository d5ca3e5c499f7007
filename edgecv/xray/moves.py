"""Which places of the input a layer's output depends on: one class for each way in which a layer moves places.

An `Extent` says it for one axis of the network's input; a move makes the extent of a layer's output from those of its
inputs. Beyond the borders the plane goes on, as in the literature: a place in the padding has the field that it would
have in a larger picture, so that the extents are those of an interior place and may be larger than the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Extent:
    """First and last pixel of one input axis that each place of a tensor sees.

    low, high: as many axes as the tensor, 1 long where the extent does not depend on the place; inf and -inf where a
    place sees nothing. length: of the input's axis. jump: pixels between neighbours; 0 where no axis is left.
    axis: the tensor's axis that still runs along the input's; None when it is mixed or folded into others.
    whole: some path leads from every pixel to every place.
    """

    low: Places
    high: Places
    length: int
    jump: float = 1.0
    axis: int | None = None
    whole: bool = False

    @property
    def size(self) -> float:
        """Pixels that a place sees: the largest over the places."""
        return float(max(0.0, (self.high - self.low).max() + 1))

    @property
    def centre(self) -> float:
        """Middle of the first place's extent, in pixels; of the first that sees anything."""
        first = int(np.isfinite(self.low).argmax())
        return float((self.low.flat[first] + self.high.flat[first]) / 2)


def of_input(shape: Shape, axis: int) -> Extent:
    """The extent of the input itself: each pixel sees itself."""
    pixels = np.arange(shape[axis], dtype=np.float64).reshape([-1 if each == axis else 1 for each in range(len(shape))])
    return Extent(pixels, pixels, shape[axis], 1.0, axis)


def everything(extent: Extent, rank: int) -> Extent:
    """Every place sees the whole input."""
    ones = (1,) * rank
    return Extent(np.zeros(ones), np.full(ones, extent.length - 1.0), extent.length, 0.0, None, True)


def union(extents: Sequence[Extent]) -> Extent:
    """What places see that depend on the same place of several tensors.

    A global operand (a gate that was pooled over the whole picture, say) makes the union `whole`; its size is that of
    the others, because that is what the windows see.
    """
    rank = max(extent.low.ndim for extent in extents)
    extents = [_of_rank(extent, rank) for extent in extents]
    local = [extent for extent in extents if extent.jump > 0] or extents
    first = max(local, key=lambda extent: (extent.axis is not None, extent.jump))
    low, high = local[0].low, local[0].high
    for extent in local[1:]:
        low, high = np.minimum(low, extent.low), np.maximum(high, extent.high)
    return replace(first, low=low, high=high, whole=any(extent.whole for extent in extents))


class Move:
    """A way in which outputs depend on inputs; by default, place by place with broadcasting."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        """Extent of a layer's output. extents, shapes: of the inputs that depend on the network's input."""
        del shapes
        return _of_rank(union(extents), len(output))


@dataclass(frozen=True)
class Slide(Move):
    """Convolution and pooling: windows over some axes, of all channels (axis 1)."""

    axes: Shape
    kernel: Shape
    stride: Shape
    before: Shape
    dilation: Shape

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = _mixed(union(extents), (1,))
        for axis, kernel, stride, before, dilation in zip(
            self.axes, self.kernel, self.stride, self.before, self.dilation, strict=True
        ):
            starts = np.arange(output[axis]) * stride - before
            taps = starts[:, None] + np.arange(kernel) * dilation
            extent = _gather(extent, axis, taps, jump=stride)
        return extent


@dataclass(frozen=True)
class SlideBack(Slide):
    """Transposed convolution: output place o sees input place i where o = i s - p + t d for a tap t."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = _mixed(union(extents), (1,))
        for axis, kernel, stride, before, dilation in zip(
            self.axes, self.kernel, self.stride, self.before, self.dilation, strict=True
        ):
            spread = np.arange(output[axis])[:, None] + before - np.arange(kernel) * dilation
            extent = _gather(extent, axis, spread // stride, jump=1 / stride, seen=spread % stride == 0)
        return extent


@dataclass(frozen=True)
class Cells(Move):
    """Adaptive pooling: place i of m sees floor(i n / m) .. ceil((i + 1) n / m) - 1."""

    axes: Shape

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = union(extents)
        for axis in self.axes:
            size, cells = shapes[0][axis], output[axis]
            if cells == 1:
                extent = _mixed(extent, (axis,))
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
            extent = _gather(extent, axis, taps, jump=size / cells)
        return extent


@dataclass(frozen=True)
class Mix(Move):
    """Every output sees all places along some axes: linear layers, softmax, means; `keep`: the axes remain."""

    axes: Shape
    keep: bool = True

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = union(extents)
        rank = extent.low.ndim
        axes = tuple(sorted(axis % rank for axis in self.axes))
        extent = _mixed(extent, axes)
        return extent if self.keep else _squeezed(extent, axes)


class Multiply(Move):
    """Matrix product (..., i, k) @ (..., k, j): sees row i of the first and column j of the second."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        rows, columns = _mixed(extents[0], (len(shapes[0]) - 1,)), extents[-1]
        columns = _mixed(columns, (len(shapes[-1]) - 2,)) if len(shapes[-1]) > 1 else columns
        return _of_rank(union([rows, columns]), len(output))


@dataclass(frozen=True)
class MultiplyConstant(Move):
    """Matrix product with a constant: mixes the axis that is summed over (-1 or -2)."""

    axis: int

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        return _of_rank(_mixed(extents[0], (len(shapes[0]) + self.axis,)), len(output))


class Attend(Move):
    """Attention over (..., tokens, features): every query sees itself, all keys and all values."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        seen = [_mixed(extent, (len(output) - 2,)) for extent in extents[1:]]
        return _mixed(union([extents[0], *seen]), (len(output) - 1,))


@dataclass(frozen=True)
class Permute(Move):
    """Axes in another order."""

    order: Shape

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        axis = None if extent.axis is None else self.order.index(extent.axis)
        return replace(extent, low=extent.low.transpose(self.order), high=extent.high.transpose(self.order), axis=axis)


class Reshape(Move):
    """The same numbers in another shape."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent, shape = extents[0], shapes[0]
        lows, highs, axis = extent.low, extent.high, None
        kept: list[int] = []  # the arrays' shape on the way in, group by group
        given: list[int] = []  # and on the way out
        for inside, outside in _groups(shape, output):
            depends = any(lows.shape[each] > 1 for each in inside)
            kept += [shape[each] if depends else 1 for each in inside]
            given += [output[each] if depends else 1 for each in outside]
            if extent.axis in inside:
                same = [each for each in outside if output[each] == shape[extent.axis]]
                axis = same[0] if same and math.prod(output[each] for each in outside) == output[same[0]] else None
        lows = np.broadcast_to(lows, kept).reshape(given)
        highs = np.broadcast_to(highs, kept).reshape(given)
        return _recovered(replace(extent, low=lows, high=highs, axis=axis))


@dataclass(frozen=True)
class Pick(Move):
    """Some places of one axis, in order; beyond the borders the plane goes on where the axis runs along the input."""

    axis: int
    places: Shape
    step: int = 1

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        return _gather(extents[0], self.axis, np.array(self.places)[:, None], jump=abs(self.step))


@dataclass(frozen=True)
class Chain(Move):
    """Several picks one after the other, each of another axis."""

    picks: tuple[Pick, ...]

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        for pick in self.picks:
            extent = pick.apply([extent], shapes, output)
        return extent


@dataclass(frozen=True)
class Roll(Move):
    """Cyclic shift, read as a shift of the plane: Swin masks what only the wrap-around made neighbours."""

    axes: Shape
    shifts: Shape

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        for axis, shift in zip(self.axes, self.shifts, strict=True):
            places = np.arange(output[axis]) - shift
            if axis != extent.axis:
                places %= output[axis]
            extent = _gather(extent, axis, places[:, None], jump=1)
        return extent


@dataclass(frozen=True)
class Take(Move):
    """One place of an axis, which goes; None: places that only running tells, so all of them."""

    axis: int
    place: int | None = None

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        if self.place is None:
            return _of_rank(_mixed(extent, (self.axis,)), len(output))
        if extent.low.shape[self.axis] > 1:
            extent = replace(
                extent, low=extent.low.take([self.place], self.axis), high=extent.high.take([self.place], self.axis)
            )
        return _squeezed(extent, (self.axis,))


@dataclass(frozen=True)
class Pad(Move):
    """Places before the first of each axis (negative: cut off); after the last, to the output's length."""

    before: Shape

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        for axis, before in enumerate(self.before):
            size = shapes[0][axis]
            if before == 0 and size == output[axis]:
                continue
            places = np.arange(output[axis])[:, None] - before
            inside = None if axis == extent.axis else (places >= 0) & (places < size)
            extent = _gather(extent, axis, places, jump=1, seen=inside)
        return extent


@dataclass(frozen=True)
class Concat(Move):
    """One after the other along an axis; along the channels, a place sees what any of the parts sees."""

    axis: int
    constant: tuple[bool, ...]  # of all parts, whether they depend on nothing
    sizes: Shape  # of all parts along the axis

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        joined = union(extents)
        if joined.low.shape[self.axis] == 1 and joined.axis != self.axis:
            return joined
        parts, rest = [], list(extents)
        for constant, size in zip(self.constant, self.sizes, strict=True):
            nothing = replace(
                extents[0], low=np.full_like(extents[0].low, np.inf), high=np.full_like(extents[0].low, -np.inf)
            )
            parts.append((nothing if constant else rest.pop(0), size))
        return _recovered(
            replace(
                joined,
                low=self._joined([p.low for p, _ in parts]),
                high=self._joined([p.high for p, _ in parts]),
                axis=None,
            )
        )

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

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = extents[0]
        for axis in self.axes:
            size, wanted = shapes[0][axis], output[axis]
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
            seen = np.ones(taps.shape, bool)
            if self.taps > 1:
                seen[np.abs(fraction) < 1e-6] = np.arange(self.taps) == (self.taps - 1) // 2
            extent = _gather(extent, axis, taps, jump=size / wanted, seen=seen)
        return extent


@dataclass(frozen=True)
class Repeat(Move):
    """Each place several times along some axes, and channels mixed: depth to space, pixel shuffle."""

    axes: Shape
    times: int

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        extent = _mixed(extents[0], (len(output) - len(self.axes) - 1,))
        for axis in self.axes:
            extent = _gather(extent, axis, np.arange(output[axis])[:, None] // self.times, jump=1 / self.times)
        return extent


class Unknown(Move):
    """An operation that is not known: every place may see everything."""

    def apply(self, extents: Sequence[Extent], shapes: Sequence[Shape], output: Shape) -> Extent:
        return everything(extents[0], len(output))


def _of_rank(extent: Extent, rank: int) -> Extent:
    """The same with axes of length 1 before the first, as broadcasting aligns them, or without them."""
    more = rank - extent.low.ndim
    if more < 0:
        return _squeezed(extent, tuple(range(-more)))
    if more == 0:
        return extent
    shape = (1,) * more + extent.low.shape
    axis = None if extent.axis is None else extent.axis + more
    return replace(extent, low=extent.low.reshape(shape), high=extent.high.reshape(shape), axis=axis)


def _mixed(extent: Extent, axes: Shape) -> Extent:
    """All places along some axes become one; where that was the input's last axis, the extent is the whole input."""
    touched = extent.axis in axes or any(extent.low.shape[axis] > 1 for axis in axes)
    if not touched:
        return extent
    low, high = extent.low.min(axes, keepdims=True), extent.high.max(axes, keepdims=True)
    if low.max() <= 0 and high.min() >= extent.length - 1:
        return everything(extent, low.ndim)
    if low.size == 1:
        return replace(extent, low=low, high=high, jump=0.0, axis=None)
    return replace(extent, low=low, high=high, axis=None if extent.axis in axes else extent.axis)


def _squeezed(extent: Extent, axes: Shape) -> Extent:
    """Without some axes, each of them 1 long."""
    axis = extent.axis
    if axis is not None:
        axis = None if axis in axes else axis - sum(each < axis for each in axes)
    return replace(extent, low=extent.low.squeeze(axes), high=extent.high.squeeze(axes), axis=axis)


def _gather(
    extent: Extent, axis: int, taps: NDArray[np.int64], jump: float, seen: NDArray[np.bool_] | None = None
) -> Extent:
    """Each output place along an axis sees several input places: taps (outputs, taps) of their indices.

    seen: which of them count. jump: what one step costs now, in steps of before.
    """
    regular = axis == extent.axis
    if not regular and extent.low.shape[axis] == 1 and (seen is None or bool(seen.any(1).all())):
        return extent
    period = _period(extent, axis) if regular else 1
    arrays = []
    for array, reduce, nothing in ((extent.low, np.min, np.inf), (extent.high, np.max, -np.inf)):
        found = _at(array, axis, taps, period, extent.jump if regular else 0.0)
        if seen is not None:
            mask = seen.reshape(seen.shape + (1,) * (array.ndim - axis - 1))
            found = np.where(mask, found, nothing)
        arrays.append(reduce(found, axis=axis + 1))
    low, high = arrays
    return replace(extent, low=low, high=high, jump=extent.jump * jump if regular else extent.jump)


def _at(array: Places, axis: int, taps: NDArray[np.int64], period: int, jump: float) -> Places:
    """Values at indices along an axis -> one axis more; beyond the ends, the pattern of one period goes on."""
    count = array.shape[axis]
    inside = np.clip(taps, 0, count - 1)
    beyond = (taps < 0) | (taps >= count)
    if jump:
        first = np.where(taps < 0, 0, count - period)
        inside = np.where(beyond, first + (taps - first) % period, taps)
    moved = (taps - inside) * jump
    return array.take(inside, axis) + moved.reshape(moved.shape + (1,) * (array.ndim - axis - 1))


def _period(extent: Extent, axis: int) -> int:
    """Smallest P for which P places further always see P jumps further; all places when there is none."""
    periods = _periods(extent, axis)
    return periods[0] if periods else extent.low.shape[axis]


def _periods(extent: Extent, axis: int) -> list[int]:
    """Periods of at most half the places."""
    count = extent.low.shape[axis]
    lines = [np.moveaxis(array, axis, 0).reshape(count, -1) for array in (extent.low, extent.high)]
    steps = np.arange(1, count // 2 + 1)
    likely = [steps[np.isclose(line[steps, 0] - line[0, 0], steps * extent.jump)] for line in lines]
    return [
        int(step)
        for step in np.intersect1d(*likely)
        if all(np.allclose(line[step:], line[:-step] + step * extent.jump) for line in lines)
    ]


def _recovered(extent: Extent) -> Extent:
    """Find the axis that runs along the input again, after windows of a picture were put back in their places."""
    if extent.axis is not None or extent.jump == 0:
        return extent
    varying = [axis for axis, size in enumerate(extent.low.shape) if size > 1]
    if len(varying) != 1 or not np.isfinite(extent.low).all():
        return extent
    return replace(extent, axis=varying[0] if _periods(extent, varying[0]) else None)


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
