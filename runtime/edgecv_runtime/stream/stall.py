"""When a live source has fallen silent, and when its next frame is due.

Cameras pause 400 to 500 ms around key frames, and some give a frame each six seconds: a fixed limit calls those dead,
or notices the death of the others too late. So the limit grows with the gaps that this connection has shown.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

_GAPS = 50  # frames that the longest gap is looked for in
_SPEED_NS = 2_500_000_000  # least span over which a stream's speed is told
_KEPT_NS = 4_000_000_000
_FACTOR = 2.5  # a gap so many times the longest one seen is a stall


class Pulse:
    """The arrivals of one connection's frames; times are `time.monotonic_ns()`, given in."""

    def __init__(self, stall_s: float) -> None:
        """stall_s: silence that is always allowed."""
        self._stall_ns = round(stall_s * 1e9)
        self._arrivals: deque[int] = deque(maxlen=_GAPS)
        self._stamps: deque[tuple[int, float]] = deque()
        self.last_ns = 0

    def connected(self) -> None:
        """A new connection: what is known of the former one does not count."""
        self._arrivals.clear()
        self._stamps.clear()
        self.last_ns = 0

    def beat(self, now_ns: int, pts_s: float | None = None) -> None:
        """A frame came; pts_s: the camera's own time."""
        if pts_s is not None:
            if self._stamps and pts_s < self._stamps[-1][1]:
                self._stamps.clear()  # its clock was set
            self._stamps.append((now_ns, pts_s))
            while self._stamps[0][0] < now_ns - _KEPT_NS and len(self._stamps) > 2:
                self._stamps.popleft()
        if self.last_ns and self._is_long(now_ns - self.last_ns):
            self._arrivals.clear()  # a stall is no rhythm
        self._arrivals.append(now_ns)
        self.last_ns = now_ns

    @property
    def period_ns(self) -> int | None:
        """Time from frame to frame: span over count, because gaps are uneven; None for fewer than three frames."""
        arrivals = list(self._arrivals)
        if len(arrivals) < 3:
            return None
        return (arrivals[-1] - arrivals[0]) // (len(arrivals) - 1)

    def due_ns(self) -> int | None:
        """When the next frame is expected, None where that is not known."""
        period_ns = self.period_ns
        return None if period_ns is None else self.last_ns + period_ns

    @property
    def speed(self) -> float | None:
        """How fast the camera's time passes in ours: 0.1 where the network brings a tenth; None where nobody knows."""
        if len(self._stamps) < 2:
            return None
        (first_ns, first_s), (last_ns, last_s) = self._stamps[0], self._stamps[-1]
        if last_ns - first_ns < _SPEED_NS:
            return None
        return (last_s - first_s) / ((last_ns - first_ns) / 1e9)

    def stalled_s(self, now_ns: int, alive_ns: int = 0) -> float | None:
        """Seconds of silence, where that is a stall; alive_ns: the last sign of life that is no frame."""
        if not self.last_ns:
            return None
        silent_ns = now_ns - max(self.last_ns, alive_ns)
        return silent_ns / 1e9 if self._is_long(silent_ns) else None

    def _is_long(self, silent_ns: int) -> bool:
        if silent_ns <= self._stall_ns:  # nearly always; with each frame
            return False
        longest_ns = max((after - before for before, after in pairwise(list(self._arrivals))), default=0)
        return silent_ns > _FACTOR * longest_ns
