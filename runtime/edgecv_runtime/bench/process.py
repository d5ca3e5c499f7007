"""Benchmark processes as who started them sees them: load, measure a block, end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import msgspec

from edgecv_runtime import spawned
from edgecv_runtime.backends import Executed
from edgecv_runtime.bench.worker import Ask, Job, Ready, Round
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.lastwords import LONGEST, LastWords

T = TypeVar("T")
_CODE = "from edgecv_runtime.bench.worker import main; sys.exit(main())"
PAIRS = 4  # of mirrored blocks in a round: short ones, so that a phase of the machine is the same for both


class Worker:
    """A benchmark process and what it has measured so far.

    key: its name in messages. command: what runs `edgecv_runtime.bench.worker`; by default this Python.
    environment: of the process; None for this one's.
    """

    def __init__(self, key: str, command: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.key = key
        self.ready = Ready(0.0, Executed("", {}))
        self.blocks: list[Round] = []
        self.frames: list[Round] = []
        self._process = subprocess.Popen(
            command or spawned.command(_CODE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment if command or environment is not None else spawned.environment(),
        )
        self._words = LastWords(self._process.stderr)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def load(self, job: Job) -> None:
        """Have it load its target; raises ComputationError with the process's last words when it cannot."""
        self.begin(job)
        self.wait()

    def begin(self, job: Job) -> None:
        """Let it begin to load, while others do."""
        self._tell(job)

    def wait(self) -> None:
        """Wait until it has loaded; raises as `load` does."""
        self.ready = self._hear(Ready)

    def measure(self, seconds: float) -> None:
        """Time calls on a ready tensor for one block."""
        self.blocks.append(self._timed(Ask(seconds)))

    def measure_frames(self, seconds: float) -> None:
        """Time calls from a frame to its result."""
        self.frames.append(self._timed(Ask(seconds, of_frames=True)))

    def keep(self, rounds: int) -> None:
        """Forget what was measured beyond so many whole rounds."""
        self.blocks, self.frames = self.blocks[: 2 * PAIRS * rounds], self.frames[:rounds]

    def _timed(self, ask: Ask) -> Round:
        self._tell(ask)
        return self._hear(Round)

    def _tell(self, question: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it says instead of an answer tells why
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()

    def _hear(self, kind: type[T]) -> T:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            last = self._words.last()[:LONGEST] or "no message"
            raise ComputationError(f"{self.key}: the benchmark process ended: {last}")
        return msgspec.json.decode(answer, type=kind)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was still to be sent to a process that has ended
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure_round(workers: Sequence[Worker], seconds: float) -> None:
    """One interleaved round: mirrored pairs of blocks (A B C C B A), `seconds` of each worker in all."""
    for _ in range(PAIRS):
        for worker in (*workers, *reversed(workers)):
            worker.measure(seconds / (2 * PAIRS))
