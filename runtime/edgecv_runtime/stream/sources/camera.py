"""A camera on this machine, through OpenCV with an explicit backend."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from edgecv_runtime.errors import BadInput, SourceUnavailable
from edgecv_runtime.preprocess import import_cv2
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S
from edgecv_runtime.stream.sources.opencv import OpenCvSource

_BACKENDS = {"linux": "CAP_V4L2", "darwin": "CAP_AVFOUNDATION", "win32": "CAP_DSHOW"}


class CameraSource(OpenCvSource):
    """A USB or built-in camera, by index or by device file (`/dev/v4l/by-id/...` keeps its name after unplugging).

    A camera that stops ends with SourceUnavailable.
    """

    def __init__(
        self,
        device: int | str | Path,
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """device: index or device file; size: (height, width) and fps: wishes, which the camera may not fulfil.

        Raises BadInput for a device that cannot be one.
        """
        text = str(device)
        if not (text.isdecimal() or text.startswith("/dev/")):
            raise BadInput(f"{text}: not a camera; expected an index as 0, or a device as /dev/video0")
        super().__init__(f"camera:{text}" if text.isdecimal() else text, live=True, timeout_s=timeout_s)
        self._device: int | str = int(text) if text.isdecimal() else text
        self._size = size
        self._fps = fps

    def _make_capture(self) -> Any:
        cv2 = import_cv2()
        if sys.platform == "linux":
            self._check_device_file(f"/dev/video{self._device}" if isinstance(self._device, int) else self._device)
        backend = getattr(cv2, _BACKENDS.get(sys.platform, "CAP_ANY"))
        capture = cv2.VideoCapture(self._device, backend)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the driver has a choice
        if self._size is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[0])
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[1])
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
        return capture

    def _check_device_file(self, device: str) -> None:
        if not Path(device).exists():
            raise SourceUnavailable(
                f"{self.name}: there is no {device}; is the camera plugged in? (ls /dev/video*)", kind="missing"
            )
        if not os.access(device, os.R_OK | os.W_OK):
            raise SourceUnavailable(
                f"{self.name}: no permission for {device}; add the user to the group 'video'", kind="no permission"
            )

    def _not_opened(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.name}: cannot be opened; does another program use it, or is it no camera?", kind="busy"
        )

    def _ended(self) -> End:
        raise SourceUnavailable(
            f"{self.name}: stopped after {self.frames_read} frames; was it unplugged?", kind="missing"
        )
