"""Survey: time small networks on a backend of this machine and find what its kernels cost."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgecv.cost import fit, measure
from edgecv.cost.design import Micro, micro_networks
from edgecv.cost.kernels import Kernel, kernels
from edgecv.cost.record import Survey, Timed
from edgecv_runtime import machine
from edgecv_runtime.backends import Options, get
from edgecv_runtime.errors import BadInput, ComputationError, Unavailable
from edgecv_runtime.manifest import Precision

SECONDS, FEWEST = 60.0, 10
COARSE = 0.6  # a left-out error that no quiet machine gives (10 to 27 % in benchmarks/device_cost/results.md) ...
ENOUGH = 100  # ... with so many networks; with fewer, a coarse model is what was asked for
TIMING = 0.93  # of the seconds; the rest is for the fit


@dataclass(frozen=True)
class Sample:
    """A timed network."""

    micro: Micro
    kernels: tuple[Kernel, ...]
    ms: float


def survey(
    backend: str,
    precision: Precision = "float32",
    *,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Measure what this machine does with each kind of layer on a backend.

    seconds: at most; with fewer, fewer networks are timed (but FEWEST) and the prediction is coarser. A measurement
    that contradicts itself, on a machine that does other work meanwhile, is repeated once.
    Raises BackendUnavailable when the backend does not work here, Unavailable when onnx is missing, BadInput when the
    backend has no such precision, ComputationError when the repetition contradicts itself, too.
    """
    if seconds <= 0:
        raise BadInput(f"seconds must be positive, got {seconds}")
    kind = get(backend)
    versions = kind.probe()
    if precision not in kind.precisions():
        raise BadInput(f"{backend} does not run {precision} here; it runs: {', '.join(kind.precisions())}")
    done = _measured(backend, versions, precision, seconds, progress)
    if _is_coarse(done):
        progress(f"{done.key}: left-out error {done.error:.0%}: the machine was disturbed; measuring once more")
        done = _measured(backend, versions, precision, seconds, progress)
    if _is_coarse(done):
        raise ComputationError(
            f"{done.key}: its left-out error is {done.error:.0%}, also when measured again: something else uses this "
            "machine, and no survey is kept; survey when it is quiet, or with more --seconds"
        )
    return done


def _is_coarse(found: Survey) -> bool:
    return found.error > COARSE and len(found.timed) >= ENOUGH


def _measured(
    backend: str, versions: dict[str, str], precision: Precision, seconds: float, progress: Callable[[str], None]
) -> Survey:
    start = time.perf_counter()
    samples, reference_ms = time_networks(backend, precision, micro_networks(), start + TIMING * seconds, progress)
    found = fit.fit([sample.kernels for sample in samples], [sample.ms for sample in samples])
    return Survey(
        machine=machine.this(),
        backend=backend,
        versions=versions,
        precision=precision,
        costs=found.costs,
        limits=found.limits,
        error=found.error,
        seconds=time.perf_counter() - start,
        reference_ms=reference_ms,
        timed=tuple(
            Timed(sample.micro.name, sample.ms, left_out)
            for sample, left_out in zip(samples, found.left_out_ms, strict=True)
        ),
    )


def micro_kernels(backend: str, networks: Sequence[Micro]) -> list[list[Kernel]]:
    """The kernels of small networks, without timing them."""
    from edgecv.xray import from_onnx

    found = []
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        path = Path(folder) / "micro.onnx"
        for micro in networks:
            path.write_bytes(micro.build().model())
            found.append(kernels(from_onnx.read(path), backend))
    return found


def time_networks(
    backend: str, precision: Precision, networks: Sequence[Micro], end: float, progress: Callable[[str], None]
) -> tuple[list[Sample], float]:
    """Time networks one after the other until they or the time end; a disturbed machine makes it take longer."""
    try:
        from edgecv.xray import from_onnx
    except ModuleNotFoundError as exc:
        raise Unavailable(f"surveying needs {exc.name}: pip install {exc.name}") from exc
    options = Options(precision=precision)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="edgecv-") as name:
        folder = Path(name)
        clock = measure.reference(folder, backend, options)
        for number, micro in enumerate(networks):
            if time.perf_counter() > end and number >= FEWEST:
                break
            if number % 50 == 0:
                progress(f"{backend} {precision}: {number} of {len(networks)} small networks")
            net = micro.build()
            path = folder / "micro.onnx"
            path.write_bytes(net.model())
            graph = from_onnx.read(path)
            opened = get(backend)(path, options)
            ms = clock(partial(opened.run, measure.feed_of(net)))
            opened.close()
            samples.append(Sample(micro, tuple(kernels(graph, backend)), ms))
            gc.collect()
        return samples, clock.fastest_ms
