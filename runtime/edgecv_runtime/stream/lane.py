"""One source as the model's side sees it: what it may take of it, and what is measured of it."""

from __future__ import annotations

from edgecv_runtime.stream.camera import Camera
from edgecv_runtime.stream.engine import Inferred
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.report import Percentiles, SourceReport
from edgecv_runtime.stream.scheduler import Lane


class Served:
    """A camera with the measurements of its frames; gave_up: the model failed too often in a row for it.

    age: from capture to result; inference: the model's call.
    """

    def __init__(self, camera: Camera, max_frames: int | None, former: Served | None = None) -> None:
        """max_frames: how many of its frames the model takes at most; former: its life before, which is told, too."""
        self.camera = camera
        self.gave_up: bool = former is not None and former.gave_up
        self._max_frames = max_frames
        self._taken = 0
        self._done = 0
        self._turn = 0
        self._failures_in_a_row = 0
        self.age: Percentiles = former.age if former else Percentiles()
        self.inference: Percentiles = former.inference if former else Percentiles()
        self._first_ns: int = former._first_ns if former else 0
        self._last_ns = 0

    @property
    def name(self) -> str:
        """Of the source."""
        return self.camera.name

    def lane(self, room: int) -> Lane:
        """What the scheduler wants to know now; room: outputs that every sink would take."""
        camera = self.camera
        oldest = camera.oldest
        lossless = camera.when_late == "wait"
        return Lane(
            waiting=camera.waiting,
            captured_ns=oldest.captured_ns if oldest is not None else 0,
            turn=self._turn,
            lossless=lossless,
            room=room,
            left=None if self._max_frames is None else self._max_frames - self._taken,
            period_ns=None if lossless else camera.arrivals.period_ns,
            due_ns=None if lossless else camera.arrivals.due_ns(),
        )

    def take(self, turn: int) -> Frame | None:
        """Its next frame for the model."""
        frame = self.camera.take()
        self._turn = turn
        self._taken += frame is not None
        return frame

    def count(self, done: Inferred, max_failures: int) -> None:
        """Note what became of a frame; ends the source after its last one, or after too many failures in a row."""
        self._done += 1
        if done.error is None:
            self._failures_in_a_row = 0
            self.age.add((done.ended_ns - done.frame.captured_ns) / 1e6)
            self.inference.add((done.ended_ns - done.begun_ns) / 1e6)
            self._first_ns, self._last_ns = self._first_ns or done.ended_ns, done.ended_ns
        else:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= max_failures:
                self.gave_up = True
                self.camera.stop("error", f"the model failed for {self._failures_in_a_row} frames in a row")
        if self._done == self._max_frames:
            self.camera.stop("max_frames")

    def report(self) -> SourceReport:
        """The account and the measurements so far."""
        camera, counts = self.camera, self.camera.account.as_dict()
        span_s = (self._last_ns - self._first_ns) / 1e9
        detail = camera.detail
        if camera.abandoned:
            detail = f"inside a read or an open, which ends by itself within {camera.source.timeout_s:g} s"
        return SourceReport(
            name=self.name,
            live=camera.facts.live,
            when_late=camera.when_late,
            state=camera.state,
            connections=camera.connection,
            attempts=camera.attempts,
            read=counts["read"],
            inferred=counts["inferred"],
            dropped=counts["dropped"],
            failed=counts["failed"],
            in_flight=counts["in_flight"],
            fps=(self.inference.runs - 1) / span_s if self.inference.runs > 1 and span_s > 0 else None,
            age=self.age.spread(),
            inference=self.inference.spread(),
            declared_frames=camera.facts.declared_frames,
            damaged=camera.damaged,
            first_damaged=camera.end.first_damaged if camera.end is not None else None,
            ended=camera.ended or "running",
            detail=detail,
            error_code=camera.end.exit_code if camera.end is not None else 0,
            max_fps=camera.max_fps,
        )
