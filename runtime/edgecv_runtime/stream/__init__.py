"""Streams: cameras, network streams and files in; annotated video and JSON lines out; every frame accounted for.

from edgecv_runtime import stream

report = stream.run(model, "rtsp://user:password@10.0.0.2/cam", [stream.VideoSink("out.mp4")])
report.check()
"""

from __future__ import annotations

from edgecv_runtime.stream.backoff import Backoff, Waits
from edgecv_runtime.stream.buffer import POLICIES, Buffer, WhenLate
from edgecv_runtime.stream.camera import Camera
from edgecv_runtime.stream.ending import KINDS, End
from edgecv_runtime.stream.events import STATES, Event, Journal
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.latest import Latest
from edgecv_runtime.stream.ledger import Account, Ledger, LedgerError
from edgecv_runtime.stream.loop import Stream
from edgecv_runtime.stream.redact import redact
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
