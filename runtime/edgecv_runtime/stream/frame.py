"""What a stream is made of: stamped frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One image with its stamps; nobody writes into the image, because several sinks may look at it.

    image: (H, W, 3) uint8 BGR.
    captured_ns: when it was captured, `time.monotonic_ns()`; for a file, when it was decoded.
    index: number of frames that this source gave before this one, through all its connections.
    pts_s: presentation time within the connection in seconds, None where the source has none.
    source: name of the source, free of passwords.
    path: the image file, for a folder of images.
    connection: which connection of the source gave it, from 1; time stamps and sizes may differ between two.
    live: it is of a camera, whose time goes on by itself.
    """

    image: Image = field(repr=False)
    captured_ns: int
    index: int
    pts_s: float | None
    source: str
    path: str | None = None
    connection: int = 1
    live: bool = False
