"""Latency of every variant on every backend: interleaved rounds, percentiles of single calls, peak memory."""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone

import msgspec
import numpy as np

from edgecv_runtime.backends import Injected
from edgecv_runtime.bench.process import PAIRS, Worker, measure_round
from edgecv_runtime.bench.quiet import Watch
from edgecv_runtime.bench.worker import Job
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.evidence import Entry, Latency
from edgecv_runtime.target import Target, failed_entry, new_entry, targets
from edgecv_runtime.timing import STEADY

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
    partly: Callable[[list[Entry]], object] = lambda _: None,
) -> list[Entry]:
    """Time every variant on every backend of this machine, or on the one that is named or injected.

    seconds: of one round of one target; rounds: each of blocks in mirrored order, so that drift of the machine's speed
    falls on all alike, and times of the same moment make ratios. threads: 0 leaves the number to the backend.
    The entries hold latency only; the evidence of the same files keeps their agreement and accuracy.
    partly: is given those of the rounds that were whole when Ctrl-C comes, before it is raised.
    """
    if seconds <= 0 or rounds < 1 or batch < 1 or threads < 0:
        raise BadInput(
            "seconds must be positive, rounds and batch at least 1, threads at least 0: "
            f"got {seconds}, {rounds}, {batch}, {threads}"
        )
    found = targets(bundle, backend, threads)
    watch = Watch()
    with ExitStack() as stack:
        running: dict[str, tuple[Target, Worker]] = {}
        failed = []
        for target in found:
            progress(f"load {target.key}")
            worker = stack.enter_context(Worker(target.key))
            try:
                worker.load(job(bundle, target, batch))
                running[target.key] = target, worker
            except ComputationError as exc:
                failed.append(failed_entry(target, exc))
        if not running:
            raise ComputationError(f"{bundle.path}: nothing could be timed: {failed[0].failed}")
        workers = [worker for _, worker in running.values()]
        whole = 0
        interrupt: KeyboardInterrupt | None = None
        try:
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}")
                turn = workers if number % 2 == 0 else workers[::-1]
                with watch.over(workers):
                    measure_round(turn, seconds)
                    for worker in turn:
                        worker.measure_frames(seconds / 2)
                whole = number + 1
        except KeyboardInterrupt as exc:
            if not whole:
                raise
            interrupt = exc
            for worker in workers:
                worker.keep(whole)
    apart = float(np.median([_apart(worker) for worker in workers]))
    if apart > STEADY:
        progress(
            f"warning: the machine's speed changed meanwhile: rounds of one file lie {apart:.1f} times apart; "
            "only ratios of what was measured side by side still tell"
        )
    for line in watch.found().said:
        progress(f"warning: {line}")
    session = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {secrets.token_hex(3)}"
    entries = [_entry(target, worker, batch, whole, session) for target, worker in running.values()] + failed
    if interrupt is not None:
        partly(entries)
        raise interrupt
    return entries


def job(bundle: Bundle, target: Target, batch: int = 1) -> Job:
    """What a benchmark process has to load."""
    injected = b"" if target.injected is None else _pickled(target.injected)
    return Job(
        str(bundle.root), target.variant, target.backend, target.hint, target.threads, batch, FRAME_SIZE, injected
    )


def _pickled(backend: Injected) -> bytes:
    try:
        return pickle.dumps(backend)
    except Exception as exc:  # somebody else's class may fail in any way
        raise BadInput(
            f"backend {backend.name} runs in a process of its own here, and cannot be pickled: {exc}"
        ) from exc


def _apart(worker: Worker) -> float:
    """How many times as long as its fastest round a target's slowest takes, by their medians."""
    size = 2 * PAIRS
    rounds = [worker.blocks[start : start + size] for start in range(0, len(worker.blocks), size)]
    medians = [float(np.median(np.concatenate([block.ms for block in blocks]))) for blocks in rounds]
    return max(medians) / min(medians)


def _entry(target: Target, worker: Worker, batch: int, rounds: int, session: str) -> Entry:
    run_ms = np.concatenate([each.ms for each in worker.blocks])
    frame_ms = np.concatenate([each.ms for each in worker.frames])
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
            peak_rss_mb=worker.frames[-1].peak_rss_mb,
            threads=target.threads or target.machine.cores,
            apart=_apart(worker),
            session=session,
            block_ms=tuple(float(np.median(each.ms)) for each in worker.blocks),
        ),
    )
