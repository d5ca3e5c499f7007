"""RTSP servers that several tests share."""

from __future__ import annotations

import pytest
from stream_lab import RtspServer


@pytest.fixture(scope="session")
def camera():
    """An RTSP camera that anyone may watch."""
    with RtspServer() as server:
        yield server


@pytest.fixture(scope="session")
def guarded_camera():
    """An RTSP camera of user `admin` whose password has all that passwords have."""
    with RtspServer(user="admin", password="canary@7/%41") as server:
        yield server
