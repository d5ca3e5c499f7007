"""Write the pages and pictures of studies again, from what they recorded: nothing is measured.

python benchmarks/again.py [STUDY ...]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def recorded() -> list[str]:
    """The studies that have a results.json."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/results.json"))


if __name__ == "__main__":
    for name in sys.argv[1:] or recorded():
        importlib.import_module(f"benchmarks.{name}.run").STUDY.write()
