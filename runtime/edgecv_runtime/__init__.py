"""edgecv_runtime: load a bundle or an ONNX file and run it, on a device that has no torch.

import edgecv_runtime as rt

with rt.load("bundle/") as model:
    print(model(frame).label)
"""

from __future__ import annotations

from importlib.metadata import version

from edgecv_runtime import errors, images
from edgecv_runtime.backends import Options
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.model import Info, Model, load
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.tasks.classification import Classification, Guess

__version__ = version("edgecv")

__all__ = [
    "Bundle",
    "Classification",
    "Guess",
    "Info",
    "Model",
    "Normalization",
    "Options",
    "Preprocess",
    "__version__",
    "errors",
    "images",
    "load",
]
