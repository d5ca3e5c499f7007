"""What the pictures are of - a network of the zoo or an ONNX file - and what a picture is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgecv.xray.extent import Shape
from edgecv.xray.fields import spatial_axes
from edgecv.xray.graph import Graph
from edgecv_runtime.preprocess import Image

if TYPE_CHECKING:
    from edgecv.models import Network


@dataclass(frozen=True)
class Photo:
    """A photograph as the network gets it.

    name: where it comes from, and what was done with it. shown: (H, W, 3) uint8 RGB, cut and scaled.
    feed: the network's input, batch 1, in its own layout and type.
    """

    name: str
    shown: Image
    feed: NDArray[np.generic]


@dataclass(frozen=True)
class Subject:
    """A network as a graph, and as something that runs: a module, or an ONNX file.

    weights: whose the module has; "" for fresh ones. photo: None where there is none; no_photo
    says why.
    """

    graph: Graph
    network: Network | None = None
    file: Path | None = None
    weights: str = ""
    photo: Photo | None = None
    no_photo: str = ""

    @property
    def size(self) -> Shape:
        """Pixels of the first input along its spatial axes: (height, width), or (length,)."""
        shape = self.graph.tensors[self.graph.inputs[0]].shape
        return tuple(shape[axis] for axis in spatial_axes(shape))

    @property
    def whose(self) -> str:
        """The weights, for a caption."""
        return f"weights '{self.weights}'" if self.weights else "fresh weights"


@dataclass(frozen=True)
class Drawing:
    """A figure and the sentences that tell what is drawn and what to see in it."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Absent:
    """Why there is no figure, in one line."""

    why: str


Picture = Drawing | Absent
NEEDS_MODULE = "needs gradients: a model of the zoo has them, an ONNX file does not"
