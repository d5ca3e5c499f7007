"""The kernels of the first layer, as pictures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgecv.pages import svg
from edgecv.xray.pictures.subject import Absent, Drawing, Picture, Subject

MOST = 64  # kernels shown
ACROSS = 16


def of_network(network: nn.Module, channels: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Weights (C_out, C_in, h, w) of the first layer: a convolution, or a linear layer on the whole picture."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().numpy()
        if isinstance(module, nn.Linear):
            if module.in_features != channels * math.prod(size):
                return None
            return module.weight.detach().reshape(-1, channels, *size).numpy()
    return None


def of_file(subject: Subject) -> NDArray[np.float32] | None:
    """Weights of the first convolution of an ONNX file; None where they are not stored as such."""
    import onnx

    assert subject.file is not None
    model = onnx.load(str(subject.file))
    stored = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type == "Conv":
            weight = stored.get(node.input[1])
            return None if weight is None or len(weight.dims) != 4 else np.asarray(onnx.numpy_helper.to_array(weight))
    return None


def draw(subject: Subject) -> Picture:
    """Each kernel as a small picture, all on one scale around grey for zero."""
    if subject.network is not None:
        channels = subject.graph.tensors["input"].shape[1]
        weights = of_network(subject.network, channels, subject.size)
    else:
        weights = of_file(subject)
    if weights is None:
        return Absent("the first layer is no convolution over pictures with stored weights")
    height, width = weights.shape[2:]
    colour = weights.shape[1] == 3
    kernels = weights if colour else weights.reshape(-1, 1, height, width)
    shown = kernels[:MOST]
    limit = float(np.abs(shown).max()) or 1.0
    mosaic = tiles(0.5 + 0.5 * shown / limit)
    figure, (axis,) = svg.panels(0.1 + 4.6 * mosaic.shape[0] / mosaic.shape[1])
    axis.imshow(mosaic, interpolation="none")
    axis.set_axis_off()
    return Drawing(figure, _caption(subject, kernels.shape, limit, colour))


def tiles(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures (N, 1 or 3, h, w) in 0..1 side by side with one transparent pixel between -> (H, W, 4) RGBA."""
    count, _, height, width = pictures.shape
    across = min(count, max(1, min(ACROSS, 256 // width)))
    down = math.ceil(count / across)
    mosaic = np.zeros((down * (height + 1) - 1, across * (width + 1) - 1, 4), np.float32)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        top, left = row * (height + 1), column * (width + 1)
        mosaic[top : top + height, left : left + width, :3] = picture.transpose(1, 2, 0)
        mosaic[top : top + height, left : left + width, 3] = 1
    return mosaic


def _caption(subject: Subject, shape: tuple[int, ...], limit: float, colour: bool) -> str:
    count, _, height, width = shape
    text = (
        f"{'The first ' if count > MOST else ''}{min(count, MOST)} of {count} kernels"
        if count > MOST
        else f"All {count} kernels"
    )
    text += f", {width}×{height} pixels each"
    text += ", in colour: mid grey is 0, full colour" if colour else ": grey is 0, black and white"
    text += f" ±{limit:.2g}. "
    if subject.network is not None and not subject.weights:
        return text + "They are fresh and therefore noise; training turns them into edges, spots and colour contrasts."
    return text + "Trained kernels show edges, spots and colour contrasts; kernels that are still noise learned little."
