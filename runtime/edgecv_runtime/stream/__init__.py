"""Streams: cameras, network streams and files in; annotated video and JSON lines out; every frame accounted for.

from edgecv_runtime import stream

report = stream.run(model, "rtsp://user:password@10.0.0.2/cam", [stream.VideoSink("out.mp4")])
report.check()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecv_runtime.lazily import lazily
from edgecv_runtime.stream.redact import redact  # now, because its module has the same name

if TYPE_CHECKING:
    from edgecv_runtime.stream.backoff import Backoff, Waits
    from edgecv_runtime.stream.buffer import POLICIES, Buffer, WhenLate
    from edgecv_runtime.stream.camera import Camera
    from edgecv_runtime.stream.ending import KINDS, End
    from edgecv_runtime.stream.events import STATES, Event, Journal
    from edgecv_runtime.stream.frame import Frame
    from edgecv_runtime.stream.latest import Latest
    from edgecv_runtime.stream.ledger import Account, Ledger, LedgerError
    from edgecv_runtime.stream.loop import Stream
    from edgecv_runtime.stream.report import SinkReport, SourceReport, Spread, StreamReport
    from edgecv_runtime.stream.rules import OnRules, Rule
    from edgecv_runtime.stream.running import run, stop_on_signals
    from edgecv_runtime.stream.settings import Settings
    from edgecv_runtime.stream.sinks import (
        CallbackSink,
        JsonLinesSink,
        Limits,
        MqttSink,
        Output,
        PublishSink,
        Sink,
        SinkGone,
        StopStream,
        VideoSink,
        WebhookSink,
        WindowSink,
        open_sink,
    )
    from edgecv_runtime.stream.sources import (
        CameraSource,
        Facts,
        FakeCamera,
        FileSource,
        FolderSource,
        GStreamerSource,
        NetworkSource,
        Paced,
        Shot,
        Source,
        open_source,
    )
    from edgecv_runtime.stream.sources.isolated import Isolated

__all__ = [
    "KINDS",
    "POLICIES",
    "STATES",
    "Account",
    "Backoff",
    "Buffer",
    "CallbackSink",
    "Camera",
    "CameraSource",
    "End",
    "Event",
    "Facts",
    "FakeCamera",
    "FileSource",
    "FolderSource",
    "Frame",
    "GStreamerSource",
    "Isolated",
    "Journal",
    "JsonLinesSink",
    "Latest",
    "Ledger",
    "LedgerError",
    "Limits",
    "MqttSink",
    "NetworkSource",
    "OnRules",
    "Output",
    "Paced",
    "PublishSink",
    "Rule",
    "Settings",
    "Shot",
    "Sink",
    "SinkGone",
    "SinkReport",
    "Source",
    "SourceReport",
    "Spread",
    "StopStream",
    "Stream",
    "StreamReport",
    "VideoSink",
    "Waits",
    "WebhookSink",
    "WhenLate",
    "WindowSink",
    "open_sink",
    "open_source",
    "redact",
    "run",
    "stop_on_signals",
]
# Where a name comes from when it is first asked for: a camera's own process needs few of them.
_HOMES = {
    "Account": "ledger",
    "Backoff": "backoff",
    "Buffer": "buffer",
    "CallbackSink": "sinks",
    "Camera": "camera",
    "CameraSource": "sources",
    "End": "ending",
    "Event": "events",
    "Facts": "sources",
    "FakeCamera": "sources",
    "FileSource": "sources",
    "FolderSource": "sources",
    "Frame": "frame",
    "GStreamerSource": "sources",
    "Isolated": "sources.isolated",
    "Journal": "events",
    "JsonLinesSink": "sinks",
    "KINDS": "ending",
    "Latest": "latest",
    "Ledger": "ledger",
    "LedgerError": "ledger",
    "Limits": "sinks",
    "MqttSink": "sinks",
    "NetworkSource": "sources",
    "OnRules": "rules",
    "Output": "sinks",
    "POLICIES": "buffer",
    "Paced": "sources",
    "PublishSink": "sinks",
    "Rule": "rules",
    "STATES": "events",
    "Settings": "settings",
    "Shot": "sources",
    "Sink": "sinks",
    "SinkGone": "sinks",
    "SinkReport": "report",
    "Source": "sources",
    "SourceReport": "report",
    "Spread": "report",
    "StopStream": "sinks",
    "Stream": "loop",
    "StreamReport": "report",
    "VideoSink": "sinks",
    "Waits": "backoff",
    "WebhookSink": "sinks",
    "WhenLate": "buffer",
    "WindowSink": "sinks",
    "open_sink": "sinks",
    "open_source": "sources",
    "run": "running",
    "stop_on_signals": "running",
}
__getattr__ = lazily(__name__, _HOMES)
