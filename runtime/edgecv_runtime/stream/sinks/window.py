"""Annotated frames in a window."""

from __future__ import annotations

import os
import sys
from typing import Any

from edgecv_runtime.errors import Unavailable
from edgecv_runtime.stream.sinks.base import Output, Sink, StopStream

_KEYS = (ord("q"), 27)  # q and Escape end the run


class WindowSink(Sink):
    """One window for each source; q or Escape ends the run in order."""

    own_thread = False  # window systems want the thread that made the window, macOS the main one

    def __init__(self, title: str = "edgecv") -> None:
        """Raises Unavailable where OpenCV has no window support, or there is no display."""
        self.name = "window"
        self._title = title
        self._shown: set[str] = set()
        try:
            import cv2
        except ImportError as exc:
            raise Unavailable("a window needs OpenCV with its GUI", extra="cpu,gui") from exc
        self._cv2: Any = cv2
        lines = [line.split() for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
        if any("NONE" in words for words in lines):
            raise Unavailable(
                "this OpenCV has no windows (it is the headless build): pip uninstall opencv-python-headless, then",
                extra="gui",
            )
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise Unavailable("a window needs a display (DISPLAY is not set); write a video with VideoSink instead")

    def write(self, output: Output) -> None:
        """Show one annotated frame; raises StopStream when q or Escape was pressed."""
        window = f"{self._title}: {output.frame.source}"
        self._shown.add(window)
        self._cv2.imshow(window, output.result.draw(output.frame.image))
        if self._cv2.waitKey(1) & 0xFF in _KEYS:
            raise StopStream

    def close(self) -> None:
        """Close the windows."""
        while self._shown:
            self._cv2.destroyWindow(self._shown.pop())
