"""What the layers make of one photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from edgecv.pages import svg
from edgecv.xray.pictures import field, places
from edgecv.xray.pictures.places import Stop
from edgecv.xray.pictures.subject import Absent, Drawing, Picture, Subject
from edgecv_runtime import telemetry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAPS = 6  # of each depth
Maps = NDArray[np.float32]


def of_network(subject: Subject, stops: Sequence[Stop]) -> list[tuple[Stop, Maps]]:
    """What each stop gives for the photograph -> (C, rows, columns) each."""
    assert subject.network is not None
    assert subject.photo is not None
    photo = torch.from_numpy(np.asarray(subject.photo.feed, np.float32))
    network = subject.network.eval() if subject.weights else field.settled(subject.network, _shifted(photo))
    with torch.inference_mode(), places.watched(network, [stop.name for stop in stops]) as outputs:
        network(photo)
        seen = [stop for stop in stops if stop.name in outputs]
        return [(stop, places.maps(outputs[stop.name], stop.grid)[0].numpy()) for stop in seen]


def of_file(subject: Subject, stops: Sequence[Stop]) -> list[tuple[Stop, Maps]]:
    """The same of an ONNX file, run by ONNX Runtime with the stops as further outputs."""
    import onnx

    assert subject.photo is not None
    model = onnx.load(str(subject.file))
    known = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=stop.tensor) for stop in stops if stop.tensor not in known)
    onnxruntime = telemetry.onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = session.run([stop.tensor for stop in stops], {session.get_inputs()[0].name: subject.photo.feed})
    return [
        (stop, places.maps(torch.from_numpy(output), stop.grid)[0].numpy())
        for output, stop in zip(outputs, stops, strict=True)
    ]


def draw(subject: Subject) -> Picture:
    """The photograph, and the liveliest maps of each depth."""
    if subject.photo is None:
        return Absent(subject.no_photo or "no photograph: give one with --image FILE")
    stops = places.stops(subject.graph, subject.network, subject.size)
    if not stops:
        return Absent("no layer's output lies over the picture")
    found = of_network(subject, stops) if subject.network is not None else of_file(subject, stops)
    ratio = subject.size[0] / subject.size[1]
    figure, axes = svg.panels(0.3 + (len(found) + 1) * (0.78 * ratio + 0.16), rows=len(found) + 1, columns=MAPS)
    figure.set_layout_engine("constrained", h_pad=0.1)
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(subject.photo.shown, interpolation="none")
    _above(axes[0], "the input")
    for row, (stop, maps) in enumerate(found, 1):
        _, rows, columns = maps.shape
        _above(axes[row * MAPS], f"{places.short(stop.name, 40)}: {len(maps)} maps of {columns}×{rows}")
        for axis, each in zip(axes[row * MAPS :], maps[liveliest(maps)], strict=False):
            axis.imshow(each, cmap="viridis", interpolation="none")
    return Drawing(figure, _caption(subject))


def _above(axis: Axes, text: str) -> None:
    """A title that may be wider than its map without moving the others apart."""
    axis.annotate(text, (0, 1), (0, 3), "axes fraction", "offset points", fontsize=8).set_in_layout(False)


def liveliest(maps: Maps, count: int = MAPS) -> NDArray[np.intp]:
    """Numbers of the maps (C, rows, columns) that vary most over the picture, in order."""
    spread = maps.reshape(len(maps), -1).std(1)
    return np.sort(np.argsort(-spread, kind="stable")[:count])


def _shifted(photo: torch.Tensor) -> torch.Tensor:
    """The photograph and its mirror images, so that statistics over a batch exist where maps are one pixel small."""
    return torch.cat([photo, photo.flip(3), photo.flip(2), photo.flip(2, 3)])


def _caption(subject: Subject) -> str:
    assert subject.photo is not None
    whose = subject.whose if subject.network is not None else "the file's weights"
    return (
        f"{subject.photo.name}, and what the network makes of it with {whose}: the {MAPS} maps of each depth that vary "
        "most, each on its own scale (yellow is high). Early maps still look like the picture; later ones are coarse "
        "and say where something is rather than how it looks."
    )
