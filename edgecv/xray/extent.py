"""Which pixels of the input each place of a tensor sees, axis by axis, and how that combines.

Beyond the borders the plane goes on, as in the literature: a place in the padding has the field that it would have in
a larger picture, so that extents are those of an interior place and may be larger than the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.float64]
Shape = tuple[int, ...]


_EXACT = 1e-6  # of a pixel


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

    def fits(self, shape: Shape) -> bool:
        """Whether a tensor of this shape can have it: every axis as long as the tensor's, or 1."""
        axes = zip(self.low.shape, self.high.shape, shape, strict=False)
        return self.low.ndim == len(shape) and all({low, high} <= {1, size} for low, high, size in axes)

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


def nothing(like: Extent, rank: int) -> Extent:
    """No place sees anything: the extent of what does not depend on the input."""
    empty = np.full((1,) * rank, np.inf)
    return Extent(empty, -empty, like.length, 0.0)


def union(extents: Sequence[Extent]) -> Extent:
    """What places see that depend on the same place of several tensors.

    A global operand (a gate that was pooled over the whole picture, say) makes the union `whole`; its size is that of
    the others, because that is what the windows see.
    """
    rank = max(extent.low.ndim for extent in extents)
    extents = [of_rank(extent, rank) for extent in extents]
    local = [extent for extent in extents if extent.jump > 0] or extents
    first = max(local, key=lambda extent: (extent.axis is not None, extent.jump))
    low, high = local[0].low, local[0].high
    for extent in local[1:]:
        low, high = np.minimum(low, extent.low), np.maximum(high, extent.high)
    return replace(first, low=low, high=high, whole=any(extent.whole for extent in extents))


def of_rank(extent: Extent, rank: int) -> Extent:
    """The same with axes of length 1 before the first, as broadcasting aligns them, or with the first ones mixed."""
    more = rank - extent.low.ndim
    if more < 0:
        return squeezed(mixed(extent, tuple(range(-more))), tuple(range(-more)))
    if more == 0:
        return extent
    shape = (1,) * more + extent.low.shape
    axis = None if extent.axis is None else extent.axis + more
    return replace(extent, low=extent.low.reshape(shape), high=extent.high.reshape(shape), axis=axis)


def mixed(extent: Extent, axes: Shape) -> Extent:
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


def squeezed(extent: Extent, axes: Shape) -> Extent:
    """Without some axes, each of them 1 long."""
    axis = extent.axis
    if axis is not None:
        axis = None if axis in axes else axis - sum(each < axis for each in axes)
    return replace(extent, low=extent.low.squeeze(axes), high=extent.high.squeeze(axes), axis=axis)


def gather(
    extent: Extent, axis: int, taps: NDArray[np.int64], jump: float, seen: NDArray[np.bool_] | None = None
) -> Extent:
    """Each output place along an axis sees several input places: taps (outputs, taps) of their indices.

    seen: which of them count. jump: what one step costs now, in steps of before.
    """
    regular = axis == extent.axis
    if not regular and extent.low.shape[axis] == 1 and (seen is None or bool(seen.any(1).all())):
        return extent
    count = extent.low.shape[axis]
    beyond = regular and (taps.min() < 0 or taps.max() >= count)
    period = (_period(extent, axis) or count) if beyond else 1
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


def _period(extent: Extent, axis: int) -> int | None:
    """Smallest P, of at most half the places, for which P places further always see P jumps further."""
    count = extent.low.shape[axis]
    lines = [np.moveaxis(array, axis, 0).reshape(count, -1) for array in (extent.low, extent.high)]
    steps = np.arange(1, count // 2 + 1)
    likely = [steps[np.abs(line[steps, 0] - line[0, 0] - steps * extent.jump) < _EXACT] for line in lines]
    for step in np.intersect1d(*likely):
        if all((np.abs(line[step:] - line[:-step] - step * extent.jump) < _EXACT).all() for line in lines):
            return int(step)
    return None


def recovered(extent: Extent) -> Extent:
    """After windows of a picture were put back in their places: axes on which nothing depends are 1 long again, and
    the axis that runs along the input is found again.
    """
    for axis, size in enumerate(extent.low.shape):
        first = extent.low.take([0], axis), extent.high.take([0], axis)
        if size > 1 and axis != extent.axis and (extent.low == first[0]).all() and (extent.high == first[1]).all():
            extent = replace(extent, low=first[0], high=first[1])
    varying = [axis for axis, size in enumerate(extent.low.shape) if size > 1]
    if extent.axis is not None or extent.jump == 0 or len(varying) != 1 or not np.isfinite(extent.low).all():
        return extent
    return replace(extent, axis=varying[0] if _period(extent, varying[0]) else None)
