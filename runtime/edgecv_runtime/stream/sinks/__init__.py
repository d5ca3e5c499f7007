"""Where results go: one file for each kind of sink, and `open_sink`, which chooses by the name."""

from __future__ import annotations

from pathlib import Path

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.sinks.base import Output, Sink, StopStream
from edgecv_runtime.stream.sinks.callback import CallbackSink
from edgecv_runtime.stream.sinks.jsonlines import JsonLinesSink
from edgecv_runtime.stream.sinks.video import SUFFIXES as VIDEO_SUFFIXES
from edgecv_runtime.stream.sinks.video import VideoSink
from edgecv_runtime.stream.sinks.window import WindowSink

__all__ = [
    "CallbackSink",
    "JsonLinesSink",
    "Output",
    "Sink",
    "StopStream",
    "VideoSink",
    "WindowSink",
    "open_sink",
]

JSON_SUFFIXES = (".jsonl", ".ndjson")


def open_sink(text: str | Path) -> Sink:
    """Choose the sink that a name means: `-` or .jsonl, a video file (.mp4, .mov, .mkv), or `window`.

    Raises BadInput for any other name, Unavailable where the sink needs what is not installed.
    """
    suffix = Path(text).suffix.lower()
    if str(text) == "window":
        return WindowSink()
    if str(text) == "-" or suffix in JSON_SUFFIXES:
        return JsonLinesSink(text)
    if suffix in VIDEO_SUFFIXES:
        return VideoSink(text)
    raise BadInput(f"{text}: not a sink; expected -, window, or a file {', '.join(JSON_SUFFIXES + VIDEO_SUFFIXES)}")
