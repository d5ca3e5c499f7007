"""What a running stream tells about itself: a live page, health checks, metrics, and systemd's notifications."""

from __future__ import annotations

from edgecv_runtime.stream.live.board import Board, BoardSink
from edgecv_runtime.stream.live.health import Health
from edgecv_runtime.stream.live.server import LivePage

__all__ = ["Board", "BoardSink", "Health", "LivePage"]
