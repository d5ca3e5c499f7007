"""How much disk an installation takes: fresh virtual environments, pip's own dependency choice, bytes on disk.

    python benchmarks/footprint/run.py [--constraint constraints.txt]

The environment's own pip is not counted.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import plots, study

ROOT = Path(__file__).parents[2]
INSTALLS = {
    "edgecv (runtime: numpy, msgspec)": ["."],
    "edgecv[onnxruntime]": [".[onnxruntime]"],
    "edgecv[edge] (labels frames: with ONNX Runtime and OpenCV)": [".[edge]"],
    "edgecv[cpu] (an edge CPU that predicts and streams)": [".[cpu]"],
    "edgecv[cpu,openvino]": [".[cpu,openvino]"],
    "edgecv[export,openvino] (trains and exports, with torch)": [".[export,openvino]"],
    "torch, torchvision, OpenCV (labels frames in PyTorch)": ["torch", "torchvision", "opencv-python-headless"],
}


def main() -> None:
    """Measure every installation and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraint", type=Path, default=ROOT / "constraints.txt")
    given = parser.parse_args()
    rows = []
    for name, packages in INSTALLS.items():
        size_mb, count = measure(packages, given.constraint)
        print(f"{name}: {size_mb:.0f} MB, {count} packages", flush=True)
        rows.append((name, size_mb, count))
    write(rows)


def measure(packages: list[str], constraint: Path) -> tuple[float, int]:
    """Size in MB (10^6 bytes) and number of packages of an installation in a fresh environment."""
    with tempfile.TemporaryDirectory(prefix="edgecv-footprint-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        site = next(Path(folder, "lib").glob("python*/site-packages"))
        before = size_of(site)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        if any("export" in package for package in packages):  # torch first, from the index that has its CPU build
            subprocess.run([*pip, "--constraint", str(constraint), "torch"], check=True)
        subprocess.run([*pip, "--constraint", str(constraint), *packages], check=True, cwd=ROOT)
        count = len(list(site.glob("*.dist-info"))) - 2  # pip and setuptools come with the environment
        return (size_of(site) - before) / 1e6, count


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def write(rows: list[tuple[str, float, int]]) -> None:
    """Write the table, with the ratio to the two installations that have torch."""
    training, inference = rows[-2][1], rows[-1][1]
    measured = (
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} by `benchmarks/footprint/run.py` on {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, with the versions of `constraints.txt` and "
        "torch's CPU build."
    )
    lines = [
        "| installation | MB | packages | of training with torch | of labelling with torch |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {size:.0f} | {count} | {size / training:.2f} | {size / inference:.2f} |"
            for name, size, count in rows
        ),
    ]
    STUDY.record(lines, measured)


STUDY = study.Study(
    Path(__file__),
    "Install size",
    picture=plots.Rows("MB on disk", {"MB": ""}, bars=True),
)


if __name__ == "__main__":
    main()
