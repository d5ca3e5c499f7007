"""Where frames come from: one file for each kind of source, and `open_source`, which chooses by a table."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.lazily import lazily
from edgecv_runtime.stream.redact import shown
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shot, Source
from edgecv_runtime.stream.sources.file import FileSource
from edgecv_runtime.stream.sources.network import SCHEMES as NETWORK_SCHEMES
from edgecv_runtime.stream.sources.network import NetworkSource
from edgecv_runtime.stream.sources.paced import Paced

if TYPE_CHECKING:
    from edgecv_runtime.stream.sources.camera import CameraSource
    from edgecv_runtime.stream.sources.fake import FakeCamera
    from edgecv_runtime.stream.sources.folder import FolderSource
    from edgecv_runtime.stream.sources.gstreamer import GStreamerSource
    from edgecv_runtime.stream.sources.launch import LaunchSource
    from edgecv_runtime.stream.sources.onvif import OnvifSource

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "CameraSource",
    "Facts",
    "FakeCamera",
    "FileSource",
    "FolderSource",
    "GStreamerSource",
    "LaunchSource",
    "NetworkSource",
    "OnvifSource",
    "Paced",
    "Shot",
    "Source",
    "open_source",
]

# What is imported when a source of that kind is made: a network camera's own process needs neither NumPy nor OpenCV.
_HOMES = {
    "CameraSource": "camera",
    "FakeCamera": "fake",
    "FolderSource": "folder",
    "GStreamerSource": "gstreamer",
    "LaunchSource": "launch",
    "OnvifSource": "onvif",
}
_kind = __getattr__ = lazily(__name__, _HOMES)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)  # two letters at least: C:\ is no scheme

# By what stands before the first colon; the function gets (the whole text, what follows the colon, timeout_s).
SCHEMES: dict[str, Callable[[str, str, float], Source]] = {
    **dict.fromkeys(NETWORK_SCHEMES, lambda uri, _, timeout_s: NetworkSource(uri, timeout_s=timeout_s)),
    "onvif": lambda uri, _, timeout_s: _kind("OnvifSource")(uri, timeout_s=timeout_s),
    "camera": lambda _, rest, timeout_s: _kind("CameraSource").parse(rest, timeout_s=timeout_s),
    "gst": lambda _, rest, timeout_s: _open_pipeline(rest, timeout_s),
    "csi": lambda uri, rest, timeout_s: _open_csi(uri, rest, timeout_s),
    "test": lambda uri, rest, timeout_s: _kind("FakeCamera").parse(rest.lstrip("/?"), name=uri, timeout_s=timeout_s),
    "fake": lambda _, rest, timeout_s: _kind("FakeCamera").parse(rest, timeout_s=timeout_s),
    "package": lambda uri, rest, timeout_s: _open_shipped(uri, rest, timeout_s),
    "file": lambda _, rest, timeout_s: _open_path(rest.removeprefix("//"), timeout_s),
}


def open_source(uri: str | int | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S, pace: bool = False) -> Source:
    """Choose the source that a URI means; it opens by `with`, or with its first frame.

    uri: an index, `/dev/video0` or `camera:NAME`, which stays when it is plugged in again (`devices.cameras`), with
        `?size=1280x720&format=MJPG&fps=30`; `rtsp://`, `rtsp+udp://`, `rtsps://`, `http://`, `https://` (MJPEG, HLS, a
        file); `onvif://user:password@host[/PROFILE]`; `csi://0`; `gst:PIPELINE`; a video file; a folder of images or an
        image; `package:NAME/FILE`, which an installed distribution ships; `test://?SCRIPT`, steps by & (a number of
        frames, `fps=`, `size=WxH`, `freeze=SECONDS`, `jump=SECONDS`, `fail`, `end`), or `fake:SCRIPT`, by commas.
    timeout_s: for opening and for each read, in seconds.
    pace: play a recording at its own speed, as a camera would.
    Raises BadInput for what cannot be a source, in one line; SourceUnavailable comes when it is opened.
    """
    text = str(uri)
    source = _choose(text, timeout_s)
    if pace:
        if source.live and not isinstance(source, NetworkSource):
            raise BadInput(f"{source.name}: a camera has its own pace; pace is for recordings")
        source = Paced(source)
    source.again = partial(open_source, text, timeout_s=timeout_s, pace=pace)
    return source


def _choose(text: str, timeout_s: float) -> Source:
    if text.isdecimal() or text.startswith("/dev/video") or text.startswith("/dev/v4l/"):
        return SCHEMES["camera"](text, text, timeout_s)
    if not text:
        raise BadInput("an empty source; expected a camera's index or URL, a video file or a folder of images")
    found = _SCHEME.fullmatch(text)
    scheme = found[1].lower() if found else ""
    if found and scheme in SCHEMES:
        return SCHEMES[scheme](text, found[2], timeout_s)
    if found and not os.path.exists(text):  # noqa: PTH110  # Path's raises for what is too long for a name
        raise BadInput(
            f"{shown(text)}: no such file, and no kind of source is called '{scheme}:'{nearest(scheme, SCHEMES)}"
        )
    return _open_path(text, timeout_s)


def _open_pipeline(pipeline: str, timeout_s: float, name: str | None = None) -> Source:
    """In this process where OpenCV has GStreamer, else in a gst-launch of its own."""
    from edgecv_runtime.preprocess import import_cv2
    from edgecv_runtime.stream.sources.gstreamer import GStreamerSource, has_gstreamer
    from edgecv_runtime.stream.sources.launch import LAUNCH, LaunchSource

    in_child = not has_gstreamer(import_cv2()) and shutil.which(LAUNCH) is not None
    kind = LaunchSource if in_child else GStreamerSource
    source: Source = kind(pipeline, timeout_s=timeout_s)
    source.name = name or source.name
    return source


def _open_csi(uri: str, text: str, timeout_s: float) -> Source:
    from edgecv_runtime.stream.sources.launch import csi

    return _open_pipeline(csi(text), timeout_s, name=uri)


def _open_shipped(uri: str, text: str, timeout_s: float) -> Source:
    from edgecv_runtime import files

    package, _, name = text.partition("/")
    shipped = {path.name: path for path in files.shipped(package)}
    if name not in shipped:
        raise BadInput(
            f"{uri}: expected package:NAME/FILE, and {package} ships no such file{nearest(name, shipped)[:300]}"
        )
    return _open_path(str(shipped[name]), timeout_s)


def _open_path(text: str, timeout_s: float) -> Source:
    from edgecv_runtime.formats import is_image
    from edgecv_runtime.images import head
    from edgecv_runtime.stream.sources.folder import FolderSource

    path = Path(text)
    if path.is_dir() or (path.is_file() and path.suffix.lower() != ".gif" and is_image(path.name, lambda: head(path))):
        return FolderSource(path)  # a GIF is a clip: most of them move
    return FileSource(path, timeout_s=timeout_s)
