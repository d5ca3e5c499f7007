"""edgecv_runtime: load a bundle or an ONNX file and run it, on a device that has no torch.

import edgecv_runtime as rt

with rt.load("bundle/") as model:
    print(model(frame).label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecv_runtime import errors, images, telemetry
from edgecv_runtime.backends import Options
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.description import Description
from edgecv_runtime.loading import load
from edgecv_runtime.model import Info, Model
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.tasks.classification import Classification, Guess

if TYPE_CHECKING:
    from edgecv_runtime.predictor import Predictor

__version__: str
__all__ = [
    "Bundle",
    "Classification",
    "Description",
    "Guess",
    "Info",
    "Model",
    "Normalization",
    "Options",
    "Predictor",
    "Preprocess",
    "__version__",
    "errors",
    "images",
    "load",
]

telemetry.silence()


def __getattr__(name: str) -> Any:
    """What few programs want, when it is asked for: importlib.metadata alone would be a third of this import's time."""
    if name == "__version__":
        from importlib.metadata import version

        return version("edgecv")
    if name == "Predictor":
        from edgecv_runtime.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'edgecv_runtime' has no attribute '{name}'")
