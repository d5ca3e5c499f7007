"""How a Python of our own is started, which finds the modules that this one finds and no others, and how it answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO


def command(code: str, python: str | Path = "") -> list[str]:
    """The command that runs code, without the present folder before all others: it may hold a `queue.py`.

    python: another than this one.
    """
    return [str(python) or sys.executable, "-c", f"import sys; sys.path[0] or sys.path.pop(0); {code}"]


def environment() -> dict[str, str]:
    """What `command` needs of it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)}


def answers() -> BinaryIO:
    """What is standard output so far, for answers alone: from now on libraries print to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own
