"""A source in a process of its own: a crash or a hang inside a decoder or a driver ends that process only.

Threads do not isolate: a damaged H.264 stream can kill the interpreter inside libav (PyAV#2345), a driver can hang
where no timeout reaches. The process is spawned, never forked, because a fork of a process with threads may lock up in
any library. Whether it still works is judged by the thread that decodes, not by whether the process lives.

What a decoder gives is converted into memory that both processes share: an image is copied nowhere.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from edgecv_runtime import spawned
from edgecv_runtime.errors import BadInput, SourceUnavailable
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.redact import redact, secrets_known
from edgecv_runtime.stream.sources import ring
from edgecv_runtime.stream.sources.base import Facts, Shot, Shots, Source
from edgecv_runtime.stream.sources.child import GO, STOP

_POLL_S = 0.1
_SILENT = 4.0  # times timeout_s: as long as an open with all that it tries, or a source that tells no signs, may take
_SLACK_S = 1.0  # beyond its own timeout, in which a source should have said what is wrong
_START_S = 30.0  # for an interpreter to start on a busy board
_LEAVE_S = 0.5  # for a polite end (RTSP's TEARDOWN), before it is killed
_TOLD = 5  # last lines on its stderr
_CODE = "from edgecv_runtime.stream.sources.child import main; main({})"
# Not on Windows, and not where Python is embedded in another program.
AVAILABLE = hasattr(socket, "send_fds") and hasattr(select, "poll") and bool(sys.executable)


class Isolated(Source):
    """Another source, decoded in a spawned child: `Isolated(open_source("rtsp://..."))`.

    The source given is never opened in this process; its `again` makes it in the child, to which it goes through a
    socket, so that no password stands in a list of processes.
    """

    def __init__(self, source: Source, *, lossless: bool = False) -> None:
        """lossless: a frame waits for its slot, and is not dropped as "late" when pictures are not taken in time.

        Raises BadInput for a source that nobody knows how to make again."""
        if source.again is None:
            raise BadInput(f"{source.name}: cannot be isolated; open_source makes sources that can")
        super().__init__(source.name, live=source.live, timeout_s=source.timeout_s)
        self._make = source.again
        self._lossless = lossless
        self.again = partial(_isolated, source.again, lossless)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._inbox: ring.Inbox | None = None
        self._slots: ring.Slots | None = None
        self._generation = 0
        self._held: set[int] = set()  # slots whose pictures are in use
        self._ready = False
        self._awake_ns = 0
        self._said: deque[str] = deque(maxlen=_TOLD)
        self._unread: deque[ring.Message] = deque()

    def prepare(self) -> None:
        """Start the process, so that it is there when the source is opened; it does not touch the camera before."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                spawned.command(_CODE.format(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=spawned.environment(),
                start_new_session=True,  # Ctrl-C is for us
            )
        self._channel, self._inbox = ours, ring.Inbox(ours)
        setup = pickle.dumps((self._make, self.name, self._lossless, secrets_known()))
        ours.sendall(len(setup).to_bytes(4, "little") + setup)

    def interrupt(self) -> None:
        super().interrupt()
        channel = self._channel
        if channel is not None:
            with suppress(OSError):
                channel.send(STOP)

    def close(self) -> None:
        super().close()
        if not self._opened and self._using.acquire(blocking=False):
            try:  # it was prepared and never opened
                self._release()
            finally:
                self._using.release()

    @property
    def process_id(self) -> int | None:
        """Of the child, None before it is started and after it has ended."""
        return self._process.pid if self._process is not None else None

    def _open(self) -> Facts:
        self.prepare()
        if self._channel is not None:
            with suppress(OSError):  # a child that is dead is noticed below
                self._channel.send(GO)
        limit_s = _START_S
        began_s = time.monotonic()
        while True:
            message = self._heard()
            if isinstance(message, ring.Ready):
                self._ready = True
                limit_s, began_s = _SILENT * self.timeout_s + _SLACK_S, time.monotonic()
            elif isinstance(message, ring.Opened):
                return Facts(message.live, message.size, message.fps, message.declared_frames, message.codec)
            elif isinstance(message, ring.Ended):
                end = _end_of(message)
                raise end.error() or SourceUnavailable(end.detail, kind="failed")
            if self._interrupted.is_set():
                raise SourceUnavailable(f"{self.name}: was closed meanwhile", kind="lost")
            if time.monotonic() - began_s > limit_s:
                raise self._hung(time.monotonic() - began_s)

    def _shots(self) -> Shots:
        self._awake_ns = time.monotonic_ns()
        while True:
            message = self._heard()
            if isinstance(message, ring.Picture):
                yield self._shot(message)
                self._awake_ns = time.monotonic_ns()  # meanwhile it may have waited for us
            elif isinstance(message, ring.Ended):
                end = _end_of(message)
                error = end.error()
                if error is None:
                    return end
                self._finish(end)  # with what it left out, which no exception tells
                raise error
            if self._interrupted.is_set():
                return End("stopped")
            silent_s = (time.monotonic_ns() - self._awake_ns) / 1e9
            if silent_s > self.timeout_s + _SLACK_S and silent_s > self._limit_s():
                raise self._hung(silent_s)

    def _limit_s(self) -> float:
        return self.timeout_s + _SLACK_S if self.awake_ns else _SILENT * self.timeout_s + _SLACK_S

    def _heard(self) -> ring.Message | None:
        """The next thing that the child says; None when it says nothing within a moment, or it is settled here.

        Each in its turn: a picture lies in the memory that was told before it, and what comes with an answer is kept.
        """
        if not self._unread:
            self._unread.extend(self._receive())
        message = self._unread.popleft() if self._unread else None
        return None if message is None or self._taken(message) else message

    def _receive(self) -> list[ring.Message]:
        """What the child says within a moment; raises SourceUnavailable when it is dead."""
        assert self._process is not None
        assert self._channel is not None
        assert self._inbox is not None
        error_output = self._process.stderr
        poll = select.poll()  # `select` ends at 1,024 descriptors
        poll.register(self._channel, select.POLLIN)
        if error_output is not None and not error_output.closed:
            poll.register(error_output, select.POLLIN)
        readable = {descriptor for descriptor, _ in poll.poll(_POLL_S * 1000)}
        if error_output is not None and not error_output.closed and error_output.fileno() in readable:
            self._listen_to(error_output.fileno())
        if self._channel.fileno() not in readable:
            return []
        try:
            messages = self._inbox.receive()
        except (ValueError, OSError) as exc:  # not what our own code sends: its memory is damaged
            raise self._dead(f"sent what is no message: {exc}") from exc
        if messages is None:
            raise self._dead()
        return messages

    def _taken(self, message: ring.Message) -> bool:
        """Messages that are settled here."""
        assert self._inbox is not None
        if isinstance(message, ring.Memory):
            self._slots = ring.Slots(self._inbox.descriptors.pop(0), message.slot_bytes)
            self._generation += 1
            self._held = set()
        elif isinstance(message, ring.Pulse):
            self.alive_ns, self.awake_ns = message.alive_ns, message.awake_ns
            self._awake_ns = max(self._awake_ns, message.awake_ns, message.alive_ns)
        else:
            return False
        return True

    def _shot(self, message: ring.Picture) -> Shot:
        assert self._slots is not None
        assert self._channel is not None
        held, channel, word = self._held, self._channel, ring.freed(self._generation, message.slot)
        held.add(message.slot)

        def gone() -> None:
            held.discard(message.slot)
            with suppress(OSError):  # the child is gone, too
                channel.send(word)

        try:
            image = self._slots.image(message.slot, message.size, gone)
        except ValueError as exc:
            raise self._dead(str(exc)) from exc
        if len(held) >= ring.SLOTS:  # somebody keeps images (a slow sink): the child must have one to write
            image = image.copy()
        return Shot(image, message.pts_s, message.captured_ns, message.path, message.damaged, message.skipped)

    def _listen_to(self, descriptor: int) -> None:
        assert self._process is not None
        text = os.read(descriptor, 4096).decode(errors="replace")
        if not text:
            if self._process.stderr is not None:
                self._process.stderr.close()
            return
        self._said.extend(redact(line) for line in text.splitlines() if line.strip())

    def _dead(self, why: str = "") -> SourceUnavailable:
        """How the child ended, told apart: by a signal is a crash."""
        assert self._process is not None
        try:
            code = self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            code = 0
        if not why:
            why = f"died of {_signal(-code)}" if code < 0 else f"ended with code {code}"
        said = f" ({self._said[-1]})" if self._said else ""
        kind = "crashed" if self._ready or code < 0 else "not installed"  # what does not start is not tried again
        return SourceUnavailable(f"{self.name}: the process that decodes it {why}{said}", kind=kind)

    def _hung(self, seconds: float) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.name}: the process that decodes it hung for {seconds:.1f} s and was killed", kind="crashed"
        )

    def _release(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        channel, self._channel = self._channel, None
        if self.end is None or self.end.kind == "crashed":  # there is nothing to end in order
            process.kill()
        try:
            process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if channel is not None:
            channel.close()
        if process.stderr is not None:
            process.stderr.close()
        if self._inbox is not None:
            for descriptor in self._inbox.descriptors:
                os.close(descriptor)
            self._inbox.descriptors.clear()


def isolated(source: Source, *, lossless: bool = False) -> Source:
    """A source that may crash its process, in one of its own where this system can; any other as it is."""
    fit = AVAILABLE and source.native and source.live and source.again is not None
    return Isolated(source, lossless=lossless) if fit and not isinstance(source, Isolated) else source


def _isolated(make: Callable[[], Source], lossless: bool) -> Isolated:
    return Isolated(make(), lossless=lossless)


def _end_of(message: ring.Ended) -> End:
    return End(message.kind, message.detail, message.damaged, message.first_damaged, message.skipped)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
