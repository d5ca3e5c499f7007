"""What was found in a frame as boxes, and what is known to be there."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import ShapeError
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record

_NAMED = 5  # classes that a line names
_ROWS = 20  # boxes that a notebook shows
_GOLDEN = 0.618034  # of the circle of hues: neighbours among the classes look unlike


class Boxes(Record, frozen=True):
    """The boxes that are known to be in a picture.

    xyxy: (n, 4) float32, left, top, right and bottom in pixels of the picture, 0 at its edge. class_id: (n,) int64.
    crowd: (n,) bool, a region of many objects that are not told apart; ignored: (n,) bool, too hard to be asked for.
    What lies on either is neither right nor wrong. area: (n,) float64 in square pixels, where it is not the box's own
    (COCO counts the pixels of the object). None stands for no crowd, none ignored, and the boxes' own areas.
    """

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    crowd: NDArray[np.bool_] | None = None
    ignored: NDArray[np.bool_] | None = None
    area: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        count = len(self.class_id)
        columns = (self.class_id, self.crowd, self.ignored, self.area)
        if self.xyxy.shape != (count, 4) or any(each is not None and each.shape != (count,) for each in columns):
            raise ShapeError(
                f"boxes want xyxy (n, 4) and a value a box, got {self.xyxy.shape} and "
                f"{[None if each is None else each.shape for each in columns]}"
            )

    def __len__(self) -> int:
        return len(self.class_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boxes) and all(
            np.array_equal(mine, yours) if mine is not None and yours is not None else mine is yours
            for mine, yours in zip(self._columns(), other._columns(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def _columns(self) -> tuple[NDArray[Any] | None, ...]:
        return self.xyxy, self.class_id, self.crowd, self.ignored, self.area


class Detections(Record, frozen=True, eq=False):
    """The boxes found in one frame, the most confident first.

    xyxy: (n, 4) float32, left, top, right and bottom in pixels of the frame; confidence: (n,) float32 in 0..1;
    class_id: (n,) int64, positions in `labels`. `supervision.Detections(xyxy=..., confidence=..., class_id=...)` takes
    them as they are. dropped: how many more there were than a head's `candidates` and `most` allow.
    known: where they are the truth of a data set, that truth whole.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    labels: tuple[str, ...]
    dropped: int = 0
    known: Boxes | None = None

    def __len__(self) -> int:
        return len(self.class_id)

    def __str__(self) -> str:
        left_out = f", {self.dropped} more left out" if self.dropped else ""
        if not len(self):
            return f"nothing found{left_out}"
        classes, counts = np.unique(self.class_id, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        named = [f"{counts[each]} {self.labels[classes[each]]}" for each in order[:_NAMED]]
        rest = len(order) - len(named)
        return ", ".join(named) + (f" and {rest} more classes" if rest else "") + left_out

    @property
    def boxes(self) -> Boxes:
        """They as what is to be found: the known truth, or where these are a model's the boxes alone."""
        return self.known if self.known is not None else Boxes(self.xyxy, self.class_id)

    def pick(self, chosen: NDArray[Any]) -> Detections:
        """Some of them, by positions or by a bool each."""
        return Detections(self.xyxy[chosen], self.confidence[chosen], self.class_id[chosen], self.labels, self.dropped)

    def as_dict(self) -> dict[str, Any]:
        """Label, score, class and box (left, top, right, bottom in pixels) of each, as plain values."""
        boxes = [
            {
                "label": self.labels[int(kind)],
                "score": round(float(score), 6),
                "index": int(kind),
                "box": [round(float(value), 2) for value in box],
            }
            for box, score, kind in zip(self.xyxy, self.confidence, self.class_id, strict=True)
        ]
        return {"boxes": boxes, "dropped": self.dropped}

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        rows = [
            (self.labels[int(kind)], f"{score:.1%}", *(f"{value:.0f}" for value in box))
            for box, score, kind in zip(self.xyxy[:_ROWS], self.confidence[:_ROWS], self.class_id[:_ROWS], strict=True)
        ]
        return notebook.table(("label", "score", "left", "top", "right", "bottom"), rows, str(self))

    def files(self) -> dict[str, bytes]:
        """Nothing beside the drawn frame."""
        return {}

    def draw(self, frame: Image) -> Image:
        """A copy of the (H, W, 3) BGR frame with the boxes, their labels and scores drawn on it."""
        import cv2

        from edgecv_runtime.tasks.drawing import printable

        picture = frame.copy()
        unit = max(0.35, min(frame.shape[:2]) / 600)  # text and lines grow with the frame
        thickness, font, scale = max(1, round(2 * unit)), cv2.FONT_HERSHEY_SIMPLEX, 0.6 * unit
        for position in range(len(self) - 1, -1, -1):  # the most confident on top
            left, top, right, bottom = (round(float(value)) for value in self.xyxy[position])
            kind = int(self.class_id[position])
            color = _color(kind)
            cv2.rectangle(picture, (left, top), (right, bottom), color, thickness)
            text = f"{printable(self.labels[kind])} {self.confidence[position]:.0%}"
            (width, height), base = cv2.getTextSize(text, font, scale, 1)
            line = max(top, height + base)  # a box at the upper edge has its label inside
            cv2.rectangle(picture, (left, line - height - base), (left + width, line), color, -1)
            cv2.putText(picture, text, (left, line - base // 2), font, scale, (0, 0, 0), 1, cv2.LINE_AA)
        return picture


def nothing(labels: Sequence[str]) -> Detections:
    """No boxes at all."""
    none = np.empty(0, np.float32)
    return Detections(none.reshape(0, 4), none, np.empty(0, np.int64), tuple(labels))


def _color(kind: int) -> tuple[int, int, int]:
    """A bright BGR colour of a class."""
    red, green, blue = colorsys.hsv_to_rgb(kind * _GOLDEN % 1, 0.6, 1)
    return round(255 * blue), round(255 * green), round(255 * red)
