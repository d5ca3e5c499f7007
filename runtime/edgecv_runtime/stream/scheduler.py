"""Which frames the model takes next; pure: it is given what waits, and the time.

A model that serves many cameras must starve none: whoever waited for the most turns comes first, of those the freshest
frame. A recording is eligible only while every sink has room, so that nobody waits for a sink but the recording itself.
With batches the model waits for more cameras, but no longer than the fastest one allows, and never for one whose next
frame is not due within that time: a fixed order of waiting lets the first slow camera eat the window of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_LONGEST_WINDOW_NS = 100_000_000  # a gain of some per cent is not worth more age than this


class Lane(NamedTuple):
    """What the scheduler knows of one source at one moment.

    waiting: frames in its mailbox; captured_ns: of the first of them; turn: when it was served last (higher is later).
    lossless: it waits for sinks rather than dropping; room: every sink would take an output of it now.
    left: how many frames of it may still be taken.
    period_ns, due_ns: from frame to frame, and when the next comes; None for recordings and where it is not known.
    """

    waiting: int
    captured_ns: int = 0
    turn: int = 0
    lossless: bool = False
    room: int = 1
    left: int | None = None
    period_ns: int | None = None
    due_ns: int | None = None

    @property
    def ready(self) -> int:
        """Frames of it that may be taken now."""
        ready = min(self.waiting, self.room) if self.lossless else self.waiting
        return ready if self.left is None else min(ready, self.left)


def choose(lanes: Sequence[Lane], most: int) -> list[int]:
    """Which lanes to take a frame of, at most `most`: one of each first; of recordings more where there is room."""
    ready = [each.ready for each in lanes]
    order = sorted(
        (number for number, count in enumerate(ready) if count),
        key=lambda number: (lanes[number].turn, -lanes[number].captured_ns),
    )
    chosen: list[int] = []
    while order and len(chosen) < most:
        for number in list(order):
            if len(chosen) == most:
                break
            chosen.append(number)
            ready[number] -= 1
            if not ready[number]:
                order.remove(number)
    return chosen


def window_ns(lanes: Sequence[Lane], chosen: Sequence[int], most: int, now_ns: int, inference_ns: int) -> int:
    """How long to wait for a fuller batch; 0 is: begin now.

    The window is the fastest camera's period less the time of the inference, and 100 ms at most, counted from the
    capture of the oldest frame chosen; it is open only while a camera that has nothing waiting is due within it.
    """
    if len(chosen) >= most or not chosen or any(lanes[number].lossless for number in chosen):
        return 0
    periods = [each.period_ns for each in lanes if each.period_ns]
    if not periods:
        return 0
    length_ns = min(min(periods) - inference_ns, _LONGEST_WINDOW_NS)
    end_ns = min(lanes[number].captured_ns for number in chosen) + length_ns
    due = [
        each.due_ns
        for number, each in enumerate(lanes)
        if number not in chosen and each.due_ns is not None and now_ns <= each.due_ns <= end_ns
    ]
    return min(due) - now_ns + 1 if due else 0
