"""What was built and measured, for people: a table on the terminal (`console`) and one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecv_runtime.errors import Unavailable


def write(runs: Sequence[Path], path: Path, *, clip: Path | None = None) -> Path:
    """Write the HTML report of one or several run folders to `path`, atomically, and give its path.

    runs: folders with `bundle/` and what the steps of a build left beside it; what is absent is said in the report.
    clip: an annotated video of which a few frames are shown.
    Raises BadInput when a file of a run is there but broken, Unavailable when jinja2 or matplotlib is not installed.
    """
    try:
        from edgecv.report import page
    except ImportError as exc:
        raise Unavailable(f"the HTML report needs {exc.name}", extra="export") from exc
    return page.write(runs, path, clip)
