"""Long passes over data: on all cores, in order, with the user told how far they have come."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgecv_runtime import machine

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("edgecv.data")

_PATIENCE_S = 2.0  # what takes less than this passes in silence
_LOG_EVERY_S = 15.0


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass items on; a bar on stderr when that is a terminal, else a line in the log now and then.

    total: how many items there are; what: the line's beginning, "decoding images" say.
    """
    return _bar(items, total, what) if sys.stderr.isatty() else _lines(items, total, what)


def threaded(function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    """Apply a function in threads and give the results in order, a bounded number ahead of whoever takes them."""
    return track(_ahead(function, items), len(items), what)


def _ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    workers = machine.this().cores
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    started = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, visible=False)
        for item in items:
            yield item
            progress.update(task, advance=1, visible=time.monotonic() - started > _PATIENCE_S)


def _lines(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said > _LOG_EVERY_S:
            said = time.monotonic()
            log.info("%s: %d of %d", what, count, total)
