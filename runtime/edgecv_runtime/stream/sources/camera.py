"""A camera on this machine, through OpenCV with an explicit backend."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from edgecv_runtime.errors import BadInput, SourceUnavailable, nearest
from edgecv_runtime.preprocess import import_cv2
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts
from edgecv_runtime.stream.sources.devices import find
from edgecv_runtime.stream.sources.opencv import OpenCvSource

_BACKENDS = {"linux": "CAP_V4L2", "darwin": "CAP_AVFOUNDATION", "win32": "CAP_DSHOW"}


class CameraSource(OpenCvSource):
    """A USB or built-in camera: by index, by device file, or by a name that stays when it is plugged in again.

    `captured_ns` is the driver's stamp, where it is of our clock. A camera that stops ends with SourceUnavailable.
    """

    def __init__(
        self,
        device: int | str | Path,
        *,
        size: tuple[int, int] | None = None,
        format: str | None = None,  # noqa: A002  # V4L2's own word
        fps: float | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """device: index, device file, or a name of `devices.cameras`.

        size: (height, width) and format (four letters, as MJPG, YUYV or NV12) are what the camera shall give, and an
            error where it has not; fps: a wish, which drivers round.
        """
        text = str(device)
        super().__init__(text if text.startswith("/dev/") else f"camera:{text}", live=True, timeout_s=timeout_s)
        if not text or (format is not None and len(format) != 4):
            raise BadInput(f"{self.name}: expected an index as 0, /dev/video0 or a name, and a format of four letters")
        self._device = text
        self._size = size
        self._format = format
        self._fps = fps

    @classmethod
    def parse(cls, text: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> CameraSource:
        """From `DEVICE?size=1280x720&format=MJPG&fps=30`, all of it after the ? optional; raises BadInput."""
        device, _, query = text.partition("?")
        size, format_, fps = None, None, None
        for pair in filter(None, query.split("&")):
            key, _, value = pair.partition("=")
            try:
                if key == "size":
                    width, _, height = value.partition("x")
                    size = int(height), int(width)
                elif key == "format":
                    format_ = value
                elif key == "fps":
                    fps = float(value)
                else:
                    raise BadInput(f"camera:{text}: unknown option '{key}'{nearest(key, ['size', 'format', 'fps'])}")
            except ValueError as exc:
                if isinstance(exc, BadInput):
                    raise
                raise BadInput(f"camera:{text}: '{pair}': expected size=640x480, format=MJPG or fps=30") from exc
        return cls(device, size=size, format=format_, fps=fps, timeout_s=timeout_s)

    def _make_capture(self) -> Any:
        cv2 = import_cv2()
        self._file = self._find() if sys.platform == "linux" else self._device
        backend = getattr(cv2, _BACKENDS.get(sys.platform, "CAP_ANY"))
        capture = cv2.VideoCapture(int(self._file) if self._file.isdecimal() else self._file, backend)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the driver has a choice
        if self._format is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._format))
        if self._size is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[1])
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
        return capture

    def _find(self) -> str:
        """The device file, asked with each opening: it changes."""
        file = f"/dev/video{self._device}" if self._device.isdecimal() else self._device
        if not file.startswith("/dev/") or not Path(file).exists():
            file = find(file)
        if not os.access(file, os.R_OK | os.W_OK):
            raise SourceUnavailable(
                f"{self.name}: no permission for {file}; add the user to the group 'video'", kind="no permission"
            )
        return file

    def _check(self, facts: Facts) -> None:
        asked = [(self._format, facts.codec, self._format), (self._size, facts.size, _shown(self._size))]
        for wanted, given, words in asked:
            if wanted is not None and given is not None and wanted != given:
                raise BadInput(
                    f"{self.name}: gives {facts.codec} {_shown(facts.size)}, where {words} was asked; "
                    f"v4l2-ctl -d {self._file} --list-formats-ext lists what it has"
                )

    def _not_opened(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.name}: cannot be opened; does another program use it, or is it no camera?", kind="busy"
        )

    def _ended(self) -> End:
        if not self.frames_read and Path(self._file).exists():
            raise SourceUnavailable(f"{self.name}: gives no frame; does another program use it?", kind="busy")
        raise SourceUnavailable(
            f"{self.name}: stopped after {self.frames_read} frames; was it unplugged?", kind="missing"
        )


def _shown(size: tuple[int, int] | None) -> str:
    return f"{size[1]}x{size[0]}" if size else "an unknown size"
