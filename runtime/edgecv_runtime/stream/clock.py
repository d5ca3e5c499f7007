"""When a frame was captured, from its time stamp and its arrival.

A camera's stamps say how far apart frames are, never when: that is learned from arrivals. A frame cannot arrive before
it is captured, so the least `arrival - stamp` is the nearest that can be known, and a frame behind it is old by the
difference. Measured reasons for the rest: a backlog of more than 5 s read as a step of the camera's clock (age 0 when
it was worst, 4K on a slow decoder), and a step back froze all stamps (cameras that set their clock by NTP).
"""

from __future__ import annotations

import statistics
from collections import deque

_WINDOW_NS = 15_000_000_000  # after how long an arrival is forgotten: 100 ppm of drift are 1.5 ms in it
_FRESH_PART = 1 / 3  # of the frames of a window must have been waited for: a preempted read looks like one, too
_GAP = 10.0  # a gap of more than this many frame times, and of _GAP_NS, may be a step of the clock
_GAP_NS = 500_000_000
_INTERVALS = 31  # frame times that tell what is usual


class CaptureClock:
    """Stamps of one connection on our own clock: `captured = anchor + stamp`, never later than the arrival.

    The anchor is the least `arrival - stamp`. It only falls, except where reads had to wait: who waits is not behind,
    so what comes then is fresh, and an older anchor may be forgotten (clocks drift).
    """

    def __init__(self) -> None:
        self._anchor: int | None = None  # ns
        self._window: list[int] = []  # offsets since the window began
        self._window_start_ns = 0
        self._waited = 0
        self._last: tuple[int, int] | None = None  # stamp and capture time of the frame before, in order of stamps
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)

    def stamp(self, pts_s: float | None, arrived_ns: int, waited: bool) -> int:
        """Capture time in monotonic nanoseconds of a frame that arrived at `arrived_ns`; never falls, never in future.

        pts_s: its presentation time, in order; waited: it was not there yet when it was asked for.
        """
        if pts_s is None:
            return arrived_ns
        pts = round(pts_s * 1e9)
        offset = arrived_ns - pts
        if self._anchor is None or self._stepped(pts, offset, waited):
            self._restart(pts, offset, arrived_ns, waited)
        assert self._anchor is not None
        self._anchor = min(self._anchor, offset)
        self._note(offset, arrived_ns, waited)
        captured = min(arrived_ns, self._anchor + pts)
        if self._last is not None:
            if pts > self._last[0]:
                self._intervals.append(pts - self._last[0])
            captured = max(captured, self._last[1])
        self._last = (pts, captured)
        return captured

    def _stepped(self, pts: int, offset: int, waited: bool) -> bool:
        """Whether the camera's clock was set: stamps that fall, or a gap that ends in the future of a backlog.

        A pause of the camera ends with a read that waits, or is shorter than the backlog; either is a gap, no step.
        """
        if self._last is None or self._anchor is None:
            return False
        gap = pts - self._last[0]
        if gap < 0:
            return True
        usual = self._usual()
        return not waited and usual is not None and gap > max(_GAP_NS, _GAP * usual) and offset < self._anchor - usual

    def _restart(self, pts: int, offset: int, arrived_ns: int, waited: bool) -> None:
        """Anchor anew: after a step a frame is a frame time younger than the one before, or fresh."""
        if self._last is None or (waited and not self._behind()):
            self._anchor = offset
        else:
            self._anchor = min(arrived_ns, self._last[1] + (self._usual() or 0)) - pts
        self._window, self._window_start_ns, self._waited = [], arrived_ns, 0

    def _behind(self) -> bool:
        """Whether frames lately came without waiting: there is a backlog."""
        return bool(self._window) and self._waited < _FRESH_PART * len(self._window)

    def _note(self, offset: int, arrived_ns: int, waited: bool) -> None:
        self._window.append(offset)
        self._waited += waited
        if arrived_ns - self._window_start_ns >= _WINDOW_NS:
            if not self._behind():
                self._anchor = min(self._window)
            self._window, self._window_start_ns, self._waited = [], arrived_ns, 0

    def _usual(self) -> int | None:
        return round(statistics.median(self._intervals)) if self._intervals else None
