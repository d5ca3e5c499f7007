"""What a user names - a model of the zoo, a bundle, an ONNX file - read as a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from edgecv.xray import table
from edgecv.xray.graph import Graph
from edgecv.xray.moves import Shape
from edgecv_runtime.bundle import ARCHIVE_SUFFIX, Bundle
from edgecv_runtime.errors import BadInput, nearest

CHANNELS = 3


class Cost(NamedTuple):
    """What a model costs and sees, at its own size, batch 1, with 1000 classes."""

    macs: int
    parameters: int
    field: table.Field | None


def read(
    what: str | Path,
    *,
    size: Shape | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    variant: str = "float32",
) -> Graph:
    """Read a model of the zoo by its name, a bundle's variant, or an ONNX file.

    size: (height, width) of the input instead of the model's own, or what a file leaves open; input_shapes: whole
    shapes of a file's inputs. Raises BadInput for a name that is none of the three, with the nearest, and when the
    input does not suit the network.
    """
    path = Path(what)
    if path.is_dir() or path.suffix == ARCHIVE_SUFFIX:
        return _bundle(path, variant, size, input_shapes)
    if path.suffix == ".onnx" or path.is_file():
        from edgecv.xray import from_onnx

        return from_onnx.read(path, input_shapes=input_shapes, size=size)
    return zoo(str(what), size=size)


def zoo(name: str, *, size: Shape | None = None) -> Graph:
    """Read a model of the zoo without making its weights; raises BadInput for an unknown name or too small a size."""
    import torch

    from edgecv import models
    from edgecv.xray import from_torch

    if name not in models.names():
        raise BadInput(f"'{name}' is no model of the zoo, bundle or file{nearest(name, models.names())}")
    with torch.device("meta"):
        network = models.create(name)
    return from_torch.read(network, (CHANNELS, *(size or models.spec(name).size)), name=name)


@cache
def cost(name: str) -> Cost:
    """MACs, parameters and receptive field of a model of the zoo; some hundredths of a second, no weights are made."""
    total = table.table(zoo(name)).total
    return Cost(total.macs, total.parameters, total.field)


def _bundle(path: Path, variant: str, size: Shape | None, input_shapes: Mapping[str, Sequence[int]] | None) -> Graph:
    from edgecv.xray import from_onnx

    with Bundle(path) as opened:
        file = opened.variant_file(variant)
        graph = from_onnx.read(file, size=size or opened.manifest.preprocess.size, input_shapes=input_shapes)
        return replace(graph, name=f"{opened.manifest.name} {variant}")
