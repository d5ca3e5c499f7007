"""What a bundle is to the protocol: two models, one of pictures and results, one of the network's own tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import answers, formats, images
from edgecv_runtime.errors import BadInput, ShapeError
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.model import Model

NETWORK = ".network"  # ends the name of the model of the network's own tensors
PICTURES = TensorSpec("image", "object", ("N",))
MAX_ROWS = 64  # of a request
_FEW_PIXELS = 1 << 20  # some milliseconds of decoding
Outputs = dict[str, NDArray[Any]]


class Ready(NamedTuple):
    """A request made ready for the network; views: of pictures, how it sees each."""

    tensor: NDArray[Any]
    views: tuple[View, ...] = ()


class Face(Protocol):
    """One of the protocol's models of a bundle."""

    def input(self, model: Model[Any]) -> TensorSpec:
        """The one input."""
        ...

    def outputs(self, model: Model[Any]) -> tuple[TensorSpec, ...]:
        """All outputs."""
        ...

    def is_small(self, given: NDArray[Any]) -> bool:
        """Whether it takes about as long as the line's other requests: one row, and no picture of many pixels."""
        ...

    def ready(self, model: Model[Any], given: NDArray[Any]) -> Ready:
        """The input as the network takes it; raises BadInput."""
        ...

    def answer(self, model: Model[Any], ready: Ready, outputs: Outputs, names: Sequence[str]) -> Outputs:
        """Outputs of the network as those of this model that are named; all without names."""
        ...


class Network:
    """Tensors as the network takes and gives them."""

    def input(self, model: Model[Any]) -> TensorSpec:
        """The network's own."""
        return model.input

    def outputs(self, model: Model[Any]) -> tuple[TensorSpec, ...]:
        """The network's own."""
        return model.outputs

    def is_small(self, given: NDArray[Any]) -> bool:
        """One row."""
        return not given.ndim or len(given) == 1

    def ready(self, model: Model[Any], given: NDArray[Any]) -> Ready:
        """The tensor itself, if it has the network's shape."""
        _check_rows(given)
        wanted = model.input.shape[1:]
        if given.ndim != len(wanted) + 1 or any(
            isinstance(want, int) and want != have for want, have in zip(wanted, given.shape[1:], strict=True)
        ):
            sizes = ", ".join(map(str, ("N", *wanted)))
            raise ShapeError(f"input '{model.input.name}' has the shape [{sizes}], got {list(given.shape)}")
        return Ready(given)

    def answer(self, model: Model[Any], ready: Ready, outputs: Outputs, names: Sequence[str]) -> Outputs:
        """They are the outputs."""
        del model, ready, names
        return outputs


class Pictures:
    """Image files in, results out: what `model(frame)` gives for the decoded file."""

    def __init__(self, max_pixels: int = images.MAX_PIXELS) -> None:
        """max_pixels: of all pictures of a request together."""
        self._max_pixels = max_pixels

    def input(self, model: Model[Any]) -> TensorSpec:
        """A file an element."""
        del model
        return PICTURES

    def outputs(self, model: Model[Any]) -> tuple[TensorSpec, ...]:
        """Those of its task."""
        return answers.of_task(model.task).outputs

    def is_small(self, given: NDArray[Any]) -> bool:
        """One picture, of which its header says that it is small: 50 megapixels of one grey are few bytes, too."""
        size = formats.header_size(given.item()) if given.size == 1 else None
        return size is not None and size[0] * size[1] <= _FEW_PIXELS

    def ready(self, model: Model[Any], given: NDArray[Any]) -> Ready:
        """Decode and preprocess one picture after the other: a large one is held alone."""
        _check_rows(given)
        if given.size != len(given):
            raise ShapeError(
                f"input '{PICTURES.name}' has the shape [N], a picture an element, got {list(given.shape)}"
            )
        rows, views, left = [], [], self._max_pixels
        for number, file in enumerate(given.ravel()):
            frame = images.decode(file, f"picture {number}", left)
            left -= frame.shape[0] * frame.shape[1]
            rows.append(model.tensor([frame]))
            views.append(model.preprocess.view(frame.shape[:2]))
        return Ready(rows[0] if len(rows) == 1 else np.concatenate(rows), tuple(views))

    def answer(self, model: Model[Any], ready: Ready, outputs: Outputs, names: Sequence[str]) -> Outputs:
        """Results as tensors: what nobody asks for, as JSON of each, is not made."""
        return answers.of_task(model.task).tensors(model.decode(outputs, ready.views), names)


def _check_rows(given: NDArray[Any]) -> None:
    if not given.ndim or not 0 < len(given) <= MAX_ROWS:
        raise BadInput(f"a request has 1 to {MAX_ROWS} rows, got shape {list(given.shape)}")
