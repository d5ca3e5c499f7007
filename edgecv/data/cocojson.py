"""What COCO's JSON of instances holds (cocodataset.org/#format-data), for boxes and for areas alike.

Tools write more kinds of numbers than the format has: float sizes, true for a crowd, text for an image's id, null for
what they do not know.
"""

from __future__ import annotations

import msgspec


class Image(msgspec.Struct):
    """A picture, and its size where the file says it."""

    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels."""
        return (round(self.height), round(self.width)) if self.width and self.height else None


class Annotation(msgspec.Struct):
    """A box, left, top, width and height in pixels, or an area, or both; captions have neither class nor box."""

    image_id: int | str
    category_id: int = -1
    bbox: list[float] | None = None
    iscrowd: int | bool | None = None
    area: float | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class Category(msgspec.Struct):
    """A class."""

    id: int
    name: str


class Instances(msgspec.Struct):
    """A file."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
