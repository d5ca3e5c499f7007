"""Latency of every variant on every backend: interleaved rounds, percentiles of single calls, peak memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np

from edgecv_runtime.backends import Executed, Injected
from edgecv_runtime.bench.worker import Job, Ready, Round
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.evidence import Entry, Latency
from edgecv_runtime.target import Target, failed_entry, new_entry, targets
from edgecv_runtime.timing import STEADY

T = TypeVar("T")
FRAME_SIZE = (1080, 1920)


def bench(
    bundle: Bundle,
    *,
    backend: str | Injected = "auto",
    seconds: float = 0.5,
    rounds: int = 5,
    batch: int = 1,
    threads: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Entry]:
    """Time every variant on every backend of this machine, or on the one that is named or injected.

    seconds: of one round of one target; rounds: interleaved, every second one in reverse order, so that drift of the
    machine's speed falls on all alike. threads: 0 leaves the number to the backend.
    The entries hold latency only; the evidence of the same files keeps their agreement and accuracy.
    """
    if seconds <= 0 or rounds < 1 or batch < 1 or threads < 0:
        raise BadInput(
            "seconds must be positive, rounds and batch at least 1, threads at least 0: "
            f"got {seconds}, {rounds}, {batch}, {threads}"
        )
    found = targets(bundle, backend, threads)
    with ExitStack() as stack:
        workers, failed = [], []
        for target in found:
            progress(f"load {target.key}")
            worker = stack.enter_context(_Worker(target))
            try:
                worker.load(bundle, batch)
                workers.append(worker)
            except ComputationError as exc:
                failed.append(failed_entry(target, exc))
        if not workers:
            raise ComputationError(f"{bundle.path}: nothing could be timed: {failed[0].failed}")
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.measure(seconds)
    apart = float(np.median([_apart(worker.rounds) for worker in workers]))
    if apart > STEADY:
        progress(
            f"warning: the machine's speed changed meanwhile: rounds of one file lie {apart:.1f} times apart; "
            "a quiet machine may judge otherwise"
        )
    return [_entry(worker, batch, rounds) for worker in workers] + failed


class _Worker:
    """A benchmark process and what it has measured so far."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.ready = Ready(0.0, Executed("", {}))
        self.rounds: list[Round] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgecv_runtime.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def load(self, bundle: Bundle, batch: int) -> None:
        """Have it load the target; raises ComputationError with the process's last words when it cannot."""
        target = self.target
        job = Job(
            str(bundle.root), target.variant, target.backend, target.hint, target.threads, batch, FRAME_SIZE,
            b"" if target.injected is None else _pickled(target.injected),
        )  # fmt: skip
        self.ready = self._ask(job, Ready)

    def measure(self, seconds: float) -> None:
        self.rounds.append(self._ask({"seconds": seconds}, Round))

    def _ask(self, question: object, kind: type[T]) -> T:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            answer = b""
        else:
            answer = self._process.stdout.readline()
        if not answer:
            lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self._process.wait()
            raise ComputationError(
                f"{self.target.key}: the benchmark process ended: {lines[-1] if lines else 'no message'}"
            )
        return msgspec.json.decode(answer, type=kind)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was still to be sent to a process that has ended
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _pickled(backend: Injected) -> bytes:
    try:
        return pickle.dumps(backend)
    except Exception as exc:  # somebody else's class may fail in any way
        raise BadInput(
            f"backend {backend.name} runs in a process of its own here, and cannot be pickled: {exc}"
        ) from exc


def _apart(rounds: list[Round]) -> float:
    """How many times as long as a target's fastest round its slowest takes, by their medians."""
    medians = [float(np.median(each.run_ms)) for each in rounds]
    return max(medians) / min(medians)


def _entry(worker: _Worker, batch: int, rounds: int) -> Entry:
    target = worker.target
    run_ms = np.concatenate([each.run_ms for each in worker.rounds])
    frame_ms = np.concatenate([each.frame_ms for each in worker.rounds])
    p50, p90, p99 = np.percentile(run_ms, [50, 90, 99])
    return msgspec.structs.replace(
        new_entry(target, worker.ready.executed),
        latency=Latency(
            batch=batch,
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            max_ms=float(run_ms.max()),
            runs=len(run_ms),
            rounds=rounds,
            throughput_per_s=batch * 1e3 * len(run_ms) / float(run_ms.sum()),
            frame_p50_ms=float(np.median(frame_ms)),
            frame_size=FRAME_SIZE,
            load_ms=worker.ready.load_ms,
            peak_rss_mb=worker.rounds[-1].peak_rss_mb,
            threads=target.threads or target.machine.cores,
            apart=_apart(worker.rounds),
        ),
    )
