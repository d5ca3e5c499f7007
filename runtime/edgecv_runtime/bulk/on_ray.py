"""Chunks on the machines of a Ray cluster: Ray Data with a pool of actors, each with a process that computes.

Two things hang Ray Data without a word, and are kept from happening here. Tasks that read starve where actors have
every CPU: there are none, for the chunks are read by the process that writes the parts. And an actor of a machine that
is lost waits for a CPU on another one: actors reserve half of what they use, so that half the machines may go.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from edgecv_runtime.addresses import parse_address
from edgecv_runtime.bulk.inputs import Chunk
from edgecv_runtime.bulk.worker import HANGS_S, Part, Worker
from edgecv_runtime.errors import ComputationError, EdgecvError, Unavailable
from edgecv_runtime.predictor import Predictor

_TOGETHER = 2048  # chunks that Ray has at once, as names
_RESERVED = 0.5  # of the CPUs that an actor uses
_LISTENS_S = 5.0
_SILENT_S = 30.0  # without a part, after which it is told


class Actor:
    """What a node runs: chunk in, part out."""

    def __init__(self, predictor: Predictor, bundle: str, folder: str, hangs_s: float) -> None:
        """folder: from which relative paths are read."""
        self._worker = Worker(predictor, bundle, hangs_s, folder)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Compute a chunk -> the part, or the error that ends the job: one that is raised here loses its type."""
        names = msgspec.msgpack.decode(row["names"], type=list[bytes])
        try:
            made: Part | EdgecvError = self._worker.compute(Chunk(int(row["number"]), tuple(map(os.fsdecode, names))))
        except EdgecvError as exc:
            made = exc
        return {"made": pickle.dumps(made)}


def computed(
    predictor: Predictor,
    bundle: str,
    chunks: Iterator[Chunk],
    ray: Any,
    workers: int,
    told: Callable[[str], object],
    hangs_s: float = HANGS_S,
) -> Iterator[Part]:
    """Parts as they are ready. ray: see `connect`. workers: actors, 0 for as many as the cluster has room for."""
    threads = predictor.options["threads"]
    cpus = ray.cluster_resources().get("CPU", 0.0)
    count = workers or max(1, int(cpus // threads))
    told(f"Ray: {len(ray.nodes())} machines, {cpus:g} CPUs, {count} actors")
    given = (predictor, bundle, str(Path.cwd()), hangs_s)
    while some := list(islice(chunks, _TOGETHER)):
        rows = [
            {"number": each.number, "names": msgspec.msgpack.encode([os.fsencode(name) for name in each.names])}
            for each in some
        ]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Actor,
            fn_constructor_args=given,
            num_cpus=_RESERVED * threads,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(rows)), max_tasks_in_flight_per_actor=2),
        )
        with _translated(ray), _Watch(ray, told) as watch:
            for row in found.iter_rows():
                watch.saw_one()
                made = pickle.loads(row["made"])
                if isinstance(made, EdgecvError):
                    raise made
                yield made


def connect(address: str) -> Any:
    """Join the cluster at an address, or start one of this machine ("local") -> Ray; raises Unavailable."""
    # Ray reports its use to its makers unless it is told not to; edgecv sends nothing.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray import data
    except ImportError as exc:
        raise Unavailable("--ray wants Ray", extra="ray") from exc
    if not ray.is_initialized():
        _check_listens(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as exc:
            text = " ".join(str(exc).split())
            raise Unavailable(f"Ray at '{address}': {text}; 'local' starts one on this machine") from exc
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    return ray


def _check_listens(address: str) -> None:
    """Ray itself tries for two minutes."""
    if "://" in address or ":" not in address:
        return
    try:
        socket.create_connection(parse_address(address), _LISTENS_S).close()
    except OSError as exc:
        raise Unavailable(f"Ray at '{address}': {exc.strerror or exc}; 'local' starts one on this machine") from exc


@contextmanager
def _translated(ray: Any) -> Iterator[None]:
    """One line of what Ray raises."""
    try:
        yield
    except ray.exceptions.RayError as exc:
        raise ComputationError(f"Ray: {type(exc).__name__}: {' '.join(str(exc).split())}") from exc


class _Watch:
    """Tells when nothing comes: Ray waits for ever for machines, CPUs or memory, and says nothing."""

    def __init__(self, ray: Any, told: Callable[[str], object]) -> None:
        self._ray = ray
        self._told = told
        self._last_s = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="edgecv-ray", daemon=True)

    def saw_one(self) -> None:
        """A part has come."""
        self._last_s = time.monotonic()

    def _look(self) -> None:
        while not self._end.wait(_SILENT_S):
            silent_s = time.monotonic() - self._last_s
            if silent_s >= _SILENT_S:
                free = self._ray.available_resources().get("CPU", 0.0)
                self._told(f"nothing has come from Ray for {silent_s:.0f} s; {free:g} CPUs are free (ray status)")

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
