"""What the README shows of `make demo`: its table, the report's picture, and frames with masks and boxes.

    make demo && python benchmarks/demo/run.py --took "6 min 10 s"

Run it after `make demo`, on the machine that the README names. Records the study, and writes the table of README.md
and, by the scripts beside them, docs/images/tasks.png and with Chromium docs/images/report.png.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import edgecv_runtime as rt
from benchmarks import plots, study
from edgecv_runtime import files
from edgecv_runtime.bench import table

ROOT = Path(__file__).parents[2]
RUNS = ("digits", "ink", "digit-boxes", "imagenet-lite0")
LEFT_OUT = ("drop, points", "frame ms", "memory MB", "load ms")  # of README's table


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
    measured = f"Measured {today} by `make demo`, printed by `benchmarks/demo/run.py`.{took}"
    STUDY.record(table.markdown(rows).splitlines(), measured)
    _into_readme(table.markdown(rows), today)
    subprocess.run([sys.executable, ROOT / "docs" / "images" / "tasks.py", asked.runs], check=True)
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


STUDY = study.Study(
    Path(__file__),
    "What `make demo` gave",
    picture=plots.Rows(
        "time of float32 that it takes, median of ratios and its interval",
        {"of float32": ""},
        label=lambda row: f"{row['variant']} on {row['backend'].split()[0]}",
        group=lambda row: row["bundle"],
        line=1,
    ),
)


if __name__ == "__main__":
    main()
