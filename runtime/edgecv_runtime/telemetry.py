"""Nothing leaves the device: the telemetry of ONNX Runtime and OpenVINO is off unless the user asks for it.

Left to themselves both look up their makers' hosts and leave identifiers below the home folder: onnxruntime 1.32 when
it is imported (`~/.cache/Microsoft/DeveloperTools/.onnxruntime`, `.ses` in the folder for temporary files; its
docs/Privacy.md), OpenVINO 2026.4 through the package openvino_telemetry (`~/intel`) when it is imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any

WANTED = "EDGECV_VENDOR_TELEMETRY"
_OF_ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"  # read when onnxruntime is imported, by whomever
_OF_OPENVINO = "openvino_telemetry"


def is_wanted() -> bool:
    """Whether the user asked for it: EDGECV_VENDOR_TELEMETRY=1."""
    return os.environ.get(WANTED, "").lower() in ("1", "true", "yes", "on")


def silence() -> None:
    """Set ONNX Runtime's own switch for this process and those it starts; one that the user has set stays."""
    if not is_wanted():
        os.environ.setdefault(_OF_ONNXRUNTIME, "1")


def onnxruntime() -> Any:
    """Import ONNX Runtime; where others have imported it before edgecv, its events are switched off now."""
    import onnxruntime

    if not is_wanted() and os.environ.get(_OF_ONNXRUNTIME) != "0":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def openvino() -> Any:
    """Import OpenVINO as if the package openvino_telemetry were not installed: it then takes its own empty stand-in.

    Its other switches are a file in the home folder, and variables that mean a build server to every other program.
    """
    if "openvino" in sys.modules or is_wanted():
        import openvino

        return openvino
    before = sys.modules.get(_OF_OPENVINO)
    sys.modules[_OF_OPENVINO] = None  # type: ignore[assignment]  # so an import raises ImportError
    try:
        import openvino
    finally:
        if before is None:
            del sys.modules[_OF_OPENVINO]
        else:
            sys.modules[_OF_OPENVINO] = before
    return openvino
