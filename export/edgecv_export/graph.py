"""From a PyTorch network to an ONNX graph that takes camera pixels: uint8 NHWC in, normalization inside."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv_export.interface import BATCH, INPUT, check
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.head import LOGITS
from edgecv_runtime.preprocess import Image, Normalization

# Opset 17 and IR 8 load on everything from TensorRT 8.6 and ONNX Runtime 1.12 on.
OPSET = 17


class Deployed(nn.Module):
    """The network as the device sees it: (N, H, W, C) uint8 pixels -> the network's outputs.

    The uint8 input meets the cast before anything else, as TensorRT demands; normalization is one multiplication and
    one addition: (x / 255 - mean) / std = x * scale + offset.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization, outputs: Sequence[str] = (LOGITS,)) -> None:
        """`outputs`: names of what the network gives; several tensors in a tuple or under these names in a dict."""
        super().__init__()
        mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
        self.network = network
        self.normalization = normalization
        self.outputs = tuple(outputs)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, -1, 1, 1))
        self.register_buffer("offset", (-mean / std).reshape(1, -1, 1, 1))
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Pixels (N, H, W, C) uint8 -> outputs of the network, in the order of their names."""
        x = image.float().permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        return several(self.network(x * self.scale + self.offset), self.outputs)


def several(outputs: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    """What a network gives, as one tensor for each name: see `one_tensor`, or a dict or a tuple that holds so many.

    Raises BadInput when it gives others.
    """
    if len(names) == 1 and not (isinstance(outputs, Mapping) and set(outputs) == set(names)):
        return (one_tensor(outputs),)
    found = (
        [outputs[name] for name in names] if isinstance(outputs, Mapping) and set(outputs) == set(names) else outputs
    )
    if not isinstance(found, list | tuple) or len(found) != len(names) or not all(isinstance(e, Tensor) for e in found):
        named = ", ".join(f"{where or 'output'}: {_shape(tensor)}" for where, tensor in _tensors(outputs, ""))
        raise BadInput(
            f"the network gives {named or 'no tensors'} in a {type(outputs).__name__}, and {', '.join(names)} are "
            "wanted: a tuple of them in that order, or a dict with these names"
        )
    return tuple(found)


def names_of(network: nn.Module, size: tuple[int, int], channels: int) -> tuple[str, ...]:
    """Names for what a network gives for a picture: the keys of a dict of tensors, else output0, output1, ...

    Raises ComputationError when it takes no such picture.
    """
    network.eval()
    try:
        with torch.inference_mode():
            outputs = network(torch.zeros(1, channels, *size))
    except Exception as exc:  # whatever a network of somebody else raises
        raise ComputationError(
            f"the network raises {type(exc).__name__} for floats of (1, {channels}, {size[0]}, {size[1]}): "
            f"{(str(exc).strip().splitlines() or [''])[0]}"
        ) from exc
    if isinstance(outputs, Mapping) and all(isinstance(each, Tensor) for each in outputs.values()):
        return tuple(map(str, outputs))
    whole = isinstance(outputs, list | tuple) and all(isinstance(each, Tensor) for each in outputs)
    return tuple(f"output{index}" for index in range(len(outputs) if whole else 1))


def one_tensor(outputs: Any) -> Tensor:
    """What a network gives as one tensor: out of a tuple or dict that holds it alone, (N, C, 1, 1) and (N,) as (N, C).

    Raises BadInput with the cure when it gives several tensors, or none.
    """
    found = _tensors(outputs, "")
    if len(found) != 1:
        named = ", ".join(f"{where}: {_shape(tensor)}" for where, tensor in found)
        raise BadInput(
            f"the network gives {len(found)} tensors in a {type(outputs).__name__} ({named or 'none'}), where one is "
            "wanted, (N, classes) or a segmenter's (N, classes, H, W): export a module whose forward returns that "
            f"alone, return self.network(x){found[0][0] if found else '[...]'} say"
        )
    ((_, tensor),) = found
    if tensor.ndim == 1:
        return tensor.unsqueeze(1)
    return tensor.flatten(1) if tensor.ndim > 2 and set(_shape(tensor)[2:]) == {1} else tensor


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(map(int, tensor.shape))  # while it is traced, the lengths are tensors, too


def _tensors(outputs: Any, where: str) -> list[tuple[str, Tensor]]:
    """The tensors in a network's outputs, each with the way to it: "[0]", "['logits']"."""
    if isinstance(outputs, Tensor):
        return [(where, outputs)]
    if isinstance(outputs, Mapping):
        return [each for key, value in outputs.items() for each in _tensors(value, f"{where}[{key!r}]")]
    if isinstance(outputs, list | tuple):
        return [each for index, value in enumerate(outputs) for each in _tensors(value, f"{where}[{index}]")]
    return []


