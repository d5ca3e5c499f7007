"""Where results go: one file for each kind of sink, and `open_sink`, which chooses by the name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.redact import shown
from edgecv_runtime.stream.sinks.base import Output, Sink, SinkGone, StopStream
from edgecv_runtime.stream.sinks.callback import CallbackSink
from edgecv_runtime.stream.sinks.jsonlines import JsonLinesSink
from edgecv_runtime.stream.sinks.mqtt import SCHEMES as MQTT_SCHEMES
from edgecv_runtime.stream.sinks.mqtt import MqttSink
from edgecv_runtime.stream.sinks.publish import SCHEMES as PUBLISH_SCHEMES
from edgecv_runtime.stream.sinks.publish import PublishSink
from edgecv_runtime.stream.sinks.segments import NO_LIMITS, Limits
from edgecv_runtime.stream.sinks.video import SUFFIXES as VIDEO_SUFFIXES
from edgecv_runtime.stream.sinks.video import VideoSink
from edgecv_runtime.stream.sinks.webhook import SCHEMES as WEBHOOK_SCHEMES
from edgecv_runtime.stream.sinks.webhook import WebhookSink
from edgecv_runtime.stream.sinks.window import WindowSink

__all__ = [
    "CallbackSink",
    "JsonLinesSink",
    "Limits",
    "MqttSink",
    "Output",
    "PublishSink",
    "Sink",
    "SinkGone",
    "StopStream",
    "VideoSink",
    "WebhookSink",
    "WindowSink",
    "open_sink",
]

JSON_SUFFIXES = (".jsonl", ".ndjson")

# By what stands before "://"; the function gets the URL.
SCHEMES: dict[str, Callable[[str], Sink]] = {
    **dict.fromkeys(MQTT_SCHEMES, MqttSink),
    **dict.fromkeys(WEBHOOK_SCHEMES, WebhookSink),
    **dict.fromkeys(PUBLISH_SCHEMES, PublishSink),
}
# By the ending of a file's name.
SUFFIXES: dict[str, Callable[[str | Path, Limits], Sink]] = {
    **dict.fromkeys(JSON_SUFFIXES, lambda path, limits: JsonLinesSink(path, limits=limits)),
    **dict.fromkeys(VIDEO_SUFFIXES, lambda path, limits: VideoSink(path, limits=limits)),
}


def open_sink(text: str | Path, *, limits: Limits = NO_LIMITS) -> Sink:
    """Choose the sink that a name means: `-` (JSON lines on stdout), `window`, a file by its ending, or a URL.

    Files: .jsonl, .ndjson, .mp4, .mov, .mkv; URLs: mqtt, mqtts, http, https (a webhook), rtsp, rtsps (published).
    limits: of one file. Raises BadInput for any other name, Unavailable where the sink needs what is not installed.
    """
    scheme, is_url, _ = str(text).partition("://")
    if is_url and scheme.lower() in SCHEMES:
        return SCHEMES[scheme.lower()](str(text))
    if str(text) == "window":
        return WindowSink()
    suffix = Path(text).suffix.lower()
    if str(text) == "-":
        return JsonLinesSink(text)
    if suffix in SUFFIXES and not is_url:
        return SUFFIXES[suffix](text, limits)
    known = f"-, window, a file {', '.join(SUFFIXES)}, or a URL {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    raise BadInput(f"{shown(str(text))}: not a sink; expected {known}")
