"""Another runtime as a package of its own: ONNX's reference evaluator, in NumPy, operator by operator.

    pip install ./examples/backend
    edgecv predict BUNDLE PHOTO --backend reference

The entry point in pyproject.toml is all that registers it. Inside edgecv the same is a file in
`edgecv_runtime/backends/` and a row in the table `OWN`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgecv_runtime.backends import DEFAULT_DEVICE, Executed, Options, Tensors
from edgecv_runtime.manifest import Precision


# --- the backend
class ReferenceBackend:
    """Slow, and right: a second opinion on any runtime."""

    def __init__(self, model: Path, options: Options) -> None:
        self.streams = max(1, options.streams)
        self._network = ReferenceEvaluator(onnx.load(model))

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network."""
        outputs = self._network.run(None, dict(feeds))
        return {name: np.asarray(value) for name, value in zip(self._network.output_names, outputs, strict=True)}

    def executed(self) -> Executed:
        """NumPy computes in the types of the file."""
        return Executed(precision="float32", layers={})

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def probe() -> dict[str, str]:
        """Versions of the libraries behind it."""
        return {"onnx": onnx.__version__}

    @staticmethod
    def precisions(device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """Float32 only."""
        del device
        return ("float32",)


# --- that is all
