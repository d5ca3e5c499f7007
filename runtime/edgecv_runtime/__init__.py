"""edgecv_runtime: load a bundle or an ONNX file and run it, on a device that has no torch.

import edgecv_runtime as rt

with rt.load("bundle/") as model:
    print(model(frame).label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecv_runtime import errors, telemetry
from edgecv_runtime.lazily import lazily

if TYPE_CHECKING:
    from edgecv_runtime import images
    from edgecv_runtime.backends import Options
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.description import Description
    from edgecv_runtime.loading import load
    from edgecv_runtime.model import Info, Model
    from edgecv_runtime.predictor import Predictor
    from edgecv_runtime.preprocess import Normalization, Preprocess
    from edgecv_runtime.tasks.classification import Classification, Guess

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
# Where a name comes from when it is first asked for.
_HOMES = {
    "Bundle": "bundle",
    "Classification": "tasks.classification",
    "Description": "description",
    "Guess": "tasks.classification",
    "Info": "model",
    "Model": "model",
    "Normalization": "preprocess",
    "Options": "backends",
    "Predictor": "predictor",
    "Preprocess": "preprocess",
    "load": "loading",
}

telemetry.silence()


_found = lazily(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    """A name or module of this package, when it is first asked for; raises AttributeError."""
    if name == "__version__":
        from importlib.metadata import version  # alone it would be a third of the time of this import

        globals()[name] = version("edgecv")
        return globals()[name]
    return _found(name)
