"""Threads that keep a model busy: a bounded queue in front, results in order behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgecv_runtime.errors import Closed

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """`count` threads; at most two items for each of them wait, so that a fast source cannot fill the memory."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.most = 3 * count
        self._room = threading.BoundedSemaphore(self.most)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="edgecv")

    def submit(self, call: Callable[[T], R], item: T) -> Future[R]:
        """Queue a call, and wait for room first; raises Closed after `close`."""
        self._room.acquire()
        try:
            future = self._pool.submit(call, item)
        except RuntimeError as exc:  # shut down while this waited
            self._room.release()
            raise Closed("the model was closed; load it again") from exc
        future.add_done_callback(lambda _: self._room.release())
        return future

    def map(self, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in the order of the items, which are taken only as far ahead as there is room.

        With all room taken, the reader waits for the results of `count` items and then gives them one after the other:
        each time it wakes up, a core that computes has to stop.
        """
        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(self.submit(call, item))
                if len(running) == self.most:
                    running[self.count - 1].exception()
                    for _ in range(self.count):
                        yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        """Finish what was queued, and end the threads."""
        self._pool.shutdown(wait=True)
