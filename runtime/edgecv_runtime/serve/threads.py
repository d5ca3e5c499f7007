"""Threads that do what comes, as many as are needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

_IDLE_S = 10.0


class Work(NamedTuple):
    """A call, and where its result goes."""

    call: Callable[[], Any]
    done: Future[Any]


class Threads(Executor):
    """Up to so many threads, the one that rested last first: what it needs is in the cache yet.

    Who rests long ends. A call that hangs keeps no process alive, which it does in a ThreadPoolExecutor.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Work]] = []
        self._waiting: deque[Work] = deque()
        self._count = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Its result, as soon as a thread has come to it."""
        work = Work(partial(call, *args, **named), Future())
        with self._lock:
            if self._idle:
                self._idle.pop().put(work)
            elif self._count < self._most:
                self._count += 1
                threading.Thread(target=self._work, args=(work,), name=self._name, daemon=True).start()
            else:
                self._waiting.append(work)
        return work.done

    def _work(self, work: Work | None) -> None:
        own: SimpleQueue[Work] = SimpleQueue()
        while work is not None:
            try:
                result = work.call()
            except BaseException as exc:  # whatever it is, it is told where the result is awaited
                work.done.set_exception(exc)
            else:
                work.done.set_result(result)
            del work  # what it held is free while this thread rests
            work = self._next(own)

    def _next(self, own: SimpleQueue[Work]) -> Work | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(own)
        try:
            return own.get(timeout=_IDLE_S)
        except Empty:
            pass
        with self._lock:
            if own in self._idle:
                self._idle.remove(own)
                self._count -= 1
                return None
        return own.get()  # it came at the last moment
