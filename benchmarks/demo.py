"""What the README shows of `make demo`: its table, the report's picture, and frames with masks and boxes.

    make demo && python benchmarks/demo.py --took "6 min 10 s"

Run it after `make demo`, on the machine that the README names. Writes benchmarks/results/demo.md, the table of
README.md, docs/images/tasks.png, and with Chromium docs/images/report.png (docs/images/make.sh).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import study

import edgecv_runtime as rt
from edgecv import recipe
from edgecv.data import load
from edgecv_runtime import files
from edgecv_runtime.bench import table

ROOT = Path(__file__).parent.parent
RUNS = ("digits", "ink", "digit-boxes", "imagenet-lite0")
LEFT_OUT = ("drop, points", "frame ms", "memory MB", "load ms")  # of README's table
SHOWN, HEIGHT, GAP = 4, 240, 8  # pictures of a task; pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--took", default="", help="how long the demo took, from a fresh clone to the report")
    asked = parser.parse_args()
    rows = []
    for name in RUNS:
        with rt.Bundle(asked.runs / name / "bundle") as opened:
            rows += table.rows(opened)
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    took = f" From a fresh clone to the report it took {asked.took}." if asked.took else ""
    head = f"# What `make demo` gave\n\nMeasured {today} by `make demo`, printed by `benchmarks/demo.py`.{took}\n\n"
    files.write(study.RESULTS / "demo.md", (head + table.markdown(rows)).encode())
    _into_readme(table.markdown(rows), today)
    pictures = [_pictured(asked.runs / name) for name in ("ink", "digit-boxes")]
    width = max(each.shape[1] for each in pictures)
    whole = [np.pad(each, ((0, GAP), (0, width - each.shape[1]), (0, 0)), constant_values=255) for each in pictures]
    cv2.imwrite(str(ROOT / "docs" / "images" / "tasks.png"), np.concatenate(whole)[:-GAP])
    if shutil.which("chromium"):
        subprocess.run([ROOT / "docs" / "images" / "make.sh"], check=True)
    else:
        print("docs/images/report.png stays as it is: there is no chromium")


def _into_readme(markdown: str, today: str) -> None:
    """Put the columns that it has into README.md's table of the demo, and the day."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    kept = [index for index, name in enumerate(cells[0]) if name.strip() not in LEFT_OUT]
    short = "\n".join(f"|{'|'.join(row[index] for index in kept)}|" for row in cells)
    readme = ROOT / "README.md"
    text, count = re.subn(
        r"(What `make demo` gave on [^\n]*?)\d{4}-\d\d-\d\d(.*?\n\n)(?:\|[^\n]*\n)+",
        lambda found: f"{found[1]}{today}{found[2]}{short}\n",
        readme.read_text(),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit("README.md has no table of the demo")
    files.write(readme, text.encode())


def _pictured(run: Path) -> np.ndarray:
    """Some held-out pictures of a run with what its bundle finds in them, side by side."""
    data = load(recipe.read(run / "recipe.yaml").data)
    drawn = []
    with rt.load(run / "bundle") as model:
        for index in range(SHOWN):
            frame = data.val[index]
            scale = HEIGHT / frame.shape[0]
            large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            drawn += [model(large).draw(large), np.full((HEIGHT, GAP, 3), 255, np.uint8)]
    return np.concatenate(drawn[:-1], axis=1)


if __name__ == "__main__":
    main()
