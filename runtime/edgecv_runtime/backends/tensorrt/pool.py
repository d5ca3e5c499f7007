"""Workers for threads: as many as run at once, up to a limit, each used by one thread at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from edgecv_runtime.errors import Closed, EdgecvError

log = logging.getLogger("edgecv.tensorrt")

Worker = TypeVar("Worker")


class Pool(Generic[Worker]):
    """Lends workers; the first is made at once, others when a thread finds none idle.

    make: gives a worker, or raises an EdgecvError; limit: how many there are at most. A worker that fails at work is
    released and not lent again. Where there is no memory for one more, threads share those that there are.
    """

    def __init__(self, make: Callable[[], Worker], release: Callable[[Worker], None], limit: int, name: str) -> None:
        self._make = make
        self._release = release
        self._limit = limit
        self._name = name
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._count = 0  # idle, lent or in the making
        self._closed = False
        with self.lend():
            pass

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        """A worker for the time of a block; waits for one when the limit is reached. Raises Closed after `close`."""
        worker = self._take()
        try:
            yield worker
        except BaseException:
            with suppress(EdgecvError):  # what failed before says more
                self._release(worker)
            with self._changed:
                self._count -= 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._idle.append(worker)
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for the workers that are lent, then release all; closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._count == len(self._idle))
            idle, self._idle, self._count = self._idle, [], 0
        for worker in idle:
            self._release(worker)

    def _take(self) -> Worker:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._idle or self._count < self._limit)
                if self._closed:
                    raise Closed(f"tensorrt: {self._name} is closed")
                if self._idle:
                    return self._idle.pop()  # the one used last: its memory is warm, its shape probably the same
                self._count += 1
            try:
                return self._make()
            except BaseException as exc:
                with self._changed:
                    self._count -= 1
                    self._changed.notify_all()
                    if not self._count or not isinstance(exc, EdgecvError):
                        raise
                    self._limit = self._count
                log.warning("%s: no more than %d run at once: %s", self._name, self._limit, exc)
