"""Image files as a stream."""

from __future__ import annotations

from pathlib import Path

from edgecv_runtime import formats, images
from edgecv_runtime.errors import BadInput, ImageError
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import Facts, Shot, Shots, Source


class FolderSource(Source):
    """The images below a folder, or one image, sorted by path; `Frame.path` names each.

    An image that cannot be decoded is counted as damaged and left out.
    """

    def __init__(self, path: str | Path) -> None:
        """path: a folder or an image file; raises BadInput when it is missing or holds no image."""
        super().__init__(str(path), live=False)
        self._paths = images.find(path)
        if not self._paths:
            raise BadInput(f"{path}: no images in this folder; known suffixes: {', '.join(formats.suffixes())}")

    def _open(self) -> Facts:
        return Facts(live=False, declared_frames=len(self._paths))

    def _shots(self) -> Shots:
        damaged, first = 0, None
        for path in self._paths:
            try:
                image = images.read(path)
            except ImageError as exc:
                damaged += 1
                first = first or str(exc)
                continue
            yield Shot(image, path=str(path), damaged=damaged)
        return End("end of file", damaged=damaged, first_damaged=first)

    def _release(self) -> None:
        pass  # each file is closed as soon as it is read
