"""Execute examples/photos.ipynb and keep what comes out: `python examples/execute.py`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("photos.ipynb")


def executed() -> nbformat.NotebookNode:
    """The notebook with its outputs, each cell at most two minutes; raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False).execute()
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
