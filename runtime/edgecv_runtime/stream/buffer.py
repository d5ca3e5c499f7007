"""The one queue of a stream: bounded, with a named policy for what comes too late, and nothing lost silently."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.ledger import LATE, STOPPED

T = TypeVar("T")

WhenLate = Literal["drop-oldest", "drop-newest", "wait"]

# What each policy means, for messages and guides.
POLICIES: dict[WhenLate, str] = {
    "drop-oldest": "the newest frame wins: a camera's frames stay young",
    "drop-newest": "what waits is kept, what comes is dropped",
    "wait": "the producer waits: a file loses nothing",
}


class Buffer(Generic[T]):
    """A bounded first-in, first-out queue between two threads; whoever drops an item is told which and why."""

    def __init__(
        self,
        slots: int,
        when_late: WhenLate,
        *,
        dropped: Callable[[T, str], None],
        entered: Callable[[T], None] | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        """slots: how many items wait at most; when_late: what happens to one more.

        entered, dropped: called under the lock for every item that is taken on, and every one that is dropped, with
            the reason ("late" or "stopped"); changed: shared by buffers that one consumer watches.
        """
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        if when_late not in POLICIES:
            raise BadInput(f"when_late must be one of {', '.join(POLICIES)}, got '{when_late}'")
        self.slots = slots
        self.when_late = when_late
        self._entered = entered
        self._dropped = dropped
        self._changed = changed if changed is not None else threading.Condition()
        self._items: deque[T] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> T | None:
        """What `take` would give."""
        with self._changed:
            return self._items[0] if self._items else None

    @property
    def finished(self) -> bool:
        """It is closed and empty."""
        with self._changed:
            return self._closed and not self._items

    def become(self, when_late: WhenLate, slots: int) -> None:
        """Change the policy before the first item: what a source is, is known when it is open."""
        with self._changed:
            self.when_late, self.slots = when_late, slots

    def put(self, item: T) -> bool:
        """Offer an item; False once the buffer is closed, and then the item does not enter the account."""
        with self._changed:
            if self._closed:
                return False
            if self._entered is not None:
                self._entered(item)
            if self.when_late == "wait":
                while len(self._items) >= self.slots and not self._closed:
                    self._changed.wait()
                if self._closed or len(self._items) >= self.slots:
                    self._dropped(item, STOPPED)
                    return False
            elif len(self._items) >= self.slots:
                if self.when_late == "drop-newest":
                    self._dropped(item, LATE)
                    return True
                self._dropped(self._items.popleft(), LATE)
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float = 0.0) -> T | None:
        """The oldest item, or None when there is none within the timeout."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._items:
                rest_s = end_s - time.monotonic()
                if self._closed or rest_s <= 0:
                    return None
                self._changed.wait(rest_s)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, keep: bool = False) -> None:
        """Take on nothing more; what waits is dropped as "stopped", or kept for `take`."""
        with self._changed:
            self._closed = True
            while self._items and not keep:
                self._dropped(self._items.popleft(), STOPPED)
            self._changed.notify_all()
