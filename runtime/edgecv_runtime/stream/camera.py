"""A source with many lives, drained by a thread of its own: its frames, its states, its account."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from edgecv_runtime.stream.backoff import Backoff, Waits
from edgecv_runtime.stream.buffer import Buffer, WhenLate
from edgecv_runtime.stream.ending import End, kind_of
from edgecv_runtime.stream.events import Journal, State
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.ledger import RATE, Account, Ledger
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.sources.base import Facts, Shot, Source, frame_of
from edgecv_runtime.stream.stall import Pulse

if TYPE_CHECKING:
    from typing import Self

GRACE_S = 1.0  # how long a stop waits for a camera that is inside a read
_LIVE_SLOTS = 1  # the newest frame
_FILE_SLOTS = 4  # decoded ahead while the model runs
_SETTLED_S = 1.0  # what is joined between two key frames is damaged at first
_MENDED_S = 10.0  # without damage, and a camera is no longer degraded
_TOO_SLOW = 0.7  # of the camera's own speed: ages grow by the rest of each second


class Camera:
    """Reads a source in a thread of its own, which alone opens and releases it, and connects again when it is lost.

    `with Camera(open_source(0), when_late="drop-oldest") as camera: for frame in camera: ...; camera.dropped`

    A camera that is stopped inside a read is not waited for beyond GRACE_S: its thread is a daemon that releases the
    capture itself as soon as the read returns, within the source's timeout; what it still reads is not counted.

    name: of the source, also in frames and events.
    state: what it is in now; since_ns: the moment since when, `time.monotonic_ns()`.
    facts: what is known of the source; damaged: broken frames or packets so far.
    connection: how many connections gave frames; attempts: how many were tried.
    ended: "" while it runs, else "end of file", "ended_early", "stopped", "max_frames" or "error".
    end: how the source ended, None before; detail: the rest of the sentence, as `declared=795 read=399`.
    """

    def __init__(
        self,
        source: Source,
        *,
        when_late: WhenLate | Literal["auto"] = "auto",
        max_frames: int | None = None,
        reconnect: bool = True,
        waits: Waits | None = None,
        stall_s: float = 2.5,
        max_fps: float | None = None,
        first_index: int = 0,
        first_connection: int = 1,
        account: Account | None = None,
        journal: Journal | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        """when_late: what happens to a frame that comes while the buffer is full; "auto" is "drop-oldest" for a live
            source and "wait" for a recording, known when it is open.
        max_frames: a camera that never drops ends after this many.
        reconnect: connect a live source again when it is lost, as its `again` makes it (that of `open_source`).
        waits: between two connections; stall_s: a live source that shows no sign of life for so long is stalled.
        max_fps: frames per second that go on; the others are dropped as "rate". first_index: of its first frame;
            first_connection: the number of its first one. Both go on where the same camera had another life.
        account, journal, changed: of the run it is in.
        """
        self.source = source
        self.name = source.name
        self.account = account or Ledger().add_source(source.name)
        self.facts: Facts = source.facts
        self.max_fps = max_fps
        self.damaged = 0
        self.connection = self._connections_before = first_connection - 1
        self.attempts = 0
        self.state: State = "connecting"
        self.since_ns = time.monotonic_ns()
        self.ended = ""
        self.end: End | None = None
        self.detail = ""
        self._journal = journal or Journal()
        self._asked = when_late
        self._max_frames = max_frames
        self._reconnect = reconnect
        self._backoff = Backoff(waits)
        self._pulse = Pulse(stall_s)
        self._lost: End | None = None  # how the last connection ended
        self._healthy_s = 0.0
        self._first_ns = 0
        self._damaged_before = 0  # in former connections
        self._known_damage = 0
        self._degraded_ns = 0
        self._index = first_index
        self._put = 0  # frames that went on
        self._period_ns = 0 if max_fps is None else round(1e9 / max_fps)
        self._due_ns = 0
        self._changed = changed if changed is not None else threading.Condition()
        self._stopping = threading.Event()
        self._states = threading.RLock()
        self._told_end = False
        policy: WhenLate = "wait" if when_late == "auto" else when_late
        self._buffer = Buffer[Frame](
            _FILE_SLOTS if policy == "wait" else _LIVE_SLOTS,
            policy,
            entered=lambda frame: self.account.entered(frame.index),
            dropped=lambda frame, reason: self.account.dropped_for(frame.index, reason),
            changed=self._changed,
        )
        self._thread = threading.Thread(target=self._run, name=f"edgecv-read {source.name}", daemon=True)

    @property
    def when_late(self) -> WhenLate:
        """The policy in force."""
        return self._buffer.when_late

    @property
    def _was_there(self) -> bool:
        """It gave a frame in this life."""
        return self.connection > self._connections_before

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped, by reason."""
        return self.account.dropped

    @property
    def finished(self) -> bool:
        """The source has ended and nothing waits."""
        with self._changed:
            return bool(self.ended) and not len(self._buffer)

    @property
    def next_index(self) -> int:
        """The index that its next frame gets."""
        return self._index

    @property
    def waiting(self) -> int:
        """How many frames wait to be taken."""
        return len(self._buffer)

    @property
    def oldest(self) -> Frame | None:
        """The frame that `take` would give."""
        return self._buffer.oldest

    @property
    def arrivals(self) -> Pulse:
        """When frames come, and when the next is due."""
        return self._pulse

    @property
    def abandoned(self) -> bool:
        """It was stopped, and its thread is still inside a read or an open."""
        return bool(self.ended) and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; it opens the source."""
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> Frame | None:
        """The next frame, or None when there is none within the timeout; the caller settles it in the account."""
        return self._buffer.take(timeout_s)

    def watch(self, now_ns: int) -> None:
        """Notice a stall, from another thread than the one that is stuck in a read; ask a few times a second."""
        with self._states:
            if self.state in ("live", "degraded"):
                silent_s = self._pulse.stalled_s(max(now_ns, self._pulse.last_ns), self.source.alive_ns)
                if silent_s is not None and self.facts.live and not self.ended:
                    self._note("stalled", f"no frame for {silent_s:.1f} s")
            if self.state == "degraded" and now_ns - self._degraded_ns > _MENDED_S * 1e9:
                self._note("live", "well again")

    def stop(self, why: str = "stopped", detail: str = "") -> None:
        """Ask the thread to end, without waiting; what waits is dropped as "stopped".

        why, detail: become `ended` and `detail`, unless the source has ended already.
        """
        with self._changed:
            lost = None if self._was_there else self._lost  # never there: that is what is to be told
            self._settle(why, detail or (lost.detail if lost else ""), lost or End("stopped"))
            self._buffer.close()
        self._stopping.set()
        self.source.interrupt()
        self._conclude()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, up to `timeout_s` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self.join(GRACE_S)

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, counted as inferred when handed over; raises at the end what the source raised."""
        while not self.finished:
            frame = self.take(timeout_s=0.1)
            self.watch(time.monotonic_ns())
            if frame is not None:
                self.account.passed(frame.index)
                yield frame
        error = self.end.error() if self.end is not None else None
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            end = self._connect()
            again = self.source.again
            if end.retry == "never" or again is None or not self._reconnect or not self.facts.live:
                break
            if not self._wait(end, again):
                end = End("stopped") if self._was_there else end
                break
        self._finish(end)

    def _connect(self) -> End:
        """One connection, from opening to its end."""
        source = self.source
        self.attempts += 1
        self._note("connecting")
        opened_ns = time.monotonic_ns()
        try:
            self._read(source)
        except Exception:  # whatever it is, the source has noted it as its end
            pass
        finally:
            source.close()
        end = source.end or End("stopped")
        self._damaged_before += end.damaged
        self.damaged = self._damaged_before
        self._skip(end.skipped)
        self._healthy_s = (time.monotonic_ns() - opened_ns) / 1e9 if source.frames_read else 0.0
        return end

    def _wait(self, end: End, again: Callable[[], Source]) -> bool:
        """Wait as long as the back-off says, with the next source at hand; False when the camera is stopped."""
        while not (self._stopping.is_set() or self.ended):
            crashed = end.kind == "crashed"
            wait_s = self._backoff.next_s(
                "fast" if end.retry == "never" else end.retry,
                now_s=time.monotonic(),
                healthy_s=self._healthy_s,
                crashed=crashed,
            )
            self._lost = end
            if crashed and self._backoff.too_many_crashes:
                waits = self._backoff.waits
                self._note("failed", f"crashed {waits.crashes} times in {waits.crash_s:g} s")
            self._note("backing off", f"{self._told(end)}; next try in {wait_s:.1f} s")
            source: Source | None = None
            try:
                source = again()
                source.name = self.name
                source.prepare()
            except Exception as exc:  # what could be made once can be made again, when it is there again
                end = End(kind_of(exc), redact(str(exc)))
            stopped = self._stopping.wait(wait_s)
            if source is None:
                self.attempts += 1
                continue
            if not stopped:
                self.source = source
                if not self._stopping.is_set():  # whoever stops it interrupts the source that is there
                    return True
            source.close()
        return False

    def _read(self, source: Source) -> None:
        self.facts = source.open().facts
        if self._asked == "auto" and self.facts.live:
            self._buffer.become("drop-oldest", _LIVE_SLOTS)
        self._pulse.connected()
        size: tuple[int, int] | None = None
        while (shot := source.next_shot()) is not None:
            if source.frames_read == 1:
                self.connection += 1
                self._first_ns, self._known_damage = time.monotonic_ns(), shot.damaged
                self._note("live", _described(self.facts))
            self._look(shot, size)
            size = shot.image.shape[:2]
            self._skip(shot.skipped)
            frame = frame_of(shot, self.name, self._index, self.connection, live=self.facts.live)
            self._index += 1
            if self._is_too_soon(frame):
                self.account.entered(frame.index)
                self.account.dropped_for(frame.index, RATE)
                continue
            if not self._buffer.put(frame):
                break
            self._put += 1
            if self.when_late == "wait" and self._put == self._max_frames:
                self._settle("max_frames", "", End("stopped"))
                break

    def _is_too_soon(self, frame: Frame) -> bool:
        """Whether a frame is one too many for the rate that was asked for; a camera's jitter is none of its fault."""
        now_ns = round(frame.pts_s * 1e9) if frame.pts_s is not None and not frame.live else frame.captured_ns
        if abs(now_ns - self._due_ns) > 2 * self._period_ns:  # the first one, a pause, or another clock
            self._due_ns = now_ns
        if now_ns < self._due_ns - self._period_ns // 4:
            return True
        self._due_ns += self._period_ns
        return False

    def _look(self, shot: Shot, size: tuple[int, int] | None) -> None:
        """What a frame says about the camera's state."""
        now_ns = time.monotonic_ns()
        self._pulse.beat(now_ns, shot.pts_s)
        speed = self._pulse.speed if self.facts.live else None
        self.damaged = self._damaged_before + shot.damaged
        with self._states:
            if self.state == "stalled":
                self._note("live", "frames come again")
            if size is not None and shot.image.shape[:2] != size:
                (height, width), (now_height, now_width) = size, shot.image.shape[:2]
                self._note(self.state, f"the size changed from {width}x{height} to {now_width}x{now_height}")
            if shot.damaged > self._known_damage:
                if self.facts.live and now_ns - self._first_ns > _SETTLED_S * 1e9:
                    self._degraded(now_ns, f"{shot.damaged - self._known_damage} damaged frames or packets")
                self._known_damage = shot.damaged
            if speed is not None and speed < _TOO_SLOW:
                self._degraded(now_ns, f"the network brings {speed:.0%} of what comes in time")

    def _degraded(self, now_ns: int, reason: str) -> None:
        self._degraded_ns = now_ns
        if self.state == "live":
            self._note("degraded", reason)

    def _skip(self, skipped: Mapping[str, int]) -> None:
        """Frames that the source itself left out."""
        for reason, count in skipped.items():
            self._index += count
            self.account.skipped(reason, count)

    def _finish(self, end: End) -> None:
        ended = "error" if end.exit_code else "ended_early" if end.early else end.kind
        with self._changed:
            self._settle(ended, end.detail, end)
            self._buffer.close(keep=True)
        self._conclude()

    def _conclude(self) -> None:
        """Say that it has ended, as the last thing: its thread may take seconds more, and its name a new life."""
        with self._states:
            self._note("failed" if self.ended == "error" else "ended", self._told(self.end or End("stopped")))
            self._told_end = True

    def _settle(self, why: str, detail: str, end: End) -> None:
        """The first reason stands: what follows from being stopped is not a reason."""
        with self._changed:
            if not self.ended:
                self.ended, self.detail, self.end = why, detail, end
                self._changed.notify_all()

    def _told(self, end: End) -> str:
        return end.detail.removeprefix(f"{self.name}: ")

    def _note(self, state: State, reason: str = "") -> None:
        with self._states:
            if self._told_end:
                return
            if state != self.state:
                self.state, self.since_ns = state, time.monotonic_ns()
            self._journal.note("source", self.name, state, reason, self.attempts)


def _described(facts: Facts) -> str:
    """What is known of a source, in the words of its `live` event."""
    parts = [facts.codec or "", f"{facts.size[1]}x{facts.size[0]}" if facts.size else ""]
    return " ".join([*filter(None, parts), *([f"{facts.fps:g} fps"] if facts.fps else [])])
