"""Install a wheel into fresh environments and try there what each is for.

    python tests/try_wheel.py WHEEL base edge cpu

base  nothing but numpy and msgspec: it imports, and the hints of what is missing install it
edge  ONNX Runtime and OpenCV: a bundle is tested and labels a frame, also once all but the runtime is removed
cpu   the command line: doctor, verify, predict and stream
jp6   the same with the versions that pip gives a Jetson with JetPack 6, and OpenVINO; int8 is made and run
train torch: a data set of one's own is trained on

The environments know the wheel only, not the clone: they work in an empty folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "tests" / "assets" / "digits.edgecv"
EXTRAS = {"base": "", "edge": "[edge]", "cpu": "[cpu]", "train": "[train]", "jp6": "[adopt,openvino]"}
CONSTRAINTS = {"jp6": "constraints-jp6.txt"}
# MB: the wheel, and what `edge` takes: 331 with Python 3.11, and ONNX Runtime for 3.10 wants sympy, too.
WHEEL_MB, EDGE_MB = 1.5, 480
DEVICE = ("torch", "lightning", "kornia", "onnx", "onnxslim", "typer", "av", "openvino", "matplotlib", "scipy")

IMPORTS = """
import edgecv_runtime as rt
import importlib.util
assert rt.__version__ == "{version}", rt.__version__
assert "site-packages" in rt.__file__, rt.__file__
assert importlib.util.find_spec("torch") is None
"""
LABELS = """
import sys
import numpy as np
import edgecv_runtime as rt
with rt.load({bundle!r}, self_test=True) as model:
    result = model(np.zeros((480, 640, 3), np.uint8))
    print(model.info.backend, result.label)
    assert len(model.bundle.manifest.labels) == 10 and result.label in model.bundle.manifest.labels
assert not {{name.partition(".")[0] for name in sys.modules}} & {{"edgecv", "edgecv_export", "torch"}}
"""
# Of the golden inputs, which are real digits, moved a little: enough to calibrate with.
DIGITS = """
import pathlib, cv2, numpy as np
from edgecv_runtime import Bundle
pathlib.Path("digits").mkdir()
for index, image in enumerate(Bundle(pathlib.Path({bundle!r})).golden().images):
    for move in range(-2, 3):
        cv2.imwrite(f"digits/{{index}}{{move}}.png", np.roll(image, move, 1))
"""
VERSIONS = """
import av, numpy, onnxruntime
print(numpy.__version__, onnxruntime.__version__, av.__version__)
"""


class Environment:
    """A fresh virtual environment in a folder of its own."""

    def __init__(self, name: str, folder: Path, torch_index: str | None) -> None:
        self.name = name
        self.folder = folder / name
        self.torch_index = torch_index
        venv.create(self.folder / "venv", with_pip=True)
        self.bin = self.folder / "venv" / "bin"

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command there and give what it prints; another exit code than `code` ends everything."""
        known = {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "EDGECV_CACHE": str(self.folder / "cache")}
        surroundings = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        done = subprocess.run(
            words, cwd=self.folder, env=surroundings | known, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode != code:
            sys.exit(f"{self.name}: {' '.join(words)}: exit code {done.returncode}, expected {code}\n"
                     f"{done.stdout}\n{done.stderr}")  # fmt: skip
        return done.stdout + done.stderr

    def install(self, what: str) -> None:
        """By pip, with the versions that are known to work together."""
        if "[train]" in what and self.torch_index:
            self.pip("--index-url", self.torch_index, "torch")
        self.pip(what)
        self.run("python", "-m", "pip", "check")

    def pip(self, *words: str) -> None:
        constraints = ("--constraint", str(ROOT / CONSTRAINTS.get(self.name, "constraints.txt")))
        self.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, *words)


def try_base(there: Environment, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    there.run("python", "-c", IMPORTS.format(version=version))
    hint = there.run("edgecv", "doctor", code=3).strip()
    assert hint.startswith("edgecv: the command line needs typer: pip install "), hint
    command = hint.partition("needs typer: ")[2]
    assert str(wheel) in command, hint
    there.run("bash", "-c", command)  # what the reader would type
    assert f"edgecv {version}" in there.run("edgecv", "doctor")


def try_edge(there: Environment, wheel: Path) -> None:
    installed = next((there.folder / "venv/lib").glob("python3*/site-packages"))
    brought = [name for name in DEVICE if (installed / name).exists()]
    assert not brought, f"a device needs no {', '.join(brought)}"
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file() and "pip" not in path.parts) / 1e6
    print(f"   {size:.0f} MB", there.run("python", "-c", LABELS.format(bundle=str(BUNDLE))).strip())
    assert size < EDGE_MB, f"{size:.0f} MB, expected less than {EDGE_MB}"
    for name in ("edgecv", "edgecv_export"):
        shutil.rmtree(installed / name)
    there.run("python", "-c", LABELS.format(bundle=str(BUNDLE)))


