"""The faults of a network camera, each with what causes and what ends it: for tests, and for the published table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fault_proxy import FaultProxy
from stream_lab import BIKES, RtspServer


class Bench:
    """A real RTSP server behind a proxy that can break it; the camera is at `url`, also after the server was killed."""

    def __init__(self, mode="pass", clip=BIKES):
        self.server = RtspServer(clip)
        self.proxy = FaultProxy(self.server.port, mode)
        self.url = self.proxy.url

    def kill(self):
        self.server.process.kill()
        self.server.process.wait()

    def restart(self, clip=BIKES):
        self.server = RtspServer(clip)
        self.proxy.target = self.server.port

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proxy.__exit__()
        self.kill()


class Fault(NamedTuple):
    """cause, end: what is done to the bench; states: one of them is the camera's; reconnects: it is connected anew."""

    cause: Callable[[Bench], Any]
    end: Callable[[Bench], Any]
    states: tuple[str, ...]
    reconnects: bool = True


def mode(name):
    return lambda bench: setattr(bench.proxy, "mode", name)


FAULTS = {
    "freeze": Fault(mode("freeze"), mode("pass"), ("stalled",), reconnects=False),
    "connection reset": Fault(mode("reset"), mode("pass"), ("backing off",)),
    "connection closed": Fault(mode("close"), mode("pass"), ("backing off",)),
    "server killed, started again": Fault(Bench.kill, Bench.restart, ("backing off",)),
    "black hole": Fault(mode("black hole"), mode("pass"), ("stalled",), reconnects=False),
    "trickle, 2 kB/s": Fault(mode("trickle"), mode("pass"), ("degraded", "stalled"), reconnects=False),
    "corrupt payload": Fault(mode("corrupt"), mode("pass"), ("degraded",), reconnects=False),
}


class Watch:
    """Events of one camera as they come, to wait for."""

    def __init__(self, name):
        self.name = name
        self.events = []

    def __call__(self, event):
        if event.name == self.name:
            self.events.append(event)

    def wait(self, *states, after=0, timeout_s=20.0):
        """The first event in one of these states behind the first `after` events."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            found = [event for event in self.events[after:] if event.state in states]
            if found:
                return found[0]
            time.sleep(0.005)
        raise AssertionError(f"{self.name}: none of {states} within {timeout_s} s: {list(map(str, self.events))}")
