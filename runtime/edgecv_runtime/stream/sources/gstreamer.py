"""A GStreamer pipeline, where OpenCV was built with GStreamer (JetPack's and Debian's are, the wheels are not)."""

from __future__ import annotations

from typing import Any

from edgecv_runtime.errors import SourceUnavailable, Unavailable
from edgecv_runtime.preprocess import import_cv2
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S
from edgecv_runtime.stream.sources.launch import pipeline_name
from edgecv_runtime.stream.sources.opencv import OpenCvSource

# Newest frame only: the pipeline must not queue what nobody reads.
_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink max-buffers=1 drop=true sync=false"
_TIMEOUTS = (4, 7)  # OpenCV's first version whose GStreamer has them (opencv/opencv#22919); JetPack 6 has 4.8


class GStreamerSource(OpenCvSource):
    """Frames of a pipeline as `gst-launch-1.0` takes it; an `appsink` is added where there is none.

    It is `live`; when it ends, it ended early, because OpenCV does not tell an error from an end.
    """

    def __init__(self, pipeline: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """pipeline: elements and `!`; timeout_s: for opening and for each read. Raises BadInput when it is empty."""
        super().__init__(pipeline_name(pipeline.strip()), live=True, timeout_s=timeout_s)
        self._parts = [pipeline.strip(), *([] if "appsink" in pipeline else [_SINK])]

    def _make_capture(self) -> Any:
        cv2 = import_cv2()
        if not has_gstreamer(cv2):
            raise Unavailable(
                f"{self.name}: this OpenCV ({cv2.__version__}) has no GStreamer; JetPack's has, and Debian's "
                "(apt install python3-opencv): uninstall the opencv-python wheel there; or apt install "
                "gstreamer1.0-tools gstreamer1.0-plugins-bad"
            )
        timeout_ms = max(1, round(1000 * self.timeout_s))
        options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        if tuple(map(int, cv2.__version__.split(".")[:2])) < _TIMEOUTS:
            options = []  # there it would refuse to open
        return cv2.VideoCapture(" ! ".join(self._parts), cv2.CAP_GSTREAMER, options)

    def _not_opened(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.name}: the pipeline does not start; try it with gst-launch-1.0", kind="no answer"
        )

    def _ended(self) -> End:
        return End("hung up", f"the pipeline ended after {self.frames_read} frames")


def has_gstreamer(cv2: Any) -> bool:
    """Whether this OpenCV was built with GStreamer; its registry lists the backend even where it was not."""
    lines = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GStreamer:")]
    return any("YES" in line for line in lines)
