"""A backend that computes nothing: for testing code around a model without a runtime.

It answers every batch with zeros of the model's output shape, except for a one at index `feeds.sum() % channels`,
so that equal inputs give equal answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxfile
from edgecv_runtime.backends import DEFAULT_DEVICE, Executed, Options, Tensors
from edgecv_runtime.manifest import Precision


class EchoBackend:
    """Deterministic outputs of the right shape, from the file's header alone."""

    def __init__(self, model: Path, options: Options) -> None:
        self.streams = max(1, options.streams)
        self._outputs = onnxfile.read(model).outputs

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """One-hot rows whose position depends on the input's sum."""
        batch = next(iter(feeds.values()))
        answers: dict[str, NDArray[Any]] = {}
        for spec in self._outputs:
            sizes = [size if isinstance(size, int) else 1 for size in spec.shape[1:]]
            rows = np.zeros((len(batch), *sizes), spec.dtype)
            flat = rows.reshape(len(batch), -1)
            for row, item in zip(flat, batch, strict=True):
                row[int(item.sum()) % row.size] = 1
            answers[spec.name] = rows
        return answers

    def executed(self) -> Executed:
        """Nothing executes."""
        return Executed(precision="float32", layers={})

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def probe() -> dict[str, str]:
        """Always there."""
        return {}

    @staticmethod
    def precisions(device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """Float32."""
        del device
        return ("float32",)
