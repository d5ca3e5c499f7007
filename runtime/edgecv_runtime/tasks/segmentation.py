"""Segmentation: one class a pixel, as a mask in the frame's own geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, InvalidOutput, ShapeError
from edgecv_runtime.geometry import View
from edgecv_runtime.head import SegmentationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record
from edgecv_runtime.tasks.base import squares
from edgecv_runtime.tasks.confusion import Confusion
from edgecv_runtime.tasks.drawing import printable
from edgecv_runtime.tasks.reading import Given, Reading
from edgecv_runtime.tasks.scores import softmax

Mask = NDArray[np.uint8]
# Of one frame, class by class: pixels that are of it in both masks, in the result's, in the truth.
Tally = NDArray[np.int64]

_STRENGTH = 0.55  # of the colour that is laid over a frame
_LEGEND = 6  # classes that the legend names
_COUNTED = 1 << 24  # pixels that OpenCV's histogram in float32 counts exactly
_LISTED = 3  # classes that a line names


class Segmentation(Record, frozen=True):
    """The result for one frame: `mask` (H, W) uint8 holds each pixel's class position, `labels` name them.

    ignore: stands where the network did not look (a crop's edge) and, in a truth, where nobody knows. background: the
    position of the class that is not drawn, if there is one.
    """

    mask: Mask
    labels: tuple[str, ...]
    ignore: int = 255
    background: int | None = None

    @property
    def pixels(self) -> NDArray[np.int64]:
        """How many pixels each class has -> (C,)."""
        return _histogram(self.mask)[: len(self.labels)]

    @property
    def shares(self) -> dict[str, float]:
        """The classes that occur with their share of the pixels that were seen, 0..1, the largest first."""
        counts = self.pixels
        total = max(1, int(counts.sum()))
        return {self.labels[index]: count / total for index, count in self._found(counts)}

    @staticmethod
    def _found(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
        """The positions of the classes that occur and their pixels, the largest first."""
        return [(int(index), int(counts[index])) for index in np.argsort(-counts, kind="stable") if counts[index]]

    def __str__(self) -> str:
        shares = self.shares
        if not shares:
            return "nothing"
        told = [f"{label} {share:.0%}" for label, share in list(shares.items())[:_LISTED]]
        rest = len(shares) - _LISTED
        return ", ".join(told) + (f" and {rest} more" if rest > 0 else "")

    def as_dict(self) -> dict[str, Any]:
        """Size of the mask and, of each class that occurs, label, index, share and pixels, the largest first."""
        counts = self.pixels
        total = max(1, int(counts.sum()))
        classes = [
            {"label": self.labels[index], "index": index, "share": round(count / total, 6), "pixels": count}
            for index, count in self._found(counts)
        ]
        height, width = self.mask.shape
        return {"height": height, "width": width, "classes": classes}

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        return notebook.shares(self.shares.items())

    def png(self) -> bytes:
        """The mask as a grey PNG of 8 bits whose values are the class positions; `ignore` stays what it is."""
        import cv2

        done, data = cv2.imencode(".png", self.mask)
        assert done
        return bytes(data)

    def files(self) -> dict[str, bytes]:
        """The mask."""
        return {".mask.png": self.png()}

    def draw(self, frame: Image) -> Image:
        """A copy of the (H, W, 3) BGR frame with each class in its colour over it and a legend in the corner.

        Raises ShapeError when the frame is not the one that the mask is of.
        """
        if frame.shape[:2] != self.mask.shape:
            raise ShapeError(
                f"the mask is {_size(self.mask.shape)}, the frame {_size(frame.shape[:2])}: draw on its own"
            )
        import cv2

        table = colours(256)
        over = cv2.applyColorMap(self.mask, table[:, None])
        cv2.addWeighted(over, _STRENGTH, frame, 1 - _STRENGTH, 0, dst=over)
        hidden = np.zeros(256, np.uint8)
        hidden[[self.ignore] if self.background is None else [self.ignore, self.background]] = 1
        picture = np.asarray(cv2.copyTo(frame, cv2.LUT(self.mask, hidden), over), np.uint8)
        counts = self.pixels
        total = max(1, int(counts.sum()))
        named = [(index, count / total) for index, count in self._found(counts) if index != self.background]
        _legend(picture, [(f"{share:4.0%}  {self.labels[index]}", table[index]) for index, share in named[:_LEGEND]])
        return picture


class SegmentationTask:
    """Outputs of a segmenter to masks: a class map (N, H, W) of integers, or logits (N, C, H, W)."""

    name = "segmentation"
    head: ClassVar[type[SegmentationHead]] = SegmentationHead
    metric = "mIoU"
    judged = spatial = True

    def __init__(self, head: SegmentationHead, outputs: tuple[TensorSpec, ...]) -> None:
        """Raises BadInput for more than one output, one of another shape, and a C that is not that of the labels."""
        if len(outputs) != 1:
            raise BadInput(f"segmentation wants one output, the model has {len(outputs)}")
        self.labels = head.labels
        self._head = head
        self._output = output = outputs[0]
        if output.shape == ANY_SHAPE:
            return
        if _is_map(len(output.shape), output.shape[1:2], output.dtype):
            return
        if len(output.shape) != 4:
            raise BadInput(
                f"segmentation wants a class map (N, H, W) of integers or logits (N, classes, H, W), "
                f"'{output.name}' is {output.shape} {output.dtype}"
            )
        if isinstance(output.shape[1], int):
            self._check_count(output.shape[1])

    def ranking(self) -> SegmentationTask:
        """Itself: all of a result counts."""
        return self

    def agreement(self, thresholds: Sequence[float] = ()) -> SegmentationTask:  # noqa: ARG002 - as every task's
        """Itself: the same score with another model's results as the truth."""
        return self

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[Segmentation]:
        """One Segmentation per frame, in the frame's own pixels; what the network did not see of it is `ignore`.

        Raises InvalidOutput for NaN and for classes that there are no labels of, BadInput for another shape.
        """
        maps = self._maps(outputs[self._output.name], len(views))
        ignore, background = self._head.ignore, self._head.background
        masks = [view.place_mask(each, ignore) for each, view in zip(self._fitting(maps, views), views, strict=True)]
        return [Segmentation(mask, self.labels, ignore, background) for mask in masks]

    def truth(self, given: Any) -> Segmentation:
        """A mask (H, W) of class positions and `ignore`, as the result that would be right; raises BadInput."""
        mask = np.asarray(given)
        if mask.ndim != 2 or mask.dtype.kind not in "iub":
            raise BadInput(f"a true mask is (H, W) of integers, got {mask.shape} {mask.dtype}")
        self._check_classes(mask, BadInput, "the true mask")
        return Segmentation(mask.astype(np.uint8), self.labels, self._head.ignore, self._head.background)

    def tally(self, result: Segmentation, truth: Segmentation) -> Tally:
        """Pixels by class that are right, found and true -> (3, C); where the truth is `ignore` nothing counts.

        A pixel that the network did not see and of which the truth knows is missed.
        """
        if result.mask.shape != truth.mask.shape:
            raise BadInput(f"the mask is {_size(result.mask.shape)}, the truth {_size(truth.mask.shape)}")
        together = _histogram(truth.mask, result.mask)
        together[truth.ignore] = 0
        kinds = together.diagonal(), together.sum(axis=0), together.sum(axis=1)
        return np.stack([each[: len(self.labels)] for each in kinds])

    def score(self, tallies: Sequence[Tally]) -> float:
        """Mean intersection over union of the classes that occur, over all frames' pixels; NaN where none does."""
        each = self.overlaps(tallies)
        return float(np.nanmean(each)) if np.isfinite(each).any() else math.nan

    def resampled(self, tallies: Sequence[Tally], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of frames that are each taken so many times, (samples, frames) -> (samples,)."""
        counts = np.array(tallies, np.int64).reshape(len(tallies), -1)
        return np.array([self.score([each.reshape(3, -1)]) for each in times @ counts])

    def figures(self, tallies: Sequence[Tally]) -> dict[str, float]:
        """The share of pixels that are right."""
        return {"pixel accuracy": self.pixel_accuracy(tallies)} if self._summed(tallies)[2].any() else {}

    def by_class(self, tallies: Sequence[Tally]) -> dict[str, float]:
        """Intersection over union of each class that occurs."""
        each = self.overlaps(tallies)
        return {label: float(value) for label, value in zip(self.labels, each, strict=True) if np.isfinite(value)}

    def confusion(self, result: Segmentation, truth: Segmentation) -> Confusion:
        """Pixels whose class is known and that the network saw."""
        count = len(self.labels)
        together = _histogram(truth.mask, result.mask)[:count, :count]
        return Confusion(self.labels, together, "pixels")

    def fitted(self, tallies: Sequence[Tally]) -> tuple[float, ...]:  # noqa: ARG002 - as every task's
        """The best class of a pixel is always shown."""
        return ()

    def at(self, thresholds: Sequence[float]) -> SegmentationTask:
        """Itself; raises BadInput for thresholds."""
        if thresholds:
            raise BadInput("segmentation has no thresholds: the best class of a pixel is always shown")
        return self

    def overlaps(self, tallies: Sequence[Tally]) -> NDArray[np.float64]:
        """Intersection over union of each class over all frames' pixels -> (C,), NaN for those that do not occur."""
        right, found, true = self._summed(tallies)
        union = found + true - right
        each = np.full(len(union), np.nan)
        np.divide(right, union, out=each, where=union > 0)
        return each

    def pixel_accuracy(self, tallies: Sequence[Tally]) -> float:
        """Share of the known pixels whose class is right; 0 where nothing is known."""
        right, _, true = self._summed(tallies)
        return float(right.sum() / max(1, true.sum()))

    def divergence(self, wanted: Tensors, got: Tensors) -> NDArray[np.float32]:
        """Of logits the Kullback-Leibler divergence in nats, a mean over pixels; of class maps the share that changed.

        -> (N,) float32, frame by frame.
        """
        name = self._output.name
        one, other = np.asarray(wanted[name]), np.asarray(got[name])
        if one.shape != other.shape:
            raise BadInput(f"outputs of {one.shape} and {other.shape} are not compared")
        if _is_map(one.ndim, one.shape[1:2], one.dtype.name):
            changed: NDArray[np.float32] = (one != other).reshape(len(one), -1).mean(axis=1, dtype=np.float32)
            return changed
        share, found = (softmax(np.moveaxis(each.astype(np.float32), 1, -1)) for each in (one, other))
        tiny = np.float32(1e-12)
        terms = share * (np.log(share + tiny) - np.log(found + tiny))
        each: NDArray[np.float32] = terms.sum(axis=-1).reshape(len(one), -1).mean(axis=1, dtype=np.float32)
        return each

    def reading(self, given: Sequence[Given], outputs: Tensors, views: Sequence[View]) -> Reading[Any]:
        """Masks of class positions, of the picture's size or of the network's; raises BadInput for others."""
        from edgecv_runtime.tasks import read_masks

        return read_masks.reading(self, given, outputs, views, self._head.ignore)

    def squares(self, wanted: Tensors, got: Tensors) -> tuple[float, float]:
        """Of logits; of a class map with 1 for the class of a pixel and 0 for the others: a pixel that changed is 2."""
        one, other = (np.asarray(each[self._output.name]) for each in (wanted, got))
        if _is_map(one.ndim, one.shape[1:2], one.dtype.name):
            return 2.0 * float(np.count_nonzero(one != other)), float(one.size)
        return squares(one.astype(np.float32, copy=False), other.astype(np.float32, copy=False))

    def _maps(self, output: NDArray[Any], count: int) -> Mask:
        """The output of `count` frames as class positions (count, H, W)."""
        if output.ndim not in (3, 4) or len(output) != count:
            raise BadInput(f"the model gave {output.shape} for {count} frames, neither class maps nor logits of each")
        if _is_map(output.ndim, output.shape[1:2], output.dtype.name):
            maps = output.reshape(count, *output.shape[-2:])
            self._check_classes(maps, InvalidOutput, "the class map")
            return maps.astype(np.uint8, copy=False)
        self._check_count(output.shape[1] if output.ndim == 4 else 0)
        broken = int((~np.isfinite(output).all(axis=(1, 2, 3))).sum())
        if broken:
            raise InvalidOutput(f"{broken} of {count} outputs hold NaN or infinite values; run 'edgecv verify'")
        largest: Mask = output.argmax(axis=1).astype(np.uint8)
        return largest

    def _fitting(self, maps: Mask, views: Sequence[View]) -> Mask:
        wanted = {view.size for view in views}
        if wanted - {maps.shape[1:]}:
            raise BadInput(
                f"the model gave masks of {_size(maps.shape[1:])} for an input of {_size(views[0].size)}; "
                "enlarge them in the graph"
            )
        return maps

    def _check_classes(self, mask: NDArray[Any], error: type[BadInput] | type[InvalidOutput], what: str) -> None:
        largest, ignore = len(self.labels) - 1, self._head.ignore
        if not mask.size or (mask.min() >= 0 and mask.max() <= largest):
            return
        strange = np.unique(mask[(mask != ignore) & ((mask < 0) | (mask > largest))])
        if strange.size:
            raise error(
                f"{what} holds {strange[0]}, and there are {len(self.labels)} labels (0 to {largest}); "
                f"{ignore} says that a pixel does not count"
            )

    def _check_count(self, classes: int) -> None:
        if classes != len(self.labels):
            raise BadInput(f"the model has {classes} classes, but {len(self.labels)} labels were given")

    def _summed(self, tallies: Sequence[Tally]) -> Tally:
        empty = np.zeros((3, len(self.labels)), np.int64)
        return np.sum(tallies, axis=0, dtype=np.int64) if len(tallies) else empty


@cache
def colours(count: int) -> NDArray[np.uint8]:
    """A colour for each class position -> (count, 3) uint8 BGR, those of Pascal VOC: far apart, the first one black.

    The bits of a position, from the lowest on, go to red, green and blue in turn, each from the highest on.
    """
    table = np.zeros((count, 3), np.uint8)
    for position in range(count):
        for bit in range(8):
            table[position, 2 - bit % 3] |= (position >> bit & 1) << (7 - bit // 3)
    table.flags.writeable = False  # one for all frames
    return table


def _histogram(*masks: Mask) -> NDArray[np.int64]:
    """How many pixels have each value, or of two masks each pair of values -> (256,) or (256, 256)."""
    import cv2

    found = np.zeros((256,) * len(masks), np.int64)
    rows = max(1, _COUNTED // max(1, masks[0].shape[1]))
    for start in range(0, len(masks[0]), rows):
        parts = [np.ascontiguousarray(mask[start : start + rows]) for mask in masks]
        counts = cv2.calcHist(parts, [*range(len(parts))], None, [256] * len(parts), [0, 256] * len(parts))
        found += counts.reshape(found.shape).astype(np.int64)
    return found


def _is_map(rank: int, channels: Sequence[int | str], dtype: str) -> bool:
    """Whether an output is a class map: integers (N, H, W), or (N, 1, H, W)."""
    return dtype.startswith(("uint", "int")) and (rank == 3 or (rank == 4 and tuple(channels) == (1,)))


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _legend(picture: Image, entries: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write names with their colours into the upper left corner."""
    import cv2

    if not entries:
        return
    unit = max(0.35, min(picture.shape[:2]) / 600)  # text grows with the frame
    line, thickness, font = round(30 * unit), max(1, round(1.6 * unit)), cv2.FONT_HERSHEY_SIMPLEX
    names = [printable(name) for name, _ in entries]
    width = max(cv2.getTextSize(name, font, 0.75 * unit, thickness)[0][0] for name in names)
    box = picture[: line * len(names) + line // 2, : width + 2 * line]
    box[:] = box // 4
    for row, (name, (_, colour)) in enumerate(zip(names, entries, strict=True)):
        bottom = line * (row + 1)
        corners = (line // 4, bottom - line // 2), (line, bottom)
        cv2.rectangle(picture, *corners, tuple(map(int, colour)), -1)
        cv2.putText(picture, name, (line + line // 3, bottom), font, 0.75 * unit, (255,) * 3, thickness, cv2.LINE_AA)
