"""The front of accuracy against latency that a quantization search leaves, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecv.run.searched import record
from edgecv_runtime import files

if TYPE_CHECKING:
    from pathlib import Path

    from edgecv_export.quantize import Quantized
    from edgecv_runtime.manifest import Budget


def draw(done: Quantized, budget: Budget, path: Path) -> None:
    """Write the front as an SVG file."""
    import io

    from edgecv.pages import svg
    from edgecv.report import plots

    with svg.style():
        figure = plots.front(record(done, budget))
        if figure is None:
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    files.write(path, buffer.getvalue())
