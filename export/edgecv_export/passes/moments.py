"""What the weights of each layer meet: means and covariances of its inputs, gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.deadline import Tick, unbounded
from edgecv_export.dialects import Float
from edgecv_export.interface import INPUT
from edgecv_export.wiring import Layer, Wiring, attribute
from edgecv_runtime import machine
from edgecv_runtime.preprocess import Image

LARGEST = 1280  # inputs of one output that are looked at together; of a layer with more there are no moments
PLACES = 16  # of an output's rows and columns that are looked at, evenly: their neighbours see nearly the same


@dataclass
class Moments:
    """Means and covariances of what the weights of one output meet: (groups, inputs) and (groups, inputs, inputs).

    rounded: the weights and the shift that were found with them, by the scales of the grid.
    """

    sums: NDArray[np.float64]
    products: NDArray[np.float64]
    count: int = 0
    rounded: dict[bytes, tuple[Float, Float]] = field(default_factory=dict)

    def add(self, rows: Float) -> None:
        """Take in (groups, rows, inputs)."""
        self.sums += rows.sum(axis=1, dtype=np.float64)
        self.products += rows.transpose(0, 2, 1) @ rows
        self.count += rows.shape[1]

    @property
    def means(self) -> NDArray[np.float64]:
        """(groups, inputs)."""
        return self.sums / self.count

    @property
    def covariances(self) -> NDArray[np.float64]:
        """(groups, inputs, inputs)."""
        return self.products / self.count - self.means[:, :, None] * self.means[:, None, :]


def observe(wiring: Wiring, batches: Iterable[Image], tick: Tick = unbounded) -> dict[str, Moments]:
    """Moments of the inputs of every layer of a float graph, by the layer's name."""
    import onnxruntime

    layers = [layer for layer in wiring.layers() if _inputs(wiring, layer) <= LARGEST and _is_plain(layer)]
    names = list(dict.fromkeys(layer.node.input[0] for layer in layers))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _with_outputs(wiring.model, names).SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    found: dict[str, Moments] = {}

    def add(layer: Layer, source: Float) -> None:
        rows = _rows(layer.node, source, wiring.weights(layer))
        if layer.name not in found:
            groups, _, inputs = rows.shape
            found[layer.name] = Moments(np.zeros((groups, inputs)), np.zeros((groups, inputs, inputs)))
        found[layer.name].add(rows)

    with ThreadPoolExecutor(machine.this().cores) as pool:
        for batch in batches:
            tick()
            values = dict(zip(names, session.run(names, {INPUT: np.ascontiguousarray(batch)}), strict=True))
            for _ in pool.map(add, layers, (values[layer.node.input[0]] for layer in layers)):  # raises what one raises
                pass
    return {layer.name: found[layer.name] for layer in layers if layer.name in found}


def _inputs(wiring: Wiring, layer: Layer) -> int:
    """How many weights an output has."""
    weights = wiring.weights(layer)
    return int(np.prod(weights.shape[1:]))


def _is_plain(layer: Layer) -> bool:
    """Whether a layer's padding is written out."""
    return bool(attribute(layer.node, "auto_pad", b"NOTSET") == b"NOTSET")


def _rows(node: Any, source: Float, weights: Float) -> Float:
    """What the weights of one output are multiplied by: (groups, rows, inputs), in the order of the weights."""
    if node.op_type != "Conv":
        return source.reshape(1, -1, source.shape[-1])
    axes = weights.ndim - 2  # of the picture
    groups = attribute(node, "group", 1)
    pads = attribute(node, "pads", [0] * 2 * axes)
    steps, gaps = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    padded = np.pad(source, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    spans = [(size - 1) * gap + 1 for size, gap in zip(weights.shape[2:], gaps, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + axes)))
    picks = [slice(None), slice(None), *(slice(None, None, each) for each in (*steps, *gaps))]
    windows = windows[tuple(picks)]
    some = (slice(None, None, -(-size // PLACES)) for size in windows.shape[2 : 2 + axes])
    windows = windows[(slice(None), slice(None), *some)]
    images, channels = source.shape[:2]
    taps = int(np.prod(weights.shape[2:]))
    split = windows.reshape(images, groups, channels // groups, -1, taps)
    return split.transpose(1, 0, 3, 2, 4).reshape(groups, -1, channels // groups * taps)


def _with_outputs(model: Any, names: list[str]) -> Any:
    """A copy of the model that gives the tensors named."""
    import onnx

    observed = type(model).FromString(model.SerializeToString())
    present = {output.name for output in observed.graph.output}
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return observed
