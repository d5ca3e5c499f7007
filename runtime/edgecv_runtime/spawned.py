"""How a Python of our own is started: it finds the modules that this one finds, and no others."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(code: str, python: str | Path = "") -> list[str]:
    """The command that runs code, without the present folder before all others: it may hold a `queue.py`.

    python: another than this one.
    """
    return [str(python) or sys.executable, "-c", f"import sys; sys.path[0] or sys.path.pop(0); {code}"]


def environment() -> dict[str, str]:
    """What `command` needs of it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)}