def try_cpu(there: Environment, wheel: Path) -> None:
    del wheel
    assert "backend onnxruntime: works" in there.run("edgecv", "doctor")
    there.run("edgecv", "verify", str(BUNDLE), "--no-write")
    there.run(
        "edgecv",
        "stream",
        str(BUNDLE),
        "fake:size=320x240,10",
        "--when-late",
        "wait",
        "--sink",
        "out.mp4",
        "--sink",
        "out.jsonl",
    )
    lines = (there.folder / "out.jsonl").read_text().splitlines()
    assert len(lines) == 10, lines
    there.run("python", "-c", "import cv2, numpy; cv2.imwrite('photo.png', numpy.zeros((99, 99, 3), numpy.uint8))")
    assert "photo.png: " in there.run("edgecv", "predict", str(BUNDLE), "photo.png")


def try_jp6(there: Environment, wheel: Path) -> None:
    versions = there.run("python", "-c", VERSIONS).split()
    pins = dict(line.split("==") for line in (ROOT / CONSTRAINTS["jp6"]).read_text().splitlines() if "==" in line)
    assert versions == [pins["numpy"], pins["onnxruntime"], pins["av"]], versions
    try_cpu(there, wheel)
    shutil.copy(BUNDLE, there.folder / "int8.edgecv")
    there.run("python", "-c", DIGITS.format(bundle=str(BUNDLE)))
    there.run("edgecv", "quantize", "int8.edgecv", "--data", "digits", "--images", "24", "--check-images", "16",
              "--budget-s", "20")  # fmt: skip
    there.run("edgecv", "verify", "int8.edgecv")
    for backend in ("onnxruntime", "openvino"):
        labels = [
            re.findall(r"digit \d", there.run("edgecv", "predict", "int8.edgecv", "digits", "--backend", backend,
                                              "--precision", precision))
            for precision in ("float32", "int8-u8s8")
        ]  # fmt: skip
        assert len(labels[0]) == 40, labels
        assert labels[0] == labels[1], (backend, labels)


def check_wheel(wheel: Path) -> None:
    """Three packages and nothing else, of a size that makes what a device does not use of them no matter."""
    with zipfile.ZipFile(wheel) as opened:
        tops = {name.partition("/")[0] for name in opened.namelist()}
        parts = {top: sum(each.compress_size for each in opened.infolist() if each.filename.startswith(f"{top}/"))
                 for top in sorted(tops)}  # fmt: skip
    print(f"{wheel.name}: " + ", ".join(f"{top} {size / 1e3:.0f} kB" for top, size in parts.items()), flush=True)
    expected = {"edgecv", "edgecv_export", "edgecv_runtime", f"edgecv-{wheel.name.split('-')[1]}.dist-info"}
    assert tops == expected, tops
    assert wheel.stat().st_size < WHEEL_MB * 1e6, f"{wheel.stat().st_size / 1e6:.1f} MB, expected {WHEEL_MB} at most"


def try_train(there: Environment, wheel: Path) -> None:
    del wheel
    said = there.run("python", str(ROOT / "examples" / "add_data_source.py"))
    assert "of the held-out right" in said, said


TRIES = {"base": try_base, "edge": try_edge, "cpu": try_cpu, "train": try_train, "jp6": try_jp6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("environments", nargs="+", choices=EXTRAS)
    parser.add_argument("--torch-index")
    asked = parser.parse_args()
    wheel = asked.wheel.resolve()
    check_wheel(wheel)
    for name in asked.environments:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"edgecv-{name}-") as folder:
            there = Environment(name, Path(folder), asked.torch_index)
            there.install(f"{wheel}{EXTRAS[name]}")
            TRIES[name](there, wheel)
        print(f"Python {sys.version.split()[0]}, {name}: works ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
