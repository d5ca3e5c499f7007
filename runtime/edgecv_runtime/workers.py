"""Threads that keep a model busy: a bounded queue in front, results in order behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from edgecv_runtime.errors import Closed

T = TypeVar("T")
R = TypeVar("R")
_ELSEWHERE = "this was begun in another process, before it forked; begin it again in this one"


class Workers:
    """`count` threads; at most two items for each of them wait, so that a fast source cannot fill the memory."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.most = 3 * count
        self._room = threading.Semaphore(self.most)
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(count, thread_name_prefix="edgecv")
        self._running: set[Future[Any]] = set()

    def submit(self, call: Callable[[T], R], item: T) -> Future[R]:
        """Queue a call, and wait for room first; raises Closed after `close`, and in a process forked meanwhile."""
        self._room.acquire()
        if self._pool is None:
            raise Closed(_ELSEWHERE)
        try:
            future = self._pool.submit(call, item)
        except RuntimeError as exc:  # shut down while this waited
            self._room.release()
            raise Closed("the model was closed; load it again") from exc
        self._running.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        self._running.discard(future)
        self._room.release()

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
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def abandon(self) -> None:
        """In a forked process, which has none of these threads: what waits for them ends with Closed."""
        self._pool, self._room = None, threading.Semaphore(self.most)  # a thread that is gone may hold the old one
        for future in list(self._running):
            future._condition, future._waiters = threading.Condition(), []  # a thread that is gone may hold the old
            if not future.done():
                future.set_exception(Closed(_ELSEWHERE))