def references(deployed: Deployed, frames: Image, batch: int = 16) -> dict[str, NDArray[Any]]:
    """PyTorch's own outputs for (N, H, W, C) uint8 frames by name: what every file is compared with."""
    deployed.eval()
    with torch.inference_mode():
        parts = [
            deployed(torch.from_numpy(np.array(frames[start : start + batch])))
            for start in range(0, len(frames), batch)
        ]
    whole = (torch.cat(each) for each in zip(*parts, strict=True))
    arrays = ((each.float() if each.is_floating_point() else each).numpy() for each in whole)
    return dict(zip(deployed.outputs, arrays, strict=True))


def reference(deployed: Deployed, frames: Image, batch: int = 16) -> NDArray[np.float32]:
    """The first of them."""
    found: NDArray[np.float32] = references(deployed, frames, batch)[deployed.outputs[0]]
    return found


def to_onnx(deployed: Deployed, size: tuple[int, int], channels: int, metadata: dict[str, str]) -> Any:
    """Export, simplify and check -> onnx.ModelProto with a dynamic batch.

    Raises ComputationError when the network cannot be exported or the graph is not valid.
    """
    import onnx

    try:
        model = trace(deployed, torch.zeros((2, *size, channels), dtype=torch.uint8), INPUT, deployed.outputs)
    except ComputationError as exc:
        given = f"it was given floats of (N, {channels}, {size[0]}, {size[1]}); one that wants channels last needs "
        raise ComputationError(f"{exc}; {given}x.permute(0, 2, 3, 1) before it") from exc
    onnx.helper.set_model_props(model, metadata)
    check(model)
    return model


def trace(network: nn.Module, example: Tensor, source: str, outputs: Sequence[str]) -> Any:
    """Export and simplify any network with one input -> onnx.ModelProto with a dynamic batch.

    example: a batch of 2, whose other axes become fixed; source, outputs: names of the tensors in the graph; the
    network gives a tensor, or a tuple of them.
    PyTorch's TorchScript exporter is used: the newer one (`dynamo=True`) writes a Gather with computed indices for a
    flatten behind a dynamic batch, and has shipped wrong graphs (pytorch#169178).
    Raises ComputationError when the network cannot be exported.
    """
    import onnx
    import onnxslim

    logging.getLogger("onnxslim").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own notices; the parity gate judges the graph
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                network.eval(),
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[source],
                output_names=list(outputs),
                dynamic_axes={name: {0: BATCH} for name in (source, *outputs)},
            )
        except BadInput:  # of `one_tensor`
            raise
        except Exception as exc:
            raise ComputationError(f"PyTorch cannot export this network: {str(exc).strip().splitlines()[0]}") from exc
        model = onnxslim.slim(onnx.load(path))
    with torch.inference_mode():
        given = network(example)
    for output, tensor in zip(model.graph.output, (given,) if isinstance(given, Tensor) else given, strict=True):
        for axis, length in list(enumerate(tensor.shape))[1:]:  # behind a Resize, the exporter does not know them
            output.type.tensor_type.shape.dim[axis].dim_value = length
    model.doc_string = ""
    del model.metadata_props[:]
    return model
