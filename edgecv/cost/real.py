"""Real runs that a prediction is held against: a bundle's evidence, or a measurement here and now."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from edgecv.cost.measure import reference
from edgecv.cost.predict import Prediction
from edgecv.xray.extent import Shape
from edgecv.xray.graph import Graph
from edgecv.xray.named import Bundled, File, Named
from edgecv_runtime import machine, onnxfile
from edgecv_runtime.backends import Options, get
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput

RUNS, SECONDS = 5, 0.15


def evidence_ms(named: Named, prediction: Prediction) -> float | None:
    """The median latency that a bundle's evidence holds for a prediction's machine, backend and precision, or None."""
    if not isinstance(named, Bundled):
        return None
    with Bundle(named.path) as opened:
        for entry in opened.evidence().entries:
            asked = named.variant, prediction.backend, prediction.precision
            same = (entry.variant, entry.backend, entry.hint) == asked
            if same and entry.machine.key == prediction.machine and entry.latency and entry.latency.batch == 1:
                return entry.latency.p50_ms
    return None


def measure_ms(graph: Graph, named: Named, prediction: Prediction) -> tuple[float, float]:
    """Run a network on this machine, undisturbed calls; milliseconds of it and of the reference network beside it.

    named: of a model of the zoo, one with fresh weights is exported first. graph: read from
    it; the run has inputs of the same shapes.
    Raises BadInput when the prediction is for another machine.
    """
    if prediction.machine != machine.this().key:
        raise BadInput(f"--measure runs here, on {machine.this().key}; the survey is of {prediction.machine}")
    options = Options(precision=prediction.precision)
    shapes = {name: graph.tensors[name].shape for name in graph.inputs}
    if isinstance(named, Bundled):
        with Bundle(named.path) as opened:
            return file_ms(opened.variant_file(named.variant), prediction.backend, options, shapes)
    if isinstance(named, File):
        return file_ms(named.path, prediction.backend, options, shapes)
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        path = Path(folder) / "model.onnx"
        export(named.name, path, shapes[graph.inputs[0]][2:])
        return file_ms(path, prediction.backend, options)


def file_ms(
    path: Path, backend: str, options: Options, shapes: Mapping[str, Shape] | None = None
) -> tuple[float, float]:
    """The fastest of many calls of an ONNX file on random input, and of the reference beside it.

    shapes: of its inputs, by name; without, those in the file at batch 1.
    """
    header = onnxfile.read(path)
    random = np.random.default_rng(0)
    feeds = {}
    for spec in header.inputs:
        shape = (shapes or {}).get(spec.name) or [size if isinstance(size, int) else 1 for size in spec.shape]
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


def export(name: str, path: Path, size: Shape | None = None) -> None:
    """Write a model of the zoo with fresh weights: of pictures as edgecv deploys it, of signals as it is.

    size: (height, width) or (samples,), by default the model's own.
    """
    import torch

    from edgecv import models
    from edgecv_export import graph

    spec = models.spec(name)
    network, size = models.create(name, seed=0).eval(), size or spec.size
    if len(size) == 2:
        model = graph.to_onnx(graph.Deployed(network, spec.normalization), (size[0], size[1]), 3, {})
    else:
        model = graph.trace(network, torch.zeros(2, spec.channels, *size), "signal", ["output"])
    path.write_bytes(model.SerializeToString())
