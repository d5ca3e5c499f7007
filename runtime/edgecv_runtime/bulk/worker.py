"""One process that computes chunks, and what happens when it crashes or hangs: it is replaced, and the picture told.

A chunk whose process ended is computed again picture by picture; the one at which it ends once more gets a row with
that as its error. Libraries that decode strangers' files do crash, and one file of a million shall not cost the others.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from typing import NamedTuple

from edgecv_runtime import spawned
from edgecv_runtime.bulk.inputs import Chunk
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.predictor import Predictor

HANGS_S = 120.0  # without a sign of life, which comes before each 64 pictures, or each one when that took too long
_LOADS_S = 600.0  # a graph that is compiled for the first time may take minutes
_LEAVES_S = 2.0  # between closing its pipe and ending
_TRIES = 3  # of a process that ends before it has begun a picture
_BLAMED = 2  # times that a process must end at a picture until it is the picture's fault
_CODE = "from edgecv_runtime.bulk.child import main; main({})"


class Part(NamedTuple):
    """What was computed of a chunk: its rows, encoded, and how many of its pictures have an error."""

    number: int
    content: bytes
    images: int
    errors: int


class Worker:
    """A process of its own; `begin` a chunk, wait for `channel`, and `advance` until the part is there."""

    def __init__(self, predictor: Predictor, bundle: str, hangs_s: float = HANGS_S, folder: str | None = None) -> None:
        """bundle: the content that must be what the process loads, see `job.content`. folder: where it runs."""
        self._sent = (predictor, bundle)
        self._hangs_s = hangs_s
        self._folder = folder
        self._chunk = Chunk(0, ())
        self._together = True
        self._at: int | None = None  # the picture that is computed, the first of those that are
        self._known: dict[int, str] = {}  # pictures that ended a process, and how
        self._ended: Counter[int] = Counter()
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self.channel, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed with the process
        with theirs:
            self._process = subprocess.Popen(
                spawned.command(_CODE.format(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                cwd=self._folder,
            )
        self._ready = False
        self._at = None
        self.until_s = time.monotonic() + _LOADS_S
        self._send(self._sent)

    def begin(self, chunk: Chunk) -> None:
        """Have a chunk computed."""
        self._chunk, self._together, self._known = chunk, True, {}
        self._ended.clear()
        self._ask()

    def _ask(self) -> None:
        if self._ready:
            self.until_s = time.monotonic() + self._hangs_s
        self._send((self._chunk.names, self._known, self._together))

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `advance` finds that
            self.channel.send(message)

    def advance(self) -> Part | None:
        """Take what the process has said, or that it has ended or hangs; the part when it is whole.

        Raises the error for which the job cannot go on.
        """
        try:
            if not self.channel.poll():
                if time.monotonic() >= self.until_s:
                    self._replace(f"it took more than {self._hangs_s:g} s")
                return None
            kind, content = self.channel.recv()
        except (EOFError, OSError):  # also in the middle of a message
            self._replace(None)
            return None
        self.until_s = time.monotonic() + self._hangs_s
        if kind == "failed":
            raise content
        if kind == "ready":
            self._ready = True
        elif kind == "at":
            self._at = content
        elif kind == "part":
            self._failures, self._at = 0, None
            self._stderr.truncate(0)
            return Part(self._chunk.number, *content)
        return None

    def _replace(self, why: str | None) -> None:
        """Another process for the same chunk; it goes picture by picture, so that the one that ends it is known."""
        at, ended = self._at, self._close(_LEAVES_S if why is None else 0.0)
        how = why or f"the process that computed it ended {ended}"
        if at is None:
            self._failures += 1
            if self._failures == _TRIES:
                raise ComputationError(f"{self._sent[0].source}: a process for it ends or hangs: {how}")
        elif not self._together:
            self._ended[at] += 1
            if self._ended[at] == _BLAMED:
                self._known[at] = f"{self._chunk.names[at]}: {how}"
        else:
            self._together = False
        self._start()
        self._ask()

    def compute(self, chunk: Chunk) -> Part:
        """A chunk from its beginning to its end."""
        self.begin(chunk)
        while True:
            wait([self.channel], max(0.0, self.until_s - time.monotonic()))
            part = self.advance()
            if part is not None:
                return part

    def close(self) -> None:
        """End the process; closing twice is fine."""
        if not self.channel.closed:
            self._close(0.0)

    def _close(self, leaves_s: float) -> str:
        """End the process, which has so long to end by itself -> how it did, and its last words."""
        self.channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(leaves_s)
        self._process.kill()
        code = self._process.wait()
        with self._stderr:
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{f'by {_signal(-code)}' if code < 0 else f'with code {code}'}{f': {words}' if words else ''}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def computed(
    predictor: Predictor, bundle: str, chunks: Iterator[Chunk], count: int, hangs_s: float = HANGS_S
) -> Iterator[Part]:
    """Parts as they are ready, of chunks that are taken as processes get free: `count` of them."""
    busy: list[Worker] = []
    try:
        for _, chunk in zip(range(count), chunks, strict=False):  # in this order none is taken and lost
            busy.append(Worker(predictor, bundle, hangs_s))
            busy[-1].begin(chunk)
        while busy:
            until_s = min(worker.until_s for worker in busy)
            wait([worker.channel for worker in busy], max(0.0, until_s - time.monotonic()))
            for worker in list(busy):
                part = worker.advance()
                if part is None:
                    continue
                yield part
                following = next(chunks, None)
                if following is not None:
                    worker.begin(following)
                else:
                    busy.remove(worker)
                    worker.close()
    finally:
        for worker in busy:
            worker.close()
