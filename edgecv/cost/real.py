"""Real runs that a prediction is held against: a bundle's evidence, or a measurement here and now."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from edgecv.cost.measure import reference
from edgecv.cost.predict import Prediction
from edgecv_runtime import machine, onnxfile
from edgecv_runtime.backends import Options, get
from edgecv_runtime.bundle import ARCHIVE_SUFFIX, Bundle
from edgecv_runtime.errors import BadInput

RUNS, SECONDS = 5, 0.15


def evidence_ms(what: str, variant: str, prediction: Prediction) -> float | None:
    """The median latency that a bundle's evidence holds for a prediction's machine, backend and precision, or None."""
    if not is_bundle(what):
        return None
    with Bundle(what) as opened:
        for entry in opened.evidence().entries:
            same = (entry.variant, entry.backend, entry.hint) == (variant, prediction.backend, prediction.precision)
            if same and entry.machine.key == prediction.machine and entry.latency and entry.latency.batch == 1:
                return entry.latency.p50_ms
    return None


def measure_ms(what: str, variant: str, prediction: Prediction) -> tuple[float, float]:
    """Run a network on this machine, undisturbed calls; milliseconds of it and of the reference network beside it.

    what: an ONNX file, a bundle, or a model of the zoo, which is exported with fresh weights first.
    Raises BadInput when the prediction is for another machine.
    """
    if prediction.machine != machine.this().key:
        raise BadInput(f"--measure runs here, on {machine.this().key}; the calibration is of {prediction.machine}")
    options = Options(precision=prediction.precision)
    if is_bundle(what):
        with Bundle(what) as opened:
            return file_ms(opened.variant_file(variant), prediction.backend, options)
    if Path(what).is_file():
        return file_ms(Path(what), prediction.backend, options)
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        path = Path(folder) / "model.onnx"
        export(what, path)
        return file_ms(path, prediction.backend, options)


def is_bundle(what: str) -> bool:
    """Whether a name is a bundle's."""
    return Path(what).is_dir() or Path(what).suffix == ARCHIVE_SUFFIX


def file_ms(path: Path, backend: str, options: Options) -> tuple[float, float]:
    """The fastest of many calls of an ONNX file at batch 1 on random input, and of the reference beside it."""
    header = onnxfile.read(path)
    random = np.random.default_rng(0)
    feeds = {}
    for spec in header.inputs:
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
        values = random.integers(0, 256, shape) if whole else random.standard_normal(shape)
        feeds[spec.name] = values.astype(spec.dtype)
    opened = get(backend)(path, options)
    try:
        with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
            clock = reference(Path(folder), backend, options)
            return clock(partial(opened.run, feeds), runs=RUNS, seconds=SECONDS), clock.reference_ms
    finally:
        opened.close()


def export(name: str, path: Path) -> None:
    """Write a model of the zoo that takes pictures as edgecv deploys it, with fresh weights."""
    from edgecv import models
    from edgecv_export import graph

    spec = models.spec(name)
    height, width = spec.size
    deployed = graph.Deployed(models.create(name, seed=0), spec.normalization)
    path.write_bytes(graph.to_onnx(deployed, (height, width), 3, "output", {}).SerializeToString())
