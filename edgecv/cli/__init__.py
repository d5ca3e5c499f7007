"""The command line: a command parses, calls one function, prints. Only verbs that need torch import it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `edgecv` command."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what fails is said by us, once; OpenCV reads it on import
    try:
        from edgecv.cli import output
        from edgecv.cli.app import app
    except ModuleNotFoundError as exc:
        if exc.name not in ("typer", "rich"):
            raise
        from edgecv_runtime.errors import Unavailable

        print(f"edgecv: {Unavailable(f'the command line needs {exc.name}', extra='cpu')}", file=sys.stderr)  # noqa: T201
        sys.exit(3)
    output.prepare()
    with output.ending():
        app(prog_name="edgecv")
